//! The log in memory, as raft reads it: every entry behind the floor, at most a snapshot interval.
//!
//! Entries are here before they are on disk (raft asks for them at once); the node tells raft
//! separately what is persisted. Only [`super::Node`] uses this.

use crate::entry::{Entry, EntryKind, HardState, Mark};
use crate::membership::Membership;
use bytes::Bytes;
use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

/// The newest entries and the newest snapshot's description.
#[derive(Debug)]
pub(super) struct Tail {
    floor: Mark,
    entries: VecDeque<eraftpb::Entry>,
    hard_state: HardState,
    membership: Membership,
    snapshot: eraftpb::Snapshot,
    /// A member that needs a newer snapshot than there is, and from which index.
    wanted: Cell<Option<(u64, u64)>>,
}

impl Tail {
    pub(super) fn new(
        floor: Mark,
        entries: &[Entry],
        hard_state: HardState,
        membership: Membership,
    ) -> Tail {
        Tail {
            floor,
            entries: entries.iter().map(to_raft).collect(),
            hard_state,
            membership,
            snapshot: eraftpb::Snapshot::default(),
            wanted: Cell::new(None),
        }
    }

    pub(super) fn last(&self) -> Mark {
        self.entries
            .back()
            .map_or(self.floor, |entry| Mark { index: entry.index, term: entry.term })
    }

    pub(super) fn floor(&self) -> Mark {
        self.floor
    }

    /// Appends entries; the first may lie inside, then it replaces what follows.
    pub(super) fn append(&mut self, entries: Vec<eraftpb::Entry>) {
        let Some(first) = entries.first() else { return };
        let kept = first.index.checked_sub(self.floor.index + 1);
        let kept = kept.expect("raft never overrules committed entries") as usize;
        assert!(kept <= self.entries.len(), "raft appends without a gap");
        self.entries.truncate(kept);
        self.entries.extend(entries);
    }

    /// Drops entries up to `index`, but never the last one's position.
    pub(super) fn compact(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            if let Some(entry) = self.entries.pop_front() {
                self.floor = Mark { index: entry.index, term: entry.term };
            }
        }
    }

    /// Takes a snapshot in place of everything.
    pub(super) fn install(&mut self, mark: Mark) {
        self.floor = mark;
        self.entries.clear();
    }

    /// The snapshot that members which are behind the floor are sent.
    pub(super) fn set_snapshot(&mut self, mark: Mark, membership: &Membership, manifest: Bytes) {
        let mut snapshot = eraftpb::Snapshot { data: manifest, ..Default::default() };
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (mark.index, mark.term);
        meta.set_conf_state(membership.conf_state());
        self.snapshot = snapshot;
    }

    pub(super) fn take_wanted(&self) -> Option<(u64, u64)> {
        self.wanted.take()
    }

    fn entry(&self, index: u64) -> Option<&eraftpb::Entry> {
        let nth = index.checked_sub(self.floor.index + 1)?;
        self.entries.get(nth as usize)
    }
}

