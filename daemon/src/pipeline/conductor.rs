//! The master's conductor: schedules what may run, runs it, and stamps changes as committed.
//!
//! It acts on [`State::due`] and on nothing else (ruling 34), so taking over after a crash is the
//! same as going on: jobs that State says are running get their function run again, and recorded
//! results come back at once.

use super::execute::{self, WorldFacts};
use crate::engine::Engine;
use crate::proposer::ProposeError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tiebeam_core::commit::Parted;
use tiebeam_core::declaration::Params;
use tiebeam_core::proposal::{Body, Committed, Finish, Plan, Schedule};
use tiebeam_core::{Answer, Job, State, settings};
use tiebeam_proto::limits::REPLANS_MAX;
use tiebeam_proto::{Kind, Outcome, time::Time};
use tokio::time::Instant;

/// Longest delay of the committed stamp (ruling 6).
const COMMIT_EVERY: Duration = Duration::from_millis(20);
/// How often the conductor looks without being told: deadlines of waiting jobs.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time that the commands of a job get to stop (invariant 7).
const STOP_GRACE: Duration = Duration::from_secs(15);
/// Pause before an end that the log did not take is proposed again.
const FINISH_AGAIN: Duration = Duration::from_millis(50);
/// Jobs whose committed stamp travels in one entry.
const COMMITTED_MAX: usize = 4_096;

/// Jobs whose function runs in this process.
type Running = Arc<Mutex<BTreeSet<u64>>>;
/// When this master first saw changes that wait for their stamp, by job.
type Seen = BTreeMap<u64, Instant>;

