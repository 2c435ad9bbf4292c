//! One HTTP/2 request: is it gRPC, for which method, within the limits; then its answer.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot, Semaphore};
use tonic::body::Body;
use tonic::codec::{EncodeBody, SingleMessageCompressionOverride, Streaming};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::Status;

use crate::calls::{Arrived, Flow, Slot, StreamSlot};
use crate::codec::Raw;
use crate::inbox::Inbox;
use crate::served::{Kind, Served};
use crate::status::{as_told, stopping, too_large};
use crate::under_way::{answer_of, read_messages, Guard, Outgoing};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Requests that anybody may send and that are read at once, of one connection; the others wait in HTTP/2's windows. So a
/// stranger fills as many times the limit of such a message, and not a connection's thousand streams times.
const OPEN_READS_MAX: usize = 64;

/// The other end of a connection.
pub struct Peer {
    address: Arc<str>,
    open_reads: Semaphore,
}

impl Peer {
    pub fn new(address: IpAddr) -> Self {
        Self {
            address: address.to_string().into(),
            open_reads: Semaphore::new(OPEN_READS_MAX),
        }
    }
}

/// Answers a request; a failure is a gRPC status, and HTTP's own only where the request is not gRPC at all.
pub async fn serve(
    served: Arc<Served>,
    inbox: Arc<Inbox>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Response<Body> {
    if request.method() != Verb::POST {
        return not_grpc(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !is_grpc(request.headers()) {
        return not_grpc(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let (parts, body) = request.into_parts();
    let method = match admit(&served, parts.uri.path(), &parts.headers) {
        Ok(method) => method,
        Err(status) => return refused(status),
    };
    let deadline = timeout_of(&parts.headers).map(|wait| Instant::now() + wait);
    let arrived = |id, body| Arrived {
        id,
        method,
        metadata: metadata_of(&served, &parts.headers),
        peer: Arc::clone(&peer.address),
        deadline,
        body,
    };
    let wants = &served.methods[method];
    // A reset in the middle must not look like the caller's last word, as tonic takes CANCEL.
    let body = body.map_err(|_| Status::aborted("the request broke off"));
    let messages = Streaming::new_request(Raw, body, None, Some(wants.message_bytes_max));
    match wants.kind {
        Kind::Stream => stream(&inbox, messages, |id| arrived(id, Bytes::new())).await,
        kind => {
            let until = Instant::now() + served.limits.request_within;
            let until = deadline.map_or(until, |deadline| deadline.min(until));
            let reading = async {
                if wants.open {
                    let _place = peer.open_reads.acquire().await;
                    return only_message(messages).await.map_err(as_told);
                }
                let caller = served.callers.number(&parts.headers);
                if !served.callers.knows(caller, Instant::now()) {
                    ask(&inbox, |id| arrived(id, Bytes::new())).await?;
                    served.callers.remember(caller, Instant::now());
                }
                only_message(messages).await.map_err(as_told)
            };
            let body = match tokio::time::timeout_at(until.into(), reading).await {
                Ok(Ok(body)) => body,
                Ok(Err(status)) => return refused(status),
                Err(_) => return refused(Status::deadline_exceeded("before the request was here")),
            };
            let expires = (kind == Kind::Collects).then_some(until);
            unary(&served, &inbox, expires, |id| arrived(id, body)).await
        }
    }
}

/// Whether somebody who is not known may send a request; his bytes wait in HTTP/2's windows.
async fn ask(inbox: &Arc<Inbox>, arrived: impl FnOnce(u64) -> Arrived) -> Result<(), Status> {
    let (slot, told) = oneshot::channel();
    let _guard = Guard {
        id: inbox.arrive(Slot::Asked(slot), arrived),
        inbox: Arc::clone(inbox),
        reader: None,
    };
    told.await.unwrap_or_else(|_| Err(stopping()))
}

async fn unary(
    served: &Served,
    inbox: &Arc<Inbox>,
    expires: Option<Instant>,
    arrived: impl FnOnce(u64) -> Arrived,
) -> Response<Body> {
    let (slot, answer) = oneshot::channel();
    let guard = Guard {
        id: inbox.arrive(Slot::Unary(slot), arrived),
        inbox: Arc::clone(inbox),
        reader: None,
    };
    let Ok(answer) = answer_of(answer, expires, &guard).await else {
        return refused(stopping());
    };
    match answer.result {
        Ok(body) if body.len() > served.limits.response_bytes_max => refused(too_large(&body)),
        Ok(body) => answered(answer.initial, tokio_stream::once(Ok(body))),
        Err(status) => refused(status),
    }
}

async fn stream(
    inbox: &Arc<Inbox>,
    messages: Streaming<Bytes>,
    arrived: impl FnOnce(u64) -> Arrived,
) -> Response<Body> {
    let (opening, opened) = oneshot::channel();
    let (out, outgoing) = mpsc::unbounded_channel();
    let flow = Arc::new(Flow::default());
    let slot = StreamSlot {
        opening: Some(opening),
        out,
        flow: Arc::clone(&flow),
    };
    let mut guard = Guard {
        id: inbox.arrive(Slot::Stream(slot), arrived),
        inbox: Arc::clone(inbox),
        reader: None,
    };
    match opened.await {
        Ok(Ok(initial)) => {
            // Not before: a stream that is refused is never read.
            let reading = read_messages(guard.id, messages, Arc::clone(inbox), Arc::clone(&flow));
            guard.reader = Some(tokio::spawn(reading));
            let outgoing = Outgoing {
                messages: outgoing,
                flow,
                guard,
            };
            answered(initial, outgoing)
        }
        Ok(Err(status)) => refused(status),
        Err(_) => refused(stopping()),
    }
}

/// Which method it is for. Refuses: one that is not there, metadata over the limit, a compression.
fn admit(served: &Served, path: &str, headers: &HeaderMap) -> Result<usize, Status> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum();
    if bytes > served.limits.metadata_bytes_max {
        return Err(Status::resource_exhausted(format!(
            "metadata of {bytes} bytes; {} at most are wanted",
            served.limits.metadata_bytes_max
        )));
    }
    if let Some(encoding) = headers.get("grpc-encoding") {
        if encoding != "identity" {
            let mut status = Status::unimplemented("compressed messages are not taken");
            let taken = AsciiMetadataValue::from_static("identity");
            status.metadata_mut().insert("grpc-accept-encoding", taken);
            return Err(status);
        }
    }
    let found = served.by_path.get(path).copied();
    found.ok_or_else(|| Status::unimplemented("there is no such method"))
}

/// The one message of a request that is not a stream.
async fn only_message(mut messages: Streaming<Bytes>) -> Result<Bytes, Status> {
    let first = messages.message().await?;
    let body = first.ok_or_else(|| Status::unimplemented("a request message is missing"))?;
    match messages.message().await? {
        None => Ok(body),
        Some(_) => Err(Status::unimplemented("more than one request message")),
    }
}

fn answered<S>(initial: MetadataMap, messages: S) -> Response<Body>
where
    S: tokio_stream::Stream<Item = Result<Bytes, Status>> + Send + 'static,
{
    // The size of an answer was looked at before it came here.
    let no_override = SingleMessageCompressionOverride::default();
    let body = EncodeBody::new_server(Raw, messages, None, no_override, Some(usize::MAX));
    let mut response = Response::new(Body::new(body));
    *response.headers_mut() = initial.into_headers();
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

fn refused(status: Status) -> Response<Body> {
    status.into_http()
}

fn not_grpc(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';')
}

/// `grpc-timeout`: at most eight digits and a unit. One that does not read is taken for none, as grpcio does.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The text metadata that are read by position in the list; all values of one that was sent twice, joined.
fn metadata_of(served: &Served, headers: &HeaderMap) -> Vec<(usize, String)> {
    let mut found = Vec::with_capacity(served.read.len());
    for (position, name) in served.read.iter().enumerate() {
        let mut joined: Option<String> = None;
        for value in headers.get_all(name).iter().filter_map(|v| v.to_str().ok()) {
            joined = Some(joined.map_or_else(|| value.to_owned(), |before| before + ", " + value));
        }
        if let Some(value) = joined {
            found.push((position, value));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(text: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", HeaderValue::from_static(text));
        timeout_of(&headers)
    }

    #[test]
    fn a_timeout_has_a_unit_and_at_most_eight_digits() {
        assert_eq!(Some(Duration::from_millis(150)), timeout("150m"));
        assert_eq!(Some(Duration::from_secs(7_200)), timeout("2H"));
        assert_eq!(Some(Duration::from_nanos(99_999_999)), timeout("99999999n"));
        for wrong in ["", "m", "150", "-1S", "123456789S", "1.5S", "10X"] {
            assert_eq!(None, timeout(wrong), "{wrong}");
        }
    }

    #[test]
    fn only_grpc_is_grpc() {
        for (kind, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(wanted, is_grpc(&headers), "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
