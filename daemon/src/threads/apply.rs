//! The apply thread: owns State, applies committed entries in order, carries effects to where they
//! belong, and answers who proposed.
//!
//! Order of a batch: archived records to the history, then the new State to the board, then events
//! and answers. So who is answered can read what was written, and a job that left State is found
//! in the history.

use super::raft::ToRaft;
use super::snapshot::Snapshotter;
use super::{Batch, Waiter, stop_the_node};
use crate::board::Board;
use crate::history::HistoryHandle;
use crate::metrics::{Metrics, OutcomeLabel};
use crate::proposer::{Answered, ProposeError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use tiebeam_core::effect::{Answer, Effect, Event, What};
use tiebeam_core::proposal::Proposal;
use tiebeam_core::{State, job};
use tiebeam_proto::Stage;
use tiebeam_replica::{Entry, EntryKind};
use tokio::sync::oneshot;

/// The parts that apply hands its effects to.
pub struct Applier {
    /// State; nobody else changes it.
    pub state: State,
    /// What the rest of the daemon sees.
    pub board: Arc<Board>,
    /// Where records go.
    pub history: HistoryHandle,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who takes snapshots.
    pub snapshotter: Snapshotter,
}

/// What a batch gathered.
#[derive(Default)]
struct Gathered {
    answers: Vec<(oneshot::Sender<Answered>, Answered)>,
    events: Vec<Event>,
    ended_jobs: Vec<u64>,
    ended_commands: Vec<(u64, String)>,
    due: bool,
}

impl Applier {
    /// Applies what comes until the raft thread has gone.
    pub fn run(mut self, batches: &Receiver<Batch>, raft: &Sender<ToRaft>) {
        while let Ok(batch) = batches.recv() {
            self.apply(batch);
            // The raft thread has gone only if the node stops; what is left is applied anyway.
            let _ = raft.send(ToRaft::Applied(self.state.applied));
        }
    }

    /// Applies entries that were committed before this process started, or a batch.
    pub fn apply(&mut self, batch: Batch) {
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
        let bytes: u64 = batch.entries.iter().map(|entry| entry.payload.len() as u64).sum();
        self.snapshotter.note(&self.state, batch.entries.len() as u64, bytes);
    }

    fn apply_entry(&mut self, entry: &Entry, waiter: Option<Waiter>, gathered: &mut Gathered) {
        let decoded;
        let proposal: Option<&Proposal> = match (&waiter, entry.kind) {
            (Some(waiter), _) => Some(&waiter.proposal),
            (None, EntryKind::Normal) => {
                decoded = Proposal::decode(&entry.payload).unwrap_or_else(|error| {
                    stop_the_node(&format!("entry {} cannot be read", entry.index), &error)
                });
                Some(&decoded)
            }
            (None, EntryKind::Empty | EntryKind::Conf) => None,
        };
        let (answer, effects) = self.state.apply(entry.index, entry.term, proposal);
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

    fn carry_out(&mut self, effect: Effect, gathered: &mut Gathered) {
        match effect {
            Effect::Archive(archived, record) => {
                if let Some(outcome) = record.and_then(|record| record.outcome) {
                    let label = OutcomeLabel { outcome: outcome.name() };
                    self.metrics.jobs.get_or_create(&label).inc();
                }
                if let Err(error) = self.history.archive(archived) {
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
        | What::Node { .. } => {}
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
