//! Registration numbers for Python. Docs and types: `services/invochain/_core.pyi`.
use crate::gst::tables;
use invochain_core::gst::date::Date;
use invochain_core::gst::gstin::{check_char, Gstin};
use invochain_core::gst::tables::Liveness;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

type Checked<'t> = (&'static str, &'t str, &'static str);

/// Kind (or `URP`), state and fault; what does not apply is empty.
#[pyfunction]
fn check_gstin(text: &str) -> Checked<'_> {
    match Gstin::read(text, &tables()) {
        Ok(gstin) => (
            gstin.kind().map_or("URP", |kind| kind.as_str()),
            gstin.state().unwrap_or_default(),
            "",
        ),
        Err(fault) => ("", "", fault.code()),
    }
}

#[pyfunction]
fn gstin_check_char(first14: &str) -> Option<char> {
    check_char(first14)
}

#[pyfunction]
fn state_liveness(code: &str, year: u16, month: u8, day: u8) -> PyResult<&'static str> {
    let day = Date::new(year, month, day)
        .ok_or_else(|| PyValueError::new_err("no such day in the calendar"))?;
    Ok(match tables().states.liveness(code, day) {
        Liveness::Live => "LIVE",
        Liveness::Withdrawn => "WITHDRAWN",
        Liveness::NotYet => "NOT_YET",
        Liveness::NoPlace => "NO_PLACE",
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(check_gstin, m)?)?;
    m.add_function(wrap_pyfunction!(gstin_check_char, m)?)?;
    m.add_function(wrap_pyfunction!(state_liveness, m)?)?;
    Ok(())
}
