//! Whose wall clock can be believed (ruling 22): this node's and the members', by the median of the
//! voters.
//!
//! Members tell their clocks with their facts; what is kept is how far each is ahead of this
//! node's. Where fewer than three voters are known there is no majority of clocks: then this
//! node's own clock is suspect if it has stepped since the daemon started. Nothing here sets a
//! clock, and no promise hangs on one: a suspect clock is told in `/health`, in `cluster_info`, by
//! a metric and, through `notices`, by an event; the certificates that a node with such a clock
//! would renew or sign wait. `clock_accept` ends it: State keeps by how much it was off then, until
//! that clock is right by itself.

use crate::proposer::wall_now;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tiebeam_core::State;

/// A clock that differs by more is suspect.
const SUSPECT_US: i64 = 60_000_000;
/// Clocks of which the median says something.
const QUORUM: usize = 3;

/// What this node knows of the clocks.
pub struct Clocks {
    own: u32,
    started: Instant,
    started_us: i64,
    /// By node id: how far ahead of this node's, in microseconds.
    ahead_us: Mutex<BTreeMap<u32, i64>>,
    told: Mutex<Vec<String>>,
}

impl Clocks {
    /// Before anything was heard.
    pub fn new(own: u32) -> Clocks {
        Clocks {
            own,
            started: Instant::now(),
            started_us: wall_now().0,
            ahead_us: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// A member has just told its wall clock, in microseconds.
    pub fn note(&self, node: u32, theirs_us: i64) {
        lock(&self.ahead_us).insert(node, theirs_us.saturating_sub(wall_now().0));
    }

    /// What is to be told of suspect clocks, this node's own first.
    pub fn warnings(&self, state: &State) -> Vec<String> {
        self.suspects(state).into_iter().map(|one| one.text).collect()
    }

    fn suspects(&self, state: &State) -> Vec<Suspect> {
        let mut ahead_us = lock(&self.ahead_us).clone();
        ahead_us.retain(|node, _| *node != self.own && state.members.contains_key(node));
        ahead_us.insert(self.own, 0);
        let monotonic_us = i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX);
        let stepped_us = wall_now().0 - self.started_us.saturating_add(monotonic_us);
        suspects(state, self.own, &ahead_us, stepped_us)
    }

    /// Writes to the log what has changed of the warnings.
    pub fn tell(&self, state: &State) {
        let (now, mut told) = (self.warnings(state), lock(&self.told));
        // The seconds move on; whose clock it is does not.
        if now.len() != told.len() {
            now.iter().for_each(|warning| tracing::warn!(warning, "clock"));
            if now.is_empty() {
                tracing::info!("the clocks agree again");
            }
            *told = now;
        }
    }

    /// Whether this node's own clock is suspect.
    pub fn is_suspect(&self, state: &State) -> bool {
        self.own_off_us(state).is_some()
    }

    /// Whether this node's own clock is right by itself, whatever was accepted of it.
    pub fn is_right(&self, state: &State) -> bool {
        !self.is_suspect(&State { clocks: Default::default(), ..state.clone() })
    }

    /// By how many microseconds this node's own clock is off, if it is suspect.
    pub fn own_off_us(&self, state: &State) -> Option<i64> {
        let suspects = self.suspects(state);
        suspects.into_iter().find(|one| one.node == self.own).map(|one| one.off_us)
    }

    /// Whether enough clocks were heard to say anything of one's own.
    pub fn knows_enough(&self, state: &State) -> bool {
        let ahead_us = lock(&self.ahead_us);
        let known = |(node, _): &(u32, _)| *node == self.own || ahead_us.contains_key(node);
        state.voters().filter(known).count() >= QUORUM.min(state.voters().count())
    }
}

/// A clock that is suspect.
struct Suspect {
    node: u32,
    off_us: i64,
    text: String,
}

/// How a warning of this node's own clock begins.
const OWN: &str = "clock: the wall clock of this node";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a clock is off by more than is believed, and it is not what was accepted of it.
fn is_off(state: &State, node: u32, off_us: i64) -> bool {
    let accepted = state.clocks.get(&node).and_then(|note| note.accepted_us);
    let far = |from: i64| off_us.saturating_sub(from).saturating_abs() > SUSPECT_US;
    far(0) && accepted.is_none_or(far)
}

/// `ahead_us` has this node with 0.
fn suspects(
    state: &State,
    own: u32,
    ahead_us: &BTreeMap<u32, i64>,
    stepped_us: i64,
) -> Vec<Suspect> {
    let voters = state.voters().filter_map(|(node, _)| ahead_us.get(&node).copied());
    let mut voters: Vec<i64> = voters.collect();
    voters.sort_unstable();
    if voters.len() < QUORUM {
        let text = format!("{OWN} stepped by {} s", stepped_us / 1_000_000);
        let own = Suspect { node: own, off_us: stepped_us, text };
        return Vec::from_iter(is_off(state, own.node, stepped_us).then_some(own));
    }
    // Of an even number the lower one: the two in the middle differ only if the halves do.
    let median = voters.get((voters.len() - 1) / 2).copied().unwrap_or_default();
    let mut found = Vec::new();
    for (node, ahead) in ahead_us {
        let off_us = ahead.saturating_sub(median);
        if !is_off(state, *node, off_us) {
            continue;
        }
        let seconds = off_us.unsigned_abs() / 1_000_000;
        let way = if off_us > 0 { "ahead of" } else { "behind" };
        let rest = format!("is {seconds} s {way} the median of the voters'");
        if *node == own {
            found.insert(0, Suspect { node: own, off_us, text: format!("{OWN} {rest}") });
        } else {
            let text = format!("clock: the wall clock of node {node} {rest}");
            found.push(Suspect { node: *node, off_us, text });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebeam_core::notice::ClockNote;
    use tiebeam_core::state::Member;

    fn texts(found: Vec<Suspect>) -> Vec<String> {
        found.into_iter().map(|one| one.text).collect()
    }

    const YEAR_US: i64 = 31_536_000_000_000;

    fn state(voters: &[u32]) -> State {
        let member = |node: &u32| Member {
            raft_id: u64::from(*node) << 16 | 1,
            key_hash: String::new(),
            voter: true,
            joining: false,
            since: 0,
        };
        let members = voters.iter().map(|node| (*node, member(node))).collect();
        State { members, ..State::default() }
    }

    #[test]
    fn the_clock_that_is_told_of_is_the_one_that_differs_from_most() {
        let three = state(&[11, 12, 13]);
        let clocks = |others: &[(u32, i64)]| {
            let mut all: BTreeMap<u32, i64> = others.iter().copied().collect();
            all.insert(11, 0);
            texts(suspects(&three, 11, &all, 0))
        };
        assert!(clocks(&[(12, 59_000_000), (13, -1_000)]).is_empty());
        let other = clocks(&[(12, 10 * YEAR_US), (13, 1_000)]);
        assert_eq!(other.len(), 1);
        assert!(other[0].contains("node 12 is 31535999"), "{other:?}");
        assert!(other[0].contains("s ahead of"), "{other:?}");
        let own = clocks(&[(12, -10 * YEAR_US), (13, -10 * YEAR_US)]);
        assert_eq!(own.len(), 1, "{own:?}");
        assert!(own[0].starts_with(OWN) && own[0].contains("ahead of"), "{own:?}");
    }

    #[test]
    fn with_fewer_than_three_voters_a_step_is_what_tells() {
        let (two, own) = (state(&[11, 12]), BTreeMap::from([(11, 0), (12, YEAR_US)]));
        assert!(suspects(&two, 11, &own, 59_000_000).is_empty());
        let stepped = |us| texts(suspects(&two, 11, &own, us));
        assert!(stepped(61_000_000)[0].contains("stepped by 61 s"));
        assert!(stepped(-61_000_000)[0].contains("stepped by -61 s"));
        let one = BTreeMap::from([(11, 0)]);
        assert!(suspects(&state(&[11, 12, 13]), 11, &one, 0).is_empty(), "nobody was heard yet");
    }

    #[test]
    fn a_clock_that_was_accepted_is_believed_until_it_moves() {
        let mut three = state(&[11, 12, 13]);
        let others = BTreeMap::from([(11, 0), (12, -YEAR_US), (13, -YEAR_US)]);
        assert_eq!(suspects(&three, 11, &others, 0)[0].off_us, YEAR_US);
        let note = |accepted_us| ClockNote { accepted_us: Some(accepted_us), suspect_s: None };
        three.clocks.insert(11, note(YEAR_US + 59_000_000));
        assert!(suspects(&three, 11, &others, 0).is_empty());
        three.clocks.insert(11, note(YEAR_US + 61_000_000));
        assert_eq!(suspects(&three, 11, &others, 0).len(), 1);
        let right = BTreeMap::from([(11, 0), (12, 0), (13, 0)]);
        assert!(suspects(&three, 11, &right, 0).is_empty(), "one that was put right is right");
    }

    #[test]
    fn a_clock_that_was_accepted_is_not_right_by_itself() {
        let clocks = Clocks::new(11);
        let mut three = state(&[11, 12, 13]);
        let off = |ahead_us: i64| {
            for node in [12, 13] {
                clocks.note(node, wall_now().0 - ahead_us);
            }
        };
        off(YEAR_US);
        let note = ClockNote { accepted_us: Some(YEAR_US), suspect_s: None };
        three.clocks.insert(11, note);
        assert!(!clocks.is_suspect(&three) && !clocks.is_right(&three), "believed, but off");
        off(0);
        assert!(!clocks.is_suspect(&three) && clocks.is_right(&three), "put right");
    }

    #[test]
    fn what_a_removed_member_told_is_forgotten() {
        let clocks = Clocks::new(11);
        assert!(!clocks.knows_enough(&state(&[11, 12, 13])) && clocks.knows_enough(&state(&[11])));
        for (node, theirs) in [(12, wall_now().0), (13, wall_now().0), (14, 0)] {
            clocks.note(node, theirs);
        }
        assert_eq!(clocks.warnings(&state(&[11, 12, 13, 14])).len(), 1);
        assert!(clocks.warnings(&state(&[11, 12, 13])).is_empty());
        assert!(!clocks.is_suspect(&state(&[11, 12, 13, 14])), "it is another's");
    }
}
