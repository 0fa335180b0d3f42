//! `tiebeam-tests`: what of the suites is run by hand or by CI, beside `cargo test`.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tiebeam_tests::{Options, TestNode, crash, failover, shape, sim};

/// As in the daemon; the simulation is a tenth faster with it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs what `cargo test` runs only in small.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// A cluster in simulation: from one seed, with faults
    Sim(sim::command::Command),
    /// A real node: killed under load, started, and everything compared
    Kill(crash::Options),
    /// A real node on an image that loses its power under load (needs root)
    Power(crash::Options),
    /// A real node whose files are damaged, case by case
    Flip(crash::Options),
    /// Three nodes whose master is killed, paused and stopped under writing clients
    Failover(failover::Options),
    /// Whether a call costs the same after many jobs that nobody waits for
    Shape {
        /// Jobs
        #[arg(long, default_value_t = 100_000)]
        jobs: usize,
        /// Connections that start them
        #[arg(long, default_value_t = 32)]
        connections: usize,
    },
}

fn shape(jobs: usize, connections: usize) -> ExitCode {
    let node = TestNode::start(Options::default());
    let login = node.admin();
    let subject = shape::Subject { address: node.address, ca_file: &node.ca_file, login: &login };
    let figures = shape::measure(subject, jobs, connections);
    println!("{figures}");
    if figures.ratio() <= shape::RATIO_MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    match Arguments::parse().suite {
        Suite::Sim(command) => command.execute(),
        Suite::Kill(options) => crash::Kind::Kill.execute(&options),
        Suite::Power(options) => crash::Kind::Power.execute(&options),
        Suite::Flip(options) => crash::Kind::Flip.execute(&options),
        Suite::Failover(options) => options.execute(),
        Suite::Shape { jobs, connections } => shape(jobs, connections),
    }
}
