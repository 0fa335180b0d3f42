//! Node to node: frames of raft and requests, on the port that clients use (ALPN `tiebeam-peer/1`).
//!
//! After a TLS handshake in which both sides proved which member they are (`verify`, with the
//! material of `tls`), the dialer's first byte says what the connection is (`wire`). `R` is a
//! one-way stream of frames, raft's path (`stream`, out of an `outbox`); `H` is HTTP/2 for
//! everything that asks and waits (`requests`). Every node dials both to every other member
//! (`dial`), so a pair has two streams and each direction has its own order. `door` takes what the
//! front accepted; `link` is all that is kept of one member; `quiet` keeps a stranger who tries
//! again from filling the log. Streams run on a thread of their own (`socket`), everything else on
//! the daemon's runtime.
//!
//! This module knows who is a member only by its [`Directory`] and what arrived only as bytes: it
//! reads no State, no file, and never panics on what a peer sends. The daemon starts it once.

mod dial;
mod door;
mod link;
mod outbox;
mod quiet;
mod requests;
mod socket;
mod stream;
mod tls;
mod verify;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

pub use dial::DialError;
pub use door::Door;
pub use requests::PeerError;
pub use tls::{PeerTls, PeerTlsError};
pub use wire::{FORMAT, FRAME_BYTES_MAX, KEEPALIVE};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use link::Link;
use outbox::Put;
use quiet::Quiet;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How often one source's refused connections are logged.
const REFUSAL_EVERY: Duration = Duration::from_secs(10);
/// How often the dates of one member's certificate are complained about.
const DATES_EVERY: Duration = Duration::from_secs(3600);

/// Another member, as it has to be known to be dialled and let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Node id × 2^16 + incarnation.
    pub raft_id: u64,
    /// SHA-256 of its public key, hex, with or without `sha256:` in front.
    pub key_hash: String,
    /// Where it is reached: `host:port`.
    pub address: String,
}

/// A member that a verified connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerId {
    /// Node id × 2^16 + incarnation.
    pub raft_id: u64,
    /// Its node id.
    pub node: u32,
}

impl PeerId {
    /// The member with this raft id.
    pub fn of(raft_id: u64) -> PeerId {
        PeerId { raft_id, node: u32::try_from(raft_id >> 16).unwrap_or(u32::MAX) }
    }
}

/// Who the members are, by this node's newest knowledge. It is asked in handshakes and in
/// [`Peers::refresh`], must answer at once, and is always right: whoever is not in it is refused.
pub trait Directory: Send + Sync + 'static {
    /// The cluster's id.
    fn cluster_id(&self) -> String;
    /// All members but this node.
    fn members(&self) -> Vec<PeerAddress>;
}

/// What the daemon does with what arrives.
pub trait PeerService: Send + Sync + 'static {
    /// A frame of a member; the frames of one member come in the order in which it sent them, on
    /// one connection. Must return quickly: it runs where the sockets of all members are read.
    fn frame(&self, from: u64, kind: u8, frame: Bytes);
    /// Frames to this member are dropped from now on: its stream is down, or its outbox full. Said
    /// once for each outage, possibly inside [`Peers::send`], so it must neither block nor send.
    fn unreachable(&self, peer: u64);
    /// A request of a member.
    fn request(
        &self,
        from: PeerId,
        request: http::Request<Incoming>,
    ) -> BoxFuture<'static, http::Response<BoxBody<Bytes, io::Error>>>;
}

/// What is counted of the peer channel, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections refused: unknown, foreign, or of another version.
    pub refused: AtomicU64,
    /// Handshakes with a certificate whose dates are over or have not begun.
    pub dates_wrong: AtomicU64,
    /// Streams that were connected, dialled by this node.
    pub streams_dialled: AtomicU64,
    /// Frames written to streams.
    pub frames_sent: AtomicU64,
    /// Bytes of frames written to streams, before TLS.
    pub bytes_sent: AtomicU64,
    /// Frames that found the stream down or the outbox full.
    pub frames_dropped: AtomicU64,
    /// Frames received.
    pub frames_received: AtomicU64,
    /// Bytes of frames received.
    pub bytes_received: AtomicU64,
}

