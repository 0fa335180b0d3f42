//! The log writer: owns the raft log. It appends each group with one write and one sync, and tells
//! the raft thread how far it is. A group that cannot be made durable ends this node's
//! acknowledgements for good (blueprint section 5).

use super::raft::ToRaft;
use crate::disk::DataDisk;
use crate::metrics::Metrics;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;
use tiebeam_replica::Group;
use tiebeam_replica::log::Log;

/// Something for the log writer.
pub enum ToLog {
    /// Append this.
    Append(Group),
    /// Drop segments that hold nothing above this index.
    Compact(u64),
}

/// Quiet time after which a spare segment is worked on: longer than the pause between two calls
/// of a single client, so that no call waits for it.
const QUIET: Duration = Duration::from_millis(20);

/// Entries of one write: a bound on its buffer.
const GATHERED_MAX: usize = 8_192;

/// Appends until the raft thread has gone.
pub fn run(
    mut log: Log<DataDisk>,
    queue: &Receiver<ToLog>,
    raft: &Sender<ToRaft>,
    metrics: &Arc<Metrics>,
) {
    let mut more_to_prepare = true;
    loop {
        let work = if more_to_prepare {
            match queue.recv_timeout(QUIET) {
                Ok(work) => work,
                Err(RecvTimeoutError::Timeout) => {
                    let room = !metrics.short_of_room.load(Ordering::Relaxed);
                    more_to_prepare = room && prepare(&mut log);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            match queue.recv() {
                Ok(work) => work,
                Err(_) => return,
            }
        };
        more_to_prepare = true;
        let mut next = Some(work);
        while let Some(work) = next {
            let (work, left) = gather(work, queue);
            if !carry_out(&mut log, work, raft) {
                return;
            }
            next = left;
        }
        let counters = log.counters();
        metrics.log_syncs.store(counters.syncs, Ordering::Relaxed);
        metrics.log_groups.store(counters.groups, Ordering::Relaxed);
    }
}

/// Groups that queued up while the last one was synced become one: one write, one sync. What does
/// not follow on is left for the next turn.
fn gather(first: ToLog, queue: &Receiver<ToLog>) -> (ToLog, Option<ToLog>) {
    let ToLog::Append(mut group) = first else { return (first, None) };
    while group.entries.len() < GATHERED_MAX {
        match queue.try_recv() {
            Ok(ToLog::Append(next)) if follows(&group, &next) => {
                group.number = next.number;
                group.hard_state = next.hard_state.or(group.hard_state);
                group.must_sync |= next.must_sync;
                group.entries.extend(next.entries);
            }
            Ok(other) => return (ToLog::Append(group), Some(other)),
            Err(_) => break,
        }
    }
    (ToLog::Append(group), None)
}

/// Whether `next` only adds to `group`.
fn follows(group: &Group, next: &Group) -> bool {
    let first = next.entries.first().map(|entry| entry.index);
    let last = group.entries.last().map(|entry| entry.index + 1);
    next.reset.is_none() && (first.is_none() || last.is_none() || first == last)
}

/// One step towards a spare segment, so that going on in a new one is quick; whether there is more
/// to do.
fn prepare(log: &mut Log<DataDisk>) -> bool {
    match log.prepare() {
        Ok(more) => more,
        Err(error) => {
            tracing::warn!(why = crate::report::chain(&error), "no spare segment");
            false
        }
    }
}

/// False if nothing more can be done.
fn carry_out(log: &mut Log<DataDisk>, work: ToLog, raft: &Sender<ToRaft>) -> bool {
    match work {
        ToLog::Append(group) => match log.append(&group) {
            Ok(()) => raft.send(ToRaft::Persisted(group.number)).is_ok(),
            Err(error) => {
                let why = crate::report::chain(&error);
                tracing::error!(why, "the log cannot be written: nothing is acknowledged");
                // The raft thread halts the node; what it says is the node's last word.
                let _ = raft.send(ToRaft::PersistFailed);
                false
            }
        },
        ToLog::Compact(index) => {
            if let Err(error) = log.compact_to(index) {
                let why = crate::report::chain(&error);
                tracing::warn!(why, "the log's prefix is kept");
            }
            true
        }
    }
}
