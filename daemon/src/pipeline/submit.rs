//! Admission: from a call to a job in the log, or an error that made no job.
//!
//! Checks are in this order: is there such a job, are kwargs and parameters well formed, may the
//! caller, was the call made before, is there room. Then the one-entry path (ruling 8) where it
//! can be taken, the long path where not. Everything from here on runs in a task of its own: a
//! client that goes away stops nothing.

use super::execute::{self, WorldFacts};
use crate::engine::Engine;
use crate::front::seam::{Call, Source};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tiebeam_core::admit::{self, Kwargs};
use tiebeam_core::declaration::{Params, Secrecy, Way};
use tiebeam_core::effect::Answer;
use tiebeam_core::lock::Lock;
use tiebeam_core::proposal::{Body, Needs, Plan, RequestKey, RunOnce, Submission};
use tiebeam_core::requests::Lookup;
use tiebeam_core::{State, settings};
use tiebeam_jobs::Job;
use tiebeam_proto::limits::REPLANS_MAX;
use tiebeam_proto::record::{JobRecord, Mode, RequestFacts, Stages};
use tiebeam_proto::{ErrorCode, Kind, Outcome, RpcError, canonical, time::Time};

/// A job that has an id.
#[derive(Clone, Debug)]
pub struct Started {
    /// The id.
    pub id: String,
    /// Its record, if it has ended already.
    pub record: Option<Arc<JobRecord>>,
}

/// A call that passed its checks.
struct Admitted {
    job: &'static Job,
    params: Params,
    kwargs: Kwargs,
    user: String,
    request: RequestFacts,
    nonce: String,
    submitted: Time,
    needs: Needs,
    locks: Vec<Lock>,
}

/// The job of this name at the cluster's feature level, or the error that there is none.
pub fn find_job(engine: &Engine, name: &str) -> Result<&'static Job, RpcError> {
    tiebeam_jobs::find_at(name, engine.board.state().feature_level).ok_or_else(|| {
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
    start_job(engine, call, find_job(engine, name)?, kwargs).await
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
    let asker = Asker { user: whole.user.clone(), source, facts: &facts };
    start_admitted(engine, admit(engine, &asker, job, kwargs)?).await
}

async fn start_admitted(engine: &Arc<Engine>, admitted: Admitted) -> Result<Started, RpcError> {
    let state = engine.board.state();
    if let Some(key) = request_key(&admitted)
        && let Lookup::Same(id) = state.requests.look_up(&admitted.user, &key)
    {
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
    let facts = WorldFacts { nonce: admitted.nonce.clone(), live: None };
    let plan =
        execute::once(engine, job, &admitted.user, &admitted.params, state, facts, false).await;
    let id = engine.volatile.next_id();
    let mut result =
        tiebeam_proto::ResultObject::finished(&id, plan.outcome, plan.error.as_deref());
    result.result_output = plan.output;
    result.result_warnings = plan.warnings;
    engine.volatile.keep(&admitted.user, result.clone());
    engine.metrics.volatile_reads.inc();
    Ok(result)
}

/// Who asks for a job, and from where.
struct Asker<'a> {
    user: String,
    source: String,
    facts: &'a RequestFacts,
}

impl Asker<'_> {
    fn of(call: &Call) -> Result<Asker<'_>, RpcError> {
        let caller = call.caller.as_ref().map(|caller| caller.user.clone());
        let user = caller.ok_or_else(|| RpcError::new(ErrorCode::Forbidden, "log in first"))?;
        Ok(Asker { user, source: source_text(call.source), facts: &call.facts })
    }
}

