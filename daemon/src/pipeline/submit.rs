//! Admission: from a call to a job in the log, or an error that made no job.
//!
//! Checks are in this order: is there such a job, are kwargs and parameters well formed, may the
//! caller, was the call made before, is there room. Then the one-entry path (ruling 8) where it
//! can be taken, the long path where not; what is decided on the way is in
//! [`tiebeam_executor::submit`]. Everything from here on runs in a task of its own: a client that
//! goes away stops nothing.

use super::execute::{self, WorldFacts};
use crate::engine::Engine;
use crate::front::seam::{Call, Source};
use serde_json::Value;
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::admit::Kwargs;
use tiebeam_core::declaration::{Params, Way};
use tiebeam_core::proposal::{Body, Submission};
use tiebeam_executor::faults::Sound;
pub use tiebeam_executor::submit::Started;
use tiebeam_executor::submit::{self, Again, Answered, Attempts, Caller, Declined};
use tiebeam_jobs::{Job, reserved};
use tiebeam_proto::record::{JobRecord, RequestFacts};
use tiebeam_proto::{ErrorCode, Kind, RpcError, canonical};

/// A call that passed its checks, and the job that it is for.
struct Admitted {
    job: &'static Job,
    call: submit::Admitted,
}

/// The job of this name at the cluster's feature level, or the error that there is none.
pub fn find_job(engine: &Engine, name: &str) -> Result<&'static Job, RpcError> {
    tiebeam_jobs::find_at(name, engine.board.state().feature_level).ok_or_else(|| {
        if reserved::is_reserved(name) {
            return reserved::refusal(name);
        }
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        RpcError::new(ErrorCode::UnknownJob, format!("there is no job {shown:?}"))
            .field("name")
            .hint("job_list lists the jobs")
    })
}

/// Starts a job. What it returns has an id and is durable.
///
/// # Errors
/// Everything that makes no job.
pub async fn start(
    engine: &Arc<Engine>,
    call: &Call,
    name: &str,
    kwargs: Kwargs,
) -> Result<Started, RpcError> {
    let key = kwargs.request_id.clone();
    let started = match find_job(engine, name) {
        Ok(job) => start_job(engine, call, job, kwargs).await,
        Err(error) => Err(error),
    };
    started.map_err(|error| RpcError { request_id: error.request_id.clone().or(key), ..error })
}

/// As [`start`], for a job that may be unlisted.
///
/// # Errors
/// As [`start`].
pub async fn start_job(
    engine: &Arc<Engine>,
    call: &Call,
    job: &'static Job,
    kwargs: Kwargs,
) -> Result<Started, RpcError> {
    start_admitted(engine, admit(engine, &Asker::of(call)?, job, kwargs)?).await
}

/// Starts a part of a job (see [`tiebeam_jobs::world::Part`]) for the job's user.
///
/// # Errors
/// As [`start`].
pub async fn start_part(
    engine: &Arc<Engine>,
    whole: &JobRecord,
    job: &'static Job,
    kwargs: Kwargs,
) -> Result<Started, RpcError> {
    let source = format!("job {}", whole.job);
    let (protocol, peer) = ("internal".to_owned(), whole.request.peer.clone());
    let facts = RequestFacts { protocol, peer, ..RequestFacts::default() };
    let asker = Asker { user: whole.user.to_string(), source, facts: Arc::new(facts) };
    start_admitted(engine, admit(engine, &asker, job, kwargs)?).await
}

async fn start_admitted(engine: &Arc<Engine>, admitted: Admitted) -> Result<Started, RpcError> {
    let state = engine.board.state();
    if let Some(id) = admitted.call.made_before(&state) {
        return Ok(Started { id, record: None });
    }
    check_room(engine, admitted.job.declaration.kind)?;
    let engine = engine.clone();
    let task = tokio::spawn(async move { run(&engine, admitted).await });
    task.await.unwrap_or_else(|_| Err(RpcError::new(ErrorCode::Internal, "the call failed here")))
}

/// Runs a volatile read: no record, a result that this master remembers for 5 minutes.
///
/// # Errors
/// Everything that gives no result.
pub async fn volatile(
    engine: &Arc<Engine>,
    call: &Call,
    name: &str,
    kwargs: Kwargs,
) -> Result<tiebeam_proto::ResultObject, RpcError> {
    let job = find_job(engine, name)?;
    let admitted = admit(engine, &Asker::of(call)?, job, kwargs)?;
    if job.declaration.way == Way::Long {
        return Err(RpcError::new(ErrorCode::InvalidParameter, "this job always leaves a record")
            .field("volatile"));
    }
    let state = engine.confirmed_state().await.map_err(|error| error.to_rpc(true))?;
    let submit::Admitted { user, params, nonce, .. } = admitted.call;
    let facts = WorldFacts { nonce, live: None };
    let plan = execute::once(engine, job, &user, &params, state, facts, false).await;
    let id = engine.volatile.next_id();
    let mut result =
        tiebeam_proto::ResultObject::finished(&id, plan.outcome, plan.error.as_deref());
    result.result_output = plan.output.map(Arc::unwrap_or_clone);
    result.result_warnings = plan.warnings;
    engine.volatile.keep(&user, result.clone());
    engine.metrics.volatile_reads.inc();
    Ok(result)
}

/// Who asks for a job, and from where.
struct Asker {
    user: String,
    source: String,
    facts: Arc<RequestFacts>,
}

impl Asker {
    fn of(call: &Call) -> Result<Asker, RpcError> {
        let caller = call.caller.as_ref().map(|caller| caller.user.clone());
        let user = caller.ok_or_else(|| RpcError::new(ErrorCode::Forbidden, "log in first"))?;
        Ok(Asker { user, source: source_text(call.source), facts: call.facts.clone() })
    }
}

