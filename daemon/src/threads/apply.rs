//! The apply thread: owns State, applies committed entries in order, carries effects to where they
//! belong, and answers who proposed.
//!
//! Order of a batch: archived records to the history, then the new State to the board, then events
//! and answers. So who is answered can read what was written, and a job that left State is found
//! in the history.

use super::raft::ToRaft;
use super::snapshot::Snapshotter;
use super::start::ReplicaError;
use super::{Batch, ToApply, Waiter, stop_the_node};
use crate::board::Board;
use crate::engine::Role;
use crate::history::HistoryHandle;
use crate::metrics::{Metrics, OutcomeLabel};
use crate::proposer::{Answered, ProposeError, Stamp};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use tiebeam_core::effect::{Answer, Effect, Event, What};
use tiebeam_core::member::Seat;
use tiebeam_core::proposal::Proposal;
use tiebeam_core::state::FEATURE_LEVEL;
use tiebeam_core::{State, job};
use tiebeam_proto::chain::Head;
use tiebeam_proto::{Outcome, Stage};
use tiebeam_replica::membership::{Change, decode_change};
use tiebeam_replica::{Entry, EntryKind};
use tokio::sync::{oneshot, watch};

/// The parts that apply hands its effects to.
pub struct Applier {
    /// This node's id.
    pub own: u32,
    /// State; nobody else changes it.
    pub state: State,
    /// What the rest of the daemon sees.
    pub board: Arc<Board>,
    /// Where records go.
    pub history: HistoryHandle,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What cluster time has counted.
    pub stamp: Arc<Stamp>,
    /// Who takes snapshots.
    pub snapshotter: Snapshotter,
    /// Who leads, as far as this node knows.
    pub role: watch::Receiver<Role>,
}

/// What a batch gathered.
#[derive(Default)]
struct Gathered {
    answers: Vec<(oneshot::Sender<Answered>, Answered)>,
    events: Vec<Event>,
    ended_jobs: Vec<u64>,
    ended_commands: Vec<(u64, String)>,
    due: bool,
    /// Changes of membership that were applied, and whether State took them.
    conf: Vec<(u64, bool)>,
}

impl Applier {
    /// Applies what comes until the raft thread has gone.
    pub fn run(mut self, queue: &Receiver<ToApply>, raft: &Sender<ToRaft>) {
        while let Ok(work) = queue.recv() {
            let conf = match work {
                ToApply::Batch(batch) => self.apply(batch),
                ToApply::Install(state) => {
                    self.install(*state);
                    Vec::new()
                }
                ToApply::Snapshot => {
                    self.snapshotter.take_now(&self.state);
                    continue;
                }
            };
            // The raft thread has gone only if the node stops; what is left is applied anyway.
            for (index, accepted) in conf {
                let _ = raft.send(ToRaft::ConfApplied { index, accepted });
            }
            let _ = raft.send(ToRaft::Applied(self.state.applied));
        }
    }

    /// Goes on from a snapshot: State jumps, and what lies between is missing in the history.
    fn install(&mut self, state: State) {
        let head = Head { index: state.chain.index, hash: state.chain.head };
        if let Err(error) = self.history.skip_to(head) {
            stop_the_node("the history cannot go on behind a snapshot", &error);
        }
        self.history.set_floor(state.chain.floor_index);
        self.history.set_reads_below(state.chain.reads_below);
        let ended: Vec<u64> =
            self.state.jobs.keys().filter(|id| !state.jobs.contains_key(*id)).copied().collect();
        self.state = state;
        self.board.show(self.state.clone());
        self.board.tell_job_ends(&ended);
        self.board.tell_command_ends(&[], &ended);
        self.board.note_due();
        self.board.tell_applied();
    }

    /// Applies a batch; says what became of changes of membership in it.
    fn apply(&mut self, batch: Batch) -> Vec<(u64, bool)> {
        let mut gathered = Gathered::default();
        let mut waiters: VecDeque<Waiter> = batch.waiters.into();
        for entry in &batch.entries {
            let waiter = take_waiter(&mut waiters, entry, &mut gathered);
            self.apply_entry(entry, waiter, &mut gathered);
        }
        for waiter in waiters {
            gathered.answers.push((waiter.reply, Err(ProposeError::Unknown)));
        }
        self.history.set_floor(self.state.chain.floor_index);
        self.history.set_reads_below(self.state.chain.reads_below);
        self.board.show(self.state.clone());
        self.board.keep_events(std::mem::take(&mut gathered.events));
        self.board.tell_job_ends(&gathered.ended_jobs);
        self.board.tell_command_ends(&gathered.ended_commands, &gathered.ended_jobs);
        for (reply, answer) in gathered.answers {
            // Who does not wait any more has no need of the answer.
            let _ = reply.send(answer);
        }
        if gathered.due {
            self.board.note_due();
        }
        self.board.tell_applied();
        let bytes: u64 = batch.entries.iter().map(|entry| entry.payload.len() as u64).sum();
        self.snapshotter.note(&self.state, batch.entries.len() as u64, bytes);
        gathered.conf
    }

