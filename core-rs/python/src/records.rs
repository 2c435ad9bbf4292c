//! Headers of broker records as JSON. Docs and types: `services/invochain/_core.pyi`.
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

#[pyfunction]
fn header_texts<'py>(records: &Bound<'py, PyList>) -> PyResult<Vec<Bound<'py, PyString>>> {
    let mut out = Vec::with_capacity(512);
    records
        .iter()
        .map(|headers| {
            out.clear();
            put_headers(&mut out, headers.cast()?)?;
            PyString::from_bytes(records.py(), &out)
        })
        .collect()
}

/// Arrays of two texts: a header may come twice, and their order is kept.
fn put_headers(out: &mut Vec<u8>, headers: &Bound<'_, PyTuple>) -> PyResult<()> {
    out.push(b'[');
    for (nth, header) in headers.iter_borrowed().enumerate() {
        let (name, value): (Bound<'_, PyString>, Bound<'_, PyString>) = header.extract()?;
        out.extend_from_slice(if nth == 0 { b"[" } else { b",[" });
        put_text(out, &name)?;
        out.push(b',');
        put_text(out, &value)?;
        out.push(b']');
    }
    out.push(b']');
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &Bound<'_, PyString>) -> PyResult<()> {
    serde_json::to_writer(out, text.to_str()?)
        .map_err(|failed| PyValueError::new_err(failed.to_string()))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(header_texts, m)?)
}
