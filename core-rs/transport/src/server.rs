//! The server: its thread, and what the other side may ask of it.
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use tokio::net::{lookup_host, TcpListener, TcpSocket};
use tokio::runtime;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::Status;

use crate::callers::Callers;
use crate::calls::{end_stream, Answer, Slot};
use crate::connection::{accept, Stage};
use crate::inbox::{Event, Inbox};
use crate::served::{Limits, Method, Served};
use crate::status::too_large;
use crate::tls::{BadPem, Pem};

/// Connections that wait to be accepted; the operating system lowers it to its own limit.
const BACKLOG: u32 = 1_024;

#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    #[error("cannot listen on {0}: {1}")]
    Listen(String, io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] BadPem),
    #[error("metadata {0:?} is no name in lower case")]
    Metadata(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub struct Server {
    inbox: Arc<Inbox>,
    stage: watch::Sender<Stage>,
    thread: Mutex<Option<JoinHandle<()>>>,
    runtime: runtime::Handle,
    port: u16,
    response_bytes_max: usize,
}

impl Server {
    /// Listens on host:port (port 0: a free one) and serves `methods`; of a call's metadata it hands over `read`, and
    /// `shown_by` are those that show who is calling.
    pub fn start(
        address: &str,
        reuse_port: bool,
        methods: Vec<Method>,
        read: &[String],
        shown_by: &[String],
        limits: Limits,
        tls: Option<&Pem>,
    ) -> Result<Self, CannotStart> {
        let response_bytes_max = limits.response_bytes_max;
        let served = Arc::new(Served {
            by_path: methods
                .iter()
                .enumerate()
                .map(|(position, method)| (method.path.clone(), position))
                .collect(),
            methods,
            read: names(read)?,
            callers: Callers::new(names(shown_by)?),
            limits,
            tls: tls.map(Pem::acceptor).transpose()?,
        });
        let inbox = Arc::new(Inbox::new()?);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = runtime
            .block_on(listen(address, reuse_port))
            .map_err(|error| CannotStart::Listen(address.to_owned(), error))?;
        let port = listener.local_addr()?.port();
        let (stage, watched) = watch::channel(Stage::Serve);
        let handle = runtime.handle().clone();
        let work = accept(listener, served, Arc::clone(&inbox), watched);
        let thread = std::thread::Builder::new()
            .name("transport".to_owned())
            .spawn(move || runtime.block_on(work))?;
        Ok(Self {
            inbox,
            stage,
            thread: Mutex::new(Some(thread)),
            runtime: handle,
            port,
            response_bytes_max,
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Readable when `take` would give something.
    pub fn fd(&self) -> RawFd {
        self.inbox.fd()
    }

    pub fn take(&self) -> Vec<Event> {
        self.inbox.take()
    }

    /// Answers requests; those whose callers have gone are passed over.
    pub fn answer(&self, answers: Vec<(u64, Answer)>) {
        let slots = self.inbox.remove_all(answers.iter().map(|(id, _)| *id));
        for (slot, (_, answer)) in slots.into_iter().zip(answers) {
            match slot {
                Some(Slot::Unary(waiting)) => drop(waiting.send(answer)),
                Some(Slot::Asked(waiting)) => drop(waiting.send(answer.result.map(drop))),
                Some(Slot::Stream(slot)) => end_stream(slot, answer.result.err()),
                None => {}
            }
        }
    }

    /// Lets a caller send the request that `Event::Asked` announced; `answer` refuses it.
    pub fn admit(&self, id: u64) {
        if let Some(Slot::Asked(waiting)) = self.inbox.remove(id) {
            drop(waiting.send(Ok(())));
        }
    }

    /// Lets a stream begin.
    pub fn open_stream(&self, id: u64, initial: MetadataMap) {
        let opening = self.inbox.with(id, |slot| match slot {
            Slot::Stream(slot) => slot.opening.take(),
            Slot::Unary(_) | Slot::Asked(_) => None,
        });
        if let Some(opening) = opening.flatten() {
            drop(opening.send(Ok(initial)));
        }
    }

    /// Sends a message of an open stream; false: wait for `Event::Room` (or `Gone`) before the next.
    pub fn send(&self, id: u64, message: Bytes) -> bool {
        if message.len() > self.response_bytes_max {
            if let Some(Slot::Stream(slot)) = self.inbox.remove(id) {
                end_stream(slot, Some(too_large(&message)));
                self.inbox.push(Event::Gone { id });
            }
            return false;
        }
        let room = self.inbox.with(id, |slot| match slot {
            Slot::Stream(slot) => {
                let room = slot.flow.written(message.len());
                drop(slot.out.send(Ok(message)));
                room
            }
            Slot::Unary(_) | Slot::Asked(_) => true,
        });
        // A stream that has ended is full for ever: `Gone` is on its way.
        room.unwrap_or(false)
    }

    /// A message of a stream is used up: so many more bytes may come.
    pub fn consumed(&self, id: u64, bytes: usize) {
        self.inbox.with(id, |slot| {
            if let Slot::Stream(slot) = slot {
                slot.flow.consumed(bytes);
            }
        });
    }

    /// Ends a stream, with OK or with a status.
    pub fn end(&self, id: u64, status: Option<Status>) {
        if let Some(Slot::Stream(slot)) = self.inbox.remove(id) {
            end_stream(slot, status);
        }
    }

    /// Closes the port and lets every connection finish what is under way; after `within` they are cut.
    /// `Event::Drained` says that it is done.
    pub fn drain(&self, within: Duration) {
        self.stage.send_if_modified(|now| {
            let first = *now == Stage::Serve;
            if first {
                *now = Stage::Drain;
            }
            first
        });
        let stage = self.stage.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(within).await;
            stage.send_replace(Stage::Cut);
        });
    }

    /// Ends everything and returns when the thread has.
    pub fn close(&self) {
        self.stage.send_replace(Stage::Cut);
        self.inbox.clear();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It ends with its accept loop; a panic there has been reported by the panic hook.
            drop(thread.join());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not waited for: whoever drops it without closing may be an interpreter that ends.
        self.stage.send_replace(Stage::Cut);
        self.inbox.clear();
    }
}

fn names(names: &[String]) -> Result<Vec<HeaderName>, CannotStart> {
    names
        .iter()
        .map(|name| HeaderName::try_from(name).map_err(|_| CannotStart::Metadata(name.clone())))
        .collect()
}

async fn listen(address: &str, reuse_port: bool) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for found in lookup_host(address).await? {
        let socket = if found.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // A port whose last owner has just gone may be taken again; one that is in use may not.
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(reuse_port)?;
        match socket.bind(found).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}
