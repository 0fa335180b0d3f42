//! Who is in the raft group, and how one change alters it.
//!
//! Pure values. The node uses them to refuse a change before it is proposed; the apply thread uses
//! the same function to know the members at every applied index (a snapshot names them). Members
//! change one at a time, never jointly (rulings 20 and 43).

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use std::collections::BTreeSet;

/// Voters that a cluster may have: above 7, each more costs a write's latency and buys nothing.
pub const VOTERS_MAX: usize = 7;
/// Learners that a cluster may have: each costs the leader one stream (ruling 43).
pub const LEARNERS_MAX: usize = 64;

/// Raft id of a node: a node that lost its log comes back with the next incarnation, because raft
/// relies on nobody's forgetting what he acknowledged (ruling 19).
pub fn raft_id(node: u64, incarnation: u16) -> u64 {
    node << 16 | u64::from(incarnation)
}

/// Node id and incarnation of a raft id.
pub fn node_of(raft_id: u64) -> (u64, u16) {
    (raft_id >> 16, (raft_id & 0xFFFF) as u16)
}

/// The members of the group, by raft id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Members that vote.
    pub voters: BTreeSet<u64>,
    /// Members that only follow.
    pub learners: BTreeSet<u64>,
}

/// One change of membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Adds a voter, or promotes a learner.
    AddVoter(u64),
    /// Adds a learner, or demotes a voter.
    AddLearner(u64),
    /// Removes a member.
    Remove(u64),
}

/// Why a change cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It would leave no voter.
    #[error("the change would leave no voter")]
    NoVoters,
    /// More than [`VOTERS_MAX`].
    #[error("a cluster has at most {VOTERS_MAX} voters")]
    TooManyVoters,
    /// More than [`LEARNERS_MAX`].
    #[error("a cluster has at most {LEARNERS_MAX} learners")]
    TooManyLearners,
    /// The members would be the same.
    #[error("the change changes nothing")]
    Nothing,
    /// Zero is nobody's raft id.
    #[error("0 is not a raft id")]
    InvalidId,
    /// The entry's payload is not a single change.
    #[error("the entry holds no single change of membership")]
    Unreadable,
}

impl Membership {
    /// A group of voters.
    pub fn of_voters(voters: impl IntoIterator<Item = u64>) -> Self {
        Membership { voters: voters.into_iter().collect(), learners: BTreeSet::new() }
    }

    /// Whether `id` is a voter or a learner.
    pub fn contains(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Whether `id` is the only voter.
    pub fn is_only_voter(&self, id: u64) -> bool {
        self.voters.len() == 1 && self.voters.contains(&id)
    }

    /// The members after `change`.
    pub fn with(&self, change: Change) -> Result<Membership, ChangeError> {
        let mut next = self.clone();
        match change {
            Change::AddVoter(0) | Change::AddLearner(0) | Change::Remove(0) => {
                return Err(ChangeError::InvalidId);
            }
            Change::AddVoter(id) => {
                next.learners.remove(&id);
                next.voters.insert(id);
            }
            Change::AddLearner(id) => {
                next.voters.remove(&id);
                next.learners.insert(id);
            }
            Change::Remove(id) => {
                next.voters.remove(&id);
                next.learners.remove(&id);
            }
        }
        if next.voters.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        if next.voters.len() > VOTERS_MAX {
            return Err(ChangeError::TooManyVoters);
        }
        if next.learners.len() > LEARNERS_MAX {
            return Err(ChangeError::TooManyLearners);
        }
        if next == *self {
            return Err(ChangeError::Nothing);
        }
        Ok(next)
    }

    pub(crate) fn conf_state(&self) -> ConfState {
        let voters: Vec<u64> = self.voters.iter().copied().collect();
        let learners: Vec<u64> = self.learners.iter().copied().collect();
        ConfState::from((voters, learners))
    }

    pub(crate) fn from_conf_state(state: &ConfState) -> Membership {
        Membership {
            voters: state.get_voters().iter().copied().collect(),
            learners: state.get_learners().iter().copied().collect(),
        }
    }
}

impl Change {
    /// The member that the change is about.
    pub fn member(self) -> u64 {
        let (Change::AddVoter(id) | Change::AddLearner(id) | Change::Remove(id)) = self;
        id
    }

    pub(crate) fn to_raft(self, context: Bytes) -> ConfChangeV2 {
        let mut single = ConfChangeSingle { node_id: self.member(), ..Default::default() };
        single.set_change_type(match self {
            Change::AddVoter(_) => ConfChangeType::AddNode,
            Change::AddLearner(_) => ConfChangeType::AddLearnerNode,
            Change::Remove(_) => ConfChangeType::RemoveNode,
        });
        ConfChangeV2 { changes: vec![single].into(), context, ..Default::default() }
    }
}

/// Reads the payload of an entry of kind [`crate::EntryKind::Conf`]: the change, and what the
/// proposer gave along with it.
pub fn decode_change(payload: &Bytes) -> Result<(Change, Bytes), ChangeError> {
    let raw = raw_change(payload)?;
    let [single] = raw.get_changes() else { return Err(ChangeError::Unreadable) };
    let change = match single.get_change_type() {
        ConfChangeType::AddNode => Change::AddVoter(single.node_id),
        ConfChangeType::AddLearnerNode => Change::AddLearner(single.node_id),
        ConfChangeType::RemoveNode => Change::Remove(single.node_id),
    };
    Ok((change, raw.context))
}

pub(crate) fn raw_change(payload: &Bytes) -> Result<ConfChangeV2, ChangeError> {
    let mut raw = ConfChangeV2::default();
    raw.merge_from_bytes(payload).map_err(|_| ChangeError::Unreadable)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_keep_the_limits_and_survive_their_encoding() {
        let one = Membership::of_voters([raft_id(11, 1)]);
        assert_eq!(one.with(Change::Remove(raft_id(11, 1))), Err(ChangeError::NoVoters));
        assert_eq!(one.with(Change::AddLearner(raft_id(11, 1))), Err(ChangeError::NoVoters));
        assert_eq!(one.with(Change::Remove(9)), Err(ChangeError::Nothing));
        assert_eq!(one.with(Change::AddVoter(0)), Err(ChangeError::InvalidId));
        let seven = Membership::of_voters(1..=7);
        assert_eq!(seven.with(Change::AddVoter(8)), Err(ChangeError::TooManyVoters));
        let learner = seven.with(Change::AddLearner(7)).unwrap();
        assert_eq!((learner.voters.len(), learner.learners.len()), (6, 1));
        assert_eq!(learner.with(Change::AddVoter(7)).unwrap(), seven);
        for change in [Change::AddVoter(3), Change::AddLearner(4), Change::Remove(5)] {
            let raw = change.to_raft(Bytes::from_static(b"record"));
            let payload = Bytes::from(raw.write_to_bytes().unwrap());
            let read = decode_change(&payload).unwrap();
            assert_eq!(read, (change, Bytes::from_static(b"record")));
        }
        assert_eq!(decode_change(&Bytes::new()), Err(ChangeError::Unreadable));
        assert_eq!(node_of(raft_id(12, 3)), (12, 3));
    }
}
