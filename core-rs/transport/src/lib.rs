//! gRPC over HTTP/2 for services that decide in another language: this crate does the wire and nothing else.
//!
//! One thread does all I/O. What happens there is put into an inbox; the other side is woken through a file descriptor,
//! takes everything that waits at once, and answers in batches. Neither side ever waits for the other's lock or
//! interpreter. Messages are bytes: nothing here knows what they mean.
//!
//! A module uses those below it, never one above:
//!
//! ```text
//! server          the thread, and what the other side may ask of it
//! connection      accept, handshake, age, drain
//! request         one HTTP/2 request, from its first header to its answer
//! under_way       a call's messages, deadline and caller, between the wire and the inbox
//! inbox, served   what waits for the other side; what is served, within which limits
//! calls, callers, codec, status, tls
//! ```
//!
//! Source: gRPC over HTTP/2, <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
mod callers;
mod calls;
mod codec;
mod connection;
mod inbox;
mod request;
mod served;
mod server;
mod status;
mod tls;
mod under_way;

pub use calls::{Answer, Arrived};
pub use inbox::Event;
pub use served::{Kind, Limits, Method};
pub use server::{CannotStart, Server};
pub use tls::{BadPem, Pem};
pub use tonic::{metadata::MetadataMap, Code, Status};
