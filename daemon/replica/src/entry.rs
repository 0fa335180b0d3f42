//! What the log holds: positions, entries, the hard state, and groups that are persisted as one.
//!
//! Plain values without behaviour, shared by the node, the log and the shells. Payloads are opaque
//! bytes here; what they mean is known above this crate.

use bytes::Bytes;

/// A position in the replicated log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Log index; 0 is before the first entry.
    pub index: u64,
    /// Term of the entry at that index; 0 if there is none.
    pub term: u64,
}

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A proposal of this cluster's users; the payload is never empty.
    Normal,
    /// A change of membership; the payload is read by [`crate::membership::decode_change`].
    Conf,
    /// No payload: a new leader's first entry, or a change of membership that raft refused after
    /// it was proposed.
    Empty,
}

/// An entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Log index, without gaps.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// What it is for.
    pub kind: EntryKind,
    /// The proposal, opaque to this crate.
    pub payload: Bytes,
}

impl Entry {
    /// Its position.
    pub fn mark(&self) -> Mark {
        Mark { index: self.index, term: self.term }
    }
}

/// What a node must never forget (raft's hard state).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HardState {
    /// Newest term seen.
    pub term: u64,
    /// Raft id that this node voted for in that term; 0 for none.
    pub vote: u64,
    /// An index known to be committed. It may lag: raft finds the true one again.
    pub commit: u64,
}

/// What is persisted as one: one write, and one sync if [`Group::must_sync`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Number of the group, counted up by the node; named again in [`crate::Input::Persisted`].
    pub number: u64,
    /// A snapshot took the place of the whole log: entries begin behind this position.
    pub reset: Option<Mark>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries in order of index. The first one may lie inside the log: it and all that followed
    /// there are replaced.
    pub entries: Vec<Entry>,
    /// Whether anything depends on the group's being durable. A group without is written, and
    /// becomes durable with the next one.
    pub must_sync: bool,
}