fn admit(
    engine: &Arc<Engine>,
    asker: &Asker<'_>,
    job: &'static Job,
    kwargs: Kwargs,
) -> Result<Admitted, RpcError> {
    let declaration = &job.declaration;
    let user = asker.user.clone();
    admit::check_kwargs(declaration, &kwargs)?;
    let params = admit::check_params(declaration, &kwargs.params)?;
    let state = engine.board.state();
    let needs = tiebeam_jobs::needs(declaration, &params);
    if let Err(denied) = state.may(&user, &needs) {
        engine.auth.note_denied(&user, &asker.source, declaration.name);
        return Err(RpcError::new(ErrorCode::Forbidden, denied.to_string())
            .hint("right_check tells who may"));
    }
    let request = RequestFacts { request_id: kwargs.request_id.clone(), ..asker.facts.clone() };
    let nonce = engine.keys.cluster.fresh_nonce();
    let nonce = nonce.map_err(|error| internal("make a nonce", &error))?;
    let submitted = engine.proposer.wall();
    let locks = (declaration.locks)(&params);
    Ok(Admitted { job, params, kwargs, user, request, nonce, submitted, needs, locks })
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

/// The idempotency key and what it is used for: job name and parameters, hashed together.
fn request_key(admitted: &Admitted) -> Option<RequestKey> {
    let key = admitted.kwargs.request_id.clone()?;
    let used_for = json!([
        admitted.job.declaration.name,
        Value::Object(admitted.params.clone()),
        admitted.kwargs.dry_run,
    ]);
    let digest = canonical::hex(&canonical::digest(&used_for)[..16]);
    Some(RequestKey { key, digest })
}

async fn run(engine: &Arc<Engine>, admitted: Admitted) -> Result<Started, RpcError> {
    let state = engine.board.state();
    if admitted.job.declaration.way == Way::Once
        && let Some(reserved) = engine.flight.reserve(&state, &admitted.locks)
    {
        let started = one_entry(engine, &admitted, state).await;
        drop(reserved);
        return started;
    }
    queue(engine, &admitted, &state).await
}

/// The long path: the job waits in State for its locks.
async fn queue(
    engine: &Arc<Engine>,
    admitted: &Admitted,
    state: &State,
) -> Result<Started, RpcError> {
    let submission = submission(engine, admitted, state, true)?;
    propose(engine, admitted, Body::Submit(Box::new(submission)))
        .await?
        .map_or_else(|| Err(RpcError::new(ErrorCode::Internal, "a submission is never stale")), Ok)
}

/// Plans against the newest State and proposes; again while what was read has changed. If another
/// job's lock came first meanwhile, the plan is dropped and the job queues up.
async fn one_entry(
    engine: &Arc<Engine>,
    admitted: &Admitted,
    state: Arc<State>,
) -> Result<Started, RpcError> {
    let mut state = state;
    for _ in 0..REPLANS_MAX {
        let scheduled = engine.proposer.wall();
        let facts = WorldFacts { nonce: admitted.nonce.clone(), live: None };
        let (job, user, params) = (admitted.job, &admitted.user, &admitted.params);
        let dry_run = admitted.kwargs.dry_run;
        let plan = execute::once(engine, job, user, params, state.clone(), facts, dry_run).await;
        let body = run_once(engine, admitted, &state, plan, scheduled)?;
        if let Some(started) = propose(engine, admitted, body).await? {
            return Ok(started);
        }
        state = engine.board.state();
        if state.has_conflict(&admitted.locks) {
            return queue(engine, admitted, &state).await;
        }
        engine.metrics.replans.inc();
    }
    let why = format!("what the job looked at changed {REPLANS_MAX} times while it was planned");
    let plan = Plan::ended(state.revision, Outcome::Conflict, why);
    let body = run_once(engine, admitted, &state, plan, engine.proposer.wall())?;
    match propose(engine, admitted, body).await? {
        Some(started) => Ok(started),
        None => queue(engine, admitted, &engine.board.state()).await,
    }
}

fn run_once(
    engine: &Engine,
    admitted: &Admitted,
    state: &State,
    plan: Plan,
    scheduled: Time,
) -> Result<Body, RpcError> {
    let times = Stages {
        submitted: Some(admitted.submitted),
        scheduled: Some(scheduled),
        executed: Some(scheduled),
        finished: Some(engine.proposer.wall()),
        committed: None,
    };
    let submission = submission(engine, admitted, state, false)?;
    Ok(Body::RunOnce(Box::new(RunOnce { submission, plan, times })))
}

/// Proposes; `None` if the plan was stale.
async fn propose(
    engine: &Engine,
    admitted: &Admitted,
    body: Body,
) -> Result<Option<Started>, RpcError> {
    let has_key = admitted.kwargs.request_id.is_some();
    let with_key =
        |error: RpcError| RpcError { request_id: admitted.kwargs.request_id.clone(), ..error };
    let answer = engine.proposer.propose(body).await;
    match answer.map_err(|error| with_key(error.to_rpc(has_key)))? {
        Answer::Job { id, record } => Ok(Some(Started { id, record })),
        Answer::Existing { id } => Ok(Some(Started { id, record: None })),
        Answer::Stale => Ok(None),
        Answer::Refused(error) => Err(with_key(error)),
        Answer::Done | Answer::Cancel(_) => {
            Err(RpcError::new(ErrorCode::Internal, "the log gave an answer that does not fit"))
        }
    }
}

fn submission(
    engine: &Engine,
    admitted: &Admitted,
    state: &State,
    long: bool,
) -> Result<Submission, RpcError> {
    let declaration = &admitted.job.declaration;
    let (parameters, committed) = recorded_params(engine, admitted, state)?;
    let inputs = if long { Some(sealed_inputs(engine, &admitted.params)?) } else { None };
    let default_s = || settings::integer(&state.config, "jobs", "deadline_s");
    let deadline_s =
        admitted.kwargs.deadline_s.or(declaration.deadline_s).unwrap_or_else(default_s);
    let mode = if admitted.kwargs.dry_run { Mode::DryRun } else { Mode::Immediate };
    Ok(Submission {
        name: declaration.name.to_owned(),
        kind: declaration.kind,
        user: admitted.user.clone(),
        credential_revision: state.credential_revision(&admitted.user).unwrap_or(0),
        reason: admitted.kwargs.reason.clone(),
        mode,
        parameters,
        nonce: committed.then(|| admitted.nonce.clone()),
        inputs,
        request: admitted.request.clone(),
        request_key: request_key(admitted),
        needs: admitted.needs.clone(),
        locks: admitted.locks.clone(),
        master: engine.identity.node_id,
        term: engine.role.borrow().term,
        deadline_us: deadline_s.saturating_mul(1_000_000),
        submitted: admitted.submitted,
    })
}

/// The parameters as the record shows them (ruling 21), and whether there is a commitment in them.
fn recorded_params(
    engine: &Engine,
    admitted: &Admitted,
    state: &State,
) -> Result<(Map<String, Value>, bool), RpcError> {
    let declaration = &admitted.job.declaration;
    let concealed = (declaration.conceal)(state, &admitted.params);
    let mut shown = Map::new();
    let mut committed = false;
    for (name, value) in &admitted.params {
        let secrecy = declaration.param(name).map_or(Secrecy::Open, |param| param.secrecy);
        let value = match secrecy {
            Secrecy::Open if !concealed.contains(&name.as_str()) => value.clone(),
            Secrecy::Password => json!({"secret": "withheld"}),
            Secrecy::Open | Secrecy::Secret => {
                committed = true;
                let bytes = canonical::to_vec(value);
                let digest = engine.keys.cluster.commitment(&admitted.nonce, name, &bytes);
                json!({"secret": digest.map_err(|error| internal("commit to a secret", &error))?})
            }
        };
        shown.insert(name.clone(), value);
    }
    Ok((shown, committed))
}

/// The parameters for the job function, sealed, for the log.
fn sealed_inputs(engine: &Engine, params: &Params) -> Result<String, RpcError> {
    let plain = zeroize::Zeroizing::new(canonical::to_vec(&Value::Object(params.clone())));
    engine.keys.cluster.seal(&plain).map_err(|error| internal("seal the parameters", &error))
}
