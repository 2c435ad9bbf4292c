//! The arithmetic: what each line and the document come to (RULES G36 to G50).
//!
//! Every figure is calculated from the figures that stand before it. In `compute` and `strict` the calculated figure
//! stands; in `nic` a claim does. Products are `i128`; a figure is narrowed only after it was compared with its limit,
//! so overflow is a refusal and nothing can wrap.

use super::document::{Line, RoundOffMode, SupplyType};
use super::facts::Facts;
use super::hsn::Hsn;
use super::outcome::{ComputedLine, ComputedTotals};
use super::Mode;
use crate::money::{half_up, DOCUMENT_PAISE_MAX, HUNDRED_PERCENT_MILLI, ITEM_PAISE_MAX};

/// Milli-quantity times milli-price, in paise: 10^-3 times 10^-3 against 10^-2.
const QUANTITY_PRICE_TO_PAISE: i128 = 10_000;
/// Milli-rupees in a paisa.
const MILLI_RUPEES_PER_PAISA: i128 = 10;
const ONE_UNIT_MILLI: i64 = 1_000;
const RUPEE_PAISE: i64 = 100;

/// What was calculated, and what is used from here on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    pub ours: i64,
    pub stands: i64,
}

impl Figure {
    const fn plain(value: i64) -> Figure {
        Figure {
            ours: value,
            stands: value,
        }
    }
}

/// Does this mode accept the claim for what was calculated? (RULES G51)
#[inline]
pub fn accepts(mode: Mode, ours: i64, claim: Option<i64>) -> bool {
    match (mode, claim) {
        (Mode::Compute, _) | (_, None) => true,
        (Mode::Strict, Some(claim)) => claim == ours,
        (Mode::Nic, Some(claim)) => {
            let (lowest, highest) = band(ours);
            lowest <= claim && claim <= highest
        }
    }
}

/// The band of the e-invoice system: a rupee below the floor to a rupee above the ceiling, ends included.
#[inline]
pub fn band(ours: i64) -> (i64, i64) {
    let floor = ours.div_euclid(RUPEE_PAISE) * RUPEE_PAISE;
    let ceiling = if floor == ours {
        floor
    } else {
        floor + RUPEE_PAISE
    };
    (floor - RUPEE_PAISE, ceiling + RUPEE_PAISE)
}

/// Why no further figure can be formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// This figure passed its limit (RULES G49).
    Overflow { field: &'static str, value: i128 },
    /// More is taken off than there is (RULES G38, G46).
    Discount,
}

/// One line, worked out.
#[derive(Clone, Copy)]
pub struct LineFigures<'d, 'a> {
    pub index: usize,
    pub line: &'d Line<'a>,
    pub stop: Option<Stop>,
    pub gross: Figure,
    pub taxable: Figure,
    pub igst: Figure,
    pub cgst: Figure,
    pub sgst: Figure,
    pub cess: Figure,
    pub cess_nonadvol: Figure,
    pub state_cess: Figure,
    pub state_cess_nonadvol: i64,
    pub other_charges: i64,
    pub total: Figure,
    /// The total in its other form, with or without tax, where `nic` takes both (RULES G44).
    pub total_other_form: Option<i64>,
    /// Tax amounts are compared with the rate: not on notes and retail-price goods in `nic` (RULES G51).
    pub tax_is_checked: bool,
    pub cess_is_checked: bool,
    pub total_is_checked: bool,
}

/// Forms the figures of one line under one mode.
struct Former {
    mode: Mode,
}

impl Former {
    /// A calculated figure beside its claim; an unchecked claim is carried on without a calculation.
    #[inline]
    fn form(
        &self,
        field: &'static str,
        ours: i128,
        claim: Option<i64>,
        checked: bool,
    ) -> Result<Figure, Stop> {
        let claim = claim.filter(|_| self.mode == Mode::Nic);
        if let (Some(claim), false) = (claim, checked) {
            return Ok(Figure::plain(claim));
        }
        match i64::try_from(ours) {
            Ok(ours) if ours <= ITEM_PAISE_MAX => Ok(Figure {
                ours,
                stands: claim.unwrap_or(ours),
            }),
            _ => Err(Stop::Overflow { field, value: ours }),
        }
    }
}

