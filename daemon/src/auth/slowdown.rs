//! Slows down who guesses: a delay per user *and* source, never per user alone (ruling 46).
//!
//! This module owns the count of failures and of attempts under way. A failed login is answered
//! with 401, later with each failure in a row, never later than 2 s; a right password is never
//! delayed. Nobody can lock a user out: only failures from the same network (/24, /64) count
//! together. Memory is bounded. It reads no clock and sleeps nowhere; the time is an argument.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// (user, source) pairs with failures that are remembered; the oldest make room.
pub const PAIRS_MAX: usize = 10_000;
/// Failures older than this count no more, in milliseconds.
pub const AGE_MS: u64 = 600_000;
/// Delays after the first, second, … failure in a row; the last one holds for all that follow.
/// The first already hides what kind of hash was verified, and whether there was one.
const DELAYS: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(1750),
];
/// Verifications under way at once for one user and source; calls with the same password are one.
const ATTEMPTS_PER_PAIR: u32 = 4;
/// Verifications under way at once for one source, whoever the user: others must have a turn.
const ATTEMPTS_PER_SOURCE: u32 = 16;

/// A network: what counts as one source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(String);

impl Network {
    /// The network of a source: an address with or without port, or another text as it is.
    pub fn of(source: &str) -> Network {
        let address = source.parse::<SocketAddr>().map(|address| address.ip());
        let Ok(address) = address.or_else(|_| source.parse::<IpAddr>()) else {
            return Network(source.chars().take(64).collect());
        };
        Network(match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                format!("{a}.{b}.{c}.0/24")
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        })
    }
}

type Pair = (String, Network);

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last_ms: u64,
    number: u64,
}

/// Who failed lately, and what is being verified.
#[derive(Default)]
pub struct Slowdown {
    failures: HashMap<Pair, Failures>,
    /// The same, oldest first; the number keeps two of one millisecond apart.
    order: BTreeMap<(u64, u64), Pair>,
    number: u64,
    attempts: HashMap<Pair, u32>,
    attempts_of_source: HashMap<Network, u32>,
}

impl Slowdown {
    /// Begins an attempt; `false` if too many are under way and there is no room now.
    ///
    /// Each `true` is ended by [`Slowdown::end`].
    #[must_use]
    pub fn begin(&mut self, user: &str, network: &Network) -> bool {
        let pair = (user.to_owned(), network.clone());
        let of_pair = self.attempts.get(&pair).copied().unwrap_or(0);
        let of_source = self.attempts_of_source.get(network).copied().unwrap_or(0);
        if of_pair >= ATTEMPTS_PER_PAIR || of_source >= ATTEMPTS_PER_SOURCE {
            return false;
        }
        self.attempts.insert(pair, of_pair + 1);
        self.attempts_of_source.insert(network.clone(), of_source + 1);
        true
    }

    /// Ends an attempt.
    pub fn end(&mut self, user: &str, network: &Network) {
        release(&mut self.attempts, (user.to_owned(), network.clone()));
        release(&mut self.attempts_of_source, network.clone());
    }

    /// Counts a failure; the answer waits until this long after the request came.
    pub fn failed(&mut self, user: &str, network: &Network, now_ms: u64) -> Duration {
        let pair = (user.to_owned(), network.clone());
        let before = self.failures.remove(&pair);
        if let Some(before) = before {
            self.order.remove(&(before.last_ms, before.number));
        }
        let fresh = before.filter(|before| now_ms.saturating_sub(before.last_ms) < AGE_MS);
        let count = fresh.map_or(0, |before| before.count).saturating_add(1);
        self.number = self.number.wrapping_add(1);
        self.order.insert((now_ms, self.number), pair.clone());
        self.failures.insert(pair, Failures { count, last_ms: now_ms, number: self.number });
        while self.failures.len() > PAIRS_MAX {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.failures.remove(&oldest);
        }
        let step = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(1);
        DELAYS.get(step).copied().unwrap_or(DELAYS[DELAYS.len() - 1])
    }

    /// Forgets the failures of a user and source: he knows the password after all.
    pub fn succeeded(&mut self, user: &str, network: &Network) {
        let pair = (user.to_owned(), network.clone());
        if let Some(before) = self.failures.remove(&pair) {
            self.order.remove(&(before.last_ms, before.number));
        }
    }
}

fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_with_failures_in_a_row_and_never_reach_two_seconds() {
        let mut slowdown = Slowdown::default();
        let here = Network::of("10.0.0.7:51544");
        let delays: Vec<_> =
            (0..50).map(|now| slowdown.failed("admin", &here, now).as_millis()).collect();
        assert_eq!(delays[..5], [250, 500, 1000, 1750, 1750]);
        assert!(delays.iter().all(|delay| *delay < 2000));
        slowdown.succeeded("admin", &here);
        assert_eq!(slowdown.failed("admin", &here, 60), DELAYS[0]);
        assert_eq!(
            slowdown.failed("admin", &here, 60 + AGE_MS),
            DELAYS[0],
            "old ones count no more"
        );
    }

    #[test]
    fn another_source_or_user_is_not_slowed() {
        let mut slowdown = Slowdown::default();
        let attacker = Network::of("10.0.0.7:51544");
        for now in 0..100 {
            slowdown.failed("admin", &attacker, now);
            let _ = slowdown.begin("admin", &attacker);
        }
        let office = Network::of("10.0.1.7:51544");
        assert!(slowdown.begin("admin", &office));
        assert_eq!(slowdown.failed("admin", &office, 100), DELAYS[0]);
        assert_eq!(slowdown.failed("alice", &attacker, 100), DELAYS[0]);
    }

    #[test]
    fn attempts_under_way_are_few_per_pair_and_per_source() {
        let mut slowdown = Slowdown::default();
        let here = Network::of("10.0.0.7");
        let begun = (0..10).filter(|_| slowdown.begin("admin", &here)).count();
        assert_eq!(begun, 4);
        let begun = (0..100).filter(|n| slowdown.begin(&format!("u{n}"), &here)).count();
        assert_eq!(begun, 12);
        assert!(slowdown.begin("admin", &Network::of("10.9.0.7")));
        for _ in 0..4 {
            slowdown.end("admin", &here);
        }
        assert!(slowdown.begin("admin", &here));
        slowdown.end("nobody", &here);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut slowdown = Slowdown::default();
        for n in 0..PAIRS_MAX as u64 + 500 {
            let network = Network::of(&format!("10.{}.{}.1", n / 250, n % 250));
            slowdown.failed("admin", &network, n);
            if slowdown.begin("admin", &network) {
                slowdown.end("admin", &network);
            }
        }
        assert_eq!((slowdown.failures.len(), slowdown.order.len()), (PAIRS_MAX, PAIRS_MAX));
        assert!(slowdown.attempts.is_empty() && slowdown.attempts_of_source.is_empty());
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        for (source, network) in [
            ("10.1.2.3:9", "10.1.2.0/24"),
            ("10.1.2.200", "10.1.2.0/24"),
            ("[::ffff:10.1.2.3]:9", "10.1.2.0/24"),
            ("[2001:db8:1:2:3::4]:9", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("unix:11:1000:77", "unix:11:1000:77"),
        ] {
            assert_eq!(Network::of(source).0, network, "{source}");
        }
    }
}
