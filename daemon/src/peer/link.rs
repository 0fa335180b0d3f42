//! All that is kept of one member: where it is, what waits for it, what came from it, its seats.
//!
//! A link lives as long as the member is in the directory; `gone` ends everything that belongs to
//! it. It does no I/O. `stream`, `requests` and `door` work with it.

use super::outbox::Outbox;
use super::requests::Client;
use super::wire::Purpose;
use super::{PeerAddress, PeerId};
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Former addresses that are dialled after the one of the directory (ruling 14).
const FORMER_MAX: usize = 3;
/// Connections for requests that one member may have open here; with its stream that makes four.
const REQUESTS_MAX: usize = 3;

/// One other member.
#[derive(Debug)]
pub struct Link {
    /// Which member.
    pub id: PeerId,
    /// Frames for it.
    pub outbox: Outbox,
    /// Its end, or that of all.
    pub gone: CancellationToken,
    /// There is a reason to dial at once: it just came to us.
    pub hurry: Notify,
    /// The connection for requests to it.
    pub client: tokio::sync::Mutex<Client>,
    /// Held by whoever reads its stream, so that a new one begins when the former has ended.
    pub reading: tokio::sync::Mutex<()>,
    key_hash: String,
    address: ArcSwap<String>,
    worked: Mutex<Vec<String>>,
    made: Instant,
    /// Microseconds from `made` to when it was last heard, plus one; 0 if it never was.
    heard: AtomicU64,
    /// Its format plus one; 0 if it is not known.
    format: AtomicU32,
    outage_told: AtomicBool,
    /// It said that it stops.
    left: AtomicBool,
    /// It said that this node is no member.
    denies: AtomicBool,
    seats: Mutex<Vec<Seat>>,
}

/// The place of one incoming connection.
#[derive(Clone, Debug)]
pub struct Seat {
    purpose: Purpose,
    /// Its end: a newer connection took its place, or the member is gone.
    pub close: CancellationToken,
}

/// The same key, whatever stands in front of it.
pub fn is_same_key(one: &str, other: &str) -> bool {
    let bare = |text: &str| text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    bare(one) == bare(other)
}

impl Link {
    /// A link that was never up.
    pub fn new(member: &PeerAddress, stop: &CancellationToken) -> Link {
        Link {
            id: PeerId::of(member.raft_id),
            outbox: Outbox::default(),
            gone: stop.child_token(),
            hurry: Notify::new(),
            client: tokio::sync::Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            key_hash: member.key_hash.clone(),
            address: ArcSwap::from_pointee(member.address.clone()),
            worked: Mutex::default(),
            made: Instant::now(),
            heard: AtomicU64::new(0),
            format: AtomicU32::new(0),
            outage_told: AtomicBool::new(false),
            left: AtomicBool::new(false),
            denies: AtomicBool::new(false),
            seats: Mutex::default(),
        }
    }

    /// Whether this is the link of that member with that key.
    pub fn is_of(&self, member: &PeerAddress) -> bool {
        self.id.raft_id == member.raft_id && is_same_key(&self.key_hash, &member.key_hash)
    }

    /// Takes the address that the directory now has. Connections that are open stay.
    pub fn move_to(&self, address: String) {
        if **self.address.load() != address {
            self.address.store(Arc::new(address));
            self.hurry.notify_one();
        }
    }

    /// Where to dial, in this order: the directory's address, then the last that worked.
    pub fn addresses(&self) -> Vec<String> {
        let current = self.address.load_full();
        let worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        let former = worked.iter().rev().filter(|address| **address != *current);
        std::iter::once((*current).clone()).chain(former.take(FORMER_MAX).cloned()).collect()
    }

    /// This address worked.
    pub fn address_worked(&self, address: &str) {
        let mut worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        worked.retain(|former| former != address);
        worked.push(address.to_owned());
        // One more than is dialled: the newest is usually the directory's.
        let surplus = worked.len().saturating_sub(FORMER_MAX + 1);
        worked.drain(..surplus);
    }

    /// How the last attempt to connect ended: whether it said, at any of its addresses, that this
    /// node is no member.
    pub fn note_denied(&self, denied: bool) {
        self.denies.store(denied, Ordering::Relaxed);
    }

    /// Whether it last said that this node is no member.
    pub fn denies(&self) -> bool {
        self.denies.load(Ordering::Relaxed)
    }

