//! Drafts for Python: request bytes in, columns out. Docs and types: `services/invochain/_core.pyi`.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::gst::tables;

use invochain_core::answer::{self, Act, Decided, Hold, Move, Standing};
use invochain_core::audit::{self, Entry, Stored};
use invochain_core::contract::{
    BatchCreateInvoicesRequest, BatchReserveStockResponse, CreateInvoiceRequest, ReservationItem,
    ReserveStockRequest,
};
use invochain_core::gst::{Date, Mode, Violation};
use invochain_core::identity::{self, id_text, Id};
use invochain_core::request::{self, Asked, Draft, Known, Profile, Refused};
use invochain_core::wire::{put_bytes, put_nested, Message};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyBytes;

/// Parties kept in memory at most; past it the directory starts afresh (a look-up costs one query a batch).
const DIRECTORY_MAX: usize = 200_000;

/// What is known of parties, and since when. Times are milliseconds of the caller's monotonic clock.
#[pyclass(frozen)]
#[derive(Default)]
pub struct Directory {
    known: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_merchant: HashMap<Id, (Arc<Profile>, i64)>,
    by_gstin: HashMap<String, (Option<Arc<Profile>>, i64)>,
}

#[pymethods]
impl Directory {
    #[new]
    fn new() -> Self {
        Directory::default()
    }

    #[allow(clippy::too_many_arguments)]
    fn learn(
        &self,
        merchant_id: Id,
        gstin: String,
        state: String,
        taxpayer_type: i32,
        annual_turnover_paise: i64,
        review: bool,
        party: Vec<u8>,
        at_ms: i64,
    ) {
        let profile = Arc::new(Profile {
            merchant_id,
            gstin: gstin.clone(),
            state,
            taxpayer_type,
            annual_turnover_paise,
            review,
            party,
        });
        let mut known = self.entries();
        known
            .by_merchant
            .insert(merchant_id, (profile.clone(), at_ms));
        known.by_gstin.insert(gstin, (Some(profile), at_ms));
    }

    fn learn_unknown(&self, gstin: String, at_ms: i64) {
        self.entries().by_gstin.insert(gstin, (None, at_ms));
    }

    fn __len__(&self) -> usize {
        self.entries().by_gstin.len()
    }
}

impl Directory {
    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.by_gstin.len() > DIRECTORY_MAX || known.by_merchant.len() > DIRECTORY_MAX {
            *known = Entries::default();
        }
        known
    }

    fn seller(&self, merchant_id: &Id, fresh_since_ms: i64) -> Option<Arc<Profile>> {
        let known = self.entries();
        known
            .by_merchant
            .get(merchant_id)
            .filter(|(_, at)| *at >= fresh_since_ms)
            .map(|(profile, _)| profile.clone())
    }

    /// `None`: not looked up; `Some(None)`: not registered here.
    fn party(&self, gstin: &str, fresh_since_ms: i64) -> Option<Option<Arc<Profile>>> {
        let known = self.entries();
        known
            .by_gstin
            .get(gstin)
            .filter(|(_, at)| *at >= fresh_since_ms)
            .map(|(profile, _)| profile.clone())
    }
}

/// One request of a batch, after step 0.
enum Outcome {
    Draft(Box<Draft>),
    Malformed(String),
    Violations(Vec<(String, String, String)>),
    SellerNotLookedUp(Id),
    BuyerNotLookedUp(String),
}

fn check_one(
    raw: &[u8],
    merchant_id: Id,
    key: &str,
    today: Date,
    directory: &Directory,
    fresh: i64,
) -> Outcome {
    let Some(seller) = directory.seller(&merchant_id, fresh) else {
        return Outcome::SellerNotLookedUp(merchant_id);
    };
    // Only a GSTIN is looked up; whatever else stands there is judged by the rules.
    let mut buyer: Option<Option<Arc<Profile>>> = Some(None);
    if let Some(gstin) = buyer_gstin(raw) {
        buyer = directory.party(&gstin, fresh);
    }
    let asked = Asked {
        merchant_id,
        key,
        today,
        tables: &tables(),
        seller: &seller,
    };
    let known = |_: &str| match &buyer {
        None => Known::NotLookedUp,
        Some(None) => Known::No,
        Some(Some(profile)) => Known::Yes(profile),
    };
    match request::draft(raw, &asked, known) {
        Ok(draft) => Outcome::Draft(Box::new(draft)),
        Err(Refused::Malformed(fault)) => Outcome::Malformed(fault.to_string()),
        Err(Refused::Violations(violations)) => {
            Outcome::Violations(violations.iter().map(said).collect())
        }
        Err(Refused::BuyerNotLookedUp(gstin)) => Outcome::BuyerNotLookedUp(gstin),
    }
}

