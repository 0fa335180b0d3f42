//! A member that lost its disk: it is removed, joins again under the next incarnation as a learner
//! with a snapshot, gets its history, and becomes a voter (rulings 16, 19, 20, 43).
//!
//! It stands for the operator and for the daemon's join: one step at a time, each looked up in the
//! master's State, each proposed again until it is there.

use super::archive;
use super::machine::Machine;
use super::pipeline::Asker;
use super::process::{self, Halt, Process};
use super::simulation::{Event, Simulation};
use tiebeam_core::State;
use tiebeam_core::member::{MemberChange, MemberStep};
use tiebeam_core::proposal::Body;
use tiebeam_replica::membership::Change;
use tiebeam_replica::seams::Rng;
use tiebeam_replica::seams::mem::{MemDisk, Stop};

/// Time between two looks at where a swap is, in microseconds.
const LOOK_EVERY_US: u64 = 150_000;

/// What is to be done next.
enum Step {
    Nothing,
    Propose(Change, MemberChange),
    Boot,
    Joined(u64),
    Done,
}

impl Simulation {
    /// A disk is gone for good, if no other one is. True if it is.
    pub(super) fn lose_disk(&mut self, at: usize) -> bool {
        let others = self.machines.iter().any(|machine| machine.lost);
        let busy = !self.settings.busy_swaps && self.has_commands(at);
        if self.swap.is_some() || others || busy || self.machines.len() < 3 {
            return false;
        }
        self.dies(at, "its disk is gone", Some(Stop::LoseAll));
        let machine = &mut self.machines[at];
        machine.disk = MemDisk::new();
        machine.programs.power_cut();
        (machine.lost, machine.promised, machine.written) = (true, 0, false);
        machine.life += 1;
        self.machines.iter_mut().for_each(|machine| machine.forget_held(at));
        self.swap = Some(at);
        self.after(LOOK_EVERY_US, Event::Swap);
        true
    }

    /// Whether a job that is not settled has started a command on this node. With its disk goes its
    /// journal: the next incarnation could not know of it.
    fn has_commands(&self, at: usize) -> bool {
        let node = self.machines[at].identity.node;
        let started = self.ledger.started.iter().filter(|(_, _, of)| *of == node);
        let boards: Vec<&State> = self.machines.iter().filter_map(Machine::board).collect();
        let newest = boards.iter().max_by_key(|board| board.applied);
        let Some(newest) = newest else { return true };
        let mut jobs = started.map(|(job, _, _)| job);
        jobs.any(|job| newest.jobs.contains_key(job) || newest.doubts.contains_key(job))
    }

    /// The next step of a swap.
    pub(super) fn swap_goes_on(&mut self) -> Result<(), Halt> {
        let Some(at) = self.swap else { return Ok(()) };
        self.after(LOOK_EVERY_US, Event::Swap);
        let masters = (0..self.machines.len()).filter(|at| self.is_master(*at));
        let term = |at: &usize| self.machines[*at].process.as_ref().map(|one| one.role.term);
        let Some(master) = masters.max_by_key(term) else { return Ok(()) };
        match self.next_step(at, master) {
            Step::Nothing => {}
            Step::Propose(change, wanted) => {
                self.trace_of(master, || format!("proposes {wanted:?}"));
                let body = Body::Member(MemberStep::Seated { change: wanted });
                self.ask(master, Asker::Agent, |process, ticket, clock| {
                    process.propose_member(ticket, change, body, clock);
                });
            }
            Step::Boot => return self.boot_joined(at, master),
            Step::Joined(raft_id) => {
                let node = self.machines[at].identity.node;
                let body = Body::Member(MemberStep::Joined { node, raft_id });
                self.propose(master, Asker::Agent, body);
            }
            Step::Done => {
                self.counts.swaps += 1;
                self.swap = None;
                self.trace_of(at, || "is a voter again".to_owned());
            }
        }
        self.settle(master);
        Ok(())
    }

    fn next_step(&mut self, at: usize, master: usize) -> Step {
        let Some(process) = &self.machines[master].process else { return Step::Nothing };
        let board = process.board.clone();
        let knows = |raft_id: u64| process.membership().contains(raft_id);
        let machine = &self.machines[at];
        let (node, raft_id) = (machine.identity.node, machine.identity.raft);
        let Some(member) = board.members.get(&node) else {
            let raft_id = board.next_raft_id(node);
            self.machines[at].identity.raft = raft_id;
            let key_hash = "0".repeat(64);
            let wanted = MemberChange::Add { node, raft_id, key_hash };
            return Step::Propose(Change::AddLearner(raft_id), wanted);
        };
        if member.raft_id != raft_id {
            return Step::Nothing;
        }
        if machine.lost && !member.joining {
            return Step::Propose(Change::Remove(raft_id), MemberChange::Remove { node, raft_id });
        }
        if machine.lost {
            return if knows(raft_id) { Step::Boot } else { Step::Nothing };
        }
        if member.joining {
            return Step::Joined(raft_id);
        }
        if member.voter {
            return Step::Done;
        }
        let near = board.applied.saturating_sub(50);
        let whole = |one: &Process| !one.archive.has_gap() && one.board.applied >= near;
        match machine.process.as_ref().is_some_and(whole) {
            true => {
                Step::Propose(Change::AddVoter(raft_id), MemberChange::Promote { node, raft_id })
            }
            false => Step::Nothing,
        }
    }

    /// The new incarnation begins with what the master gives it.
    fn boot_joined(&mut self, at: usize, master: usize) -> Result<(), Halt> {
        let Some(giver) = &self.machines[master].process else { return Ok(()) };
        let (state, membership) = (giver.board.clone(), giver.membership().clone());
        let seed = self.rng.next_u64();
        let machine: &mut Machine = &mut self.machines[at];
        // What an attempt left that a fault broke off is no folder to join into.
        machine.disk = MemDisk::new();
        let made = archive::begin_at(&machine.disk, process::head_of(&state))
            .map_err(|error| error.to_string())
            .and_then(|()| process::init(&machine.disk, seed, &state, membership));
        made.map_err(Halt::Exits)?;
        (machine.lost, machine.promised) = (false, state.applied);
        machine.life += 1;
        self.restart(at)
    }
}
