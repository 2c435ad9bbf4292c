//! Answers one test vector of the format `invochain-gst-vectors/1` (tests/vectors/gst/README.md), whatever its kind.
//!
//! The comparison with what was expected belongs to whoever runs vectors; here is only the answer.

use std::collections::BTreeMap;
use std::collections::HashSet;

use serde_json::{json, Map, Value};

use super::document::Date;
use super::gstin::{check_char, pan_holder, Gstin};
use super::hsn::Hsn;
use super::irn::{cancel_refusal, irn, number_key, qr_payload, Moment, UniquenessKey};
use super::neutral;
use super::outcome::{Computed, ComputedLine, ComputedTotals, Violation};
use super::period::{
    credit_note_last_day, last_report_date, retention, time_of_supply, FinancialYear, RateSide,
};
use super::reading::{Fields, Malformed};
use super::returns::{Reported, ReturnSummary, Sums};
use super::rules::document::{self as header, number_fault, NumberFault};
use super::rules::line as line_rules;
use super::rules::Rule;
use super::tables::{RateFault, Tables};
use super::{check, Context, Mode, PathForm};
use crate::money::{milli_text, paise_text, DecimalField};

/// What the engine says to one vector.
#[derive(Debug)]
pub struct Answer {
    pub ok: bool,
    pub errors: Vec<Violation>,
    /// `null` where nothing was computed.
    pub computed: Value,
}

impl Answer {
    fn lawful(computed: Value) -> Answer {
        Answer {
            ok: true,
            errors: Vec::new(),
            computed,
        }
    }

    fn refused(errors: Vec<Violation>) -> Answer {
        Answer {
            ok: false,
            errors,
            computed: Value::Null,
        }
    }

    fn judged(errors: Vec<Violation>, computed: Value) -> Answer {
        Answer {
            ok: errors.is_empty(),
            errors,
            computed,
        }
    }
}

/// Every kind of question, in the order of the format's description.
pub const KINDS: [&str; 16] = [
    "document",
    "gstin",
    "gstin_check_char",
    "doc_number",
    "fiscal_year",
    "irn",
    "rate",
    "credit_note_window",
    "einvoice_report_window",
    "irn_cancel",
    "uniqueness",
    "time_of_supply",
    "retention",
    "gstr1_classify",
    "return_summary",
    "qr_payload",
];

/// Answers a vector. Errors: an unknown kind or mode, or an input of another shape.
pub fn answer(vector: &Value, tables: &Tables) -> Result<Answer, Malformed> {
    let fields = Fields::of(Some(vector), "")?;
    let input = fields.object("input", "input")?;
    // Paths of the input begin at the input itself.
    let input = Fields::of(fields.get("input").filter(|_| !input.is_empty()), "")?;
    let unknown = |path: &str, found: &str, wanted| Malformed {
        path: path.into(),
        found: found.into(),
        wanted,
    };
    match fields.text("kind") {
        "document" => {
            let mode = match fields.text("mode") {
                "compute" | "" => Mode::Compute,
                "strict" => Mode::Strict,
                "nic" => Mode::Nic,
                other => return Err(unknown("mode", other, "compute, strict or nic")),
            };
            let as_of = fields.object("context", "context")?.text("as_of");
            let today = Date::parse_iso(as_of);
            if today.is_none() && !as_of.is_empty() {
                return Err(unknown("context.as_of", as_of, "a date, YYYY-MM-DD"));
            }
            document(
                fields.get("input").unwrap_or(&Value::Null),
                mode,
                today,
                tables,
            )
        }
        "gstin" => Ok(gstin(input.text("gstin"), tables)),
        "gstin_check_char" => Ok(match check_char(input.text("first14")) {
            Some(found) => Answer::lawful(json!({"check_char": found.to_string()})),
            None => Answer::refused(vec![format_violation("first14", input.text("first14"))]),
        }),
        "doc_number" => Ok(doc_number(input.text("number"))),
        "fiscal_year" => Ok(dated(&input, &["date"], |dates| {
            let year = FinancialYear::of(dates[0]);
            let [start, end] = [year.first_day(), year.last_day()].map(|day| day.to_string());
            Answer::lawful(json!({"fy": year.to_string(), "start": start, "end": end}))
        })),
        "irn" => Ok(dated(&input, &["date", "generated_on?"], |dates| {
            let generated_on = dates.get(1).copied().unwrap_or(dates[0]);
            let (gstin, doc_type, number) = (
                input.text("seller_gstin"),
                input.text("doc_type"),
                input.text("number"),
            );
            let irn = irn(gstin, dates[0], doc_type, number, generated_on);
            Answer::lawful(json!({"preimage": irn.preimage, "irn": irn.irn}))
        })),
        "rate" => Ok(rate(&input, tables)),
        "credit_note_window" => Ok(credit_note_window(&input)),
        "einvoice_report_window" => Ok(einvoice_report_window(&input)),
        "irn_cancel" => irn_cancel(&input),
        "uniqueness" => uniqueness(&input),
        "time_of_supply" => {
            let names = [
                "rate_change_date",
                "supply_date",
                "invoice_date",
                "payment_date",
            ];
            Ok(dated(&input, &names, |dates| {
                let (time, side) = time_of_supply(dates[0], dates[1], dates[2], dates[3]);
                let rate = if side == RateSide::New { "NEW" } else { "OLD" };
                Answer::lawful(json!({"time_of_supply": time.to_string(), "rate": rate}))
            }))
        }
        "retention" => Ok(dated(&input, &["date"], |dates| {
            let kept = retention(dates[0]);
            Answer::lawful(json!({
                "annual_return_due": kept.annual_return_due.to_string(),
                "statutory_until": kept.statutory_until.to_string(),
                "keep_until": kept.keep_until.to_string(),
            }))
        })),
        "gstr1_classify" => gstr1_classify(fields.get("input").unwrap_or(&Value::Null), tables),
        "return_summary" => return_summary(&input, tables),
        "qr_payload" => qr(&input, tables),
        other => Err(unknown(
            "kind",
            other,
            "a kind of tests/vectors/gst/README.md",
        )),
    }
}

