//! A part of a job that is a job of its own: started once by its key, whichever master runs the
//! job, and waited for.
//!
//! It is admitted like any call of the same user, so whoever lost a right meanwhile is refused.
//! Its id is recorded in the whole; until that is in the log, its request id finds it. `world` asks
//! for it.

use super::agent::asked_to_stop;
use super::conductor::told;
use super::{submit, world};
use crate::engine::Engine;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::admit::Kwargs;
use tiebeam_core::job::parse_job_id;
use tiebeam_core::proposal::{Body, Cancel};
use tiebeam_executor::command;
use tiebeam_jobs::JobError;
use tiebeam_jobs::world::Part;
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{ErrorCode, RpcError};

/// Pause before a start that the log did not take is tried again.
const START_AGAIN: Duration = Duration::from_millis(100);

/// Runs a part of the job with this sequence number to its end.
///
/// # Errors
/// The part made no job, or its job is to stop.
pub async fn run(
    engine: &Arc<Engine>,
    sequence: u64,
    part: Part,
) -> Result<Arc<JobRecord>, JobError> {
    let id = find_or_start(engine, sequence, part).await?;
    let known = parse_job_id(&id).map(|(_, child)| child);
    let child = known.ok_or_else(|| JobError::failed("the part has no id"))?;
    let mut end = engine.board.job_end(child);
    tokio::select! {
        // The board outlives who waits on it.
        _ = &mut end => {}
        () = asked_to_stop(engine, sequence) => {
            tokio::select! {
                () = cancel(engine, sequence, child) => drop(end.await),
                _ = &mut end => {}
            }
        }
    }
    match engine.job(&id) {
        Ok(Some((record, true))) => Ok(record),
        _ => Err(JobError::Indeterminate(format!("how {id} ended is not known here"))),
    }
}

/// Cancels the part, as often as it takes until that is in the log.
async fn cancel(engine: &Engine, sequence: u64, child: u64) {
    let user = format!("the job that it is a part of ({})", id_of(engine, sequence));
    let cancel = Cancel { job: child, user, time: engine.proposer.wall() };
    loop {
        let answer = engine.proposer.propose(Body::Cancel(cancel.clone())).await;
        let office = engine.role.borrow().office();
        match command::cancelled(told(&answer), office) {
            Some(us) => tokio::time::sleep(Duration::from_micros(us)).await,
            None => return,
        }
    }
}

fn id_of(engine: &Engine, sequence: u64) -> String {
    let state = engine.board.state();
    state.jobs.get(&sequence).map_or_else(String::new, |job| job.record.job.to_string())
}

/// The job that the part has, by what is recorded of it; else it is started, and that is recorded.
async fn find_or_start(
    engine: &Arc<Engine>,
    sequence: u64,
    part: Part,
) -> Result<String, JobError> {
    let key = format!("part {}", part.key);
    let id = match command::recorded(&engine.board.state(), sequence, &key) {
        Some(known) => known,
        None => {
            let id = start(engine, sequence, part).await?;
            world::record(engine, sequence, key, Value::String(id)).await?
        }
    };
    id.as_str().map(str::to_owned).ok_or_else(|| JobError::failed("the part's id is no text"))
}

/// Starts the part, or finds the job that it has: the request id is the same in every run.
async fn start(engine: &Arc<Engine>, sequence: u64, part: Part) -> Result<String, JobError> {
    let Some(whole) = engine.board.state().jobs.get(&sequence).map(|job| job.record.clone()) else {
        return Err(JobError::failed("the job has ended"));
    };
    let found = tiebeam_jobs::find(part.job);
    let job = found.ok_or_else(|| JobError::failed("this version has no such job any more"))?;
    let of = format!("part of {}", whole.job);
    let kwargs = Kwargs {
        params: part.params,
        request_id: Some(format!("{}/{}", whole.job, part.key)),
        reason: Some(whole.reason.as_ref().map_or(of.clone(), |why| format!("{why} ({of})"))),
        deadline_s: Some(part.deadline_s),
        ..Kwargs::default()
    };
    loop {
        if let Some(why) = reason_to_stop(engine, sequence) {
            return Err(why);
        }
        let started = submit::start_part(engine, &whole, job, kwargs.clone()).await;
        match started {
            Ok(started) => return Ok(started.id),
            Err(error) if !is_passing(&error) => return Err(JobError::Failed(error.message)),
            // What this run comes to is lost; the next master makes it again.
            Err(error) if !engine.role.borrow().leads => {
                return Err(JobError::Indeterminate(error.message));
            }
            Err(_) => tokio::time::sleep(START_AGAIN).await,
        }
    }
}

/// Whether the same start may do better in a moment.
fn is_passing(error: &RpcError) -> bool {
    matches!(error.code, ErrorCode::NoMaster | ErrorCode::TooBusy | ErrorCode::OutcomeUnknown)
}

/// Why no further part is to be started, if there is a reason.
fn reason_to_stop(engine: &Engine, sequence: u64) -> Option<JobError> {
    let state = engine.board.state();
    let job = state.jobs.get(&sequence)?;
    if let Some(by) = &job.cancel {
        return Some(JobError::Cancelled(format!("cancelled by {by}")));
    }
    let is_late = job.deadline_us <= engine.board.clock_us();
    is_late.then(|| JobError::Timeout("the job's deadline passed".to_owned()))
}
