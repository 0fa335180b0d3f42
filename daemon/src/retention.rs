//! Retention: how much of the history this node holds, the cut that keeps it within its bound, and
//! the pruning of records of reads.
//!
//! Which records are given up is decided once, by the master, from its own disk, and travels as an
//! entry (ruling 15): so all nodes have the same floor, and the job ids below it are unknown
//! everywhere. Which reads go is decided from State and cluster time. Every node only measures and
//! warns. It removes nothing itself: the history thread does, after a snapshot that says so is
//! durable.

use crate::engine::Engine;
use crate::report;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::Answer;
use tiebeam_core::proposal::{Body, Cut};
use tiebeam_proto::chain;

/// How often the history is measured. A segment of 64 MiB takes longer than that to fill.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Per cent of `history.bytes_max` from which on there is a warning (ruling 36).
const WARN_PERCENT: u64 = 80;

/// Measures, warns, and proposes cuts while this node is the master, until the node stops.
pub async fn watch(engine: Arc<Engine>) {
    let mut warned = false;
    loop {
        let (bytes, bytes_max) = (engine.history.bytes(), bytes_max(&engine));
        let nearly = is_nearly_full(bytes, bytes_max);
        if nearly && !warned {
            tracing::warn!(bytes, bytes_max, "the history is nearly as large as it may become");
        }
        warned = nearly;
        if engine.is_master() {
            cut(&engine, bytes_max).await;
            prune_reads(&engine).await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

/// The least that a bound of the whole cluster leaves of the history: a segment of it.
const LEAST_BYTES: u64 = 64 << 20;

/// This node's own bound, or the cluster's (`job_retention`), whichever is less.
fn bytes_max(engine: &Engine) -> u64 {
    let own = engine.settings.load().history.bytes_max.0;
    match tiebeam_core::settings::integer(&engine.board.state().config, "history", "bytes_max") {
        0 => own,
        of_all => own.min(of_all.max(LEAST_BYTES)),
    }
}

fn is_nearly_full(bytes: u64, bytes_max: u64) -> bool {
    bytes >= bytes_max / 100 * WARN_PERCENT
}

/// Proposes a higher floor if the history is over its bound.
async fn cut(engine: &Engine, bytes_max: u64) {
    let Some((floor_index, floor_previous)) = engine.history.floor_for(bytes_max) else { return };
    // What was cut already counts until its files are gone.
    if floor_index <= engine.board.state().chain.floor_index {
        return;
    }
    let cut = Cut { floor_index, floor_previous, reads_below: 0 };
    match engine.proposer.propose(Body::Cut(cut)).await {
        Ok(Answer::Done) => tracing::warn!(
            floor = floor_index,
            previous = chain::to_text(&floor_previous),
            bytes_max,
            "records below the floor are given up: the history was over history.bytes_max"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(error = %report::chain(&error), "the history was not cut"),
    }
}

/// Proposes to let go of records of reads that are too old or too many (ruling 36).
async fn prune_reads(engine: &Engine) {
    let Some(cut) = engine.board.state().reads_due(engine.board.clock_us()) else { return };
    let reads_below = cut.reads_below;
    match engine.proposer.propose(Body::Cut(cut)).await {
        Ok(Answer::Done) => tracing::debug!(reads_below, "records of reads are pruned"),
        Ok(_) => {}
        Err(error) => tracing::warn!(error = %report::chain(&error), "reads were not pruned"),
    }
}

/// What to tell the operator while there is time: from 80 % on, until the first records go. A
/// history that lives at its bound does what the settings ask for, and is no problem.
pub fn warning(engine: &Engine) -> Option<String> {
    let (bytes, bytes_max) = (engine.history.bytes(), bytes_max(engine));
    let uncut = engine.board.state().chain.floor_index <= 1;
    (uncut && is_nearly_full(bytes, bytes_max)).then(|| {
        format!(
            "the history has {bytes} of {bytes_max} bytes: the oldest records are given up when \
             it reaches history.bytes_max"
        )
    })
}
