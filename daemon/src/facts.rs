//! What this node can tell of itself, of revisions and of records: read-only answers for methods
//! and job functions.

use crate::cluster::keeper;
use crate::engine::Engine;
use crate::history::HistoryError;
use crate::metrics::HeldBack;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tiebeam_core::State;
use tiebeam_core::state::Chain;
use tiebeam_jobs::JobError;
use tiebeam_proto::chain::to_text as text_of;
use tiebeam_proto::outcome::UNFINISHED;
use tiebeam_proto::record::{Archived, JobRecord, TreeRecord};
use tiebeam_proto::{ErrorCode, RpcError, jobfile, time::Time};

/// How long the log may wait for the histories of a majority before it is called a problem.
const LOG_PATIENCE: Duration = Duration::from_secs(120);

fn record_of(archived: &Archived) -> Option<Arc<JobRecord>> {
    serde_json::from_slice(&archived.canonical).ok().map(Arc::new)
}

/// Records of jobs that made a revision and wait for their committed stamp, newest first.
fn uncommitted(state: &State) -> Vec<Arc<JobRecord>> {
    let jobs = state.uncommitted.iter().filter_map(|sequence| state.jobs.get(sequence));
    let mut records: Vec<_> = jobs.map(|job| job.record.clone()).collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.result.result_revision));
    records
}

/// Records of jobs that made a revision below `below`, newest first, at most `limit`.
///
/// # Errors
/// The history cannot be read.
pub fn revisions(
    engine: &Engine,
    below: Option<u64>,
    limit: usize,
) -> Result<Vec<Arc<JobRecord>>, HistoryError> {
    let state = engine.board.state();
    let below = below.unwrap_or(u64::MAX);
    let wanted = |record: &Arc<JobRecord>| record.result.result_revision < Some(below);
    let mut records: Vec<_> = uncommitted(&state).into_iter().filter(wanted).take(limit).collect();
    let lowest = records.last().and_then(|record| record.result.result_revision);
    let mut upto = Some(lowest.unwrap_or(below).saturating_sub(1));
    while let Some(from) = upto
        && records.len() < limit
    {
        let page = engine.history.revisions(from, None, None, limit - records.len())?;
        records.extend(page.records.iter().filter_map(|(_, archived)| record_of(archived)));
        upto = page.next;
    }
    records.dedup_by_key(|record| record.result.result_revision);
    Ok(records)
}

/// The record of the job that made a revision.
///
/// # Errors
/// The history cannot be read.
pub fn revision(engine: &Engine, revision: u64) -> Result<Option<Arc<JobRecord>>, HistoryError> {
    let live = uncommitted(&engine.board.state());
    if let Some(record) = live.into_iter().find(|r| r.result.result_revision == Some(revision)) {
        return Ok(Some(record));
    }
    Ok(engine.history.revision(revision)?.as_ref().and_then(record_of))
}

/// The configuration at a revision that has a full tree in the history (every
/// [`TREE_EVERY`](tiebeam_core::apply::retention::TREE_EVERY)).
///
/// # Errors
/// The history cannot be read.
pub fn full_tree(engine: &Engine, revision: u64) -> Result<Option<TreeRecord>, HistoryError> {
    engine.history.full_tree(revision)
}

/// What became known of a job after its record was final.
pub fn addenda(engine: &Engine, id: &str) -> Vec<Value> {
    let found = engine.history.addenda(id).unwrap_or_default();
    found.iter().filter_map(|archived| serde_json::from_slice(&archived.canonical).ok()).collect()
}

/// A job's file, rendered from the history, or from State while the job is live (ruling 17).
///
/// # Errors
/// The record cannot be written.
pub fn job_file(engine: &Engine, id: &str, record: &JobRecord) -> Result<String, RpcError> {
    let internal = || RpcError::new(ErrorCode::Internal, "the record cannot be written");
    if let Ok(Some(archived)) = engine.history.job(id) {
        let value = serde_json::from_slice(&archived.canonical).map_err(|_| internal())?;
        return Ok(jobfile::render(&value, &addenda(engine, id), Some(&archived.link)));
    }
    let mut value = serde_json::to_value(record).map_err(|_| internal())?;
    if record.outcome.is_none() {
        value["result"] = json!({"result_code": UNFINISHED});
    }
    Ok(jobfile::render(&value, &[], None))
}

/// When this machine booted, RFC 3339.
pub fn booted() -> Option<String> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    let seconds: i64 = seconds.trim().parse().ok()?;
    Some(Time(seconds.checked_mul(1_000_000)?).to_rfc3339())
}

/// What is known of a node that answers; of another one nothing beyond the configuration.
pub fn node(engine: &Engine, node: u32) -> Value {
    if node != engine.identity.node_id {
        return engine.members_facts.load().get(&node).cloned().unwrap_or_else(|| json!({}));
    }
    let state = engine.board.state();
    let (free, all) = engine.space.bytes();
    let (lag_records, lag_bytes) = engine.history_thread.lag();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<f64> = load.split(' ').take(3).filter_map(|text| text.parse().ok()).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "feature_level": state.feature_level,
        "applied_index": state.applied,
        "applied_revision": state.revision,
        "published_revision": engine.published.revision(),
        "uptime_s": engine.started.elapsed().as_secs(),
        "booted": booted(),
        "wall_us": crate::proposer::wall_now().0,
        "load": load,
        "disk": {"free_bytes": free, "bytes": all, "enough": engine.space.is_enough(),
                 "reserve_bytes": engine.space.reserve_bytes()},
        "history": {
            "oldest": engine.history.oldest(),
            "newest": engine.history.newest(),
            "whole_from": engine.history.whole_from(),
            "missing": engine.history.gap_records(),
            "durable": engine.history_thread.metrics().durable.load(Relaxed),
            "lag_records": lag_records,
            "lag_bytes": lag_bytes,
            "bytes": engine.history.bytes(),
            "bytes_max": engine.settings.load().history.bytes_max.0,
        },
        "job_files": {
            "lag_records": engine.job_files.lag.load(Relaxed),
            "skipped": engine.job_files.skipped.load(Relaxed),
        },
        "waiting_calls": engine.waiting.count(),
        "certificates": crate::certificates::facts(engine),
    })
}