fn context(mode: Mode, today: Option<Date>, tables: &Tables) -> Context<'_> {
    Context {
        mode,
        today,
        tables,
        form: PathForm::Neutral,
        number_by_server: false,
    }
}

fn document(
    input: &Value,
    mode: Mode,
    today: Option<Date>,
    tables: &Tables,
) -> Result<Answer, Malformed> {
    let read = neutral::read(input)?;
    Ok(
        match check(&read.document, &context(mode, today, tables), read.prior) {
            Ok(computed) => Answer::lawful(computed_json(&computed)),
            Err(errors) => Answer::refused(errors),
        },
    )
}

/// The figures as the neutral form writes them: amounts with two decimals.
pub fn computed_json(computed: &Computed) -> Value {
    let lines: Vec<Value> = computed.lines.iter().map(line_json).collect();
    json!({"inter_state": computed.inter_state, "lines": lines, "totals": totals_json(&computed.totals)})
}

fn amounts(named: &[(&str, i64)]) -> Value {
    Value::Object(
        named
            .iter()
            .map(|&(name, paise)| (name.to_owned(), Value::String(paise_text(paise))))
            .collect(),
    )
}

fn line_json(line: &ComputedLine) -> Value {
    amounts(&[
        ("gross", line.gross_paise),
        ("taxable", line.taxable_paise),
        ("igst", line.igst_paise),
        ("cgst", line.cgst_paise),
        ("sgst", line.sgst_paise),
        ("cess", line.cess_paise),
        ("cess_nonadvol", line.cess_nonadvol_paise),
        ("state_cess", line.state_cess_paise),
        ("state_cess_nonadvol", line.state_cess_nonadvol_paise),
        ("other_charges", line.other_charges_paise),
        ("total", line.total_paise),
    ])
}

fn totals_json(totals: &ComputedTotals) -> Value {
    amounts(&[
        ("taxable", totals.taxable_paise),
        ("igst", totals.igst_paise),
        ("cgst", totals.cgst_paise),
        ("sgst", totals.sgst_paise),
        ("cess", totals.cess_paise),
        ("state_cess", totals.state_cess_paise),
        ("discount", totals.discount_paise),
        ("other_charges", totals.other_charges_paise),
        ("round_off", totals.round_off_paise),
        ("total", totals.total_paise),
    ])
}

