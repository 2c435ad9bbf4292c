//! Outcomes as they lie in the cache. Docs and types: `services/invochain/_core.pyi`.
use invochain_core::outcome::{Outcome, Sealer};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

/// Name, fingerprint, state, payload.
type Named = (PyBackedBytes, PyBackedBytes, PyBackedBytes, PyBackedBytes);
type Parts<'py> = (
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
);

#[pyfunction]
fn seal_outcomes<'py>(
    py: Python<'py>,
    mac_key: &[u8],
    outcomes: Vec<Named>,
) -> Vec<Bound<'py, PyBytes>> {
    let sealer = Sealer::new(mac_key);
    let sealed = outcomes.iter().map(|(name, fingerprint, state, payload)| {
        let outcome = Outcome {
            fingerprint,
            state,
            payload,
        };
        PyBytes::new(py, &sealer.seal(name, outcome))
    });
    sealed.collect()
}

#[pyfunction]
fn open_outcome<'py>(
    py: Python<'py>,
    mac_key: &[u8],
    name: &[u8],
    sealed: &[u8],
) -> Option<Parts<'py>> {
    let outcome = Sealer::new(mac_key).open(name, sealed)?;
    let bytes = |part| PyBytes::new(py, part);
    Some((
        bytes(outcome.fingerprint),
        bytes(outcome.state),
        bytes(outcome.payload),
    ))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(seal_outcomes, m)?)?;
    m.add_function(wrap_pyfunction!(open_outcome, m)?)
}
