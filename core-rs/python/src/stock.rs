//! Holds for Python: bytes of calls in, columns out. Docs and types: `services/invochain/_core.pyi`.
use crate::gst::tables;
use invochain_core::stock as core;
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::collections::HashMap;

type Id = [u8; 16];
type Fault = (String, &'static str, String);
type Refused = (usize, &'static str, String, i64, i64, String, String);

#[pyclass(frozen)]
struct Holds(core::Holds, Vec<Vec<u8>>);

#[pymethods]
impl Holds {
    #[new]
    fn new(calls: Vec<Vec<u8>>) -> Self {
        let read = core::Holds::read(&calls.iter().map(Vec::as_slice).collect::<Vec<_>>());
        Holds(read, calls)
    }

    fn __len__(&self) -> usize {
        self.0.holds.len()
    }

    #[getter]
    fn starts(&self) -> Vec<usize> {
        self.0.starts.clone()
    }

    #[getter]
    fn malformed(&self) -> Vec<(usize, String)> {
        self.0.malformed.clone()
    }

    fn faults(&self) -> Vec<(usize, Vec<Fault>)> {
        let told = |fault: &core::Fault| (fault.field.clone(), fault.code, fault.found.clone());
        let holds = self
            .0
            .holds
            .iter()
            .enumerate()
            .filter(|(_, hold)| !hold.faults.is_empty());
        holds
            .map(|(index, hold)| (index, hold.faults.iter().map(told).collect()))
            .collect()
    }

    fn repeats(&self) -> Vec<(usize, usize, bool)> {
        self.0.repeats()
    }

    fn id_texts(&self) -> Vec<String> {
        self.0
            .holds
            .iter()
            .map(|hold| hold.id_text.clone())
            .collect()
    }

    fn resolvers(&self) -> Vec<&'static str> {
        self.0
            .holds
            .iter()
            .map(|hold| hold.resolver.name())
            .collect()
    }

    fn fingerprints(&self) -> Vec<[u8; 32]> {
        self.0.holds.iter().map(|hold| hold.fingerprint).collect()
    }

    fn names(&self, chosen: Vec<usize>) -> (Vec<Id>, Vec<Id>, Vec<&'static str>) {
        let of = |index: &usize| &self.0.holds[*index];
        (
            chosen.iter().map(|index| of(index).merchant_id).collect(),
            chosen
                .iter()
                .map(|index| of(index).reservation_id)
                .collect(),
            chosen
                .iter()
                .map(|index| of(index).resolver.name())
                .collect(),
        )
    }

    fn keys_of(&self, chosen: Vec<usize>) -> Vec<usize> {
        self.0.keys_of(&chosen)
    }

    fn key_columns(&self, keys: Vec<usize>) -> (Vec<Id>, Vec<String>) {
        (
            keys.iter()
                .map(|&key| self.0.keys[key].merchant_id)
                .collect(),
            keys.iter()
                .map(|&key| self.0.keys[key].sku.clone())
                .collect(),
        )
    }

    fn grant(
        &self,
        chosen: Vec<usize>,
        keys: Vec<usize>,
        units: Vec<String>,
        free_milli: Vec<i64>,
        absent: Vec<usize>,
    ) -> (Vec<usize>, Vec<(usize, usize)>, Vec<Refused>) {
        let mut rows = HashMap::with_capacity(keys.len() + absent.len());
        for ((key, unit), free_milli) in keys.into_iter().zip(units).zip(free_milli) {
            rows.insert(key, core::Row::Locked { unit, free_milli });
        }
        rows.extend(absent.into_iter().map(|key| (key, core::Row::Absent)));
        let verdicts = self.0.grant(&chosen, &rows);
        let refused = verdicts
            .refused
            .into_iter()
            .map(|(index, why)| self.told(index, why))
            .collect();
        (verdicts.granted, verdicts.busy, refused)
    }

    fn alone(&self, index: usize) -> Vec<u8> {
        let call = self.0.starts.partition_point(|&start| start <= index) - 1;
        core::alone(&self.1[call], index - self.0.starts[call])
    }

    fn sums(&self, chosen: Vec<usize>) -> PyResult<(Vec<Id>, Vec<String>, Vec<i64>)> {
        let sums = self
            .0
            .sums(&chosen)
            .ok_or_else(|| PyOverflowError::new_err("a sum of quantities"))?;
        let (merchants, skus) = self.key_columns(sums.iter().map(|&(key, _)| key).collect());
        Ok((
            merchants,
            skus,
            sums.into_iter().map(|(_, sum)| sum).collect(),
        ))
    }

    /// The rows of `reservation`; arrays as PostgreSQL writes them. SKUs have no character that needs escaping.
    #[allow(clippy::type_complexity)]
    fn rows(
        &self,
        chosen: Vec<usize>,
    ) -> (
        Vec<Id>,
        Vec<Id>,
        Vec<&'static str>,
        Vec<Id>,
        Vec<i32>,
        Vec<[u8; 32]>,
        Vec<String>,
        Vec<String>,
        Vec<i32>,
    ) {
        let (merchants, ids, resolvers) = self.names(chosen.clone());
        let holds: Vec<&core::Hold> = chosen.iter().map(|&index| &self.0.holds[index]).collect();
        let array = |hold: &core::Hold, entry: &dyn Fn(&core::Line) -> String| {
            format!(
                "{{{}}}",
                hold.lines.iter().map(entry).collect::<Vec<_>>().join(",")
            )
        };
        (
            merchants,
            ids,
            resolvers,
            holds.iter().map(|hold| hold.rid).collect(),
            holds.iter().map(|hold| hold.attempt).collect(),
            holds.iter().map(|hold| hold.fingerprint).collect(),
            holds
                .iter()
                .map(|hold| array(hold, &|line| format!("\"{}\"", self.0.keys[line.key].sku)))
                .collect(),
            holds
                .iter()
                .map(|hold| array(hold, &|line| line.quantity_milli.to_string()))
                .collect(),
            holds.iter().map(|hold| hold.ttl_s).collect(),
        )
    }

    /// The answer to one call, all of whose holds were made.
    fn all_pending<'py>(&self, py: Python<'py>, call: usize) -> Bound<'py, PyBytes> {
        let holds = &self.0.holds[self.0.starts[call]..self.0.starts[call + 1]];
        PyBytes::new(py, &core::all_pending(holds))
    }
}

