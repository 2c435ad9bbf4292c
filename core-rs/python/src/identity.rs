//! Ids for Python: `bytes` of 16 in and out. Docs and types: `services/invochain/_core.pyi`.
use invochain_core::identity as core;
use pyo3::prelude::*;

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

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("FINGERPRINT_VERSION", core::FINGERPRINT_VERSION)?;
    m.add_function(wrap_pyfunction!(request_id, m)?)?;
    m.add_function(wrap_pyfunction!(invoice_id, m)?)?;
    m.add_function(wrap_pyfunction!(reservation_id, m)?)?;
    m.add_function(wrap_pyfunction!(movement_id, m)?)?;
    m.add_function(wrap_pyfunction!(event_id, m)?)?;
    m.add_function(wrap_pyfunction!(partition, m)?)?;
    Ok(())
}
