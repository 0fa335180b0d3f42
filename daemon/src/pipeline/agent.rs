//! The node's agent: drives [`tiebeam_executor::agent`] with this node's host, keys and channel to
//! the master. It decides nothing itself.

use crate::blobs::spread;
use crate::cluster::remote;
use crate::engine::Engine;
use crate::host::{Authority, CommandEnd, CommandSpec, CommandStart, Fence, HostError};
use crate::keys::KeyError;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiebeam_core::job::Command;
use tiebeam_core::proposal::Body;
use tiebeam_executor::agent::{Agent, Do, Saw, Tending};
use tiebeam_executor::faults::Sound;
use tiebeam_executor::run;
use tiebeam_jobs::CommandWish;

/// Pause between two looks whether this node has caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Longest wait for the cluster key that a command is sealed with.
const KEY_WAIT: Duration = Duration::from_secs(10);
/// How often the journal is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// The agent, shared with the tasks that tend commands.
type Shared = Arc<Mutex<Agent>>;

fn lock(agent: &Shared) -> MutexGuard<'_, Agent> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tends this node's commands until the node stops.
pub async fn tend(engine: Arc<Engine>) {
    let agent = Arc::new(Mutex::new(Agent::new(engine.identity.node_id, Sound)));
    let mut due = engine.board.follow_running();
    loop {
        let caught_up = engine.cluster.is_caught_up();
        let term = engine.role.borrow().term;
        for tending in lock(&agent).look(&engine.board.state(), caught_up, term) {
            tokio::spawn(tend_one(engine.clone(), agent.clone(), tending));
        }
        tokio::select! {
            _ = due.changed() => {}
            // Nobody tells that this node has caught up.
            () = tokio::time::sleep(LOOK_AGAIN), if !caught_up => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

async fn tend_one(engine: Arc<Engine>, agent: Shared, mut tending: Tending) {
    loop {
        let next = tending.next(&engine.board.state());
        if next == Do::Leave {
            break;
        }
        let saw = tokio::select! {
            saw = carry_out(&engine, &tending, next) => Some(saw),
            () = asked_to_stop(&engine, tending.name().0), if tending.is_under_way() => None,
            () = engine.stop.cancelled(), if tending.can_be_left() => return,
        };
        match saw {
            Some(saw) => tending.saw(saw),
            None => tending.stop(),
        }
    }
    lock(&agent).left(&tending);
    if engine.board.state().doubts.contains_key(&tending.name().0) {
        // The doubt came while the command was tended: it is to be looked at, too.
        engine.board.note_due();
    }
}

/// Does one step for a command and tells what came of it.
async fn carry_out(engine: &Engine, tending: &Tending, next: Do) -> Saw {
    let (id, (_, key)) = (tending.id(), tending.name());
    let failed = |error: HostError| Saw::Failed(error.chain());
    let warned = |what: &str, error: HostError| {
        tracing::warn!(job = id, key, error = %error.chain(), "cannot {what}");
        Saw::Failed(error.chain())
    };
    match next {
        Do::Ask => engine.host.status(id, key).await.map_or_else(failed, Saw::Where),
        Do::Start => match tending.command() {
            Some(command) => start(engine, id, command).await,
            None => Saw::Sealed,
        },
        Do::Wait => match engine.host.wait(id, key).await {
            Ok(end) => Saw::Ended(Box::new(held(engine, id, end).await)),
            Err(error) => failed(error),
        },
        Do::Fence(why) => {
            let fenced = engine.host.fence(id, key, tending.epoch(), &why).await;
            let never = |fence| Saw::Fenced(fence == Fence::Refused);
            fenced.map_or_else(|error| warned("fence", error), never)
        }
        Do::Stop => {
            let stopped = engine.host.stop(id, key).await;
            stopped.map_or_else(|error| warned("stop", error), |()| Saw::Done)
        }
        Do::Report(ended) => Saw::Told(remote::propose(engine, Body::CommandEnded(ended)).await),
        Do::Rest(us) => {
            tokio::time::sleep(Duration::from_micros(us)).await;
            Saw::Done
        }
        Do::Leave => Saw::Done,
    }
}

/// An output that the record cannot hold is on further members before the command counts as ended
/// (ruling 32).
async fn held(engine: &Engine, id: &str, end: CommandEnd) -> CommandEnd {
    let holders = match end.output_sha256.as_deref().filter(|_| end.blob) {
        Some(digest) => spread::hold(engine, id, digest).await,
        None => Vec::new(),
    };
    CommandEnd { holders, ..end }
}

async fn start(engine: &Engine, id: &str, command: &Command) -> Saw {
    wait_for_key(engine, command).await;
    let Some(start) = start_of(engine, id, command) else { return Saw::Sealed };
    match engine.host.start(start).await {
        Ok(()) | Err(HostError::Unknown { .. }) => Saw::Started,
        Err(error) => Saw::Unrun(error.chain()),
    }
}

/// A node that was away may have to fetch the cluster key first that the command is sealed with.
async fn wait_for_key(engine: &Engine, command: &Command) {
    let until = tokio::time::Instant::now() + KEY_WAIT;
    while let Err(KeyError::UnknownKey(_)) = engine.keys.cluster.open(&command.spec)
        && tokio::time::Instant::now() < until
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn start_of(engine: &Engine, id: &str, command: &Command) -> Option<CommandStart> {
    let opened = engine.keys.cluster.open(&command.spec).ok()?;
    let wish: CommandWish = serde_json::from_slice(opened.expose()).ok()?;
    let mut spec = CommandSpec::new(wish.argv.iter().map(String::as_str));
    spec.env = wish.env.clone();
    spec.cwd = wish.cwd.as_ref().map(PathBuf::from);
    spec.user = wish.user.clone();
    spec.stdin = zeroize::Zeroizing::new(wish.stdin.clone().into_bytes());
    spec.timeout_us = Some(wish.timeout_s.saturating_mul(1_000_000));
    let most = engine.settings.load().exec.output_bytes_max.0;
    spec.output_bytes_max = wish.output_bytes_max.map_or(most, |wanted| wanted.min(most));
    spec.secrets = wish
        .env
        .values()
        .filter(|value| value.len() >= 4)
        .map(|value| zeroize::Zeroizing::new(value.clone()))
        .collect();
    Some(CommandStart {
        job: id.to_owned(),
        key: command.key.clone(),
        epoch: command.epoch,
        digest: command.digest.clone(),
        authority: if wish.own { Authority::Declared } else { Authority::Caller },
        spec,
    })
}

/// Resolves when what a job has begun is to be stopped.
pub(super) async fn asked_to_stop(engine: &Engine, sequence: u64) {
    let mut due = engine.board.follow_running();
    loop {
        let (state, clock_us) = (engine.board.state(), engine.board.clock_us());
        if run::is_to_stop(&state, sequence, clock_us) {
            return;
        }
        let deadline_us = state.jobs.get(&sequence).map_or(0, |job| job.deadline_us);
        let left = Duration::from_micros(deadline_us.saturating_sub(clock_us));
        tokio::select! {
            _ = due.changed() => {}
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// Drops old journals of jobs that are archived, now and then; not those of jobs in doubt: an empty
/// journal would prove that the command never ran (ruling 11).
pub async fn sweep(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
        let sweeper = engine.clone();
        let swept = tokio::task::spawn_blocking(move || {
            let now_us = crate::proposer::wall_now().0;
            sweeper.host.sweep(now_us, |job| past(&sweeper, job))
        });
        if let Ok(Err(error)) = swept.await {
            tracing::warn!(error = %error.chain(), "cannot sweep the command journal");
        }
    }
}

/// When a job was archived, by its last stage's time, in microseconds; `None` if it was not, or if
/// the end of one of its commands is still in doubt.
fn past(engine: &Engine, job: &str) -> Option<i64> {
    if engine.board.state().doubts.values().any(|doubt| doubt.job == job) {
        return None;
    }
    let archived = engine.history.job(job).ok()??;
    let record: tiebeam_proto::record::JobRecord =
        serde_json::from_slice(&archived.canonical).ok()?;
    record.stages.committed.or(record.stages.finished).map(|time| time.0)
}
