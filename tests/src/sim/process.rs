//! The node's process: the real replica, log and State, cut at the queues at which the daemon's
//! threads are cut. The simulation decides when each queue is worked off.
//!
//! It mirrors the daemon's threads (log writer, apply, snapshot): same order, same rules. It must
//! not decide anything that the daemon leaves to the replica or to apply.

use super::archive::{Archive, OpenError};
use super::invariants::{self, Applied, Violation};
use super::ledger::Ledger;
use super::plant::Plant;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tiebeam_core::effect::{Answer, Effect};
use tiebeam_core::lock::LockSet;
use tiebeam_core::proposal::{Body, Header, Proposal};
use tiebeam_core::{State, snapshot as state_bytes};
use tiebeam_proto::chain::Head;
use tiebeam_proto::time::Time;
use tiebeam_replica::log::{Log, LogError, LogSettings};
use tiebeam_replica::membership::{Membership, raft_id};
use tiebeam_replica::recovery::{SNAPSHOT_FOLDER, bootstrap, first_snapshot, recover};
use tiebeam_replica::seams::mem::{MemDisk, SeededRng};
use tiebeam_replica::seams::{Disk, DiskError};
use tiebeam_replica::snapshot::{self, SnapshotMeta};
use tiebeam_replica::{
    Entry, EntryKind, Group, Input, Mark, Node, NodeSettings, Output, Role, RoleReport,
};

/// The node's id.
pub(super) const NODE: u32 = 11;
/// Entries between two snapshots: few, so that every life sees some.
const SNAPSHOT_EVERY: u64 = 40;

/// Why a process cannot go on.
#[derive(Debug)]
pub(super) enum Halt {
    /// It was stopped at a crash point.
    Died,
    /// It ends itself, as the daemon does.
    Exits(String),
    /// An invariant does not hold.
    Broken(Violation),
}

impl From<Violation> for Halt {
    fn from(violation: Violation) -> Halt {
        Halt::Broken(violation)
    }
}

/// What became of a ticket.
#[derive(Debug)]
pub(super) enum Told {
    /// The entry at this index was applied, and this is what apply said.
    Applied(u64, Answer),
    /// Nothing was proposed.
    Refused,
    /// What is applied up to here may be read.
    Readable(u64),
}

/// Something for the log writer.
enum Work {
    Append(Group),
    Compact(u64),
}

/// What the node asked for in one round.
#[derive(Default)]
pub(super) struct Round {
    pub(super) told: Vec<(u64, Told)>,
    /// Groups that a planted fault takes for written.
    pub(super) believed: Vec<u64>,
    pub(super) halted: bool,
}

/// What apply gave.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) told: Vec<(u64, Told)>,
    pub(super) due: bool,
}

/// A running node.
pub(super) struct Process {
    node: Node,
    log: Log<MemDisk>,
    disk: MemDisk,
    state: State,
    /// What readers and planners see.
    pub(super) board: Arc<State>,
    pub(super) archive: Archive,
    writing: VecDeque<Work>,
    applying: VecDeque<Vec<Entry>>,
    waiters: BTreeMap<u64, (u64, u64)>,
    /// Locks of plans on their way into the log.
    pub(super) flight: LockSet,
    pub(super) role: RoleReport,
    stamped_us: u64,
    since_snapshot: u64,
    snapshots: VecDeque<u64>,
    /// The log failed; nothing above `durable_index` may be acknowledged any more.
    pub(super) log_failed: bool,
    durable_index: u64,
    replay_to: u64,
    records: u64,
    plant: Option<Plant>,
}

fn log_settings() -> LogSettings {
    LogSettings { segment_bytes: 48 << 10, first_segment_bytes: 16 << 10, mark_every: 1 }
}

fn membership() -> Membership {
    Membership::of_voters([raft_id(NODE.into(), 1)])
}

/// Makes the first files.
pub(super) fn init(disk: &MemDisk, seed: u64, genesis: &State) -> Result<(), String> {
    let body = state_bytes::encode(genesis);
    let meta = first_snapshot(raft_id(NODE.into(), 1));
    let rng = Box::new(SeededRng::new(seed));
    bootstrap(disk.clone(), log_settings(), rng, meta, &body).map_err(|error| format!("{error:?}"))
}

