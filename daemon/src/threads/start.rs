//! From what a data folder holds of the replicated log to running threads, and their end.

use super::apply::Applier;
use super::log_writer;
use super::raft::{Knobs, Outbox, RaftThread, ToRaft};
use super::snapshot::Snapshotter;
use crate::board::Board;
use crate::disk::{DataDisk, SystemRng};
use crate::engine::Role;
use crate::history::HistoryHandle;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::proposer::{Inbox, Request, Stamp};
use crate::settings::Settings;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tiebeam_core::State;
use tiebeam_core::proposal::Proposal;
use tiebeam_core::snapshot::SnapshotError as StateError;
use tiebeam_core::state::FEATURE_LEVEL;
use tiebeam_replica::log::{Log, LogSettings};
use tiebeam_replica::node::{self as replica, Node, NodeSettings};
use tiebeam_replica::prefix::Place;
use tiebeam_replica::recovery::{self, RecoveryError, Start};
use tiebeam_replica::seams::Rng;
use tiebeam_replica::{Entry, EntryKind};
use tokio::sync::watch;

/// Batches of entries between the raft thread and apply: a bound, so that apply's lag is felt.
const BATCHES_MAX: usize = 64;

/// Why snapshot and log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Snapshot or log are damaged or cannot be read.
    #[error("snapshot and log cannot be recovered")]
    Recover(#[source] RecoveryError),
    /// The snapshot's body is no State.
    #[error("the snapshot cannot be read")]
    State(#[source] StateError),
    /// The cluster has risen above this version.
    #[error(
        "the cluster has feature level {0}; this version supports levels up to {FEATURE_LEVEL}: \
         install the newer version again"
    )]
    Level(u32),
    /// The node cannot be made.
    #[error("the replica cannot start")]
    Node(#[source] replica::NodeError),
    /// A thread cannot be started.
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
}

/// What a data folder holds of the replicated log.
pub struct Recovered {
    data: PathBuf,
    raft_id: u64,
    state: State,
    start: Start,
    log: Log<DataDisk>,
}

/// What the threads work with.
pub struct Wiring {
    /// What the rest of the daemon sees.
    pub board: Arc<Board>,
    /// Where records go.
    pub history: HistoryHandle,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What cluster time has counted.
    pub stamp: Arc<Stamp>,
    /// The way to the other members.
    pub outbox: Arc<dyn Outbox>,
    /// The raft thread's queue, both ends.
    pub queue: (Sender<ToRaft>, Receiver<ToRaft>),
    /// This node's part, as it changes.
    pub role: watch::Sender<Role>,
}

impl Recovered {
    /// Loads the newest snapshot and the log behind it.
    ///
    /// # Errors
    /// Damage, or what the disk said.
    pub fn load(data: &Path, identity: &Identity) -> Result<Recovered, ReplicaError> {
        let disk = DataDisk::new(data);
        let recovered = recovery::recover(disk, LogSettings::default(), Box::new(SystemRng))
            .map_err(ReplicaError::Recover)?;
        for finding in &recovered.findings {
            tracing::warn!(path = finding.path, at = finding.offset, "{}", finding.what);
        }
        let state = tiebeam_core::snapshot::decode(&recovered.body).map_err(ReplicaError::State)?;
        check_level(&recovered.start)?;
        tracing::info!(
            snapshot = state.applied,
            entries = recovered.start.entries.len(),
            torn_bytes = recovered.torn_bytes,
            "log and snapshot recovered"
        );
        Ok(Recovered {
            data: data.to_owned(),
            raft_id: identity.raft_id(),
            state,
            start: recovered.start,
            log: recovered.log,
        })
    }

