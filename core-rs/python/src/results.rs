//! Requests that hold many invoices, cut into items, and the items' outcomes, joined to one answer; no item is decoded.
//! Docs and types: `services/invochain/_core.pyi`.
use invochain_core::contract::ImportInvoicesRequest;
use invochain_core::wire::{put_bytes, put_int, put_nested, Message};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

/// (CreateInvoiceRequest, idempotency key, offset).
type ImportItem<'py> = (Bound<'py, PyBytes>, String, i64);

#[pyfunction]
fn split_import<'py>(py: Python<'py>, raw: PyBackedBytes) -> PyResult<Vec<ImportItem<'py>>> {
    let request = ImportInvoicesRequest::decode(&raw)
        .map_err(|fault| PyValueError::new_err(fault.to_string()))?;
    let mut buffer = Vec::new();
    let items = request.items.iter().map(|item| {
        buffer.clear();
        put_bytes(1, item.invoice, &mut buffer);
        let key = item.idempotency_key.to_owned();
        (PyBytes::new(py, &buffer), key, item.offset)
    });
    Ok(items.collect())
}

/// Field numbers are those of BatchCreateInvoicesResult and ImportInvoicesResult, which agree.
#[pyfunction]
fn join_results<'py>(
    py: Python<'py>,
    results: Vec<(PyBackedBytes, bool, bool, i64)>,
    durable_offset: i64,
) -> Bound<'py, PyBytes> {
    let size = results.iter().map(|result| result.0.len() + 32).sum();
    let mut out = Vec::with_capacity(size);
    for (body, issued, replayed, offset) in &results {
        put_nested(1, &mut out, |one| {
            put_bytes(if *issued { 1 } else { 2 }, body, one);
            put_set(3, i64::from(*replayed), one);
            put_set(4, *offset, one);
        });
    }
    put_set(2, durable_offset, &mut out);
    PyBytes::new(py, &out)
}

/// Field numbers are those of ListInvoicesResponse.
#[pyfunction]
fn join_page<'py>(
    py: Python<'py>,
    invoices: Vec<PyBackedBytes>,
    next_page_token: &str,
) -> Bound<'py, PyBytes> {
    let size = invoices.iter().map(|invoice| invoice.len() + 8).sum();
    let mut out = Vec::with_capacity(size);
    for invoice in &invoices {
        put_bytes(1, invoice, &mut out);
    }
    if !next_page_token.is_empty() {
        put_bytes(2, next_page_token.as_bytes(), &mut out);
    }
    PyBytes::new(py, &out)
}

/// What is not set is not written.
fn put_set(number: u32, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        put_int(number, value, out);
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(split_import, m)?)?;
    m.add_function(wrap_pyfunction!(join_results, m)?)?;
    m.add_function(wrap_pyfunction!(join_page, m)?)?;
    Ok(())
}
