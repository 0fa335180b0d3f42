//! What goes into a process and comes out of it: who it is, what it asks for, what it tells, and
//! why it ends. Values only.

use super::archive::Library;
use super::invariants::Violation;
use super::plant::Plant;
use tiebeam_core::effect::Answer;
use tiebeam_replica::node::Halt as Stopped;
use tiebeam_replica::{Envelope, RoleReport};

/// Why a process cannot go on.
#[derive(Debug)]
pub(super) enum Halt {
    /// It was stopped at a crash point.
    Died,
    /// It ends itself, as the daemon does.
    Exits(String),
    /// An invariant does not hold.
    Broken(Violation),
}

impl From<Violation> for Halt {
    fn from(violation: Violation) -> Halt {
        Halt::Broken(violation)
    }
}

/// What became of a ticket.
#[derive(Debug)]
pub(super) enum Told {
    /// The entry at this index was applied, and this is what apply said.
    Applied(u64, Answer),
    /// Nothing was proposed, or what was proposed never takes effect.
    Refused,
    /// Nobody can say whether it took effect (ruling 1).
    Unknown,
    /// What is applied up to here may be read.
    Readable(u64),
}

/// What the node asked for in one round.
#[derive(Default)]
pub(super) struct Round {
    pub(super) told: Vec<(u64, Told)>,
    pub(super) sent: Vec<Envelope>,
    /// Groups that a planted fault takes for written.
    pub(super) believed: Vec<u64>,
    pub(super) halted: Option<Stopped>,
    pub(super) role: Option<RoleReport>,
    /// A member needs a snapshot and there is none that would do.
    pub(super) wants_snapshot: bool,
}

/// What apply gave.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) told: Vec<(u64, Told)>,
    pub(super) due: bool,
}

/// Who a process is, and what it is made with.
#[derive(Clone)]
pub(super) struct Identity {
    /// Its node id.
    pub(super) node: u32,
    /// Its raft id.
    pub(super) raft: u64,
    pub(super) plant: Option<Plant>,
    pub(super) library: Library,
}
