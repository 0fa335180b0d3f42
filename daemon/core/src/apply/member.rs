//! Changes of membership: raft's entry and the proposal in its context, together or not at all
//! (ruling 20).

use super::Entry;
use crate::effect::{Answer, Effect, What};
use crate::member::{MemberChange, MemberStep, Seat};
use crate::proposal::{Body, Proposal};
use crate::state::State;
use tiebeam_proto::{ErrorCode, Outcome, RpcError};

/// The change of membership that a proposal is about.
fn wanted(body: &Body) -> Option<&MemberChange> {
    match body {
        Body::Finish(finish) => finish.plan.member.as_ref(),
        Body::Member(MemberStep::Seated { change }) => Some(change),
        _ => None,
    }
}

impl State {
    /// Applies raft's change of membership at `index`; `change` is what raft is about to do, and
    /// `proposal` the context of its entry. The flag says whether raft is to do it: all nodes say
    /// the same. Panics if the entry is not the next one.
    pub fn apply_conf(
        &mut self,
        index: u64,
        term: u64,
        change: (u64, Seat),
        proposal: Option<&Proposal>,
    ) -> (Answer, Vec<Effect>, bool) {
        let fits = proposal.and_then(|proposal| wanted(&proposal.body)).cloned();
        let fits = fits.filter(|wanted| wanted.seat() == change && self.can_change(wanted));
        let (Some(proposal), Some(wanted)) = (proposal, fits) else {
            // The plan was made for other members: it is to be made again.
            let (_, effects) = self.apply(index, term, None);
            return (Answer::Stale, effects, false);
        };
        let mut entry = self.begin(index, term, proposal.header);
        let answer = match &proposal.body {
            Body::Member(_) => Answer::Done,
            body => self.apply_body(&mut entry, body),
        };
        let accepted = match &answer {
            Answer::Job { record: Some(record), .. } => record.outcome == Some(Outcome::Ok),
            _ => matches!(proposal.body, Body::Member(_)),
        };
        if accepted {
            self.change_member(&wanted, index);
            let (node, what) = wanted.told();
            entry.event(What::Node { node, change: what.into() });
            entry.due();
        }
        self.let_go_of_what_expired();
        (answer, entry.effects, accepted)
    }

    pub(super) fn apply_member(&mut self, entry: &mut Entry, step: &MemberStep) -> Answer {
        let (node, raft_id) = match step {
            MemberStep::Joined { node, raft_id } => (node, raft_id),
            MemberStep::Supports { raft_id, level } => {
                return self.apply_supports(*raft_id, *level);
            }
            MemberStep::Seated { .. } => {
                let text = "a change of membership needs an entry of raft's own";
                return Answer::Refused(RpcError::new(ErrorCode::Internal, text));
            }
        };
        let joining = |member: &crate::state::Member| member.raft_id == *raft_id && member.joining;
        if self.members.get(node).is_some_and(joining)
            && let Some(member) = self.members.get_mut(node)
        {
            member.joining = false;
            entry.event(What::Node { node: *node, change: "joined".into() });
            entry.due();
        }
        Answer::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::genesis::Genesis;
    use crate::proposal::Header;
    use tiebeam_proto::time::Time;

    fn state() -> State {
        State::genesis(&Genesis {
            cluster_id: "c".into(),
            cluster_name: "c".into(),
            node: (11, "n11".into(), "127.0.0.11:20003".into()),
            raft_id: 11 << 16 | 1,
            key_hash: "aa".into(),
            admin_hash: "$6$x".into(),
            wall: Time(0),
        })
        .unwrap()
    }

    fn step(state: &mut State, change: MemberChange) -> (Answer, bool) {
        let header = Header { wall: Time(0), elapsed_us: 1, proposer: 11 };
        let seat = change.seat();
        let body = Body::Member(MemberStep::Seated { change });
        let proposal = Proposal { header, body };
        let (answer, _, accepted) = state.apply_conf(state.applied + 1, 1, seat, Some(&proposal));
        (answer, accepted)
    }

    #[test]
    fn members_come_and_go_and_an_incarnation_never_comes_back() {
        let mut state = state();
        let raft_id = state.next_raft_id(12);
        assert_eq!(raft_id, 12 << 16 | 1);
        let add = MemberChange::Add { node: 12, raft_id, key_hash: "bb".into() };
        assert!(step(&mut state, add.clone()).1);
        assert!(state.members[&12].joining && !state.members[&12].voter);
        assert_eq!(step(&mut state, add), (Answer::Stale, false), "it is there already");
        assert!(step(&mut state, MemberChange::Promote { node: 12, raft_id }).1);
        assert!(state.members[&12].voter && !state.members[&12].joining);
        assert!(step(&mut state, MemberChange::Remove { node: 12, raft_id }).1);
        assert_eq!(state.next_raft_id(12), 12 << 16 | 2);
        let again = MemberChange::Add { node: 12, raft_id, key_hash: "bb".into() };
        assert!(!step(&mut state, again).1, "its raft id was used up");
        let last = state.members[&11].raft_id;
        assert!(!step(&mut state, MemberChange::Remove { node: 11, raft_id: last }).1);
        assert!(!step(&mut state, MemberChange::Demote { node: 11, raft_id: last }).1);
    }

    #[test]
    fn a_change_that_raft_and_its_context_see_differently_is_none() {
        let mut state = state();
        let raft_id = state.next_raft_id(12);
        let change = MemberChange::Add { node: 12, raft_id, key_hash: "bb".into() };
        let header = Header { wall: Time(0), elapsed_us: 1, proposer: 11 };
        let body = Body::Member(MemberStep::Seated { change });
        let proposal = Proposal { header, body };
        let (_, _, accepted) = state.apply_conf(2, 1, (raft_id, Seat::Voter), Some(&proposal));
        assert!(!accepted);
        assert_eq!((state.applied, state.members.len()), (2, 1));
        let (_, _, accepted) = state.apply_conf(3, 1, (raft_id, Seat::Learner), None);
        assert!(!accepted);
    }
}
