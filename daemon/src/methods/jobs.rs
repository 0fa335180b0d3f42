//! The methods of a job's life: start, wait, result, exec, info, cancel, file.

use super::arguments::Arguments;
use super::{Method, Right, until_revoked, user_of};
use crate::blobs::spread::OutputError;
use crate::engine::Engine;
use crate::front::seam::{Call, MethodClass};
use crate::pipeline::{live, result, submit, volatile};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::Answer;
use tiebeam_core::admit::Kwargs;
use tiebeam_core::job::parse_job_id;
use tiebeam_core::proposal::{Body, Cancel};
use tiebeam_proto::limits::WAIT_SECONDS;
use tiebeam_proto::outcome::UNFINISHED;
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{ErrorCode, ResultObject, RpcError};

const START_ARGUMENTS: &[&str] = &["name", "kwargs"];

pub(super) const JOB_START: Method = Method {
    name: "job_start",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: START_ARGUMENTS,
    signatures: &[&["string", "string"], &["string", "string", "struct"]],
    help: "job_start(name[, kwargs]): the id of a new job, durable before it is returned",
    run: |engine, call, arguments| Box::pin(job_start(engine, call, arguments)),
};

pub(super) const JOB_EXEC: Method = Method {
    name: "job_exec",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: START_ARGUMENTS,
    signatures: &[&["struct", "string"], &["struct", "string", "struct"]],
    help: "job_exec(name[, kwargs]): start, wait and result in one call",
    run: |engine, call, arguments| Box::pin(job_exec(engine, call, arguments)),
};

pub(super) const JOB_WAIT: Method = Method {
    name: "job_wait",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["id", "timeout_s"],
    signatures: &[&["boolean", "string"], &["boolean", "string", "double"]],
    help: "job_wait(id[, timeout_s]): true once the job has ended, false after the time",
    run: |engine, call, arguments| Box::pin(job_wait(engine, call, arguments)),
};

pub(super) const JOB_FINISHED: Method = Method {
    name: "job_finished",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["id"],
    signatures: &[&["boolean", "string"]],
    help: "job_finished(id): whether the job has ended, at once",
    run: |engine, call, arguments| {
        Box::pin(async move { job_finished(&engine, &call, &arguments) })
    },
};

pub(super) const JOB_RESULT: Method = Method {
    name: "job_result",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["id"],
    signatures: &[&["struct", "string"]],
    help: "job_result(id): the result object; result_code is 5 while the job runs",
    run: |engine, call, arguments| Box::pin(async move { job_result(&engine, &call, &arguments) }),
};

pub(super) const JOB_INFO: Method = Method {
    name: "job_info",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["id"],
    signatures: &[&["struct", "string"]],
    help: "job_info(id): the record so far: stages with times, commands, who, why; in `live` the \
           last 8 KiB that each command which runs has printed",
    run: |engine, call, arguments| Box::pin(job_info(engine, call, arguments)),
};

pub(super) const JOB_CANCEL: Method = Method {
    name: "job_cancel",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["id"],
    signatures: &[&["string", "string"]],
    help: "job_cancel(id): \"cancelled\", \"stopping\" or \"too_late\"",
    run: |engine, call, arguments| Box::pin(job_cancel(engine, call, arguments)),
};

pub(super) const JOB_FILE: Method = Method {
    name: "job_file",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["id", "command"],
    signatures: &[&["string", "string"], &["string", "string", "string"]],
    help: "job_file(id): everything that is kept of the job, as YAML; job_file(id, command): what \
           that command printed, whole, from whichever member has it",
    run: |engine, call, arguments| Box::pin(job_file(engine, call, arguments)),
};

/// How long `job_file` and `job_info` wait for a record to be final: for a change, its committed
/// stamp, which follows the answer to its caller by some milliseconds.
const STAMP_WAIT: Duration = Duration::from_secs(2);

async fn job_start(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let kwargs = Kwargs::read(a.value(1))?;
    if kwargs.wait_ms.is_some() {
        return Err(RpcError::new(ErrorCode::InvalidParameter, "`wait_s` is for job_exec only")
            .field("wait_s")
            .hint("job_start returns at once; wait with job_wait"));
    }
    if kwargs.volatile {
        let result = submit::volatile(&engine, &call, a.text(0)?, kwargs).await?;
        return Ok(json!(result.result_jobid));
    }
    Ok(json!(submit::start(&engine, &call, a.text(0)?, kwargs).await?.id))
}

