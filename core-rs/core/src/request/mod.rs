//! A request for an invoice becomes a draft: read, checked by every rule, summed, named and hashed in one go.
//!
//! A draft is everything that can be known before the database is asked: the rows to be written, the stock to be held,
//! the ids, and the bytes of the answer but for what only the decision knows (number, time, buyer's merchant).
//! Source: PROTOCOL sections 2 and 3 (step 0), API sections 2 and 3.

mod document;
mod rows;
mod texts;

use std::sync::Arc;

use compact_str::CompactString;

use crate::contract::{CreateInvoiceRequest, Invoice, Party};
use crate::gst::{self, Context, Date, Given, Mode, PathForm, Policy, Tables, Violation};
use crate::identity::{self, Fingerprint, Id};
use crate::wire::{Malformed, Message, Reader, Value};
use sha2::{Digest, Sha256};

pub use document::document_of;
pub use rows::{ItemRow, StockDemand};

use document::fill;
use rows::{body, item_rows, stock_of};
use texts::{check_seller, check_texts};

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

/// An invoice that lacks nothing but its decision.
#[derive(Clone, Debug)]
pub struct Draft {
    pub merchant_id: Id,
    pub rid: Id,
    pub invoice_id: Id,
    pub fingerprint: Fingerprint,
    pub seller_gstin: CompactString,
    pub buyer_gstin: CompactString,
    pub buyer_merchant_id: Option<Id>,
    pub supply_type: &'static str,
    /// Empty: the server gives the next one of `series`.
    pub number: CompactString,
    pub series: CompactString,
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
pub enum Known {
    Yes(Arc<Profile>),
    /// Looked up, not registered here.
    No,
    NotLookedUp,
}

/// Reads and checks a `CreateInvoiceRequest`. Refuses all violations of a phase at once; a refusal uses up no key.
pub fn draft(
    raw: &[u8],
    asked: &Asked<'_>,
    buyer_of: impl FnOnce(&str) -> Known,
) -> Result<Draft, Refused> {
    let mut request = CreateInvoiceRequest::default();
    let fingerprint = read(raw, &mut request).map_err(Refused::Malformed)?;
    let invoice = request.invoice.get_or_insert_default();
    let buyer_gstin = invoice.buyer.as_ref().map_or("", |buyer| buyer.gstin);
    let buyer = match buyer_of(buyer_gstin) {
        Known::Yes(profile) => Some(profile),
        Known::No => None,
        Known::NotLookedUp => return Err(Refused::BuyerNotLookedUp(buyer_gstin.to_owned())),
    };
    let mut document = document_of(invoice);
    let mut prior = Vec::new();
    check_texts(invoice, asked.tables, &mut prior);
    check_seller(invoice, asked.seller, &mut prior);
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
    fill(&mut document, asked, buyer.as_deref(), invoice);

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
    let items = item_rows(invoice, &document, &computed);
    Ok(Draft {
        merchant_id: asked.merchant_id,
        rid,
        invoice_id: identity::invoice_id(&rid),
        fingerprint,
        seller_gstin: asked.seller.gstin.as_str().into(),
        buyer_gstin: buyer_gstin.into(),
        buyer_merchant_id: buyer.map(|profile| profile.merchant_id),
        supply_type: document
            .supply_type
            .known()
            .map_or("", gst::SupplyType::as_str),
        number: invoice.number.into(),
        series: if invoice.series.is_empty() {
            SERIES_DEFAULT.into()
        } else {
            invoice.series.into()
        },
        date,
        date_given: invoice.invoice_date.is_some(),
        inter_state: computed.inter_state,
        totals: computed.totals,
        stock: stock_of(&items),
        items,
        body: body(
            invoice,
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
    let mut invoice = Invoice::decode(raw).map_err(Refused::Malformed)?;
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
    let seller = invoice.seller.take();
    out.extend_from_slice(&body(&mut invoice, &document, &computed, seller));
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

/// Reads a `CreateInvoiceRequest` into `into`, which is empty, and takes its fingerprint: SHA-256 over the invoice as
/// typed (fields in order, defaults left out), whatever order or repetition the wire had.
pub fn read<'a>(
    raw: &'a [u8],
    into: &mut CreateInvoiceRequest<'a>,
) -> Result<Fingerprint, Malformed> {
    let is_canonical = into.merge(raw)?;
    // Most clients write canonically; then what would be written again is here already.
    let digest = match Reader::new(raw).next_field() {
        Ok(Some((_, Value::Bytes(invoice)))) if is_canonical => Sha256::digest(invoice),
        _ => Sha256::digest(
            into.invoice
                .as_ref()
                .map(Message::encode)
                .unwrap_or_default(),
        ),
    };
    Ok(digest.into())
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
