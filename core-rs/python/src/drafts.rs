//! Drafts for Python: request bytes in, columns out. Docs and types: `services/invochain/_core.pyi`.
use invochain_core::answer::{self, Act, Decided};
use invochain_core::contract::{ReservationItem, ReserveStockRequest};
use invochain_core::gst::{Date, Tables};
use invochain_core::identity::{self, id_text, Id};
use invochain_core::request::{self, Asked, Draft, Known, Refused};
use invochain_core::wire::{put_nested, Message};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyBytes;

use crate::directory::Directory;
use crate::elsewhere::said;
use crate::gst::tables;

/// One request of a batch, after step 0.
enum Outcome {
    Draft(Box<Draft>),
    Malformed(String),
    Violations(Vec<(String, String, String)>),
    SellerNotLookedUp(Id),
    BuyerNotLookedUp(String),
}

/// What all requests of a batch are judged by.
struct Bench<'b> {
    today: Date,
    tables: &'b Tables,
    directory: &'b Directory,
    fresh_since_ms: i64,
}

impl Bench<'_> {
    fn check(&self, raw: &[u8], merchant_id: Id, key: &str) -> Outcome {
        let Some(seller) = self.directory.seller(&merchant_id, self.fresh_since_ms) else {
            return Outcome::SellerNotLookedUp(merchant_id);
        };
        let asked = Asked {
            merchant_id,
            key,
            today: self.today,
            tables: self.tables,
            seller: &seller,
        };
        match request::draft(raw, &asked, |gstin| self.buyer(gstin)) {
            Ok(draft) => Outcome::Draft(Box::new(draft)),
            Err(Refused::Malformed(fault)) => Outcome::Malformed(fault.to_string()),
            Err(Refused::Violations(violations)) => {
                Outcome::Violations(violations.iter().map(said).collect())
            }
            Err(Refused::BuyerNotLookedUp(gstin)) => Outcome::BuyerNotLookedUp(gstin),
        }
    }

    /// Only what has the shape of a GSTIN is looked up; whatever else stands there is judged by the rules.
    fn buyer(&self, gstin: &str) -> Known {
        if gstin.len() != 15 || !gstin.bytes().all(|c| c.is_ascii_alphanumeric()) {
            return Known::No;
        }
        match self.directory.party(gstin, self.fresh_since_ms) {
            None => Known::NotLookedUp,
            Some(None) => Known::No,
            Some(Some(profile)) => Known::Yes(profile),
        }
    }
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

    fn column<'d, T>(&'d self, at: &[usize], field: impl Fn(&'d Draft) -> T) -> PyResult<Vec<T>> {
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

    fn seller_gstins(&self, at: Vec<usize>) -> PyResult<Vec<&str>> {
        self.column(&at, |d| d.seller_gstin.as_str())
    }

    fn buyer_gstins(&self, at: Vec<usize>) -> PyResult<Vec<&str>> {
        self.column(&at, |d| d.buyer_gstin.as_str())
    }

    fn buyer_merchant_ids(&self, at: Vec<usize>) -> PyResult<Vec<Option<Id>>> {
        self.column(&at, |d| d.buyer_merchant_id)
    }

    /// Empty where the server gives the number.
    fn numbers(&self, at: Vec<usize>) -> PyResult<Vec<&str>> {
        self.column(&at, |d| d.number.as_str())
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
        Vec<Option<&str>>,
        Vec<&str>,
        Vec<&str>,
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
                .map(|(.., i)| (!i.sku.is_empty()).then_some(i.sku.as_str()))
                .collect(),
            rows.iter().map(|(.., i)| i.hsn.as_str()).collect(),
            rows.iter().map(|(.., i)| i.unit.as_str()).collect(),
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
    let tables = tables();
    let bench = Bench {
        today,
        tables: &tables,
        directory,
        fresh_since_ms,
    };
    let outcomes = py.detach(|| {
        let calls = raws.iter().zip(&merchant_ids).zip(&keys);
        calls
            .map(|((raw, merchant_id), key)| bench.check(raw, *merchant_id, key))
            .collect()
    });
    Ok(Drafts { outcomes })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Drafts>()?;
    m.add_function(wrap_pyfunction!(check_invoices, m)?)
}
