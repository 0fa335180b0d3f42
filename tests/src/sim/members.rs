//! Changes of members: a machine joins, leaves, or lost its disk and joins again, one at a time
//! (rulings 16, 19, 20, 43).
//!
//! It stands for the operator and for the daemon's join: each step is looked up in the master's
//! State and proposed again until it is there. A machine that joins begins with an empty disk under
//! its next incarnation, as a learner with the master's State; it gets its history and becomes a
//! voter once it has caught up. One that leaves hands the master's office over first, is perhaps a
//! learner for a while, and goes; nobody tells it, so its process goes on for as long as it likes.
//! A voter is removed only if those that stay are a majority that answers.

use super::archive;
use super::invariants;
use super::machine::Machine;
use super::pipeline::Asker;
use super::plant::Plant;
use super::process::{self, Halt, Process};
use super::simulation::{Event, Phase, Simulation};
use tiebeam_core::State;
use tiebeam_core::member::{MemberChange, MemberStep};
use tiebeam_core::proposal::Body;
use tiebeam_replica::Input;
use tiebeam_replica::membership::Change;
use tiebeam_replica::seams::Rng;
use tiebeam_replica::seams::mem::{MemDisk, Stop};

/// Time between two looks at where a change is, in microseconds.
const LOOK_EVERY_US: u64 = 150_000;
/// Entries that a learner may lack when it becomes a voter.
const NEAR: u64 = 50;

/// What is under way with one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// It joins with an empty disk.
    Joins(usize),
    /// It goes, as a learner at first or at once.
    Leaves {
        /// The machine.
        at: usize,
        /// Whether it becomes a learner first.
        steps_down: bool,
    },
}

impl Course {
    fn at(self) -> usize {
        let (Course::Joins(at) | Course::Leaves { at, .. }) = self;
        at
    }
}

/// What is to be done next.
enum Step {
    Nothing,
    HandOver,
    Propose(Change, MemberChange),
    Boot,
    Joined(u64),
    Done,
}

impl Simulation {
    /// Whether members change with this machine.
    pub(super) fn is_moving(&self, at: usize) -> bool {
        self.course.is_some_and(|course| course.at() == at)
    }

    /// The machine that leads in the newest term.
    pub(super) fn master(&self) -> Option<usize> {
        let masters = (0..self.machines.len()).filter(|at| self.is_master(*at));
        masters.max_by_key(|at| self.machines[*at].process.as_ref().map(|one| one.role.term))
    }

    fn begins(&mut self, course: Course) {
        self.course = Some(course);
        self.after(LOOK_EVERY_US, Event::Swap);
    }

    /// A disk is gone for good, if no other one is, and a majority of all voters stays.
    /// True if it is. A voter that was away while all whom it knew were replaced answers nobody.
    pub(super) fn lose_disk(&mut self, at: usize) -> bool {
        let others = self.machines.iter().any(|machine| machine.lost && !machine.out);
        let busy = !self.settings.busy_swaps && self.has_commands(at);
        let whole = self.settings.scripted || self.is_majority_without(at);
        if self.course.is_some() || others || busy || !whole || self.machines[at].out {
            return false;
        }
        self.wipe(at, "its disk is gone");
        self.begins(Course::Joins(at));
        true
    }

    /// Whether the voters that answer the master without this one are a majority of all.
    fn is_majority_without(&self, at: usize) -> bool {
        let Some(master) = self.master() else { return false };
        let Some(board) = self.machines[master].board() else { return false };
        let voters: Vec<usize> = board.voters().filter_map(|(id, _)| self.place(id)).collect();
        let answers = |one: &&usize| **one != at && self.hears(master, **one);
        2 * voters.iter().filter(answers).count() > voters.len()
    }

    /// The machine is there without anything on its disk.
    fn wipe(&mut self, at: usize, why: &str) {
        self.dies(at, why, Some(Stop::LoseAll));
        let machine = &mut self.machines[at];
        machine.disk = MemDisk::new();
        machine.programs.power_cut();
        (machine.lost, machine.promised, machine.written) = (true, 0, false);
        machine.life += 1;
        self.machines.iter_mut().for_each(|machine| machine.forget_held(at));
    }

