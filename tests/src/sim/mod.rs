//! A cluster from one seed: the real replica, the real core and the real jobs on 1, 3 or 5 nodes,
//! in one thread, with simulated clocks, network, disks, programs and clients, and faults.
//!
//! Blueprint section 8 and rulings 22 and 23 say what it is for. A run is a function of its seed:
//! `tiebeam-tests sim --seed S` prints every message of it. First faults come densely while clients
//! call; then everything is healed, and what is open must end. What is looked at is in
//! [`invariants`]; what proves that looking helps, in [`plant`]. A failing seed is kept as a file
//! under `tests/sim/found/`; stories that are told step by step are in `tests/sim/scripts/`.
//!
//! ```text
//!             machine (one of 1, 3, 5)
//! clients ─► pipeline ─► process ─► disk      each arrow takes simulated time;
//!    ▲       conductor     │  ▲    programs   faults stop, slow or damage what is behind it
//!    │       agent         ▼  │
//!    │                 net, transfer          messages, chunks of snapshots, ranges of history
//!    └──────────┬──────────┘
//!             ledger ─► invariants            an observer that survives every stop
//! ```
//!
//! What is decided while jobs run is the executor's, the same code in the daemon: `pipeline`,
//! `conductor`, `commit`, `agent` and `shims` are its drivers here. What a run does not show: TLS,
//! certificates and the wire, and the daemon's own threads, whose order of work `process` and
//! `machine` mirror.

mod agent;
mod archive;
mod carry;
mod clients;
pub mod command;
mod commit;
mod conductor;
pub mod coverage;
pub mod export;
mod faults;
mod first;
pub mod invariants;
mod ledger;
pub mod linear;
mod machine;
mod manifest;
mod members;
mod net;
mod pipeline;
pub mod plant;
mod process;
mod queues;
pub mod script;
mod shims;
mod simulation;
#[cfg(test)]
mod tests;
mod transfer;
mod words;
mod world;

use coverage::Counts;
use export::Exported;
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
    /// Voters: 1, 3 or 5.
    pub nodes: u32,
    /// Voters that the cluster shrinks to and grows to, if it does.
    pub voters: (u32, u32),
    /// Clients at once.
    pub clients: u32,
    /// Calls of all clients together, at most.
    pub calls: u32,
    /// How fast things happen.
    pub pace: Pace,
    /// Whether wall clocks jump.
    pub clock_jumps: bool,
    /// A fault that is built in on purpose.
    pub plant: Option<Plant>,
    /// Whether every message is written down.
    pub trace: bool,
    /// Whether disks are lost also under nodes that run commands.
    pub busy_swaps: bool,
    /// Whether a script says what happens: no node is started, and no call repeated, by itself.
    pub scripted: bool,
}

/// How fast things happen; all times in microseconds. Pairs are of a rare and a usual longest time,
/// unless they say otherwise.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Between two ticks of the replica; elections come after 10 to 20 of them.
    pub tick_us: u64,
    /// Clients call for so long; 0 for as long as they have calls.
    pub load_us: u64,
    /// Between two faults: at least, and spread.
    pub fault_us: (u64, u64),
    /// Longest time that a node stays down.
    pub down_us: (u64, u64),
    /// Longest pause of a node.
    pub pause_us: (u64, u64),
    /// Longest fault of the network.
    pub outage_us: (u64, u64),
    /// Longest pause of a client between two calls.
    pub think_us: u64,
    /// How long a client waits for an answer.
    pub patience_us: u64,
    /// Longest pause of a client before it sends a call again.
    pub again_us: u64,
    /// Times that a client sends the same call.
    pub attempts_max: u32,
    /// After so long a proposal's end counts as unknown (ruling 1).
    pub unknown_us: u64,
    /// Time that the commands of a job get to stop.
    pub grace_us: u64,
}

impl Pace {
    /// One node: short, with a fault every 30 ms.
    pub const ALONE: Pace = Pace {
        tick_us: 20_000,
        load_us: 0,
        fault_us: (3_000, 60_000),
        down_us: (20_000, 20_000),
        pause_us: (3_000_000, 40_000),
        outage_us: (1, 1),
        think_us: 4_000,
        patience_us: 400_000,
        again_us: 20_000,
        attempts_max: 12,
        unknown_us: 2_000_000,
        grace_us: 500_000,
    };

    /// A cluster: elections take 200 to 400 ms, a fault comes every 200 ms.
    pub const CLUSTER: Pace = Pace {
        tick_us: 20_000,
        load_us: 60_000_000,
        fault_us: (20_000, 400_000),
        down_us: (8_000_000, 300_000),
        pause_us: (3_000_000, 200_000),
        outage_us: (5_000_000, 600_000),
        think_us: 800_000,
        patience_us: 3_000_000,
        again_us: 150_000,
        attempts_max: 60,
        unknown_us: 2_000_000,
        grace_us: 500_000,
    };
}

impl Settings {
    /// The standard run of a seed: 60 simulated seconds of a cluster of 3, or sometimes of 5 or 1,
    /// which sometimes grows and shrinks.
    pub fn standard(seed: u64) -> Settings {
        let nodes = match seed % 8 {
            7 => 1,
            5 | 6 => 5,
            _ => 3,
        };
        // A quarter of the seeds has members that come and go.
        let voters = match seed % 32 {
            7 => (1, 5),
            23 => (1, 3),
            2 | 12 | 20 | 26 => (2, 5),
            6 | 21 => (3, 5),
            _ => (nodes, nodes),
        };
        let standard = Settings { nodes, voters, calls: u32::MAX, ..Settings::alone(seed) };
        Settings { pace: Pace::CLUSTER, ..standard }
    }

    /// A short run of one node.
    pub fn alone(seed: u64) -> Settings {
        Settings {
            seed,
            nodes: 1,
            voters: (1, 1),
            clients: 5,
            calls: 60,
            pace: Pace::ALONE,
            clock_jumps: true,
            plant: None,
            trace: false,
            busy_swaps: false,
            scripted: false,
        }
    }

    /// The registers that clients read and write.
    fn registers(&self) -> &'static [&'static str] {
        if self.pace.load_us == 0 { &clients::REGISTERS[..4] } else { &clients::REGISTERS }
    }
}

/// A run that held.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Events of the simulation.
    pub events: u64,
    /// Simulated time.
    pub seconds: u64,
    /// Entries of the log.
    pub entries: u64,
    /// Jobs whose end a client was told.
    pub acknowledged: u64,
    /// Lives of the nodes.
    pub lives: u64,
    /// What happened.
    pub counts: Counts,
    /// Frames of the network: arrived, lost, doubled.
    pub frames: (u64, u64, u64),
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
    /// What clients saw of registers.
    pub calls: Vec<Exported>,
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
        Err(text) => {
            return Run { result: broken(text), lines: Vec::new(), calls: Vec::new() };
        }
    };
    let ran = catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let result = ran.unwrap_or_else(|panic| broken(text_of(&*panic)));
    Run { result, lines: simulation.lines, calls: simulation.ledger.calls }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