impl Holds {
    /// (hold, reason, sku, asked, free, unit asked, unit kept)
    fn told(&self, index: usize, why: core::Refused) -> Refused {
        let sku = |key: usize| self.0.keys[key].sku.clone();
        match why {
            core::Refused::NotFound { key } => (
                index,
                "SKU_NOT_FOUND",
                sku(key),
                0,
                0,
                String::new(),
                String::new(),
            ),
            core::Refused::UnitMismatch { key, asked, kept } => {
                (index, "UNIT_MISMATCH", sku(key), 0, 0, asked, kept)
            }
            core::Refused::Short {
                key,
                asked_milli,
                free_milli,
            } => (
                index,
                "INSUFFICIENT_STOCK",
                sku(key),
                asked_milli,
                free_milli,
                String::new(),
                String::new(),
            ),
        }
    }
}

#[pyfunction]
fn normal_sku(text: &str) -> Option<String> {
    core::normal_sku(text)
}

/// By the unit table in force.
#[pyfunction]
fn known_unit(code: &str) -> bool {
    tables().units.knows(code)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("HOLDS_MAX", core::HOLDS_MAX)?;
    m.add_class::<Holds>()?;
    m.add_function(wrap_pyfunction!(normal_sku, m)?)?;
    m.add_function(wrap_pyfunction!(known_unit, m)?)?;
    Ok(())
}