/// What all connections share.
struct Shared {
    tls: Arc<PeerTls>,
    directory: Arc<dyn Directory>,
    service: Arc<dyn PeerService>,
    stop: CancellationToken,
    /// The daemon's runtime: strangers at the door, and requests.
    runtime: Handle,
    /// The thread of the streams.
    streams: Handle,
    links: ArcSwap<HashMap<u64, Arc<Link>>>,
    /// Held while `links` is replaced.
    refreshing: Mutex<()>,
    refusals: Quiet<IpAddr>,
    dates: Quiet<u64>,
    counters: Counters,
}

/// The connections to all other members.
pub struct Peers(Arc<Shared>);

impl std::fmt::Debug for Peers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Peers").field("counters", &self.0.counters).finish_non_exhaustive()
    }
}

impl Peers {
    /// Starts to dial the members of the directory, until `stop`. Must be called inside a tokio
    /// runtime, on which requests then run; frames have a thread of their own. What dials this node
    /// comes through [`Peers::door`].
    pub fn start(
        tls: Arc<PeerTls>,
        directory: Arc<dyn Directory>,
        service: Arc<dyn PeerService>,
        stop: CancellationToken,
    ) -> Arc<Peers> {
        let runtime = Handle::current();
        let streams = socket::spawn_thread(stop.clone()).unwrap_or_else(|error| {
            tracing::warn!(%error, "no thread for peers: their frames share the workers");
            runtime.clone()
        });
        let peers = Arc::new(Peers(Arc::new(Shared {
            tls,
            directory,
            service,
            stop,
            runtime,
            streams,
            links: ArcSwap::from_pointee(HashMap::new()),
            refreshing: Mutex::new(()),
            refusals: Quiet::new(REFUSAL_EVERY),
            dates: Quiet::new(DATES_EVERY),
            counters: Counters::default(),
        })));
        peers.refresh();
        peers
    }

    /// Sends a frame of kind 1 to 255 to a member. Never blocks; any thread may call it.
    ///
    /// False means that it was dropped: the member is not known, its stream is down, its outbox is
    /// full, or the frame is over [`FRAME_BYTES_MAX`]. True means that it is on its way, not that
    /// it arrives.
    pub fn send(&self, to: u64, kind: u8, frame: Vec<u8>) -> bool {
        if frame.len() > FRAME_BYTES_MAX {
            tracing::error!(bytes = frame.len(), kind, "a frame is too large for any peer");
        }
        let links = self.0.links.load();
        let put = match links.get(&to) {
            Some(_) if kind == KEEPALIVE => Put::Refused,
            Some(link) => link.outbox.put(kind, frame),
            None => Put::Refused,
        };
        if put == Put::Taken {
            return true;
        }
        self.0.counters.frames_dropped.fetch_add(1, Ordering::Relaxed);
        match (put, links.get(&to)) {
            (Put::Down, Some(link)) => self.0.link_is_down(link),
            (Put::FullNow, _) => self.0.service.unreachable(to),
            _ => {}
        }
        false
    }

