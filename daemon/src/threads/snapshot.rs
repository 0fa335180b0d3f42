//! Snapshots: State at an index, so that the log before it may be dropped.
//!
//! One every 100,000 entries or 64 MiB of log (ruling 33), earlier where it costs little so that a
//! start has little to replay, and one when the floor of the history has risen, for only then may
//! what lies below it go. Written by a thread of its own from a pointer copy of State, after the
//! history is durable up to what State says of it.

use super::raft::ToRaft;
use crate::disk::DataDisk;
use crate::history::HistoryHandle;
use crate::metrics::Metrics;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use tiebeam_core::State;
use tiebeam_core::state::Chain;
use tiebeam_replica::Mark;
use tiebeam_replica::membership::Membership;
use tiebeam_replica::recovery::SNAPSHOT_FOLDER;
use tiebeam_replica::snapshot::{self, SnapshotError, SnapshotMeta};

/// Entries between two snapshots at most.
const EVERY_ENTRIES: u64 = 100_000;
/// Entries between two snapshots when they are cheap: what is replayed at a start then takes about
/// 100 ms, at some 40 µs an entry.
const CHEAP_ENTRIES: u64 = 2_500;
/// Snapshots that come earlier may take this part of the time: 1 in 20.
const CHEAP_SHARE: u32 = 20;
/// Shortest pause between two snapshots that come earlier.
const CHEAP_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of log between two snapshots.
const EVERY_BYTES: u64 = 64 << 20;

/// Takes snapshots now and then.
pub struct Snapshotter {
    data: PathBuf,
    history: HistoryHandle,
    metrics: Arc<Metrics>,
    raft: Sender<ToRaft>,
    entries: u64,
    bytes: u64,
    /// The floor of the newest snapshot that was begun.
    floor: u64,
    busy: Arc<AtomicBool>,
    /// Up to here the log is replayed after a start: the first snapshot comes at its end.
    replay_to: u64,
    /// When the last one was begun, if one was.
    last: Option<Instant>,
    /// How long the last one took, in microseconds.
    took_us: Arc<AtomicU64>,
}

impl Snapshotter {
    /// A snapshotter that tells the raft thread of each snapshot. `chain` is that of the newest
    /// one: what a stop left in the history of what it gives up goes now. The log ends at `last`.
    pub fn new(
        data: PathBuf,
        history: HistoryHandle,
        metrics: Arc<Metrics>,
        raft: Sender<ToRaft>,
        (chain, last): (Chain, u64),
    ) -> Snapshotter {
        history.drop_below(chain.floor_index);
        history.prune_below(chain.reads_below);
        let busy = Arc::default();
        Snapshotter {
            data,
            history,
            metrics,
            raft,
            entries: 0,
            bytes: 0,
            floor: chain.floor_index,
            busy,
            replay_to: last,
            last: None,
            took_us: Arc::default(),
        }
    }

    /// Whether a snapshot before its time costs little. After a replay it does: a node that is
    /// killed again and again would have more to replay each time.
    fn is_cheap(&self, applied: u64) -> bool {
        let took = Duration::from_micros(self.took_us.load(Ordering::Relaxed));
        let pause = (took * CHEAP_SHARE).max(CHEAP_PAUSE);
        let rested = match self.last {
            Some(last) => last.elapsed() >= pause,
            None => applied >= self.replay_to,
        };
        self.entries >= CHEAP_ENTRIES && rested
    }

    /// Counts applied entries; takes a snapshot when there are enough.
    pub fn note(&mut self, state: &State, entries: u64, bytes: u64) {
        self.entries += entries;
        self.bytes += bytes;
        let floor = state.chain.floor_index;
        let many = self.entries >= EVERY_ENTRIES || self.bytes >= EVERY_BYTES;
        if many || floor != self.floor || self.is_cheap(state.applied) {
            self.take_now(state);
        }
    }

    /// Takes a snapshot, unless one is being taken.
    pub fn take_now(&mut self, state: &State) {
        let Chain { floor_index: floor, reads_below, .. } = state.chain;
        if self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        (self.entries, self.bytes, self.floor) = (0, 0, floor);
        self.last = Some(Instant::now());
        let record = state.chain.index;
        let (state, data) = (state.clone(), self.data.clone());
        let (history, metrics) = (self.history.clone(), self.metrics.clone());
        let (raft, busy) = (self.raft.clone(), self.busy.clone());
        let took_us = self.took_us.clone();
        let thread = std::thread::Builder::new().name("snapshot".to_owned());
        let spawned = thread.spawn(move || {
            let begin = Instant::now();
            match take(&state, &data, &history) {
                Ok(SnapshotMeta { mark, membership }) => {
                    metrics.snapshots.inc();
                    history.drop_below(floor);
                    history.prune_below(reads_below);
                    // The raft thread has gone only if the node stops.
                    let _ = raft.send(ToRaft::Snapshotted { mark, membership, record });
                }
                Err(error) => {
                    tracing::error!(error = %crate::report::chain(&error), "no snapshot taken");
                }
            }
            let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            took_us.store(took, Ordering::Relaxed);
            busy.store(false, Ordering::Release);
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for a snapshot");
        }
    }
}

/// Why there is no snapshot; the log is kept and the next one is tried.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error("the history is not durable")]
    History(#[source] crate::history::HistoryError),
    #[error("the snapshot cannot be written")]
    Write(#[source] SnapshotError),
}

/// What a snapshot of this State is of.
pub fn meta_of(state: &State) -> SnapshotMeta {
    let of = |votes: bool| {
        state.members.values().filter(move |one| one.voter == votes).map(|one| one.raft_id)
    };
    let membership = Membership { voters: of(true).collect(), learners: of(false).collect() };
    SnapshotMeta { mark: Mark { index: state.applied, term: state.term }, membership }
}

fn take(
    state: &State,
    data: &std::path::Path,
    history: &HistoryHandle,
) -> Result<SnapshotMeta, TakeError> {
    history.sync_to(state.chain.index).map_err(TakeError::History)?;
    let meta = meta_of(state);
    let body = tiebeam_core::snapshot::encode(state);
    let disk = DataDisk::new(data);
    snapshot::save(disk, SNAPSHOT_FOLDER, meta, &body).map_err(TakeError::Write)
}
