//! The raft thread: owns the replica's node and does no I/O. It drains its queue, asks the node
//! once what is to be done, and hands that to the log writer and to apply.

use super::apply::Applier;
use super::log_writer::{self, ToLog};
use super::snapshot::Snapshotter;
use super::{Batch, Waiter, stop_the_node};
use crate::board::Board;
use crate::disk::{DataDisk, SystemRng};
use crate::engine::Role;
use crate::history::HistoryHandle;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::proposer::{Inbox, ProposeError, Proposed, Request};
use crate::settings::Settings;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tiebeam_core::State;
use tiebeam_core::snapshot::SnapshotError as StateError;
use tiebeam_replica::log::{Log, LogSettings};
use tiebeam_replica::node::{self as replica, Input, Node, NodeSettings, Output};
use tiebeam_replica::recovery::{self, RecoveryError, Start};
use tiebeam_replica::seams::Rng;
use tokio::sync::{oneshot, watch};

/// Batches of entries between the raft thread and apply: a bound, so that apply's lag is felt.
const BATCHES_MAX: usize = 64;
/// Applied entries that stay in memory.
const IN_MEMORY: u64 = 512;
/// Requests that are drained into one group.
const DRAINED_MAX: usize = 4_096;

/// Something for the raft thread.
pub enum ToRaft {
    /// A proposal or read of this node.
    Request(Request),
    /// The log has this group.
    Persisted(u64),
    /// The log takes nothing any more.
    PersistFailed,
    /// State has applied up to here.
    Applied(u64),
    /// There is a snapshot at this index.
    Snapshotted {
        /// Its index.
        index: u64,
    },
}

