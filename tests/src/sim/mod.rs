//! One node from one seed: the real replica, the real core and the real jobs, in one thread, with
//! a simulated clock and disk, simulated clients, and faults.
//!
//! Blueprint section 8 and rulings 22 and 23 say what it is for. A run is a function of its seed:
//! `tiebeam-tests sim --seed S` prints every message of it. What is looked at is in
//! [`invariants`]; what proves that looking helps, in [`plant`]. A failing seed is kept as a file
//! under `tests/sim/found/`.
//!
//! ```text
//! clients ─► pipeline ─► process ─► disk      each arrow takes simulated time;
//!    ▲          │           │                 faults stop, slow or damage what is behind it
//!    └──────────┴──────┬────┘
//!                    ledger ─► invariants     an observer that survives every stop
//! ```
//!
//! What it does not show: other nodes, the network, commands on nodes, and the daemon's own
//! threads and tasks, whose order of work [`process`](self) and `pipeline` mirror.

mod archive;
mod clients;
pub mod command;
mod faults;
pub mod invariants;
mod ledger;
pub mod linear;
mod pipeline;
pub mod plant;
mod process;
mod simulation;
#[cfg(test)]
mod tests;
mod world;

use invariants::{Essence, Violation};
pub use plant::Plant;
use simulation::Simulation;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything random comes from it.
    pub seed: u64,
    /// Clients at once.
    pub clients: u32,
    /// Calls of all clients together.
    pub calls: u32,
    /// Whether the wall clock jumps.
    pub clock_jumps: bool,
    /// A fault that is built in on purpose.
    pub plant: Option<Plant>,
    /// Whether every message is written down.
    pub trace: bool,
}

impl Settings {
    /// The standard run of a seed.
    pub fn standard(seed: u64) -> Settings {
        Settings { seed, clients: 5, calls: 60, clock_jumps: true, plant: None, trace: false }
    }
}

/// A run that held.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Events of the simulation.
    pub events: u64,
    /// Entries of the log.
    pub entries: u64,
    /// Jobs whose end a client was told.
    pub acknowledged: u64,
    /// Lives of the node.
    pub lives: u64,
    /// Copies of the disk with a bit turned over, and those that no node started from.
    pub rotten: (u64, u64),
    /// What it came to.
    pub essence: Essence,
}

/// A run, and what was written down of it.
#[derive(Debug)]
pub struct Run {
    /// How it went.
    pub result: Result<Summary, Violation>,
    /// Every message, if that was asked for.
    pub lines: Vec<String>,
}

/// Runs a seed. One of eight is run again without jumps of the wall clock, and must come to the
/// same (invariant 19).
pub fn run(settings: &Settings) -> Run {
    let mut run = run_once(settings);
    if settings.clock_jumps
        && settings.seed.is_multiple_of(8)
        && let Ok(summary) = &run.result
    {
        let still = Settings { clock_jumps: false, trace: false, ..settings.clone() };
        let held = run_once(&still).result.and_then(|without| {
            invariants::wall_clocks_change_nothing(&summary.essence, &without.essence)
        });
        if let Err(violation) = held {
            run.result = Err(violation);
        }
    }
    run
}

fn run_once(settings: &Settings) -> Run {
    let broken = |text| Err(invariants::no_assertion_fails(text));
    let mut simulation = match Simulation::new(settings.clone()) {
        Ok(simulation) => simulation,
        Err(text) => return Run { result: broken(text), lines: Vec::new() },
    };
    let ran = catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let result = ran.unwrap_or_else(|panic| broken(text_of(&*panic)));
    Run { result, lines: std::mem::take(&mut simulation.lines) }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