    /// State as the snapshot has it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether this node is certainly the only voter: it was at the snapshot, and the log has no
    /// change of membership.
    pub fn is_alone(&self) -> bool {
        let changes = |entry: &Entry| entry.kind == EntryKind::Conf;
        self.start.snapshot.membership.is_only_voter(self.raft_id)
            && !self.start.entries.iter().any(changes)
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// The node or a thread cannot be made.
    pub fn start(self, settings: &Settings, parts: Wiring) -> Result<Replica, ReplicaError> {
        let raft = &settings.raft;
        let node_settings = NodeSettings {
            election_tick: raft.election_ticks as usize,
            heartbeat_tick: raft.heartbeat_ticks as usize,
            ..NodeSettings::new(self.raft_id, SystemRng.next_u64())
        };
        let alone = self.start.snapshot.membership.is_only_voter(self.raft_id);
        let floor = self.start.floor.index;
        let node = Node::new(node_settings, self.start).map_err(ReplicaError::Node)?;
        let (to_raft, from_all) = parts.queue;
        let (to_log, for_log) = channel();
        let (to_apply, for_apply) = sync_channel(BATCHES_MAX);
        let role_seen = parts.role.subscribe();
        let snapshotter = Snapshotter::new(
            self.data,
            parts.history.clone(),
            parts.metrics.clone(),
            to_raft.clone(),
            (self.state.chain, self.log.last().index),
        );
        let snapshot = Place { index: self.state.applied, record: self.state.chain.index };
        let applier = Applier {
            own: u32::try_from(self.raft_id >> 16).unwrap_or(u32::MAX),
            state: self.state,
            board: parts.board,
            history: parts.history,
            metrics: parts.metrics,
            stamp: parts.stamp,
            snapshotter,
            role: role_seen.clone(),
        };
        let log_metrics = applier.metrics.clone();
        let (log, writer_to_raft) = (self.log, to_raft.clone());
        let apply_to_raft = to_raft.clone();
        let tick = Duration::from_millis(u64::from(raft.tick_ms));
        let metrics = log_metrics.clone();
        let knobs = Knobs { tick, floor, snapshot, alone, metrics };
        let (outbox, role) = (parts.outbox, parts.role);
        let threads = vec![
            thread("log", move || log_writer::run(log, &for_log, &writer_to_raft, &log_metrics))?,
            thread("apply", move || applier.run(&for_apply, &apply_to_raft))?,
            thread("raft", move || {
                RaftThread::new(node, to_log, to_apply, role, outbox, knobs).run(&from_all, tick);
            })?,
        ];
        Ok(Replica { to_raft, role: role_seen, threads })
    }
}

/// Refuses a log in which the cluster rose to a level that this version does not support. What may
/// not be committed is left to apply.
fn check_level(start: &Start) -> Result<(), ReplicaError> {
    let commit = start.hard_state.commit;
    let committed = start.entries.iter().filter(|entry| entry.index <= commit);
    let highest = committed.filter_map(|entry| Proposal::raised_by(&entry.payload)).max();
    match highest.filter(|level| *level > FEATURE_LEVEL) {
        Some(level) => Err(ReplicaError::Level(level)),
        None => Ok(()),
    }
}

fn thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, ReplicaError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(ReplicaError::Thread)
}

/// The running threads.
pub struct Replica {
    to_raft: Sender<ToRaft>,
    role: watch::Receiver<Role>,
    threads: Vec<JoinHandle<()>>,
}

struct RaftInbox(Sender<ToRaft>);

impl Inbox for RaftInbox {
    fn put(&self, request: Request) -> bool {
        self.0.send(ToRaft::Request(request)).is_ok()
    }
}

impl Replica {
    /// The way in.
    pub fn inbox(&self) -> impl Inbox + use<> {
        RaftInbox(self.to_raft.clone())
    }

    /// This node's part, as it changes.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Ends the threads in order: raft first, then the log and apply, which drain their queues.
    pub fn stop(self) {
        let _ = self.to_raft.send(ToRaft::Request(Request::Stop));
        drop(self.to_raft);
        for thread in self.threads.into_iter().rev() {
            if thread.join().is_err() {
                tracing::error!("a thread of the replica panicked");
            }
        }
    }
}
