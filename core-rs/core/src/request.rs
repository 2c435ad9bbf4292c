//! A request for an invoice becomes a draft: read, checked by every rule, summed, named and hashed in one go.
//!
//! A draft is everything that can be known before the database is asked: the rows to be written, the stock to be held,
//! the ids, and the bytes of the answer but for what only the decision knows (number, time, buyer's merchant).
//! Source: PROTOCOL sections 2 and 3 (step 0), API sections 2 and 3.

use crate::contract::{CivilDate, CreateInvoiceRequest, Invoice, InvoiceLine, Party, Totals};
use crate::gst::gstin::Gstin;
use crate::gst::{self, Computed, Context, Date, Given, Mode, PathForm, Policy, Tables, Violation};
use crate::identity::{self, Fingerprint, Id};
use crate::wire::{Malformed, Message};
use sha2::{Digest, Sha256};

const NOTES_CHARS_MAX: usize = 2_000;
const SKU_CHARS_MAX: usize = 80;
/// Room for the counter: `INV/2627/` and seven digits make sixteen characters (RULES G13).
const SERIES_CHARS_MAX: usize = 4;
pub const SERIES_DEFAULT: &str = "INV";
const API: &str = "contract of this API";

/// What the local copy of the merchant directory says of a party (kept by `merchant.changed`).
#[derive(Clone, Debug, Default)]
pub struct Profile {
    pub merchant_id: Id,
    pub gstin: String,
    pub state: String,
    /// PartyType of the contract.
    pub taxpayer_type: i32,
    pub annual_turnover_paise: i64,
    pub review: bool,
    /// The party as it is printed on a document: an encoded `Party`.
    pub party: Vec<u8>,
}

/// One row of `invoice_item`.
#[derive(Clone, Debug)]
pub struct ItemRow {
    pub sku: String,
    pub is_service: bool,
    pub hsn: String,
    pub unit: String,
    pub quantity_milli: Option<i64>,
    pub unit_price_milli: i64,
    pub gst_rate_milli: i64,
    pub discount_paise: i64,
    pub figures: gst::ComputedLine,
}

/// Units of one SKU that the invoice takes; the lines of one SKU are summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockDemand {
    pub sku: String,
    pub quantity_milli: i64,
    pub unit: String,
}

/// An invoice that lacks nothing but its decision.
#[derive(Clone, Debug)]
pub struct Draft {
    pub merchant_id: Id,
    pub rid: Id,
    pub invoice_id: Id,
    pub fingerprint: Fingerprint,
    pub seller_gstin: String,
    pub buyer_gstin: String,
    pub buyer_merchant_id: Option<Id>,
    pub supply_type: &'static str,
    /// Empty: the server gives the next one of `series`.
    pub number: String,
    pub series: String,
    pub date: Date,
    /// The client named the date; else it is the day on which the request was checked.
    pub date_given: bool,
    pub inter_state: bool,
    pub totals: gst::ComputedTotals,
    pub items: Vec<ItemRow>,
    /// By SKU in byte order; empty: the invoice takes no stock.
    pub stock: Vec<StockDemand>,
    pub violations: Vec<Violation>,
    /// Fields 2 to 29 of the Invoice, encoded.
    pub body: Vec<u8>,
}

/// Why a request became no draft.
#[derive(Clone, Debug)]
pub enum Refused {
    Malformed(Malformed),
    Violations(Vec<Violation>),
    /// The buyer's profile has not been looked up yet; the rest was not judged.
    BuyerNotLookedUp(String),
}

/// What step 0 needs beside the request's bytes.
pub struct Asked<'p> {
    pub merchant_id: Id,
    pub key: &'p str,
    pub today: Date,
    pub tables: &'p Tables,
    pub seller: &'p Profile,
}

/// How the buyer's GSTIN stands in the directory.
pub enum Known<'p> {
    Yes(&'p Profile),
    /// Looked up, not registered here.
    No,
    NotLookedUp,
}