/// What a node says that the others do not take for a member any more.
fn removed(engine: &Engine) -> Option<String> {
    let is_member = engine.board.state().members.contains_key(&engine.identity.node_id);
    let deniers = engine.cluster.peers().map(|peers| peers.deniers()).unwrap_or_default();
    let back = "`tiebeamd join` with an empty data folder and a new token brings it back";
    match (is_member, deniers.as_slice()) {
        (false, _) => Some(format!("this node was removed from the cluster: {back}")),
        (true, []) => None,
        (true, deniers) => Some(format!(
            "nodes {deniers:?} say that this node is no member: if it was removed, {back}"
        )),
    }
}

/// The health of the cluster as this node sees it.
pub fn health(engine: &Engine) -> Value {
    let mut problems = Vec::new();
    if engine.cluster.leader().is_none() {
        problems.push("no master is known here".to_owned());
        problems.extend(removed(engine));
    }
    if engine.space.is_spent() {
        problems.push("the disk is full: the reserve is given back, only volatile reads go".into());
    } else if !engine.space.is_enough() {
        problems.push("the disk is nearly full: new jobs that change something are refused".into());
    }
    if engine.history_thread.metrics().index_out_of_use.load(Relaxed) {
        problems.push("the hot index is out of use: the newest jobs are not found here".into());
    }
    problems.extend(log_held_back(&engine.metrics.log_held_back));
    let state = engine.board.state();
    if keeper::is_only_voter(&state, engine.identity.node_id) {
        let gaps = engine.history.gaps(state.chain.floor_index.max(1));
        let text = |(from, to): (u64, u64)| format!("history: {}", missing(from, to, true));
        problems.extend(gaps.into_iter().map(text));
    }
    let holders = state.locks_in_doubt().count();
    if holders > 0 {
        problems.push(format!("{holders} jobs hold locks in doubt: see lock_list"));
    }
    problems.extend(crate::retention::warning(engine));
    problems.extend(crate::certificates::warnings(engine));
    problems.extend(engine.cluster.clocks.warnings(&state));
    json!({"ok": problems.is_empty(), "problems": problems})
}

/// Says that the log does not get shorter, when that has lasted.
fn log_held_back(held_back: &HeldBack) -> Option<String> {
    let waited = held_back.waited().filter(|waited| *waited >= LOG_PATIENCE)?;
    let (entries, seconds) = (held_back.entries(), waited.as_secs());
    Some(format!(
        "the log keeps {entries} entries, for {seconds} s already: no majority of voters has their \
         records in its history"
    ))
}

/// What is said of records of a gap. Other members have what a snapshot of theirs left out here;
/// what the only voter lacks nobody is known to have.
pub fn missing(from: u64, to: u64, only_voter: bool) -> String {
    match only_voter {
        true => format!("records {from} to {to} are missing, and there is no other voter to ask"),
        false => format!(
            "records {from} to {to} are not here: this node went on behind a snapshot and fetches \
             them from other members"
        ),
    }
}

/// Verifies the kept history: every block, every link, and that it ends where State says.
///
/// # Errors
/// The history cannot be read at all.
pub fn verify_history(engine: &Engine) -> Result<Value, JobError> {
    let chain = engine.board.state().chain;
    let mut report = engine.history.verify().map_err(|error| {
        tracing::error!(error = %crate::report::chain(&error), "cannot verify the history");
        JobError::failed("the history cannot be read; the daemon's log has the reason")
    })?;
    report.require(chain.floor_index, report.to);
    // State once more: it may have let go of reads while they were read.
    let reads_below = engine.board.state().chain.reads_below;
    report.require_reads(engine.history.folder(), reads_below);
    let mut problems: Vec<Value> = report
        .problems
        .iter()
        .map(|problem| json!({"file": problem.path.display().to_string(), "what": problem.what}))
        .collect();
    let begins = begins_as_cut(engine, &chain);
    if !begins {
        let what = format!("record {} does not follow what was cut", chain.floor_index);
        problems.push(json!({"file": engine.history.folder().display().to_string(), "what": what}));
    }
    let alone = keeper::is_only_voter(&engine.board.state(), engine.identity.node_id);
    let gap = |(from, to): &(u64, u64)| missing(*from, *to, alone);
    Ok(json!({
        "ok": report.problem_count == 0 && (report.gaps.is_empty() || !alone) && begins,
        "complete": report.gaps.is_empty(),
        "missing": report.gaps.iter().map(gap).collect::<Vec<_>>(),
        "floor": chain.floor_index,
        "records": report.records,
        "pruned": report.pruned,
        "reads_below": reads_below,
        "from": report.from,
        "to": report.to,
        "head": report.head,
        "segments": report.segments,
        "gaps": report.gaps,
        "problems": problems,
        "chain_index": chain.index,
    }))
}

/// Whether the record at the floor follows the hash that the cut left in State.
fn begins_as_cut(engine: &Engine, chain: &Chain) -> bool {
    let begins = |record: Archived| record.link.previous == text_of(&chain.floor_previous);
    chain.floor_index <= 1
        || engine.history.record(chain.floor_index).is_ok_and(|found| found.is_none_or(begins))
}
