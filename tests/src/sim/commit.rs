//! What a master knows of the other members, and which changes it may call committed (ruling 6).
//!
//! Who is awaited, and who is named as pending, is core's decision
//! ([`State::awaited`](tiebeam_core::State::awaited)); here are the reports that it asks for, and
//! the clock of the wait.

use super::net::Report;
use super::simulation::{FIRST_NODE, Simulation};
use std::collections::{BTreeMap, BTreeSet};
use tiebeam_core::commit::{Heard, Parted};
use tiebeam_core::{State, settings};

/// Entries that a member may be behind and count as caught up.
const NEAR: u64 = 64;

/// Reports of the members to this node in its term.
#[derive(Default)]
pub(super) struct Reports {
    term: u64,
    applied: BTreeMap<usize, u64>,
    heard_us: BTreeMap<usize, u64>,
    /// Since when this master knows a change that has no stamp, by job.
    since_us: BTreeMap<u64, u64>,
    /// Jobs that were answered as committed.
    committed: BTreeSet<u64>,
}

impl Reports {
    /// The node is in this term now; true if it was in another one.
    pub(super) fn new_term(&mut self, term: u64) -> bool {
        let new = self.term != term;
        if new {
            let heard_us = std::mem::take(&mut self.heard_us);
            *self = Reports { term, heard_us, ..Reports::default() };
        }
        new
    }

    /// Something came from this machine.
    pub(super) fn heard(&mut self, from: usize, now_us: u64) {
        self.heard_us.insert(from, now_us);
    }

    /// A member said how far it is; true if that is news.
    pub(super) fn reported(&mut self, from: usize, report: Report) -> bool {
        if report.term != self.term {
            return false;
        }
        let known = self.applied.entry(from).or_default();
        let new = *known < report.applied;
        *known = report.applied.max(*known);
        new
    }

    /// Members that have reported nearly everything that `board` has, by node id.
    pub(super) fn caught_up(&self, board: &State) -> BTreeSet<u32> {
        let near = board.applied.saturating_sub(NEAR);
        let near = self.applied.iter().filter(|(_, applied)| **applied >= near);
        near.map(|(at, _)| FIRST_NODE + *at as u32).collect()
    }

    /// Whether the job was answered as committed.
    pub(super) fn is_committed(&self, job: u64) -> bool {
        self.committed.contains(&job)
    }

    /// The job is answered as committed from now on.
    pub(super) fn note_committed(&mut self, job: u64) {
        self.committed.insert(job);
    }
}

impl Simulation {
    /// Whether a change may be called committed now, and what its record will say of the members.
    /// If not, when to look again at the latest, in microseconds from now.
    pub(super) fn commit_now(&mut self, at: usize, job: u64, index: u64) -> Result<Parted, u64> {
        let now_us = self.now_us;
        let since_us = *self.machines[at].pipeline.reports.since_us.entry(job).or_insert(now_us);
        let machine = &self.machines[at];
        let Some(process) = &machine.process else { return Err(0) };
        let online_us = 20 * self.settings.pace.tick_us;
        let heard = |raft: u64| {
            let place = self.machines.iter().position(|other| other.identity.raft == raft);
            let reports = &machine.pipeline.reports;
            let known = |place| Heard {
                applied: reports.applied.get(&place).copied().unwrap_or(0),
                online: reports.heard_us.get(&place).is_some_and(|us| now_us - us < online_us),
            };
            place.map(known).unwrap_or_default()
        };
        let board = &process.board;
        let parted = board.awaited(process.identity.node, index, heard);
        let wait_us = 1_000 * settings::integer(&board.config, "jobs", "commit_wait_ms");
        let waited_us = now_us - since_us;
        let own = process.identity.raft;
        let voters = board.voters().count();
        let reached = board
            .voters()
            .filter(|(_, member)| member.raft_id == own || heard(member.raft_id).online)
            .count();
        if parted.pending.is_empty() || (waited_us >= wait_us && 2 * reached > voters) {
            return Ok(parted);
        }
        Err(wait_us.saturating_sub(waited_us).max(10_000))
    }
}