/// The answer about one GSTIN: kind, state, PAN and its holder, or the first fault.
pub fn gstin(text: &str, tables: &Tables) -> Answer {
    match Gstin::read(text, tables) {
        Ok(gstin) => {
            let mut computed = Map::new();
            computed.insert(
                "kind".into(),
                gstin.kind().map_or("URP", |kind| kind.as_str()).into(),
            );
            if let Some(state) = gstin.state() {
                computed.insert("state".into(), state.into());
            }
            if let Some(pan) = gstin.pan() {
                computed.insert("pan".into(), pan.into());
                computed.insert("pan_holder".into(), pan_holder(pan).into());
            }
            Answer::lawful(Value::Object(computed))
        }
        Err(fault) => {
            let wanted = match text.get(..14).and_then(check_char) {
                Some(right) if fault == super::gstin::Fault::Checksum => {
                    format!("{}{right}", &text[..14])
                }
                _ => "a GSTIN of 15 characters, or URP".to_owned(),
            };
            Answer::refused(vec![violation(
                fault.code(),
                "gstin",
                text,
                &wanted,
                "CGST Rules 2017, rule 10",
            )])
        }
    }
}

fn violation(
    code: &'static str,
    path: &str,
    found: &str,
    wanted: &str,
    law: &'static str,
) -> Violation {
    Violation {
        code,
        path: path.to_owned(),
        found: found.to_owned(),
        wanted: wanted.to_owned(),
        law,
    }
}

fn by_rule(rule: &Rule, path: &str, found: &str, wanted: &str) -> Violation {
    violation(rule.code, path, found, wanted, rule.law)
}

fn format_violation(path: &str, found: &str) -> Violation {
    violation(
        "GSTIN_FORMAT_INVALID",
        path,
        found,
        "14 of 0-9 and A-Z",
        "CGST Rules 2017, rule 10",
    )
}

fn doc_number(number: &str) -> Answer {
    let rule = match number_fault(number) {
        None => return Answer::lawful(json!({"number_key": number_key(number)})),
        Some(NumberFault::Required) => header::DOC_NUMBER_REQUIRED,
        Some(NumberFault::TooLong) => header::DOC_NUMBER_TOO_LONG,
        Some(NumberFault::Charset) => header::DOC_NUMBER_CHARSET,
        Some(NumberFault::LeadingChar) => header::DOC_NUMBER_LEADING_CHAR,
    };
    Answer::refused(vec![by_rule(
        &rule,
        "number",
        number,
        "1 to 16 of A-Z a-z 0-9 / -, not first 0, / or -",
    )])
}

/// Reads the named dates (a trailing `?`: may be absent) and goes on, or tells every one that is no day.
fn dated(input: &Fields<'_>, names: &[&str], go_on: impl FnOnce(&[Date]) -> Answer) -> Answer {
    let (mut dates, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        let key = name.trim_end_matches('?');
        match Date::parse_iso(input.text(key)) {
            Some(date) => dates.push(date),
            None if key.len() < name.len() && input.text(key).is_empty() => {}
            None => errors.push(by_rule(
                &header::DATE_INVALID,
                key,
                input.text(key),
                "a day, YYYY-MM-DD",
            )),
        }
    }
    if errors.is_empty() {
        go_on(&dates)
    } else {
        Answer::refused(errors)
    }
}

fn rate(input: &Fields<'_>, tables: &Tables) -> Answer {
    let mut errors = Vec::new();
    let rate_milli = input.decimal("rate", "rate", DecimalField::RATE, &mut errors);
    let hsn = Hsn::parse(input.text("hsn"));
    if hsn.is_none() {
        errors.push(by_rule(
            &line_rules::HSN_FORMAT_INVALID,
            "hsn",
            input.text("hsn"),
            "4, 6 or 8 digits",
        ));
    }
    if rate_milli.is_none() && errors.iter().all(|error| error.path != "rate") {
        errors.push(by_rule(
            &line_rules::GST_RATE_REQUIRED,
            "rate",
            "",
            "the full rate in percent",
        ));
    }
    dated(input, &["date"], |dates| {
        let (Some(rate_milli), Some(hsn)) = (rate_milli, hsn) else {
            return Answer::refused(errors);
        };
        let rule = match tables.rates.look_up(rate_milli, dates[0], hsn) {
            Ok(_) => return Answer::lawful(Value::Null),
            Err(RateFault::Unknown) => line_rules::GST_RATE_UNKNOWN,
            Err(RateFault::NotInForce) => line_rules::GST_RATE_NOT_IN_FORCE,
            Err(RateFault::HsnMismatch) => line_rules::GST_RATE_HSN_MISMATCH,
        };
        Answer::refused(vec![by_rule(
            &rule,
            "rate",
            input.text("rate"),
            "a rate in force that day for these goods",
        )])
    })
}

