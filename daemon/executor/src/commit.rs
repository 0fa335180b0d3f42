//! When a change may be called committed: who is awaited, for how long, and who may say so
//! (ruling 6). Who counts as applied or pending is core's, [`State::awaited`].

use crate::Office;
use tiebeam_core::commit::{Heard, Parted};
use tiebeam_core::{State, settings};

/// What a master knows of the members in its own term.
pub trait Hearsay {
    /// Of the member with this raft id.
    fn of(&self, raft_id: u64) -> Heard;
}

impl<T: Fn(u64) -> Heard> Hearsay for T {
    fn of(&self, raft_id: u64) -> Heard {
        self(raft_id)
    }
}

/// How long a change is awaited, in microseconds.
pub fn wait_us(state: &State) -> u64 {
    settings::integer(&state.config, "jobs", "commit_wait_ms").saturating_mul(1_000)
}

/// The index that every awaited member which is online has applied, as far as the master `own`
/// knows.
pub fn applied_by_all(state: &State, own: u32, heard: &impl Hearsay) -> u64 {
    let others = state.members.iter().filter(|(node, member)| **node != own && !member.joining);
    let heard = others.map(|(_, member)| heard.of(member.raft_id));
    heard.filter(|heard| heard.online).map(|heard| heard.applied).min().unwrap_or(u64::MAX)
}

/// The log index of a job's change that waits for its committed stamp; `None` if the job has not
/// ended, changed nothing, or has its stamp.
pub fn change_index(state: &State, id: &str) -> Option<u64> {
    state.live_job(id).filter(|job| job.has_ended())?.change_index
}

/// A call's wait for its change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    index: u64,
    term: u64,
    until_us: u64,
}

impl Wait {
    /// Begins to wait for the change at `index`, applied here, on the node with this office.
    pub fn begin(state: &State, office: Office, index: u64, now_us: u64) -> Wait {
        let until_us = now_us.saturating_add(wait_us(state));
        Wait { index, term: office.term, until_us }
    }

    /// The index that is waited for.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// When nobody is waited for any more, on the monotonic clock, in microseconds.
    pub fn until_us(&self) -> u64 {
        self.until_us
    }

    /// Whether the wait is over: every awaited member that is online has the change, or there has
    /// been enough waiting.
    pub fn is_over(&self, reached: u64, now_us: u64) -> bool {
        reached >= self.index || now_us >= self.until_us
    }

    /// Who has the change and who has not, for the caller's answer. `None` if this node is not
    /// the master that began to wait: it may not say so.
    pub fn answer(
        &self,
        state: &State,
        own: u32,
        office: Office,
        heard: &impl Hearsay,
    ) -> Option<Parted> {
        let may = office.holds(self.term);
        may.then(|| state.awaited(own, self.index, |raft_id| heard.of(raft_id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebeam_core::state::Member;

    fn cluster() -> State {
        let member = |node: u32| Member {
            raft_id: node.into(),
            key_hash: String::new(),
            voter: true,
            joining: false,
            since: 0,
        };
        let members = (11..14).map(|node| (node, member(node))).collect();
        State { members, ..State::default() }
    }

    #[test]
    fn who_is_online_is_awaited_and_for_no_longer_than_the_setting_says() {
        let state = cluster();
        let office = Office { leads: true, term: 4 };
        let heard = |raft_id| match raft_id {
            12 => Heard { applied: 7, online: true },
            _ => Heard::default(),
        };
        let reached = applied_by_all(&state, 11, &heard);
        assert_eq!(reached, 7);
        let wait = Wait::begin(&state, office, 8, 1_000);
        assert!(!wait.is_over(reached, 1_000));
        assert!(!wait.is_over(reached, wait.until_us() - 1));
        assert!(wait.is_over(reached, wait.until_us()));
        assert!(wait.is_over(8, 1_000));
    }

    #[test]
    fn only_the_master_that_began_to_wait_may_say_that_it_is_over() {
        let state = cluster();
        let office = Office { leads: true, term: 4 };
        let heard = |_| Heard { applied: 9, online: true };
        let wait = Wait::begin(&state, office, 8, 0);
        assert_eq!(wait.answer(&state, 11, office, &heard).unwrap().applied, [11, 12, 13]);
        assert!(wait.answer(&state, 11, Office { term: 5, ..office }, &heard).is_none());
        assert!(wait.answer(&state, 11, Office { leads: false, ..office }, &heard).is_none());
    }
}
