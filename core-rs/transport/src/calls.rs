//! The nouns: a call as the other side gets it, and the ends by which it is answered.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, Notify};
use tonic::metadata::MetadataMap;
use tonic::Status;

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
    /// Waits until another message may be read.
    pub async fn may_read(&self) {
        while self.unread.load(Ordering::Acquire) >= STREAM_BYTES_MAX {
            self.read_on.notified().await;
        }
    }

    /// A message was read. (One without bytes counts as one byte, or they would be free.)
    pub fn read(&self, bytes: usize) {
        self.unread.fetch_add(bytes.max(1), Ordering::AcqRel);
    }

    /// The other side has used up a message.
    pub fn consumed(&self, bytes: usize) {
        self.unread.fetch_sub(bytes.max(1), Ordering::AcqRel);
        self.read_on.notify_one();
    }

    /// A message is to be sent; whether another may follow before `Event::Room`.
    pub fn written(&self, bytes: usize) -> bool {
        self.unsent.fetch_add(bytes.max(1), Ordering::AcqRel) + bytes.max(1) < STREAM_BYTES_MAX
    }

    /// A message was sent; whether the other side waits to hear that there is room.
    pub fn sent(&self, bytes: usize) -> bool {
        let before = self.unsent.fetch_sub(bytes.max(1), Ordering::AcqRel);
        before >= STREAM_BYTES_MAX && before - bytes.max(1) < STREAM_BYTES_MAX
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