impl Process {
    /// Starts from the files. An error is a text that says why there is no start.
    pub(super) fn start(
        disk: &MemDisk,
        nonce: u64,
        now_us: u64,
        plant: Option<Plant>,
    ) -> Result<Process, String> {
        let rng = Box::new(SeededRng::new(nonce));
        let found = recover(disk.clone(), log_settings(), rng).map_err(|e| format!("{e:?}"))?;
        let state = state_bytes::decode(&found.body).map_err(|error| format!("{error:?}"))?;
        let head = Head { index: state.chain.index, hash: state.chain.head };
        let archive = Archive::open(disk.clone(), head).map_err(|error| match error {
            OpenError::Disk(error) => format!("{error:?}"),
            OpenError::Damaged { whole, needed } => {
                format!("the history has {whole} whole records of {needed}")
            }
        })?;
        let last = found.log.last().index;
        let settings = NodeSettings::new(raft_id(NODE.into(), 1), nonce);
        let node = Node::new(settings, found.start).map_err(|error| format!("{error:?}"))?;
        Ok(Process {
            role: node.status().role,
            node,
            log: found.log,
            disk: disk.clone(),
            board: Arc::new(state.clone()),
            state,
            archive,
            writing: VecDeque::new(),
            applying: VecDeque::new(),
            waiters: BTreeMap::new(),
            flight: LockSet::new(),
            stamped_us: now_us,
            since_snapshot: 0,
            snapshots: VecDeque::new(),
            log_failed: false,
            durable_index: last,
            replay_to: last,
            records: 0,
            plant,
        })
    }

    /// Last index in the log.
    pub(super) fn last_index(&self) -> u64 {
        self.log.last().index
    }

    /// Whether it leads and has applied its own first entry.
    pub(super) fn is_master(&self) -> bool {
        self.role.role == Role::Leader && self.board.term == self.role.term
    }

    /// Hands an input to the node; what follows comes with the next [`Process::round`].
    pub(super) fn receive(&mut self, input: Input) {
        self.node.receive(input);
    }

    /// Proposes a body under a ticket.
    pub(super) fn propose(&mut self, ticket: u64, body: Body, clock: (u64, Time)) {
        let (now_us, wall) = clock;
        let elapsed_us = now_us.saturating_sub(self.stamped_us);
        self.stamped_us = self.stamped_us.max(now_us);
        let proposal = Proposal { header: Header { wall, elapsed_us, proposer: NODE }, body };
        self.receive(Input::Propose { ticket, payload: proposal.encode().into() });
    }

    /// Takes what the node wants done and puts it into the queues.
    pub(super) fn round(&mut self) -> Round {
        let mut round = Round::default();
        for output in self.node.ready() {
            match output {
                Output::Persist(group) => {
                    if self.plant == Some(Plant::AcknowledgeBeforeSync) {
                        round.believed.push(group.number);
                    }
                    self.writing.push_back(Work::Append(group));
                }
                Output::Committed(entries) => self.applying.push_back(entries),
                Output::Proposed { ticket, mark } => {
                    self.waiters.insert(mark.index, (mark.term, ticket));
                }
                Output::Refused { ticket, .. } | Output::ReadFailed { ticket } => {
                    round.told.push((ticket, Told::Refused));
                }
                Output::ReadReady { ticket, index } => {
                    round.told.push((ticket, Told::Readable(index)));
                }
                Output::Role(role) => self.role = role,
                Output::Halted(_) => round.halted = true,
                Output::Send(_)
                | Output::MembersChanged { .. }
                | Output::InstallSnapshot { .. }
                | Output::SnapshotWanted { .. } => {}
            }
        }
        round
    }