fn admit(
    engine: &Arc<Engine>,
    asker: &Asker,
    job: &'static Job,
    kwargs: Kwargs,
) -> Result<Admitted, RpcError> {
    let declaration = &job.declaration;
    let user = asker.user.clone();
    let nonce = engine.keys.cluster.fresh_nonce();
    let nonce = nonce.map_err(|error| internal("make a nonce", &error))?;
    let (request, submitted) = (asker.facts.clone(), engine.proposer.wall());
    let caller = Caller { user: user.clone(), request, nonce, submitted };
    let state = engine.board.state();
    let checked = submit::admit(&state, declaration, caller, kwargs, (tiebeam_jobs::needs, Sound));
    match checked {
        Ok(call) => Ok(Admitted { job, call }),
        Err(Declined::Malformed(error)) => Err(error),
        Err(Declined::Denied(why)) => {
            engine.auth.note_denied(&user, &asker.source, declaration.name);
            Err(RpcError::new(ErrorCode::Forbidden, why).hint("right_check tells who may"))
        }
    }
}

/// A source as audit records show it.
pub fn source_text(source: Source) -> String {
    match source {
        Source::Address(address) => address.to_string(),
        Source::Unix => "unix".to_owned(),
    }
}

fn internal(what: &str, error: &dyn std::error::Error) -> RpcError {
    tracing::error!(error = %crate::report::chain(error), "cannot {what}");
    RpcError::new(ErrorCode::Internal, format!("cannot {what}"))
}

fn check_room(engine: &Engine, kind: Kind) -> Result<(), RpcError> {
    if engine.space.is_spent() {
        return Err(RpcError::new(ErrorCode::TooBusy, "the disk of this node is full")
            .hint("make room; reads with `volatile` go on, for they leave no record"));
    }
    if kind == Kind::Read || engine.space.is_enough() {
        return Ok(());
    }
    Err(RpcError::new(ErrorCode::TooBusy, "the disk of this node is nearly full")
        .hint("make room, or lower disk.free_bytes_min; reads go on"))
}

async fn run(engine: &Arc<Engine>, admitted: Admitted) -> Result<Started, RpcError> {
    let state = engine.board.state();
    match engine.flight.reserve(&state, &admitted.call) {
        Some(_reserved) => one_entry(engine, &admitted, state).await,
        None => queue(engine, &admitted.call, &state).await,
    }
}

/// The long path: the job waits in State for its locks.
async fn queue(
    engine: &Arc<Engine>,
    call: &submit::Admitted,
    state: &State,
) -> Result<Started, RpcError> {
    let inputs = sealed_inputs(engine, &call.params)?;
    let submission = submission(engine, call, state, Some(inputs))?;
    propose(engine, call, Body::Submit(Box::new(submission)))
        .await?
        .map_or_else(|| Err(RpcError::new(ErrorCode::Internal, "a submission is never stale")), Ok)
}

/// Plans against the newest State and proposes; again while what was read has changed. If another
/// job's lock came first meanwhile, the plan is dropped and the job queues up.
async fn one_entry(
    engine: &Arc<Engine>,
    admitted: &Admitted,
    mut state: Arc<State>,
) -> Result<Started, RpcError> {
    let Admitted { job, call } = admitted;
    let mut attempts = Attempts::default();
    loop {
        let scheduled = engine.proposer.wall();
        let plan = match attempts.conflict(state.revision) {
            Some(ended) => ended,
            None => {
                let facts = WorldFacts { nonce: call.nonce.clone(), live: None };
                let (view, dry_run) = (state.clone(), call.kwargs.dry_run);
                execute::once(engine, job, &call.user, &call.params, view, facts, dry_run).await
            }
        };
        let submission = submission(engine, call, &state, None)?;
        let entry = call.run_once(submission, plan, (scheduled, engine.proposer.wall()));
        if let Some(started) = propose(engine, call, Body::RunOnce(Box::new(entry))).await? {
            return Ok(started);
        }
        state = engine.board.state();
        match attempts.stale(&state, &call.locks) {
            Again::Queue => return queue(engine, call, &state).await,
            Again::Plan => engine.metrics.replans.inc(),
        };
    }
}

/// Proposes; `None` if the plan was stale.
async fn propose(
    engine: &Engine,
    call: &submit::Admitted,
    body: Body,
) -> Result<Option<Started>, RpcError> {
    let key = &call.kwargs.request_id;
    let with_key = |error: RpcError| RpcError { request_id: key.clone(), ..error };
    let answer = engine.proposer.propose(body).await;
    let answer = answer.map_err(|error| with_key(error.to_rpc(key.is_some())))?;
    match submit::answered(answer) {
        Answered::Started(started) => Ok(Some(started)),
        Answered::Stale => Ok(None),
        Answered::Refused(error) => Err(with_key(error)),
    }
}

fn submission(
    engine: &Engine,
    call: &submit::Admitted,
    state: &State,
    inputs: Option<String>,
) -> Result<Submission, RpcError> {
    let keys = &engine.keys.cluster;
    let commit = |name: &str, bytes: &[u8]| keys.commitment(&call.nonce, name, bytes);
    let shown =
        call.shown(state, commit).map_err(|error| internal("commit to a secret", &error))?;
    let master = (engine.identity.node_id, engine.role.borrow().term);
    Ok(call.submission(state, master, shown, inputs))
}

/// The parameters for the job function, sealed, for the log.
fn sealed_inputs(engine: &Engine, params: &Params) -> Result<String, RpcError> {
    let plain = zeroize::Zeroizing::new(canonical::to_vec(&Value::Object(params.clone())));
    engine.keys.cluster.seal(&plain).map_err(|error| internal("seal the parameters", &error))
}