    fn newest_board(&self) -> Option<&State> {
        let boards = self.machines.iter().filter_map(Machine::board);
        boards.max_by_key(|board| board.applied)
    }

    /// Whether a job that is not settled has started a command on this node. With its disk goes its
    /// journal: the next incarnation could not know of it.
    fn has_commands(&self, at: usize) -> bool {
        let node = self.machines[at].identity.node;
        let started = self.ledger.started.iter().filter(|(_, _, of)| *of == node);
        let Some(newest) = self.newest_board() else { return true };
        let mut jobs = started.map(|(job, _, _)| job);
        jobs.any(|job| newest.jobs.contains_key(job) || newest.doubts.contains_key(job))
    }

    /// The cluster grows or shrinks by a machine, if nothing like it is under way. False if not.
    pub(super) fn grow_or_shrink(&mut self) -> bool {
        let (least, most) = self.settings.voters;
        let Some(board) = self.newest_board() else { return false };
        let voters = board.voters().count() as u32;
        if self.course.is_some() || least == most {
            return false;
        }
        let grows = voters <= least || (voters < most && self.rng.one_in(2));
        let fits = |machine: &Machine| machine.out == grows && (grows || !machine.lost);
        let mut fitting: Vec<usize> = (0..self.machines.len()).collect();
        fitting.retain(|at| fits(&self.machines[*at]));
        if fitting.is_empty() {
            return false;
        }
        let at = fitting[self.rng.below(fitting.len() as u64) as usize];
        if grows {
            self.counts.fault("member joins");
            self.wipe(at, "it is made new");
            let machine = &mut self.machines[at];
            (machine.out, machine.removed_us) = (false, None);
            self.begins(Course::Joins(at));
        } else {
            self.counts.fault("member leaves");
            let steps_down = self.rng.one_in(2);
            self.trace_of(at, || format!("is to leave, as a learner first: {steps_down}"));
            self.begins(Course::Leaves { at, steps_down });
        }
        true
    }

    /// A member that knows none of the voters, because all that it knew were removed while it was
    /// away, joins anew: there is no other way back.
    pub(super) fn rejoin_strangers(&mut self) {
        let Some(master) = self.master().filter(|_| self.course.is_none()) else { return };
        let Some(newest) = self.newest_board() else { return };
        let voters: Vec<u64> = newest.voters().map(|(_, voter)| voter.raft_id).collect();
        let stranger = (0..self.machines.len()).find(|at| {
            let machine = &self.machines[*at];
            let own = machine.identity.raft;
            let knows = |board: &State| {
                voters.iter().any(|voter| *voter != own && board.member_of(*voter).is_some())
            };
            let seated = newest.member_of(own).is_some() && !machine.out && *at != master;
            seated && voters.len() > 2 && machine.board().is_some_and(|board| !knows(board))
        });
        if let Some(at) = stranger {
            self.counts.fault("stranger joins anew");
            self.wipe(at, "it knows nobody any more");
            self.begins(Course::Joins(at));
        }
    }

    /// The next step of a change of members.
    pub(super) fn swap_goes_on(&mut self) -> Result<(), Halt> {
        let Some(course) = self.course else { return Ok(()) };
        self.after(LOOK_EVERY_US, Event::Swap);
        let Some(master) = self.master() else { return Ok(()) };
        let at = course.at();
        let step = match course {
            Course::Joins(at) => self.next_of_join(at, master),
            Course::Leaves { at, steps_down } => self.next_of_leave(at, master, steps_down),
        };
        match step {
            Step::Nothing => {}
            Step::HandOver => self.receive(master, Input::Transfer { to: None }),
            Step::Propose(change, wanted) => {
                self.trace_of(master, || format!("proposes {wanted:?}"));
                let body = Body::Member(MemberStep::Seated { change: wanted });
                self.ask(master, Asker::Agent, |process, ticket, clock| {
                    process.propose_member(ticket, (change, body), clock);
                });
            }
            Step::Boot => return self.boot_joined(at, master),
            Step::Joined(raft_id) => {
                let node = self.machines[at].identity.node;
                let body = Body::Member(MemberStep::Joined { node, raft_id });
                self.propose(master, Asker::Agent, body);
            }
            Step::Done => self.course_ends(course),
        }
        self.settle(master);
        Ok(())
    }

