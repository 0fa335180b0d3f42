//! The daemon's front: connections, TLS, HTTP and the protocols on it, up to the call of a method.
//!
//! One request, file by file: `listen` or `unix` accepts and `admission` finds it a place;
//! `handshake` does TLS by `tls`; `connection` runs hyper with the timers of `activity`; `http`
//! checks in the order of ruling 2 (`origin`, `login`, `body`); `message` picks the protocol, one
//! of `jsonrpc`, `xmlrpc` and `rest`; beside them are `ws` and the `probes`. `dispatch` and `table`
//! bring the call to [`seam::Service`]; `facts` says what its record keeps; `answer` makes the
//! response. `drain` ends all of it. Connections of other members go to the peers' door, after the
//! ClientHello and before anything else.
//!
//! The front knows nothing of State, jobs or passwords, reads no file but its socket, and never
//! panics on a request.

pub mod activity;
pub mod admission;
pub mod answer;
pub mod body;
pub mod connection;
pub mod dispatch;
pub mod drain;
pub mod facts;
pub mod handshake;
pub mod http;
pub mod joining;
mod jsonrpc;
pub mod listen;
pub mod login;
pub mod message;
pub mod origin;
pub mod probes;
pub mod rest;
pub mod seam;
pub mod table;
pub mod tls;
pub mod unix;
pub mod ws;
pub mod xmlrpc;

#[cfg(test)]
mod tests;

use admission::Admission;
use connection::Timers;
use drain::Drain;
use handshake::PeerDoor;
use seam::{MethodClass, Service};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use table::Table;
use tls::TlsState;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What all connections share.
pub struct Shared {
    /// The rest of the daemon.
    pub service: Arc<dyn Service>,
    /// The methods.
    pub table: Table,
    /// Places for connections, handshakes and bodies.
    pub admission: Arc<Admission>,
    /// The end.
    pub drain: Drain,
    /// How long a connection may wait.
    pub timers: Timers,
    /// Numbers of `/ws` sessions given out.
    pub sessions: AtomicUsize,
    /// Where peers go; empty while this front takes clients only.
    pub peers: OnceLock<Arc<dyn PeerDoor>>,
}

impl Shared {
    /// A number that no other open `/ws` session has.
    pub fn next_session(&self) -> usize {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether this is the name of an RPC method.
    pub fn is_method(&self, name: &str) -> bool {
        dispatch::OWN.contains(&name) || self.service.method_class(name) != MethodClass::Unknown
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Shared").field("admission", &self.admission).finish_non_exhaustive()
    }
}

/// Why there is no front.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// Two methods of the service have one name.
    #[error("a method is registered twice")]
    Methods(#[source] jsonrpsee::core::RegisterMethodError),
    /// The unix socket.
    #[error("the unix socket cannot be served")]
    Socket(#[source] unix::SocketError),
}

/// The front of one daemon. It serves from the first listener given to it until [`Front::drain`].
#[derive(Debug)]
pub struct Front {
    shared: Arc<Shared>,
}

/// A listener that serves. It goes on when this is dropped.
#[derive(Debug)]
pub struct Listening(CancellationToken);

impl Listening {
    /// Closes this listener; its connections go on.
    pub fn close(&self) {
        self.0.cancel();
    }
}

impl Front {
    /// A front for a service, without listeners.
    ///
    /// # Errors
    ///
    /// If the service names a method twice.
    pub fn new(service: Arc<dyn Service>) -> Result<Front, FrontError> {
        Front::with_timers(service, Timers::default())
    }

    /// A front with other limits on waiting than the wire's: for tests.
    ///
    /// # Errors
    ///
    /// As [`Front::new`].
    pub fn with_timers(service: Arc<dyn Service>, timers: Timers) -> Result<Front, FrontError> {
        let table = Table::new(&service.methods()).map_err(FrontError::Methods)?;
        let shared = Shared {
            service,
            table,
            admission: Admission::new(),
            drain: Drain::new(),
            timers,
            sessions: AtomicUsize::new(0),
            peers: OnceLock::new(),
        };
        Ok(Front { shared: Arc::new(shared) })
    }

    /// Takes connections of other members on all TLS listeners and hands them to `door`, which the
    /// drain does not wait for. The first door stays.
    pub fn open_to_peers(&self, door: Arc<dyn PeerDoor>) {
        if self.shared.peers.set(door).is_err() {
            tracing::debug!("the front takes peers already");
        }
    }

    /// Serves clients on `listener` with the TLS state, which may be replaced at any time. Must be
    /// called inside a tokio runtime, as the two below.
    pub fn serve_tls(&self, listener: TcpListener, tls: Arc<TlsState>) -> Listening {
        self.accept(listener, listen::Kind::Tls(tls))
    }

    /// Serves `GET /metrics` without TLS and login; the caller sees to it that this is loopback.
    pub fn serve_metrics(&self, listener: TcpListener) -> Listening {
        self.accept(listener, listen::Kind::Metrics)
    }

    fn accept(&self, listener: TcpListener, kind: listen::Kind) -> Listening {
        let close = self.shared.drain.close();
        let work = listen::accept(listener, kind, Arc::clone(&self.shared), close.clone());
        self.shared.drain.spawn_listener(work);
        Listening(close)
    }

    /// Makes the unix socket and serves it.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made.
    pub fn serve_unix(&self, path: &Path) -> Result<Listening, FrontError> {
        let listener = unix::bind(path).map_err(FrontError::Socket)?;
        let close = self.shared.drain.close();
        let shared = Arc::clone(&self.shared);
        let work = unix::accept(listener, path.to_owned(), shared, close.clone());
        self.shared.drain.spawn_listener(work);
        Ok(Listening(close))
    }

    /// Connections that are open, for the metrics.
    pub fn connections_open(&self) -> usize {
        self.shared.admission.connections_open()
    }

    /// Stops: listeners close, idle connections close, open requests are answered; calls that wait
    /// see [`seam::Call::stop`]. Returns when the last connection is gone.
    pub async fn drain(&self) {
        self.shared.drain.finish().await;
    }
}
