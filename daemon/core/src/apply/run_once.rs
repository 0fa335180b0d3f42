//! A job that is done in one entry (ruling 8): done, queued, declined or stale.

use super::Entry;
use super::change::Tried;
use crate::effect::Answer;
use crate::job::{Job, job_id};
use crate::proposal::{Plan, RunOnce, Submission};
use crate::requests::Lookup;
use crate::state::State;
use std::sync::Arc;
use tiebeam_proto::outcome::Move;
use tiebeam_proto::record::CommandRecord;
use tiebeam_proto::{ErrorCode, Outcome, RpcError, Stage, limits, time::Time};

/// Cluster time for which a secret in a result may be derived again (ruling 26).
const DERIVED_US: u64 = 600 * 1_000_000;

impl State {
    pub(super) fn apply_run_once(&mut self, entry: &mut Entry, run: &RunOnce) -> Answer {
        let submission = &run.submission;
        if let Some(answer) = self.admit_again(submission) {
            return answer;
        }
        if self.has_conflict(&submission.locks) {
            // Without its parameters it could never be run from the queue: the master, who still
            // has them, submits it.
            if submission.inputs.is_none() {
                return Answer::Stale;
            }
            return self.apply_submit(entry, submission);
        }
        if !self.reads_hold(&run.plan.reads) {
            return Answer::Stale;
        }
        let mut job = self.new_job(submission);
        if let Err(denied) = self.may_submit(submission) {
            return self.decline(entry, job, denied, run.times.scheduled.unwrap_or(self.wall));
        }
        let tried = match self.try_plan(&run.plan) {
            Ok(tried) => tried,
            Err(why) => {
                return self.decline(entry, job, why, run.times.scheduled.unwrap_or(self.wall));
            }
        };
        let at = |time: Option<Time>| time.unwrap_or(submission.submitted);
        job.record_mut().scheduling.base_revision = run.plan.base_revision;
        job.advance(Move::Accept, at(run.times.scheduled)).expect("submitted accepts");
        job.advance(Move::Begin, at(run.times.executed)).expect("scheduled begins");
        for stage in [Stage::Submitted, Stage::Scheduled, Stage::Executed] {
            entry.stage(&job.record, stage, at(run.times.executed));
        }
        self.end_job(entry, job, &run.plan, tried, at(run.times.finished))
    }

    /// What a plan's writes come to; a plan that ended without success has none.
    pub(super) fn try_plan(&self, plan: &Plan) -> Result<Option<Tried>, String> {
        if plan.outcome != Outcome::Ok || plan.writes.is_empty() {
            return Ok(None);
        }
        self.try_writes(&plan.writes).map(Some).map_err(|violation| violation.to_string())
    }

    /// The answer for a call that must not make a job: made before, or no room.
    pub(super) fn admit_again(&self, submission: &Submission) -> Option<Answer> {
        if let Some(key) = &submission.request_key {
            match self.requests.look_up(&submission.user, key) {
                Lookup::New => {}
                Lookup::Same(id) => return Some(Answer::Existing { id }),
                Lookup::Other => return Some(Answer::Refused(request_used(&key.key))),
                Lookup::Expired => return Some(Answer::Refused(request_expired(&key.key))),
            }
        }
        (self.jobs.len() >= limits::LIVE_JOBS_MAX).then(|| {
            let text = format!("there are {} live jobs already", self.jobs.len());
            Answer::Refused(RpcError::new(ErrorCode::TooBusy, text))
        })
    }

    /// Gives a submission its id.
    pub(super) fn new_job(&mut self, submission: &Submission) -> Job {
        self.last_job += 1;
        let sequence = self.last_job;
        if let Some(key) = &submission.request_key {
            let id = job_id(submission.master, sequence);
            let (clock, wall) = (self.clock_us, self.wall);
            self.requests.note(&submission.user, key, id, clock, wall);
        }
        Job::submitted(submission, sequence, self.clock_us)
    }

    /// Rights for the truth (the quick check was at submission).
    pub(super) fn may_submit(&self, submission: &Submission) -> Result<(), String> {
        self.may(&submission.user, &submission.needs).map_err(|denied| denied.to_string())?;
        let seen = submission.credential_revision;
        if self.credential_revision(&submission.user) != Some(seen) {
            return Err(crate::state::Denied::Changed(submission.user.to_string()).to_string());
        }
        Ok(())
    }

