//! gRPC over HTTP/2 for services that decide in another language: this crate does the wire and nothing else.
//!
//! One thread does all I/O. What happens there is put into an inbox; the other side is woken through a file descriptor,
//! takes everything that waits at once, and answers in batches. Neither side ever waits for the other's lock or
//! interpreter. Messages are bytes: nothing here knows what they mean.
//!
//! Source: gRPC over HTTP/2, <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
mod callers;
mod calls;
mod codec;
mod connection;
mod inbox;
mod request;
mod server;
mod tls;

pub use calls::{Answer, Arrived};
pub use inbox::Event;
pub use server::{CannotStart, Kind, Limits, Method, Server};
pub use tls::Pem;
pub use tonic::{metadata::MetadataMap, Code, Status};
