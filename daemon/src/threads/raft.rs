//! The raft thread: owns the replica's node and does no I/O. It drains its queue, asks the node
//! once what is to be done, and hands that to the log writer, to apply and to the other members.

#[cfg(test)]
mod tests;

use super::log_writer::ToLog;
use super::memory::Memory;
use super::{Batch, ToApply, Waiter, stop_the_node};
use crate::engine::Role;
use crate::metrics::Metrics;
use crate::proposer::{ProposeError, Proposed, Request};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};
use tiebeam_core::State;
use tiebeam_replica::membership::Membership;
use tiebeam_replica::node::{self as replica, Envelope, Input, Node, Output};
use tiebeam_replica::prefix::{Held, Place, Prefix};
use tiebeam_replica::{Group, Mark};
use tokio::sync::{oneshot, watch};

/// Requests that are drained into one group.
const DRAINED_MAX: usize = 4_096;
/// A member that has not fetched its snapshot by then is offered it again.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);

/// Something for the raft thread.
pub enum ToRaft {
    /// A proposal or read of this node.
    Request(Request),
    /// The log has this group.
    Persisted(u64),
    /// The log takes nothing any more.
    PersistFailed,
    /// State has applied up to here.
    Applied(u64),
    /// State decided on the change of membership at this index; before the `Applied` of it.
    ConfApplied {
        /// Its index.
        index: u64,
        /// Whether State took it.
        accepted: bool,
    },
    /// There is a snapshot.
    Snapshotted {
        /// Its position.
        mark: Mark,
        /// The members there.
        membership: Membership,
        /// The newest record of the history there.
        record: u64,
    },
    /// What the members have durably in their histories, by raft id (ruling 16).
    Held(BTreeMap<u64, Held>),
    /// A message of a member.
    Message {
        /// Its raft id.
        from: u64,
        /// The message.
        bytes: Bytes,
    },
    /// A member cannot be reached.
    Unreachable(u64),
    /// The snapshot that the leader offered is here and durable.
    Installed {
        /// Its position.
        mark: Mark,
        /// What it holds.
        state: Box<State>,
    },
    /// Whether this node may lead: one that lacks acknowledged history must not (ruling 16).
    Electable(bool),
    /// How much this node is wanted as leader, above what every node is.
    Priority(u32),
    /// Asks for the replica's view of itself.
    Status(oneshot::Sender<replica::Status>),
}

/// The way to the other members, as the raft thread uses it.
pub trait Outbox: Send + Sync {
    /// Hands a message over; never blocks. False if it is lost.
    fn send(&self, to: u64, message: Vec<u8>) -> bool;
    /// Asks for the snapshot at `mark` to be fetched; [`ToRaft::Installed`] follows.
    fn fetch_snapshot(&self, mark: Mark);
}

