//! Commands of running jobs: intent before, result after; late evidence; recorded inputs.

use super::Entry;
use crate::effect::Answer;
use crate::job::{Command, Job};
use crate::proposal::{CommandEnded, Intent, Recorded};
use crate::state::State;
use std::sync::Arc;
use tiebeam_proto::outcome::Move;
use tiebeam_proto::record::{AddendumRecord, CommandRecord, FORMAT};
use tiebeam_proto::{ErrorCode, RpcError, Stage};

/// Bytes of output that all commands of a job may keep in its record (ruling 32).
const OUTPUT_BYTES_OF_JOB: usize = 1 << 20;

impl State {
    fn running_job(&mut self, sequence: u64) -> Option<&mut Job> {
        if !self.running.contains(&sequence) {
            return None;
        }
        self.jobs.get_mut(&sequence).map(Arc::make_mut)
    }

    pub(super) fn apply_intent(&mut self, entry: &mut Entry, intent: &Intent) -> Answer {
        let (clock, epoch) = (self.clock_us, entry.term);
        let Some(job) = self.running_job(intent.job) else {
            return refused(ErrorCode::Conflict, "the job does not run any more");
        };
        if let Some(known) = job.command(&intent.key) {
            if known.digest == intent.digest {
                return Answer::Done;
            }
            return refused(
                ErrorCode::Conflict,
                "the job's code changed: another command had this key",
            );
        }
        if job.cancel.is_some() {
            return refused(ErrorCode::Conflict, "the job was cancelled");
        }
        if job.stage == Stage::Scheduled {
            job.advance(Move::Begin, intent.time).expect("a scheduled job begins");
            entry.stage(job, Stage::Executed, intent.time);
        }
        job.commands.push(Command {
            key: intent.key.clone(),
            node: intent.node,
            digest: intent.digest.clone(),
            spec: intent.spec.clone(),
            deadline_us: clock.saturating_add(intent.deadline_us),
            epoch,
            ended: false,
        });
        job.record.commands.push(CommandRecord {
            name: intent.key.clone(),
            node: intent.node,
            result: "open".to_owned(),
            ..CommandRecord::default()
        });
        entry.command(job, &intent.key, intent.node, "open");
        entry.due();
        Answer::Done
    }

    pub(super) fn apply_command_ended(
        &mut self,
        entry: &mut Entry,
        ended: &CommandEnded,
    ) -> Answer {
        if self.doubts.contains_key(&ended.job) {
            return self.late_evidence(entry, ended);
        }
        let Some(job) = self.running_job(ended.job) else { return Answer::Done };
        let Some(at) = job.commands.iter().position(|c| c.key == ended.key && !c.ended) else {
            return Answer::Done;
        };
        job.commands[at].ended = true;
        let kept: usize = job.record.commands.iter().map(|c| c.output.len()).sum();
        let mut record = ended.record.clone();
        if kept + record.output.len() > OUTPUT_BYTES_OF_JOB {
            record.output = "… (the job's room for output is used up)".to_owned();
            record.truncated = true;
        }
        entry.command(job, &ended.key, record.node, &record.result);
        job.record.commands[at] = record;
        entry.due();
        Answer::Done
    }

    /// A command of a job in doubt ended after all: an addendum, and its locks go with the last.
    fn late_evidence(&mut self, entry: &mut Entry, ended: &CommandEnded) -> Answer {
        let mut doubt = self.doubts.get(&ended.job).cloned().expect("the caller looked");
        let known = |(key, node): &(String, u32)| *key == ended.key && *node == ended.record.node;
        if !doubt.commands.iter().any(known) {
            return Answer::Done;
        }
        doubt.commands.retain(|command| !known(command));
        let addendum = AddendumRecord {
            format: FORMAT,
            addendum: doubt.job.clone(),
            time: entry.header.wall,
            command: Some(ended.record.clone()),
            note: None,
        };
        self.archive(entry, &addendum, None);
        if doubt.commands.is_empty() {
            self.locks_held.release(&doubt.locks);
            self.doubts.remove(&ended.job);
        } else {
            self.doubts.insert(ended.job, doubt);
        }
        entry.due();
        Answer::Done
    }

    pub(super) fn apply_recorded(&mut self, recorded: &Recorded) -> Answer {
        let Some(job) = self.running_job(recorded.job) else {
            return refused(ErrorCode::Conflict, "the job does not run any more");
        };
        job.recorded.entry(recorded.key.clone()).or_insert_with(|| recorded.value.clone());
        Answer::Done
    }
}

fn refused(code: ErrorCode, text: &str) -> Answer {
    Answer::Refused(RpcError::new(code, text))
}
