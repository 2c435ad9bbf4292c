//! The invoice reference number, the QR payload, and the window to cancel (RULES G55, G56, G58).

use sha2::{Digest, Sha256};

use super::date::Date;
use super::document::Document;
use super::outcome::{Computed, Violation};
use super::period::FinancialYear;
use crate::money::paise_text;

/// From this day of registration the number is upper-cased first (GSTN advisory of 4 April 2025).
pub const UPPER_CASE_FROM: Date = Date::law(2025, 6, 1);

/// An IRN and the text it is the hash of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Irn {
    pub preimage: String,
    /// 64 lower-case hexadecimal digits.
    pub irn: String,
}

/// The number as the e-invoice system keeps it when registered on this day. ASCII letters only are folded.
pub fn registered_number(number: &str, generated_on: Date) -> String {
    if generated_on >= UPPER_CASE_FROM {
        number.to_ascii_uppercase()
    } else {
        number.to_owned()
    }
}

/// SHA-256 of seller GSTIN, financial year, document type and number, without separators (RULES G55).
/// `generated_on` is the day of registration. No part is checked here.
pub fn irn(
    seller_gstin: &str,
    date: Date,
    doc_type: &str,
    number: &str,
    generated_on: Date,
) -> Irn {
    let number = registered_number(number, generated_on);
    let preimage = format!(
        "{seller_gstin}{}{doc_type}{number}",
        FinancialYear::of(date)
    );
    let irn = Sha256::digest(preimage.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Irn { preimage, irn }
}

/// A document is the same as another if these agree: seller, year, type and number in any case (RULES G14).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UniquenessKey {
    pub seller_gstin: String,
    pub financial_year: FinancialYear,
    pub doc_type: String,
    pub number_key: String,
}

impl UniquenessKey {
    pub fn of(seller_gstin: &str, date: Date, doc_type: &str, number: &str) -> UniquenessKey {
        UniquenessKey {
            seller_gstin: seller_gstin.to_owned(),
            financial_year: FinancialYear::of(date),
            doc_type: doc_type.to_owned(),
            number_key: number_key(number),
        }
    }
}

/// The comparison key of a number: ASCII upper case (RULES G13).
pub fn number_key(number: &str) -> String {
    number.to_ascii_uppercase()
}

/// The ten values under the QR code, in the order the e-invoice system prints them (RULES G56).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QrPayload {
    pub seller_gstin: String,
    pub buyer_gstin: String,
    pub number: String,
    pub doc_type: &'static str,
    /// `DD/MM/YYYY`
    pub date: String,
    pub total: String,
    pub item_count: usize,
    /// Of the line with the largest taxable value, the first on a tie.
    pub main_hsn: String,
    pub irn: String,
    /// `YYYY-MM-DD HH:MM:SS`, IST.
    pub irn_at: String,
}

/// The payload for a document registered at `irn_at` (whose day decides the case of the number).
/// `None` if the document was not checked, or `irn_at` is no moment.
pub fn qr_payload(document: &Document<'_>, computed: &Computed, irn_at: &str) -> Option<QrPayload> {
    let (date, doc_type) = (document.date.known()?, document.doc_type.known()?.as_str());
    Moment::parse(irn_at)?;
    let (day, time) = (irn_at.get(..10)?, irn_at.get(11..)?);
    let generated_on = Date::parse_iso(day)?;
    let mut main: Option<(i64, &str)> = None;
    for (line, figures) in document.lines.iter().zip(&computed.lines) {
        if main.is_none_or(|(largest, _)| figures.taxable_paise > largest) {
            main = Some((figures.taxable_paise, line.hsn));
        }
    }
    Some(QrPayload {
        seller_gstin: document.seller.gstin.to_owned(),
        buyer_gstin: document.buyer.gstin.to_owned(),
        number: registered_number(document.number, generated_on),
        doc_type,
        date: date.inv01(),
        total: paise_text(computed.totals.total_paise),
        item_count: document.lines.len(),
        main_hsn: main?.1.to_owned(),
        irn: irn(
            document.seller.gstin,
            date,
            doc_type,
            document.number,
            generated_on,
        )
        .irn,
        irn_at: format!("{day} {time}"),
    })
}

/// A moment in India to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// Reads `YYYY-MM-DDTHH:MM:SS` (a blank may stand for the `T`).
    pub fn parse(text: &str) -> Option<Moment> {
        let &[h1, h2, b':', m1, m2, b':', s1, s2] = text.as_bytes().get(11..)? else {
            return None;
        };
        let date = Date::parse_iso(text.get(..10)?)?;
        if !matches!(text.as_bytes()[10], b'T' | b' ') {
            return None;
        }
        let two = |tens: u8, ones: u8, below: i64| {
            let digit = |c: u8| c.is_ascii_digit().then(|| i64::from(c - b'0'));
            Some(digit(tens)? * 10 + digit(ones)?).filter(|&n| n < below)
        };
        let (hour, minute, second) = (two(h1, h2, 24)?, two(m1, m2, 60)?, two(s1, s2, 60)?);
        Some(Moment(
            i64::from(date.day_number()) * DAY_S + hour * 3_600 + minute * 60 + second,
        ))
    }
}