/// What the raft thread is made with beside its queues.
pub struct Knobs {
    /// The tick.
    pub tick: Duration,
    /// Index before the first entry of the log.
    pub floor: u64,
    /// The snapshot that was there at the start.
    pub snapshot: Place,
    /// Whether this node is the only voter.
    pub alone: bool,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Owns the node.
pub struct RaftThread {
    node: Node,
    to_log: Sender<ToLog>,
    to_apply: SyncSender<ToApply>,
    role: watch::Sender<Role>,
    outbox: Arc<dyn Outbox>,
    tickets: u64,
    proposed: HashMap<u64, Proposed>,
    reads: HashMap<u64, oneshot::Sender<Result<u64, ProposeError>>>,
    /// By index and ticket: a node that led before may have had a later index then.
    waiters: BTreeMap<(u64, u64), Waiter>,
    memory: Memory,
    prefix: Prefix,
    metrics: Arc<Metrics>,
    /// The snapshot that is being fetched, and groups that wait for it.
    installing: Option<(Mark, Vec<Group>)>,
    /// Members that were offered a snapshot, and when.
    offered: BTreeMap<u64, Instant>,
}

impl RaftThread {
    /// A thread around `node`.
    pub fn new(
        node: Node,
        to_log: Sender<ToLog>,
        to_apply: SyncSender<ToApply>,
        role: watch::Sender<Role>,
        outbox: Arc<dyn Outbox>,
        knobs: Knobs,
    ) -> RaftThread {
        let own = node.status().id;
        RaftThread {
            node,
            to_log,
            to_apply,
            role,
            outbox,
            tickets: 0,
            proposed: HashMap::new(),
            reads: HashMap::new(),
            waiters: BTreeMap::new(),
            memory: Memory::new(knobs.snapshot.index, knobs.alone),
            prefix: Prefix::new(own, knobs.floor, knobs.snapshot),
            metrics: knobs.metrics,
            installing: None,
            offered: BTreeMap::new(),
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self, inbox: &Receiver<ToRaft>, tick: Duration) {
        let mut next_tick = Instant::now();
        loop {
            let now = Instant::now();
            let mut wait = next_tick.saturating_duration_since(now);
            if now >= next_tick {
                self.node.receive(Input::Tick);
                self.forget_offers(now);
                next_tick = now + tick;
                // What a tick asks for, heartbeats and votes, goes out now and not with whatever
                // comes next.
                wait = Duration::ZERO;
            }
            match inbox.recv_timeout(wait) {
                Ok(first) => {
                    if !self.drain(first, inbox) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for output in self.node.ready() {
                self.carry_out(output);
            }
        }
    }

    /// Takes everything that waits, so that it shares one group; false to stop.
    fn drain(&mut self, first: ToRaft, inbox: &Receiver<ToRaft>) -> bool {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(work) = next {
            if matches!(work, ToRaft::Request(Request::Stop)) {
                return false;
            }
            self.take(work);
            taken += 1;
            next = if taken < DRAINED_MAX { inbox.try_recv().ok() } else { None };
        }
        true
    }

    fn take(&mut self, work: ToRaft) {
        let input = match work {
            ToRaft::Request(Request::Propose(proposed)) => self.propose(*proposed),
            ToRaft::Request(Request::Read(reply)) => {
                self.tickets += 1;
                self.reads.insert(self.tickets, reply);
                Input::Read { ticket: self.tickets }
            }
            ToRaft::Request(Request::Transfer(to)) => Input::Transfer { to },
            ToRaft::Request(Request::Snapshot) => {
                let _ = self.to_apply.send(ToApply::Snapshot);
                return;
            }
            ToRaft::Request(Request::Stop) => return,
            ToRaft::Persisted(group) => Input::Persisted { group },
            ToRaft::PersistFailed => Input::PersistFailed,
            ToRaft::Applied(index) => return self.applied(index),
            ToRaft::ConfApplied { index, accepted } => Input::ConfApplied { index, accepted },
            ToRaft::Snapshotted { mark, membership, record } => {
                let manifest = Bytes::new();
                self.node.receive(Input::SnapshotTaken { mark, membership, manifest });
                self.prefix.snapshotted(Place { index: mark.index, record });
                return self.compact();
            }
            ToRaft::Held(held) => {
                self.prefix.told(held);
                return self.compact();
            }
            ToRaft::Message { from, bytes } => Input::Message { from, bytes },
            ToRaft::Unreachable(peer) => {
                if self.offered.remove(&peer).is_some() {
                    self.node.receive(Input::SnapshotSent { peer, delivered: false });
                }
                Input::Unreachable { peer }
            }
            ToRaft::Installed { mark, state } => return self.installed(mark, state),
            ToRaft::Electable(electable) => Input::Electable(electable),
            ToRaft::Priority(priority) => Input::Priority(priority),
            ToRaft::Status(reply) => {
                // Who asked may have gone.
                let _ = reply.send(self.node.status());
                return;
            }
        };
        self.node.receive(input);
    }

    fn propose(&mut self, mut proposed: Proposed) -> Input {
        self.tickets += 1;
        let ticket = self.tickets;
        let payload: Bytes = std::mem::take(&mut proposed.payload).into();
        let change = proposed.change;
        self.proposed.insert(ticket, proposed);
        match change {
            Some(change) => Input::ProposeConf { ticket, change, context: payload },
            None => Input::Propose { ticket, payload },
        }
    }

    fn applied(&mut self, index: u64) {
        self.node.receive(Input::Applied { index });
        if let Some(index) = self.memory.applied(index) {
            self.node.receive(Input::Compact { index });
        }
    }

    /// Drops what no snapshot and no history needs any more.
    fn compact(&mut self) {
        let voters = self.node.status().membership.voters;
        if let Some(Place { index, .. }) = self.prefix.drop_to(&voters) {
            self.node.receive(Input::Compact { index });
            // The log writer has gone only if the node stops.
            let _ = self.to_log.send(ToLog::Compact(index));
        }
        self.metrics.log_held_back.note(self.prefix.held_back());
    }

    /// A snapshot that nobody fetched in time is offered again.
    fn forget_offers(&mut self, now: Instant) {
        while let Some(peer) = self
            .offered
            .iter()
            .find(|(_, at)| now - **at > SNAPSHOT_PATIENCE)
            .map(|(peer, _)| *peer)
        {
            self.offered.remove(&peer);
            self.node.receive(Input::SnapshotSent { peer, delivered: false });
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Persist(group) => self.persist(group),
            Output::Send(messages) => self.send(&messages),
            Output::Proposed { ticket, mark } => {
                if let Some(Proposed { proposal, reply, .. }) = self.proposed.remove(&ticket) {
                    let waiter = Waiter { index: mark.index, term: mark.term, proposal, reply };
                    self.waiters.insert((mark.index, ticket), waiter);
                }
            }
            Output::Refused { ticket, reason } => self.refuse(ticket, reason),
            Output::Committed(entries) => {
                let last = entries.last().map_or(0, |entry| entry.index);
                self.memory.committed(&entries);
                let later = self.waiters.split_off(&(last + 1, 0));
                let waiters = std::mem::replace(&mut self.waiters, later);
                let waiters = waiters.into_values().collect();
                let _ = self.to_apply.send(ToApply::Batch(Batch { entries, waiters }));
            }
            Output::ReadReady { ticket, index } => {
                if let Some(reply) = self.reads.remove(&ticket) {
                    let _ = reply.send(Ok(index));
                }
            }
            Output::ReadFailed { ticket } => {
                if let Some(reply) = self.reads.remove(&ticket) {
                    let _ = reply.send(Err(ProposeError::NotMaster));
                }
            }
            Output::Role(report) => {
                let leads = report.role == replica::Role::Leader;
                self.role.send_replace(Role { leads, term: report.term, leader: report.leader });
            }
            Output::Halted(halt) => {
                let why = std::io::Error::other(format!("{halt:?}"));
                stop_the_node("the replica halted", &why);
            }
            Output::MembersChanged { membership, .. } => {
                self.memory.set_alone(membership.is_only_voter(self.node.status().id));
            }
            Output::InstallSnapshot { mark, .. } => {
                tracing::info!(index = mark.index, "this node is far behind: it gets a snapshot");
                self.installing = Some((mark, Vec::new()));
                self.outbox.fetch_snapshot(mark);
            }
            Output::SnapshotWanted { .. } => {
                let _ = self.to_apply.send(ToApply::Snapshot);
            }
        }
    }

    /// What is written waits while a snapshot is fetched: it is durable before the log begins anew
    /// behind it.
    fn persist(&mut self, group: Group) {
        match &mut self.installing {
            Some((_, held)) => held.push(group),
            None => {
                let _ = self.to_log.send(ToLog::Append(group));
            }
        }
    }

    fn installed(&mut self, mark: Mark, state: Box<State>) {
        if self.installing.as_ref().is_none_or(|(wanted, _)| *wanted != mark) {
            return;
        }
        // Whether these took effect is in the log that this node will never see (ruling 1).
        let later = self.waiters.split_off(&(mark.index + 1, 0));
        for waiter in std::mem::replace(&mut self.waiters, later).into_values() {
            let _ = waiter.reply.send(Err(ProposeError::Unknown));
        }
        self.prefix.installed(Place { index: mark.index, record: state.chain.index });
        let _ = self.to_apply.send(ToApply::Install(state));
        self.memory.installed(mark.index);
        let held = self.installing.take().map(|(_, held)| held);
        for group in held.into_iter().flatten() {
            self.persist(group);
        }
    }

    fn send(&mut self, messages: &[Envelope]) {
        for message in messages {
            let to = message.to();
            let sent = self.outbox.send(to, message.encode());
            // A message that is lost is sent again, but for the offer of a snapshot: raft waits
            // for what became of it.
            if message.snapshot().is_some() {
                match sent {
                    true => drop(self.offered.insert(to, Instant::now())),
                    false => {
                        self.node.receive(Input::SnapshotSent { peer: to, delivered: false });
                    }
                }
            }
        }
    }

    fn refuse(&mut self, ticket: u64, reason: replica::Refusal) {
        let error = match reason {
            replica::Refusal::TooBusy => ProposeError::TooBusy,
            _ => ProposeError::NotMaster,
        };
        if let Some(proposed) = self.proposed.remove(&ticket) {
            let _ = proposed.reply.send(Err(error));
        }
        if let Some(reply) = self.reads.remove(&ticket) {
            let _ = reply.send(Err(error));
        }
    }
}