/// The buyer's GSTIN if it has the shape of one.
fn buyer_gstin(raw: &[u8]) -> Option<String> {
    let request = CreateInvoiceRequest::decode(raw).ok()?;
    let gstin = request.invoice?.buyer?.gstin;
    (gstin.len() == 15 && gstin.bytes().all(|c| c.is_ascii_alphanumeric()))
        .then(|| gstin.to_owned())
}

/// The drafts of a batch. Methods take the positions they speak of and give one entry for each.
#[pyclass(frozen)]
pub struct Drafts {
    outcomes: Vec<Outcome>,
}

impl Drafts {
    fn at(&self, position: usize) -> PyResult<&Draft> {
        match self.outcomes.get(position) {
            Some(Outcome::Draft(draft)) => Ok(draft),
            _ => Err(PyValueError::new_err(format!(
                "position {position} holds no draft"
            ))),
        }
    }

    fn column<T>(&self, at: &[usize], field: impl Fn(&Draft) -> T) -> PyResult<Vec<T>> {
        at.iter()
            .map(|position| self.at(*position).map(&field))
            .collect()
    }
}

/// Days since 1970-01-01.
fn days(date: Date) -> i32 {
    date.day_number() - Date::new(1970, 1, 1).map_or(0, Date::day_number)
}

type Violations = Vec<(usize, Vec<(String, String, String)>)>;

#[pymethods]
impl Drafts {
    fn __len__(&self) -> usize {
        self.outcomes.len()
    }

    #[getter]
    fn live(&self) -> Vec<usize> {
        self.positions(|outcome| matches!(outcome, Outcome::Draft(_)).then_some(()))
            .into_iter()
            .map(|(i, ())| i)
            .collect()
    }

    #[getter]
    fn malformed(&self) -> Vec<(usize, String)> {
        self.positions(|outcome| match outcome {
            Outcome::Malformed(what) => Some(what.clone()),
            _ => None,
        })
    }

    #[getter]
    fn violations(&self) -> Violations {
        self.positions(|outcome| match outcome {
            Outcome::Violations(violations) => Some(violations.clone()),
            _ => None,
        })
    }

    #[getter]
    fn sellers_not_looked_up(&self) -> Vec<(usize, Id)> {
        self.positions(|outcome| match outcome {
            Outcome::SellerNotLookedUp(id) => Some(*id),
            _ => None,
        })
    }

    #[getter]
    fn buyers_not_looked_up(&self) -> Vec<(usize, String)> {
        self.positions(|outcome| match outcome {
            Outcome::BuyerNotLookedUp(gstin) => Some(gstin.clone()),
            _ => None,
        })
    }

    fn merchant_ids(&self, at: Vec<usize>) -> PyResult<Vec<Id>> {
        self.column(&at, |d| d.merchant_id)
    }

    fn rids(&self, at: Vec<usize>) -> PyResult<Vec<Id>> {
        self.column(&at, |d| d.rid)
    }

    fn invoice_ids(&self, at: Vec<usize>) -> PyResult<Vec<Id>> {
        self.column(&at, |d| d.invoice_id)
    }

    fn fingerprints(&self, at: Vec<usize>) -> PyResult<Vec<[u8; 32]>> {
        self.column(&at, |d| d.fingerprint)
    }

    fn takes_stock(&self, at: Vec<usize>) -> PyResult<Vec<bool>> {
        self.column(&at, |d| !d.stock.is_empty())
    }

    /// Days since 1970 of dates the client gave; -1 where the server put in its own day.
    fn given_days(&self, at: Vec<usize>) -> PyResult<Vec<i32>> {
        self.column(&at, |d| if d.date_given { days(d.date) } else { -1 })
    }

    fn days(&self, at: Vec<usize>) -> PyResult<Vec<i32>> {
        self.column(&at, |d| days(d.date))
    }

    fn seller_gstins(&self, at: Vec<usize>) -> PyResult<Vec<String>> {
        self.column(&at, |d| d.seller_gstin.clone())
    }

