//! How long nobody was served: the longest time between two acknowledged calls of any client.
//!
//! That is what users see of a failover: it begins with the last answer of the old master and ends
//! with the first one of the new.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What all clients of a load have seen together.
#[derive(Debug)]
pub struct Pulse(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    last: Instant,
    longest: Duration,
    beats: u64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse(Mutex::new(Seen { last: Instant::now(), longest: Duration::ZERO, beats: 0 }))
    }
}

impl Pulse {
    /// From now on.
    pub fn begin(&self) {
        self.with(|seen| seen.longest = Duration::ZERO);
    }

    /// A call was acknowledged.
    pub fn beat(&self) {
        self.with(|seen| {
            let now = Instant::now();
            seen.longest = seen.longest.max(now - seen.last);
            seen.last = now;
            seen.beats += 1;
        });
    }

    /// How many calls were acknowledged.
    pub fn beats(&self) -> u64 {
        self.with(|seen| seen.beats)
    }

    /// The longest time without an acknowledged call, up to now.
    pub fn longest(&self) -> Duration {
        self.with(|seen| seen.longest.max(seen.last.elapsed()))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
