//! Accept loops: TLS for everybody, and plain loopback for metrics.
//!
//! A loop accepts, asks `admission` for a place, and hands the stream to a task of its own; it
//! never waits for a client. It ends by its close signal and drops its listener with that.

use super::Shared;
use super::connection::{Connection, Peer, Role, Version, serve};
use super::handshake::{Arrival, HandshakeError, Secured, handshake};
use super::tls::TlsState;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Pause after an accept that failed: when file descriptors run out it would fail again at once.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What becomes of an accepted stream.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// TLS and everything behind it.
    Tls(Arc<TlsState>),
    /// Metrics in plain HTTP.
    Metrics,
}

/// Accepts until `close`.
pub(super) async fn accept(
    listener: TcpListener,
    kind: Kind,
    shared: Arc<Shared>,
    close: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = close.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => admit(stream, address, &kind, &shared),
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting connections fails");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an accept failed because of the client alone.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// The place that a stream has among the others.
enum Place {
    Client(OwnedSemaphorePermit),
    /// Clients have taken all of them: only a peer comes in.
    Doorstep {
        _held: OwnedSemaphorePermit,
    },
}

fn place(kind: &Kind, shared: &Shared) -> Option<Place> {
    if let Some(permit) = shared.admission.connection() {
        return Some(Place::Client(permit));
    }
    let takes_peers = matches!(kind, Kind::Tls(_)) && shared.peers.get().is_some();
    let doorstep = takes_peers.then(|| shared.admission.doorstep()).flatten();
    doorstep.map(|held| Place::Doorstep { _held: held })
}

fn admit(stream: TcpStream, address: SocketAddr, kind: &Kind, shared: &Arc<Shared>) {
    let Some(place) = place(kind, shared) else {
        tracing::warn!(%address, "too many connections: closed");
        return;
    };
    prepare(&stream);
    let (kind, shared) = (kind.clone(), Arc::clone(shared));
    let drain = shared.drain.clone();
    drain.spawn_connection(async move {
        match (kind, place) {
            (Kind::Tls(tls), place) => serve_tls(stream, address, &tls, shared, place).await,
            (Kind::Metrics, Place::Client(permit)) => {
                let peer = Peer::Tcp { address, tls: None, certificate: None };
                let connection = Connection { shared, peer, role: Role::Metrics, permit };
                serve(stream, Version::Http1, Arc::new(connection)).await;
            }
            (Kind::Metrics, Place::Doorstep { .. }) => {}
        }
    });
}

/// Answers are small and wanted at once; a peer that vanished is found by the kernel, because no
/// timer of ours may close a connection with an open request.
fn prepare(stream: &TcpStream) {
    let set = stream
        .set_nodelay(true)
        .and_then(|()| Ok(rustix::net::sockopt::set_socket_keepalive(stream, true)?))
        .and_then(|()| {
            let idle = Duration::from_secs(60);
            Ok(rustix::net::sockopt::set_tcp_keepidle(stream, idle)?)
        });
    if let Err(error) = set {
        tracing::debug!(%error, "socket options cannot be set");
    }
}

async fn serve_tls(
    stream: TcpStream,
    address: SocketAddr,
    tls: &TlsState,
    shared: Arc<Shared>,
    place: Place,
) {
    let has_place = matches!(place, Place::Client(_));
    let arrival = tokio::select! {
        () = shared.drain.stop().cancelled() => return,
        arrival = handshake(stream, address, tls, &shared, has_place) => arrival,
    };
    match (arrival, place) {
        (Ok(Arrival::Client(secured)), Place::Client(permit)) => {
            let Secured { stream, version, peer } = *secured;
            let connection = Connection { shared, peer, role: Role::Rpc, permit };
            serve(stream, version, Arc::new(connection)).await;
        }
        (Ok(_) | Err(HandshakeError::Left | HandshakeError::Plain), _) => {}
        (Err(HandshakeError::Full), _) => {
            tracing::warn!(%address, "too many connections: closed");
        }
        (Err(error), _) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(%address, %error, source, "no connection");
        }
    }
}
