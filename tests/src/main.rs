//! `tiebeam-tests`: what of the suites is run by hand or by CI, beside `cargo test`.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tiebeam_tests::{crash, sim};

/// Runs what `cargo test` runs only in small.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// One node in simulation: from one seed, with faults
    Sim(sim::command::Command),
    /// A real node: killed under load, started, and everything compared
    Kill(crash::Options),
    /// A real node on an image that loses its power under load (needs root)
    Power(crash::Options),
    /// A real node whose files are damaged, case by case
    Flip(crash::Options),
}

fn main() -> ExitCode {
    match Arguments::parse().suite {
        Suite::Sim(command) => command.execute(),
        Suite::Kill(options) => crash::Kind::Kill.execute(&options),
        Suite::Power(options) => crash::Kind::Power.execute(&options),
        Suite::Flip(options) => crash::Kind::Flip.execute(&options),
    }
}