    fn buyer_gstins(&self, at: Vec<usize>) -> PyResult<Vec<String>> {
        self.column(&at, |d| d.buyer_gstin.clone())
    }

    fn buyer_merchant_ids(&self, at: Vec<usize>) -> PyResult<Vec<Option<Id>>> {
        self.column(&at, |d| d.buyer_merchant_id)
    }

    /// Empty where the server gives the number.
    fn numbers(&self, at: Vec<usize>) -> PyResult<Vec<String>> {
        self.column(&at, |d| d.number.clone())
    }

    fn financial_years(&self, at: Vec<usize>) -> PyResult<Vec<String>> {
        self.column(&at, answer::financial_year)
    }

    fn series_prefixes(&self, at: Vec<usize>) -> PyResult<Vec<String>> {
        self.column(&at, answer::series_prefix)
    }

    /// Columns of `invoice` that a draft alone decides: supply_type, inter_state, taxable, igst, cgst, sgst, cess,
    /// state_cess, discount, other_charges, round_off, total (paise).
    #[allow(clippy::type_complexity)]
    fn invoice_columns(
        &self,
        at: Vec<usize>,
    ) -> PyResult<(Vec<&'static str>, Vec<bool>, Vec<Vec<i64>>)> {
        let supply = self.column(&at, |d| d.supply_type)?;
        let inter_state = self.column(&at, |d| d.inter_state)?;
        let figures: [fn(&Draft) -> i64; 10] = [
            |d| d.totals.taxable_paise,
            |d| d.totals.igst_paise,
            |d| d.totals.cgst_paise,
            |d| d.totals.sgst_paise,
            |d| d.totals.cess_paise,
            |d| d.totals.state_cess_paise,
            |d| d.totals.discount_paise,
            |d| d.totals.other_charges_paise,
            |d| d.totals.round_off_paise,
            |d| d.totals.total_paise,
        ];
        let columns = figures
            .iter()
            .map(|figure| self.column(&at, figure))
            .collect::<PyResult<_>>()?;
        Ok((supply, inter_state, columns))
    }

    /// Columns of `invoice_item`, all lines of all positions one after the other: position in `at`, line number, sku
    /// (None: takes no stock), hsn, unit, is_service, quantity, then the integers of `ITEM_INTEGERS`.
    #[allow(clippy::type_complexity)]
    fn item_columns(
        &self,
        at: Vec<usize>,
    ) -> PyResult<(
        Vec<usize>,
        Vec<i32>,
        Vec<Option<String>>,
        Vec<String>,
        Vec<String>,
        Vec<bool>,
        Vec<Option<i64>>,
        Vec<Vec<i64>>,
    )> {
        let mut rows = Vec::new();
        for (index, position) in at.iter().enumerate() {
            rows.extend(
                self.at(*position)?
                    .items
                    .iter()
                    .zip(1..)
                    .map(|(item, line)| (index, line, item)),
            );
        }
        let integers: [fn(&request::ItemRow) -> i64; 11] = [
            |i| i.unit_price_milli,
            |i| i.gst_rate_milli,
            |i| i.figures.gross_paise,
            |i| i.discount_paise,
            |i| i.figures.taxable_paise,
            |i| i.figures.igst_paise,
            |i| i.figures.cgst_paise,
            |i| i.figures.sgst_paise,
            |i| i.figures.cess_paise + i.figures.cess_nonadvol_paise,
            |i| i.figures.state_cess_paise + i.figures.state_cess_nonadvol_paise,
            |i| i.figures.total_paise,
        ];
        Ok((
            rows.iter().map(|(index, ..)| *index).collect(),
            rows.iter().map(|(_, line, _)| *line).collect(),
            rows.iter()
                .map(|(.., i)| (!i.sku.is_empty()).then(|| i.sku.clone()))
                .collect(),
            rows.iter().map(|(.., i)| i.hsn.clone()).collect(),
            rows.iter().map(|(.., i)| i.unit.clone()).collect(),
            rows.iter().map(|(.., i)| i.is_service).collect(),
            rows.iter().map(|(.., i)| i.quantity_milli).collect(),
            integers
                .iter()
                .map(|field| rows.iter().map(|(.., i)| field(i)).collect())
                .collect(),
        ))
    }

