//! Rules of the lines: serials, codes, quantities, rates, cess, retail price (RULES G29 to G35).

use super::Rule;
use crate::gst::document::{DocType, Line};
use crate::gst::facts::{Facts, LineFacts};
use crate::gst::hsn::Hsn;
use crate::gst::tables::{CessFault, RateFault};
use crate::money::{paise_text, short_milli_text, CRORE_PAISE};

/// Lines of a document (NIC 2173).
pub const LINES_MAX: usize = 1_000;
/// Digits of a serial number (INV-01 SlNo).
const SERIAL_DIGITS_MAX: usize = 6;
/// Sellers above this turnover give at least six digits of HSN (Notification 78/2020-CT).
const AATO_FOUR_DIGITS_PAISE: i64 = 5 * CRORE_PAISE;

pub const ITEMS_EMPTY: Rule = Rule::structure(
    "ITEMS_EMPTY",
    "G29",
    "CGST Rules 2017, rule 46(h); NIC 2228",
    |paper, found| {
        if paper.document.lines.is_empty() {
            found.at("items", "no line", "1 to 1000 lines");
        }
    },
);

pub const ITEMS_TOO_MANY: Rule = Rule::structure(
    "ITEMS_TOO_MANY",
    "G29",
    "INV-01; NIC 2173",
    |paper, found| {
        let lines = paper.document.lines.len();
        if lines > LINES_MAX {
            found.at("items", format!("{lines} lines"), "1 to 1000 lines");
        }
    },
);

/// The serial as a number: 1 to 6 ASCII digits.
#[inline]
fn serial(line: &Line<'_>) -> Option<u32> {
    let text = line.sl.as_bytes();
    if text.is_empty() || text.len() > SERIAL_DIGITS_MAX {
        return None;
    }
    text.iter().try_fold(0, |n, &c| {
        if c.is_ascii_digit() {
            Some(n * 10 + u32::from(c - b'0'))
        } else {
            None
        }
    })
}

pub const ITEM_SL_INVALID: Rule = Rule::structure_of_line(
    "ITEM_SL_INVALID",
    "G29",
    "INV-01 ItemList.SlNo",
    |_, index, line, found| {
        if serial(line).is_none() {
            found.on_line(index, "sl", line.sl, "1 to 6 digits");
        }
    },
);

pub const ITEM_SL_DUPLICATE: Rule = Rule::structure(
    "ITEM_SL_DUPLICATE",
    "G29",
    "INV-01 ItemList.SlNo; NIC 2233",
    |paper, found| {
        let lines = &paper.document.lines;
        // Serials nearly always rise; then none can repeat and nothing has to be remembered.
        let mut highest = None;
        let rises = lines
            .iter()
            .filter_map(serial)
            .all(|number| highest.replace(number) < Some(number));
        if rises {
            return;
        }
        let mut seen = std::collections::HashSet::new();
        for (index, line) in lines.iter().enumerate() {
            if serial(line).is_some_and(|number| !seen.insert(number)) {
                found.on_line(index, "sl", line.sl, "a number no line above has");
            }
        }
    },
);

pub const HSN_FORMAT_INVALID: Rule = Rule::structure_of_line(
    "HSN_FORMAT_INVALID",
    "G30",
    "CGST Rules 2017, rule 46(g); Notification 78/2020-CT; NIC 2176",
    |_, index, line, found| {
        if Hsn::parse(line.hsn).is_none() {
            found.on_line(index, "hsn", line.hsn, "4, 6 or 8 digits, not all zero");
        }
    },
);

pub const QTY_REQUIRED: Rule = Rule::structure_of_line(
    "QTY_REQUIRED",
    "G32",
    "CGST Rules 2017, rule 46(i); NIC 2238",
    |_, index, line, found| {
        if line.quantity_milli.is_none() && !line.is_service {
            found.missing_on_line(index, "qty", "a quantity: goods are counted");
        }
    },
);

