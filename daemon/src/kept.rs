//! What a data folder holds of the replicated State, read without a daemon and without changing a
//! byte: the snapshots, the log, and State at an index, replayed from both.
//!
//! `tiebeamd check --digest`, `recover` and `backup` call it. It never guesses: what is damaged,
//! not there, or not known to be committed is an error that says so. A running daemon may write to
//! the folder meanwhile; then something may be gone between two looks, and the caller looks again.

use crate::disk::DataDisk;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tiebeam_core::State;
use tiebeam_core::effect::Effect;
use tiebeam_core::member::Seat;
use tiebeam_core::proposal::{DecodeError, Proposal};
use tiebeam_core::state::Chain;
use tiebeam_core::state::FEATURE_LEVEL;
use tiebeam_proto::chain::Head;
use tiebeam_proto::record::Archived;
use tiebeam_replica::log::{self, Damage, LogError, Recovered};
use tiebeam_replica::membership::{Change, ChangeError, decode_change};
use tiebeam_replica::recovery::{LOG_FOLDER, SNAPSHOT_FOLDER};
use tiebeam_replica::snapshot::{self, Snapshot, SnapshotError, snapshot_path};
use tiebeam_replica::{Entry, EntryKind, HardState, Mark};

/// Why State cannot be had from a folder.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The log could not be read.
    #[error("the log cannot be read")]
    Log(#[source] LogError),
    /// Something that was acknowledged is lost.
    #[error("the log is damaged: {0}")]
    Damaged(Damage),
    /// There is a snapshot and no log.
    #[error("the log is gone; what this node acknowledged cannot be known")]
    LogGone,
    /// The snapshots could not be read.
    #[error("the snapshots cannot be read")]
    Snapshots(#[source] SnapshotError),
    /// A snapshot that is whole is no State.
    #[error("the snapshot at index {index} cannot be read")]
    State {
        /// Its index.
        index: u64,
        /// Why.
        #[source]
        source: tiebeam_core::snapshot::SnapshotError,
    },
    /// The index lies before everything that is kept.
    #[error(
        "index {wanted} is not kept on this node: its oldest snapshot is at index {oldest}, and \
         its log begins behind index {floor}"
    )]
    TooOld {
        /// What was asked for.
        wanted: u64,
        /// Index of the oldest whole snapshot.
        oldest: u64,
        /// Index before the first entry of the log.
        floor: u64,
    },
    /// There is no whole snapshot that the log reaches back to.
    #[error("there is no whole snapshot that the log, which begins behind {floor}, reaches")]
    NoSnapshot {
        /// Index before the first entry of the log.
        floor: u64,
    },
    /// The index is not known to be committed.
    #[error(
        "index {wanted} is not known to be committed on this node: it knows up to {known}, and \
         its log ends at {last}"
    )]
    NotCommitted {
        /// What was asked for.
        wanted: u64,
        /// Up to where it is known.
        known: u64,
        /// Where the log ends.
        last: u64,
    },
    /// An entry is no proposal.
    #[error("entry {index} cannot be read")]
    Entry {
        /// Its index.
        index: u64,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// An entry is no change of membership.
    #[error("entry {index} is no change of membership")]
    Change {
        /// Its index.
        index: u64,
        /// Why.
        #[source]
        source: ChangeError,
    },
    /// With this entry the cluster rose above this version.
    #[error(
        "with entry {index} the cluster rose to feature level {level}; this version supports \
         levels up to {FEATURE_LEVEL}: use the newer version"
    )]
    Level {
        /// Its index.
        index: u64,
        /// The level.
        level: u32,
    },
    /// Applying an entry panics.
    #[error(
        "entry {index} cannot be applied; if every member stops at it, `tiebeamd recover \
         --skip-entry {index}` on all of them is the way past it"
    )]
    Panicked {
        /// Its index.
        index: u64,
    },
}

/// The snapshots and the log of a data folder.
pub struct Kept {
    disk: DataDisk,
    /// The newest snapshot that is whole.
    newest: Snapshot,
    /// Indices of all of them.
    snapshots: Vec<u64>,
    log: Recovered,
}

/// State at an index, and what led there.
#[derive(Debug)]
pub struct Replayed {
    /// State.
    pub state: State,
    /// Where the history stood in the snapshot that the replay began with: up to there it was
    /// durable before the snapshot was written.
    pub from: Chain,
    /// The records that came after that, in their order.
    pub records: Vec<Archived>,
}

