//! A call between its arrival and its answer.
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, Notify};
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::codec::Streaming;
use tonic::metadata::MetadataMap;
use tonic::Status;

use crate::inbox::{Event, Inbox};
use crate::request;

/// Bytes of a stream's messages that may wait on either side; one message more is let in, whatever its size.
const STREAM_BYTES_MAX: usize = 256 * 1024;

/// A call as the other side gets it.
pub struct Arrived {
    pub id: u64,
    /// Position in the list of methods that the server was started with.
    pub method: usize,
    /// Those metadata that the server was told to read: position in its list, value. Values that came twice are joined.
    pub metadata: Vec<(usize, String)>,
    /// The address at the other end.
    pub peer: Arc<str>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    pub body: Bytes,
}

/// The answer to one request: metadata and a message, or a status.
pub struct Answer {
    pub initial: MetadataMap,
    pub result: Result<Bytes, Status>,
}

/// How a stream begins: open, with metadata, or refused.
pub type Opening = Result<MetadataMap, Status>;

/// The end of a call that waits for the other side's word. To drop it is to end the call.
pub enum Slot {
    /// A request that is not read yet: may it come?
    Asked(oneshot::Sender<Result<(), Status>>),
    Unary(oneshot::Sender<Answer>),
    Stream(StreamSlot),
}

pub struct StreamSlot {
    pub opening: Option<oneshot::Sender<Opening>>,
    pub out: mpsc::UnboundedSender<Result<Bytes, Status>>,
    pub flow: Arc<Flow>,
}

/// How much of a stream waits: messages that were read and not taken, messages that were written and not sent.
#[derive(Default)]
pub struct Flow {
    unread: AtomicUsize,
    unsent: AtomicUsize,
    read_on: Notify,
}

impl Flow {
    /// The other side has used up a message. (One without bytes counts as one byte, or they would be free.)
    pub fn consumed(&self, bytes: usize) {
        self.unread.fetch_sub(bytes.max(1), Ordering::AcqRel);
        self.read_on.notify_one();
    }

    /// A message is to be sent; whether another may follow before `Event::Room`.
    pub fn written(&self, bytes: usize) -> bool {
        self.unsent.fetch_add(bytes.max(1), Ordering::AcqRel) + bytes.max(1) < STREAM_BYTES_MAX
    }

    /// A message was sent; whether the other side waits to hear that there is room.
    fn sent(&self, bytes: usize) -> bool {
        let before = self.unsent.fetch_sub(bytes.max(1), Ordering::AcqRel);
        before >= STREAM_BYTES_MAX && before - bytes.max(1) < STREAM_BYTES_MAX
    }
}

/// Says that the caller has gone when it is dropped before the answer.
pub struct Guard {
    pub inbox: Arc<Inbox>,
    pub id: u64,
    /// Reads the messages of a stream; it ends with the call.
    pub reader: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
        self.inbox.abandon(self.id);
    }
}

/// Reads a stream's messages into the inbox, no faster than they are used up.
pub async fn read_messages(
    id: u64,
    mut messages: Streaming<Bytes>,
    inbox: Arc<Inbox>,
    flow: Arc<Flow>,
) {
    loop {
        while flow.unread.load(Ordering::Acquire) >= STREAM_BYTES_MAX {
            flow.read_on.notified().await;
        }
        match messages.message().await {
            Ok(Some(body)) => {
                flow.unread.fetch_add(body.len().max(1), Ordering::AcqRel);
                inbox.push(Event::Message { id, body });
            }
            Ok(None) => return inbox.push(Event::HalfClosed { id }),
            Err(status) => {
                // What cannot be read ends the call here; for the other side the caller has gone.
                if let Some(Slot::Stream(slot)) = inbox.remove(id) {
                    end_stream(slot, Some(request::as_told(status)));
                    inbox.push(Event::Gone { id });
                }
                return;
            }
        }
    }
}

/// The last word to a stream, whether it was opened or not.
pub fn end_stream(slot: StreamSlot, status: Option<Status>) {
    // A receiver that has gone needs no word.
    match (slot.opening, status) {
        (None, None) => {}
        (None, Some(status)) => drop(slot.out.send(Err(status))),
        (Some(opening), None) => drop(opening.send(Ok(MetadataMap::new()))),
        (Some(opening), Some(status)) => drop(opening.send(Err(status))),
    }
}

/// The messages that go out, as the wire takes them.
pub struct Outgoing {
    pub messages: mpsc::UnboundedReceiver<Result<Bytes, Status>>,
    pub flow: Arc<Flow>,
    pub guard: Guard,
}

impl Stream for Outgoing {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.messages.poll_recv(cx);
        if let Poll::Ready(Some(Ok(message))) = &next {
            if self.flow.sent(message.len()) {
                let id = self.guard.id;
                self.guard.inbox.push(Event::Room { id });
            }
        }
        next
    }
}

/// Waits for an answer; once, when `deadline` passes, the other side is told so.
pub async fn answer_of(
    mut answer: oneshot::Receiver<Answer>,
    deadline: Option<Instant>,
    guard: &Guard,
) -> Result<Answer, oneshot::error::RecvError> {
    if let Some(deadline) = deadline {
        match tokio::time::timeout_at(deadline.into(), Pin::new(&mut answer)).await {
            Ok(answered) => return answered,
            Err(_) => guard.inbox.push(Event::Expired { id: guard.id }),
        }
    }
    answer.await
}
