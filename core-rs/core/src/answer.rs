//! What is written and answered once the decision knows the rest: the document, its audit entry, its event.
//!
//! A document is stored once, as issued. What changes later (state, version, reason, buyer's merchant) is appended when
//! it is read: of a field that comes twice, the last one counts. So nothing is decoded to answer a read or a replay.

use crate::audit::{self, Entry, Hash};
use crate::contract::{StockHold, Timestamp};
use crate::identity::{self, id_text, Id};
use crate::request::Draft;
use crate::wire::{put_bytes, put_int, put_nested, Message, Reader, Value};

/// InvoiceState of the contract.
const ISSUED: i64 = 1;
/// ComplianceStatus of the contract.
const COMPLIANT: i64 = 1;
const UNDER_REVIEW: i64 = 2;

const LINES: u32 = 7;
const BUYER_MERCHANT_ID: u32 = 32;
const STATE: u32 = 33;
const VERSION: u32 = 34;
const ETAG: u32 = 35;
const UPDATE_TIME: u32 = 39;
const ALLOWED_ACTIONS: u32 = 40;
const STATE_REASON: u32 = 43;

/// Enough to see what was meant.
const FOUND_CHARS_MAX: usize = 60;

/// Who does something to an invoice, and when.
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    pub actor_id: Id,
    pub actor_merchant_id: Id,
    pub time_micros: i64,
    pub salt: [u8; 16],
    pub audit_key: &'a [u8],
}

/// What the decision adds to a draft.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    pub number: &'a str,
    pub buyer_merchant_id: Option<Id>,
    pub attempt: u32,
    pub act: Act<'a>,
}

/// What is written beside the row of the invoice.
#[derive(Clone, Debug)]
pub struct Written {
    /// At issue the document; later the changed fields. The audit entry's payload.
    pub payload: Vec<u8>,
    pub event: Vec<u8>,
    pub audit_hash: Hash,
    pub audit_mac: Hash,
}

/// Completes an issued invoice.
pub fn issue(draft: &Draft, decided: &Decided<'_>) -> Written {
    let mut document = Vec::with_capacity(draft.body.len() + 320);
    put_bytes(1, decided.number.as_bytes(), &mut document);
    document.extend_from_slice(&draft.body);
    put_bytes(30, &id_text(&draft.invoice_id), &mut document);
    put_bytes(31, &id_text(&draft.merchant_id), &mut document);
    if let Some(buyer) = &decided.buyer_merchant_id {
        put_bytes(BUYER_MERCHANT_ID, &id_text(buyer), &mut document);
    }
    put_int(STATE, ISSUED, &mut document);
    put_int(VERSION, 1, &mut document);
    put_bytes(ETAG, b"1", &mut document);
    put_bytes(36, financial_year(draft).as_bytes(), &mut document);
    if draft.inter_state {
        put_int(37, 1, &mut document);
    }
    let time = timestamp(decided.act.time_micros);
    put_nested(38, &mut document, |out| time.write_fields(out));
    put_nested(UPDATE_TIME, &mut document, |out| time.write_fields(out));
    put_int(
        41,
        if draft.violations.is_empty() {
            COMPLIANT
        } else {
            UNDER_REVIEW
        },
        &mut document,
    );
    for violation in &draft.violations {
        put_nested(42, &mut document, |out| {
            put_bytes(1, violation.path.as_bytes(), out);
            put_bytes(2, violation.code.as_bytes(), out);
            put_bytes(3, describe(violation).as_bytes(), out);
        });
    }
    let hold = (!draft.stock.is_empty()).then_some(Hold {
        rid: draft.rid,
        attempt: decided.attempt,
        fingerprint: &draft.fingerprint,
    });
    let event = event(&document, &[], hold.as_ref());
    let entry = Entry {
        merchant_id: draft.merchant_id,
        invoice_id: draft.invoice_id,
        version: 1,
        action: "issue",
        actor_id: decided.act.actor_id,
        actor_merchant_id: decided.act.actor_merchant_id,
        time_micros: decided.act.time_micros,
        salt: decided.act.salt,
        payload: &document,
        previous: audit::GENESIS,
    };
    let audit_hash = entry.hash();
    Written {
        event,
        audit_hash,
        audit_mac: audit::mac(decided.act.audit_key, &audit_hash),
        payload: document,
    }
}

/// An issued invoice, and what is done to it.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    pub merchant_id: Id,
    pub invoice_id: Id,
    pub document: &'a [u8],
    pub buyer_merchant_id: Option<Id>,
    /// InvoiceState of the contract, after the move.
    pub state: i32,
    pub version: i64,
    pub action: &'a str,
    pub reason: &'a str,
    pub hold: Option<Hold<'a>>,
    pub previous: Hash,
    pub act: Act<'a>,
}

/// The hold that an invoice's stock lines have in the inventory.
#[derive(Clone, Copy, Debug)]
pub struct Hold<'a> {
    pub rid: Id,
    pub attempt: u32,
    pub fingerprint: &'a [u8],
}

