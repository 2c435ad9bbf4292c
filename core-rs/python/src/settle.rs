//! Confirms for Python: bytes of a call in, columns and the answer out. Docs and types: `services/invochain/_core.pyi`.
use invochain_core::settle as core;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

type Id = [u8; 16];

#[pyclass(frozen)]
struct Refs(Vec<core::Ref>);

#[pymethods]
impl Refs {
    #[staticmethod]
    fn read(raw: PyBackedBytes) -> Option<Self> {
        core::read(&raw).map(Refs)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn id_texts(&self) -> Vec<&str> {
        self.0.iter().map(|one| one.id_text.as_str()).collect()
    }

    fn rows(&self) -> Vec<(Id, Id, [u8; 32])> {
        let row = |one: &core::Ref| (one.merchant_id, one.reservation_id, one.fingerprint);
        self.0.iter().map(row).collect()
    }

    fn all_held<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &core::all_held(&self.0))
    }
}

/// (merchant_id, reservation_id, fingerprint)
type Columns = (Vec<Id>, Vec<Id>, Vec<[u8; 32]>);

#[pyfunction]
fn confirm_columns(calls: Vec<PyRef<'_, Refs>>) -> Columns {
    let of = || calls.iter().flat_map(|refs| &refs.0);
    (
        of().map(|one| one.merchant_id).collect(),
        of().map(|one| one.reservation_id).collect(),
        of().map(|one| one.fingerprint).collect(),
    )
}

#[pyfunction]
fn settle_request(
    py: Python<'_>,
    holds: Vec<(Id, Id, i32, PyBackedBytes)>,
) -> PyResult<Bound<'_, PyBytes>> {
    if holds.iter().any(|hold| hold.2 < 1) {
        return Err(PyValueError::new_err("attempts count from 1"));
    }
    let parts = holds
        .iter()
        .map(|hold| (&hold.0, &hold.1, hold.2, &*hold.3));
    Ok(PyBytes::new(py, &core::request(parts)))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Refs>()?;
    m.add_function(wrap_pyfunction!(confirm_columns, m)?)?;
    m.add_function(wrap_pyfunction!(settle_request, m)?)?;
    Ok(())
}
