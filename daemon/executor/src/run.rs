//! The function of one job on a master: against which State it runs, when it is to stop, how it
//! ended, and what becomes of its end in the log.
//!
//! Its driver runs the function; all that it has to know is in [`Run`]. What fails because the
//! master moved is nobody's outcome: whoever leads runs the function again.

use crate::Office;
use crate::faults::{Faults, Sound, Step};
use std::sync::Arc;
use tiebeam_core::effect::Answer;
use tiebeam_core::proposal::{Finish, Plan};
use tiebeam_core::{Job, State};
use tiebeam_proto::limits::REPLANS_MAX;
use tiebeam_proto::{Kind, Outcome, time::Time};

/// Time that the commands of a job get to stop (invariant 7), in microseconds.
pub const STOP_GRACE_US: u64 = 15_000_000;
/// Pause before an end that the log did not take is proposed again, in microseconds.
const FINISH_AGAIN_US: u64 = 50_000;

/// Why a job is to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// How it ends if it does.
    pub outcome: Outcome,
    /// In words.
    pub text: String,
}

impl Stop {
    fn cancelled(by: &str) -> Stop {
        Stop { outcome: Outcome::Cancelled, text: format!("cancelled by {by}") }
    }

    fn late() -> Stop {
        Stop { outcome: Outcome::Timeout, text: "the job's deadline passed".to_owned() }
    }
}

/// Whether what a job has begun is to be stopped: the job is gone, was cancelled, or is past its
/// deadline.
pub fn is_to_stop(state: &State, job: u64, clock_us: u64) -> bool {
    let job = state.jobs.get(&job);
    job.is_none_or(|job| job.cancel.is_some() || clock_us >= job.deadline_us)
}

/// What the log said to a proposal.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// It was applied, with this answer.
    Answered(&'a Answer),
    /// The log took nothing: it is full.
    TooBusy,
    /// This node is not the master: it took nothing, or what it took is known to be lost.
    NotMaster,
    /// Nobody knows whether it takes effect.
    Unknown,
}

/// What a run does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The function runs again, against the newest State.
    Plan,
    /// The end is proposed again after so many microseconds: it is the one thing that the job
    /// still needs.
    ProposeIn(u64),
    /// Nothing: the job has ended, or another master looks after it.
    Over,
}

/// The clocks of a moment, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The node's monotonic clock.
    pub now_us: u64,
    /// Cluster time.
    pub clock_us: u64,
}

/// The function of one job on this master.
#[derive(Clone, Debug)]
pub struct Run<F = Sound> {
    faults: F,
    job: Arc<Job>,
    term: u64,
    executed: Time,
    deadline_us: u64,
    grace_us: u64,
    view: Arc<State>,
    attempts: u32,
    /// Why it is being stopped, and since when.
    stop: Option<(Stop, u64)>,
}

impl<F: Faults> Run<F> {
    /// Begins to run a job's function on this master. `grace_us` is the time that its commands get
    /// to stop.
    pub fn begin(
        state: &Arc<State>,
        job: &Arc<Job>,
        (office, moment): (Office, Moment),
        executed: Time,
        (grace_us, faults): (u64, F),
    ) -> Run<F> {
        let left_us = job.deadline_us.saturating_sub(moment.clock_us);
        Run {
            faults,
            job: job.clone(),
            term: office.term,
            executed,
            deadline_us: moment.now_us.saturating_add(left_us),
            grace_us,
            view: base_view(state, job),
            attempts: 0,
            stop: None,
        }
    }

    /// The job as it was when this began.
    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// The State that the function sees.
    pub fn view(&self) -> &Arc<State> {
        &self.view
    }

    /// The end of a job that may not plan once more; `None` if its function is to run.
    pub fn conflict(&self) -> Option<Plan> {
        (self.attempts >= REPLANS_MAX).then(|| {
            let why = format!("what the job looked at changed {REPLANS_MAX} times under it");
            Plan::ended(self.view.revision, Outcome::Conflict, why)
        })
    }

    /// Looks whether the job is to stop: true once it was cancelled or its deadline passed. The
    /// nodes' agents stop the commands; the function ends when they have ended.
    pub fn is_stopping(&mut self, state: &State, now_us: u64) -> bool {
        if self.stop.is_none() {
            let by = state.jobs.get(&self.job.sequence).and_then(|job| job.cancel.as_deref());
            let late = now_us >= self.deadline_us;
            let why = by.map(Stop::cancelled).or_else(|| late.then(Stop::late));
            self.stop = why.map(|why| (why, now_us));
        }
        self.stop.is_some()
    }

