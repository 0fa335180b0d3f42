//! A node's side of commands: which ones it tends, and for each one step after the other from the
//! look into its journal to a report that is in the log (ruling 9).
//!
//! It acts on State as its node has applied it, once that has caught up with what was committed at
//! the start: a State of the past has commands open that were given up while the node was away.
//! Which master asked does not matter to it.

use crate::end::{CommandEnd, CommandResult, CommandState};
use crate::faults::{Faults, Sound, Step};
use crate::run;
use std::collections::BTreeSet;
use tiebeam_core::State;
use tiebeam_core::job::Command;
use tiebeam_core::proposal::CommandEnded;

/// How long a report waits before it is made again while there is no master, in microseconds.
pub const REPORT_AGAIN_US: u64 = 500_000;
/// How long a doubt waits before it is looked at again, in microseconds.
const DOUBT_AGAIN_US: u64 = 5_000_000;
/// Why a command is fenced that was under way.
const STOPPED: &str = "the job was stopped";

/// A command, by job and key.
pub type Name = (u64, String);

/// Which commands this node tends.
#[derive(Clone, Debug, Default)]
pub struct Agent<F = Sound> {
    faults: F,
    own: u32,
    tended: BTreeSet<Name>,
}

impl<F: Faults> Agent<F> {
    /// One of the node `own` that tends nothing yet.
    pub fn new(own: u32, faults: F) -> Agent<F> {
        Agent { faults, own, tended: BTreeSet::new() }
    }

    /// Commands that State holds open for this node and that nobody looks after yet. `caught_up`
    /// tells whether the node has applied what was committed at its start; `term` is the newest
    /// that it knows.
    pub fn look(&mut self, state: &State, caught_up: bool, term: u64) -> Vec<Tending<F>> {
        let mut found = Vec::new();
        if !caught_up {
            return found;
        }
        for job in state.running.iter().filter_map(|sequence| state.jobs.get(sequence)) {
            for command in job.open_commands().filter(|command| command.node == self.own) {
                let name = (job.sequence, command.key.clone());
                if self.tended.insert(name.clone()) {
                    found.push(Tending {
                        faults: self.faults,
                        name,
                        id: job.record.job.to_string(),
                        node: self.own,
                        epoch: command.epoch,
                        command: Some(command.clone()),
                        stage: Stage::Ask,
                    });
                }
            }
        }
        for (job, doubt) in state.doubts.iter().filter(|(_, one)| !one.gone.contains(&self.own)) {
            for (key, _) in doubt.commands.iter().filter(|(_, node)| *node == self.own) {
                let name = (*job, key.clone());
                if self.tended.insert(name.clone()) {
                    found.push(Tending {
                        faults: self.faults,
                        name,
                        id: doubt.job.clone(),
                        node: self.own,
                        epoch: term,
                        command: None,
                        stage: Stage::Fence,
                    });
                }
            }
        }
        found
    }

    /// A command is tended no more. One in doubt stays among the tended: what its journal cannot
    /// tell now it will not tell later.
    pub fn left(&mut self, tending: &Tending<F>) {
        if tending.command.is_some() {
            self.tended.remove(&tending.name);
        }
    }
}

/// Where the tending of a command is.
#[derive(Clone, Debug)]
enum Stage {
    Ask,
    Start,
    Wait,
    Fence,
    Stop,
    WaitForEnd,
    /// It could not be started, and nobody may start it any more before that is told.
    Settle(Box<CommandEnd>),
    Report(Box<CommandEnd>),
    Rest(Box<CommandEnd>),
    /// Of one in doubt the journal could not be read or written: it is tried again.
    Later,
    Over,
}

