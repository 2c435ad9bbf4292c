//! What the contract asks of texts, parties and places beside the law; the GST rules ask for nothing here.

use crate::contract::{Invoice, InvoiceLine, Party};
use crate::gst::gstin::Gstin;
use crate::gst::{Given, Tables, Violation};

use super::document::day;
use super::{violation, Profile};

const NOTES_CHARS_MAX: usize = 2_000;

const SKU_CHARS_MAX: usize = 80;

/// Room for the counter: `INV/2627/` and seven digits make sixteen characters (RULES G13).
const SERIES_CHARS_MAX: usize = 4;

pub(super) fn check_seller(invoice: &Invoice<'_>, seller: &Profile, found: &mut Vec<Violation>) {
    let Some(given) = &invoice.seller else { return };
    if !given.gstin.is_empty() && given.gstin != seller.gstin {
        found.push(violation(
            "seller.gstin",
            "SELLER_NOT_CALLER",
            given.gstin,
            "the GSTIN of the token, or none",
        ));
    }
    if !given.state.is_empty() && given.state != seller.state {
        found.push(violation(
            "seller.state",
            "SELLER_NOT_CALLER",
            given.state,
            "the state registered, or none",
        ));
    }
}

/// What the contract asks of texts; the GST rules ask for nothing here.
pub(super) fn check_texts(invoice: &Invoice<'_>, tables: &Tables, found: &mut Vec<Violation>) {
    let server_set = [
        ("invoice_id", !invoice.invoice_id.is_empty()),
        ("merchant_id", !invoice.merchant_id.is_empty()),
        ("buyer_merchant_id", !invoice.buyer_merchant_id.is_empty()),
        ("state", invoice.state != 0),
        ("version", invoice.version != 0),
        ("etag", !invoice.etag.is_empty()),
        ("financial_year", !invoice.financial_year.is_empty()),
        ("inter_state", invoice.inter_state),
        ("create_time", invoice.create_time.is_some()),
        ("update_time", invoice.update_time.is_some()),
        ("allowed_actions", !invoice.allowed_actions.0.is_empty()),
        ("compliance_status", invoice.compliance_status != 0),
        ("violations", !invoice.violations.is_empty()),
        ("state_reason", !invoice.state_reason.is_empty()),
    ];
    for (name, _) in server_set.iter().filter(|(_, set)| *set) {
        found.push(violation(
            name,
            "OUTPUT_ONLY",
            "a value",
            "nothing: the server sets it",
        ));
    }
    if !invoice.series.is_empty() {
        if !invoice.number.is_empty() {
            found.push(violation(
                "series",
                "SERIES_WITH_NUMBER",
                invoice.series,
                "a number or a series, not both",
            ));
        }
        let grammar = invoice
            .series
            .bytes()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        if !grammar || invoice.series.len() > SERIES_CHARS_MAX || invoice.series.starts_with('0') {
            found.push(violation(
                "series",
                "SERIES_INVALID",
                invoice.series,
                "1 to 4 of [A-Z0-9], not starting with 0",
            ));
        }
    }
    chars(
        || "notes".to_owned(),
        invoice.notes,
        0,
        NOTES_CHARS_MAX,
        found,
    );
    if let Given::Unknown(_) = day(invoice.due_date.as_ref()) {
        found.push(violation(
            "due_date",
            "DATE_INVALID",
            "no such day",
            "a calendar date",
        ));
    }
    let parties = [
        ("seller", &invoice.seller),
        ("buyer", &invoice.buyer),
        ("ship_to", &invoice.ship_to),
        ("dispatch_from", &invoice.dispatch_from),
    ];
    for (name, party) in parties {
        if let Some(party) = party {
            check_party(name, party, found);
        }
    }
    for (name, place) in [
        ("ship_to", &invoice.ship_to),
        ("dispatch_from", &invoice.dispatch_from),
    ] {
        if let Some(place) = place {
            check_place(name, place, tables, found);
        }
    }
    for (index, line) in invoice.lines.iter().enumerate() {
        check_line(index, line, found);
    }
}