impl<'d, 'a> LineFigures<'d, 'a> {
    /// Works out a line whose structure is sound.
    #[inline]
    pub(super) fn of(
        facts: &Facts<'_, '_, '_>,
        index: usize,
        line: &'d Line<'a>,
    ) -> LineFigures<'d, 'a> {
        let in_nic = facts.context.mode == Mode::Nic;
        let is_note = facts.doc_type.is_note();
        let rate_milli = line.gst_rate_milli.unwrap_or(0);
        let rsp_paise = line.rsp_paise.filter(|_| {
            Hsn::parse(line.hsn).is_some_and(|hsn| facts.is_on_retail_price(rate_milli, hsn))
        });
        let mut figures = LineFigures {
            index,
            line,
            stop: None,
            gross: Figure::default(),
            taxable: Figure::default(),
            igst: Figure::default(),
            cgst: Figure::default(),
            sgst: Figure::default(),
            cess: Figure::default(),
            cess_nonadvol: Figure::default(),
            state_cess: Figure::default(),
            state_cess_nonadvol: 0,
            other_charges: line.other_charges_paise.unwrap_or(0),
            total: Figure::default(),
            total_other_form: None,
            tax_is_checked: !(in_nic && (is_note || rsp_paise.is_some())),
            cess_is_checked: !(in_nic && is_note),
            total_is_checked: !(in_nic && rsp_paise.is_some()),
        };
        figures.stop = figures.work_out(facts, rate_milli, rsp_paise).err();
        figures
    }

    #[inline]
    fn work_out(
        &mut self,
        facts: &Facts<'_, '_, '_>,
        rate_milli: i64,
        rsp_paise: Option<i64>,
    ) -> Result<(), Stop> {
        let (line, claims) = (self.line, &self.line.claims);
        let former = Former {
            mode: facts.context.mode,
        };
        self.gross = match claims.gross_paise.filter(|_| facts.is_value_only(line)) {
            Some(given) => Figure::plain(given),
            None => former.form(
                "gross",
                gross(line),
                claims.gross_paise,
                former.mode != Mode::Nic,
            )?,
        };

        let discount = line.discount_paise.unwrap_or(0);
        if discount > self.gross.stands {
            return Err(Stop::Discount);
        }
        let taxable = i128::from(self.gross.stands - discount);
        self.taxable = former.form("taxable", taxable, claims.taxable_paise, true)?;

        // Supplies without payment state a rate but carry no tax and no cess (RULES G40).
        if !facts.supply.is_without_payment() {
            self.work_out_tax(facts, &former, rate_milli, rsp_paise)?;
        }
        self.work_out_total(facts, &former)
    }

    #[inline]
    fn work_out_tax(
        &mut self,
        facts: &Facts<'_, '_, '_>,
        former: &Former,
        rate_milli: i64,
        rsp_paise: Option<i64>,
    ) -> Result<(), Stop> {
        let (line, claims) = (self.line, &self.line.claims);
        let quantity_milli = line.quantity_milli.unwrap_or(ONE_UNIT_MILLI);
        let taxable = i128::from(self.taxable.stands);
        let tax = |shares: i128| match rsp_paise {
            None => half_up(
                taxable * i128::from(rate_milli),
                shares * i128::from(HUNDRED_PERCENT_MILLI),
            ),
            Some(rsp_paise) => on_retail_price(quantity_milli, rsp_paise, rate_milli, shares),
        };
        // A claim in the wrong head counts as zero (RULES G39); each half is rounded by itself.
        if facts.inter_state {
            self.igst = former.form("igst", tax(1), claims.igst_paise, self.tax_is_checked)?;
        } else {
            let half = tax(2);
            self.cgst = former.form("cgst", half, claims.cgst_paise, self.tax_is_checked)?;
            self.sgst = former.form("sgst", half, claims.sgst_paise, self.tax_is_checked)?;
        }

        let percent = |rate_milli: Option<i64>| match rate_milli {
            None | Some(0) => 0,
            Some(rate_milli) => half_up(
                taxable * i128::from(rate_milli),
                i128::from(HUNDRED_PERCENT_MILLI),
            ),
        };
        let checked = self.cess_is_checked;
        self.cess = former.form(
            "cess",
            percent(line.cess_rate_milli),
            claims.cess_paise,
            checked,
        )?;
        self.cess_nonadvol = match line.cess_per_unit_milli {
            None => Figure::plain(line.cess_nonadvol_paise.unwrap_or(0)),
            Some(per_unit) => {
                let product = i128::from(quantity_milli) * i128::from(per_unit);
                let ours = half_up(product, QUANTITY_PRICE_TO_PAISE);
                former.form("cess_nonadvol", ours, line.cess_nonadvol_paise, checked)?
            }
        };
        let state_cess = percent(line.state_cess_rate_milli);
        self.state_cess =
            former.form("state_cess", state_cess, claims.state_cess_paise, checked)?;
        self.state_cess_nonadvol = line.state_cess_nonadvol_paise.unwrap_or(0);
        Ok(())
    }