/// What is to be done for a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Do {
    /// Look where it is: [`Saw::Where`], or [`Saw::Failed`].
    Ask,
    /// Start it, journal first: [`Saw::Started`], [`Saw::Unrun`] or [`Saw::Sealed`].
    Start,
    /// Wait for its end: [`Saw::Ended`], or [`Saw::Failed`].
    Wait,
    /// See to it that it never runs, if it has not, for this reason: [`Saw::Fenced`], or
    /// [`Saw::Failed`].
    Fence(String),
    /// Ask it to end: [`Saw::Done`].
    Stop,
    /// Tell the cluster how it ended: [`Saw::Told`].
    Report(Box<CommandEnded>),
    /// Wait for so many microseconds: [`Saw::Done`].
    Rest(u64),
    /// Nothing more.
    Leave,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Saw {
    /// It is there.
    Where(CommandState),
    /// It was started, or was under way, or nobody knows.
    Started,
    /// It could not be started and did not run.
    Unrun(String),
    /// Its arguments cannot be opened with this node's keys.
    Sealed,
    /// It ended so.
    Ended(Box<CommandEnd>),
    /// Whether it has not run and never will.
    Fenced(bool),
    /// The journal or the process cannot be looked at.
    Failed(String),
    /// That is done.
    Done,
    /// Whether the report is in the log.
    Told(bool),
}

/// One command that a node looks after.
#[derive(Clone, Debug)]
pub struct Tending<F = Sound> {
    faults: F,
    name: Name,
    id: String,
    node: u32,
    epoch: u64,
    /// `None` for one whose job has ended without knowing of it (ruling 11).
    command: Option<Command>,
    stage: Stage,
}

impl<F: Faults> Tending<F> {
    /// Job and key.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The job's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The epoch of the intent, or of whoever gave the command up.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The command as State has it; `None` if its job has ended.
    pub fn command(&self) -> Option<&Command> {
        self.command.as_ref()
    }

    /// What is to be done now.
    pub fn next(&self, state: &State) -> Do {
        match &self.stage {
            Stage::Ask => Do::Ask,
            Stage::Start => Do::Start,
            Stage::Wait | Stage::WaitForEnd => Do::Wait,
            Stage::Fence => Do::Fence(STOPPED.to_owned()),
            Stage::Settle(end) => Do::Fence(end.evidence.clone().unwrap_or_default()),
            Stage::Stop => Do::Stop,
            Stage::Report(end) => {
                let in_doubt = state.doubts.contains_key(&self.name.0);
                if in_doubt && end.result == CommandResult::Indeterminate {
                    // Only an end that is known ends a doubt.
                    return Do::Leave;
                }
                let (job, key) = self.name.clone();
                let record = end.record(&key, self.node);
                Do::Report(Box::new(CommandEnded { job, key, record }))
            }
            Stage::Rest(_) => Do::Rest(REPORT_AGAIN_US),
            Stage::Later if self.is_in_doubt(state) => Do::Rest(DOUBT_AGAIN_US),
            Stage::Later => Do::Leave,
            Stage::Over => Do::Leave,
        }
    }

    /// What came of the last [`Tending::next`].
    pub fn saw(&mut self, saw: Saw) {
        let none = |result, evidence| Box::new(CommandEnd::without_run(result, evidence));
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        self.stage = match (stage, saw) {
            (Stage::Ask, Saw::Where(CommandState::NotStarted)) => Stage::Start,
            (Stage::Ask, Saw::Where(CommandState::Unknown { .. } | CommandState::Starting))
                if self.faults.skips(Step::ReadJournal) =>
            {
                Stage::Start
            }
            (Stage::Ask, Saw::Where(_)) => Stage::Wait,
            (Stage::Start, Saw::Started) => Stage::Wait,
            (Stage::Start, Saw::Unrun(why)) if self.faults.skips(Step::FenceFirst) => {
                Stage::Report(none(CommandResult::Failed, why))
            }
            // Before the report is in the log this process may end; the next one finds the command
            // open, and must not start what was said not to have run.
            (Stage::Start, Saw::Unrun(why)) => Stage::Settle(none(CommandResult::Failed, why)),
            (Stage::Start, Saw::Sealed) => {
                let why = "the command cannot be opened with this node's keys".to_owned();
                Stage::Settle(none(CommandResult::Refused, why))
            }
            (Stage::Settle(end), Saw::Fenced(true)) => Stage::Report(end),
            (Stage::Settle(_), Saw::Fenced(false)) => Stage::Wait,
            // No fence, no "not run".
            (Stage::Settle(end), Saw::Failed(error)) => {
                let why = end.evidence.unwrap_or_default();
                let why = format!("{why}; and it could not be fenced: {error}");
                Stage::Report(none(CommandResult::Indeterminate, why))
            }
            (Stage::Wait | Stage::WaitForEnd, Saw::Ended(mut end)) => {
                let doubt = end.result == CommandResult::Indeterminate;
                if doubt && self.faults.skips(Step::AdmitDoubt) {
                    end.result = CommandResult::Failed;
                }
                Stage::Report(end)
            }
            // A failed fence or stop was told to the operator; what the journal says still counts.
            (Stage::Fence, _) => Stage::Stop,
            (Stage::Stop, _) => Stage::WaitForEnd,
            (Stage::WaitForEnd, Saw::Failed(_)) if self.command.is_none() => Stage::Later,
            (Stage::Later, _) => Stage::Fence,
            (Stage::Report(end), Saw::Told(false)) => Stage::Rest(end),
            (Stage::Report(_), _) => Stage::Over,
            (Stage::Rest(end), _) => Stage::Report(end),
            (_, Saw::Failed(why)) => Stage::Report(none(CommandResult::Indeterminate, why)),
            (stage, _) => stage,
        };
    }

