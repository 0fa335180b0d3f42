//! Says who may be logged now: at most once per pause and key.
//!
//! A bounded map of times and nothing else. What it holds back is still counted by its callers.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Keys remembered at once; more at the same time are a flood, of which some lines are enough.
const KEYS_MAX: usize = 1_000;

/// When each key was last let through.
#[derive(Debug)]
pub struct Quiet<K> {
    pause: Duration,
    seen: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> Quiet<K> {
    /// Lets each key through once per `pause`.
    pub fn new(pause: Duration) -> Quiet<K> {
        Quiet { pause, seen: Mutex::new(HashMap::new()) }
    }

    /// Whether this key may be logged now.
    pub fn may(&self, key: K) -> bool {
        self.may_at(key, Instant::now())
    }

    fn may_at(&self, key: K, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: &Instant| now.saturating_duration_since(*at) < self.pause;
        if seen.get(&key).is_some_and(recent) {
            return false;
        }
        if seen.len() >= KEYS_MAX {
            seen.retain(|_, at| recent(at));
        }
        if seen.len() >= KEYS_MAX {
            return false;
        }
        seen.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_passes_once_per_pause_and_a_flood_of_keys_is_bounded() {
        let quiet = Quiet::new(Duration::from_secs(10));
        let start = Instant::now();
        assert!(quiet.may_at(0, start));
        assert!(!quiet.may_at(0, start + Duration::from_secs(9)));
        assert!(quiet.may_at(1, start + Duration::from_secs(9)));
        assert!(quiet.may_at(0, start + Duration::from_secs(10)));
        let passed = (2..5_000).filter(|key| quiet.may_at(*key, start)).count();
        assert_eq!(passed, KEYS_MAX - 2);
        assert!(quiet.may_at(9_999, start + Duration::from_secs(60)));
    }
}
