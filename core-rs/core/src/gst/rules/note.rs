//! Rules of credit and debit notes (RULES G18, G19).

use super::Rule;
use crate::gst::document::DocType;
use crate::gst::period::credit_note_last_day;
use crate::money::paise_text;

pub const ORIGINAL_REQUIRED: Rule = Rule::semantics(
    "ORIGINAL_REQUIRED",
    "G18",
    "CGST Rules 2017, rule 53(1A)(g); NIC 2191",
    |facts, found| {
        if facts.doc_type.is_note() && facts.original().is_none() {
            found.at(
                "original.number",
                "",
                "the number of the document this note corrects",
            );
        }
    },
);

pub const ORIGINAL_DATE_INVALID: Rule = Rule::semantics(
    "DATE_INVALID",
    "G16",
    "CGST Rules 2017, rule 53(1A)(g); NIC 2225",
    |facts, found| {
        if facts.doc_type.is_note() {
            if let Some(original) = facts
                .original()
                .filter(|original| original.date.known().is_none())
            {
                found.at(
                    "original.date",
                    original.date.text(),
                    "a day of the calendar, YYYY-MM-DD",
                );
            }
        }
    },
);

pub const ORIGINAL_NOT_ALLOWED: Rule = Rule::semantics(
    "ORIGINAL_NOT_ALLOWED",
    "G18",
    "CGST Act 2017, s. 31; NIC 2210",
    |facts, found| {
        if facts.doc_type == DocType::Invoice {
            if let Some(original) = &facts.document.original {
                found.at(
                    "original",
                    original.number,
                    "none: an invoice corrects nothing",
                );
            }
        }
    },
);

pub const ORIGINAL_AFTER_NOTE: Rule = Rule::semantics(
    "ORIGINAL_AFTER_NOTE",
    "G18",
    "CGST Act 2017, s. 34(1), (3)",
    |facts, found| {
        if let Some(original_date) = facts
            .original_date
            .filter(|&original_date| original_date > facts.date)
        {
            found.at(
                "original.date",
                original_date.to_string(),
                format!("at most {}, the note's date", facts.date),
            );
        }
    },
);

pub const CREDIT_NOTE_TIME_BARRED: Rule = Rule::semantics(
    "CREDIT_NOTE_TIME_BARRED",
    "G19",
    "CGST Act 2017, s. 34(2)",
    |facts, found| {
        if let Some(original_date) = facts
            .original_date
            .filter(|_| facts.doc_type == DocType::CreditNote)
        {
            let last_day = credit_note_last_day(original_date, None);
            if facts.date > last_day {
                found.at(
                    "date",
                    facts.date.to_string(),
                    format!("at most {last_day}"),
                );
            }
        }
    },
);

pub const CREDIT_EXCEEDS_ORIGINAL: Rule = Rule::totals(
    "CREDIT_EXCEEDS_ORIGINAL",
    "G19",
    "CGST Act 2017, s. 34(1)",
    |facts, figures, found| {
        let creditable = facts
            .document
            .original
            .as_ref()
            .and_then(|original| original.creditable_paise);
        if let (DocType::CreditNote, Some(creditable), Some(total)) =
            (facts.doc_type, creditable, figures.total)
        {
            if total.stands > creditable {
                found.at(
                    "totals.total",
                    paise_text(total.stands),
                    format!("at most {}", paise_text(creditable)),
                );
            }
        }
    },
);