    #[inline]
    fn work_out_total(&mut self, facts: &Facts<'_, '_, '_>, former: &Former) -> Result<(), Stop> {
        // Eleven figures of at most 10^14: their sum fits easily.
        let without_tax = self.taxable.stands + self.other_charges;
        let tax = self.igst.stands
            + self.cgst.stands
            + self.sgst.stands
            + self.cess.stands
            + self.cess_nonadvol.stands
            + self.state_cess.stands
            + self.state_cess_nonadvol;
        let is_export = facts.supply == SupplyType::ExportWithPayment;
        let left_out =
            facts.document.reverse_charge || (is_export && facts.document.exclude_tax_from_total);
        let ours = if left_out {
            without_tax
        } else {
            without_tax + tax
        };
        self.total = former.form(
            "total",
            i128::from(ours),
            self.line.claims.total_paise,
            self.total_is_checked,
        )?;
        if former.mode == Mode::Nic && (facts.document.reverse_charge || is_export) {
            self.total_other_form = Some(if left_out {
                without_tax + tax
            } else {
                without_tax
            });
        }
        Ok(())
    }

    pub(super) fn computed(&self) -> ComputedLine {
        ComputedLine {
            gross_paise: self.gross.stands,
            taxable_paise: self.taxable.stands,
            igst_paise: self.igst.stands,
            cgst_paise: self.cgst.stands,
            sgst_paise: self.sgst.stands,
            cess_paise: self.cess.stands,
            cess_nonadvol_paise: self.cess_nonadvol.stands,
            state_cess_paise: self.state_cess.stands,
            state_cess_nonadvol_paise: self.state_cess_nonadvol,
            other_charges_paise: self.other_charges,
            total_paise: self.total.stands,
        }
    }
}

/// Quantity times unit price; a service without quantity is one unit (RULES G37).
#[inline]
fn gross(line: &Line<'_>) -> i128 {
    let unit_price_milli = i128::from(line.unit_price_milli.unwrap_or(0));
    match line.quantity_milli {
        Some(quantity_milli) => half_up(
            i128::from(quantity_milli) * unit_price_milli,
            QUANTITY_PRICE_TO_PAISE,
        ),
        None => half_up(unit_price_milli, MILLI_RUPEES_PER_PAISA),
    }
}

/// The tax inside a printed retail price (CGST Rules 31D): quantity x price x rate / (100 + rate), in 1 or 2 shares.
fn on_retail_price(quantity_milli: i64, rsp_paise: i64, rate_milli: i64, shares: i128) -> i128 {
    let product = i128::from(quantity_milli) * i128::from(rsp_paise) * i128::from(rate_milli);
    half_up(
        product,
        shares * i128::from(ONE_UNIT_MILLI) * i128::from(HUNDRED_PERCENT_MILLI + rate_milli),
    )
}

/// The document, worked out from lines that all came to an end.
#[derive(Clone, Copy, Default)]
pub struct TotalsFigures {
    pub stop: Option<Stop>,
    pub taxable: Figure,
    pub igst: Figure,
    pub cgst: Figure,
    pub sgst: Figure,
    pub cess: Figure,
    pub state_cess: Figure,
    pub discount: i64,
    pub other_charges: i64,
    /// Sum of line totals and other charges: what a discount must stay below.
    pub before_discount: i64,
    pub round_off: Figure,
    pub total: Option<Figure>,
}

impl TotalsFigures {
    pub(super) fn of(facts: &Facts<'_, '_, '_>, lines: &[ComputedLine]) -> TotalsFigures {
        let given = &facts.document.totals;
        let mut figures = TotalsFigures {
            discount: given.discount_paise.unwrap_or(0),
            other_charges: given.other_charges_paise.unwrap_or(0),
            ..TotalsFigures::default()
        };
        figures.stop = figures.work_out(facts, lines).err();
        figures
    }

    fn work_out(&mut self, facts: &Facts<'_, '_, '_>, lines: &[ComputedLine]) -> Result<(), Stop> {
        let (given, claims) = (&facts.document.totals, &facts.document.totals.claims);
        let in_nic = facts.context.mode == Mode::Nic;
        let form = |field: &'static str, ours: i64, claim: Option<i64>| {
            if ours > DOCUMENT_PAISE_MAX {
                return Err(Stop::Overflow {
                    field,
                    value: i128::from(ours),
                });
            }
            Ok(Figure {
                ours,
                stands: claim.filter(|_| in_nic).unwrap_or(ours),
            })
        };