/// Reads and checks a `CreateInvoiceRequest`. Refuses all violations of a phase at once; a refusal uses up no key.
pub fn draft<'p>(
    raw: &[u8],
    asked: &Asked<'_>,
    buyer_of: impl Fn(&str) -> Known<'p>,
) -> Result<Draft, Refused> {
    let request = CreateInvoiceRequest::decode(raw).map_err(Refused::Malformed)?;
    let invoice = request.invoice.unwrap_or_default();
    let buyer_gstin = invoice.buyer.as_ref().map_or("", |buyer| buyer.gstin);
    let buyer = match buyer_of(buyer_gstin) {
        Known::Yes(profile) => Some(profile),
        Known::No => None,
        Known::NotLookedUp => return Err(Refused::BuyerNotLookedUp(buyer_gstin.to_owned())),
    };
    let fingerprint = fingerprint(&invoice);
    let mut document = document_of(&invoice);
    let mut prior = Vec::new();
    check_texts(&invoice, asked.tables, &mut prior);
    check_seller(&invoice, asked.seller, &mut prior);
    if !matches!(
        document.doc_type,
        Given::Known(gst::DocType::Invoice) | Given::Absent | Given::Unknown(_)
    ) {
        prior.push(violation(
            "doc_type",
            "DOC_TYPE_NOT_ISSUED_HERE",
            "a note",
            "INV; notes have calls of their own",
        ));
    }
    fill(&mut document, asked, buyer, &invoice);

    let context = Context {
        mode: Mode::Strict,
        today: Some(asked.today),
        tables: asked.tables,
        form: PathForm::Api,
        number_by_server: true,
    };
    let policy = if asked.seller.review {
        Policy::Review
    } else {
        Policy::Enforce
    };
    let (computed, violations) =
        gst::check_under(policy, &document, &context, prior).map_err(Refused::Violations)?;

    let rid = identity::request_id(&asked.merchant_id, "invoice.create", asked.key);
    let date = document.date.known().unwrap_or(asked.today);
    Ok(Draft {
        merchant_id: asked.merchant_id,
        rid,
        invoice_id: identity::invoice_id(&rid),
        fingerprint,
        seller_gstin: asked.seller.gstin.clone(),
        buyer_gstin: buyer_gstin.to_owned(),
        buyer_merchant_id: buyer.map(|profile| profile.merchant_id),
        supply_type: document
            .supply_type
            .known()
            .map_or("", gst::SupplyType::as_str),
        number: invoice.number.to_owned(),
        series: if invoice.series.is_empty() {
            SERIES_DEFAULT.to_owned()
        } else {
            invoice.series.to_owned()
        },
        date,
        date_given: invoice.invoice_date.is_some(),
        inter_state: computed.inter_state,
        totals: computed.totals,
        items: item_rows(&invoice, &document, &computed),
        stock: stock_of(&invoice),
        body: body(
            &invoice,
            &document,
            &computed,
            Party::decode(&asked.seller.party).ok(),
        ),
        violations,
    })
}

/// Checks a document made elsewhere (an encoded `Invoice`): the seller and everything else is as it says. Answers the
/// document with its figures, encoded. `today`: absent, no date is in the future.
pub fn check_elsewhere(
    raw: &[u8],
    mode: Mode,
    today: Option<Date>,
    tables: &Tables,
) -> Result<Vec<u8>, Refused> {
    let invoice = Invoice::decode(raw).map_err(Refused::Malformed)?;
    let mut document = document_of(&invoice);
    if invoice.doc_type == 0 {
        document.doc_type = Given::Absent;
    }
    let context = Context {
        mode,
        today,
        tables,
        form: PathForm::Api,
        number_by_server: false,
    };
    let computed = gst::check(&document, &context, Vec::new()).map_err(Refused::Violations)?;
    let mut out = Vec::with_capacity(raw.len() + 256);
    crate::wire::put_bytes(1, invoice.number.as_bytes(), &mut out);
    out.extend_from_slice(&body(
        &invoice,
        &document,
        &computed,
        invoice.seller.clone(),
    ));
    if computed.inter_state {
        crate::wire::put_int(37, 1, &mut out);
    }
    Ok(out)
}

/// Explains the figures of an issued or previewed invoice (an encoded `Invoice`): its claims are recomputed, not trusted.
pub fn explain(raw: &[u8], tables: &Tables) -> Result<gst::explain::Explanation, Refused> {
    let invoice = Invoice::decode(raw).map_err(Refused::Malformed)?;
    let context = Context {
        mode: Mode::Compute,
        today: None,
        tables,
        form: PathForm::Api,
        number_by_server: true,
    };
    let mut explained = gst::explain::explain(&document_of(&invoice), &context, Vec::new())
        .map_err(Refused::Violations)?;
    let figures = explained
        .lines
        .iter_mut()
        .flat_map(|line| &mut line.figures);
    for figure in figures.chain(&mut explained.totals) {
        figure.path = gst::paths::in_form(std::mem::take(&mut figure.path), PathForm::Api);
    }
    Ok(explained)
}

