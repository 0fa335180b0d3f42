//! One entry into State, as every node and the observer do it: a proposal, raft's change of
//! membership with its context (ruling 20), or nothing.

use tiebeam_core::State;
use tiebeam_core::effect::{Answer, Effect};
use tiebeam_core::member::Seat;
use tiebeam_core::proposal::Proposal;
use tiebeam_replica::membership::{Change, decode_change};
use tiebeam_replica::{Entry, EntryKind};

/// What an entry was, and did.
pub(super) struct Carried {
    pub(super) proposal: Option<Proposal>,
    pub(super) answer: Answer,
    pub(super) effects: Vec<Effect>,
    /// Raft's change, and whether State took it.
    pub(super) change: Option<(Change, bool)>,
}

/// Applies an entry.
pub(super) fn carry_out(state: &mut State, entry: &Entry) -> Result<Carried, String> {
    match entry.kind {
        EntryKind::Conf => {
            let read = decode_change(&entry.payload).map_err(|error| error.to_string())?;
            let (change, context) = read;
            let proposal = Proposal::decode(&context).ok();
            let seat = match change {
                Change::AddVoter(id) => (id, Seat::Voter),
                Change::AddLearner(id) => (id, Seat::Learner),
                Change::Remove(id) => (id, Seat::Gone),
            };
            let (answer, effects, accepted) =
                state.apply_conf(entry.index, entry.term, seat, proposal.as_ref());
            Ok(Carried { proposal, answer, effects, change: Some((change, accepted)) })
        }
        EntryKind::Normal => {
            let read = Proposal::decode(&entry.payload).map_err(|error| error.to_string())?;
            let (answer, effects) = state.apply(entry.index, entry.term, Some(&read));
            Ok(Carried { proposal: Some(read), answer, effects, change: None })
        }
        EntryKind::Empty => {
            let (answer, effects) = state.apply(entry.index, entry.term, None);
            Ok(Carried { proposal: None, answer, effects, change: None })
        }
    }
}
