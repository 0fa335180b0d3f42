//! What is decided while jobs run: which of them a master takes up, what it proposes and in which
//! order, what a node does with a command, and when a wait is over. Nothing here does any of it.
//!
//! Every module is a state machine or a plain function over [`State`] and the
//! words of its driver: no clock, no thread, no file, nothing random. There are two drivers, the
//! daemon and the simulation; a driver carries out what it is told, says what came of it, and
//! decides nothing. [`conductor`] is a master's look at State, [`run`] the function of one job on
//! it, [`command`] what that function asks the nodes for; [`agent`] is the node's side of a
//! command, [`journal`] what it writes down of one
//! and [`end`] how one ends; [`submit`] is a call's way into the log and
//! [`commit`] the wait for the members. [`faults`] lets a test leave a step out.

pub mod agent;
pub mod command;
pub mod commit;
pub mod conductor;
pub mod end;
pub mod faults;
pub mod journal;
pub mod run;
pub mod submit;

use tiebeam_core::State;

/// A node's office, as raft last said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Office {
    /// Whether it leads.
    pub leads: bool,
    /// The newest term it knows.
    pub term: u64,
}

impl Office {
    /// Whether this node is the master: it leads, and shows the first entry of its term, so that
    /// it has applied all that was committed before (ruling 34).
    pub fn is_master(&self, state: &State) -> bool {
        self.leads && state.term == self.term
    }

    /// Whether it still leads in the term in which something began.
    pub fn holds(&self, term: u64) -> bool {
        self.leads && self.term == term
    }
}
