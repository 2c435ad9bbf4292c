//! Refusals of the wire itself, as callers are told them.
use bytes::Bytes;
use tonic::{Code, Status};

/// A status as it is told: what is too large is RESOURCE_EXHAUSTED, as every other gRPC library has it.
pub fn as_told(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => Status::resource_exhausted(status.message()),
        _ => status,
    }
}

pub fn too_large(body: &Bytes) -> Status {
    Status::resource_exhausted(format!("an answer of {} bytes is too large", body.len()))
}

pub fn stopping() -> Status {
    Status::unavailable("this process is stopping")
}
