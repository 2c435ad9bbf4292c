//! Connections: accepted, secured, aged out, drained.
use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{watch, Semaphore};
use tokio::time::{sleep, timeout};

use crate::inbox::{Event, Inbox};
use crate::request::{self, Peer};
use crate::served::Served;

/// A peer that has not said its first word, or finished its handshake, by then is a port scan or worse.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A peer that does not answer pings is gone: its calls are ended and its streams given back.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_WITHIN: Duration = Duration::from_secs(20);
/// More are not accepted until one has ended; the operating system lets them wait.
const CONNECTIONS_MAX: usize = 10_000;
/// After `accept` failed, mostly for want of file descriptors: long enough for one to come free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);
/// HPACK may unpack to this much before the connection is ended; the limit that callers are told is lower.
const HEADER_BYTES_MAX: u32 = 64 * 1024;

/// What connections are to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serve,
    /// No new calls; those under way are finished.
    Drain,
    /// Everything ends now.
    Cut,
}

/// Accepts until the stage changes, then returns when every connection has ended.
pub async fn accept(
    listener: TcpListener,
    served: Arc<Served>,
    inbox: Arc<Inbox>,
    stage: watch::Receiver<Stage>,
) {
    let mut changed = stage.clone();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Each connection holds one; when all are dropped, `closed` returns.
    let (open, all_closed) = watch::channel(());
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = past(&mut changed, Stage::Serve) => break,
            (place, accepted) = next => match accepted {
                Ok((socket, peer)) => {
                    let connection = Connection {
                        served: Arc::clone(&served),
                        inbox: Arc::clone(&inbox),
                        stage: stage.clone(),
                        peer: Arc::new(Peer::new(peer.ip().to_canonical())),
                    };
                    let held = all_closed.clone();
                    tokio::spawn(async move {
                        connection.run(socket).await;
                        drop((place, held));
                    });
                }
                Err(_) => sleep(ACCEPT_AGAIN).await,
            },
        }
    }
    // Closed first: a caller who comes now is refused by the operating system, and goes elsewhere.
    drop(listener);
    drop(all_closed);
    open.closed().await;
    inbox.push(Event::Drained);
}

/// Waits until a stage is over; a server that is gone is past every stage.
async fn past(stage: &mut watch::Receiver<Stage>, last: Stage) {
    drop(stage.wait_for(|now| *now > last).await);
}

struct Connection {
    served: Arc<Served>,
    inbox: Arc<Inbox>,
    stage: watch::Receiver<Stage>,
    peer: Arc<Peer>,
}

impl Connection {
    async fn run(mut self, socket: TcpStream) {
        // Without it answers would wait for the peer's acknowledgements; a socket that refuses is closing anyway.
        if socket.set_nodelay(true).is_err() {
            return;
        }
        let mut stage = self.stage.clone();
        let handshake = async {
            socket.peek(&mut [0]).await.ok()?;
            match &self.served.tls {
                None => Some(Wire::Plain(socket)),
                Some(tls) => Some(Wire::Tls(Box::new(tls.accept(socket).await.ok()?))),
            }
        };
        let wire = tokio::select! {
            wire = timeout(HANDSHAKE_WITHIN, handshake) => wire,
            () = past(&mut stage, Stage::Serve) => return,
        };
        match wire {
            Ok(Some(Wire::Plain(socket))) => self.http2(socket).await,
            Ok(Some(Wire::Tls(socket))) => self.http2(socket).await,
            _ => {}
        }
    }

    async fn http2<IO>(&mut self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.served.limits;
        let service = service_fn(|http| {
            let answer = request::serve(
                Arc::clone(&self.served),
                Arc::clone(&self.inbox),
                Arc::clone(&self.peer),
                http,
            );
            async { Ok::<_, Infallible>(answer.await) }
        });
        let mut connection = pin!(http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .serve_connection(TokioIo::new(io), service));
        let mut age = pin!(sleep(jittered(limits.connection_age)));
        let mut stage = self.stage.clone();
        // What ends the serving: the peer itself (a broken connection too), its age, the drain.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = age.as_mut() => {}
            () = past(&mut stage, Stage::Serve) => {}
        }
        connection.as_mut().graceful_shutdown();
        let grace = sleep(limits.connection_grace);
        tokio::select! {
            _ = connection => {}
            () = grace => {}
            () = past(&mut stage, Stage::Drain) => {}
        }
    }
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// Up to a tenth more, so that connections that came together do not all leave together.
fn jittered(age: Duration) -> Duration {
    let tenth = u64::try_from(age.as_millis() / 10).unwrap_or(u64::MAX);
    age + Duration::from_millis(RandomState::new().hash_one(()) % tenth.max(1))
}
