//! What goes into a node and what comes out of it.
//!
//! Values only. A shell turns the outside into [`Input`]s and carries [`Output`]s out, in order.

use crate::entry::{Entry, Group, Mark};
use crate::membership::{Change, ChangeError, Membership};
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb;

/// Something that happened to a node.
#[derive(Debug, Clone)]
pub enum Input {
    /// The next tick of the shell's monotonic clock (100 ms in production).
    Tick,
    /// A message of a peer whose identity the shell has verified (ruling 27).
    Message {
        /// Raft id of the member that sent it.
        from: u64,
        /// What [`Envelope::encode`] gave there.
        bytes: Bytes,
    },
    /// Propose an entry. Answered by [`Output::Proposed`] or [`Output::Refused`].
    Propose {
        /// The shell's number for this call.
        ticket: u64,
        /// The entry's payload, not empty.
        payload: Bytes,
    },
    /// Propose a change of membership. Answered like [`Input::Propose`].
    ProposeConf {
        /// The shell's number for this call.
        ticket: u64,
        /// The change.
        change: Change,
        /// The member's record, applied together with the change (ruling 20).
        context: Bytes,
    },
    /// Ask for an index that makes a read linearizable. Answered by [`Output::ReadReady`] or
    /// [`Output::ReadFailed`], or refused.
    Read {
        /// The shell's number for this call.
        ticket: u64,
    },
    /// Group `group` and all before it are written, and synced if they had to be.
    Persisted {
        /// Number of the newest such group.
        group: u64,
    },
    /// A group could not be written or synced: the node stops for good.
    PersistFailed,
    /// All entries up to `index` are applied (or a snapshot at `index` is installed).
    Applied {
        /// The index.
        index: u64,
    },
    /// The entry of kind `Conf` at `index` was applied; to be sent before the `Applied` that
    /// covers it.
    ConfApplied {
        /// Index of the entry.
        index: u64,
        /// Whether the state took it. All nodes decide the same.
        accepted: bool,
    },
    /// A snapshot is durable on this node; members that are too far behind are sent it.
    SnapshotTaken {
        /// Position of its last applied entry.
        mark: Mark,
        /// The members there.
        membership: Membership,
        /// What travels in raft's message: enough for the receiver to fetch the chunks.
        manifest: Bytes,
    },
    /// Forget entries up to `index` in memory. Must not pass the oldest snapshot kept.
    Compact {
        /// The index.
        index: u64,
    },
    /// Hand leadership to `to`, or to the voter that is furthest.
    Transfer {
        /// Raft id of the next leader.
        to: Option<u64>,
    },
    /// A message to `peer` could not be sent.
    Unreachable {
        /// Raft id.
        peer: u64,
    },
    /// The snapshot that [`Envelope::snapshot`] announced was delivered or not. Without this call
    /// the peer gets no more entries.
    SnapshotSent {
        /// Raft id.
        peer: u64,
        /// Whether the peer has it.
        delivered: bool,
    },
    /// Whether this node may become leader. One that lacks acknowledged history must not
    /// (ruling 16).
    Electable(bool),
    /// How much this node is wanted as leader, above what every node is. It refuses its vote to a
    /// candidate that is wanted less and has no more entries than this node; so it wins wherever
    /// its vote is needed. While it is not electable it refuses nobody.
    Priority(u32),
}

