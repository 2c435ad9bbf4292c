//! Issued invoices for Python: batches cut, documents presented and changed, audit chains verified. Docs and types:
//! `services/invochain/_core.pyi`.
use invochain_core::answer::{self, Act, Hold, Move, Standing};
use invochain_core::audit::{self, Entry, Stored};
use invochain_core::contract::{BatchCreateInvoicesRequest, BatchReserveStockResponse};
use invochain_core::identity::Id;
use invochain_core::wire::{put_bytes, Message};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};

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
    m.add_function(wrap_pyfunction!(split_batch, m)?)?;
    m.add_function(wrap_pyfunction!(reserve_results, m)?)?;
    m.add_function(wrap_pyfunction!(present_invoice, m)?)?;
    m.add_function(wrap_pyfunction!(present_issued, m)?)?;
    m.add_function(wrap_pyfunction!(change_invoice, m)?)?;
    m.add_function(wrap_pyfunction!(verify_audit, m)?)?;
    Ok(())
}