const DAY_S: i64 = 86_400;

/// May an IRN be cancelled? Only the first reason is told: cancelled already, an active e-way bill, later than 24 hours
/// after acknowledgement (RULES G58).
pub fn cancel_refusal(
    ack_at: Moment,
    cancel_at: Moment,
    has_active_ewb: bool,
    is_cancelled: bool,
) -> Option<Violation> {
    let refused = |code, path: &str, found: &str, wanted: &str| {
        let (path, found, wanted) = (path.to_owned(), found.to_owned(), wanted.to_owned());
        Some(Violation {
            code,
            path,
            found,
            wanted,
            law: "CGST Rules 2017, rule 48(4); e-invoice system, cancellation",
        })
    };
    if is_cancelled {
        refused("IRN_ALREADY_CANCELLED", "irn", "cancelled", "an active IRN")
    } else if has_active_ewb {
        refused(
            "CANCEL_BLOCKED_BY_EWB",
            "irn",
            "an active e-way bill",
            "none: cancel the e-way bill first",
        )
    } else if cancel_at.0 - ack_at.0 > DAY_S {
        refused(
            "CANCEL_WINDOW_CLOSED",
            "cancel_at",
            "later",
            "at most 24 hours after acknowledgement",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_to_the_second_or_not_at_all() {
        let moment = |text| Moment::parse(text).map(|m| m.0);
        assert_eq!(moment("0001-01-01T00:00:01"), Some(1));
        assert_eq!(moment("0001-01-02 01:01:01"), Some(86_400 + 3_661));
        for text in [
            "2025-10-10",
            "2025-10-10T24:00:00",
            "2025-10-10T10:60:00",
            "2025-10-10T10:00:60",
            "2025-10-10x10:00:00",
            "2025-10-10T10:00:0é",
            "2025-02-30T10:00:00",
            "2025-10-10T1a:00:00",
            "2025-10-10T10:00:00Z",
            "",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    #[test]
    fn the_qr_prints_the_moment_with_a_blank_whichever_way_it_was_written() {
        let value = serde_json::json!({
            "supply_type": "B2B", "doc_type": "INV", "number": "a/1", "date": "2025-05-31",
            "seller": {"gstin": "27AAPFU0939F1ZV", "state": "27"},
            "buyer": {"gstin": "29AABCR1718E1ZL", "state": "29", "pos": "29"},
            "items": [{"sl": "1", "hsn": "610910", "qty": "1", "unit": "NOS", "unit_price": "1", "gst_rate": "18"},
                {"sl": "2", "hsn": "3004", "qty": "1", "unit": "NOS", "unit_price": "1", "gst_rate": "5"}],
        });
        let read = crate::gst::neutral::read(&value).expect("a document");
        let context = crate::gst::Context {
            mode: crate::gst::Mode::Compute,
            today: None,
            tables: crate::gst::Tables::builtin(),
            form: crate::gst::PathForm::Neutral,
            number_by_server: false,
        };
        let computed = crate::gst::check(&read.document, &context, read.prior).expect("lawful");
        let qr = |at| qr_payload(&read.document, &computed, at);
        let [blank, letter] =
            ["2025-06-01 00:00:00", "2025-06-01T00:00:00"].map(|at| qr(at).expect("a payload"));
        assert_eq!(
            (&blank, blank.irn_at.as_str()),
            (&letter, "2025-06-01 00:00:00")
        );
        assert_eq!(
            (
                blank.number.as_str(),
                blank.main_hsn.as_str(),
                blank.total.as_str()
            ),
            ("A/1", "610910", "2.23")
        );
        assert_eq!((blank.date.as_str(), blank.item_count), ("31/05/2025", 2));
        // The day before, the case of the number was kept.
        let before = qr("2025-05-31 23:59:59").expect("a payload");
        assert_eq!(before.number, "a/1");
        assert_ne!(before.irn, blank.irn);
        assert_eq!((qr("2025-06-01"), qr("2025-06-01 24:00:00")), (None, None));
    }

    #[test]
    fn exactly_24_hours_are_in_time() {
        let at = |text| Moment::parse(text).expect("a moment");
        let (ack, day_later) = (at("2025-10-10T10:00:00"), at("2025-10-11T10:00:00"));
        assert_eq!(cancel_refusal(ack, day_later, false, false), None);
        let told = cancel_refusal(ack, day_later, true, true).map(|violation| violation.code);
        assert_eq!(told, Some("IRN_ALREADY_CANCELLED"));
    }
}
