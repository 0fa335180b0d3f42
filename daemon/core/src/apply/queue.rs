//! The long path's beginning: submit, schedule, cancel.

use super::Entry;
use crate::effect::Answer;
use crate::job::Job;
use crate::proposal::{Cancel, Schedule, Submission};
use crate::state::State;
use std::sync::Arc;
use tiebeam_proto::outcome::Move;
use tiebeam_proto::{Outcome, Stage};

impl State {
    pub(super) fn apply_submit(&mut self, entry: &mut Entry, submission: &Submission) -> Answer {
        if let Some(answer) = self.admit_again(submission) {
            return answer;
        }
        let job = self.new_job(submission);
        if let Err(denied) = self.may_submit(submission) {
            return self.decline(entry, job, denied, entry.header.wall);
        }
        let id = job.record.job.to_string();
        entry.stage(&job.record, Stage::Submitted, submission.submitted);
        self.waiting.insert(job.sequence);
        self.locks_waiting.take(&job.locks);
        self.jobs.insert(job.sequence, Arc::new(job));
        entry.due();
        Answer::Job { id, record: None }
    }

    pub(super) fn apply_schedule(&mut self, entry: &mut Entry, schedule: &Schedule) -> Answer {
        if !self.waiting.contains(&schedule.job) || !self.may_start(schedule.job) {
            return Answer::Done;
        }
        let mut job = self.take_waiting(schedule.job);
        if let Err(denied) = self.may(&job.record.user, &job.needs) {
            entry.due();
            return self.decline(entry, job, denied.to_string(), schedule.time);
        }
        job.advance(Move::Accept, schedule.time).expect("a waiting job can be accepted");
        job.record_mut().scheduling.base_revision = self.revision;
        job.record_mut().scheduling.waited_us = self.clock_us.saturating_sub(job.submitted_us);
        entry.stage(&job.record, Stage::Scheduled, schedule.time);
        self.hold_base(self.revision);
        self.locks_held.take(&job.locks);
        self.running.insert(job.sequence);
        self.jobs.insert(job.sequence, Arc::new(job));
        entry.due();
        Answer::Done
    }

    /// Takes a waiting job out of the queue.
    pub(super) fn take_waiting(&mut self, sequence: u64) -> Job {
        self.waiting.remove(&sequence).expect("the job waits");
        let job = self.jobs.remove(&sequence).expect("a waiting job is live");
        let job = Arc::unwrap_or_clone(job);
        self.locks_waiting.release(&job.locks);
        job
    }

    pub(super) fn apply_cancel(&mut self, entry: &mut Entry, cancel: &Cancel) -> Answer {
        if self.waiting.contains(&cancel.job) {
            let mut job = self.take_waiting(cancel.job);
            job.cancel = Some(cancel.user.clone());
            job.advance(Move::Refuse, cancel.time).expect("a waiting job can be refused");
            let why = format!("cancelled by {} before it began", cancel.user);
            job.end(Outcome::Cancelled, Some(why));
            entry.stage(&job.record, Stage::Finished, cancel.time);
            self.archive_job(entry, job.record);
            entry.due();
            return Answer::Cancel("cancelled");
        }
        if !self.running.contains(&cancel.job) {
            return Answer::Cancel("too_late");
        }
        let job = self.jobs.get_mut(&cancel.job).expect("a running job is live");
        Arc::make_mut(job).cancel.get_or_insert_with(|| cancel.user.clone());
        entry.due();
        Answer::Cancel("stopping")
    }

    /// A plan of this running job was stale: the job leaves the configuration that it was
    /// scheduled on, and on whichever master it is planned again, it is on the newest one
    /// (ruling 10).
    pub(super) fn move_base(&mut self, sequence: u64) {
        let newest = self.revision;
        let running = self.running.contains(&sequence);
        let Some(job) = self.jobs.get_mut(&sequence).filter(|_| running) else { return };
        let scheduling = &mut Arc::make_mut(job).record_mut().scheduling;
        let before = std::mem::replace(&mut scheduling.base_revision, newest);
        self.hold_base(newest);
        self.release_base(before);
    }

    /// Keeps the configuration of `revision` for a job that was scheduled on it.
    pub(super) fn hold_base(&mut self, revision: u64) {
        let (count, tree) =
            self.bases.get(&revision).cloned().unwrap_or_else(|| (0, self.config.clone()));
        self.bases.insert(revision, (count + 1, tree));
    }

    /// Lets go of it.
    pub(super) fn release_base(&mut self, revision: u64) {
        let (count, tree) = self.bases.get(&revision).cloned().expect("the base is held");
        if count == 1 {
            self.bases.remove(&revision);
        } else {
            self.bases.insert(revision, (count - 1, tree));
        }
    }
}