    /// When [`Run::is_stopping`] is to be asked at the latest; once it said yes, when the function
    /// is not waited for any more. On the monotonic clock, in microseconds.
    pub fn patience_us(&self) -> u64 {
        match &self.stop {
            Some((_, since_us)) => since_us.saturating_add(self.grace_us),
            None => self.deadline_us,
        }
    }

    /// The end of a job whose function did not end within the grace.
    pub fn abandoned(&self, state: &State) -> Plan {
        let why = self.stop.as_ref().map_or_else(Stop::late, |(why, _)| why.clone());
        let plan = Plan::ended(self.view.revision, why.outcome, why.text);
        self.ended(state, self.patience_us(), plan)
    }

    /// The job's end, by what its function came to at this time of the monotonic clock.
    pub fn ended(&self, state: &State, now_us: u64, mut plan: Plan) -> Plan {
        if self.faults.skips(Step::SendReads) {
            plan.reads.clear();
        }
        if plan.outcome == Outcome::Ok {
            return plan;
        }
        let live = state.jobs.get(&self.job.sequence);
        let by = live.and_then(|job| job.cancel.as_deref());
        let why = match (&self.stop, by, plan.outcome) {
            (Some((why, _)), ..) => why.clone(),
            // It was cancelled, and failed for it.
            (None, Some(by), Outcome::Failed) => Stop::cancelled(by),
            (None, None, Outcome::Failed | Outcome::Cancelled) if now_us >= self.deadline_us => {
                Stop::late()
            }
            // Nobody cancelled it. A node that stopped a command of it did so because the deadline
            // had passed by its clock; if none did, something else of it was cancelled.
            (None, None, Outcome::Cancelled) if live.is_some_and(|job| job.was_stopped()) => {
                Stop::late()
            }
            (None, None, Outcome::Cancelled) => Stop {
                outcome: Outcome::Failed,
                text: format!("a part of it was cancelled: {}", plan.error.unwrap_or_default()),
            },
            _ => return plan,
        };
        stopped(live, Plan { error: None, ..plan }, why)
    }

    /// What is proposed, at this wall time; `None` if this node does not lead in the term any more
    /// in which the function began.
    pub fn finish(&self, office: Office, plan: Plan, finished: Time) -> Option<Finish> {
        let executed = Some(self.executed);
        let job = self.job.sequence;
        office.holds(self.term).then_some(Finish { job, plan, executed, finished })
    }

    /// What follows from the log's word on the end; `newest` is what a new plan is made against.
    pub fn told(&mut self, told: Told<'_>, office: Office, newest: &Arc<State>) -> Next {
        match told {
            Told::Answered(Answer::Stale) => {
                self.attempts += 1;
                // Apply has moved the job's base: another master would begin with the same view.
                let live = newest.jobs.get(&self.job.sequence);
                self.view = base_view(newest, live.unwrap_or(&self.job));
                Next::Plan
            }
            Told::TooBusy => Next::ProposeIn(FINISH_AGAIN_US),
            // Leadership is being handed over, and may stay.
            Told::NotMaster if office.holds(self.term) => Next::ProposeIn(FINISH_AGAIN_US),
            Told::Answered(_) | Told::NotMaster | Told::Unknown => Next::Over,
        }
    }
}

/// The State that the function sees: an act that may have recorded commands gets the configuration
/// it was scheduled on, or on which a plan of it was stale (ruling 10), every other job the newest.
fn base_view(state: &Arc<State>, job: &Job) -> Arc<State> {
    let base = job.record.scheduling.base_revision;
    match state.bases.get(&base) {
        Some((_, tree)) if job.record.kind == Kind::Act => {
            let mut view = (**state).clone();
            view.config = tree.clone();
            view.revision = base;
            Arc::new(view)
        }
        _ => state.clone(),
    }
}

