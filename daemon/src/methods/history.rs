//! `job_history`: pages of what happened, newest first; jobs that have not finished come before the
//! first page. `{stage: executed}`, say, lists what runs and nothing else.

use super::arguments::Arguments;
use super::{Method, Right, user_of};
use crate::engine::Engine;
use crate::front::seam::{Call, MethodClass};
use crate::history::{PAGE_RECORDS_MAX, Request};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::State;
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{ErrorCode, RpcError, Stage};

pub(super) const JOB_HISTORY: Method = Method {
    name: "job_history",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["filter"],
    signatures: &[&["struct"], &["struct", "struct"]],
    help: "job_history(filter): {records, cursor}; filter by name, user, node, outcome, stage, \
           since, until, revision, job, with limit and cursor; `missing` lists the chain's \
           numbers that this node does not have, if there are any",
    run: |engine, call, arguments| Box::pin(job_history(engine, call, arguments)),
};

async fn job_history(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let request = Request::read(a.value(0))?;
    let user = user_of(&call).to_owned();
    let state = engine.board.state();
    let sees_all = state.sees_every_job(&user);
    let mut records = Vec::new();
    if request.cursor.is_none() {
        records = live(&state, &request, (!sees_all).then_some(user.as_str()));
    }
    if request.filter.stage.is_some_and(|stage| stage < Stage::Finished) {
        return Ok(json!({"records": records, "cursor": null}));
    }
    wait_for_stamps(&engine, &state).await;
    let limit = request.limit;
    let reader = engine.history.clone();
    // Looked at first: a gap that is filled meanwhile may have had what the page lacks.
    let missing = engine.history.gaps(state.chain.floor_index.max(1));
    let page = tokio::task::spawn_blocking(move || {
        let visible_to = (!sees_all).then_some(user.as_str());
        reader.search(&request.filter, visible_to, request.cursor.as_deref(), limit)
    });
    let failed = || RpcError::new(ErrorCode::Internal, "the history cannot be searched");
    let page = page.await.map_err(|_| failed())?.map_err(|error| {
        use crate::history::HistoryError as E;
        match error {
            E::BadFilter { field, .. } => {
                RpcError::new(ErrorCode::InvalidArguments, error.to_string()).field(field)
            }
            E::NotInThisVersion(field) => RpcError::not_in_this_version(field),
            error => {
                tracing::error!(error = %crate::report::chain(&error), "history");
                failed()
            }
        }
    })?;
    records.extend(page.records);
    let mut answer = json!({"records": records, "cursor": page.cursor});
    // A page is not to look whole where records are missing (ruling 16).
    if !missing.is_empty() {
        answer["missing"] = json!(missing);
    }
    Ok(answer)
}

/// Longest wait for committed stamps: they come every 20 ms.
const STAMPS_WAIT: Duration = Duration::from_millis(500);

/// Waits until the changes that were made before this call are in the history, so that who made
/// one finds it.
async fn wait_for_stamps(engine: &Engine, seen: &State) {
    let until = tokio::time::Instant::now() + STAMPS_WAIT;
    let waits = |newest: &State| seen.uncommitted.iter().any(|job| newest.jobs.contains_key(job));
    while waits(&engine.board.state()) && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Jobs that have not finished and fit the filter, newest first. They come before the first page,
/// whatever its limit: those that finish meanwhile are archived above it, so no page has them.
fn live(state: &State, request: &Request, visible_to: Option<&str>) -> Vec<Value> {
    let jobs = state.jobs.values().rev().filter(|job| {
        job.stage < Stage::Finished
            && request.filter.stage.is_none_or(|stage| stage == job.stage)
            && visible_to.is_none_or(|user| user == &*job.record.user)
            && fits(&job.record, request)
    });
    jobs.take(PAGE_RECORDS_MAX).map(|job| summary(&job.record, job.stage.name())).collect()
}

fn fits(record: &JobRecord, request: &Request) -> bool {
    let filter = &request.filter;
    let submitted = record.stages.submitted.unwrap_or_default();
    filter.name.as_ref().is_none_or(|name| **name == *record.name)
        && filter.user.as_ref().is_none_or(|user| **user == *record.user)
        && filter.job.as_ref().is_none_or(|job| **job == *record.job)
        && filter.node.is_none_or(|node| {
            node == record.scheduling.master || record.commands.iter().any(|c| c.node == node)
        })
        && filter.outcome.is_none_or(|outcome| record.outcome == Some(outcome))
        && filter.revision.is_none_or(|revision| record.result.result_revision == Some(revision))
        && filter.since.is_none_or(|since| submitted >= since)
        && filter.until.is_none_or(|until| submitted <= until)
}

fn summary(record: &JobRecord, stage: &str) -> Value {
    json!({
        "job": record.job,
        "name": record.name,
        "user": record.user,
        "kind": record.kind,
        "outcome": record.outcome,
        "stage": stage,
        "submitted": record.stages.submitted,
        "revision": record.result.result_revision,
        "reason": record.reason,
    })
}