    fn apply_entry(&mut self, entry: &Entry, waiter: Option<Waiter>, gathered: &mut Gathered) {
        let decoded;
        let proposal: Option<&Proposal> = match (&waiter, entry.kind) {
            // Raft empties a change that it does not take after all.
            (_, EntryKind::Empty) => None,
            (Some(waiter), _) => Some(&waiter.proposal),
            (None, EntryKind::Normal) => {
                decoded = decode(entry.index, &entry.payload);
                Some(&decoded)
            }
            (None, EntryKind::Conf) => {
                let context = decode_change(&entry.payload).map(|(_, context)| context);
                decoded = decode(entry.index, &context.unwrap_or_default());
                Some(&decoded)
            }
        };
        gathered.events.extend(self.new_master(entry));
        if proposal.is_some_and(|proposal| proposal.header.proposer != self.own) {
            // Another master's entry has counted the time that has passed.
            self.stamp.take_us();
        }
        let (answer, effects) = match seat_of(entry) {
            Some(seat) => {
                let (answer, effects, accepted) =
                    self.state.apply_conf(entry.index, entry.term, seat, proposal);
                gathered.conf.push((entry.index, accepted));
                (answer, effects)
            }
            None if entry.kind == EntryKind::Empty && waiter.is_some() => {
                let (_, effects) = self.state.apply(entry.index, entry.term, None);
                (Answer::Stale, effects)
            }
            None => self.state.apply(entry.index, entry.term, proposal),
        };
        if self.state.feature_level > FEATURE_LEVEL {
            let error = ReplicaError::Level(self.state.feature_level);
            stop_the_node("this version is too old for its cluster", &error);
        }
        for effect in effects {
            self.carry_out(effect, gathered);
        }
        if let Answer::Job { id, record: Some(_) } = &answer
            && let Some((_, sequence)) = job::parse_job_id(id)
        {
            gathered.ended_jobs.push(sequence);
        }
        if let Some(waiter) = waiter {
            gathered.answers.push((waiter.reply, Ok(answer)));
        }
    }

    /// The event of a new master, at the entry with which every term begins. The entry does not say
    /// who wrote it; a node that reads it in an old log does not know, and tells nothing.
    fn new_master(&self, entry: &Entry) -> Option<Event> {
        let role = *self.role.borrow();
        let is_first = entry.kind == EntryKind::Empty && entry.term > self.state.term;
        let leader = role.leader.filter(|_| is_first && role.term == entry.term)?;
        let node = u32::try_from(leader >> 16).ok()?;
        Some(Event { cursor: (entry.index, 0), what: What::Master { node, term: entry.term } })
    }

    fn count(&self, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            let label = OutcomeLabel { outcome: outcome.name() };
            self.metrics.jobs.get_or_create(&label).inc();
        }
    }

    fn carry_out(&mut self, effect: Effect, gathered: &mut Gathered) {
        match effect {
            Effect::Archive(archived, record) => {
                let taken = match record {
                    Some(record) => {
                        self.count(record.outcome);
                        self.history.archive_job(archived, &record)
                    }
                    None => self.history.archive(archived),
                };
                if let Err(error) = taken {
                    stop_the_node("the history takes no more records", &error);
                }
            }
            Effect::Revision(_) | Effect::Due => gathered.due = true,
            Effect::Event(event) => {
                note_ends(&event, gathered);
                gathered.events.push(event);
            }
        }
    }
}

/// The proposal in an entry's payload.
fn decode(index: u64, payload: &[u8]) -> Proposal {
    Proposal::decode(payload)
        .unwrap_or_else(|error| stop_the_node(&format!("entry {index} cannot be read"), &error))
}

/// What raft is about to change at this entry.
fn seat_of(entry: &Entry) -> Option<(u64, Seat)> {
    if entry.kind != EntryKind::Conf {
        return None;
    }
    Some(match decode_change(&entry.payload) {
        Ok((Change::AddVoter(id), _)) => (id, Seat::Voter),
        Ok((Change::AddLearner(id), _)) => (id, Seat::Learner),
        Ok((Change::Remove(id), _)) => (id, Seat::Gone),
        Err(error) => stop_the_node(&format!("entry {} is no change", entry.index), &error),
    })
}

/// Notes whom to wake for what the event tells.
fn note_ends(event: &Event, gathered: &mut Gathered) {
    match &event.what {
        What::Stage { job, stage, .. } if *stage >= Stage::Finished => {
            gathered.ended_jobs.extend(job::parse_job_id(job).map(|(_, sequence)| sequence));
        }
        What::Command { job, command, result, .. } if &**result != "open" => {
            let sequence = job::parse_job_id(job).map(|(_, sequence)| sequence);
            gathered.ended_commands.extend(sequence.map(|s| (s, command.to_string())));
        }
        What::Stage { .. }
        | What::Command { .. }
        | What::Config { .. }
        | What::Node { .. }
        | What::Cluster { .. }
        | What::Master { .. } => {}
    }
}

/// The waiter of this entry. One whose proposal was overtaken by another term is told that it is
/// lost: it never took effect (ruling 1).
fn take_waiter(
    waiters: &mut VecDeque<Waiter>,
    entry: &Entry,
    gathered: &mut Gathered,
) -> Option<Waiter> {
    while waiters.front().is_some_and(|waiter| waiter.index <= entry.index) {
        let waiter = waiters.pop_front()?;
        if waiter.index == entry.index && waiter.term == entry.term {
            return Some(waiter);
        }
        gathered.answers.push((waiter.reply, Err(ProposeError::NotMaster)));
    }
    None
}
