//! The log writer: owns the raft log. It drains its queue, appends each group with one write and
//! one sync, and tells the raft thread how far it is. A group that cannot be made durable ends
//! this node's acknowledgements for good (blueprint section 5).

use super::raft::ToRaft;
use crate::disk::DataDisk;
use crate::metrics::Metrics;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use tiebeam_replica::Group;
use tiebeam_replica::log::Log;

/// Something for the log writer.
pub enum ToLog {
    /// Append this.
    Append(Group),
    /// Drop segments that hold nothing above this index.
    Compact(u64),
}

/// Appends until the raft thread has gone.
pub fn run(
    mut log: Log<DataDisk>,
    queue: &Receiver<ToLog>,
    raft: &Sender<ToRaft>,
    metrics: &Arc<Metrics>,
) {
    while let Ok(first) = queue.recv() {
        // Groups that queued up while the last one was synced are one write and one sync.
        let mut next = Some(first);
        while let Some(work) = next {
            match work {
                ToLog::Append(group) => {
                    let number = group.number;
                    if let Err(error) = log.append(&group) {
                        let why = crate::report::chain(&error);
                        tracing::error!(why, "the log cannot be written: nothing is acknowledged");
                        // The raft thread halts the node; what it says is the node's last word.
                        let _ = raft.send(ToRaft::PersistFailed);
                        return;
                    }
                    if raft.send(ToRaft::Persisted(number)).is_err() {
                        return;
                    }
                }
                ToLog::Compact(index) => {
                    if let Err(error) = log.compact_to(index) {
                        let why = crate::report::chain(&error);
                        tracing::warn!(why, "the log's prefix is kept");
                    }
                }
            }
            next = queue.try_recv().ok();
        }
        let counters = log.counters();
        metrics.log_syncs.store(counters.syncs, Ordering::Relaxed);
        metrics.log_groups.store(counters.groups, Ordering::Relaxed);
        // A spare segment is filled while nobody waits, so that going on in a new one is quick.
        if let Err(error) = log.prepare() {
            tracing::warn!(why = crate::report::chain(&error), "no spare segment");
        }
    }
}
