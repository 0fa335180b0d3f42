//! The members that one client knows: those it was given, those it learned from the cluster, and
//! which of them answered last as the master.
//!
//! It asks nobody and decides nothing about retries; `call` does. What is learned replaces what was
//! learned before, never what was given.

use crate::address::Address;
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often the members are asked for: a cluster changes them by hand.
const LEARN_EVERY: Duration = Duration::from_secs(60);
/// Learned members that are kept: 7 voters and 64 learners are all that a cluster can have.
const LEARNED_MAX: usize = 71;

/// The members of a cluster, as far as a client knows them.
#[derive(Debug)]
pub(crate) struct Roster {
    given: Vec<Address>,
    learns: bool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    master: Option<Address>,
    learned: Vec<Address>,
    asked: Option<Instant>,
}

impl Roster {
    /// With the members that the client was given; `learns` if it is to ask for the others.
    pub(crate) fn new(given: Vec<Address>, learns: bool) -> Roster {
        Roster { given, learns, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members that the client was given.
    pub(crate) fn given(&self) -> &[Address] {
        &self.given
    }

    /// The master as far as known, then the members given, then those learned, each once.
    pub(crate) fn order(&self) -> Vec<Address> {
        let known = self.known();
        let mut order: Vec<Address> = Vec::new();
        for address in known.master.iter().chain(&self.given).chain(&known.learned) {
            if !order.contains(address) {
                order.push(address.clone());
            }
        }
        order
    }

    /// This member answered as the master; `None` if the one that did is none any more.
    pub(crate) fn remember(&self, master: Option<Address>) {
        self.known().master = master;
    }

    /// The master that answered last.
    pub(crate) fn master(&self) -> Option<Address> {
        self.known().master.clone()
    }

    /// Whether the members are to be asked for now; true once in [`LEARN_EVERY`].
    pub(crate) fn take_turn(&self) -> bool {
        let mut known = self.known();
        let due = known.asked.is_none_or(|asked| asked.elapsed() >= LEARN_EVERY);
        if self.learns && due {
            known.asked = Some(Instant::now());
        }
        self.learns && due
    }

    /// Takes the addresses in a result of `node_list`; what is none is left out.
    pub(crate) fn learn(&self, result: &Value) {
        let nodes = result["result_output"].as_object();
        let addresses =
            nodes.into_iter().flatten().filter_map(|(_, node)| node["address"].as_str());
        let learned = addresses.filter_map(|text| Address::parse(text).ok()).take(LEARNED_MAX);
        self.known().learned = learned.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_master_comes_first_and_what_was_learned_last() {
        let address = |text: &str| Address::parse(text).expect("an address");
        let roster = Roster::new(vec![address("a:1"), address("b:1")], true);
        assert!(roster.take_turn() && !roster.take_turn());
        let nodes = json!({"11": {"address": "b:1"}, "12": {"address": "c:1"},
            "13": {"address": "http://d:1"}, "14": {}});
        roster.learn(&json!({"result_output": nodes}));
        assert_eq!(roster.order(), [address("a:1"), address("b:1"), address("c:1")]);
        roster.remember(Some(address("c:1")));
        assert_eq!(roster.order(), [address("c:1"), address("a:1"), address("b:1")]);
        roster.learn(&json!({"result_output": {"11": {"address": "e:1"}}}));
        roster.remember(None);
        assert_eq!(roster.order(), [address("a:1"), address("b:1"), address("e:1")]);
        assert!(!Roster::new(Vec::new(), false).take_turn());
    }
}
