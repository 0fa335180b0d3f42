//! Counters of this node, and the text of `/metrics`.
//!
//! Labels are fixed words (method names, outcomes): nothing that a client sends becomes one.

use crate::engine::Engine;
use crate::progress::Progress;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tiebeam_core::state::Member;

/// A counter by how jobs ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// The outcome's word.
    pub outcome: &'static str,
}

/// Everything that is counted.
#[derive(Default)]
pub struct Metrics {
    /// Jobs archived on this node, by outcome.
    pub jobs: Family<OutcomeLabel, Counter>,
    /// Reads that left no record.
    pub volatile_reads: Counter,
    /// Plans made again because what they read had changed.
    pub replans: Counter,
    /// Edits of the published configuration by hand.
    pub hand_edits: Counter,
    /// Syncs of the raft log, told by the log writer.
    pub log_syncs: AtomicU64,
    /// Groups written to the raft log.
    pub log_groups: AtomicU64,
    /// What of the log waits for histories.
    pub log_held_back: HeldBack,
    /// Whether room on the disk is short: then no spare segment of the log is filled.
    pub short_of_room: AtomicBool,
    /// Outputs here that have too few copies and could not be given more.
    pub blobs_short: AtomicU64,
    /// Snapshots taken.
    pub snapshots: Counter,
    /// How far running jobs are.
    pub progress: Progress,
}

/// What of the log could go, if only a majority had its records in their histories (ruling 16).
#[derive(Default)]
pub struct HeldBack {
    entries: AtomicU64,
    since: Mutex<Option<Instant>>,
}

impl HeldBack {
    /// Notes how many entries wait now.
    pub fn note(&self, entries: u64) {
        self.entries.store(entries, Ordering::Relaxed);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = (entries > 0).then(|| since.unwrap_or_else(Instant::now));
    }

    /// How many entries wait.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// For how long entries have been waiting.
    pub fn waited(&self) -> Option<Duration> {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed())
    }
}

/// The Prometheus text of a node.
pub fn text(engine: &Engine) -> String {
    let mut registry = Registry::with_prefix("tiebeam");
    let metrics = &engine.metrics;
    registry.register("jobs", "Jobs archived, by outcome", metrics.jobs.clone());
    let counters = [
        ("volatile_reads", "Reads that left no record", &metrics.volatile_reads),
        ("replans", "Plans made again because a read had changed", &metrics.replans),
        ("hand_edits", "Edits of the published configuration by hand", &metrics.hand_edits),
        ("snapshots", "Snapshots taken", &metrics.snapshots),
    ];
    for (name, help, counter) in counters {
        registry.register(name, help, counter.clone());
    }
    for (name, help, value) in counted_elsewhere(engine) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    for (name, help, value) in gauges(engine).into_iter().chain(certificate_ends(engine)) {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(_) => String::new(),
    }
}

/// What other threads count in plain numbers.
fn counted_elsewhere(engine: &Engine) -> Vec<(&'static str, &'static str, u64)> {
    let metrics = &engine.metrics;
    let mut counted = vec![
        ("log_syncs", "Syncs of the raft log", metrics.log_syncs.load(Ordering::Relaxed)),
        ("log_groups", "Groups written to it", metrics.log_groups.load(Ordering::Relaxed)),
    ];
    if let Some(peers) = engine.cluster.peers() {
        let peers = peers.counters();
        let of_peers = [
            ("peer_refused", "Connections of members refused", &peers.refused),
            ("peer_dates_wrong", "Certificates of members out of their time", &peers.dates_wrong),
            ("peer_streams", "Streams to members that were connected", &peers.streams_dialled),
            ("peer_frames_sent", "Frames written to members", &peers.frames_sent),
            ("peer_bytes_sent", "Their bytes, before TLS", &peers.bytes_sent),
            ("peer_frames_dropped", "Frames that found no way", &peers.frames_dropped),
            ("peer_frames_received", "Frames of members", &peers.frames_received),
            ("peer_bytes_received", "Their bytes", &peers.bytes_received),
        ];
        counted.extend(of_peers.map(|(name, help, n)| (name, help, n.load(Ordering::Relaxed))));
    }
    counted
}

