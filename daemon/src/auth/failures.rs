//! Collects facts about access for the audit trail, so that no attacker can fill it (ruling 46).
//!
//! This module owns the collection: at most one record per fact, source and user each 10 s, with a
//! count; at most 100 sources a minute; the rest as one sum. It is pure: the times are arguments,
//! and the daemon drains the records and proposes them. A name that cannot be a user's is not
//! kept: people type passwords where the name belongs.

use crate::certificate::is_user_name;
use std::collections::{BTreeMap, BTreeSet};
use tiebeam_proto::{
    record::{AuditRecord, FORMAT},
    time::Time,
};

/// How long facts are counted into one record, in milliseconds.
pub const WINDOW_MS: u64 = 10_000;
/// Sources that get records of their own each minute.
pub const SOURCES_MAX: usize = 100;
/// Records that are open at once; a source that tries many names must not fill the memory.
pub const OPEN_MAX: usize = 1000;
/// The time over which sources are counted, in milliseconds.
const MINUTE_MS: u64 = 60_000;
/// Characters that are kept of a source or object.
const TEXT_CHARS_MAX: usize = 64;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// Somebody logged in.
    Login,
    /// Somebody failed to.
    LoginFailed,
    /// Somebody asked for what he may not do.
    Denied,
    /// An auditor read the record of another user's job.
    AuditorRead,
}

impl Fact {
    /// The word in the record.
    pub const fn name(self) -> &'static str {
        match self {
            Fact::Login => "login",
            Fact::LoginFailed => "login_failed",
            Fact::Denied => "denied",
            Fact::AuditorRead => "auditor_read",
        }
    }
}

type Key = (Fact, String, Option<String>);

struct Open {
    since_ms: u64,
    time: Time,
    object: Option<String>,
    count: u64,
}

/// Facts that wait to become records.
#[derive(Default)]
pub struct Collection {
    open: BTreeMap<Key, Open>,
    /// Sources with records of their own in this minute.
    sources: BTreeSet<String>,
    minute_since_ms: u64,
    /// What got no record of its own: how many, and the time of the first.
    rest: Option<(u64, Time)>,
}

impl Collection {
    /// Takes a fact. `object` is what was asked for; only the first one of a record is kept.
    ///
    /// `now_ms` is monotonic, `time` is what the record shows. The source is an address, with or
    /// without port (a port would make each connection a source of its own), or `unix:…`.
    pub fn add(
        &mut self,
        fact: Fact,
        user: &str,
        source: &str,
        object: Option<&str>,
        now_ms: u64,
        time: Time,
    ) {
        let user = is_user_name(user).then(|| user.to_owned());
        let key = (fact, without_port(source), user);
        if let Some(open) = self.open.get_mut(&key) {
            open.count = open.count.saturating_add(1);
            return;
        }
        if now_ms.saturating_sub(self.minute_since_ms) >= MINUTE_MS {
            self.minute_since_ms = now_ms;
            self.sources.clear();
        }
        let known = self.sources.contains(&key.1);
        if self.open.len() >= OPEN_MAX || (!known && self.sources.len() >= SOURCES_MAX) {
            let (count, first) = self.rest.unwrap_or((0, time));
            self.rest = Some((count.saturating_add(1), first));
            return;
        }
        self.sources.insert(key.1.clone());
        let object = object.map(shortened);
        self.open.insert(key, Open { since_ms: now_ms, time, object, count: 1 });
    }

    /// The records that are complete: their 10 s are over. The sum comes once a minute.
    pub fn drain(&mut self, now_ms: u64) -> Vec<AuditRecord> {
        let is_over = |since_ms: u64, span_ms: u64| now_ms.saturating_sub(since_ms) >= span_ms;
        let sum_is_due = is_over(self.minute_since_ms, MINUTE_MS);
        self.take(|open| is_over(open.since_ms, WINDOW_MS), sum_is_due)
    }

    /// All records, complete or not: the daemon stops.
    pub fn drain_all(&mut self) -> Vec<AuditRecord> {
        self.take(|_| true, true)
    }

