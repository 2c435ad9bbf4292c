//! What is served, to whom, within which limits.
use std::collections::HashMap;
use std::time::Duration;

use http::HeaderName;
use tokio_rustls::TlsAcceptor;

use crate::callers::Callers;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Unary,
    /// Unary, and answered by a batch: its time is watched here (`Event::Expired`).
    Collects,
    Stream,
}

pub struct Method {
    /// `/package.Service/Method`.
    pub path: String,
    pub kind: Kind,
    /// Anybody may call it: nobody is asked before a request is read.
    pub open: bool,
    /// Bytes of a message from a caller.
    pub message_bytes_max: usize,
}

#[derive(Clone)]
pub struct Limits {
    pub response_bytes_max: usize,
    pub metadata_bytes_max: usize,
    pub streams_max: u32,
    /// A request that is not a stream must be here, and a collected one answered, within this time.
    pub request_within: Duration,
    pub connection_age: Duration,
    pub connection_grace: Duration,
}

/// What every connection needs to know.
pub struct Served {
    pub methods: Vec<Method>,
    pub by_path: HashMap<String, usize>,
    pub read: Vec<HeaderName>,
    pub callers: Callers,
    pub limits: Limits,
    pub tls: Option<TlsAcceptor>,
}
