//! Rules of a line's arithmetic: a claim is held against the figure it names (RULES G37 to G44, G49).

use super::{Found, Rule};
use crate::gst::facts::Facts;
use crate::gst::figures::{accepts, band, Figure, LineFigures, Stop};
use crate::gst::Mode;
use crate::money::paise_text;

/// What a mode would have accepted, in words.
pub(super) fn wanted(mode: Mode, ours: i64) -> String {
    match mode {
        Mode::Nic => {
            let (lowest, highest) = band(ours);
            format!("{} to {}", paise_text(lowest.max(0)), paise_text(highest))
        }
        _ => paise_text(ours),
    }
}

/// Reports a claim this mode does not accept.
#[inline(always)]
fn compare(
    facts: &Facts<'_, '_, '_>,
    line: &LineFigures<'_, '_>,
    found: &mut Found,
    (field, claim, figure): (&'static str, Option<i64>, Figure),
) {
    if !accepts(facts.context.mode, figure.ours, claim) {
        found.on_line(
            line.index,
            field,
            paise_text(claim.unwrap_or(0)),
            wanted(facts.context.mode, figure.ours),
        );
    }
}

/// Claims mean nothing in `compute`.
#[inline(always)]
fn claims_count(facts: &Facts<'_, '_, '_>) -> bool {
    facts.context.mode != Mode::Compute
}

pub const AMOUNT_OVERFLOW: Rule = Rule::line_figures(
    "AMOUNT_OVERFLOW",
    "G49",
    "INV-01 ItemList, N(12,2)",
    |_, line, found| {
        if let Some(Stop::Overflow { field, value }) = line.stop {
            found.on_line(
                line.index,
                field,
                paise_text(value),
                "at most 999999999999.99",
            );
        }
    },
);

pub const GROSS_MISMATCH: Rule = Rule::line_figures(
    "GROSS_MISMATCH",
    "G37",
    "INV-01 ItemList.TotAmt; NIC 2192",
    |facts, line, found| {
        let is_formed = matches!(line.stop, None | Some(Stop::Discount));
        if is_formed && facts.context.mode == Mode::Strict {
            compare(
                facts,
                line,
                found,
                ("gross", line.line.claims.gross_paise, line.gross),
            );
        }
    },
);

pub const DISCOUNT_EXCEEDS_GROSS: Rule = Rule::line_figures(
    "DISCOUNT_EXCEEDS_GROSS",
    "G38",
    "CGST Act 2017, s. 15(3)(a)",
    |_, line, found| {
        if line.stop == Some(Stop::Discount) {
            let discount = paise_text(line.line.discount_paise.unwrap_or(0));
            found.on_line(
                line.index,
                "discount",
                discount,
                format!("at most {}", paise_text(line.gross.stands)),
            );
        }
    },
);

pub const TAXABLE_MISMATCH: Rule = Rule::line_figures(
    "TAXABLE_MISMATCH",
    "G38",
    "CGST Act 2017, s. 15(1), (3); NIC 2193",
    |facts, line, found| {
        if line.stop.is_none() {
            compare(
                facts,
                line,
                found,
                ("taxable", line.line.claims.taxable_paise, line.taxable),
            );
        }
    },
);

/// Reports each of these claims that is not zero.
#[inline(always)]
fn none_may_be(
    line: &LineFigures<'_, '_>,
    found: &mut Found,
    claims: &[(&'static str, Option<i64>)],
    wanted: &str,
) {
    for &(field, claim) in claims {
        if let Some(claim) = claim.filter(|claim| *claim != 0) {
            found.on_line(line.index, field, paise_text(claim), wanted);
        }
    }
}

pub const TAX_ON_WITHOUT_PAYMENT: Rule = Rule::line_figures(
    "TAX_ON_WITHOUT_PAYMENT",
    "G40",
    "IGST Act 2017, s. 16(3)(a); NIC 2221",
    |facts, line, found| {
        if line.stop.is_some() || !facts.supply.is_without_payment() {
            return;
        }
        let (claims, wanted) = (
            &line.line.claims,
            "0.00: this supply is made without payment of tax",
        );
        if claims_count(facts) {
            let heads = [
                ("igst", claims.igst_paise),
                ("cgst", claims.cgst_paise),
                ("sgst", claims.sgst_paise),
            ];
            none_may_be(line, found, &heads, wanted);
        }
        if line.line.cess_per_unit_milli.is_none() {
            none_may_be(
                line,
                found,
                &[("cess_nonadvol", line.line.cess_nonadvol_paise)],
                wanted,
            );
        }
    },
);

/// Heads are judged on taxed supplies whose claims count.
#[inline(always)]
fn heads_are_judged(facts: &Facts<'_, '_, '_>, line: &LineFigures<'_, '_>) -> bool {
    line.stop.is_none() && claims_count(facts) && !facts.supply.is_without_payment()
}

pub const IGST_NOT_ALLOWED_INTRA: Rule = Rule::line_figures(
    "IGST_NOT_ALLOWED_INTRA",
    "G39",
    "IGST Act 2017, s. 8; CGST Act 2017, s. 9; NIC 2172",
    |facts, line, found| {
        if heads_are_judged(facts, line) && !facts.inter_state {
            none_may_be(
                line,
                found,
                &[("igst", line.line.claims.igst_paise)],
                "0.00: the supply is intra-state",
            );
        }
    },
);

pub const CGST_SGST_NOT_ALLOWED_INTER: Rule = Rule::line_figures(
    "CGST_SGST_NOT_ALLOWED_INTER",
    "G39",
    "IGST Act 2017, ss. 5, 7; NIC 2174, 2180, 2237",
    |facts, line, found| {
        if heads_are_judged(facts, line) && facts.inter_state {
            let claims = &line.line.claims;
            let heads = [("cgst", claims.cgst_paise), ("sgst", claims.sgst_paise)];
            none_may_be(line, found, &heads, "0.00: the supply is inter-state");
        }
    },
);

pub const TAX_AMOUNT_MISMATCH: Rule = Rule::line_figures(
    "TAX_AMOUNT_MISMATCH",
    "G39",
    "CGST Act 2017, s. 9(1); IGST Act 2017, s. 5(1); NIC 2234, 2235, 2179",
    |facts, line, found| {
        if !heads_are_judged(facts, line) || !line.tax_is_checked {
            return;
        }
        let claims = &line.line.claims;
        if facts.inter_state {
            compare(facts, line, found, ("igst", claims.igst_paise, line.igst));
        } else {
            compare(facts, line, found, ("cgst", claims.cgst_paise, line.cgst));
            compare(facts, line, found, ("sgst", claims.sgst_paise, line.sgst));
        }
    },
);

pub const CGST_SGST_UNEQUAL: Rule = Rule::line_figures(
    "CGST_SGST_UNEQUAL",
    "G41",
    "CGST Act 2017, s. 9; SGST Acts, s. 9; NIC 2227",
    |facts, line, found| {
        let claims = &line.line.claims;
        if let (Some(cgst), Some(sgst), None, true) = (
            claims.cgst_paise,
            claims.sgst_paise,
            line.stop,
            claims_count(facts),
        ) {
            if cgst != sgst {
                found.on_line(
                    line.index,
                    "sgst",
                    paise_text(sgst),
                    format!("{}, as CGST", paise_text(cgst)),
                );
            }
        }
    },
);

pub const CESS_AMOUNT_MISMATCH: Rule = Rule::line_figures(
    "CESS_AMOUNT_MISMATCH",
    "G42",
    "GST (Compensation to States) Act 2017, s. 8; NIC 2266",
    |facts, line, found| {
        if line.stop.is_some() || !line.cess_is_checked {
            return;
        }
        compare(
            facts,
            line,
            found,
            ("cess", line.line.claims.cess_paise, line.cess),
        );
        if line.line.cess_per_unit_milli.is_some() {
            compare(
                facts,
                line,
                found,
                (
                    "cess_nonadvol",
                    line.line.cess_nonadvol_paise,
                    line.cess_nonadvol,
                ),
            );
        }
    },
);

pub const STATE_CESS_AMOUNT_MISMATCH: Rule = Rule::line_figures(
    "STATE_CESS_AMOUNT_MISMATCH",
    "G43",
    "state cess Acts; NIC 2267",
    |facts, line, found| {
        if line.stop.is_none() && line.cess_is_checked {
            compare(
                facts,
                line,
                found,
                (
                    "state_cess",
                    line.line.claims.state_cess_paise,
                    line.state_cess,
                ),
            );
        }
    },
);

pub const LINE_TOTAL_MISMATCH: Rule = Rule::line_figures(
    "LINE_TOTAL_MISMATCH",
    "G44",
    "INV-01 ItemList.TotItemVal; NIC 2194",
    |facts, line, found| {
        let claim = line.line.claims.total_paise;
        let other_form = line
            .total_other_form
            .is_some_and(|other| accepts(facts.context.mode, other, claim));
        if line.stop.is_none() && line.total_is_checked && !other_form {
            compare(facts, line, found, ("total", claim, line.total));
        }
    },
);