    fn take(&mut self, is_complete: impl Fn(&Open) -> bool, with_rest: bool) -> Vec<AuditRecord> {
        let complete = self.open.extract_if(.., |_, open| is_complete(open));
        let mut records: Vec<AuditRecord> = complete
            .map(|((fact, source, user), open)| AuditRecord {
                format: FORMAT,
                audit: fact.name().to_owned(),
                user,
                source: Some(source),
                object: open.object,
                count: open.count,
                time: open.time,
            })
            .collect();
        if let Some((count, time)) = self.rest.take_if(|_| with_rest) {
            let audit = "suppressed".to_owned();
            let none = || None;
            let (user, source, object) = (none(), none(), none());
            records.push(AuditRecord { format: FORMAT, audit, user, source, object, count, time });
        }
        records.sort_by_key(|record| record.time);
        records
    }
}

fn without_port(source: &str) -> String {
    match source.parse::<std::net::SocketAddr>() {
        Ok(address) => address.ip().to_canonical().to_string(),
        Err(_) => shortened(source),
    }
}

fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(collection: &mut Collection, user: &str, source: &str, now_ms: u64) {
        let time = Time(i64::try_from(now_ms).expect("small"));
        collection.add(Fact::LoginFailed, user, source, None, now_ms, time);
    }

    fn shown(records: &[AuditRecord]) -> Vec<(&str, Option<&str>, u64)> {
        records.iter().map(|r| (r.audit.as_str(), r.user.as_deref(), r.count)).collect()
    }

    #[test]
    fn one_record_per_user_and_source_in_ten_seconds_with_a_count() {
        let mut collection = Collection::default();
        for n in 0..500 {
            fail(&mut collection, "admin", &format!("10.0.0.7:{}", 1000 + n), n);
        }
        fail(&mut collection, "alice", "10.0.0.7:1", 600);
        collection.add(Fact::Denied, "admin", "10.0.0.7:1", Some("user_create"), 700, Time(700));
        assert!(collection.drain(9_999).is_empty());
        let records = collection.drain(10_000);
        assert_eq!(shown(&records), [("login_failed", Some("admin"), 500)]);
        assert_eq!((records[0].source.as_deref(), records[0].time), (Some("10.0.0.7"), Time(0)));
        let records = collection.drain(10_700);
        let expected = [("login_failed", Some("alice"), 1), ("denied", Some("admin"), 1)];
        assert_eq!(shown(&records), expected);
        assert_eq!(records[1].object.as_deref(), Some("user_create"));
        fail(&mut collection, "admin", "10.0.0.7:1", 10_800);
        assert_eq!(shown(&collection.drain_all()), [("login_failed", Some("admin"), 1)]);
    }

    #[test]
    fn of_many_sources_a_hundred_a_minute_have_records_and_the_rest_is_one_sum() {
        let mut collection = Collection::default();
        let mut records = Vec::new();
        for second in 0..60_u64 {
            for n in 0..50_u64 {
                let source = format!("10.1.{second}.{n}:7");
                fail(&mut collection, "admin", &source, second * 1000 + n);
            }
            records.extend(collection.drain(second * 1000 + 999));
        }
        records.extend(collection.drain(60_000));
        assert_eq!(records.len(), 101);
        assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), 3000);
        assert_eq!(shown(&records[100..]), [("suppressed", None, 2900)]);
        fail(&mut collection, "admin", "10.2.0.1:7", 60_001);
        assert_eq!(collection.drain_all()[0].audit, "login_failed", "a new minute, a new hundred");
    }

    #[test]
    fn one_source_with_many_names_is_bounded_too() {
        let mut collection = Collection::default();
        for n in 0..5000 {
            fail(&mut collection, &format!("user{n}"), "10.0.0.7:1", 0);
        }
        let records = collection.drain_all();
        assert_eq!(records.len(), OPEN_MAX + 1);
        assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), 5000);
    }

    #[test]
    fn what_cannot_be_a_name_is_not_kept() {
        let mut collection = Collection::default();
        fail(&mut collection, "Hunter2!", "10.0.0.7:1", 0);
        fail(&mut collection, "", "10.0.0.7:1", 0);
        assert_eq!(shown(&collection.drain_all()), [("login_failed", None, 2)]);
    }
}
