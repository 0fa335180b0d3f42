//! A live job: its record so far and what the pipeline needs beside it.

use crate::lock::Lock;
use crate::proposal::{Needs, Submission};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tiebeam_proto::outcome::{IllegalMove, Move};
use tiebeam_proto::record::{self, JobRecord, ResultRecord, Scheduling, Stages};
use tiebeam_proto::{Outcome, ResultObject, Stage, time::Time};

/// A job that is not yet in the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The number behind the dot of its id.
    pub sequence: u64,
    /// What will be archived.
    pub record: Arc<JobRecord>,
    /// Where it is.
    pub stage: Stage,
    /// Who may do it.
    pub needs: Arc<Needs>,
    /// What it holds, or waits for.
    pub locks: Arc<[Lock]>,
    /// Its parameters for the job function, sealed; only on the long path.
    pub inputs: Option<String>,
    /// Cluster time of its submission.
    pub submitted_us: u64,
    /// Cluster time of its deadline.
    pub deadline_us: u64,
    /// Log index of its change.
    pub change_index: Option<u64>,
    /// Who asked for it to stop.
    pub cancel: Option<String>,
    /// Its commands that have an intent, in the order of their intents.
    pub commands: Vec<Command>,
    /// Recorded inputs of the job function.
    pub recorded: BTreeMap<String, Value>,
}

/// A command that has an intent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Its key, unique within the job.
    pub key: String,
    /// The node that is to run it.
    pub node: u32,
    /// SHA-256 of its arguments, hex.
    pub digest: String,
    /// What is to be run, sealed.
    pub spec: String,
    /// Cluster time of its deadline.
    pub deadline_us: u64,
    /// The term of the intent: the epoch under which it may start.
    pub epoch: u64,
    /// Whether it ended; its result is in the record.
    pub ended: bool,
    /// Whether its node was removed before its end was known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// A job's id as users see it.
pub fn job_id(master: u32, sequence: u64) -> String {
    format!("{master}.{sequence}")
}

/// The sequence number of a job id; `None` if the text is no job id.
pub fn parse_job_id(id: &str) -> Option<(u32, u64)> {
    let (node, sequence) = id.split_once('.')?;
    let canonical = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0')
    };
    if !canonical(node) || !canonical(sequence) {
        return None;
    }
    Some((node.parse().ok()?, sequence.parse().ok()?))
}

impl Job {
    /// A job in stage submitted.
    pub fn submitted(submission: &Submission, sequence: u64, clock_us: u64) -> Job {
        let s = submission.clone();
        let record = JobRecord {
            format: record::FORMAT,
            job: job_id(s.master, sequence).into(),
            name: s.name,
            kind: s.kind,
            outcome: None,
            user: s.user,
            reason: s.reason,
            mode: s.mode,
            parameters: s.parameters,
            nonce: s.nonce,
            request: s.request,
            scheduling: Scheduling {
                master: s.master,
                term: s.term,
                locks: s.locks.iter().map(ToString::to_string).collect(),
                base_revision: 0,
                waited_us: 0,
            },
            stages: Stages { submitted: Some(s.submitted), ..Stages::default() },
            commands: Vec::new(),
            result: ResultRecord::default(),
            change: Arc::default(),
            nodes: None,
        };
        Job {
            sequence,
            record: Arc::new(record),
            stage: Stage::Submitted,
            needs: s.needs,
            locks: s.locks,
            inputs: s.inputs,
            submitted_us: clock_us,
            deadline_us: clock_us.saturating_add(s.deadline_us),
            change_index: None,
            cancel: None,
            commands: Vec::new(),
            recorded: BTreeMap::new(),
        }
    }

    /// The record, to be changed. Whoever holds it keeps the one from before.
    pub fn record_mut(&mut self) -> &mut JobRecord {
        Arc::make_mut(&mut self.record)
    }

    /// Moves the job on and stamps the stage's time.
    pub fn advance(&mut self, by: Move, time: Time) -> Result<Stage, IllegalMove> {
        let next = self.stage.next(by)?;
        self.stage = next;
        let stages = &mut self.record_mut().stages;
        let slot = match next {
            Stage::Submitted => &mut stages.submitted,
            Stage::Scheduled => &mut stages.scheduled,
            Stage::Executed => &mut stages.executed,
            Stage::Finished => &mut stages.finished,
            Stage::Committed => &mut stages.committed,
        };
        *slot = Some(time);
        Ok(next)
    }

    /// Notes how the job ended.
    pub fn end(&mut self, outcome: Outcome, error: Option<String>) {
        let record = self.record_mut();
        record.outcome = Some(outcome);
        record.result.result_code = outcome.code();
        record.result.result_desc = error;
    }

    /// Whether nothing but the committed stamp can still be added.
    pub fn has_ended(&self) -> bool {
        self.stage >= Stage::Finished
    }

    /// The command with this key.
    pub fn command(&self, key: &str) -> Option<&Command> {
        self.commands.iter().find(|command| command.key == key)
    }

    /// Whether a node stopped one of its commands on request. If nobody cancelled the job, the
    /// deadline had passed by that node's clock.
    pub fn was_stopped(&self) -> bool {
        self.record.commands.iter().any(|command| command.result == "cancelled")
    }

    /// Commands that have an intent and no end.
    pub fn open_commands(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter().filter(|command| !command.ended)
    }
}

/// The result object of a record (wire.md section 7).
pub fn result_of(record: &JobRecord) -> ResultObject {
    let Some(outcome) = record.outcome else { return ResultObject::unfinished(&record.job) };
    let kept = &record.result;
    ResultObject {
        result_output: kept.result_output.as_deref().cloned(),
        result_revision: kept.result_revision,
        result_warnings: kept.result_warnings.clone(),
        result_plan: kept.result_plan.clone(),
        result_nodes_pending: record.nodes.as_ref().map(|n| n.pending.clone()).unwrap_or_default(),
        ..ResultObject::finished(&record.job, outcome, kept.result_desc.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_has_one_spelling() {
        assert_eq!(parse_job_id("11.89"), Some((11, 89)));
        for bad in ["", "11", "11.", ".1", "11.089", "+1.2", "11.8 ", "11.8.9", "a.b", "0.1"] {
            assert_eq!(parse_job_id(bad), None, "{bad}");
        }
    }
}