/// What a dry run answers: the invoice as it would be issued, encoded, without what only an issue gives.
pub fn preview(draft: &Draft) -> Vec<u8> {
    let mut out = Vec::with_capacity(draft.body.len() + 32);
    if !draft.number.is_empty() {
        crate::wire::put_bytes(1, draft.number.as_bytes(), &mut out);
    }
    out.extend_from_slice(&draft.body);
    if draft.inter_state {
        crate::wire::put_int(37, 1, &mut out);
    }
    out
}

/// SHA-256 over the request as typed: fields in order, defaults left out, whatever order or repetition the wire had.
pub fn fingerprint(invoice: &Invoice<'_>) -> Fingerprint {
    Sha256::digest(invoice.encode()).into()
}

/// The request as the GST engine sees it. What the engine does not know (SKU, names, addresses) stays behind.
pub fn document_of<'a>(invoice: &Invoice<'a>) -> gst::Document<'a> {
    let blank = Party::default();
    let seller = invoice.seller.as_ref().unwrap_or(&blank);
    let buyer = invoice.buyer.as_ref().unwrap_or(&blank);
    gst::Document {
        supply_type: chosen(invoice.supply_type, gst::SupplyType::ALL),
        doc_type: match invoice.doc_type {
            0 => Given::Known(gst::DocType::Invoice),
            number => chosen(number, gst::DocType::ALL),
        },
        number: invoice.number,
        date: day(invoice.invoice_date.as_ref()),
        tax_point: day(invoice.tax_point_date.as_ref()),
        reverse_charge: invoice.reverse_charge,
        igst_on_intra: invoice.igst_on_intra,
        exclude_tax_from_total: invoice.exclude_tax_from_total,
        ecommerce_gstin: invoice.ecommerce_gstin,
        seller: gst::Seller {
            gstin: seller.gstin,
            state: seller.state,
            taxpayer_type: chosen(seller.taxpayer_type, gst::TaxpayerType::ALL),
            aato_paise: Some(seller.annual_turnover_paise),
        },
        buyer: gst::Buyer {
            gstin: buyer.gstin,
            state: buyer.state,
            pos: buyer.place_of_supply,
            taxpayer_type: chosen(buyer.taxpayer_type, gst::TaxpayerType::ALL),
        },
        original: invoice.original.as_ref().map(|original| gst::Original {
            number: original.number,
            date: day(original.invoice_date.as_ref()),
            creditable_paise: original.creditable_paise,
            value_paise: original.value_paise,
        }),
        lines: lines_of(&invoice.lines),
        totals: invoice.totals.as_ref().map(totals_of).unwrap_or_default(),
    }
}

/// An enumeration of the contract: 0 is absent, 1 is the law's first value, and so on.
fn chosen<'a, T: Copy>(number: i32, all: &[T]) -> Given<'a, T> {
    match usize::try_from(number) {
        Ok(0) => Given::Absent,
        Ok(number) => all
            .get(number - 1)
            .map_or(Given::Unknown("a value this API does not know"), |v| {
                Given::Known(*v)
            }),
        Err(_) => Given::Unknown("a negative enum value"),
    }
}

fn day<'a>(date: Option<&CivilDate<'_>>) -> Given<'a, Date> {
    let Some(date) = date else {
        return Given::Absent;
    };
    let part = |number: i32| u8::try_from(number).ok();
    match (u16::try_from(date.year), part(date.month), part(date.day)) {
        (Ok(year), Some(month), Some(day)) if year <= 9_999 => {
            Date::new(year, month, day).map_or(Given::Unknown("no such day"), Given::Known)
        }
        _ => Given::Unknown("no such day"),
    }
}

