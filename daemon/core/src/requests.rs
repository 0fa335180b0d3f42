//! Idempotency keys: which call made which job (ruling 5).
//!
//! The cluster keeps the newest [`REQUEST_IDS_MAX`] keys for 24 hours of cluster time. What falls
//! out moves a floor up: a UUIDv7 made before the floor may have been used, so it is refused and
//! never run.

use crate::proposal::RequestKey;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tiebeam_proto::limits::{REQUEST_ID_AGE_US, REQUEST_IDS_MAX};
use tiebeam_proto::time::Time;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Used {
    job: String,
    digest: String,
    clock_us: u64,
    wall_ms: i64,
    number: u64,
}

/// The table of used keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestIds {
    used: OrdMap<Arc<str>, Used>,
    order: OrdMap<u64, Arc<str>>,
    next: u64,
    /// Wall-clock milliseconds of the newest key that fell out.
    floor_ms: i64,
    /// Keys that fell out before their 24 hours, for a metric.
    pub dropped_early: u64,
}

/// What a key tells about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is new.
    New,
    /// This call was made before and has this job.
    Same(String),
    /// The key was used for another call.
    Other,
    /// The key is older than what is remembered.
    Expired,
}

impl RequestIds {
    /// What is known of `user`'s key.
    pub fn look_up(&self, user: &str, key: &RequestKey) -> Lookup {
        match self.used.get(slot(user, &key.key).as_str()) {
            Some(used) if used.digest == key.digest => Lookup::Same(used.job.clone()),
            Some(_) => Lookup::Other,
            None if uuid_v7_ms(&key.key).is_some_and(|made| made <= self.floor_ms) => {
                Lookup::Expired
            }
            None => Lookup::New,
        }
    }

    /// Notes that the key was used, and lets go of what is too old or too many.
    pub fn note(&mut self, user: &str, key: &RequestKey, job: String, clock_us: u64, wall: Time) {
        let name: Arc<str> = Arc::from(slot(user, &key.key));
        let number = self.next;
        self.next += 1;
        let used =
            Used { job, digest: key.digest.clone(), clock_us, wall_ms: wall.0 / 1000, number };
        self.used.insert(name.clone(), used);
        self.order.insert(number, name);
        self.trim(clock_us);
    }

    fn trim(&mut self, clock_us: u64) {
        while let Some((number, name)) = self.order.get_min() {
            let number = *number;
            let oldest = self.used.get(name).expect("the order names only kept keys");
            let old = oldest.clock_us + REQUEST_ID_AGE_US < clock_us;
            if !old && self.order.len() <= REQUEST_IDS_MAX {
                return;
            }
            self.floor_ms = self.floor_ms.max(oldest.wall_ms);
            self.dropped_early += u64::from(!old);
            let name = name.clone();
            self.used.remove(&name);
            self.order.remove(&number);
        }
    }

    /// How many keys are kept.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether no key is kept.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

/// The name of a user's key in the table: user names hold no space, so no two pairs meet.
fn slot(user: &str, key: &str) -> String {
    format!("{user} {key}")
}

/// The time in a UUIDv7, in milliseconds since 1970; `None` if the text is no UUIDv7.
fn uuid_v7_ms(text: &str) -> Option<i64> {
    let dashes = [8, 13, 18, 23];
    let well_formed = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| {
            if dashes.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
        });
    if !well_formed || text.as_bytes()[14] != b'7' {
        return None;
    }
    i64::from_str_radix(&format!("{}{}", &text[..8], &text[9..13]), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, digest: &str) -> RequestKey {
        RequestKey { key: text.into(), digest: digest.into() }
    }

    #[test]
    fn a_key_is_the_same_other_new_or_expired() {
        let mut ids = RequestIds::default();
        let old = "01900000-0000-7000-8000-000000000000";
        ids.note("a", &key(old, "d"), "11.1".into(), 0, Time(0x0190_0000_0000 * 1000));
        assert_eq!(ids.look_up("a", &key(old, "d")), Lookup::Same("11.1".into()));
        assert_eq!(ids.look_up("a", &key(old, "e")), Lookup::Other);
        assert_eq!(ids.look_up("b", &key(old, "d")), Lookup::New);
        ids.note("a", &key("x", "d"), "11.2".into(), REQUEST_ID_AGE_US + 1, Time(i64::MAX));
        assert_eq!(ids.look_up("a", &key(old, "d")), Lookup::Expired);
        assert_eq!((ids.len(), ids.dropped_early), (1, 0));
    }
}