/// Where goods go to or come from is printed only; the rules of the law judge seller and buyer.
fn check_place(name: &str, place: &Party<'_>, tables: &Tables, found: &mut Vec<Violation>) {
    if !place.gstin.is_empty() {
        if let Err(fault) = Gstin::read(place.gstin, tables) {
            found.push(violation(
                &format!("{name}.gstin"),
                fault.code(),
                place.gstin,
                "a registration, URP, or nothing",
            ));
        }
    }
    if !place.state.is_empty() && tables.states.get(place.state).is_none() {
        found.push(violation(
            &format!("{name}.state"),
            "STATE_CODE_INVALID",
            place.state,
            "a two-digit state code, or nothing",
        ));
    }
}

fn check_party(name: &str, party: &Party<'_>, found: &mut Vec<Violation>) {
    if name != "buyer" && !party.place_of_supply.is_empty() {
        let path = format!("{name}.pos");
        found.push(violation(
            &path,
            "FIELD_NOT_ALLOWED",
            party.place_of_supply,
            "nothing: only the buyer has one",
        ));
    }
    if party.annual_turnover_paise != 0 {
        let path = format!("{name}.annual_turnover_paise");
        found.push(violation(
            &path,
            "FIELD_NOT_ALLOWED",
            "a turnover",
            "nothing: it is taken from the registration",
        ));
    }
    let texts = [
        ("legal_name", party.legal_name, 3, 100),
        ("trade_name", party.trade_name, 3, 100),
        ("email", party.email, 6, 100),
    ];
    for (field, text, min, max) in texts {
        chars(|| format!("{name}.{field}"), text, min, max, found);
    }
    let phone_is_sound = (6..=12).contains(&party.phone.len()) && digits(party.phone);
    if !party.phone.is_empty() && !phone_is_sound {
        found.push(violation(
            &format!("{name}.phone"),
            "PHONE_INVALID",
            party.phone,
            "6 to 12 digits",
        ));
    }
    if let Some(address) = &party.address {
        chars(
            || format!("{name}.address.line1"),
            address.line1,
            1,
            100,
            found,
        );
        chars(
            || format!("{name}.address.line2"),
            address.line2,
            3,
            100,
            found,
        );
        chars(
            || format!("{name}.address.location"),
            address.location,
            3,
            100,
            found,
        );
        let pin = address.pin_code;
        let pin_is_sound = pin.len() == 6 && digits(pin) && !pin.starts_with('0');
        if !pin.is_empty() && !pin_is_sound {
            found.push(violation(
                &format!("{name}.address.pin_code"),
                "PIN_INVALID",
                pin,
                "6 digits, the first not 0",
            ));
        }
    }
}

fn check_line(index: usize, line: &InvoiceLine<'_>, found: &mut Vec<Violation>) {
    let at = |field: &str| format!("items[{index}].{field}");
    if !line.description.is_empty() {
        chars(|| at("description"), line.description, 3, 300, found);
    }
    if line.sku.is_empty() {
        return;
    }
    if line.sku.len() > SKU_CHARS_MAX
        || !line
            .sku
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"._/-@".contains(&c))
    {
        found.push(violation(
            &at("sku"),
            "SKU_INVALID",
            line.sku,
            "1 to 64 of [A-Za-z0-9._/-]",
        ));
    }
    if line.is_service {
        found.push(violation(
            &at("sku"),
            "SKU_ON_SERVICE",
            line.sku,
            "nothing: a service takes no stock",
        ));
    }
}

fn digits(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit())
}

/// `path` is made only where something is wrong: a lawful request formats nothing.
fn chars(
    path: impl Fn() -> String,
    text: &str,
    min: usize,
    max: usize,
    found: &mut Vec<Violation>,
) {
    // Most texts are short ASCII without control characters: then nothing more is to be looked at.
    let plain = text.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    if text.is_empty() || plain && (min..=max).contains(&text.len()) {
        return;
    }
    let path = path();
    let count = text.chars().count();
    if count < min || count > max {
        found.push(violation(
            &path,
            "TEXT_LENGTH",
            &format!("{count} characters"),
            &format!("{min} to {max}"),
        ));
    }
    if text
        .chars()
        .any(|c| c.is_control() && !(c == '\n' && path == "notes"))
    {
        found.push(violation(
            &path,
            "TEXT_CONTROL_CHARACTER",
            "a control character",
            "printable text",
        ));
    }
}
