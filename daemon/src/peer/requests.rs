//! Requests between members: HTTP/2, one connection per direction that all requests share.
//!
//! The client's connection is made when a request needs it and replaced when it is dead; pings find
//! that out within seconds. A request that certainly did not go out is sent again on a new
//! connection, once; any other failure is told, because the member may have acted on it. The server
//! half hands requests to the service and has no opinion on them.

use super::dial::{self, DialError};
use super::link::Link;
use super::wire::Purpose;
use super::{PeerId, PeerService, Shared};
use bytes::Bytes;
use http::Uri;
use http::uri::{Authority, Scheme};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// A ping after so long, and how long its answer may take.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_WAIT: Duration = Duration::from_secs(3);
/// Requests that one member may have open here.
const REQUESTS_MAX: u32 = 1_000;
/// Bytes under way before the reader has to say that it took some: of a response, a chunk of a
/// snapshot; of a connection, several of them.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes of one HTTP/2 frame.
const FRAME_BYTES: u32 = 64 << 10;
/// The host of all requests: who is meant is settled by the connection.
const HOST: Authority = Authority::from_static("peer.tiebeam.invalid");

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There is no such member.
    #[error("{} is no member", PeerId::of(*.0).node)]
    NoMember(u64),
    /// It cannot be reached.
    #[error("node {node} cannot be reached")]
    Dial {
        /// Its node id.
        node: u32,
        /// Why; one attempt may have failed for several requests.
        #[source]
        source: Arc<DialError>,
    },
    /// HTTP/2 could not begin.
    #[error("node {node} does not speak HTTP/2")]
    Begin {
        /// Its node id.
        node: u32,
        /// What was wrong.
        #[source]
        source: hyper::Error,
    },
    /// The request could not be put on a connection.
    #[error("a request to node {node} could not be sent")]
    Unsent {
        /// Its node id.
        node: u32,
        /// What was wrong.
        #[source]
        source: hyper::Error,
    },
    /// The connection was lost before the response: the member may have acted.
    #[error("node {node} was lost before it answered")]
    Lost {
        /// Its node id.
        node: u32,
        /// What was wrong.
        #[source]
        source: hyper::Error,
    },
}

impl PeerError {
    /// Whether the member certainly did not see the request.
    pub fn is_unsent(&self) -> bool {
        !matches!(self, PeerError::Lost { .. })
    }
}

/// The connection for requests to one member.
#[derive(Debug, Default)]
pub struct Client {
    sender: Option<SendRequest<Full<Bytes>>>,
    /// When dialling last failed, and why.
    failed: Option<(Instant, Arc<DialError>)>,
}

/// Sends a request and awaits the head of its response.
pub async fn send(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    mut request: http::Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, PeerError> {
    let node = link.id.node;
    complete(request.uri_mut());
    let mut again = true;
    loop {
        let mut sender = connected(shared, link).await?;
        let mut failed = match sender.try_send_request(request).await {
            Ok(response) => {
                link.hear();
                return Ok(response);
            }
            Err(failed) => failed,
        };
        let unsent = failed.take_message();
        let source = failed.into_error();
        match unsent {
            Some(whole) if std::mem::take(&mut again) => {
                // hyper gave the request back: its connection was closing.
                request = whole;
                forget(link, &sender).await;
            }
            Some(_) => return Err(PeerError::Unsent { node, source }),
            None => return Err(PeerError::Lost { node, source }),
        }
    }
}

/// HTTP/2 wants a scheme and a host.
fn complete(uri: &mut Uri) {
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(HOST);
    parts.path_and_query.get_or_insert(http::uri::PathAndQuery::from_static("/"));
    // The parts are whole now, so this cannot fail; a request for `/` would be answered with 404.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Drops the connection, unless somebody else has replaced it.
async fn forget(link: &Link, used: &SendRequest<Full<Bytes>>) {
    let mut client = link.client.lock().await;
    if used.is_closed() || !used.is_ready() {
        client.sender = None;
    }
}

/// The connection that is there, or a new one. Those who wait here share one attempt.
async fn connected(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
) -> Result<SendRequest<Full<Bytes>>, PeerError> {
    let node = link.id.node;
    let asked = Instant::now();
    let mut client = link.client.lock().await;
    if let Some(sender) = client.sender.as_ref().filter(|sender| !sender.is_closed()) {
        return Ok(sender.clone());
    }
    if let Some((_, source)) = client.failed.as_ref().filter(|(at, _)| *at >= asked) {
        return Err(PeerError::Dial { node, source: Arc::clone(source) });
    }
    client.sender = None;
    let stream = match dial::connect(shared, link, Purpose::Requests).await {
        Ok(stream) => stream,
        Err(error) => {
            let source = Arc::new(error);
            client.failed = Some((Instant::now(), Arc::clone(&source)));
            return Err(PeerError::Dial { node, source });
        }
    };
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| PeerError::Begin { node, source })?;
    let gone = link.gone.clone();
    shared.runtime.spawn(async move {
        tokio::select! {
            () = gone.cancelled() => {}
            ended = connection => {
                tracing::debug!(node, ?ended, "the connection for requests to a peer ended");
            }
        }
    });
    client.sender = Some(sender.clone());
    Ok(sender)
}

/// Serves the requests of a member until the connection ends.
pub async fn serve<S>(shared: &Shared, link: &Arc<Link>, stream: S) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (service, from): (Arc<dyn PeerService>, PeerId) = (Arc::clone(&shared.service), link.id);
    let heard = Arc::clone(link);
    let answer = service_fn(move |request| {
        heard.hear();
        let answer = service.request(from, request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(REQUESTS_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}