async fn job_exec(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let kwargs = Kwargs::read(a.value(1))?;
    let wait = kwargs.wait_ms.map(Duration::from_millis);
    if kwargs.volatile {
        return to_json(&submit::volatile(&engine, &call, a.text(0)?, kwargs).await?);
    }
    let waits = engine.waiting.begin(user_of(&call))?;
    let started = submit::start(&engine, &call, a.text(0)?, kwargs).await?;
    let record = match started.record {
        Some(record) => Some(record),
        None => wait_for(&engine, &call, &started.id, wait).await,
    };
    let answer = match record {
        Some(record) => committed_result(&engine, &call, &record).await,
        None => ResultObject::unfinished(&started.id),
    };
    drop(waits);
    to_json(&answer)
}

/// The log index of a change that has no committed stamp yet.
fn change_index(engine: &Engine, id: &str) -> Option<u64> {
    tiebeam_executor::commit::change_index(&engine.board.state(), id)
}

/// The result of a job that has ended, once its change is committed (ruling 6). A master that is
/// none any more may not say so: its answer is that of a job under way.
async fn committed_result(engine: &Arc<Engine>, call: &Call, record: &JobRecord) -> ResultObject {
    let mut answer = result::object(engine, user_of(call), record, true);
    if record.result.result_revision.is_none() {
        return answer;
    }
    let Some(index) = change_index(engine, &record.job) else {
        // Its stamp was faster than this answer: the record says who was waited for in vain.
        let stamped = engine.job(&record.job).ok().flatten().map(|(record, _)| record);
        return stamped
            .map_or(answer, |record| result::object(engine, user_of(call), &record, true));
    };
    match engine.cluster.committed(index).await {
        Some(parted) => {
            let pending = parted.pending.into_iter().map(|(node, _)| node);
            answer.result_nodes_pending = pending.collect();
        }
        None => return ResultObject::unfinished(&record.job),
    }
    answer
}

/// Whether nothing is awaited any more of a job that has ended.
fn is_settled(engine: &Engine, id: &str) -> bool {
    change_index(engine, id).is_none_or(|index| engine.cluster.is_committed(index))
}

fn to_json(result: &ResultObject) -> Result<Value, RpcError> {
    serde_json::to_value(result)
        .map_err(|_| RpcError::new(ErrorCode::Internal, "the result cannot be written as JSON"))
}

/// Waits for a job's end: its record, or nothing when the time is over, the node drains or the
/// caller's login is revoked.
async fn wait_for(
    engine: &Arc<Engine>,
    call: &Call,
    id: &str,
    wait: Option<Duration>,
) -> Option<Arc<JobRecord>> {
    let (_, sequence) = parse_job_id(id)?;
    let end = engine.board.job_end(sequence);
    let limit = async {
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = end => {}
        () = limit => {}
        () = call.stop.cancelled() => {}
        () = until_revoked(engine, call) => return None,
    }
    engine.job(id).ok()?.and_then(|(record, ended)| ended.then_some(record))
}

async fn job_wait(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let id = a.text(0)?;
    let seconds = a.seconds(1, WAIT_SECONDS.1, WAIT_SECONDS.0)?;
    if volatile::is_volatile(id) {
        return known_volatile(&engine, &call, id).map(|_| json!(true));
    }
    let (_, ended) = result::visible(&engine, user_of(&call), id)?;
    if ended && is_settled(&engine, id) {
        return Ok(json!(true));
    }
    let _waits = engine.waiting.begin(user_of(&call))?;
    let limit = Duration::from_secs_f64(seconds);
    let until = tokio::time::Instant::now() + limit;
    if wait_for(&engine, &call, id, Some(limit)).await.is_none() {
        return Ok(json!(false));
    }
    let Some(index) = change_index(&engine, id) else { return Ok(json!(true)) };
    let committed = tokio::time::timeout_at(until, engine.cluster.committed(index)).await;
    Ok(json!(matches!(committed, Ok(Some(_)))))
}

fn known_volatile(engine: &Engine, call: &Call, id: &str) -> Result<ResultObject, RpcError> {
    engine.volatile.find(user_of(call), id).ok_or_else(|| RpcError::unknown_job_id(id))
}

fn job_finished(engine: &Engine, call: &Call, a: &Arguments) -> Result<Value, RpcError> {
    let id = a.text(0)?;
    if volatile::is_volatile(id) {
        return known_volatile(engine, call, id).map(|_| json!(true));
    }
    let (_, ended) = result::visible(engine, user_of(call), id)?;
    Ok(json!(ended && is_settled(engine, id)))
}

fn job_result(engine: &Engine, call: &Call, a: &Arguments) -> Result<Value, RpcError> {
    let id = a.text(0)?;
    if volatile::is_volatile(id) {
        return to_json(&known_volatile(engine, call, id)?);
    }
    let (record, ended) = result::visible(engine, user_of(call), id)?;
    note_read(engine, call, &record);
    let ended = ended && is_settled(engine, id);
    to_json(&result::object(engine, user_of(call), &record, ended))
}