    /// Something came from it.
    pub fn hear(&self) {
        let micros = u64::try_from(self.made.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.heard.store(micros + 1, Ordering::Relaxed);
    }

    /// When something last came from it.
    pub fn heard(&self) -> Option<Instant> {
        let micros = self.heard.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.made + Duration::from_micros(micros))
    }

    /// It said that it stops, or, with `false`, it is there again.
    pub fn note_left(&self, left: bool) {
        self.left.store(left, Ordering::Release);
    }

    /// Whether it said that it stops, and has not come back.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// It said which format it speaks.
    pub fn speaks(&self, format: u16) {
        self.format.store(u32::from(format) + 1, Ordering::Relaxed);
    }

    /// The format that it last said.
    pub fn format(&self) -> Option<u16> {
        let format = self.format.load(Ordering::Relaxed).checked_sub(1)?;
        u16::try_from(format).ok()
    }

    /// Whether an outage begins with this; false if it was said already.
    pub fn outage_begins(&self) -> bool {
        !self.outage_told.swap(true, Ordering::AcqRel)
    }

    /// The stream is up: the next outage is a new one.
    pub fn outage_ends(&self) {
        self.outage_told.store(false, Ordering::Release);
    }

    /// A place for an incoming connection. The newest wins: when a member connects again, it has
    /// given the older connection up, whether that is known here or not.
    pub fn take_seat(&self, purpose: Purpose) -> Seat {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|seat| !seat.close.is_cancelled());
        let places = match purpose {
            Purpose::Stream => 1,
            Purpose::Requests => REQUESTS_MAX,
        };
        let same: Vec<usize> = (0..seats.len())
            .filter(|at| seats.get(*at).is_some_and(|seat| seat.purpose == purpose))
            .collect();
        let surplus = (same.len() + 1).saturating_sub(places);
        for at in same.into_iter().take(surplus).rev() {
            seats.remove(at).close.cancel();
        }
        let seat = Seat { purpose, close: self.gone.child_token() };
        seats.push(seat.clone());
        seat
    }

    /// Incoming connections that are open.
    #[cfg(test)]
    pub fn seats_taken(&self) -> usize {
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.iter().filter(|seat| !seat.close.is_cancelled()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        let member = PeerAddress {
            raft_id: 12 << 16 | 3,
            key_hash: "sha256:AB".to_owned(),
            address: "a:1".to_owned(),
        };
        let link = Link::new(&member, &CancellationToken::new());
        assert!(link.is_of(&PeerAddress { key_hash: "ab".to_owned(), ..member.clone() }));
        assert!(!link.is_of(&PeerAddress { key_hash: "ac".to_owned(), ..member.clone() }));
        assert!(!link.is_of(&PeerAddress { raft_id: 12 << 16 | 4, ..member }));
        link
    }

    #[test]
    fn the_directory_s_address_comes_first_and_then_the_last_three_that_worked() {
        let link = link();
        assert_eq!(link.id.node, 12);
        for worked in ["a:1", "b:1", "c:1", "d:1", "e:1", "d:1"] {
            link.address_worked(worked);
        }
        assert_eq!(link.addresses(), ["a:1", "d:1", "e:1", "c:1"]);
        link.move_to("d:1".to_owned());
        assert_eq!(link.addresses(), ["d:1", "e:1", "c:1", "b:1"]);
    }

    #[test]
    fn the_newest_connections_have_the_seats() {
        let link = link();
        let [old, new] = [Purpose::Stream; 2].map(|purpose| link.take_seat(purpose));
        assert!(old.close.is_cancelled() && !new.close.is_cancelled());
        let four = [Purpose::Requests; 4].map(|purpose| link.take_seat(purpose));
        let closed: Vec<bool> = four.iter().map(|seat| seat.close.is_cancelled()).collect();
        assert_eq!(closed, [true, false, false, false]);
        assert_eq!((new.close.is_cancelled(), link.seats_taken()), (false, 4));
        link.gone.cancel();
        assert!(four[3].close.is_cancelled());
    }

    #[test]
    fn what_was_heard_and_what_it_speaks_are_unknown_at_first() {
        let link = link();
        assert_eq!((link.heard(), link.format()), (None, None));
        let before = Instant::now();
        link.hear();
        link.speaks(0);
        let heard = link.heard().expect("heard");
        assert!(heard <= Instant::now() && heard + Duration::from_micros(1) >= before);
        assert_eq!(link.format(), Some(0));
    }
}