/// Completes a change of state.
pub fn change(change: &Move<'_>) -> Written {
    let payload = changed_fields(&Standing {
        state: change.state,
        version: change.version,
        update_micros: change.act.time_micros,
        reason: change.reason,
        buyer_merchant_id: change.buyer_merchant_id,
    });
    let event = event(change.document, &payload, change.hold.as_ref());
    let entry = Entry {
        merchant_id: change.merchant_id,
        invoice_id: change.invoice_id,
        version: change.version,
        action: change.action,
        actor_id: change.act.actor_id,
        actor_merchant_id: change.act.actor_merchant_id,
        time_micros: change.act.time_micros,
        salt: change.act.salt,
        payload: &payload,
        previous: change.previous,
    };
    let audit_hash = entry.hash();
    Written {
        event,
        audit_hash,
        audit_mac: audit::mac(change.act.audit_key, &audit_hash),
        payload,
    }
}

/// Where an invoice stands now, as its row says.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    pub state: i32,
    pub version: i64,
    pub update_micros: i64,
    pub reason: &'a str,
    pub buyer_merchant_id: Option<Id>,
}

/// The fields that change after issue. Every one is written, also where it has its default: it must win.
pub fn changed_fields(standing: &Standing<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    if let Some(buyer) = &standing.buyer_merchant_id {
        put_bytes(BUYER_MERCHANT_ID, &id_text(buyer), &mut out);
    }
    put_int(STATE, i64::from(standing.state), &mut out);
    put_int(VERSION, standing.version, &mut out);
    put_bytes(ETAG, standing.version.to_string().as_bytes(), &mut out);
    let time = timestamp(standing.update_micros);
    put_nested(UPDATE_TIME, &mut out, |out| {
        put_int(1, time.seconds, out);
        put_int(2, i64::from(time.nanos), out);
    });
    put_bytes(STATE_REASON, standing.reason.as_bytes(), &mut out);
    out
}

/// The invoice as the caller sees it now.
pub fn present(
    document: &[u8],
    standing: &Standing<'_>,
    actions: &[&str],
    with_lines: bool,
) -> Vec<u8> {
    let changed = changed_fields(standing);
    let mut out = Vec::with_capacity(document.len() + changed.len() + 64);
    if with_lines {
        out.extend_from_slice(document);
    } else {
        put_without_lines(document, &mut out);
    }
    out.extend_from_slice(&changed);
    put_actions(actions, &mut out);
    out
}

/// Appends what the caller may do now.
pub fn put_actions(actions: &[&str], out: &mut Vec<u8>) {
    for action in actions {
        put_bytes(ALLOWED_ACTIONS, action.as_bytes(), out);
    }
}

fn put_without_lines(document: &[u8], out: &mut Vec<u8>) {
    let mut reader = Reader::new(document);
    // A stored document is one we wrote; what cannot be read is left out rather than guessed.
    while let Ok(Some((number, value))) = reader.next_field() {
        match value {
            Value::Bytes(bytes) if number != LINES => put_bytes(number, bytes, out),
            #[allow(clippy::cast_possible_wrap)]
            Value::Varint(value) => put_int(number, value as i64, out),
            _ => {}
        }
    }
}

/// An event of any type: `{1: invoice, 2: hold}`.
fn event(document: &[u8], changed: &[u8], hold: Option<&Hold<'_>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(document.len() + changed.len() + 160);
    put_nested(1, &mut out, |out| {
        out.extend_from_slice(document);
        out.extend_from_slice(changed);
    });
    if let Some(hold) = hold {
        let reservation_id = id_text(&identity::reservation_id(&hold.rid, hold.attempt));
        let rid = id_text(&hold.rid);
        let message = StockHold {
            reservation_id: std::str::from_utf8(&reservation_id).unwrap_or_default(),
            fingerprint: hold.fingerprint,
            rid: std::str::from_utf8(&rid).unwrap_or_default(),
            attempt: i32::try_from(hold.attempt).unwrap_or(i32::MAX),
            ..Default::default()
        };
        put_nested(2, &mut out, |out| message.write_fields(out));
    }
    out
}

/// `2026-27` (RULES G15).
pub fn financial_year(draft: &Draft) -> String {
    let start = draft.date.year() - u16::from(draft.date.month() < 4);
    format!("{start}-{:02}", (start + 1) % 100)
}

/// What stands before the counter of a server-given number: `INV/2627/`.
pub fn series_prefix(draft: &Draft) -> String {
    let start = draft.date.year() - u16::from(draft.date.month() < 4);
    format!(
        "{}/{:02}{:02}/",
        draft.series,
        start % 100,
        (start + 1) % 100
    )
}

/// A violation in one sentence. What was found is shown in short: a refusal travels in headers, which are bounded.
pub fn describe(violation: &crate::gst::Violation) -> String {
    let found = match violation.found.as_str() {
        "" => "nothing".to_owned(),
        text => shown(text),
    };
    match violation.wanted.as_str() {
        "" => format!("found {found} ({})", violation.law),
        wanted => format!("found {found}; wanted {wanted} ({})", violation.law),
    }
}

/// The first characters of a text, control characters escaped: it ends in logs and on terminals.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(FOUND_CHARS_MAX));
    let mut chars = text.chars();
    for c in chars.by_ref().take(FOUND_CHARS_MAX) {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

fn timestamp<'a>(micros: i64) -> Timestamp<'a> {
    Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_shown_in_short_and_without_control_characters() {
        assert_eq!(shown("27AAPFU0939F1ZV"), "27AAPFU0939F1ZV");
        assert_eq!(shown("a\0b\u{1b}[31m"), "a\\u{0}b\\u{1b}[31m");
        assert_eq!(shown(&"क".repeat(60)), "क".repeat(60));
        assert_eq!(shown(&"क".repeat(61)), format!("{}…", "क".repeat(60)));
    }
}