/// Keeps that somebody read a job that is not theirs (ruling 46).
fn note_read(engine: &Engine, call: &Call, record: &JobRecord) {
    let user = user_of(call);
    if user != &*record.user && engine.board.state().is_in_any(user, &["auditor"]) {
        engine.auth.note_auditor_read(user, &submit::source_text(call.source), &record.job);
    }
}

async fn job_info(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let id = a.text(0)?;
    let (mut record, ended) = result::visible(&engine, user_of(&call), id)?;
    note_read(&engine, &call, &record);
    let ended = ended && is_settled(&engine, id);
    if ended && change_index(&engine, id).is_some() {
        // Its caller has an answer that says committed; so does the record.
        until_archived(&engine, id).await;
        record = result::visible(&engine, user_of(&call), id)?.0;
    }
    let mut info = json!(*record);
    let state = engine.board.state();
    let stage = match state.live_job(id) {
        Some(job) => job.stage.name(),
        None if record.stages.committed.is_some() => "committed",
        None => "finished",
    };
    info["stage"] = json!(stage);
    info["ended"] = json!(ended);
    if record.outcome.is_none() {
        // As job_result says: a record that waits for its end has no code yet.
        info["result"] = json!({"result_code": UNFINISHED});
    }
    if let (false, Some((percent, text))) = (ended, engine.metrics.progress.of(id)) {
        info["progress"] = json!({"percent": percent, "text": text});
    }
    if !ended {
        let live = live::of_job(&engine, id).await;
        if !live.is_empty() {
            info["live"] = Value::Object(live);
        }
    }
    let addenda = crate::facts::addenda(&engine, id);
    if !addenda.is_empty() {
        info["addenda"] = json!(addenda);
    }
    Ok(info)
}

async fn job_cancel(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let id = a.text(0)?;
    let (record, ended) = result::visible(&engine, user_of(&call), id)?;
    let state = engine.board.state();
    let user = user_of(&call);
    // An auditor reads every job's record and does nothing else.
    let may = user == &*record.user || user == "root" || state.is_in_any(user, &["exaadm"]);
    if !may {
        return Err(RpcError::new(
            ErrorCode::Forbidden,
            "only its user, root and exaadm may cancel a job",
        ));
    }
    let Some((_, sequence)) = parse_job_id(id).filter(|_| !ended) else {
        return Ok(json!("too_late"));
    };
    let cancel = Cancel { job: sequence, user: user.to_owned(), time: engine.proposer.wall() };
    match engine.proposer.propose(Body::Cancel(cancel)).await {
        Ok(Answer::Cancel(word)) => Ok(json!(word)),
        Ok(_) => {
            Err(RpcError::new(ErrorCode::Internal, "the log gave an answer that does not fit"))
        }
        Err(error) => Err(error.to_rpc(true)),
    }
}

/// Waits for a while until the record of a job that has ended is in the history.
async fn until_archived(engine: &Engine, id: &str) {
    if let Some((_, sequence)) = parse_job_id(id) {
        let _ = tokio::time::timeout(STAMP_WAIT, engine.board.job_archived(sequence)).await;
    }
}

async fn job_file(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let id = a.text(0)?;
    let (record, ended) = result::visible(&engine, user_of(&call), id)?;
    note_read(&engine, &call, &record);
    if ended {
        // A file without its place in the chain, after that time, is a file all the same.
        until_archived(&engine, id).await;
    }
    match a.value(1) {
        Value::Null => crate::facts::job_file(&engine, id, &record).map(Value::String),
        _ => command_output(&engine, &record, a.text(1)?).await,
    }
}

/// What a command of the job printed, from the end that came late if there is one.
async fn command_output(
    engine: &Arc<Engine>,
    record: &JobRecord,
    name: &str,
) -> Result<Value, RpcError> {
    let late = crate::facts::addenda(engine, &record.job).into_iter().rev();
    let late = late.filter_map(|addendum| serde_json::from_value(addendum["command"].clone()).ok());
    let own = record.commands.iter().cloned();
    let command = late.chain(own).find(|command| command.name == name);
    let Some(command) = command else {
        let names: Vec<&str> = record.commands.iter().map(|one| one.name.as_str()).collect();
        let error = RpcError::new(ErrorCode::InvalidArguments, "the job has no such command");
        return Err(error.field("command").hint(format!("its commands are {names:?}")));
    };
    let whole = crate::blobs::spread::whole_output(engine, &command).await;
    whole.map(Value::String).map_err(|error| {
        let code = match error {
            OutputError::Missing(_) => ErrorCode::TooBusy,
            OutputError::TooLong => ErrorCode::TooLarge,
        };
        RpcError::new(code, error.to_string())
            .hint("the record has its first and last 32 KiB: job_file without `command`")
    })
}
