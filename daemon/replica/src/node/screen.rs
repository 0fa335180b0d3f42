//! Which messages of peers are let in: what raft would panic on, or should never see, stays out.
//!
//! Pure; [`super::Node`] calls it for every message. The shell has verified who sent it.

use crate::membership::decode_change;
use raft::eraftpb::{EntryType, Message, MessageType};

/// Whether a message asks for a vote, real or tentative.
pub(super) fn asks_for_votes(message: &Message) -> bool {
    let kind = message.get_msg_type();
    matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
}

/// Passes a message of member `from` to member `to`, or says why not. `from_learner` is what this
/// node has applied: one that lags may know the leader of today as a learner, or as one that may
/// not ask for votes, and learns better only from that leader. So a learner may speak like a voter.
pub(super) fn screen(
    message: &Message,
    from: u64,
    to: u64,
    from_learner: bool,
) -> Result<(), &'static str> {
    if message.from != from {
        return Err("it names another sender");
    }
    if message.to != to {
        return Err("it is for another member, or for a former life of this one");
    }
    match message.get_msg_type() {
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => return Err("it is not for the network"),
        MessageType::MsgPropose | MessageType::MsgTransferLeader => {
            return Err("members do not forward calls");
        }
        MessageType::MsgTimeoutNow if from_learner => return Err("a learner hands nothing over"),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp
            if message.get_entries().len() != 1 =>
        {
            return Err("a read index carries one entry");
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => return Ok(()),
        MessageType::MsgSnapshot if message.get_snapshot().is_empty() => {
            return Err("the snapshot is empty");
        }
        _ if message.term == 0 => return Err("it has no term"),
        _ => {}
    }
    let mut next = message.index;
    for entry in message.get_entries() {
        next = next.saturating_add(1);
        let readable = entry.get_entry_type() != EntryType::EntryConfChange
            && entry.context.is_empty()
            && entry.index == next
            && entry.term != 0
            && entry.term <= message.term;
        let conf = entry.get_entry_type() == EntryType::EntryConfChangeV2;
        if !readable || (conf && decode_change(&entry.data).is_err()) {
            return Err("its entries are not such as a leader sends");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    fn message(kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to, message.term) = (2, 1, 5);
        message
    }

    #[test]
    fn only_what_a_member_may_say_passes() {
        let append = message(MessageType::MsgAppend);
        assert_eq!(screen(&append, 2, 1, false), Ok(()));
        assert!(screen(&append, 3, 1, false).is_err(), "false sender");
        assert!(screen(&append, 2, 9, false).is_err(), "former life");
        for kind in [
            MessageType::MsgAppend,
            MessageType::MsgHeartbeat,
            MessageType::MsgRequestVote,
            MessageType::MsgRequestPreVote,
        ] {
            assert_eq!(screen(&message(kind), 2, 1, true), Ok(()), "it may be a voter by now");
        }
        assert!(screen(&message(MessageType::MsgTimeoutNow), 2, 1, true).is_err(), "learner");
        let answer = message(MessageType::MsgAppendResponse);
        assert_eq!(screen(&answer, 2, 1, true), Ok(()));
        for kind in [
            MessageType::MsgHup,
            MessageType::MsgPropose,
            MessageType::MsgTransferLeader,
            MessageType::MsgSnapshot,
            MessageType::MsgReadIndex,
        ] {
            assert!(screen(&message(kind), 2, 1, false).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn entries_that_raft_would_choke_on_are_dropped() {
        let entry = |index, term| {
            let mut entry = Entry::default();
            (entry.index, entry.term) = (index, term);
            entry
        };
        let with = |entries: Vec<Entry>| {
            let mut append = message(MessageType::MsgAppend);
            append.index = 7;
            append.set_entries(entries.into());
            screen(&append, 2, 1, false)
        };
        assert_eq!(with(vec![entry(8, 5), entry(9, 5)]), Ok(()));
        assert!(with(vec![entry(8, 5), entry(10, 5)]).is_err());
        assert!(with(vec![entry(8, 6)]).is_err());
        let mut first_form = entry(8, 5);
        first_form.set_entry_type(EntryType::EntryConfChange);
        assert!(with(vec![first_form]).is_err());
    }
}
