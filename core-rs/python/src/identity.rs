//! Ids for Python: `bytes` of 16 in and out. Docs and types: `services/invochain/_core.pyi`.
use invochain_core::identity as core;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

type Id = [u8; 16];

#[pyfunction]
fn request_id(merchant_id: Id, operation: &str, key: &str) -> Id {
    core::request_id(&merchant_id, operation, key)
}

#[pyfunction]
fn invoice_id(rid: Id) -> Id {
    core::invoice_id(&rid)
}

#[pyfunction]
fn reservation_id(rid: Id, attempt: u32) -> Id {
    core::reservation_id(&rid, attempt)
}

#[pyfunction]
fn movement_id(cause: Id, sku: &str, kind: &str) -> Id {
    core::movement_id(&cause, sku, kind)
}

#[pyfunction]
fn event_id(aggregate_id: Id, version: u64, kind: &str) -> Id {
    core::event_id(&aggregate_id, version, kind)
}

#[pyfunction]
fn partition(id: Id, count: u32) -> u32 {
    core::partition(&id, count)
}

/// Bytes and text are borrowed from Python, not copied: a batch has hundreds of events.
#[pyfunction]
fn event_columns<'py>(
    py: Python<'py>,
    aggregate_ids: Vec<Bound<'py, PyBytes>>,
    versions: Vec<u64>,
    kinds: Vec<Bound<'py, PyString>>,
    partitions: u32,
) -> PyResult<(Vec<Bound<'py, PyBytes>>, Vec<u32>)> {
    if aggregate_ids.len() != versions.len()
        || aggregate_ids.len() != kinds.len()
        || partitions == 0
    {
        return Err(PyValueError::new_err(
            "columns of one length and at least one partition are wanted",
        ));
    }
    let wrong_id = |_| PyValueError::new_err("an id has 16 bytes");
    let ids = aggregate_ids
        .iter()
        .map(|id| id.as_bytes().try_into().map_err(wrong_id))
        .collect::<PyResult<Vec<&Id>>>()?;
    let kinds = kinds
        .iter()
        .map(|kind| kind.to_str())
        .collect::<PyResult<Vec<&str>>>()?;
    let rows = ids
        .into_iter()
        .zip(versions)
        .zip(kinds)
        .map(|((id, version), kind)| (id, version, kind));
    let (event_ids, event_partitions) = core::event_columns(rows, partitions);
    Ok((
        event_ids.iter().map(|id| PyBytes::new(py, id)).collect(),
        event_partitions,
    ))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("FINGERPRINT_VERSION", core::FINGERPRINT_VERSION)?;
    m.add_function(wrap_pyfunction!(request_id, m)?)?;
    m.add_function(wrap_pyfunction!(invoice_id, m)?)?;
    m.add_function(wrap_pyfunction!(reservation_id, m)?)?;
    m.add_function(wrap_pyfunction!(movement_id, m)?)?;
    m.add_function(wrap_pyfunction!(event_id, m)?)?;
    m.add_function(wrap_pyfunction!(partition, m)?)?;
    m.add_function(wrap_pyfunction!(event_columns, m)?)?;
    Ok(())
}
