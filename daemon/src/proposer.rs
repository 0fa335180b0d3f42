//! The way into the raft log: propose a body and await the answer that apply gives it; or ask for
//! a read index.
//!
//! The answer comes from the log (ruling 1): once proposed, a proposal took effect exactly if its
//! index is applied here with its term. This module stamps the header with both clocks
//! (ruling 22); it decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tiebeam_core::effect::Answer;
use tiebeam_core::member::{MemberChange, Seat};
use tiebeam_core::proposal::{Body, Header, Proposal};
use tiebeam_proto::time::Time;
use tiebeam_proto::{ErrorCode, RpcError};
use tiebeam_replica::membership::Change;
use tokio::sync::oneshot;

/// Longest wait for the log's answer (ruling 1).
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node is not the master; nothing was proposed, or what was is known to be lost.
    #[error("this node is not the master")]
    NotMaster,
    /// The log takes nothing more for now.
    #[error("the log is full for now")]
    TooBusy,
    /// It was proposed, and whether it took effect is not known here.
    #[error("whether the call took effect is not known")]
    Unknown,
}

impl ProposeError {
    /// The error as the client sees it; `retry_safe` if the call had a request id.
    pub fn to_rpc(self, retry_safe: bool) -> RpcError {
        match self {
            ProposeError::NotMaster => {
                RpcError::new(ErrorCode::NoMaster, "there is no master to take this call")
            }
            ProposeError::TooBusy => {
                RpcError::new(ErrorCode::TooBusy, "too many calls are waiting for the log")
                    .hint("try again in a moment")
            }
            ProposeError::Unknown => RpcError {
                retryable: retry_safe,
                ..RpcError::new(ErrorCode::OutcomeUnknown, self.to_string())
                    .hint("look for the job with job_history before you call again")
            },
        }
    }
}

/// What became of a proposal.
pub type Answered = Result<Answer, ProposeError>;

/// A proposal on its way to the raft thread.
pub struct Proposed {
    /// The entry's bytes.
    pub payload: Vec<u8>,
    /// The same, so that this node need not decode it again.
    pub proposal: Arc<Proposal>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answered>,
    /// The change of membership whose context it is, if it is one (ruling 20).
    pub change: Option<Change>,
}

/// Raft's name of a change of membership.
pub fn raft_change(change: &MemberChange) -> Change {
    match change.seat() {
        (raft_id, Seat::Voter) => Change::AddVoter(raft_id),
        (raft_id, Seat::Learner) => Change::AddLearner(raft_id),
        (raft_id, Seat::Gone) => Change::Remove(raft_id),
    }
}

/// The last moment that cluster time has counted, in microseconds since the start.
///
/// An entry carries the time since its proposer's last one; time that another master's entries
/// have counted must not be counted again (ruling 22).
#[derive(Debug)]
pub struct Stamp {
    started: Instant,
    last_us: AtomicU64,
}

impl Default for Stamp {
    fn default() -> Stamp {
        Stamp { started: Instant::now(), last_us: AtomicU64::new(0) }
    }
}

impl Stamp {
    /// Everything up to now is counted; how much of it was not before.
    pub fn take_us(&self) -> u64 {
        let now_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let last = self.last_us.fetch_max(now_us, Ordering::Relaxed);
        now_us.saturating_sub(last)
    }
}

/// What the rest of the daemon asks of the raft thread.
pub enum Request {
    /// Propose this.
    Propose(Box<Proposed>),
    /// Confirm leadership; the index up to which reads are then safe (ruling 25).
    Read(oneshot::Sender<Result<u64, ProposeError>>),
    /// Hand leadership to this member, or to the voter that is furthest.
    Transfer(Option<u64>),
    /// Take a snapshot now, so that the log before it may be dropped.
    Snapshot,
    /// Stop.
    Stop,
}

/// The raft thread's queue, seen from outside.
pub trait Inbox: Send + Sync {
    /// Puts a request into the queue; false if the thread has gone.
    fn put(&self, request: Request) -> bool;
}

/// Proposes and asks. Cheap to share.
pub struct Proposer {
    inbox: Box<dyn Inbox>,
    node: u32,
    stamp: Arc<Stamp>,
    in_flight: Arc<AtomicU64>,
}

/// One proposal under way; counted until this is dropped.
struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Proposer {
    /// A proposer for this node; `in_flight` counts what is under way, `stamp` what cluster time
    /// has counted.
    pub fn new(
        inbox: Box<dyn Inbox>,
        node: u32,
        in_flight: Arc<AtomicU64>,
        stamp: Arc<Stamp>,
    ) -> Proposer {
        Proposer { inbox, node, stamp, in_flight }
    }

    fn header(&self) -> Header {
        Header { wall: self.wall(), elapsed_us: self.stamp.take_us(), proposer: self.node }
    }

    /// The wall clock, for display.
    pub fn wall(&self) -> Time {
        wall_now()
    }

    /// Proposes `body` and awaits what apply answers.
    pub async fn propose(&self, body: Body) -> Answered {
        self.propose_as(body, None).await
    }

    /// Proposes a change of membership with `body` as its context (ruling 20).
    pub async fn propose_member(&self, change: &MemberChange, body: Body) -> Answered {
        self.propose_as(body, Some(raft_change(change))).await
    }

    async fn propose_as(&self, body: Body, change: Option<Change>) -> Answered {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _counted = InFlight(&self.in_flight);
        let proposal = Arc::new(Proposal { header: self.header(), body });
        let (reply, answer) = oneshot::channel();
        let payload = proposal.encode();
        let proposed = Proposed { payload, proposal, reply, change };
        if !self.inbox.put(Request::Propose(Box::new(proposed))) {
            return Err(ProposeError::NotMaster);
        }
        match tokio::time::timeout(ANSWER_WAIT, answer).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// A read index: what is applied up to it may be read as the newest.
    pub async fn read_index(&self) -> Result<u64, ProposeError> {
        let (reply, answer) = oneshot::channel();
        if !self.inbox.put(Request::Read(reply)) {
            return Err(ProposeError::NotMaster);
        }
        match tokio::time::timeout(ANSWER_WAIT, answer).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => Err(ProposeError::NotMaster),
        }
    }

    /// Asks for a snapshot now; one that is being taken will do.
    pub fn take_snapshot(&self) {
        self.inbox.put(Request::Snapshot);
    }

    /// Hands leadership to this member, or to the voter that is furthest.
    pub fn transfer(&self, to: Option<u64>) {
        self.inbox.put(Request::Transfer(to));
    }

    /// Asks the raft thread to stop.
    pub fn stop(&self) {
        self.inbox.put(Request::Stop);
    }
}

/// The machine's wall clock.
pub fn wall_now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Time(since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX)))
}