/// When certificates end.
fn certificate_ends(engine: &Engine) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let named = |(name, end)| match name {
        "node" => ("certificate_node_end_seconds", "End of the node's certificate, Unix time", end),
        "clients" => ("certificate_clients_end_seconds", "End of the one that clients see", end),
        _ => ("certificate_authority_end_seconds", "End of the authority's certificate", end),
    };
    crate::renewal::ends(engine).into_iter().map(named)
}

fn gauges(engine: &Engine) -> Vec<(&'static str, &'static str, u64)> {
    let state = engine.board.state();
    let (free, all) = engine.space.bytes();
    let (history_records, _) = engine.history_thread.lag();
    let job_files_lag = engine.job_files.lag.load(Ordering::Relaxed);
    let skipped = engine.job_files.skipped.load(Ordering::Relaxed);
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let is_online = |member: &&Member| engine.cluster.is_online(member.raft_id);
    let online = count(state.members.values().filter(is_online).count());
    vec![
        ("applied_index", "Log index applied here", state.applied),
        ("term", "Newest raft term known here", engine.role.borrow().term),
        ("is_master", "Whether this node is the master", u64::from(engine.is_master())),
        ("members", "Members of the cluster", count(state.members.len())),
        ("members_online", "Members heard within an election timeout", online),
        ("feature_level", "Feature level of the cluster", u64::from(state.feature_level)),
        (
            "clock_suspect",
            "Whether this node's wall clock differs from the voters'",
            u64::from(engine.cluster.clocks.is_suspect(&state)),
        ),
        ("config_revision", "Revision of the configuration", state.revision),
        ("published_revision", "Revision of the published file", engine.published.revision()),
        ("live_jobs", "Jobs that are not archived", count(state.jobs.len())),
        ("waiting_jobs", "Jobs that wait for locks", count(state.waiting.len())),
        ("locks_in_doubt", "Jobs whose locks are in doubt", count(state.locks_in_doubt().count())),
        ("waiting_calls", "Calls that wait for a job", count(engine.waiting.count())),
        ("request_ids", "Idempotency keys kept", count(state.requests.len())),
        ("request_ids_dropped_early", "Keys dropped before 24 h", state.requests.dropped_early),
        ("chain_index", "Newest record of the history", state.chain.index),
        ("history_floor", "Oldest record that the cluster keeps", state.chain.floor_index),
        ("history_reads_from", "Oldest record of a read that is kept", state.chain.reads_below),
        (
            "log_held_back_entries",
            "Entries kept because no majority has their records in its history",
            engine.metrics.log_held_back.entries(),
        ),
        (
            "history_index_out_of_use",
            "Whether the hot index is out of use, for want of room, say",
            u64::from(engine.history_thread.metrics().index_out_of_use.load(Ordering::Relaxed)),
        ),
        ("history_bytes", "Bytes of the history on this node", engine.history.bytes()),
        ("history_bytes_max", "Bytes that it may use", engine.settings.load().history.bytes_max.0),
        ("history_lag_records", "Records not yet written", count(history_records)),
        (
            "history_gap_records",
            "Records not here and not fetched yet",
            engine.history.gap_records(),
        ),
        ("history_whole_from", "Oldest record without a gap above it", engine.history.whole_from()),
        (
            "blobs_short",
            "Outputs of commands with fewer copies than there should be",
            engine.metrics.blobs_short.load(Ordering::Relaxed),
        ),
        ("job_files_lag_records", "Records whose job file is not written", job_files_lag),
        ("job_files_skipped", "Job files left out because there were newer ones", skipped),
        ("disk_free_bytes", "Free bytes below the data folder", free),
        ("disk_reserve_bytes", "Bytes that the reserve file holds", engine.space.reserve_bytes()),
        ("disk_bytes", "All bytes below the data folder", all),
        ("uptime_seconds", "Seconds since the daemon started", engine.started.elapsed().as_secs()),
    ]
}