        // At most 1000 lines of at most 10^14 each (twice that for cess): no sum can pass i64.
        let mut sum = ComputedTotals::default();
        for line in lines {
            sum.taxable_paise += line.taxable_paise;
            sum.igst_paise += line.igst_paise;
            sum.cgst_paise += line.cgst_paise;
            sum.sgst_paise += line.sgst_paise;
            sum.cess_paise += line.cess_paise + line.cess_nonadvol_paise;
            sum.state_cess_paise += line.state_cess_paise + line.state_cess_nonadvol_paise;
            sum.total_paise += line.total_paise;
        }
        self.taxable = form("taxable", sum.taxable_paise, claims.taxable_paise)?;
        self.igst = form("igst", sum.igst_paise, claims.igst_paise)?;
        self.cgst = form("cgst", sum.cgst_paise, claims.cgst_paise)?;
        self.sgst = form("sgst", sum.sgst_paise, claims.sgst_paise)?;
        self.cess = form("cess", sum.cess_paise, claims.cess_paise)?;
        self.state_cess = form("state_cess", sum.state_cess_paise, claims.state_cess_paise)?;

        self.before_discount = sum.total_paise + self.other_charges;
        if self.discount > 0 && self.discount >= self.before_discount {
            return Err(Stop::Discount);
        }
        let before_round_off = self.before_discount - self.discount;
        self.round_off = match given.round_off_mode.known() {
            Some(RoundOffMode::NearestRupee) => {
                let ours = nearest_rupee(before_round_off) - before_round_off;
                Figure {
                    ours,
                    stands: given.round_off_paise.filter(|_| in_nic).unwrap_or(ours),
                }
            }
            Some(RoundOffMode::None) | None => Figure::plain(given.round_off_paise.unwrap_or(0)),
        };
        self.total = Some(form(
            "total",
            before_round_off + self.round_off.stands,
            claims.total_paise,
        )?);
        Ok(())
    }

    pub(super) fn computed(&self) -> ComputedTotals {
        ComputedTotals {
            taxable_paise: self.taxable.stands,
            igst_paise: self.igst.stands,
            cgst_paise: self.cgst.stands,
            sgst_paise: self.sgst.stands,
            cess_paise: self.cess.stands,
            state_cess_paise: self.state_cess.stands,
            discount_paise: self.discount,
            other_charges_paise: self.other_charges,
            round_off_paise: self.round_off.stands,
            total_paise: self.total.map_or(0, |total| total.stands),
        }
    }
}

/// 50 paise go up (RULES G47, G68).
#[inline]
pub fn nearest_rupee(paise: i64) -> i64 {
    (paise + RUPEE_PAISE / 2).div_euclid(RUPEE_PAISE) * RUPEE_PAISE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_is_that_of_the_official_examples() {
        for (ours, lowest, highest) in [
            (234_504, 234_400, 234_700),
            (1_024_100, 1_024_000, 1_024_200),
            (1_024_161, 1_024_000, 1_024_300),
            (0, -100, 100),
            (1, -100, 200),
            (99, -100, 200),
            (100, 0, 200),
        ] {
            assert_eq!(band(ours), (lowest, highest), "{ours}");
        }
    }

    #[test]
    fn fifty_paise_go_up() {
        for (paise, rupees) in [
            (149, 1),
            (150, 2),
            (50, 1),
            (49, 0),
            (0, 0),
            (-50, 0),
            (-51, -1),
        ] {
            assert_eq!(nearest_rupee(paise), rupees * 100, "{paise}");
        }
    }

    #[test]
    fn retail_price_holds_its_tax_at_the_widest_values() {
        use crate::money::{ITEM_PAISE_MAX, QUANTITY_MILLI_MAX, RATE_MILLI_MAX};
        assert_eq!(on_retail_price(1_000_000, 10_000, 40_000, 1), 2_857_143);
        assert_eq!(on_retail_price(1_000_000, 10_000, 40_000, 2), 1_428_571);
        let widest = on_retail_price(QUANTITY_MILLI_MAX, ITEM_PAISE_MAX, RATE_MILLI_MAX, 1);
        assert!(
            widest > i128::from(i64::MAX)
                && widest < i128::from(QUANTITY_MILLI_MAX) * i128::from(ITEM_PAISE_MAX)
        );
    }
}
