//! A call under way, as the wire sees it: its messages in and out, its deadline, its caller's going away.
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::codec::Streaming;
use tonic::Status;

use crate::calls::{end_stream, Answer, Flow, Slot};
use crate::inbox::{Event, Inbox};
use crate::status::as_told;

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

/// Reads a stream's messages into the inbox, no faster than they are used up.
pub async fn read_messages(
    id: u64,
    mut messages: Streaming<Bytes>,
    inbox: Arc<Inbox>,
    flow: Arc<Flow>,
) {
    loop {
        flow.may_read().await;
        match messages.message().await {
            Ok(Some(body)) => {
                flow.read(body.len());
                inbox.push(Event::Message { id, body });
            }
            Ok(None) => return inbox.push(Event::HalfClosed { id }),
            Err(status) => {
                // What cannot be read ends the call here; for the other side the caller has gone.
                if let Some(Slot::Stream(slot)) = inbox.remove(id) {
                    end_stream(slot, Some(as_told(status)));
                    inbox.push(Event::Gone { id });
                }
                return;
            }
        }
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
