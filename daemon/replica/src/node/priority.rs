//! Who is wanted as leader: this node's own part in it, and how it votes for that.
//!
//! Raft refuses a vote to a candidate of a lower priority that has no more entries than the voter.
//! A node that may not lead refuses nobody for it, or there might be no leader at all; and a member
//! that the leader itself chose is measured against nobody's wish. Nor is one whose log ends in a
//! later term: raft compares the numbers of entries alone there, and a voter that kept some that
//! nobody else has would refuse the only candidate that can win.

use super::Node;
use raft::eraftpb::{Message, MessageType};

impl Node {
    pub(super) fn set_electable(&mut self, electable: bool) {
        self.electable = electable;
        self.tell_priority();
    }

    pub(super) fn set_priority(&mut self, priority: u32) {
        self.priority = priority;
        self.tell_priority();
    }

    fn tell_priority(&mut self) {
        let priority = if self.electable { self.priority } else { 0 };
        self.raw.raft.set_priority(i64::from(priority));
    }

    /// Hands a message to raft.
    pub(super) fn step_raft(&mut self, message: Message) -> raft::Result<()> {
        let kind = message.get_msg_type();
        let asks = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        let is_chosen = *message.context == *raft::CAMPAIGN_TRANSFER;
        if asks && (is_chosen || message.log_term > self.raw.raft.raft_log.last_term()) {
            self.raw.raft.set_priority(0);
        }
        let stepped = self.raw.step(message);
        self.tell_priority();
        stepped
    }
}