fn lines_of<'a>(lines: &[InvoiceLine<'a>]) -> Vec<gst::Line<'a>> {
    let positions = lines.iter().all(|line| line.serial_number.is_empty());
    lines
        .iter()
        .enumerate()
        .map(|(index, line)| gst::Line {
            sl: if positions {
                position(index)
            } else {
                line.serial_number
            },
            is_service: line.is_service,
            hsn: line.hsn,
            quantity_milli: line.quantity_milli,
            unit: line.unit,
            unit_price_milli: line.unit_price_milli,
            gst_rate_milli: line.gst_rate_milli.map(i64::from),
            discount_paise: line.discount_paise,
            cess_rate_milli: line.cess_rate_milli.map(i64::from),
            cess_per_unit_milli: line.cess_per_unit_milli,
            cess_nonadvol_paise: line.cess_nonadvol_paise,
            state_cess_rate_milli: line.state_cess_rate_milli.map(i64::from),
            state_cess_nonadvol_paise: line.state_cess_nonadvol_paise,
            other_charges_paise: line.other_charges_paise,
            rsp_paise: line.rsp_paise,
            claims: gst::LineClaims {
                gross_paise: line.gross_paise,
                taxable_paise: line.taxable_paise,
                igst_paise: line.igst_paise,
                cgst_paise: line.cgst_paise,
                sgst_paise: line.sgst_paise,
                cess_paise: line.cess_paise,
                state_cess_paise: line.state_cess_paise,
                total_paise: line.total_paise,
            },
        })
        .collect()
}

fn totals_of<'a>(totals: &Totals<'_>) -> gst::Totals<'a> {
    gst::Totals {
        discount_paise: totals.discount_paise,
        other_charges_paise: totals.other_charges_paise,
        round_off_paise: totals.round_off_paise,
        round_off_mode: chosen(totals.round_off_mode, gst::RoundOffMode::ALL),
        claims: gst::TotalsClaims {
            taxable_paise: totals.taxable_paise,
            igst_paise: totals.igst_paise,
            cgst_paise: totals.cgst_paise,
            sgst_paise: totals.sgst_paise,
            cess_paise: totals.cess_paise,
            state_cess_paise: totals.state_cess_paise,
            total_paise: totals.total_paise,
        },
    }
}

/// The serial number of a line that came without one: its position, from 1.
fn position(index: usize) -> &'static str {
    static POSITIONS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let positions = POSITIONS.get_or_init(|| (1..=1_001).map(|n| n.to_string()).collect());
    positions[index.min(1_000)].as_str()
}

/// Puts in what the registration knows: the seller wholly, of the buyer what was left out.
fn fill<'a>(
    document: &mut gst::Document<'a>,
    asked: &'a Asked<'_>,
    buyer: Option<&'a Profile>,
    invoice: &Invoice<'a>,
) {
    document.seller = gst::Seller {
        gstin: &asked.seller.gstin,
        state: &asked.seller.state,
        taxpayer_type: chosen(asked.seller.taxpayer_type, gst::TaxpayerType::ALL),
        aato_paise: Some(asked.seller.annual_turnover_paise),
    };
    if invoice.invoice_date.is_none() {
        document.date = Given::Known(asked.today);
    }
    if let Some(profile) = buyer {
        if document.buyer.taxpayer_type == Given::Absent {
            document.buyer.taxpayer_type = chosen(profile.taxpayer_type, gst::TaxpayerType::ALL);
        }
    }
    if document.buyer.state.is_empty()
        && document.buyer.gstin.len() == 15
        && document.buyer.gstin.is_ascii()
    {
        document.buyer.state = &document.buyer.gstin[..2];
    }
}

pub fn violation(path: &str, code: &'static str, found: &str, wanted: &str) -> Violation {
    Violation {
        code,
        path: path.to_owned(),
        found: found.to_owned(),
        wanted: wanted.to_owned(),
        law: API,
    }
}

