//! What is known of parties, kept between batches. Docs and types: `services/invochain/_core.pyi`.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use invochain_core::identity::Id;
use invochain_core::request::Profile;
use pyo3::prelude::*;

/// Parties kept in memory at most; past it the directory starts afresh (a look-up costs one query a batch).
const DIRECTORY_MAX: usize = 200_000;

/// What is known of parties, and since when. Times are milliseconds of the caller's monotonic clock.
#[pyclass(frozen)]
#[derive(Default)]
pub struct Directory {
    known: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_merchant: HashMap<Id, (Arc<Profile>, i64)>,
    by_gstin: HashMap<String, (Option<Arc<Profile>>, i64)>,
}

#[pymethods]
impl Directory {
    #[new]
    fn new() -> Self {
        Directory::default()
    }

    #[allow(clippy::too_many_arguments)]
    fn learn(
        &self,
        merchant_id: Id,
        gstin: String,
        state: String,
        taxpayer_type: i32,
        annual_turnover_paise: i64,
        review: bool,
        party: Vec<u8>,
        at_ms: i64,
    ) {
        let profile = Arc::new(Profile {
            merchant_id,
            gstin: gstin.clone(),
            state,
            taxpayer_type,
            annual_turnover_paise,
            review,
            party,
        });
        let mut known = self.entries();
        known
            .by_merchant
            .insert(merchant_id, (profile.clone(), at_ms));
        known.by_gstin.insert(gstin, (Some(profile), at_ms));
    }

    fn learn_unknown(&self, gstin: String, at_ms: i64) {
        self.entries().by_gstin.insert(gstin, (None, at_ms));
    }

    fn __len__(&self) -> usize {
        self.entries().by_gstin.len()
    }
}

impl Directory {
    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.by_gstin.len() > DIRECTORY_MAX || known.by_merchant.len() > DIRECTORY_MAX {
            *known = Entries::default();
        }
        known
    }

    pub fn seller(&self, merchant_id: &Id, fresh_since_ms: i64) -> Option<Arc<Profile>> {
        let known = self.entries();
        known
            .by_merchant
            .get(merchant_id)
            .filter(|(_, at)| *at >= fresh_since_ms)
            .map(|(profile, _)| profile.clone())
    }

    /// `None`: not looked up; `Some(None)`: not registered here.
    pub fn party(&self, gstin: &str, fresh_since_ms: i64) -> Option<Option<Arc<Profile>>> {
        let known = self.entries();
        known
            .by_gstin
            .get(gstin)
            .filter(|(_, at)| *at >= fresh_since_ms)
            .map(|(profile, _)| profile.clone())
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Directory>()
}
