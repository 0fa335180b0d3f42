//! Who may connect now: connections, handshakes, handshakes per source, bytes of bodies.
//!
//! Counters and semaphores only; `listen` asks before it serves a connection, `body` before it
//! keeps a byte. A connection over the limit is closed at once; a handshake over its limit waits
//! for its turn inside the handshake's own ten seconds, so that a burst of honest clients gets in
//! and a flood from one source only stands in its own way (ruling 41).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tiebeam_proto::limits::{
    BODIES_BYTES_MAX, CONNECTIONS_MAX, HANDSHAKES_MAX, HANDSHAKES_PER_SOURCE_MAX,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams over the limit of connections that may show that they are peers: a cluster's members all
/// at once, and some clients that come between.
const DOORSTEP_MAX: usize = 128;

/// The counters of one front; shared by all its listeners.
#[derive(Debug)]
pub struct Admission {
    connections: Arc<Semaphore>,
    doorstep: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    sources: Mutex<HashMap<IpAddr, SourceEntry>>,
    bodies_bytes: AtomicUsize,
}

#[derive(Debug)]
struct SourceEntry {
    turns: Arc<Semaphore>,
    users: usize,
}

/// A place in the handshakes, given back on drop.
#[derive(Debug)]
pub struct HandshakeTurn {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _entry: SourceUse,
}

#[derive(Debug)]
struct SourceUse {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Drop for SourceUse {
    fn drop(&mut self) {
        let mut sources = self.admission.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = sources.get_mut(&self.source) {
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// An IPv6 source is its /64: one host owns at least that many addresses.
fn source_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl Admission {
    /// Nothing admitted yet, limits of `proto::limits`.
    pub fn new() -> Arc<Admission> {
        Arc::new(Admission {
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            doorstep: Arc::new(Semaphore::new(DOORSTEP_MAX)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            sources: Mutex::new(HashMap::new()),
            bodies_bytes: AtomicUsize::new(0),
        })
    }

    /// A place for a connection, or `None` if there is none.
    pub fn connection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// A place for a stream that has to say at once that it is a peer, for when there is no other.
    pub fn doorstep(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.doorstep).try_acquire_owned().ok()
    }

    /// Connections that are open.
    pub fn connections_open(&self) -> usize {
        CONNECTIONS_MAX.saturating_sub(self.connections.available_permits())
    }

    /// Waits for a place in the handshakes; the caller bounds the wait. `None` never happens while
    /// the front lives (the semaphores are not closed).
    pub async fn handshake(self: &Arc<Self>, address: IpAddr) -> Option<HandshakeTurn> {
        let (turns, entry) = self.source(address);
        let own = turns.acquire_owned().await.ok()?;
        let all = Arc::clone(&self.handshakes).acquire_owned().await.ok()?;
        Some(HandshakeTurn { _all: all, _own: own, _entry: entry })
    }

    /// A place in the handshakes if there is one now, for connections that may not wait.
    pub fn handshake_now(self: &Arc<Self>, address: IpAddr) -> Option<HandshakeTurn> {
        let (turns, entry) = self.source(address);
        let own = turns.try_acquire_owned().ok()?;
        let all = Arc::clone(&self.handshakes).try_acquire_owned().ok()?;
        Some(HandshakeTurn { _all: all, _own: own, _entry: entry })
    }

    fn source(self: &Arc<Self>, address: IpAddr) -> (Arc<Semaphore>, SourceUse) {
        let source = source_key(address);
        let turns = {
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = sources.entry(source).or_insert_with(|| SourceEntry {
                turns: Arc::new(Semaphore::new(HANDSHAKES_PER_SOURCE_MAX)),
                users: 0,
            });
            entry.users += 1;
            Arc::clone(&entry.turns)
        };
        (turns, SourceUse { admission: Arc::clone(self), source })
    }

    /// A charge for a body that is going to be read, empty so far.
    pub fn body(self: &Arc<Self>) -> BodyCharge {
        BodyCharge { admission: Arc::clone(self), bytes: 0 }
    }
}

/// The bytes of one body in memory, given back on drop. Only bytes that arrived are charged: a
/// client that announces much and sends nothing takes no room from others.
#[derive(Debug)]
pub struct BodyCharge {
    admission: Arc<Admission>,
    bytes: usize,
}

impl BodyCharge {
    /// Charges `more` bytes; false, and nothing charged, if all bodies together would be too many.
    pub fn add(&mut self, more: usize) -> bool {
        let all = &self.admission.bodies_bytes;
        if all.fetch_add(more, Ordering::Relaxed) + more > BODIES_BYTES_MAX {
            all.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }
}

impl Drop for BodyCharge {
    fn drop(&mut self) {
        self.admission.bodies_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_source_has_sixteen_turns_and_is_forgotten_after_them() {
        let admission = Admission::new();
        let address: IpAddr = [127, 0, 0, 1].into();
        let mut turns = Vec::new();
        for _ in 0..HANDSHAKES_PER_SOURCE_MAX {
            turns.push(admission.handshake(address).await);
        }
        let mut next = Box::pin(admission.handshake(address));
        assert!(futures_util::poll!(&mut next).is_pending());
        assert!(admission.handshake_now(address).is_none());
        let other = admission.handshake([127, 0, 0, 2].into()).await;
        assert!(other.is_some());
        turns.pop();
        assert!(futures_util::poll!(&mut next).is_ready());
        drop((turns, other));
        assert!(admission.sources.lock().is_ok_and(|sources| sources.is_empty()));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let of = |text: &str| text.parse().map(source_key).ok();
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn bodies_together_are_bounded() {
        let admission = Admission::new();
        let (mut one, mut two) = (admission.body(), admission.body());
        assert!(one.add(BODIES_BYTES_MAX - 10));
        assert!(!two.add(11));
        assert!(two.add(10));
        drop(one);
        assert!(two.add(11));
    }
}
