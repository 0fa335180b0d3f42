//! Where peers come in: from the front's ClientHello to a stream or a server of requests.
//!
//! Peers have their own turns for handshakes and their own limit of connections, so that a flood of
//! clients keeps no member out (ruling 41). Whoever is refused gets a TLS alert or a close; the log
//! gets the reason. The front calls it.

use super::link::Link;
use super::socket::Socket;
use super::verify::{Refusal, Verifier};
use super::wire::{self, Greeting, GreetingError, Purpose};
use super::{Shared, dial, requests, stream};
use crate::front::admission::{Admission, HandshakeTurn};
use crate::front::handshake::PeerDoor;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

/// How long a peer may take from its ClientHello to its greeting.
const ENTRY: Duration = Duration::from_secs(5);

/// Why a peer did not come in.
#[derive(Debug, thiserror::Error)]
enum EntryError {
    #[error("there are too many at the door")]
    Full,
    #[error("it took too long")]
    Slow,
    #[error("TLS cannot be configured")]
    Config(#[source] rustls::Error),
    #[error("the TLS handshake failed")]
    Tls(#[source] std::io::Error),
    #[error("it may not come in")]
    Refused(#[source] Arc<Refusal>),
    #[error("node {0} is no longer a member")]
    Gone(u32),
    #[error("the connection broke at the greeting")]
    Greet(#[source] std::io::Error),
    #[error("node {node} is refused")]
    Greeting {
        node: u32,
        #[source]
        source: GreetingError,
    },
}

/// The entry for peers of one node.
pub struct Door {
    shared: Arc<Shared>,
    admission: Arc<Admission>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Door").field("admission", &self.admission).finish_non_exhaustive()
    }
}

/// A peer that came in.
struct Entered {
    stream: TlsStream<Socket>,
    link: Arc<Link>,
    purpose: Purpose,
}

impl PeerDoor for Door {
    fn enter(&self, hello: StartHandshake<TcpStream>, address: SocketAddr) {
        // No waiting here: whoever waits holds a socket that nothing else counts. A member comes
        // again soon enough.
        let Some(turn) = self.admission.handshake_now(address.ip()) else {
            return note(&self.shared, address, &EntryError::Full);
        };
        let (shared, stop) = (Arc::clone(&self.shared), self.shared.stop.clone());
        self.shared.runtime.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = admit(shared, turn, hello, address) => {}
            }
        });
    }
}

impl Door {
    pub(super) fn new(shared: Arc<Shared>) -> Door {
        Door { shared, admission: Admission::new() }
    }
}

async fn admit(
    shared: Arc<Shared>,
    turn: HandshakeTurn,
    hello: StartHandshake<TcpStream>,
    address: SocketAddr,
) {
    dial::prepare(&hello.io);
    let entered = tokio::time::timeout(ENTRY, enter(&shared, hello)).await;
    drop(turn);
    match entered.unwrap_or(Err(EntryError::Slow)) {
        Ok(entered) => serve(shared, entered).await,
        Err(error) => note(&shared, address, &error),
    }
}

fn note(shared: &Shared, address: SocketAddr, error: &EntryError) {
    shared.note_refusal(address.ip(), &crate::report::chain(error));
}

async fn enter(
    shared: &Arc<Shared>,
    hello: StartHandshake<TcpStream>,
) -> Result<Entered, EntryError> {
    let material = shared.tls.current();
    let verifier = Verifier::new(shared, material.clone(), None);
    let config = material.acceptor(verifier.clone()).map_err(EntryError::Config)?;
    let StartHandshake { accepted, io, .. } = hello;
    let hello = StartHandshake::from_parts(accepted, Socket::Bound(io));
    let accepted = hello.into_stream(config).await;
    let (mut stream, verified) = match (accepted, verifier.verdict()) {
        (Ok(stream), Some(Ok(verified))) => (stream, verified),
        (_, Some(Err(refusal))) => return Err(EntryError::Refused(refusal)),
        (Err(error), _) => return Err(EntryError::Tls(error)),
        (Ok(_), None) => return Err(EntryError::Tls(std::io::ErrorKind::PermissionDenied.into())),
    };
    let node = super::PeerId::of(verified.raft_id).node;
    let link = shared.link(verified.raft_id).ok_or(EntryError::Gone(node))?;
    if let Some(found) = &verified.dates_wrong {
        shared.warn_of_dates(&link, found);
    }
    let mut greeting = [0; Greeting::BYTES];
    stream.read_exact(&mut greeting).await.map_err(EntryError::Greet)?;
    let theirs =
        Greeting::from_bytes(greeting).map_err(|source| EntryError::Greeting { node, source })?;
    let mine = Greeting { format: wire::FORMAT, ..theirs };
    stream.write_all(&mine.to_bytes()).await.map_err(EntryError::Greet)?;
    stream.flush().await.map_err(EntryError::Greet)?;
    link.speaks(theirs.format);
    link.hear();
    Ok(Entered { stream, link, purpose: theirs.purpose })
}

/// Serves a peer that came in, until its seat is closed.
async fn serve(shared: Arc<Shared>, entered: Entered) {
    let Entered { mut stream, link, purpose } = entered;
    let seat = link.take_seat(purpose);
    match purpose {
        Purpose::Stream => {
            if !link.outbox.is_open() {
                link.hurry.notify_one();
            }
            if let Err(error) = stream.get_mut().0.unbind() {
                tracing::warn!(%error, "a peer's stream cannot be moved to its thread");
                return seat.close.cancel();
            }
            let streams = shared.streams.clone();
            streams.spawn(async move {
                let ended = tokio::select! {
                    () = seat.close.cancelled() => None,
                    ended = read(&shared, &link, stream) => Some(ended),
                };
                seat.close.cancel();
                let why = ended.map(|error| error.to_string());
                tracing::info!(node = link.id.node, why, "a peer's stream ended");
            });
        }
        Purpose::Requests => {
            let ended = tokio::select! {
                () = seat.close.cancelled() => Ok(()),
                ended = requests::serve(&shared, &link, stream) => ended,
            };
            seat.close.cancel();
            tracing::debug!(node = link.id.node, ?ended, "a peer's requests ended");
        }
    }
}

async fn read(shared: &Shared, link: &Link, mut stream: TlsStream<Socket>) -> std::io::Error {
    match stream.get_mut().0.bind() {
        Ok(()) => stream::receive(shared, link, stream).await,
        Err(error) => error,
    }
}
