//! What a master knows of the other members: the reports that [`tiebeam_executor::commit`] and the
//! conductor ask for. Who is awaited, and for how long, is decided there and in core.

use super::net::Report;
use super::simulation::{FIRST_NODE, Simulation};
use std::collections::{BTreeMap, BTreeSet};
use tiebeam_core::State;
use tiebeam_core::commit::Heard;
use tiebeam_executor::commit::{self, Hearsay, Wait};

/// Entries that a member may be behind and count as caught up.
const NEAR: u64 = 64;

/// Reports of the members to this node in its term.
#[derive(Default)]
pub(super) struct Reports {
    term: u64,
    applied: BTreeMap<usize, u64>,
    heard_us: BTreeMap<usize, u64>,
}

impl Reports {
    /// The node is in this term now.
    pub(super) fn new_term(&mut self, term: u64) {
        if self.term != term {
            let heard_us = std::mem::take(&mut self.heard_us);
            *self = Reports { term, heard_us, ..Reports::default() };
        }
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
}

impl Simulation {
    /// What this node knows of the members, by raft id.
    pub(super) fn hearsay(&self, at: usize) -> impl Hearsay + use<> {
        let online_us = 20 * self.settings.pace.tick_us;
        let reports = &self.machines[at].pipeline.reports;
        let known = |(place, machine): (usize, &super::machine::Machine)| {
            let last_us = reports.heard_us.get(&place);
            let heard = Heard {
                applied: reports.applied.get(&place).copied().unwrap_or(0),
                online: place == at || last_us.is_some_and(|us| self.now_us - us < online_us),
            };
            (machine.identity.raft, heard)
        };
        let heard: BTreeMap<u64, Heard> = self.machines.iter().enumerate().map(known).collect();
        move |raft_id| heard.get(&raft_id).copied().unwrap_or_default()
    }

    /// Whether a call's wait for its change is over: then, whether this node may answer it.
    pub(super) fn committed(&self, at: usize, wait: &Wait) -> Option<bool> {
        let process = self.machines[at].process.as_ref()?;
        let (board, own, heard) = (&process.board, process.identity.node, self.hearsay(at));
        let reached = commit::applied_by_all(board, own, &heard);
        let over = wait.is_over(reached, self.clock_us(at));
        over.then(|| wait.answer(board, own, process.office(), &heard).is_some())
    }
}