    fn course_ends(&mut self, course: Course) {
        self.course = None;
        let at = course.at();
        match course {
            Course::Joins(_) => {
                self.counts.swaps += 1;
                self.trace_of(at, || "is a voter again".to_owned());
            }
            Course::Leaves { .. } => {
                self.counts.removed += 1;
                let machine = &mut self.machines[at];
                (machine.out, machine.removed_us) = (true, Some(self.now_us));
                self.machines.iter_mut().for_each(|machine| machine.forget_held(at));
                self.trace_of(at, || "is no member any more".to_owned());
            }
        }
    }

    fn next_of_join(&mut self, at: usize, master: usize) -> Step {
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
        let promote = MemberChange::Promote { node, raft_id };
        if self.settings.plant == Some(Plant::SeatUnready) && !member.voter {
            return Step::Propose(Change::AddVoter(raft_id), promote);
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
        let near = board.applied.saturating_sub(NEAR);
        let whole = |one: &Process| !one.archive.has_gap() && one.board.applied >= near;
        match machine.process.as_ref().is_some_and(whole) {
            true => Step::Propose(Change::AddVoter(raft_id), promote),
            false => Step::Nothing,
        }
    }

    fn next_of_leave(&self, at: usize, master: usize, steps_down: bool) -> Step {
        let Some(process) = &self.machines[master].process else { return Step::Nothing };
        let (node, raft_id) = (self.machines[at].identity.node, self.machines[at].identity.raft);
        let seated = process.board.members.get(&node).filter(|member| member.raft_id == raft_id);
        let Some(member) = seated else { return Step::Done };
        if master == at {
            return Step::HandOver;
        }
        if member.voter && !self.have_majority_without(master, &process.board, node) {
            return Step::Nothing;
        }
        if member.voter && steps_down {
            let wanted = MemberChange::Demote { node, raft_id };
            return Step::Propose(Change::AddLearner(raft_id), wanted);
        }
        Step::Propose(Change::Remove(raft_id), MemberChange::Remove { node, raft_id })
    }

    /// Whether a majority of the voters that stay without this one answers the master.
    fn have_majority_without(&self, master: usize, board: &State, node: u32) -> bool {
        let left: Vec<u32> = board.voters().map(|(id, _)| id).filter(|id| *id != node).collect();
        let answers = |id: &&u32| self.place(**id).is_some_and(|at| self.hears(master, at));
        left.iter().filter(answers).count() > left.len() / 2
    }

    /// The new incarnation begins with what the master gives it. If that fails, its operator
    /// empties the folder and joins again.
    fn boot_joined(&mut self, at: usize, master: usize) -> Result<(), Halt> {
        let Some(giver) = &self.machines[master].process else { return Ok(()) };
        let (state, membership) = (giver.board.clone(), giver.membership().clone());
        let seed = self.rng.next_u64();
        let machine: &mut Machine = &mut self.machines[at];
        machine.disk = MemDisk::new();
        if self.phase == Phase::Load && !self.settings.scripted && self.rng.one_in(8) {
            machine.disk.crash_after(self.rng.below(40));
        }
        let made = archive::begin_at(&machine.disk, process::head_of(&state))
            .map_err(|error| error.to_string())
            .and_then(|()| process::init(&machine.disk, seed, &state, membership));
        if let Err(why) = made {
            machine.disk = MemDisk::new();
            self.trace_of(at, || format!("its join failed: {why}"));
            return Ok(());
        }
        (machine.lost, machine.promised) = (false, state.applied);
        machine.life += 1;
        self.restart(at)
    }

    /// Looks at the voters' seats that were given since the last look: who sits there has a disk
    /// with nearly everything on it.
    pub(super) fn look_at_seats(&mut self) -> Result<(), Halt> {
        for (raft_id, index) in std::mem::take(&mut self.ledger.seated) {
            let sits = |machine: &&Machine| machine.identity.raft == raft_id;
            let machine = self.machines.iter().find(sits);
            let held = machine.filter(|machine| !machine.lost).map(|machine| machine.promised);
            invariants::who_is_seated_has_caught_up(raft_id, index, held)?;
        }
        Ok(())
    }
}