impl Kept {
    /// Reads the newest snapshot and the log.
    ///
    /// # Errors
    /// The log is damaged or gone, or the disk said something.
    pub fn read(data: &Path) -> Result<Kept, KeptError> {
        let mut disk = DataDisk::new(data);
        // The snapshots first: of a running node the log reaches back to those that were there.
        let loaded = snapshot::load(&mut disk, SNAPSHOT_FOLDER).map_err(KeptError::Snapshots)?;
        let snapshots =
            snapshot::indices(&mut disk, SNAPSHOT_FOLDER).map_err(KeptError::Snapshots)?;
        let (mut log, damage) = log::read(&mut disk, LOG_FOLDER).map_err(KeptError::Log)?;
        if let Some(damage) = damage {
            return Err(KeptError::Damaged(damage));
        }
        if log.hard_state == HardState::default() && log.entries.is_empty() {
            return Err(KeptError::LogGone);
        }
        let floor = log.floor.index;
        let newest = loaded.snapshot.ok_or(KeptError::NoSnapshot { floor })?;
        let mark = newest.meta.mark;
        if mark.index >= floor && !has(&log, mark) {
            // It came from a leader; the next start begins the log anew behind it.
            log.hard_state.commit = mark.index;
            log = Recovered { floor: mark, entries: Vec::new(), ..log };
        }
        Ok(Kept { disk, newest, snapshots, log })
    }

    /// The log, as far as it belongs to the newest snapshot.
    pub fn log(&self) -> &Recovered {
        &self.log
    }

    /// Index of the newest whole snapshot.
    pub fn newest_snapshot(&self) -> u64 {
        self.newest.meta.mark.index
    }

    /// The cluster's name, as that snapshot has it.
    ///
    /// # Errors
    /// The snapshot is no State.
    pub fn cluster_name(&self) -> Result<String, KeptError> {
        self.begin_with(&self.newest).map(|replayed| replayed.state.cluster.name)
    }

    /// Index of the last entry.
    pub fn last(&self) -> u64 {
        self.log.last().index
    }

    /// Up to where the files themselves say that entries are committed. A snapshot is only ever
    /// taken of what is.
    pub fn known_committed(&self) -> u64 {
        self.newest.meta.mark.index.max(self.log.hard_state.commit)
    }

    /// State at exactly this index, which must be known to be committed.
    ///
    /// # Errors
    /// [`KeptError::NotCommitted`], [`KeptError::TooOld`], or what is wrong with the folder.
    pub fn committed_at(&self, index: u64, own: u64) -> Result<Replayed, KeptError> {
        if index <= self.known_committed() {
            return self.at(index);
        }
        let newest = self.newest_committed(own)?.state.applied;
        if index > newest {
            let last = self.last();
            return Err(KeptError::NotCommitted { wanted: index, known: newest, last });
        }
        self.at(index)
    }

    /// State at the newest index that is certainly committed. `own` is this node's raft id: where
    /// it is the only voter, everything in its log is.
    ///
    /// # Errors
    /// What is wrong with the folder.
    pub fn newest_committed(&self, own: u64) -> Result<Replayed, KeptError> {
        let mut replayed = self.at(self.known_committed())?;
        for entry in self.behind(replayed.state.applied) {
            let alone = replayed.state.voters().all(|(_, member)| member.raft_id == own);
            if !alone || replayed.state.voters().next().is_none() {
                break;
            }
            replayed.step(entry)?;
        }
        Ok(replayed)
    }

    /// State with everything that is in the log, whether it is known to be committed or not.
    ///
    /// # Errors
    /// What is wrong with the folder.
    pub fn everything(&self) -> Result<Replayed, KeptError> {
        self.at(self.last())
    }

    fn at(&self, index: u64) -> Result<Replayed, KeptError> {
        let mut replayed = self.snapshot_below(index)?;
        let (oldest, floor) = (replayed.state.applied, self.log.floor.index);
        if oldest < index && oldest < floor {
            return Err(KeptError::TooOld { wanted: index, oldest, floor });
        }
        for entry in self.behind(oldest).iter().take_while(|entry| entry.index <= index) {
            replayed.step(entry)?;
        }
        if replayed.state.applied < index {
            let (known, last) = (replayed.state.applied, self.last());
            return Err(KeptError::NotCommitted { wanted: index, known, last });
        }
        Ok(replayed)
    }

    /// The newest whole snapshot at or below an index, if the log reaches back to it.
    fn snapshot_below(&self, index: u64) -> Result<Replayed, KeptError> {
        let mut disk = self.disk.clone();
        let floor = self.log.floor.index;
        let newest = self.newest.meta.mark.index;
        let mut oldest = newest;
        if oldest <= index {
            return self.begin_with(&self.newest);
        }
        for at in self.snapshots.iter().rev().copied().filter(|at| *at < newest) {
            let found = match snapshot::read(&mut disk, &snapshot_path(SNAPSHOT_FOLDER, at)) {
                Ok(found) => found,
                Err(SnapshotError::Damaged { .. }) => continue,
                Err(error) => return Err(KeptError::Snapshots(error)),
            };
            oldest = at;
            if at <= index {
                return self.begin_with(&found);
            }
        }
        Err(KeptError::TooOld { wanted: index, oldest, floor })
    }