fn check_seller(invoice: &Invoice<'_>, seller: &Profile, found: &mut Vec<Violation>) {
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
fn check_texts(invoice: &Invoice<'_>, tables: &Tables, found: &mut Vec<Violation>) {
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

fn item_rows(
    invoice: &Invoice<'_>,
    document: &gst::Document<'_>,
    computed: &Computed,
) -> Vec<ItemRow> {
    let lines = invoice
        .lines
        .iter()
        .zip(&document.lines)
        .zip(&computed.lines);
    lines
        .map(|((asked, line), figures)| ItemRow {
            sku: asked.sku.to_ascii_uppercase(),
            is_service: line.is_service,
            hsn: line.hsn.to_owned(),
            unit: line.unit.to_owned(),
            quantity_milli: line.quantity_milli,
            unit_price_milli: line.unit_price_milli.unwrap_or(0),
            gst_rate_milli: line.gst_rate_milli.unwrap_or(0),
            discount_paise: line.discount_paise.unwrap_or(0),
            figures: *figures,
        })
        .collect()
}

/// The engine has bounded each quantity (below 10^13) and the lines (1,000), so the sum stays far inside i64.
fn stock_of(invoice: &Invoice<'_>) -> Vec<StockDemand> {
    let mut stock: Vec<StockDemand> = invoice
        .lines
        .iter()
        .filter(|line| !line.sku.is_empty())
        .map(|line| StockDemand {
            sku: line.sku.to_ascii_uppercase(),
            quantity_milli: line.quantity_milli.unwrap_or(0),
            unit: line.unit.to_owned(),
        })
        .collect();
    // Another unit stays a demand of its own: the inventory refuses the one that is not the stock's.
    stock.sort_by(|a, b| (&a.sku, &a.unit).cmp(&(&b.sku, &b.unit)));
    stock.dedup_by(|next, kept| {
        let same = next.sku == kept.sku && next.unit == kept.unit;
        if same {
            kept.quantity_milli += next.quantity_milli;
        }
        same
    });
    stock
}

/// Fields 2 to 29 of the answer: the request, with the seller as registered and every figure computed.
fn body(
    invoice: &Invoice<'_>,
    document: &gst::Document<'_>,
    computed: &Computed,
    seller: Option<Party<'_>>,
) -> Vec<u8> {
    let mut answer = invoice.clone();
    answer.number = "";
    answer.series = "";
    answer.doc_type = invoice.doc_type.max(1);
    answer.invoice_date = document.date.known().map(civil);
    answer.seller = seller;
    if let Some(buyer) = &mut answer.buyer {
        buyer.state = document.buyer.state;
    }
    for ((line, checked), figures) in answer
        .lines
        .iter_mut()
        .zip(&document.lines)
        .zip(&computed.lines)
    {
        line.serial_number = checked.sl;
        line.gross_paise = Some(figures.gross_paise);
        line.taxable_paise = Some(figures.taxable_paise);
        line.igst_paise = Some(figures.igst_paise);
        line.cgst_paise = Some(figures.cgst_paise);
        line.sgst_paise = Some(figures.sgst_paise);
        line.total_paise = Some(figures.total_paise);
        line.cess_paise = said(line.cess_paise, figures.cess_paise);
        line.cess_nonadvol_paise = said(line.cess_nonadvol_paise, figures.cess_nonadvol_paise);
        line.state_cess_paise = said(line.state_cess_paise, figures.state_cess_paise);
        line.state_cess_nonadvol_paise = said(
            line.state_cess_nonadvol_paise,
            figures.state_cess_nonadvol_paise,
        );
        line.other_charges_paise = said(line.other_charges_paise, figures.other_charges_paise);
    }
    let totals = answer.totals.get_or_insert_with(Totals::default);
    let sums = &computed.totals;
    totals.taxable_paise = Some(sums.taxable_paise);
    totals.igst_paise = Some(sums.igst_paise);
    totals.cgst_paise = Some(sums.cgst_paise);
    totals.sgst_paise = Some(sums.sgst_paise);
    totals.cess_paise = Some(sums.cess_paise);
    totals.state_cess_paise = Some(sums.state_cess_paise);
    totals.discount_paise = Some(sums.discount_paise);
    totals.other_charges_paise = Some(sums.other_charges_paise);
    totals.round_off_paise = Some(sums.round_off_paise);
    totals.total_paise = Some(sums.total_paise);
    answer.encode()
}

/// A rarely used figure is shown where it was given or is not zero.
fn said(given: Option<i64>, figure: i64) -> Option<i64> {
    (given.is_some() || figure != 0).then_some(figure)
}

pub fn civil<'a>(date: Date) -> CivilDate<'a> {
    CivilDate {
        year: i32::from(date.year()),
        month: i32::from(date.month()),
        day: i32::from(date.day()),
        ..Default::default()
    }
}