/// Why snapshot and log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Snapshot or log are damaged or cannot be read.
    #[error("snapshot and log cannot be recovered")]
    Recover(#[source] RecoveryError),
    /// The snapshot's body is no State.
    #[error("the snapshot cannot be read")]
    State(#[source] StateError),
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

    /// Starts the threads.
    ///
    /// # Errors
    /// The node or a thread cannot be made.
    pub fn start(
        self,
        settings: &Settings,
        board: Arc<Board>,
        history: HistoryHandle,
        metrics: Arc<Metrics>,
    ) -> Result<Replica, ReplicaError> {
        let raft = &settings.raft;
        let node_settings = NodeSettings {
            election_tick: raft.election_ticks as usize,
            heartbeat_tick: raft.heartbeat_ticks as usize,
            ..NodeSettings::new(self.raft_id, SystemRng.next_u64())
        };
        let node = Node::new(node_settings, self.start).map_err(ReplicaError::Node)?;
        let (to_raft, from_all) = channel();
        let (to_log, for_log) = channel();
        let (to_apply, for_apply) = sync_channel(BATCHES_MAX);
        let (role, role_seen) = watch::channel(Role::default());
        let floor = self.state.chain.floor_index;
        let snapshotter =
            Snapshotter::new(self.data, history.clone(), metrics.clone(), to_raft.clone(), floor);
        let snapshot = self.state.applied;
        let applier = Applier { state: self.state, board, history, metrics, snapshotter };
        let log_metrics = applier.metrics.clone();
        let (log, writer_to_raft) = (self.log, to_raft.clone());
        let apply_to_raft = to_raft.clone();
        let threads = vec![
            thread("log", move || log_writer::run(log, &for_log, &writer_to_raft, &log_metrics))?,
            thread("apply", move || applier.run(&for_apply, &apply_to_raft))?,
            thread("raft", {
                let tick = Duration::from_millis(u64::from(raft.tick_ms));
                let raft = RaftThread::new(node, to_log, to_apply, role, snapshot);
                move || raft.run(&from_all, tick)
            })?,
        ];
        Ok(Replica { to_raft, role: role_seen, threads })
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

struct RaftThread {
    node: Node,
    to_log: Sender<ToLog>,
    to_apply: SyncSender<Batch>,
    role: watch::Sender<Role>,
    tickets: u64,
    proposed: HashMap<u64, Proposed>,
    reads: HashMap<u64, oneshot::Sender<Result<u64, ProposeError>>>,
    waiters: VecDeque<Waiter>,
    snapshots: VecDeque<u64>,
    trimmed: u64,
}

impl RaftThread {
    fn new(
        node: Node,
        to_log: Sender<ToLog>,
        to_apply: SyncSender<Batch>,
        role: watch::Sender<Role>,
        snapshot: u64,
    ) -> RaftThread {
        RaftThread {
            node,
            to_log,
            to_apply,
            role,
            tickets: 0,
            proposed: HashMap::new(),
            reads: HashMap::new(),
            waiters: VecDeque::new(),
            // The one that was there at the start counts: else a node that is often started again
            // would keep its whole log.
            snapshots: VecDeque::from([snapshot]),
            trimmed: snapshot,
        }
    }

    fn run(mut self, inbox: &Receiver<ToRaft>, tick: Duration) {
        let mut next_tick = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next_tick {
                self.node.receive(Input::Tick);
                next_tick = now + tick;
            }
            match inbox.recv_timeout(next_tick.saturating_duration_since(now)) {
                Ok(first) => {
                    if !self.drain(first, inbox) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for output in self.node.ready() {
                self.carry_out(output);
            }
        }
    }

    /// Takes everything that waits, so that it shares one group; false to stop.
    fn drain(&mut self, first: ToRaft, inbox: &Receiver<ToRaft>) -> bool {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(work) = next {
            if matches!(work, ToRaft::Request(Request::Stop)) {
                return false;
            }
            self.take(work);
            taken += 1;
            next = if taken < DRAINED_MAX { inbox.try_recv().ok() } else { None };
        }
        true
    }

    fn take(&mut self, work: ToRaft) {
        let input = match work {
            ToRaft::Request(Request::Propose(mut proposed)) => {
                self.tickets += 1;
                let payload = std::mem::take(&mut proposed.payload).into();
                self.proposed.insert(self.tickets, *proposed);
                Input::Propose { ticket: self.tickets, payload }
            }
            ToRaft::Request(Request::Read(reply)) => {
                self.tickets += 1;
                self.reads.insert(self.tickets, reply);
                Input::Read { ticket: self.tickets }
            }
            ToRaft::Request(Request::Stop) => return,
            ToRaft::Persisted(group) => Input::Persisted { group },
            ToRaft::PersistFailed => Input::PersistFailed,
            ToRaft::Applied(index) => return self.applied(index),
            ToRaft::Snapshotted { index } => return self.compact(index),
        };
        self.node.receive(input);
    }

    /// Nobody but this node ever needs an entry that is applied while it is the only voter, and on
    /// disk the log stays as it is: so memory holds the newest entries only.
    fn applied(&mut self, index: u64) {
        self.node.receive(Input::Applied { index });
        if index >= self.trimmed + 2 * IN_MEMORY {
            self.trimmed = index - IN_MEMORY;
            self.node.receive(Input::Compact { index: self.trimmed });
        }
    }

    /// The last two snapshots are kept, so the log is kept back to the older one.
    fn compact(&mut self, index: u64) {
        self.snapshots.push_back(index);
        if self.snapshots.len() < 2 {
            return;
        }
        let Some(index) = self.snapshots.pop_front() else { return };
        self.node.receive(Input::Compact { index });
        // The log writer has gone only if the node stops.
        let _ = self.to_log.send(ToLog::Compact(index));
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Persist(group) => {
                let _ = self.to_log.send(ToLog::Append(group));
            }
            Output::Proposed { ticket, mark } => {
                if let Some(proposed) = self.proposed.remove(&ticket) {
                    let Proposed { proposal, reply, .. } = proposed;
                    self.waiters.push_back(Waiter {
                        index: mark.index,
                        term: mark.term,
                        proposal,
                        reply,
                    });
                }
            }
            Output::Refused { ticket, reason } => self.refuse(ticket, reason),
            Output::Committed(entries) => {
                let last = entries.last().map_or(0, |entry| entry.index);
                let count = self.waiters.partition_point(|waiter| waiter.index <= last);
                let waiters = self.waiters.drain(..count).collect();
                let _ = self.to_apply.send(Batch { entries, waiters });
            }
            Output::ReadReady { ticket, index } => {
                if let Some(reply) = self.reads.remove(&ticket) {
                    let _ = reply.send(Ok(index));
                }
            }
            Output::ReadFailed { ticket } => {
                if let Some(reply) = self.reads.remove(&ticket) {
                    let _ = reply.send(Err(ProposeError::NotMaster));
                }
            }
            Output::Role(report) => {
                let leads = report.role == replica::Role::Leader;
                self.role.send_replace(Role { leads, term: report.term, leader: report.leader });
            }
            Output::Halted(halt) => {
                let why = std::io::Error::other(format!("{halt:?}"));
                stop_the_node("the replica halted", &why);
            }
            // A cluster of one voter has nobody to send to; these come with the second node.
            Output::Send(_)
            | Output::MembersChanged { .. }
            | Output::InstallSnapshot { .. }
            | Output::SnapshotWanted { .. } => {}
        }
    }

    fn refuse(&mut self, ticket: u64, reason: replica::Refusal) {
        let error = match reason {
            replica::Refusal::TooBusy => ProposeError::TooBusy,
            _ => ProposeError::NotMaster,
        };
        if let Some(proposed) = self.proposed.remove(&ticket) {
            let _ = proposed.reply.send(Err(error));
        }
        if let Some(reply) = self.reads.remove(&ticket) {
            let _ = reply.send(Err(error));
        }
    }
}