impl Storage for Tail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard_state = eraftpb::HardState::default();
        hard_state.term = self.hard_state.term;
        hard_state.vote = self.hard_state.vote;
        hard_state.commit = self.hard_state.commit;
        Ok(RaftState::new(hard_state, self.membership.conf_state()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.floor.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last().index + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let from = (low - self.floor.index - 1) as usize;
        let to = (high - self.floor.index - 1) as usize;
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let fits = |entry: &&eraftpb::Entry| {
            let first = bytes == 0;
            bytes += entry.data.len() as u64 + ENTRY_OVERHEAD;
            first || bytes <= bytes_max
        };
        Ok(self.entries.range(from..to).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.floor.index {
            return Ok(self.floor.term);
        }
        match self.entry(index) {
            Some(entry) => Ok(entry.term),
            None if index < self.floor.index => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.floor.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let meta = self.snapshot.get_metadata();
        let newer_than = request_index.max(self.floor.index);
        if meta.index == 0 || meta.index < newer_than {
            self.wanted.set(Some((to, newer_than)));
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        // A member ignores a snapshot that does not know it yet.
        if !Membership::from_conf_state(meta.get_conf_state()).contains(to) {
            self.wanted.set(Some((to, meta.index + 1)));
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(self.snapshot.clone())
    }
}

/// What an entry costs in a message beside its payload: tags, index, term.
const ENTRY_OVERHEAD: u64 = 24;

pub(super) fn to_raft(entry: &Entry) -> eraftpb::Entry {
    let mut raft = eraftpb::Entry::default();
    (raft.index, raft.term) = (entry.index, entry.term);
    raft.data = entry.payload.clone();
    if entry.kind == EntryKind::Conf {
        raft.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
    }
    raft
}

pub(super) fn from_raft(entry: &eraftpb::Entry) -> Entry {
    let kind = match entry.get_entry_type() {
        eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Conf,
        eraftpb::EntryType::EntryConfChange => {
            unreachable!("nothing in this crate proposes changes of the first form")
        }
        eraftpb::EntryType::EntryNormal if entry.data.is_empty() => EntryKind::Empty,
        eraftpb::EntryType::EntryNormal => EntryKind::Normal,
    };
    Entry { index: entry.index, term: entry.term, kind, payload: entry.data.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail() -> Tail {
        let entry = |index| Entry {
            index,
            term: 2,
            kind: EntryKind::Normal,
            payload: Bytes::from(vec![0; 100]),
        };
        let entries: Vec<Entry> = (6..=10).map(entry).collect();
        Tail::new(
            Mark { index: 5, term: 1 },
            &entries,
            HardState::default(),
            Membership::of_voters([1]),
        )
    }

    #[test]
    fn reads_are_bounded_by_size_and_never_empty() {
        let tail = tail();
        let read = |low, high, size: u64| {
            tail.entries(low, high, size, GetEntriesContext::empty(false)).map(|read| read.len())
        };
        assert_eq!(read(6, 11, u64::MAX), Ok(5));
        assert_eq!(read(6, 11, 0), Ok(1));
        assert_eq!(read(6, 11, 2 * (100 + ENTRY_OVERHEAD)), Ok(2));
        assert_eq!(read(5, 8, 0), Err(StorageError::Compacted.into()));
        assert_eq!(tail.term(5), Ok(1));
        assert_eq!(tail.term(4), Err(StorageError::Compacted.into()));
        assert_eq!(tail.term(11), Err(StorageError::Unavailable.into()));
    }

    #[test]
    fn a_prefix_is_dropped_and_a_suffix_replaced() {
        let mut tail = tail();
        tail.compact(7);
        assert_eq!((tail.first_index(), tail.term(7)), (Ok(8), Ok(2)));
        let mut entry = eraftpb::Entry::default();
        (entry.index, entry.term) = (9, 3);
        tail.append(vec![entry]);
        assert_eq!(tail.last(), Mark { index: 9, term: 3 });
        tail.compact(100);
        assert_eq!((tail.last(), tail.first_index()), (Mark { index: 9, term: 3 }, Ok(10)));
    }

    #[test]
    fn a_snapshot_that_is_too_old_is_asked_for() {
        let mut tail = tail();
        assert!(tail.snapshot(0, 7).is_err());
        assert_eq!(tail.take_wanted(), Some((7, 5)));
        let strangers = Membership::of_voters([1]);
        tail.set_snapshot(Mark { index: 7, term: 2 }, &strangers, Bytes::new());
        assert!(tail.snapshot(0, 7).is_err());
        assert_eq!(tail.take_wanted(), Some((7, 8)), "one that knows the member");
        let members = Membership::of_voters([1, 7]);
        tail.set_snapshot(Mark { index: 8, term: 2 }, &members, Bytes::new());
        assert_eq!(tail.snapshot(0, 7).unwrap().get_metadata().index, 8);
        assert!(tail.snapshot(9, 7).is_err());
    }
}