/// How a job that was asked to stop ended: as asked, unless a command's end is not known.
fn stopped(live: Option<&Arc<Job>>, plan: Plan, why: Stop) -> Plan {
    let open = live.map_or_else(Vec::new, |job| {
        let unknown = job.record.commands.iter().filter(|command| !command.is_definite());
        unknown.map(|command| command.name.clone()).collect()
    });
    if !open.is_empty() {
        let error = Some(format!("{}; a command's end is not known", why.text));
        return Plan { outcome: Outcome::Indeterminate, error, open, ..plan };
    }
    Plan { outcome: why.outcome, error: Some(why.text), ..plan }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebeam_core::fixture;
    use tiebeam_core::proposal::{Body, Cancel, Read, RunOnce, Schedule, Submission, Write};

    const OFFICE: Office = Office { leads: true, term: 1 };
    const EARLY: Moment = Moment { now_us: 5, clock_us: 5 };

    /// A job that acts and has begun a command on node 11.
    fn acting() -> State {
        let mut state = fixture::state();
        let call = fixture::submission(&state);
        let call = Submission { kind: Kind::Act, inputs: Some("sealed".into()), ..call };
        fixture::apply(&mut state, Body::Submit(Box::new(call)));
        fixture::apply(&mut state, Body::Schedule(Schedule { job: 1, time: Time(1) }));
        fixture::apply(&mut state, fixture::intent(11));
        state
    }

    fn command_ends(state: &mut State, result: &str) {
        fixture::apply(state, fixture::command_ended(result));
    }

    fn begun(state: &State) -> Run {
        let state = Arc::new(state.clone());
        Run::begin(&state, &state.jobs[&1], (OFFICE, EARLY), Time(2), (STOP_GRACE_US, Sound))
    }

    fn end(state: &State, now_us: u64, outcome: Outcome) -> (Outcome, String) {
        let plan = Plan::ended(1, outcome, "node 13: not that one");
        let ended = begun(state).ended(state, now_us, plan);
        (ended.outcome, ended.error.unwrap_or_default())
    }

    #[test]
    fn a_part_that_was_cancelled_is_no_deadline() {
        let mut state = acting();
        command_ends(&mut state, "ok");
        let (outcome, why) = end(&state, 6, Outcome::Cancelled);
        assert_eq!(outcome, Outcome::Failed, "{why}");
        assert!(why.ends_with("node 13: not that one"), "{why}");
        let late_us = begun(&state).patience_us();
        for outcome in [Outcome::Cancelled, Outcome::Failed] {
            let (ends, why) = end(&state, late_us, outcome);
            assert_eq!((ends, why.as_str()), (Outcome::Timeout, "the job's deadline passed"));
        }
        let mut stopped = acting();
        command_ends(&mut stopped, "cancelled");
        assert_eq!(end(&stopped, 6, Outcome::Cancelled).0, Outcome::Timeout, "by its node's clock");
        let cancel = Cancel { job: 1, user: "admin".into(), time: Time(3) };
        fixture::apply(&mut state, Body::Cancel(cancel.clone()));
        assert_eq!(end(&state, 6, Outcome::Cancelled).0, Outcome::Cancelled);
        let mut open = acting();
        fixture::apply(&mut open, Body::Cancel(cancel));
        assert_eq!(end(&open, 6, Outcome::Failed).0, Outcome::Indeterminate, "a command runs");
    }

    #[test]
    fn an_end_is_proposed_again_while_leadership_may_stay() {
        let state = acting();
        let newest = Arc::new(state.clone());
        let told = |office| begun(&state).told(Told::NotMaster, office, &newest);
        assert_eq!(told(OFFICE), Next::ProposeIn(FINISH_AGAIN_US));
        assert_eq!(told(Office { leads: false, ..OFFICE }), Next::Over);
        assert_eq!(told(Office { term: 2, ..OFFICE }), Next::Over, "it was elected anew");
    }

    #[test]
    fn a_stale_act_gets_the_view_that_every_master_would_give_it() {
        let mut state = acting();
        command_ends(&mut state, "ok");
        let change = |state: &mut State, value: u64| {
            let mut plan = Plan { error: None, ..Plan::ended(1, Outcome::Ok, "") };
            plan.writes = vec![Write::Set { path: "app/a".into(), value: value.into() }];
            let (submission, times) = (fixture::submission(state), Default::default());
            let run = RunOnce { submission, plan, times };
            fixture::apply(state, Body::RunOnce(Box::new(run)));
        };
        change(&mut state, 1);
        let mut run = begun(&state);
        assert_eq!(run.view().revision, 1, "the revision that it was scheduled on");
        let read = Read { path: "app/a".into(), seen: None };
        let plan = Plan { reads: vec![read], error: None, ..Plan::ended(1, Outcome::Ok, "") };
        let finish = run.finish(OFFICE, plan, Time(4)).expect("it leads");
        let answer = fixture::apply(&mut state, Body::Finish(Box::new(finish))).0;
        change(&mut state, 2);
        let next = run.told(Told::Answered(&answer), OFFICE, &Arc::new(state.clone()));
        assert_eq!((next, state.revision), (Next::Plan, 3));
        let elsewhere = begun(&state);
        assert_eq!((run.view().revision, elsewhere.view().revision), (2, 2));
        assert_eq!(run.view().config.hash(), elsewhere.view().config.hash());
    }
}
