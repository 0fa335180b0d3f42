//! Changes of membership: raft's entry and the proposal in its context, together or not at all
//! (ruling 20).

use super::Entry;
use crate::effect::{Answer, Effect, What};
use crate::job::Job;
use crate::member::{MemberChange, MemberStep, Seat};
use crate::proposal::{Body, Proposal};
use crate::state::State;
use std::sync::Arc;
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
            if let Some(Body::Finish(finish)) = proposal.map(|proposal| &proposal.body) {
                self.move_base(finish.job);
            }
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
            if let MemberChange::Remove { node, .. } = wanted {
                self.lose_commands(&mut entry, node);
            }
            let (node, what) = wanted.told();
            entry.event(What::of_node(node, what, None));
            entry.due();
        }
        self.let_go_of_what_expired();
        (answer, entry.effects, accepted)
    }

    /// A node that goes takes along what it knows of its commands: those that are open end without
    /// a known end, and doubts about it stay until somebody lets go of them (ruling 11). A doubt
    /// that only comes when the job ends counts, too: a later member of this id knows nothing.
    pub(super) fn lose_commands(&mut self, entry: &mut Entry, node: u32) {
        let of_node = |job: &Job| job.commands.iter().any(|command| command.node == node);
        let jobs =
            self.running.iter().filter(|job| self.jobs.get(*job).is_some_and(|j| of_node(j)));
        for sequence in jobs.copied().collect::<Vec<_>>() {
            let Some(job) = self.jobs.get_mut(&sequence).map(Arc::make_mut) else { continue };
            for at in 0..job.commands.len() {
                if job.commands[at].node != node {
                    continue;
                }
                job.commands[at].lost = true;
                if std::mem::replace(&mut job.commands[at].ended, true) {
                    continue;
                }
                let section = Arc::make_mut(&mut job.record_mut().commands[at]);
                section.result = "indeterminate".to_owned();
                section.evidence = Some("its node was removed before its end was known".to_owned());
                let key = job.commands[at].key.clone();
                entry.command(job, &key, node, "indeterminate");
            }
        }
        let doubts = self.doubts.iter().filter(|(_, doubt)| {
            doubt.commands.iter().any(|(_, of)| *of == node) && !doubt.gone.contains(&node)
        });
        for sequence in doubts.map(|(sequence, _)| *sequence).collect::<Vec<_>>() {
            if let Some(doubt) = self.doubts.get_mut(&sequence) {
                doubt.gone.push(node);
            }
        }
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
            entry.event(What::of_node(*node, "joined", None));
            entry.due();
        }
        Answer::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{apply, intent, state, submission};
    use crate::lock::Lock;
    use crate::proposal::{CommandEnded, Finish, Header, Plan, Schedule};
    use tiebeam_proto::time::Time;

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
    fn a_removed_node_takes_what_it_knew_of_its_commands_along() {
        let mut state = state();
        let raft_id = state.next_raft_id(12);
        let add = |raft_id| MemberChange::Add { node: 12, raft_id, key_hash: "bb".into() };
        assert!(step(&mut state, add(raft_id)).1);
        let doubt = crate::state::Doubt {
            job: "11.1".into(),
            locks: Vec::new(),
            commands: vec![("run-n12".into(), 12), ("run-n11".into(), 11)],
            since: Time(0),
            record_from: 0,
            gone: Vec::new(),
        };
        state.doubts.insert(1, doubt);
        assert!(step(&mut state, MemberChange::Remove { node: 12, raft_id }).1);
        let next = state.next_raft_id(12);
        assert!(step(&mut state, add(next)).1, "it joins again, without a disk");
        assert_eq!(state.doubts[&1].gone, [12]);
        let record = tiebeam_proto::record::CommandRecord {
            name: "run-n12".into(),
            node: 12,
            result: "refused".into(),
            ..Default::default()
        };
        let ended = crate::proposal::CommandEnded { job: 1, key: "run-n12".into(), record };
        let header = Header { wall: Time(0), elapsed_us: 1, proposer: 11 };
        let proposal = Proposal { header, body: Body::CommandEnded(Box::new(ended)) };
        state.apply(state.applied + 1, 1, Some(&proposal));
        assert_eq!(state.doubts[&1].commands.len(), 2, "it cannot say that it never ran");
    }

    #[test]
    fn a_doubt_that_comes_after_its_node_went_is_not_ended_by_a_new_node_of_its_id() {
        let mut state = state();
        let raft_id = state.next_raft_id(12);
        let add = |raft_id| MemberChange::Add { node: 12, raft_id, key_hash: "bb".into() };
        assert!(step(&mut state, add(raft_id)).1);
        let mut call = submission(&state);
        (call.locks, call.inputs) = (Arc::new([Lock::write("a")]), Some("sealed".into()));
        apply(&mut state, Body::Submit(Box::new(call)));
        apply(&mut state, Body::Schedule(Schedule { job: 1, time: Time(1) }));
        apply(&mut state, intent(12));
        let ended = |result: &str| {
            let record = tiebeam_proto::record::CommandRecord {
                name: "run-n12".into(),
                node: 12,
                result: result.into(),
                ..Default::default()
            };
            let ended = CommandEnded { job: 1, key: "run-n12".into(), record };
            Body::CommandEnded(Box::new(ended))
        };
        apply(&mut state, ended("indeterminate"));
        assert!(step(&mut state, MemberChange::Remove { node: 12, raft_id }).1);
        let plan = Plan::ended(state.revision, Outcome::Indeterminate, "nobody knows");
        let finish = Finish { job: 1, plan, executed: None, finished: Time(3) };
        apply(&mut state, Body::Finish(Box::new(finish)));
        let next = state.next_raft_id(12);
        assert!(step(&mut state, add(next)).1);
        apply(&mut state, ended("refused"));
        assert_eq!(state.doubts[&1].commands.len(), 1, "the new node cannot say that it never ran");
        assert_eq!(state.locks_in_doubt().count(), 1);
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