/// Conducts until the node stops.
pub async fn conduct(engine: Arc<Engine>) {
    let running = Running::default();
    let mut seen = Seen::new();
    let mut due = engine.board.due();
    let mut role = engine.role.clone();
    loop {
        if engine.is_master() {
            let again = round(&engine, &running, &mut seen).await;
            if again {
                tokio::time::sleep(COMMIT_EVERY).await;
                continue;
            }
        } else {
            seen.clear();
        }
        tokio::select! {
            _ = due.changed() => {}
            _ = role.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

/// One look at what is due; true if there is sure to be more soon.
async fn round(engine: &Arc<Engine>, running: &Running, seen: &mut Seen) -> bool {
    let state = engine.board.state();
    let due = state.due(engine.board.clock_us());
    for sequence in due.overdue {
        give_up_waiting(engine, &state, sequence).await;
    }
    for job in due.schedule {
        let time = engine.proposer.wall();
        let _ = engine.proposer.propose(Body::Schedule(Schedule { job, time })).await;
    }
    for sequence in due.run {
        spawn(engine, running, &state, sequence);
    }
    commit(engine, &state, &due.commit, seen).await
}

/// Ends a job that waited beyond its deadline.
async fn give_up_waiting(engine: &Engine, state: &State, sequence: u64) {
    let Some(job) = state.jobs.get(&sequence) else { return };
    let cancel = tiebeam_core::proposal::Cancel {
        job: sequence,
        user: format!("its deadline ({} waited for locks)", job.record.job),
        time: engine.proposer.wall(),
    };
    let _ = engine.proposer.propose(Body::Cancel(cancel)).await;
}

/// Stamps changes whose awaited members have applied them, or have been waited for long enough
/// (ruling 6). Changes with the same members pending share an entry.
async fn commit(engine: &Engine, state: &State, changes: &[(u64, u64)], seen: &mut Seen) -> bool {
    seen.retain(|job, _| state.uncommitted.contains(job));
    let wait_ms = settings::integer(&state.config, "jobs", "commit_wait_ms");
    let now = Instant::now();
    let mut groups: BTreeMap<Parted, Vec<u64>> = BTreeMap::new();
    for (job, index) in changes.iter().take(COMMITTED_MAX) {
        let since = *seen.entry(*job).or_insert(now);
        let parted = engine.cluster.parted(state, *index);
        let lagging = parted.pending.iter().any(|(_, why)| why == "lagging");
        if !lagging || now - since >= Duration::from_millis(wait_ms) {
            groups.entry(parted).or_default().push(*job);
        }
    }
    for (Parted { applied, pending }, jobs) in groups {
        let committed = Committed { jobs, time: engine.proposer.wall(), applied, pending };
        let _ = engine.proposer.propose(Body::Committed(committed)).await;
    }
    !changes.is_empty()
}

/// Runs a job's function in a task of its own, unless one runs already.
fn spawn(engine: &Arc<Engine>, running: &Running, state: &Arc<State>, sequence: u64) {
    let Some(job) = state.jobs.get(&sequence).cloned() else { return };
    if !running.lock().unwrap_or_else(PoisonError::into_inner).insert(sequence) {
        return;
    }
    let (engine, running, state) = (engine.clone(), running.clone(), state.clone());
    tokio::spawn(async move {
        run_to_end(&engine, &state, &job).await;
        running.lock().unwrap_or_else(PoisonError::into_inner).remove(&sequence);
        engine.board.note_due();
    });
}

async fn run_to_end(engine: &Arc<Engine>, state: &Arc<State>, job: &Arc<Job>) {
    let executed = engine.proposer.wall();
    let term = engine.role.borrow().term;
    let left = Duration::from_micros(job.deadline_us.saturating_sub(state.clock_us));
    let deadline = Instant::now() + left;
    let mut view = base_view(state, job);
    for attempt in 0..=REPLANS_MAX {
        let plan = if attempt == REPLANS_MAX {
            let why = format!("what the job looked at changed {REPLANS_MAX} times under it");
            Plan::ended(view.revision, Outcome::Conflict, why)
        } else {
            plan(engine, view.clone(), job, deadline).await
        };
        // What failed because the master moved is nobody's outcome: who leads runs it again.
        let now = *engine.role.borrow();
        if !now.leads || now.term != term || finish(engine, job, plan, executed).await {
            return;
        }
        view = engine.board.state();
    }
}

/// The State that the function sees: an act that may have recorded commands gets the configuration
/// it was scheduled on (ruling 10), every other job the newest.
fn base_view(state: &Arc<State>, job: &Job) -> Arc<State> {
    let base = job.record.scheduling.base_revision;
    match state.bases.get(&base) {
        Some((_, tree)) if job.record.kind == Kind::Act => {
            let mut view = (**state).clone();
            view.config = tree.clone();
            view.revision = base;
            Arc::new(view)
        }
        _ => state.clone(),
    }
}

async fn plan(engine: &Arc<Engine>, view: Arc<State>, job: &Arc<Job>, deadline: Instant) -> Plan {
    let revision = view.revision;
    let indeterminate = |why: &str| Plan::ended(revision, Outcome::Indeterminate, why);
    let Some(found) = tiebeam_jobs::find(&job.record.name) else {
        return indeterminate("this version has no such job any more");
    };
    let Some(params) = open_inputs(engine, job) else {
        return indeterminate("the job's parameters cannot be opened with this node's keys");
    };
    let facts = WorldFacts {
        nonce: job.record.nonce.clone().unwrap_or_else(|| fresh_nonce(engine)),
        live: Some((job.sequence, job.record.job.clone())),
    };
    let dry_run = job.record.mode == tiebeam_proto::record::Mode::DryRun;
    let user = job.record.user.clone();
    let run = execute::once(engine, found, &user, &params, view, facts, dry_run);
    tokio::pin!(run);
    let plan = tokio::select! {
        plan = &mut run => plan,
        why = asked_to_stop(engine, job.sequence, deadline) => {
            // The node's agent stops the commands; the function ends when they have ended.
            match tokio::time::timeout(STOP_GRACE, &mut run).await {
                Ok(plan) if plan.outcome == Outcome::Ok => plan,
                Ok(plan) => stopped(engine, job, plan, why),
                Err(_) => stopped(engine, job, Plan::ended(revision, why.0, why.1.clone()), why),
            }
        }
    };
    if plan.outcome == Outcome::Ok { plan } else { with_cancel(engine, job, plan) }
}

/// A job that was cancelled and failed for it ended cancelled.
fn with_cancel(engine: &Engine, job: &Job, plan: Plan) -> Plan {
    let state = engine.board.state();
    let by = state.jobs.get(&job.sequence).and_then(|job| job.cancel.clone());
    match by {
        // Nobody cancelled it: its node stopped the command because the job's deadline passed.
        None if plan.outcome == Outcome::Cancelled => {
            let why = (Outcome::Timeout, "the job's deadline passed".to_owned());
            stopped(engine, job, plan, why)
        }
        Some(by) if plan.outcome == Outcome::Failed => {
            Plan { outcome: Outcome::Cancelled, error: Some(format!("cancelled by {by}")), ..plan }
        }
        _ => plan,
    }
}

/// How a job that was asked to stop ended: as asked, unless a command's end is not known.
fn stopped(engine: &Engine, job: &Job, plan: Plan, why: (Outcome, String)) -> Plan {
    let state = engine.board.state();
    let live = state.jobs.get(&job.sequence);
    let unknown = live.is_some_and(|job| {
        job.open_commands().next().is_some()
            || job.record.commands.iter().any(|command| command.result == "indeterminate")
    });
    if unknown {
        let text = format!("{}; a command's end is not known", why.1);
        return Plan { outcome: Outcome::Indeterminate, error: Some(text), ..plan };
    }
    Plan { outcome: why.0, error: Some(why.1), ..plan }
}

/// Resolves when the job is cancelled or its deadline passes.
async fn asked_to_stop(
    engine: &Arc<Engine>,
    sequence: u64,
    deadline: Instant,
) -> (Outcome, String) {
    let mut due = engine.board.due();
    loop {
        let state = engine.board.state();
        if let Some(by) = state.jobs.get(&sequence).and_then(|job| job.cancel.clone()) {
            return (Outcome::Cancelled, format!("cancelled by {by}"));
        }
        tokio::select! {
            _ = due.changed() => {}
            () = tokio::time::sleep_until(deadline) => {
                return (Outcome::Timeout, "the job's deadline passed".to_owned());
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

/// Proposes the end; false if the plan was stale and has to be made again. An end that the log
/// does not take now is proposed again: it is the one thing that this job still needs.
async fn finish(engine: &Engine, job: &Job, plan: Plan, executed: Time) -> bool {
    let member = plan.member.clone();
    let finish = Finish {
        job: job.sequence,
        plan,
        executed: Some(executed),
        finished: engine.proposer.wall(),
    };
    loop {
        let body = Body::Finish(Box::new(finish.clone()));
        let answer = match &member {
            Some(change) => engine.proposer.propose_member(change, body).await,
            None => engine.proposer.propose(body).await,
        };
        match answer {
            Err(ProposeError::TooBusy) => tokio::time::sleep(FINISH_AGAIN).await,
            answer => return !matches!(answer, Ok(Answer::Stale)),
        }
    }
}