    /// Ends a job that the scheduler or apply refuses.
    pub(super) fn decline(
        &mut self,
        entry: &mut Entry,
        mut job: Job,
        why: String,
        time: Time,
    ) -> Answer {
        let id = job.record.job.to_string();
        job.record_mut().stages.scheduled.get_or_insert(time);
        job.advance(Move::Refuse, time).expect("a job that did not begin can be refused");
        job.end(Outcome::Declined, Some(why));
        entry.stage(&job.record, Stage::Finished, time);
        let record = self.archive_job(entry, job.record);
        Answer::Job { id, record: Some(record) }
    }

    /// Ends a job with what its plan decided, and makes its revision.
    pub(super) fn end_job(
        &mut self,
        entry: &mut Entry,
        mut job: Job,
        plan: &Plan,
        tried: Option<Tried>,
        time: Time,
    ) -> Answer {
        let revision = tried.as_ref().and_then(|tried| self.keep(tried));
        job.end(plan.outcome, plan.error.clone());
        let result = &mut job.record_mut().result;
        result.result_output = plan.output.clone();
        result.result_warnings = plan.warnings.clone();
        result.result_plan = plan.dry_run.clone();
        result.result_revision = revision;
        if !plan.derived.is_empty() {
            let until = self.clock_us.saturating_add(DERIVED_US);
            self.derived.insert(job.sequence, (until, plan.derived.clone()));
        }
        job.advance(Move::End { revision: revision.is_some() }, time).expect("it began");
        entry.stage(&job.record, Stage::Finished, time);
        let id = job.record.job.to_string();
        let Some(revision) = revision else {
            let record = self.archive_job(entry, job.record);
            return Answer::Job { id, record: Some(record) };
        };
        job.record_mut().change = tried.map(|tried| tried.changes.into()).unwrap_or_default();
        let section = config_change(&job, time);
        job.record_mut().commands.push(Arc::new(section));
        self.keep_full_tree(revision);
        job.change_index = Some(entry.index);
        entry.revision(revision, &job.record);
        let record = job.record.clone();
        self.uncommitted.insert(job.sequence);
        self.jobs.insert(job.sequence, Arc::new(job));
        entry.due();
        Answer::Job { id, record: Some(record) }
    }
}

/// The section of a record that stands for the change of the configuration itself.
fn config_change(job: &Job, time: Time) -> CommandRecord {
    CommandRecord {
        name: "config_change".to_owned(),
        node: job.record.scheduling.master,
        started: job.record.stages.executed,
        ended: Some(time),
        result: "ok".to_owned(),
        ..CommandRecord::default()
    }
}

/// The refusal of a key that was used for another call.
pub fn request_used(key: &str) -> RpcError {
    RpcError {
        request_id: Some(key.to_owned()),
        ..RpcError::new(ErrorCode::Conflict, "request_id was used for another call")
            .field("request_id")
            .hint("make a new request_id for a new call")
    }
}

fn request_expired(key: &str) -> RpcError {
    RpcError {
        request_id: Some(key.to_owned()),
        ..RpcError::new(ErrorCode::Conflict, "request_id expired")
            .field("request_id")
            .hint("look the first call up with job_history before you make a new request_id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{apply, state, submission};
    use crate::lock::Lock;
    use crate::proposal::Body;
    use tiebeam_proto::record::Stages;

    fn with_lock(state: &State, inputs: Option<&str>) -> Submission {
        let locks = Arc::new([Lock::write("app/a")]);
        Submission { locks, inputs: inputs.map(str::to_owned), ..submission(state) }
    }

    #[test]
    fn a_plan_that_finds_its_lock_taken_is_queued_only_with_its_parameters() {
        let mut state = state();
        let first = with_lock(&state, Some("sealed"));
        assert!(matches!(apply(&mut state, Body::Submit(first.into())).0, Answer::Job { .. }));
        for (inputs, jobs) in [(None, 1), (Some("sealed"), 2)] {
            let plan = Plan { error: None, ..Plan::ended(1, Outcome::Ok, "") };
            let submission = with_lock(&state, inputs);
            let run = RunOnce { submission, plan, times: Stages::default() };
            let answer = apply(&mut state, Body::RunOnce(Box::new(run))).0;
            assert_eq!((answer == Answer::Stale, state.jobs.len()), (inputs.is_none(), jobs));
        }
        assert!(state.jobs.values().all(|job| job.inputs.is_some()), "each can be run");
    }
}