    /// Whether the command is to be stopped: its job is gone, cancelled or past its deadline, and
    /// its end is not known yet.
    pub fn is_to_stop(&self, state: &State, clock_us: u64) -> bool {
        self.is_under_way() && run::is_to_stop(state, self.name.0, clock_us)
    }

    /// Whether how the command ended is not known yet, and nobody has given it up.
    pub fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::Ask | Stage::Start | Stage::Wait)
    }

    /// Whether State still asks this node how the command ended.
    fn is_in_doubt(&self, state: &State) -> bool {
        let (job, key) = &self.name;
        state.doubts.get(job).is_some_and(|doubt| {
            let asked = doubt.commands.iter().any(|(of, node)| of == key && *node == self.node);
            asked && !doubt.gone.contains(&self.node)
        })
    }

    /// Whether all that is left is to report the end, or to try again later: a node that stops
    /// does so after its next start.
    pub fn can_be_left(&self) -> bool {
        matches!(self.stage, Stage::Report(_) | Stage::Rest(_) | Stage::Later)
    }

    /// Begins to stop it, whatever was under way.
    pub fn stop(&mut self) {
        self.stage = Stage::Fence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tending() -> Tending {
        Tending {
            faults: Sound,
            name: (7, "run-n11".to_owned()),
            id: "11.7".to_owned(),
            node: 11,
            epoch: 3,
            command: None,
            stage: Stage::Ask,
        }
    }

    fn end(result: CommandResult) -> Box<CommandEnd> {
        Box::new(CommandEnd::without_run(result, "why".to_owned()))
    }

    fn after(saws: &[Saw]) -> Tending {
        let mut tending = tending();
        saws.iter().for_each(|saw| tending.saw(saw.clone()));
        tending
    }

    fn reported(tending: &Tending) -> String {
        match tending.next(&State::default()) {
            Do::Report(ended) => ended.record.result,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_nothing_has_run_of_is_started() {
        let next = |at| after(&[Saw::Where(at)]).next(&State::default());
        assert_eq!(next(CommandState::NotStarted), Do::Start);
        assert_eq!(next(CommandState::Starting), Do::Wait);
        assert_eq!(next(CommandState::Running), Do::Wait);
        assert_eq!(next(CommandState::Unknown { evidence: String::new() }), Do::Wait);
        assert_eq!(next(CommandState::Refused { why: String::new() }), Do::Wait);
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_called_failed() {
        let failed = || Saw::Failed("the disk is gone".to_owned());
        let not_started = || Saw::Where(CommandState::NotStarted);
        assert_eq!(reported(&after(&[failed()])), "indeterminate");
        let waits = [not_started(), Saw::Started, failed()];
        assert_eq!(reported(&after(&waits)), "indeterminate");
    }

    #[test]
    fn what_could_not_be_started_is_fenced_before_that_is_told() {
        let unrun =
            || after(&[Saw::Where(CommandState::NotStarted), Saw::Unrun("no room".to_owned())]);
        assert_eq!(unrun().next(&State::default()), Do::Fence("no room".to_owned()));
        let then = |saw| {
            let mut tending = unrun();
            tending.saw(saw);
            tending
        };
        assert_eq!(reported(&then(Saw::Fenced(true))), "failed");
        assert_eq!(reported(&then(Saw::Failed("no room".to_owned()))), "indeterminate");
        assert_eq!(then(Saw::Fenced(false)).next(&State::default()), Do::Wait, "it runs");
        let sealed = after(&[Saw::Where(CommandState::NotStarted), Saw::Sealed]);
        assert!(matches!(sealed.next(&State::default()), Do::Fence(_)));
    }

    #[test]
    fn a_report_is_made_until_the_log_has_it() {
        let state = State::default();
        let mut tending = after(&[Saw::Where(CommandState::Running)]);
        tending.saw(Saw::Ended(end(CommandResult::Ok)));
        for _ in 0..3 {
            assert_eq!(reported(&tending), "ok");
            tending.saw(Saw::Told(false));
            assert_eq!(tending.next(&state), Do::Rest(REPORT_AGAIN_US));
            tending.saw(Saw::Done);
        }
        tending.saw(Saw::Told(true));
        assert_eq!(tending.next(&state), Do::Leave);
    }

    #[test]
    fn a_doubt_whose_fence_failed_is_looked_at_again() {
        let mut state = State::default();
        let doubt = tiebeam_core::state::Doubt {
            job: "11.7".to_owned(),
            locks: Vec::new(),
            commands: vec![("run-n11".to_owned(), 11)],
            since: tiebeam_proto::time::Time(0),
            gone: Vec::new(),
            record_from: 1,
        };
        state.doubts.insert(7, doubt);
        let mut agent = Agent::new(11, Sound);
        let mut found = agent.look(&state, true, 3);
        let mut tending = found.pop().expect("it is in doubt");
        let no_room = || Saw::Failed("no room for the line".to_owned());
        for _ in 0..3 {
            assert_eq!(tending.next(&state), Do::Fence(STOPPED.to_owned()));
            tending.saw(no_room());
            assert_eq!(tending.next(&state), Do::Stop);
            tending.saw(Saw::Done);
            assert_eq!(tending.next(&state), Do::Wait);
            tending.saw(Saw::Failed("it was not started on this node".to_owned()));
            assert_eq!(tending.next(&state), Do::Rest(DOUBT_AGAIN_US));
            assert!(tending.can_be_left(), "a node that stops does not wait for it");
            assert_eq!(tending.next(&State::default()), Do::Leave, "nobody asks any more");
            tending.saw(Saw::Done);
        }
        tending.saw(Saw::Fenced(true));
        tending.saw(Saw::Done);
        tending.saw(Saw::Ended(end(CommandResult::Refused)));
        assert_eq!(reported(&tending), "refused");
        let mut lost = tending.clone();
        lost.stage = Stage::Report(end(CommandResult::Indeterminate));
        assert_eq!(lost.next(&state), Do::Leave, "what the journal does not know stays so");
    }

    #[test]
    fn whoever_gives_up_fences_first_and_then_looks_how_it_ended() {
        let state = State::default();
        let mut tending = after(&[Saw::Where(CommandState::NotStarted)]);
        assert!(tending.is_to_stop(&state, 0), "its job is gone");
        tending.stop();
        assert!(!tending.is_to_stop(&state, 0), "it is being stopped");
        assert_eq!(tending.next(&state), Do::Fence(STOPPED.to_owned()));
        tending.saw(Saw::Failed("no room for the line".to_owned()));
        assert_eq!(tending.next(&state), Do::Stop);
        tending.saw(Saw::Done);
        assert_eq!(tending.next(&state), Do::Wait);
        tending.saw(Saw::Ended(end(CommandResult::Refused)));
        assert_eq!(reported(&tending), "refused");
    }
}
