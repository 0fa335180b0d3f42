//! The end of jobs: finish on the long path, the committed stamp for everyone.

use super::Entry;
use crate::effect::Answer;
use crate::job::Job;
use crate::proposal::{Committed, Finish, Plan};
use crate::state::{Doubt, State};
use std::sync::Arc;
use tiebeam_proto::outcome::Move;
use tiebeam_proto::record::NodesApplied;
use tiebeam_proto::{Outcome, Stage};

/// Doubts without locks that State keeps at once.
const UNLOCKED_DOUBTS_MAX: usize = 1_000;

impl State {
    pub(super) fn apply_finish(&mut self, entry: &mut Entry, finish: &Finish) -> Answer {
        if !self.running.contains(&finish.job) {
            return Answer::Done;
        }
        if finish.plan.outcome == Outcome::Ok && !self.reads_hold(&finish.plan.reads) {
            self.move_base(finish.job);
            return Answer::Stale;
        }
        if self.doubt_is_settled(finish) {
            return Answer::Stale;
        }
        let (mut plan, tried) = match self.try_plan(&finish.plan) {
            Ok(tried) => (finish.plan.clone(), tried),
            Err(why) => {
                let base = finish.plan.base_revision;
                (Plan::ended(base, Outcome::Declined, why), None)
            }
        };
        let mut job = self.take_running(finish.job);
        self.put_right(&job, &mut plan);
        if job.stage == Stage::Scheduled {
            let began = finish.executed.unwrap_or(finish.finished);
            job.advance(Move::Begin, began).expect("a scheduled job begins");
            entry.stage(&job.record, Stage::Executed, began);
        }
        self.settle_locks(&mut job, finish);
        entry.due();
        self.end_job(entry, job, &plan, tried, finish.finished)
    }

    fn take_running(&mut self, sequence: u64) -> Job {
        self.running.remove(&sequence).expect("the job runs");
        let job = self.jobs.remove(&sequence).expect("a running job is live");
        let job = Arc::unwrap_or_clone(job);
        self.release_base(job.record.scheduling.base_revision);
        job
    }

    /// Compares how a plan says that the job ended with what State knows of it. A job that nobody
    /// cancelled is not said to be: it is late if the clock says so, here or on a node that stopped
    /// a command of it for that. And none but one that ended well has a known end while the end of
    /// a command is not known (ruling 11).
    fn put_right(&self, job: &Job, plan: &mut Plan) {
        if plan.outcome == Outcome::Cancelled && job.cancel.is_none() {
            let late = job.was_stopped() || self.clock_us >= job.deadline_us;
            let why = plan.error.take().unwrap_or_default();
            (plan.outcome, plan.error) = match late {
                true => (Outcome::Timeout, Some("the job's deadline passed".to_owned())),
                false => (Outcome::Failed, Some(format!("a part of it was cancelled: {why}"))),
            };
        }
        let known = job.record.commands.iter().all(|command| command.is_definite());
        if !known && !matches!(plan.outcome, Outcome::Ok | Outcome::Indeterminate) {
            let why = plan.error.take().unwrap_or_default();
            plan.outcome = Outcome::Indeterminate;
            plan.error = Some(format!("{why}; a command's end is not known"));
        }
    }

    /// Gives a job's locks back, or keeps them in doubt while the end of a command is not known
    /// (ruling 11).
    fn settle_locks(&mut self, job: &mut Job, finish: &Finish) {
        let open: Vec<_> = job.open_commands().map(|c| (c.key.clone(), c.node)).collect();
        let unknown = job
            .record
            .commands
            .iter()
            .filter(|command| command.result == "indeterminate")
            .map(|command| (command.name.clone(), command.node));
        let commands: Vec<_> = open.into_iter().chain(unknown).collect();
        for command in &mut job.record_mut().commands {
            if command.result == "open" {
                let command = Arc::make_mut(command);
                command.result = "indeterminate".to_owned();
                command.evidence = Some("the job ended before the command's end was known".into());
            }
        }
        if commands.is_empty() {
            self.locks_held.release(&job.locks);
            return;
        }
        let doubt = Doubt {
            job: job.record.job.to_string(),
            locks: job.locks.to_vec(),
            commands,
            since: finish.finished,
            gone: job.commands.iter().filter(|one| one.lost).map(|one| one.node).collect(),
            record_from: self.chain.index + 1,
        };
        self.doubts.insert(job.sequence, doubt);
        self.forget_doubts();
    }

    /// Ends doubts that hold no locks and whose late evidence can matter to nobody any more: the
    /// job's record is given up, or there are too many of them; then the oldest go. Doubts that
    /// hold locks end by evidence or by `lock_release` only (ruling 11).
    pub(super) fn forget_doubts(&mut self) {
        let floor = self.chain.floor_index;
        let unlocked = self.doubts.iter().filter(|(_, doubt)| doubt.locks.is_empty());
        let unlocked: Vec<(u64, u64)> =
            unlocked.map(|(sequence, doubt)| (*sequence, doubt.record_from)).collect();
        let over = unlocked.len().saturating_sub(UNLOCKED_DOUBTS_MAX);
        for (nth, (sequence, from)) in unlocked.into_iter().enumerate() {
            if nth < over || (from > 0 && from < floor) {
                self.doubts.remove(&sequence);
            }
        }
    }

    /// Whether a job was ended in doubt of commands of which all ends are in State by now: its
    /// master had not seen the last one, and decides again (ruling 11).
    fn doubt_is_settled(&self, finish: &Finish) -> bool {
        let Some(job) = self.jobs.get(&finish.job).filter(|_| !finish.plan.open.is_empty()) else {
            return false;
        };
        finish.plan.outcome == Outcome::Indeterminate
            && job.open_commands().next().is_none()
            && job.record.commands.iter().all(|command| command.is_definite())
    }

    pub(super) fn apply_committed(&mut self, entry: &mut Entry, committed: &Committed) -> Answer {
        for sequence in &committed.jobs {
            if self.uncommitted.remove(sequence).is_none() {
                continue;
            }
            let job = self.jobs.remove(sequence).expect("an uncommitted job is live");
            job.stage.next(Move::Commit).expect("a finished job commits");
            // The State that is shown still has the job: its record alone is made anew.
            let mut record = job.record.clone();
            let stamped = Arc::make_mut(&mut record);
            stamped.stages.committed = Some(committed.time);
            stamped.nodes = Some(NodesApplied {
                applied: committed.applied.clone(),
                pending: committed.pending.iter().map(|(node, _)| *node).collect(),
                reasons: committed
                    .pending
                    .iter()
                    .map(|(node, why)| (node.to_string(), why.clone()))
                    .collect(),
            });
            entry.stage(&record, Stage::Committed, committed.time);
            let record = self.archive_job(entry, record);
            self.archive_full_tree(entry, &record, committed.time);
        }
        Answer::Done
    }
}
