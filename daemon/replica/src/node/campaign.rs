//! When this node campaigns: after raft's time, at once if it is alone, and never between a
//! leader's snapshot and its install.

use super::Node;
use raft::StateRole;

impl Node {
    /// Lets raft's time pass, with the election timeout of this node's own source: raft draws one
    /// of a thread's, which no simulation could repeat. Each election gets another one; with the
    /// same ones, two nodes that once campaigned together would do so for ever.
    pub(super) fn tick_raft(&mut self) {
        let ticks = self.settings.ticks_to_election(self.elections);
        self.raw.raft.set_randomized_election_timeout(ticks);
        if self.is_installing() {
            self.raw.raft.election_elapsed = 0;
        }
        self.raw.tick();
        let raft = &self.raw.raft;
        let campaigns = matches!(raft.state, StateRole::Candidate | StateRole::PreCandidate);
        self.elections += u64::from(campaigns && raft.election_elapsed == 0);
    }

    /// Whether a leader's snapshot took the place of the log and is not applied yet. Who campaigns
    /// then has raft look for unapplied changes of members in entries that are gone: it panics.
    pub(super) fn is_installing(&self) -> bool {
        self.raw.raft.raft_log.applied < self.installed
    }

    /// Campaigns at once if nobody else could win and all of the log is persisted. Raft refuses
    /// while a committed change of membership is not applied; the call is repeated then.
    pub(super) fn lead_if_alone(&mut self) {
        let log = &self.raw.raft.raft_log;
        if self.membership.is_only_voter(self.settings.raft_id)
            && self.raw.raft.state == StateRole::Follower
            && self.electable
            && !self.is_installing()
            && log.persisted == log.last_index()
        {
            self.raw.campaign().expect("raft takes its own call");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::membership::Membership;
    use crate::node::bus::{settings, start};
    use crate::node::{Envelope, Input, Node, Output, Role};
    use bytes::Bytes;
    use raft::eraftpb::{self, MessageType};

    #[test]
    fn nobody_campaigns_between_a_snapshot_and_its_install() {
        let members = Membership::of_voters([1, 2, 3]);
        let mut node = Node::new(settings(3), start(members.clone())).unwrap();
        let message = |kind| {
            let mut message = eraftpb::Message::default();
            message.set_msg_type(kind);
            (message.from, message.to, message.term) = (1, 3, 2);
            message
        };
        let mut offer = message(MessageType::MsgSnapshot);
        let meta = offer.mut_snapshot().mut_metadata();
        (meta.index, meta.term) = (100, 1);
        meta.set_conf_state(members.conf_state());
        offer.mut_snapshot().data = Bytes::from_static(b"chunks");
        let hear = |node: &mut Node, message| {
            let bytes = Envelope { message }.encode().into();
            node.step(Input::Message { from: 1, bytes })
        };
        let outputs = hear(&mut node, offer);
        assert!(outputs.iter().any(|one| matches!(one, Output::InstallSnapshot { .. })));
        let asks = |node: &mut Node| {
            let mut outputs: Vec<Output> = (0..100).flat_map(|_| node.step(Input::Tick)).collect();
            outputs.extend(hear(node, message(MessageType::MsgTimeoutNow)));
            outputs
                .iter()
                .any(|one| matches!(one, Output::Role(role) if role.role == Role::Candidate))
        };
        assert!(!asks(&mut node), "it is not written");
        let written = node.step(Input::Persisted { group: 1 });
        assert!(written.iter().any(|one| matches!(one, Output::Send(_))), "it is acknowledged");
        assert!(!asks(&mut node), "it is not applied");
        node.step(Input::Applied { index: 100 });
        assert!(asks(&mut node));
    }
}
