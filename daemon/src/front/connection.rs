//! One connection, from its first request to its last: who is at the other end, and hyper's loop
//! with the front's timers around it. `listen` and `unix` make connections; `http` answers their
//! requests.

use super::Shared;
use super::activity::{Activity, Watched};
use super::drain::IDLE_WHILE_DRAINING;
use super::http;
use super::seam::{ClientCertificate, Source};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_proto::limits::{HEAD_READ, IDLE};
use tiebeam_proto::record::TlsFacts;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

/// Requests that one HTTP/2 connection may have open at once; a JSON-RPC batch has as many.
const H2_STREAMS_MAX: u32 = 100;
/// Bytes of a request's headers: a bearer token has 300, a trace header 60.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Who is at the other end.
#[derive(Debug)]
pub enum Peer {
    /// A TCP client.
    Tcp {
        /// Its address.
        address: SocketAddr,
        /// The TLS session; absent on the plain loopback listener for metrics.
        tls: Option<TlsFacts>,
        /// Its certificate, if it gave one; the chain is verified.
        certificate: Option<Arc<ClientCertificate>>,
    },
    /// A process on this machine.
    Unix {
        /// Its user id, from the kernel.
        uid: u32,
        /// Its process id; 0 if the kernel did not say.
        pid: i32,
    },
}

impl Peer {
    /// As the record names it: `address:port`, or `unix:<node>:<uid>:<pid>`.
    pub fn recorded(&self, node_id: u32) -> String {
        match self {
            Peer::Tcp { address, .. } => address.to_string(),
            Peer::Unix { uid, pid } => format!("unix:{node_id}:{uid}:{pid}"),
        }
    }

    /// The TLS session.
    pub fn tls(&self) -> Option<&TlsFacts> {
        match self {
            Peer::Tcp { tls, .. } => tls.as_ref(),
            Peer::Unix { .. } => None,
        }
    }

    /// Where its failures are counted.
    pub fn source(&self) -> Source {
        match self {
            Peer::Tcp { address, .. } => Source::Address(address.ip().to_canonical()),
            Peer::Unix { .. } => Source::Unix,
        }
    }

    /// Whether this is the unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Peer::Unix { .. })
    }
}

/// The version of HTTP that the handshake settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Rpc,
    /// `GET /metrics` without a login, on loopback (`metrics.listen`).
    Metrics,
}

/// The two limits on a connection without a whole request.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Without any request.
    pub idle: Duration,
}

impl Default for Timers {
    /// The wire's limits.
    fn default() -> Timers {
        Timers { head: HEAD_READ, idle: IDLE }
    }
}

/// What a request needs to know of its connection.
#[derive(Debug)]
pub struct Connection {
    /// The front.
    pub shared: Arc<Shared>,
    /// The other end.
    pub peer: Peer,
    /// What the listener is for.
    pub role: Role,
    /// Its place among the connections; a `/ws` that outlives hyper's loop keeps it too.
    pub permit: OwnedSemaphorePermit,
}

/// Serves requests until either side closes.
///
/// hyper treats the end of the client's stream as its going away and drops the request: a client
/// that dies in a `job_wait` must not keep its place among the waiting calls for minutes.
pub async fn serve<S>(stream: S, version: Version, connection: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let timers = connection.shared.timers;
    let head_limit = (version == Version::Http1).then_some(timers.head);
    let activity = Activity::new(timers.idle, head_limit);
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let stop = connection.shared.drain.stop().clone();
    let requests = Arc::clone(&activity);
    let service = service_fn(move |request| {
        let open = requests.open();
        let connection = Arc::clone(&connection);
        async move {
            let answer = http::answer(&connection, request).await;
            drop(open);
            Ok::<_, Infallible>(answer)
        }
    });
    let builder = builder(version);
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(io, service));
    tokio::select! {
        biased;
        ended = serving.as_mut() => return note_end(ended),
        () = stop.cancelled() => {}
        () = activity.expired() => {}
    }
    // Whatever is open is finished, however long it takes; only an idle rest is cut.
    serving.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        ended = serving => note_end(ended),
        () = activity.idle_for(IDLE_WHILE_DRAINING) => {}
    }
}

fn builder(version: Version) -> Builder<TokioExecutor> {
    let mut builder = match version {
        Version::Http1 => Builder::new(TokioExecutor::new()).http1_only(),
        Version::Http2 => Builder::new(TokioExecutor::new()).http2_only(),
    };
    // The head's time limit is `Activity`'s, which does not run between requests.
    builder.http1().header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32);
    builder
}

fn note_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