fn credit_note_window(input: &Fields<'_>) -> Answer {
    dated(
        input,
        &["original_date", "note_date", "annual_return_filed_on?"],
        |dates| {
            let last_day = credit_note_last_day(dates[0], dates.get(2).copied());
            let errors = if dates[1] > last_day {
                let wanted = format!("at most {last_day}");
                let rule = &super::rules::note::CREDIT_NOTE_TIME_BARRED;
                vec![by_rule(rule, "note_date", &dates[1].to_string(), &wanted)]
            } else {
                Vec::new()
            };
            Answer::judged(errors, json!({"last_day": last_day.to_string()}))
        },
    )
}

fn einvoice_report_window(input: &Fields<'_>) -> Answer {
    let mut errors = Vec::new();
    let aato_paise = input
        .decimal("aato_crore", "aato_crore", DecimalField::CRORE, &mut errors)
        .unwrap_or(0);
    if !errors.is_empty() {
        return Answer::refused(errors);
    }
    dated(input, &["date", "report_date"], |dates| {
        let (date, report_date) = (dates[0], dates[1]);
        let last = last_report_date(aato_paise, date, report_date);
        let law = "CGST Rules 2017, rule 48(4); GSTN advisories on the 30-day limit; NIC 2305";
        if report_date < date {
            errors.push(by_rule(
                &header::DATE_IN_FUTURE,
                "date",
                &date.to_string(),
                &format!("at most {report_date}"),
            ));
        } else if let Some(last) = last.filter(|&last| report_date > last) {
            let wanted = format!("reported by {last}");
            errors.push(violation(
                "EINVOICE_REPORT_WINDOW_CLOSED",
                "date",
                &date.to_string(),
                &wanted,
                law,
            ));
        }
        Answer::judged(
            errors,
            json!({"last_report_date": last.map(|last| last.to_string())}),
        )
    })
}

fn irn_cancel(input: &Fields<'_>) -> Result<Answer, Malformed> {
    let mut errors = Vec::new();
    let mut moment = |name: &str| {
        let read = Moment::parse(input.text(name));
        if read.is_none() {
            errors.push(by_rule(
                &header::DATE_INVALID,
                name,
                input.text(name),
                "YYYY-MM-DDTHH:MM:SS",
            ));
        }
        read
    };
    let (ack_at, cancel_at) = (moment("ack_at"), moment("cancel_at"));
    let has_active_ewb = input.flag("active_ewb")?;
    Ok(match (ack_at, cancel_at) {
        (Some(ack_at), Some(cancel_at)) => {
            let is_cancelled = input.text("status") == "CNL";
            let refusal = cancel_refusal(ack_at, cancel_at, has_active_ewb, is_cancelled);
            Answer::judged(refusal.into_iter().collect(), Value::Null)
        }
        _ => Answer::refused(errors),
    })
}

fn uniqueness(input: &Fields<'_>) -> Result<Answer, Malformed> {
    let mut seen = HashSet::new();
    let mut errors = Vec::new();
    for (index, value) in input.array("documents", "documents")?.iter().enumerate() {
        let one = Fields::of(Some(value), format!("documents[{index}]"))?;
        let Some(date) = Date::parse_iso(one.text("date")) else {
            errors.push(by_rule(
                &header::DATE_INVALID,
                &one.path_of("date"),
                one.text("date"),
                "a day, YYYY-MM-DD",
            ));
            continue;
        };
        let number = one.text("number");
        if !seen.insert(UniquenessKey::of(
            one.text("seller_gstin"),
            date,
            one.text("doc_type"),
            number,
        )) {
            let law = "CGST Rules 2017, rules 46(b), 53(1A); NIC 2150";
            let wanted = "a number not used before in this financial year, in any case";
            errors.push(violation(
                "DOC_NUMBER_DUPLICATE",
                &one.path_of("number"),
                number,
                wanted,
                law,
            ));
        }
    }
    Ok(Answer::judged(errors, Value::Null))
}

fn gstr1_classify(input: &Value, tables: &Tables) -> Result<Answer, Malformed> {
    let read = neutral::read(input)?;
    let computed = match check(
        &read.document,
        &context(Mode::Compute, None, tables),
        read.prior,
    ) {
        Ok(computed) => computed,
        Err(errors) => return Ok(Answer::refused(errors)),
    };
    let section = Reported::of(&read.document, &computed).map(|reported| reported.section());
    Ok(Answer::lawful(json!({
        "section": section.map(|section| section.section),
        "table": section.map(|section| section.table),
        "typ": section.and_then(|section| section.typ),
        "total": paise_text(computed.totals.total_paise),
    })))
}