pub const UQC_REQUIRED: Rule = Rule::structure_of_line(
    "UQC_REQUIRED",
    "G32",
    "CGST Rules 2017, rule 46(i); NIC 2239",
    |_, index, line, found| {
        if line.unit.is_empty() && !line.is_service {
            found.on_line(index, "unit", "", "a unit quantity code: goods are counted");
        }
    },
);

pub const UNIT_PRICE_REQUIRED: Rule = Rule::structure_of_line(
    "UNIT_PRICE_REQUIRED",
    "G37",
    "INV-01 ItemList.UnitPrice",
    |_, index, line, found| {
        if line.unit_price_milli.is_none() {
            found.missing_on_line(index, "unit_price", "a unit price");
        }
    },
);

pub const GST_RATE_REQUIRED: Rule = Rule::structure_of_line(
    "GST_RATE_REQUIRED",
    "G33",
    "CGST Rules 2017, rule 46(l); INV-01 ItemList.GstRt",
    |_, index, line, found| {
        if line.gst_rate_milli.is_none() {
            found.missing_on_line(index, "gst_rate", "the full rate in percent");
        }
    },
);

pub const HSN_TOO_SHORT: Rule = Rule::semantics_of_line(
    "HSN_TOO_SHORT",
    "G30",
    "Notification 78/2020-CT; NIC 2176",
    |facts, line, found| {
        let aato_paise = facts.document.seller.aato_paise.unwrap_or(0);
        if line.hsn.digits() < 6 && aato_paise > AATO_FOUR_DIGITS_PAISE {
            found.on_line(
                line.index,
                "hsn",
                line.line.hsn,
                "6 or 8 digits: turnover is above 5 crore",
            );
        }
    },
);

pub const HSN_SERVICE_MISMATCH: Rule = Rule::semantics_of_line(
    "HSN_SERVICE_MISMATCH",
    "G31",
    "scheme of classification, chapter 99; NIC 2199",
    |_, line, found| {
        if line.hsn.is_service() != line.line.is_service {
            let wanted = if line.line.is_service {
                "chapter 99 for a service"
            } else {
                "goods outside chapter 99"
            };
            found.on_line(line.index, "hsn", line.line.hsn, wanted);
        }
    },
);

pub const QTY_NOT_POSITIVE: Rule = Rule::semantics_of_line(
    "QTY_NOT_POSITIVE",
    "G32",
    "CGST Rules 2017, rule 46(i); NIC 2238",
    |facts, line, found| {
        if facts.doc_type == DocType::Invoice && line.line.quantity_milli == Some(0) {
            found.on_line(line.index, "qty", "0", "more than 0 on an invoice");
        }
    },
);

pub const GROSS_REQUIRED: Rule = Rule::semantics_of_line(
    "GROSS_REQUIRED",
    "G32",
    "CGST Act 2017, s. 34",
    |facts, line, found| {
        if facts.is_value_only(line.line) && line.line.claims.gross_paise.is_none() {
            found.on_line(
                line.index,
                "gross",
                "",
                "the value of a line without quantity",
            );
        }
    },
)
.never_waived();

pub const UQC_INVALID: Rule = Rule::semantics_of_line(
    "UQC_INVALID",
    "G32",
    "UQC list of the portal; NIC 2177",
    |facts, line, found| {
        let unit = line.line.unit;
        if !unit.is_empty() && !facts.context.tables.units.knows(unit) {
            found.on_line(
                line.index,
                "unit",
                unit,
                "a unit quantity code in capitals, for example NOS",
            );
        }
    },
);

const RATES: &str = "CGST Act 2017, s. 9 with Notifications 1/2017-CTR, 9/2025-CTR, 14/2025-CTR, 19/2025-CTR; NIC 2240";

pub const GST_RATE_UNKNOWN: Rule =
    Rule::semantics_of_line("GST_RATE_UNKNOWN", "G33", RATES, |_, line, found| {
        if line.rate_fault == Some(RateFault::Unknown) {
            found.on_line(
                line.index,
                "gst_rate",
                short_milli_text(line.rate_milli),
                "a full rate of the rate table",
            );
        }
    });

