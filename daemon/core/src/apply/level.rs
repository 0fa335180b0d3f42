//! What the whole cluster goes over to: a feature level, a new cluster key.
//!
//! Both are announced by the master and decided here: an announcement that does not fit State any
//! more changes nothing.

use super::Entry;
use crate::effect::{Answer, What};
use crate::proposal::{KeyStep, Raise};
use crate::state::State;

impl State {
    /// A level that not every member supports is not taken, whoever proposed it.
    pub(super) fn apply_raise(&mut self, entry: &mut Entry, raise: &Raise) -> Answer {
        if self.next_level().is_some_and(|possible| raise.level <= possible)
            && raise.level > self.feature_level
        {
            self.feature_level = raise.level;
            let others = self.supported.iter().filter(|(_, level)| **level != raise.level);
            self.supported = others.map(|(raft_id, level)| (*raft_id, *level)).collect();
            let change = "feature_level".into();
            entry.event(What::Cluster { change, number: u64::from(raise.level) });
            entry.due();
        }
        Answer::Done
    }

    pub(super) fn apply_supports(&mut self, raft_id: u64, level: u32) -> Answer {
        if self.member_of(raft_id).is_some() {
            self.supported.insert(raft_id, level);
        }
        Answer::Done
    }

    pub(super) fn apply_key(&mut self, entry: &mut Entry, step: &KeyStep) -> Answer {
        let key = &mut self.shared_key;
        match step {
            KeyStep::Made { number, print } => {
                // One that was made and is not used may be lost with its maker.
                if *number > key.number && (key.due || (key.number > 0 && !key.used)) {
                    (key.number, key.print) = (*number, print.clone());
                    (key.used, key.due) = (false, false);
                    entry.due();
                }
            }
            KeyStep::Used { number } => {
                if *number == key.number && !key.used {
                    key.used = true;
                    let change = "cluster_key".into();
                    entry.event(What::Cluster { change, number: u64::from(*number) });
                    entry.due();
                }
            }
        }
        Answer::Done
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{apply, state};
    use crate::member::{MemberChange, MemberStep};
    use crate::proposal::{Body, KeyStep, Raise};
    use crate::state::{Member, State};

    fn with_member(node: u32) -> (State, u64) {
        let (mut state, raft_id) = (state(), u64::from(node) << 16 | 1);
        let key_hash = "bb".into();
        let member = Member { raft_id, key_hash, voter: false, joining: false, since: 1 };
        state.members.insert(node, member);
        (state, raft_id)
    }

    #[test]
    fn the_level_rises_when_the_last_member_supports_it_and_never_falls() {
        let (mut state, other) = with_member(12);
        let (own, before) = (state.members[&11].raft_id, state.feature_level);
        let next = before + 1;
        let supports = |raft_id, level| Body::Member(MemberStep::Supports { raft_id, level });
        let raise = |level| Body::Raise(Raise { level });
        apply(&mut state, supports(own, next));
        assert_eq!((state.next_level(), state.supported_by(other)), (None, before));
        apply(&mut state, raise(next));
        assert_eq!(state.feature_level, before, "one member has not said that it supports it");
        apply(&mut state, supports(99 << 16 | 1, next));
        apply(&mut state, supports(other, next + 1));
        assert_eq!(state.next_level(), Some(next));
        apply(&mut state, raise(next + 1));
        assert_eq!(state.feature_level, before);
        apply(&mut state, raise(next));
        assert_eq!(state.feature_level, next);
        assert_eq!(state.supported.iter().collect::<Vec<_>>(), [(&other, &(next + 1))]);
        apply(&mut state, raise(before));
        apply(&mut state, supports(other, before));
        assert_eq!((state.feature_level, state.next_level()), (next, None));
    }

    #[test]
    fn one_key_at_a_time_is_made_after_a_removal_and_used_once() {
        let (mut state, raft_id) = with_member(12);
        let made = |number, print: &str| Body::Key(KeyStep::Made { number, print: print.into() });
        let used = |number| Body::Key(KeyStep::Used { number });
        apply(&mut state, made(2, "a"));
        assert_eq!(state.shared_key.number, 0, "nobody was removed");
        state.change_member(&MemberChange::Remove { node: 12, raft_id }, 9);
        assert!(state.shared_key.due);
        apply(&mut state, made(2, "a"));
        apply(&mut state, made(2, "b"));
        assert_eq!((state.shared_key.print.as_str(), state.shared_key.due), ("a", false));
        apply(&mut state, made(3, "c"));
        apply(&mut state, used(2));
        assert_eq!((state.shared_key.number, state.shared_key.used), (3, false));
        apply(&mut state, used(3));
        apply(&mut state, made(4, "d"));
        assert_eq!((state.shared_key.number, state.shared_key.used), (3, true));
    }
}
