//! The master's conductor: drives [`tiebeam_executor::conductor`] and, for each job that it runs,
//! [`tiebeam_executor::run`], with the node's clocks, tasks and log. It decides nothing itself.

use super::execute::{self, WorldFacts};
use crate::engine::Engine;
use crate::proposer::{Answered, ProposeError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiebeam_core::declaration::Params;
use tiebeam_core::proposal::{Body, Plan};
use tiebeam_core::{Job, State};
use tiebeam_executor::conductor::{Act, Conductor, Rest, Round, Sight};
use tiebeam_executor::faults::Sound;
use tiebeam_executor::run::{Moment, Next, Run, STOP_GRACE_US, Told};
use tiebeam_proto::{Outcome, time::Time};

/// The conductor, shared with the tasks that run jobs.
type Shared = Arc<Mutex<Conductor>>;

fn lock(conductor: &Shared) -> MutexGuard<'_, Conductor> {
    conductor.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Conducts until the node stops.
pub async fn conduct(engine: Arc<Engine>) {
    let conductor = Shared::default();
    let mut due = engine.board.due();
    let mut role = engine.role.clone();
    loop {
        let round = look(&engine, &conductor);
        for act in round.acts {
            match act {
                Act::Run(sequence) => spawn(&engine, &conductor, sequence),
                act => propose(&engine, &act).await,
            }
        }
        match round.rest {
            Rest::For(us) => tokio::time::sleep(Duration::from_micros(us)).await,
            Rest::UntilTold(us) => tokio::select! {
                // Who leads is the master once it has applied the first entry of its term.
                _ = due.changed(), if role.borrow().leads => {}
                _ = role.changed() => {}
                () = tokio::time::sleep(Duration::from_micros(us)) => {}
                () = engine.stop.cancelled() => return,
            },
        }
    }
}

fn look(engine: &Engine, conductor: &Shared) -> Round {
    let state = engine.board.state();
    let office = engine.role.borrow().office();
    let Moment { now_us, clock_us } = moment(engine);
    let sight = Sight { own: engine.identity.node_id, office, state: &state, now_us, clock_us };
    lock(conductor).look(sight, &engine.cluster.hearsay(office.term))
}

/// Proposes an act. What the log says to it stands in State.
async fn propose(engine: &Engine, act: &Act) {
    if let Some(body) = act.body(engine.proposer.wall()) {
        let _ = engine.proposer.propose(body).await;
    }
}

/// This node's clocks now.
fn moment(engine: &Engine) -> Moment {
    Moment { now_us: now_us(engine), clock_us: engine.board.clock_us() }
}

/// The monotonic clock: microseconds since the daemon started.
fn now_us(engine: &Engine) -> u64 {
    u64::try_from(engine.started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Runs a job's function in a task of its own.
fn spawn(engine: &Arc<Engine>, conductor: &Shared, sequence: u64) {
    let (engine, conductor) = (engine.clone(), conductor.clone());
    tokio::spawn(async move {
        let state = engine.board.state();
        if let Some(job) = state.jobs.get(&sequence) {
            run_to_end(&engine, &state, job).await;
        }
        lock(&conductor).left(sequence);
        engine.board.note_due();
    });
}

async fn run_to_end(engine: &Arc<Engine>, state: &Arc<State>, job: &Arc<Job>) {
    let began = (engine.role.borrow().office(), moment(engine));
    let mut run = Run::begin(state, job, began, engine.proposer.wall(), (STOP_GRACE_US, Sound));
    loop {
        let plan = match run.conflict() {
            Some(ended) => ended,
            None => plan(engine, &mut run).await,
        };
        if !finish(engine, &mut run, plan, engine.proposer.wall()).await {
            return;
        }
    }
}

/// Runs the function until it ends, or is not waited for any more.
async fn plan(engine: &Arc<Engine>, run: &mut Run) -> Plan {
    let (job, view) = (run.job().clone(), run.view().clone());
    let indeterminate = |why: &str| Plan::ended(view.revision, Outcome::Indeterminate, why);
    let Some(found) = tiebeam_jobs::find(&job.record.name) else {
        return indeterminate("this version has no such job any more");
    };
    let Some(params) = open_inputs(engine, &job) else {
        return indeterminate("the job's parameters cannot be opened with this node's keys");
    };
    let facts = WorldFacts {
        nonce: job.record.nonce.clone().unwrap_or_else(|| fresh_nonce(engine)),
        live: Some((job.sequence, job.record.job.to_string())),
    };
    let dry_run = job.record.mode == tiebeam_proto::record::Mode::DryRun;
    let user = &job.record.user;
    let function = execute::once(engine, found, user, &params, view.clone(), facts, dry_run);
    tokio::pin!(function);
    let mut due = engine.board.follow_running();
    loop {
        let stopping = run.is_stopping(&engine.board.state(), now_us(engine));
        let patience = Duration::from_micros(run.patience_us());
        tokio::select! {
            biased;
            plan = &mut function => {
                return run.ended(&engine.board.state(), now_us(engine), plan);
            }
            _ = due.changed(), if !stopping => {}
            () = tokio::time::sleep_until((engine.started + patience).into()) => {
                if stopping {
                    return run.abandoned(&engine.board.state());
                }
            }
        }
    }
}

fn fresh_nonce(engine: &Engine) -> String {
    engine.keys.cluster.fresh_nonce().unwrap_or_default()
}

fn open_inputs(engine: &Engine, job: &Job) -> Option<Params> {
    let opened = engine.keys.cluster.open(job.inputs.as_ref()?).ok()?;
    serde_json::from_slice(opened.expose()).ok()
}

/// Proposes the end, as often as it takes; true if the plan has to be made again.
async fn finish(engine: &Engine, run: &mut Run, plan: Plan, finished: Time) -> bool {
    loop {
        let office = engine.role.borrow().office();
        let Some(finish) = run.finish(office, plan.clone(), finished) else { return false };
        let member = finish.plan.member.clone();
        let body = Body::Finish(Box::new(finish));
        let answer = match &member {
            Some(change) => engine.proposer.propose_member(change, body).await,
            None => engine.proposer.propose(body).await,
        };
        let office = engine.role.borrow().office();
        match run.told(told(&answer), office, &engine.board.state()) {
            Next::Plan => return true,
            Next::Over => return false,
            Next::ProposeIn(us) => tokio::time::sleep(Duration::from_micros(us)).await,
        }
    }
}

/// What the log said, in the executor's words.
pub fn told(answer: &Answered) -> Told<'_> {
    match answer {
        Ok(answer) => Told::Answered(answer),
        Err(ProposeError::TooBusy) => Told::TooBusy,
        Err(ProposeError::NotMaster) => Told::NotMaster,
        Err(ProposeError::Unknown) => Told::Unknown,
    }
}