    /// Sends a request to a member and awaits the head of its response. The connection is shared
    /// by all requests to that member and made when it is needed. There is no time limit on the
    /// answer: the caller sets one; to drop the future takes the request back.
    ///
    /// # Errors
    /// [`PeerError`]; [`PeerError::is_unsent`] tells whether the member can have seen it.
    pub async fn request(
        &self,
        to: u64,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, PeerError> {
        let link = self.0.links.load().get(&to).cloned().ok_or(PeerError::NoMember(to))?;
        requests::send(&self.0, &link, request).await
    }

    /// The directory changed: dials new members, and drops every connection, of both directions,
    /// of those who are no longer in it. Cheap if nothing changed.
    pub fn refresh(&self) {
        self.0.refresh();
    }

    /// When anything last came from a member.
    pub fn heard(&self, peer: u64) -> Option<Instant> {
        self.0.links.load().get(&peer)?.heard()
    }

    /// A member said that it stops: until it dials again nothing is expected of it.
    pub fn note_left(&self, peer: u64) {
        if let Some(link) = self.0.links.load().get(&peer) {
            link.note_left(true);
        }
    }

    /// Whether a member said that it stops, and has not dialled since.
    pub fn has_left(&self, peer: u64) -> bool {
        self.0.links.load().get(&peer).is_some_and(|link| link.has_left())
    }

    /// Whether frames to a member go out now.
    pub fn is_connected(&self, peer: u64) -> bool {
        self.0.links.load().get(&peer).is_some_and(|link| link.outbox.is_open())
    }

    /// Members that last refused this node as one that is no member, by node id.
    pub fn deniers(&self) -> Vec<u32> {
        let links = self.0.links.load();
        let mut deniers: Vec<u32> =
            links.values().filter(|link| link.denies()).map(|link| link.id.node).collect();
        deniers.sort_unstable();
        deniers
    }

    /// The number of the format that a member last said it speaks; see [`FORMAT`].
    pub fn format(&self, peer: u64) -> Option<u16> {
        self.0.links.load().get(&peer)?.format()
    }

    /// What the front gives a connection to whose client offers `tiebeam-peer/1`.
    pub fn door(&self) -> Arc<Door> {
        Arc::new(Door::new(Arc::clone(&self.0)))
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

impl Shared {
    fn refresh(self: &Arc<Self>) {
        let _one = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.links.load_full();
        let mut links = HashMap::new();
        let mut new = Vec::new();
        for member in self.directory.members() {
            let id = member.raft_id;
            let link = match before.get(&id).filter(|link| link.is_of(&member)) {
                Some(link) => {
                    link.move_to(member.address);
                    Arc::clone(link)
                }
                None => {
                    let link = Arc::new(Link::new(&member, &self.stop));
                    new.push(Arc::clone(&link));
                    link
                }
            };
            links.insert(id, link);
        }
        let links = Arc::new(links);
        self.links.store(Arc::clone(&links));
        for (id, link) in before.iter() {
            if !links.get(id).is_some_and(|kept| Arc::ptr_eq(kept, link)) {
                tracing::info!(node = link.id.node, raft_id = id, "no longer a peer");
                link.gone.cancel();
            }
        }
        for link in new {
            self.streams.spawn(stream::keep(Arc::clone(self), link));
        }
    }

    /// The link to a verified member; a member that joined a moment ago may have none yet.
    fn link(self: &Arc<Self>, raft_id: u64) -> Option<Arc<Link>> {
        if let Some(link) = self.links.load().get(&raft_id) {
            return Some(Arc::clone(link));
        }
        self.refresh();
        self.links.load().get(&raft_id).cloned()
    }

    /// Says once for each outage that a member cannot be reached.
    fn link_is_down(&self, link: &Link) {
        if link.outage_begins() {
            self.service.unreachable(link.id.raft_id);
        }
    }

    /// Notes that the dates of a member's certificate are not of today.
    fn warn_of_dates(&self, link: &Link, found: &str) {
        self.counters.dates_wrong.fetch_add(1, Ordering::Relaxed);
        if self.dates.may(link.id.raft_id) {
            let node = link.id.node;
            tracing::warn!(node, found, "a peer's certificate is accepted beyond its dates");
        }
    }

    /// Counts a refused connection and logs it, unless its source was logged a moment ago.
    fn note_refusal(&self, source: IpAddr, reason: &str) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        if self.refusals.may(source.to_canonical()) {
            let reason = crate::report::one_line(reason);
            tracing::warn!(%source, reason, "a peer connection is refused");
        }
    }
}
