//! What the trace says of proposals and answers, in short.

use super::process::Told;
use std::sync::Arc;
use tiebeam_core::effect::Answer;
use tiebeam_core::proposal::Body;
use tiebeam_proto::Outcome;
use tiebeam_proto::record::JobRecord;

/// What is proposed.
pub(super) fn named(body: &Body) -> String {
    match body {
        Body::Submit(submission) => format!("Submit {}", submission.name),
        Body::RunOnce(run) => format!(
            "RunOnce {} by {}: {} at base {}, {} reads, {} writes",
            run.submission.name,
            run.submission.user,
            run.plan.outcome.name(),
            run.plan.base_revision,
            run.plan.reads.len(),
            run.plan.writes.len()
        ),
        Body::Finish(finish) => format!("Finish {} {}", finish.job, finish.plan.outcome.name()),
        Body::Schedule(schedule) => format!("Schedule {}", schedule.job),
        Body::Intent(intent) => format!("Intent {} of job {}", intent.key, intent.job),
        Body::CommandEnded(ended) => {
            format!("CommandEnded {} of job {}: {}", ended.key, ended.job, ended.record.result)
        }
        Body::Cancel(cancel) => format!("Cancel {} by {}", cancel.job, cancel.user),
        Body::Committed(committed) => format!(
            "Committed {:?}, applied {:?}, pending {:?}",
            committed.jobs, committed.applied, committed.pending
        ),
        other => format!("{other:?}"),
    }
}

/// What who asked is told.
pub(super) fn shortly(told: &Told) -> String {
    match told {
        Told::Applied(index, Answer::Job { id, record }) => {
            let ended = record.as_ref().map(|record: &Arc<JobRecord>| {
                let outcome = record.outcome.map_or("none", Outcome::name);
                format!(" {outcome}, revision {:?}", record.result.result_revision)
            });
            format!("entry {index}: job {id}{}", ended.unwrap_or_default())
        }
        other => format!("{other:?}"),
    }
}
