//! The cluster's wall clock, as far as a client needs it.
//!
//! A `request_id` is a UUIDv7, and the cluster refuses one that looks too old (ruling 5). So its
//! time is taken from the `Date` header of the answers, not from this machine's clock, which may
//! be days off. This module owns that offset; the transport's answers feed it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No answer with a date has come yet.
const UNKNOWN: i64 = i64::MIN;
/// `Date` has whole seconds, so a smaller difference says nothing; in milliseconds.
const NOISE_MS: i64 = 2_000;

/// Offset of the cluster's clock from the local one.
#[derive(Debug)]
pub(crate) struct ServerClock {
    offset_ms: AtomicI64,
}

impl ServerClock {
    /// A clock that knows nothing yet.
    pub(crate) const fn new() -> ServerClock {
        ServerClock { offset_ms: AtomicI64::new(UNKNOWN) }
    }

    /// Whether a date was seen.
    pub(crate) fn known(&self) -> bool {
        self.offset_ms.load(Ordering::Relaxed) != UNKNOWN
    }

    /// Takes note of an answer's `Date` header.
    pub(crate) fn note(&self, date: &str) {
        if let Ok(seen) = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date) {
            let offset = seen.as_millisecond().saturating_sub(local_ms());
            let offset = if offset.abs() <= NOISE_MS { 0 } else { offset };
            self.offset_ms.store(offset, Ordering::Relaxed);
        }
    }

    /// Milliseconds since 1970 by the cluster's clock; by the local one while it is not known.
    pub(crate) fn now_ms(&self) -> u64 {
        let offset = match self.offset_ms.load(Ordering::Relaxed) {
            UNKNOWN => 0,
            offset => offset,
        };
        u64::try_from(local_ms().saturating_add(offset)).unwrap_or(0)
    }
}

fn local_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_far_from_ours_is_believed_and_nonsense_is_not() {
        let clock = ServerClock::new();
        clock.note("yesterday");
        assert!(!clock.known());
        clock.note("Fri, 20 Nov 2099 04:05:06 GMT");
        assert!(clock.known());
        let year_2099 = 4_098_830_706_000;
        assert!(clock.now_ms().abs_diff(year_2099) < 60_000);
    }
}
