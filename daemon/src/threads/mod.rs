//! The threads around the replica: `raft` owns the node and does no I/O, `log_writer` owns the
//! log, `apply` owns State, `snapshot` writes what apply hands it. Group commit comes from
//! draining queues at each stage, without timers.
//!
//! Side: these assert hard. A failure here is the node's failure: it says why and the process
//! ends, because a half-alive node is worse than none (blueprint section 5).

pub mod apply;
pub mod log_writer;
mod memory;
pub mod raft;
pub mod snapshot;
pub mod start;

use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::proposal::Proposal;
use tiebeam_replica::Entry;

use crate::proposer::Answered;
use tokio::sync::oneshot;

/// Somebody who proposed and waits for apply's answer.
pub struct Waiter {
    /// The index the proposal got.
    pub index: u64,
    /// Its term: another term at that index means that it is lost.
    pub term: u64,
    /// The proposal, so that it need not be decoded.
    pub proposal: Arc<Proposal>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answered>,
}

/// Committed entries on their way to State, with who waits for them, both in order of index.
pub struct Batch {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Who waits for one of them.
    pub waiters: Vec<Waiter>,
}

/// Something for the apply thread.
pub enum ToApply {
    /// Apply these.
    Batch(Batch),
    /// A snapshot takes State's place.
    Install(Box<State>),
    /// Somebody needs a snapshot now.
    Snapshot,
}

/// Ends the process because this node cannot go on. The reason is the last line of its log.
pub fn stop_the_node(what: &str, why: &dyn std::error::Error) -> ! {
    let why = crate::report::chain(why);
    tracing::error!(why, "{what}: this node stops");
    eprintln!("tiebeamd: {what}: {why}: this node stops");
    std::process::exit(70);
}