    /// An encoded BatchReserveStockRequest, one request a position, each for the given attempt.
    fn reserve_request<'py>(
        &self,
        py: Python<'py>,
        at: Vec<usize>,
        attempts: Vec<u32>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut out = Vec::with_capacity(160 * at.len());
        for (position, attempt) in at.iter().zip(attempts) {
            let draft = self.at(*position)?;
            let reservation_id = id_text(&identity::reservation_id(&draft.rid, attempt));
            let (merchant_id, rid) = (id_text(&draft.merchant_id), id_text(&draft.rid));
            let message = ReserveStockRequest {
                items: draft
                    .stock
                    .iter()
                    .map(|demand| ReservationItem {
                        sku: &demand.sku,
                        quantity_milli: demand.quantity_milli,
                        unit: &demand.unit,
                        ..Default::default()
                    })
                    .collect(),
                reservation_id: text(&reservation_id),
                merchant_id: text(&merchant_id),
                resolver: 2,
                rid: text(&rid),
                attempt: i32::try_from(attempt).unwrap_or(i32::MAX),
                fingerprint: &draft.fingerprint,
                ..Default::default()
            };
            put_nested(1, &mut out, |out| message.write_fields(out));
        }
        Ok(PyBytes::new(py, &out))
    }

    /// The invoices as they would be issued, encoded (a dry run's answer).
    fn previews(&self, at: Vec<usize>) -> PyResult<Vec<Vec<u8>>> {
        self.column(&at, request::preview)
    }

    /// Violations waived by the seller's policy, per position.
    fn waived(&self, at: Vec<usize>) -> PyResult<Vec<Vec<(String, String, String)>>> {
        self.column(&at, |d| d.violations.iter().map(said).collect())
    }

    /// Completes issued invoices: documents, events, audit hashes, audit MACs.
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn finish(
        &self,
        py: Python<'_>,
        at: Vec<usize>,
        numbers: Vec<PyBackedStr>,
        buyer_merchant_ids: Vec<Option<Id>>,
        attempts: Vec<u32>,
        actor_ids: Vec<Id>,
        salts: Vec<[u8; 16]>,
        time_micros: i64,
        audit_key: PyBackedBytes,
    ) -> PyResult<(Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<[u8; 32]>, Vec<[u8; 32]>)> {
        let drafts = at
            .iter()
            .map(|position| self.at(*position))
            .collect::<PyResult<Vec<_>>>()?;
        let same = [
            numbers.len(),
            buyer_merchant_ids.len(),
            attempts.len(),
            actor_ids.len(),
            salts.len(),
        ];
        if same.iter().any(|length| *length != drafts.len()) {
            return Err(PyValueError::new_err("columns differ in length"));
        }
        let written: Vec<_> = py.detach(|| {
            (0..drafts.len())
                .map(|i| {
                    let act = Act {
                        actor_id: actor_ids[i],
                        actor_merchant_id: drafts[i].merchant_id,
                        time_micros,
                        salt: salts[i],
                        audit_key: &audit_key,
                    };
                    let decided = Decided {
                        number: &numbers[i],
                        buyer_merchant_id: buyer_merchant_ids[i],
                        attempt: attempts[i],
                        act,
                    };
                    answer::issue(drafts[i], &decided)
                })
                .collect()
        });
        let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for one in written {
            columns.0.push(one.payload);
            columns.1.push(one.event);
            columns.2.push(one.audit_hash);
            columns.3.push(one.audit_mac);
        }
        Ok(columns)
    }
}

impl Drafts {
    fn positions<T>(&self, pick: impl Fn(&Outcome) -> Option<T>) -> Vec<(usize, T)> {
        self.outcomes
            .iter()
            .enumerate()
            .filter_map(|(index, outcome)| pick(outcome).map(|t| (index, t)))
            .collect()
    }
}

/// (path, code, words) of a violation.
fn said(violation: &Violation) -> (String, String, String) {
    (
        violation.path.clone(),
        violation.code.to_owned(),
        answer::describe(violation),
    )
}

