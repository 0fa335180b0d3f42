//! Doing something on many nodes: batch by batch, all nodes of a batch at once, and one answer.
//!
//! One node of many that fails makes the whole job fail, with each node's result in the output; it
//! is never plain ok. A node whose end is not known makes it indeterminate.

use crate::{JobError, Run, nodes};
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Map, Value, json};
use tiebeam_proto::Outcome;
use tiebeam_proto::record::CommandRecord;

/// How something on one node ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Its part of the output.
    pub output: Value,
    /// How.
    pub outcome: Outcome,
    /// Why it is not ok.
    pub why: String,
    /// Whether the whole job has to stop: it was cancelled or its deadline passed.
    pub last: bool,
}

impl End {
    /// What a command's record says.
    pub fn of(result: &Result<CommandRecord, JobError>) -> End {
        match result {
            Ok(record) => End::of_record(record),
            Err(error) => End {
                output: json!({"result": error.outcome().name(), "error": error.to_string()}),
                outcome: error.outcome(),
                why: error.to_string(),
                last: matches!(error, JobError::Cancelled(_) | JobError::Timeout(_)),
            },
        }
    }

    fn of_record(record: &CommandRecord) -> End {
        let mut output = json!({
            "result": record.result,
            "status": record.status,
            "output": record.output,
            "output_bytes": record.output_bytes,
            "truncated": record.truncated,
        });
        if let Some(evidence) = &record.evidence {
            output["evidence"] = json!(evidence);
        }
        let ended = record.status.map(|status| match status {
            0.. => format!("exit status {status}"),
            _ => format!("ended by signal {}", status.unsigned_abs()),
        });
        let known = record.evidence.clone().or(ended).unwrap_or_else(|| "no more is known".into());
        let (outcome, why) = match record.result.as_str() {
            "ok" => (Outcome::Ok, String::new()),
            "timeout" => (Outcome::Failed, "did not end in time".to_owned()),
            "cancelled" => (Outcome::Cancelled, "cancelled".to_owned()),
            "refused" => (Outcome::Failed, format!("refused: {known}")),
            "indeterminate" | "open" => (Outcome::Indeterminate, format!("unknown: {known}")),
            _ => (Outcome::Failed, known),
        };
        End { output, outcome, why, last: outcome == Outcome::Cancelled }
    }

    /// The same as a failure.
    pub fn failed(self, why: impl Into<String>) -> End {
        End { outcome: Outcome::Failed, why: why.into(), ..self }
    }
}

/// How many nodes at once, and when to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batches {
    /// Nodes of a batch.
    pub size: usize,
    /// Nodes that may fail before no further batch is begun.
    pub failures_max: usize,
}

impl Batches {
    /// All nodes at once.
    pub const ALL: Batches = Batches { size: usize::MAX, failures_max: usize::MAX };

    /// Reads `3` or `20%` of `nodes`; `None` if it is neither.
    pub fn size_of(text: &str, nodes: usize) -> Option<usize> {
        let size = match text.strip_suffix('%') {
            None => text.parse().ok()?,
            Some(percent) => {
                let percent = percent.parse::<usize>().ok().filter(|p| (1..=100).contains(p))?;
                (nodes * percent).div_ceil(100).max(1)
            }
        };
        (size > 0).then_some(size)
    }
}

/// Does `each` on every node and gathers the ends.
pub(crate) async fn on_nodes(
    run: &Run,
    nodes: &[u32],
    batches: Batches,
    each: impl Fn(u32) -> BoxFuture<'static, End>,
) -> Result<Value, JobError> {
    let mut ends: Vec<(u32, End)> = Vec::new();
    for batch in nodes.chunks(batches.size.max(1)) {
        let failures = ends.iter().filter(|(_, end)| end.outcome != Outcome::Ok).count();
        if failures >= batches.failures_max || ends.iter().any(|(_, end)| end.last) {
            break;
        }
        let percent = ends.len() * 100 / nodes.len().max(1);
        run.world().progress(u8::try_from(percent).unwrap_or(100), &nodes::listed(batch));
        let results = join_all(batch.iter().map(|node| each(*node))).await;
        ends.extend(batch.iter().copied().zip(results));
    }
    let not_run: Vec<u32> = nodes.iter().skip(ends.len()).copied().collect();
    gather(&ends, &not_run)
}

fn gather(ends: &[(u32, End)], not_run: &[u32]) -> Result<Value, JobError> {
    let mut output: Map<String, Value> =
        ends.iter().map(|(node, end)| (node.to_string(), end.output.clone())).collect();
    output.extend(not_run.iter().map(|node| (node.to_string(), json!({"result": "not_run"}))));
    let bad: Vec<&(u32, End)> = ends.iter().filter(|(_, end)| end.outcome != Outcome::Ok).collect();
    let output = Value::Object(output);
    if bad.is_empty() {
        return Ok(output);
    }
    let whole = ends.len() + not_run.len();
    let named: Vec<String> =
        bad.iter().map(|(node, end)| format!("node {node}: {}", end.why)).collect();
    let mut text = format!("{} of {whole} nodes did not succeed: {}", bad.len(), named.join("; "));
    if !not_run.is_empty() {
        text.push_str(&format!("; not run on {}", nodes::listed(not_run)));
    }
    let worst = [Outcome::Indeterminate, Outcome::Cancelled, Outcome::Timeout];
    let worst = worst.into_iter().find(|worst| bad.iter().any(|(_, end)| end.outcome == *worst));
    Err(JobError::Partly { outcome: worst.unwrap_or(Outcome::Failed), text, output })
}
