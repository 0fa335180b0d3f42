//! The master's place goes back to the voter that is wanted more, once that has been steady.
//!
//! An election prefers it already (raft's priority), but it may have been away then. It gets the
//! place when it answers, has caught up, and both have been so, it as a voter and this node as the
//! master, for a while without a break: so a node that comes and goes moves nothing; and if it does
//! not say that it cannot lead. Between equal affinities nothing is ever moved.

use super::{Cluster, keeper};
use crate::engine::Engine;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tiebeam_core::State;

/// Election timeouts without a break after which a node is steady.
const STEADY_TIMEOUTS: u32 = 20;

/// Since when voters that are wanted more have been ready without a break.
#[derive(Default)]
struct Ready(BTreeMap<u64, Instant>);

impl Ready {
    /// Notes who is ready now, best first; the first one that has been for `steady`.
    fn look(&mut self, ready: &[u64], now: Instant, steady: Duration) -> Option<u64> {
        self.0.retain(|node, _| ready.contains(node));
        for node in ready {
            self.0.entry(*node).or_insert(now);
        }
        let is_steady = |node: &&u64| self.0.get(*node).is_some_and(|since| now - *since >= steady);
        ready.iter().find(is_steady).copied()
    }
}

/// Voters that could take over now and are wanted more than this node, best first.
fn wanted_more(cluster: &Cluster, state: &State) -> Vec<u64> {
    let own = keeper::affinity(state, cluster.own());
    let mut ranked = keeper::successors(cluster, state);
    ranked.retain(|raft_id| {
        state.member_of(*raft_id).is_some_and(|(node, _)| {
            keeper::affinity(state, node) > own
                && keeper::is_near(cluster, state, node)
                && keeper::could_lead(cluster, state, *raft_id)
        })
    });
    ranked
}

/// Hands the place to whoever is wanted more.
pub struct Preference {
    ready: Ready,
    steady: Duration,
}

impl Preference {
    /// For this election timeout.
    pub fn new(election_timeout: Duration) -> Preference {
        Preference { ready: Ready::default(), steady: election_timeout * STEADY_TIMEOUTS }
    }

    /// Looks once. The keeper does so now and then, and whenever a member said something.
    pub fn look(&mut self, engine: &Engine, state: &State) {
        let wanted = match engine.is_master() {
            true => wanted_more(&engine.cluster, state),
            false => Vec::new(),
        };
        if let Some(next) = self.ready.look(&wanted, Instant::now(), self.steady) {
            tracing::info!(node = next >> 16, "a voter with a higher affinity gets the place");
            engine.proposer.transfer(Some(next));
            // One that does not take it is tried again only after the same time.
            self.ready = Ready::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_ready_without_a_break_gets_the_place() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut ready = Ready::default();
        let mut look = |at: u32, nodes: &[u64]| ready.look(nodes, begin + second * at, 10 * second);
        assert_eq!(look(0, &[12, 13]), None);
        assert_eq!(look(9, &[13]), None, "12 was away");
        assert_eq!(look(10, &[12, 13]), Some(13));
        assert_eq!(look(18, &[12, 13]), Some(13), "12 is not steady yet");
        assert_eq!(look(20, &[12, 13]), Some(12), "the best one comes first");
        assert_eq!(look(21, &[]), None);
        assert_eq!(look(40, &[12]), None, "this node led no more, or nobody was there");
    }
}