    /// Whether the log writer has something to do.
    pub(super) fn has_writes(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Whether apply has something to do.
    pub(super) fn has_entries(&self) -> bool {
        !self.applying.is_empty()
    }

    /// The log writer's turn: everything that waits. Returns the newest group written.
    pub(super) fn write(&mut self) -> Result<Option<u64>, Halt> {
        self.reached("persist.before")?;
        let mut newest = None;
        while let Some(work) = self.writing.pop_front() {
            match work {
                Work::Append(group) => {
                    if let Err(error) = self.log.append(&group) {
                        self.alive()?;
                        self.log_failed = true;
                        if self.plant != Some(Plant::IgnoreFailedSync) {
                            self.receive(Input::PersistFailed);
                            return Err(Halt::Exits(format!("the log failed: {error}")));
                        }
                    } else {
                        self.durable_index = self.log.last().index;
                    }
                    newest = Some(group.number);
                }
                Work::Compact(index) => {
                    let compacted = self.log.compact_to(index).map(drop);
                    self.survives(compacted)?;
                }
            }
        }
        self.reached("persist.after")?;
        let prepared = self.log.prepare().map(drop);
        self.survives(prepared)?;
        Ok(newest)
    }

    /// Fails if the process was stopped; every other error of work ahead is only reported.
    fn survives(&self, result: Result<(), LogError>) -> Result<(), Halt> {
        if result.is_err() { self.alive() } else { Ok(()) }
    }

    fn alive(&self) -> Result<(), Halt> {
        if self.disk.crashed().is_some() { Err(Halt::Died) } else { Ok(()) }
    }

    fn reached(&mut self, point: &'static str) -> Result<(), Halt> {
        self.disk.crash_point(point).map_err(|_| Halt::Died)
    }

    /// The apply thread's turn: one batch. Records go to the history, then the new State to the
    /// board, then the answers out.
    pub(super) fn apply(&mut self, ledger: &mut Ledger) -> Result<Shown, Halt> {
        let mut shown = Shown::default();
        let mut answers = Vec::new();
        for entry in self.applying.pop_front().unwrap_or_default() {
            self.reached("apply.before")?;
            let answer = self.apply_entry(&entry, ledger, &mut shown)?;
            self.reached("apply.after")?;
            if let Some((term, ticket)) = self.waiters.remove(&entry.index) {
                let told = if term == entry.term {
                    Told::Applied(entry.index, answer)
                } else {
                    Told::Refused
                };
                answers.push((ticket, told));
            }
        }
        self.receive(Input::Applied { index: self.state.applied });
        if self.plant != Some(Plant::AnswerBeforeApply) {
            self.show();
        }
        self.reached("reply.before")?;
        shown.told = answers;
        Ok(shown)
    }

    /// Shows readers the newest State.
    pub(super) fn show(&mut self) {
        self.board = Arc::new(self.state.clone());
    }

    fn apply_entry(
        &mut self,
        entry: &Entry,
        ledger: &mut Ledger,
        shown: &mut Shown,
    ) -> Result<Answer, Halt> {
        let skipped = self.plant == Some(Plant::RestartWithoutReplay);
        if skipped && entry.index <= self.replay_to {
            (self.state.applied, self.state.term) = (entry.index, entry.term);
            return Ok(Answer::Done);
        }
        let proposal = match entry.kind {
            EntryKind::Normal => {
                let read = Proposal::decode(&entry.payload);
                Some(read.map_err(|error| Halt::Exits(error.to_string()))?)
            }
            EntryKind::Empty | EntryKind::Conf => None,
        };
        let before = self.state.clone();
        let (answer, effects) = self.state.apply(entry.index, entry.term, proposal.as_ref());
        let after = &self.state;
        let applied = Applied {
            entry,
            proposal: proposal.as_ref(),
            before: &before,
            after,
            answer: &answer,
            effects: &effects,
        };
        invariants::after_entry(ledger, &applied)?;
        self.since_snapshot += 1;
        for effect in effects {
            match effect {
                Effect::Archive(archived, record) => {
                    self.records += 1;
                    if self.plant != Some(Plant::DropRecord) || !self.records.is_multiple_of(7) {
                        self.archive.push(archived, record);
                    }
                }
                Effect::Revision(_) | Effect::Due => shown.due = true,
                Effect::Event(_) => {}
            }
        }
        Ok(answer)
    }

    /// Whether the entry at this index may be acknowledged.
    pub(super) fn may_acknowledge(&self, index: u64) -> bool {
        !self.log_failed || index <= self.durable_index
    }

    /// The history thread's turn.
    pub(super) fn sync_history(&mut self) -> Result<(), Halt> {
        let synced = self.archive.sync();
        self.history_went(synced)
    }

    fn history_went(&self, synced: Result<(), DiskError>) -> Result<(), Halt> {
        if let Err(error) = synced {
            self.alive()?;
            return Err(Halt::Exits(format!("the history failed: {error}")));
        }
        Ok(())
    }

    /// Whether a snapshot is due.
    pub(super) fn wants_snapshot(&self) -> bool {
        self.since_snapshot >= SNAPSHOT_EVERY
    }

    /// The State to take a snapshot of: a pointer copy.
    pub(super) fn state_to_save(&mut self) -> Box<State> {
        self.since_snapshot = 0;
        Box::new(self.state.clone())
    }

    /// The snapshot thread's turn: the history first, then the snapshot, then the log's prefix.
    pub(super) fn snapshot(&mut self, mut state: Box<State>) -> Result<(), Halt> {
        let synced = self.archive.sync();
        self.history_went(synced)?;
        if self.plant == Some(Plant::ForgetAppliedIndex) {
            state.applied -= 3;
        }
        let mark = Mark { index: state.applied, term: state.term };
        let meta = SnapshotMeta { mark, membership: membership() };
        let body = state_bytes::encode(&state);
        if snapshot::save(self.disk.clone(), SNAPSHOT_FOLDER, meta, &body).is_err() {
            // The daemon reports it and tries again later.
            return self.alive();
        }
        self.receive(Input::SnapshotTaken {
            mark,
            membership: membership(),
            manifest: Vec::new().into(),
        });
        self.snapshots.push_back(mark.index);
        if self.snapshots.len() >= 2
            && let Some(index) = self.snapshots.pop_front()
        {
            self.receive(Input::Compact { index });
            self.writing.push_back(Work::Compact(index));
        }
        Ok(())
    }
}