fn text(bytes: &[u8; 36]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Reads, checks, sums, names and hashes the requests of a batch in one crossing.
#[pyfunction]
fn check_invoices(
    py: Python<'_>,
    raws: Vec<PyBackedBytes>,
    merchant_ids: Vec<Id>,
    keys: Vec<PyBackedStr>,
    today: (u16, u8, u8),
    directory: &Directory,
    fresh_since_ms: i64,
) -> PyResult<Drafts> {
    let today = Date::new(today.0, today.1, today.2)
        .ok_or_else(|| PyValueError::new_err("today is no day"))?;
    if merchant_ids.len() != raws.len() || keys.len() != raws.len() {
        return Err(PyValueError::new_err("columns differ in length"));
    }
    let outcomes = py.detach(|| {
        (0..raws.len())
            .map(|i| {
                check_one(
                    &raws[i],
                    merchant_ids[i],
                    &keys[i],
                    today,
                    directory,
                    fresh_since_ms,
                )
            })
            .collect()
    });
    Ok(Drafts { outcomes })
}

/// Checks a document made elsewhere (an encoded Invoice): the document with its figures, or its violations.
/// `mode`: compute, strict or nic; `today`: (year, month, day) or None. ValueError if the bytes are no Invoice.
#[pyfunction]
#[allow(clippy::type_complexity)]
fn validate_document(
    raw: PyBackedBytes,
    mode: &str,
    today: Option<(u16, u8, u8)>,
) -> PyResult<(Option<Vec<u8>>, Vec<(String, String, String)>)> {
    let mode = match mode {
        "compute" => Mode::Compute,
        "strict" => Mode::Strict,
        "nic" => Mode::Nic,
        _ => return Err(PyValueError::new_err("mode is compute, strict or nic")),
    };
    let day = |(year, month, day)| {
        Date::new(year, month, day).ok_or_else(|| PyValueError::new_err("today is no day"))
    };
    match request::check_elsewhere(&raw, mode, today.map(day).transpose()?, &tables()) {
        Ok(document) => Ok((Some(document), Vec::new())),
        Err(Refused::Violations(violations)) => Ok((None, violations.iter().map(said).collect())),
        Err(Refused::Malformed(fault)) => Err(PyValueError::new_err(fault.to_string())),
        Err(Refused::BuyerNotLookedUp(_)) => {
            Err(PyValueError::new_err("no buyer is looked up here"))
        }
    }
}

/// Explains an issued or previewed invoice (an encoded Invoice): JSON text, or None and its violations.
#[pyfunction]
#[allow(clippy::type_complexity)]
fn explain_document(
    raw: PyBackedBytes,
) -> PyResult<(Option<String>, Vec<(String, String, String)>)> {
    match request::explain(&raw, &tables()) {
        Ok(explanation) => serde_json::to_string(&explanation)
            .map(|text| (Some(text), Vec::new()))
            .map_err(|fault| PyValueError::new_err(fault.to_string())),
        Err(Refused::Violations(violations)) => Ok((None, violations.iter().map(said).collect())),
        Err(Refused::Malformed(fault)) => Err(PyValueError::new_err(fault.to_string())),
        Err(Refused::BuyerNotLookedUp(_)) => {
            Err(PyValueError::new_err("no buyer is looked up here"))
        }
    }
}

/// Cuts a BatchCreateInvoicesRequest into CreateInvoiceRequests: (request bytes, key) an item, and all_or_nothing.
#[pyfunction]
#[allow(clippy::type_complexity)]
fn split_batch(raw: PyBackedBytes) -> PyResult<(Vec<(Vec<u8>, String)>, bool)> {
    let batch = BatchCreateInvoicesRequest::decode(&raw)
        .map_err(|fault| PyValueError::new_err(fault.to_string()))?;
    let items = batch
        .items
        .iter()
        .map(|item| {
            let mut request = Vec::with_capacity(item.invoice.len() + 6);
            put_bytes(1, item.invoice, &mut request);
            (request, item.idempotency_key.to_owned())
        })
        .collect();
    Ok((items, batch.all_or_nothing))
}

/// Reads a BatchReserveStockResponse: (state, google.rpc.Status bytes or empty) a result.
#[pyfunction]
fn reserve_results(raw: PyBackedBytes) -> PyResult<Vec<(i32, Vec<u8>)>> {
    let response = BatchReserveStockResponse::decode(&raw)
        .map_err(|fault| PyValueError::new_err(fault.to_string()))?;
    Ok(response
        .results
        .iter()
        .map(|result| (result.state, result.error.to_vec()))
        .collect())
}

/// An invoice as the caller sees it now, encoded.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn present_invoice(
    document: PyBackedBytes,
    state: i32,
    version: i64,
    update_micros: i64,
    reason: &str,
    buyer_merchant_id: Option<Id>,
    actions: Vec<PyBackedStr>,
    with_lines: bool,
) -> Vec<u8> {
    let standing = Standing {
        state,
        version,
        update_micros,
        reason,
        buyer_merchant_id,
    };
    let actions: Vec<&str> = actions.iter().map(|action| &**action).collect();
    answer::present(&document, &standing, &actions, with_lines)
}

