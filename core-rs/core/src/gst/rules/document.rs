//! Rules of the header: types, number, dates, flags (RULES G11 to G16, G26, G44).

use super::Rule;
use crate::gst::date::Date;
use crate::gst::document::{Given, SupplyType, TaxpayerType};

/// Number of a document, in characters (rule 46(b)).
pub const NUMBER_CHARS_MAX: usize = 16;

const RULE_46: &str = "CGST Rules 2017, rule 46(b); INV-01 DocDtls.No";

pub const DOC_TYPE_INVALID: Rule = Rule::structure(
    "DOC_TYPE_INVALID",
    "G11",
    "CGST Act 2017, ss. 31 and 34; INV-01 DocDtls.Typ; NIC 2161",
    |paper, found| {
        if paper.document.doc_type.known().is_none() {
            found.at(
                "doc_type",
                paper.document.doc_type.text(),
                "INV, CRN or DBN",
            );
        }
    },
);

pub const SUPPLY_TYPE_INVALID: Rule = Rule::structure(
    "SUPPLY_TYPE_INVALID",
    "G12",
    "INV-01 TranDtls.SupTyp; NIC 2190",
    |paper, found| {
        if paper.document.supply_type.known().is_none() {
            let wanted = SupplyType::ALL
                .iter()
                .map(|t| t.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            found.at("supply_type", paper.document.supply_type.text(), wanted);
        }
    },
);

/// What is wrong with a document number; the first fault in the order of RULES G13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberFault {
    Required,
    TooLong,
    Charset,
    LeadingChar,
}

/// Judges a document number (RULES G13).
#[inline]
pub fn number_fault(number: &str) -> Option<NumberFault> {
    let bytes = number.as_bytes();
    if bytes.is_empty() {
        return Some(NumberFault::Required);
    }
    if bytes.len() > NUMBER_CHARS_MAX && number.chars().count() > NUMBER_CHARS_MAX {
        return Some(NumberFault::TooLong);
    }
    if !bytes
        .iter()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'/' | b'-'))
    {
        return Some(NumberFault::Charset);
    }
    matches!(bytes[0], b'0' | b'/' | b'-').then_some(NumberFault::LeadingChar)
}

pub const DOC_NUMBER_REQUIRED: Rule =
    Rule::structure("DOC_NUMBER_REQUIRED", "G13", RULE_46, |paper, found| {
        if paper.document.number.is_empty() && !paper.context.number_by_server {
            found.at("number", "", "1 to 16 characters");
        }
    });

pub const DOC_NUMBER_TOO_LONG: Rule =
    Rule::structure("DOC_NUMBER_TOO_LONG", "G13", RULE_46, |paper, found| {
        if number_fault(paper.document.number) == Some(NumberFault::TooLong) {
            let number = paper.document.number;
            found.at(
                "number",
                format!("{} characters", number.chars().count()),
                "at most 16 characters",
            );
        }
    });

pub const DOC_NUMBER_CHARSET: Rule =
    Rule::structure("DOC_NUMBER_CHARSET", "G13", RULE_46, |paper, found| {
        if number_fault(paper.document.number) == Some(NumberFault::Charset) {
            found.at(
                "number",
                paper.document.number,
                "only A-Z, a-z, 0-9, / and -",
            );
        }
    });

pub const DOC_NUMBER_LEADING_CHAR: Rule = Rule::structure(
    "DOC_NUMBER_LEADING_CHAR",
    "G13",
    "INV-01 DocDtls.No (stricter than rule 46(b))",
    |paper, found| {
        if number_fault(paper.document.number) == Some(NumberFault::LeadingChar) {
            found.at(
                "number",
                paper.document.number,
                "a first character other than 0, / and -",
            );
        }
    },
);

pub const DATE_INVALID: Rule = Rule::structure(
    "DATE_INVALID",
    "G16",
    "CGST Rules 2017, rule 46(c); NIC 2144",
    |paper, found| {
        if paper.document.date.known().is_none() {
            found.at(
                "date",
                paper.document.date.text(),
                "a day of the calendar, YYYY-MM-DD",
            );
        }
        if let Given::Unknown(text) = paper.document.tax_point {
            found.at("tax_point", text, "a day of the calendar, YYYY-MM-DD");
        }
    },
);

pub const DATE_IN_FUTURE: Rule = Rule::semantics(
    "DATE_IN_FUTURE",
    "G16",
    "CGST Act 2017, s. 31; NIC 2218, 2163",
    |facts, found| {
        if let Some(today) = facts.context.today.filter(|&today| facts.date > today) {
            found.at(
                "date",
                facts.date.to_string(),
                format!("at most {today}, today in India"),
            );
        }
    },
);

pub const DATE_BEFORE_GST: Rule = Rule::semantics(
    "DATE_BEFORE_GST",
    "G16",
    "CGST Act 2017, s. 1(3) with Notification 9/2017-CT; NIC 2284",
    |facts, found| {
        if facts.date < Date::GST_BEGAN {
            found.at(
                "date",
                facts.date.to_string(),
                format!("{} or later", Date::GST_BEGAN),
            );
        }
    },
);

pub const REVERSE_CHARGE_NOT_ALLOWED: Rule = Rule::semantics(
    "REVERSE_CHARGE_NOT_ALLOWED",
    "G26",
    "CGST Act 2017, s. 9(3), (4); IGST Act 2017, s. 5(3), (4); NIC 2162",
    |facts, found| {
        let document = facts.document;
        let is_type = matches!(facts.supply, SupplyType::B2b) || facts.supply.is_sez();
        let to_isd = document.buyer.taxpayer_type.known() == Some(TaxpayerType::Isd);
        if document.reverse_charge && (!is_type || to_isd) {
            let to = if to_isd {
                " to an input service distributor"
            } else {
                ""
            };
            let found_text = format!("reverse charge on {}{to}", facts.supply.as_str());
            found.at(
                "reverse_charge",
                found_text,
                "only on B2B, SEZWP, SEZWOP, and not to an ISD",
            );
        }
    },
);

pub const EXCLUDE_TAX_NOT_ALLOWED: Rule = Rule::semantics(
    "EXCLUDE_TAX_NOT_ALLOWED",
    "G44",
    "IGST Act 2017, s. 16(3)(b); INV-01 ValDtls.TotInvVal",
    |facts, found| {
        if facts.document.exclude_tax_from_total && facts.supply != SupplyType::ExportWithPayment {
            found.at(
                "exclude_tax_from_total",
                facts.supply.as_str(),
                "only on EXPWP",
            );
        }
    },
);
