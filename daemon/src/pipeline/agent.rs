//! The node's agent: runs the commands that State says are this node's (ruling 9).
//!
//! It looks at State as this node has applied it, once that has caught up with what was committed
//! at the start; starts what is open and unknown here, attaches to what runs, and reports each end.
//! Which master asked does not matter to it.

use crate::cluster::remote;
use crate::engine::Engine;
use crate::host::{
    Authority, CommandEnd, CommandResult, CommandSpec, CommandStart, CommandState, HostError,
};
use crate::keys::KeyError;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tiebeam_core::job::Command;
use tiebeam_core::proposal::{Body, CommandEnded};
use tiebeam_jobs::CommandWish;
use tiebeam_proto::record::CommandRecord;
use tiebeam_proto::time::Time;

/// How long a report waits before it is tried again while there is no master.
const REPORT_AGAIN: Duration = Duration::from_millis(500);
/// Pause between two looks whether this node has caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Longest wait for the cluster key that a command is sealed with.
const KEY_WAIT: Duration = Duration::from_secs(10);
/// How often the journal is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Commands that this process looks after, by job and key.
type Tended = Arc<Mutex<BTreeSet<(u64, String)>>>;

/// Tends this node's commands until the node stops.
pub async fn tend(engine: Arc<Engine>) {
    // A State of the past has commands open that were given up while this node was away.
    while !engine.cluster.is_caught_up() {
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = engine.stop.cancelled() => return,
        }
    }
    let tended = Tended::default();
    let mut due = engine.board.due();
    loop {
        look(&engine, &tended);
        tokio::select! {
            _ = due.changed() => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

fn look(engine: &Arc<Engine>, tended: &Tended) {
    let state = engine.board.state();
    let own = engine.identity.node_id;
    for sequence in &state.running {
        let Some(job) = state.jobs.get(sequence) else { continue };
        for command in job.open_commands().filter(|command| command.node == own) {
            let key = (*sequence, command.key.clone());
            if take(tended, &key) {
                let (engine, tended) = (engine.clone(), tended.clone());
                let (id, command) = (job.record.job.clone(), command.clone());
                tokio::spawn(async move {
                    tend_one(&engine, key.0, &id, &command).await;
                    tended.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                });
            }
        }
    }
    for (sequence, doubt) in state.doubts.iter().filter(|(_, doubt)| !doubt.gone.contains(&own)) {
        for (name, _) in doubt.commands.iter().filter(|(_, node)| *node == own) {
            let key = (*sequence, name.clone());
            if take(tended, &key) {
                let (engine, id) = (engine.clone(), doubt.job.clone());
                // It stays among the tended: what cannot be known now will not be known later.
                tokio::spawn(async move { tend_doubt(&engine, key.0, &id, &key.1).await });
            }
        }
    }
}

/// Whether nobody looked after the command until now.
fn take(tended: &Tended, key: &(u64, String)) -> bool {
    tended.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone())
}

async fn tend_one(engine: &Arc<Engine>, sequence: u64, id: &str, command: &Command) {
    let end = tokio::select! {
        end = run(engine, id, command) => end,
        () = asked_to_stop(engine, sequence) => stop(engine, id, &command.key, command.epoch).await,
    };
    report(engine, sequence, &command.key, &end).await;
}

/// A command whose job has ended without knowing of it (ruling 11): it is stopped, and its end
/// lets go of the job's locks.
async fn tend_doubt(engine: &Arc<Engine>, sequence: u64, id: &str, key: &str) {
    let epoch = engine.role.borrow().term;
    let end = stop(engine, id, key, epoch).await;
    report(engine, sequence, key, &end).await;
}

/// Tells the cluster how the command ended, as often as it takes.
async fn report(engine: &Engine, sequence: u64, key: &str, end: &CommandEnd) {
    let record = record_of(engine, key, end);
    loop {
        let in_doubt = engine.board.state().doubts.contains_key(&sequence);
        if in_doubt && end.result == CommandResult::Indeterminate {
            // Only an end that is known ends a doubt.
            return;
        }
        let ended = CommandEnded { job: sequence, key: key.to_owned(), record: record.clone() };
        if remote::propose(engine, Body::CommandEnded(Box::new(ended))).await {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(REPORT_AGAIN) => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

/// Starts the command, or attaches to it, and waits for its end.
async fn run(engine: &Arc<Engine>, id: &str, command: &Command) -> CommandEnd {
    match engine.host.status(id, &command.key).await {
        Ok(CommandState::NotStarted) => {
            wait_for_key(engine, command).await;
            let Some(start) = start_of(engine, id, command) else {
                let why = "the command cannot be opened with this node's keys".to_owned();
                return CommandEnd::without_run(CommandResult::Refused, why);
            };
            match engine.host.start(start).await {
                Ok(()) | Err(HostError::Unknown { .. }) => {}
                Err(error) => {
                    return CommandEnd::without_run(CommandResult::Failed, error.chain());
                }
            }
        }
        Ok(_) => {}
        Err(error) => {
            return CommandEnd::without_run(CommandResult::Indeterminate, error.chain());
        }
    }
    match engine.host.wait(id, &command.key).await {
        Ok(end) => end,
        Err(error) => CommandEnd::without_run(CommandResult::Indeterminate, error.chain()),
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

/// Resolves when the job of a command is cancelled, or past its deadline.
pub(super) async fn asked_to_stop(engine: &Arc<Engine>, sequence: u64) {
    let mut due = engine.board.due();
    loop {
        let state = engine.board.state();
        let Some(job) = state.jobs.get(&sequence) else { return };
        if job.cancel.is_some() {
            return;
        }
        let left = job.deadline_us.saturating_sub(engine.board.clock_us());
        tokio::select! {
            _ = due.changed() => {}
            () = tokio::time::sleep(Duration::from_micros(left)) => return,
        }
    }
}

async fn stop(engine: &Engine, id: &str, key: &str, epoch: u64) -> CommandEnd {
    if let Err(error) = engine.host.fence(id, key, epoch, "the job was stopped").await {
        tracing::warn!(job = id, key, error = %error.chain(), "cannot fence");
    }
    if let Err(error) = engine.host.stop(id, key).await {
        tracing::warn!(job = id, key, error = %error.chain(), "cannot stop");
    }
    match engine.host.wait(id, key).await {
        Ok(end) => end,
        Err(error) => CommandEnd::without_run(CommandResult::Indeterminate, error.chain()),
    }
}

fn record_of(engine: &Engine, key: &str, end: &CommandEnd) -> CommandRecord {
    let time = |us: i64| (us != 0).then_some(Time(us));
    CommandRecord {
        name: key.to_owned(),
        node: engine.identity.node_id,
        started: time(end.started_us),
        ended: time(end.ended_us),
        result: end.result.name().to_owned(),
        output: end.output.clone(),
        output_bytes: end.output_bytes,
        output_sha256: end.output_sha256.clone(),
        truncated: end.truncated,
        status: end.status.or(end.signal.map(|signal| -signal)),
        clock_offset_us: None,
        evidence: end.evidence.clone(),
    }
}

/// Drops old journals of jobs that are archived, now and then.
pub async fn sweep(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
        let history = engine.history.clone();
        let host = engine.host.clone();
        let swept = tokio::task::spawn_blocking(move || {
            host.sweep(crate::proposer::wall_now().0, |job| archived_at(&history, job))
        });
        if let Ok(Err(error)) = swept.await {
            tracing::warn!(error = %error.chain(), "cannot sweep the command journal");
        }
    }
}

/// When a job was archived, by its last stage's time, in microseconds; `None` if it was not.
fn archived_at(history: &crate::history::History, job: &str) -> Option<i64> {
    let archived = history.job(job).ok()??;
    let record: tiebeam_proto::record::JobRecord =
        serde_json::from_slice(&archived.canonical).ok()?;
    record.stages.committed.or(record.stages.finished).map(|time| time.0)
}