/// A document as issued, with what its seller may do first.
#[pyfunction]
fn present_issued(document: PyBackedBytes, actions: Vec<PyBackedStr>) -> Vec<u8> {
    let mut out = document.to_vec();
    answer::put_actions(
        &actions.iter().map(|action| &**action).collect::<Vec<_>>(),
        &mut out,
    );
    out
}

/// Completes one change of state: (audit payload, event, audit hash, audit MAC). `hold`: (rid, attempt, fingerprint).
#[pyfunction]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn change_invoice(
    merchant_id: Id,
    invoice_id: Id,
    document: PyBackedBytes,
    buyer_merchant_id: Option<Id>,
    state: i32,
    version: i64,
    action: &str,
    reason: &str,
    hold: Option<(Id, u32, PyBackedBytes)>,
    previous: [u8; 32],
    actor: (Id, Id),
    time_micros: i64,
    salt: [u8; 16],
    audit_key: PyBackedBytes,
) -> (Vec<u8>, Vec<u8>, [u8; 32], [u8; 32]) {
    let change = Move {
        merchant_id,
        invoice_id,
        document: &document,
        buyer_merchant_id,
        state,
        version,
        action,
        reason,
        hold: hold.as_ref().map(|(rid, attempt, print)| Hold {
            rid: *rid,
            attempt: *attempt,
            fingerprint: print,
        }),
        previous,
        act: Act {
            actor_id: actor.0,
            actor_merchant_id: actor.1,
            time_micros,
            salt,
            audit_key: &audit_key,
        },
    };
    let written = answer::change(&change);
    (
        written.payload,
        written.event,
        written.audit_hash,
        written.audit_mac,
    )
}

type AuditRow = (
    i64,
    String,
    Id,
    Id,
    i64,
    [u8; 16],
    PyBackedBytes,
    [u8; 32],
    [u8; 32],
    [u8; 32],
);

/// Recomputes an invoice's audit chain, oldest entry first; None if it verifies, else (position, what is wrong).
/// A row: version, action, actor_id, actor_merchant_id, time_micros, salt, payload, previous, hash, mac.
#[pyfunction]
fn verify_audit(
    merchant_id: Id,
    invoice_id: Id,
    rows: Vec<AuditRow>,
    audit_key: PyBackedBytes,
) -> Option<(usize, String)> {
    let chain: Vec<Stored<'_>> = rows
        .iter()
        .map(
            |(
                version,
                action,
                actor_id,
                actor_merchant_id,
                time_micros,
                salt,
                payload,
                previous,
                hash,
                mac,
            )| Stored {
                entry: Entry {
                    merchant_id,
                    invoice_id,
                    version: *version,
                    action,
                    actor_id: *actor_id,
                    actor_merchant_id: *actor_merchant_id,
                    time_micros: *time_micros,
                    salt: *salt,
                    payload,
                    previous: *previous,
                },
                hash: *hash,
                mac: *mac,
            },
        )
        .collect();
    audit::verify(&audit_key, &chain)
        .err()
        .map(|(index, what)| (index, what.to_owned()))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Directory>()?;
    m.add_class::<Drafts>()?;
    m.add_function(wrap_pyfunction!(check_invoices, m)?)?;
    m.add_function(wrap_pyfunction!(split_batch, m)?)?;
    m.add_function(wrap_pyfunction!(explain_document, m)?)?;
    m.add_function(wrap_pyfunction!(validate_document, m)?)?;
    m.add_function(wrap_pyfunction!(reserve_results, m)?)?;
    m.add_function(wrap_pyfunction!(present_invoice, m)?)?;
    m.add_function(wrap_pyfunction!(present_issued, m)?)?;
    m.add_function(wrap_pyfunction!(change_invoice, m)?)?;
    m.add_function(wrap_pyfunction!(verify_audit, m)?)?;
    Ok(())
}