/// Something that the shell is to do, in the order given.
#[derive(Debug, Clone)]
pub enum Output {
    /// Hand the group to the log writer, in order; then [`Input::Persisted`] or
    /// [`Input::PersistFailed`].
    Persist(Group),
    /// Send to a peer now. Messages that promise something are held back until it is persisted.
    Send(Vec<Envelope>),
    /// The proposal is in this leader's log at (index, term). Whether it takes effect is known
    /// when that index is applied: with this term it did, with another it never will (ruling 1).
    Proposed {
        /// The call.
        ticket: u64,
        /// Where the entry is.
        mark: Mark,
    },
    /// The call changed nothing and never will.
    Refused {
        /// The call.
        ticket: u64,
        /// Why.
        reason: Refusal,
    },
    /// Apply these entries, in order, each once. All are durable on this node.
    Committed(Vec<Entry>),
    /// The read may be answered once `index` is applied on this node.
    ReadReady {
        /// The call.
        ticket: u64,
        /// The index.
        index: u64,
    },
    /// No quorum confirmed the read in time.
    ReadFailed {
        /// The call.
        ticket: u64,
    },
    /// Role, term or leader changed.
    Role(RoleReport),
    /// Raft's members changed, at the index of the entry or snapshot that did it.
    MembersChanged {
        /// The index.
        index: u64,
        /// The members now.
        membership: Membership,
    },
    /// A leader sent a snapshot. Fetch what `manifest` names, make it durable, restore the state
    /// from it, then let the log writer have the [`Output::Persist`] with `group` that follows,
    /// then [`Input::Applied`]. On failure do none of this and restart the node.
    InstallSnapshot {
        /// The group that puts the snapshot in place of the log.
        group: u64,
        /// Its position.
        mark: Mark,
        /// The members there.
        membership: Membership,
        /// What the leader's [`Input::SnapshotTaken`] gave.
        manifest: Bytes,
    },
    /// `peer` needs a snapshot of at least `index` and there is none: take one.
    SnapshotWanted {
        /// Raft id.
        peer: u64,
        /// The index.
        index: u64,
    },
    /// The node has stopped for good: it sends, acknowledges and proposes nothing any more.
    Halted(Halt),
}

/// Why a call was refused. Nothing of it was proposed, so it may be sent elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another node leads, or none.
    NotLeader {
        /// Raft id of the leader, if known.
        leader: Option<u64>,
    },
    /// Too much is under way (bytes uncommitted, reads, or a change of membership).
    TooBusy,
    /// Leadership is being handed over.
    Transferring,
    /// The payload is empty or longer than an entry may be.
    InvalidPayload,
    /// The change of membership is not possible.
    InvalidChange(ChangeError),
    /// The leader does not remove or demote itself: transfer leadership first.
    IsLeader,
    /// The node has stopped.
    Halted,
}

/// Why a node stopped for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// The log could not be written.
    PersistFailed,
    /// A leader knows that this raft id had acknowledged `acknowledged`, and the log ends before.
    /// The node must come back under a new raft id.
    LogLost {
        /// Index that was acknowledged.
        acknowledged: u64,
        /// Last index in the log.
        last: u64,
    },
}

/// What a node is to its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader or waits for one (learners too).
    Follower,
    /// Asks for votes, or whether it would get them.
    Candidate,
    /// Leads.
    Leader,
}

/// Role, term and leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleReport {
    /// This node's role.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// Raft id of the leader of that term, if known.
    pub leader: Option<u64>,
}

/// A message to a peer.
#[derive(Debug, Clone)]
pub struct Envelope {
    pub(super) message: eraftpb::Message,
}

impl Envelope {
    /// Raft id of the receiver.
    pub fn to(&self) -> u64 {
        self.message.to
    }

    /// The index of the snapshot that this message offers, if it does: its chunks go by another
    /// way, and [`Input::SnapshotSent`] must follow.
    pub fn snapshot(&self) -> Option<u64> {
        (self.message.get_msg_type() == eraftpb::MessageType::MsgSnapshot)
            .then(|| self.message.get_snapshot().get_metadata().index)
    }

    /// Number of entries, for metrics.
    pub fn entries(&self) -> usize {
        self.message.get_entries().len()
    }

    /// The bytes for [`Input::Message`]. Done by the sender's thread, not by raft's.
    pub fn encode(&self) -> Vec<u8> {
        self.message.write_to_bytes().expect("a message of a proto3 type without required fields")
    }
}

/// A peer as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerReport {
    /// Raft id.
    pub id: u64,
    /// Index up to which it has acknowledged.
    pub matched: u64,
    /// Whether it was heard of in the last election timeout.
    pub recently_active: bool,
    /// Whether it is being sent a snapshot.
    pub in_snapshot: bool,
}

/// A node's view of itself, for metrics and status calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node's raft id.
    pub id: u64,
    /// Role, term, leader.
    pub role: RoleReport,
    /// The members.
    pub membership: Membership,
    /// Known to be committed.
    pub commit: u64,
    /// Reported as applied.
    pub applied: u64,
    /// Durable in this node's log.
    pub persisted: u64,
    /// Position before the first entry in memory.
    pub floor: Mark,
    /// Last entry.
    pub last: Mark,
    /// The peers; empty unless this node leads.
    pub peers: Vec<PeerReport>,
    /// Whether it has stopped for good.
    pub halted: Option<Halt>,
}
