//! The binding: a list of what Python may call. Each converter lives in the file named like its core file.
use pyo3::prelude::*;

mod arrays;
mod directory;
mod drafts;
mod elsewhere;
mod gst;
mod identity;
mod invoice;
mod outcome;
mod party;
mod records;
mod results;
mod settle;
mod stock;
mod transport;

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    arrays::register(m)?;
    directory::register(m)?;
    drafts::register(m)?;
    elsewhere::register(m)?;
    gst::register(m)?;
    identity::register(m)?;
    invoice::register(m)?;
    outcome::register(m)?;
    party::register(m)?;
    records::register(m)?;
    results::register(m)?;
    settle::register(m)?;
    stock::register(m)?;
    transport::register(m)?;
    Ok(())
}