fn return_summary(input: &Fields<'_>, tables: &Tables) -> Result<Answer, Malformed> {
    let mut summary = ReturnSummary::default();
    let mut errors = Vec::new();
    for (index, value) in input.array("documents", "documents")?.iter().enumerate() {
        let read = neutral::read(value)?;
        match check(
            &read.document,
            &context(Mode::Compute, None, tables),
            read.prior,
        ) {
            Ok(computed) => {
                if let Some(reported) = Reported::of(&read.document, &computed) {
                    summary.add(&reported, tables);
                }
            }
            Err(found) => errors.extend(found.into_iter().map(|violation| Violation {
                path: format!("documents[{index}].{}", violation.path),
                ..violation
            })),
        }
    }
    Ok(if errors.is_empty() {
        Answer::lawful(summary_json(&summary))
    } else {
        Answer::refused(errors)
    })
}

/// The chosen sums as texts with two decimals.
fn sums_json(sums: &Sums, names: &[&str]) -> Map<String, Value> {
    let value = |name: &str| match name {
        "txval" => sums.txval,
        "iamt" => sums.iamt,
        "camt" => sums.camt,
        "samt" => sums.samt,
        _ => sums.csamt,
    };
    names
        .iter()
        .map(|&name| (name.to_owned(), Value::String(paise_text(value(name)))))
        .collect()
}

const ALL_SUMS: [&str; 5] = ["txval", "iamt", "camt", "samt", "csamt"];

/// A return summary as JSON: amounts are texts with two decimals, quantities with three.
pub fn summary_json(summary: &ReturnSummary) -> Value {
    let sections: Map<String, Value> = summary
        .gstr1_sections
        .iter()
        .map(|(key, section)| {
            let mut row = sums_json(&section.sums, &ALL_SUMS);
            row.insert("count".into(), section.count.into());
            (key.clone(), Value::Object(row))
        })
        .collect();
    let details = |by_place: &BTreeMap<String, Sums>| -> Vec<Value> {
        by_place
            .iter()
            .map(|(pos, sums)| {
                let mut row = sums_json(sums, &["txval", "iamt"]);
                row.insert("pos".into(), pos.as_str().into());
                Value::Object(row)
            })
            .collect()
    };
    let hsn: Vec<Value> = summary
        .hsn
        .iter()
        .map(|(key, row)| {
            let mut out = sums_json(&row.sums, &ALL_SUMS);
            out.insert("side".into(), key.side.into());
            out.insert("hsn_sc".into(), key.hsn.as_str().into());
            out.insert("uqc".into(), key.uqc.as_str().into());
            out.insert("rt".into(), key.rate.as_str().into());
            out.insert("qty".into(), milli_text(row.quantity_milli).into());
            Value::Object(out)
        })
        .collect();
    let gstr3b = &summary.gstr3b;
    json!({
        "gstr1_sections": sections,
        "gstr3b": {
            "osup_det": sums_json(&gstr3b.osup_det, &ALL_SUMS),
            "osup_zero": sums_json(&gstr3b.osup_zero, &["txval", "iamt", "csamt"]),
            "osup_nil_exmp": sums_json(&gstr3b.osup_nil_exmp, &["txval"]),
            "inter_sup": {
                "unreg_details": details(&gstr3b.unreg_details),
                "comp_details": details(&gstr3b.comp_details),
                "uin_details": details(&gstr3b.uin_details),
            },
        },
        "hsn": hsn,
    })
}

fn qr(input: &Fields<'_>, tables: &Tables) -> Result<Answer, Malformed> {
    let null = Value::Null;
    let read = neutral::read(input.get("document").unwrap_or(&null))?;
    let computed = match check(
        &read.document,
        &context(Mode::Compute, None, tables),
        read.prior,
    ) {
        Ok(computed) => computed,
        Err(errors) => return Ok(Answer::refused(errors)),
    };
    let irn_at = input.text("irn_at");
    Ok(match qr_payload(&read.document, &computed, irn_at) {
        Some(qr) => Answer::lawful(json!({
            "SellerGstin": qr.seller_gstin,
            "BuyerGstin": qr.buyer_gstin,
            "DocNo": qr.number,
            "DocTyp": qr.doc_type,
            "DocDt": qr.date,
            "TotInvVal": qr.total,
            "ItemCnt": qr.item_count,
            "MainHsnCode": qr.main_hsn,
            "Irn": qr.irn,
            "IrnDt": qr.irn_at,
        })),
        None => Answer::refused(vec![by_rule(
            &header::DATE_INVALID,
            "irn_at",
            irn_at,
            "YYYY-MM-DD HH:MM:SS",
        )]),
    })
}