pub const GST_RATE_NOT_IN_FORCE: Rule = Rule::semantics_of_line(
    "GST_RATE_NOT_IN_FORCE",
    "G33",
    RATES,
    |facts, line, found| {
        if line.rate_fault == Some(RateFault::NotInForce) {
            let wanted = format!("a rate in force on {}, the tax date", facts.tax_date);
            found.on_line(
                line.index,
                "gst_rate",
                short_milli_text(line.rate_milli),
                wanted,
            );
        }
    },
);

pub const GST_RATE_HSN_MISMATCH: Rule = Rule::semantics_of_line(
    "GST_RATE_HSN_MISMATCH",
    "G33",
    RATES,
    |facts, line, found| {
        if line.rate_fault == Some(RateFault::HsnMismatch) {
            let wanted = format!(
                "a rate in force for HSN {} on {}",
                line.line.hsn, facts.tax_date
            );
            found.on_line(
                line.index,
                "gst_rate",
                short_milli_text(line.rate_milli),
                wanted,
            );
        }
    },
);

/// The cess inputs of a line that are above zero, as they are named and printed.
#[inline(always)]
fn each_cess(line: &Line<'_>, mut judge: impl FnMut(&'static str, String)) {
    let positive = |value: Option<i64>| value.filter(|value| *value > 0);
    if let Some(rate) = positive(line.cess_rate_milli) {
        judge("cess_rate", short_milli_text(rate));
    }
    if let Some(per_unit) = positive(line.cess_per_unit_milli) {
        judge("cess_per_unit", short_milli_text(per_unit));
    }
    if let Some(amount) = positive(line.cess_nonadvol_paise) {
        judge("cess_nonadvol", paise_text(amount));
    }
}

const CESS: &str =
    "GST (Compensation to States) Act 2017, s. 8 with Notifications 2/2025 and 3/2025 compensation cess rate; NIC 2266";

#[inline(always)]
fn cess_is(facts: &Facts<'_, '_, '_>, line: &LineFacts<'_, '_>, fault: CessFault) -> bool {
    facts.context.tables.goods.cess(facts.tax_date, line.hsn) == Err(fault)
}

pub const CESS_NOT_IN_FORCE: Rule =
    Rule::semantics_of_line("CESS_NOT_IN_FORCE", "G34", CESS, |facts, line, found| {
        each_cess(line.line, |field, text| {
            if cess_is(facts, line, CessFault::NotInForce) {
                found.on_line(
                    line.index,
                    field,
                    text,
                    format!("no compensation cess on {}", facts.tax_date),
                );
            }
        });
    });

pub const CESS_HSN_NOT_LIABLE: Rule =
    Rule::semantics_of_line("CESS_HSN_NOT_LIABLE", "G34", CESS, |facts, line, found| {
        each_cess(line.line, |field, text| {
            if cess_is(facts, line, CessFault::HsnNotLiable) {
                found.on_line(
                    line.index,
                    field,
                    text,
                    "no cess: only pan masala and tobacco carry it now",
                );
            }
        });
    });

const RETAIL_PRICE: &str = "CGST Rules 2017, rule 31D; Notification 20/2025-CT";

pub const RSP_REQUIRED: Rule =
    Rule::semantics_of_line("RSP_REQUIRED", "G35", RETAIL_PRICE, |_, line, found| {
        if line.is_on_retail_price && line.rate_fault.is_none() && line.line.rsp_paise.is_none() {
            found.on_line(
                line.index,
                "rsp",
                "",
                "the printed retail sale price of one unit",
            );
        }
    });

pub const RSP_NOT_APPLICABLE: Rule = Rule::semantics_of_line(
    "RSP_NOT_APPLICABLE",
    "G35",
    RETAIL_PRICE,
    |_, line, found| {
        if let Some(rsp) = line
            .line
            .rsp_paise
            .filter(|_| !line.is_on_retail_price && line.rate_fault.is_none())
        {
            found.on_line(
                line.index,
                "rsp",
                paise_text(rsp),
                "no retail price on these goods on this day",
            );
        }
    },
);
