//! Documents made elsewhere, and the reasons of figures. Docs and types: `services/invochain/_core.pyi`.
use invochain_core::answer;
use invochain_core::gst::{Date, Mode, Violation};
use invochain_core::request::{self, Refused};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::gst::tables;

/// (path, code, words) of a violation.
pub fn said(violation: &Violation) -> (String, String, String) {
    (
        violation.path.clone(),
        violation.code.to_owned(),
        answer::describe(violation),
    )
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

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(explain_document, m)?)?;
    m.add_function(wrap_pyfunction!(validate_document, m)?)
}