    fn begin_with(&self, snapshot: &Snapshot) -> Result<Replayed, KeptError> {
        let index = snapshot.meta.mark.index;
        let state = tiebeam_core::snapshot::decode(&snapshot.body)
            .map_err(|source| KeptError::State { index, source })?;
        Ok(Replayed { from: state.chain, state, records: Vec::new() })
    }

    /// The log's entries behind an index.
    fn behind(&self, index: u64) -> &[Entry] {
        let after = self.log.entries.partition_point(|entry| entry.index <= index);
        self.log.entries.get(after..).unwrap_or_default()
    }
}

/// Whether the log has this position.
fn has(log: &Recovered, mark: Mark) -> bool {
    match mark.index.checked_sub(log.floor.index) {
        None => false,
        Some(0) => mark == log.floor,
        Some(nth) => {
            let nth = usize::try_from(nth - 1).unwrap_or(usize::MAX);
            log.entries.get(nth).is_some_and(|entry| entry.mark() == mark)
        }
    }
}

impl Replayed {
    /// Applies the next entry.
    fn step(&mut self, entry: &Entry) -> Result<(), KeptError> {
        let Entry { index, term, .. } = *entry;
        let decoded = |bytes: &[u8]| {
            Proposal::decode(bytes).map_err(|source| KeptError::Entry { index, source })
        };
        let (seat, proposal) = match entry.kind {
            EntryKind::Empty => (None, None),
            EntryKind::Normal => (None, Some(decoded(&entry.payload)?)),
            EntryKind::Conf => {
                let (change, context) = decode_change(&entry.payload)
                    .map_err(|source| KeptError::Change { index, source })?;
                (Some(seat(change)), Some(decoded(&context)?))
            }
        };
        let state = &mut self.state;
        // Apply asserts hard. Here that is a finding about the folder, and it has a name.
        let effects = catch_unwind(AssertUnwindSafe(|| match seat {
            Some(seat) => state.apply_conf(index, term, seat, proposal.as_ref()).1,
            None => state.apply(index, term, proposal.as_ref()).1,
        }));
        let effects = effects.map_err(|_| KeptError::Panicked { index })?;
        let level = state.feature_level;
        if level > FEATURE_LEVEL {
            return Err(KeptError::Level { index, level });
        }
        self.records.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Archive(archived, _) => Some(archived),
            _ => None,
        }));
        Ok(())
    }

    /// Where the history stands with the records of the replay.
    pub fn head(&self) -> Head {
        Head { index: self.state.chain.index, hash: self.state.chain.head }
    }
}

/// What raft does with a member.
fn seat(change: Change) -> (u64, Seat) {
    match change {
        Change::AddVoter(id) => (id, Seat::Voter),
        Change::AddLearner(id) => (id, Seat::Learner),
        Change::Remove(id) => (id, Seat::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::fixture::{append, node, proposal, take_snapshot};

    #[tokio::test]
    async fn state_is_the_same_from_whichever_snapshot_it_is_replayed() {
        let folder = node().await;
        let data = folder.path();
        let own = 11 << 16 | 1;
        let first = Kept::read(data).unwrap().everything().unwrap().state;
        let entries = |from: u64| (from..from + 4).map(|n| proposal(&first, n).encode()).collect();
        append(data, entries(100), 3);
        let before = Kept::read(data).unwrap();
        // It is the only voter: what is in its log is committed.
        assert_eq!((before.known_committed(), before.last()), (3, 5));
        let digests: Vec<_> =
            (1..=5).map(|at| before.committed_at(at, own).unwrap().state.digest()).collect();
        let beyond = before.committed_at(6, own).unwrap_err();
        assert!(matches!(beyond, KeptError::NotCommitted { known: 5, last: 5, .. }), "{beyond}");
        // To another member it is not known to be.
        let other = before.committed_at(5, own + 1).unwrap_err();
        assert!(matches!(other, KeptError::NotCommitted { known: 3, .. }), "{other}");
        take_snapshot(data);
        append(data, entries(200), 9);
        let after = Kept::read(data).unwrap();
        for (at, digest) in (1..).zip(&digests) {
            assert_eq!(after.committed_at(at, own).unwrap().state.digest(), *digest, "{at}");
        }
        take_snapshot(data);
        let old = Kept::read(data).unwrap().committed_at(4, own).unwrap_err();
        assert!(matches!(old, KeptError::TooOld { wanted: 4, oldest: 5, .. }), "{old}");
    }
}
