//! The command `sim`: one seed with every message, or many with a rate.

use super::{Plant, Settings, Summary, run};
use clap::Args;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Command {
    /// Replay this seed and print every message
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    pub seed: Option<u64>,
    /// Run this many seeds
    #[arg(long, default_value_t = 1_000)]
    pub seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// Calls of all clients together in each run
    #[arg(long, default_value_t = 60)]
    pub calls: u32,
    /// Build a fault in, by name, to see it caught
    #[arg(long)]
    pub plant: Option<String>,
}

/// What many runs came to together.
#[derive(Default)]
struct Sums {
    events: u64,
    entries: u64,
    acknowledged: u64,
    lives: u64,
    rotten: u64,
    refused: u64,
}

impl Sums {
    fn add(&mut self, summary: &Summary) {
        self.events += summary.events;
        self.entries += summary.entries;
        self.acknowledged += summary.acknowledged;
        self.lives += summary.lives;
        self.rotten += summary.rotten.0;
        self.refused += summary.rotten.1;
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} events, {} entries, {} jobs acknowledged, {} lives of the node, {} rotten copies \
             of which {} were refused",
            self.events, self.entries, self.acknowledged, self.lives, self.rotten, self.refused
        )
    }
}

impl Command {
    fn settings(&self, seed: u64, trace: bool) -> Result<Settings, String> {
        let plant = match &self.plant {
            None => None,
            Some(name) => Some(Plant::find(name).ok_or_else(|| {
                let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
                format!("there is no fault {name:?}; there are {}", names.join(", "))
            })?),
        };
        Ok(Settings { calls: self.calls, plant, trace, ..Settings::standard(seed) })
    }

    /// Runs it, and says how it went.
    pub fn execute(&self) -> ExitCode {
        let ran = match self.seed {
            Some(seed) => self.replay(seed),
            None => self.many(),
        };
        match ran {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(text) => {
                eprintln!("{text}");
                ExitCode::from(2)
            }
        }
    }

    fn replay(&self, seed: u64) -> Result<bool, String> {
        let run = run(&self.settings(seed, true)?);
        for line in &run.lines {
            println!("{line}");
        }
        match &run.result {
            Ok(summary) => println!("seed {seed} holds: {} events", summary.events),
            Err(violation) => println!("seed {seed}: {violation}"),
        }
        Ok(run.result.is_ok())
    }

    fn many(&self) -> Result<bool, String> {
        let begin = Instant::now();
        let mut failed = 0u64;
        let mut sums = Sums::default();
        for seed in self.from..self.from.saturating_add(self.seeds) {
            match run(&self.settings(seed, false)?).result {
                Ok(summary) => sums.add(&summary),
                Err(violation) => {
                    failed += 1;
                    println!("seed {seed}: {violation}");
                    if self.plant.is_none() {
                        self.keep(seed, &violation.to_string())
                            .map_err(|error| format!("cannot keep seed {seed}: {error}"))?;
                    }
                }
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        let rate = self.seeds as f64 / seconds;
        println!("{} seeds, {failed} failed; {seconds:.1} s, {rate:.0} seeds/s", self.seeds);
        println!("{sums}");
        Ok(failed == 0)
    }

    /// Keeps a seed that failed, with the command that shows it.
    fn keep(&self, seed: u64, violation: &str) -> io::Result<()> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sim/found");
        fs::create_dir_all(&folder)?;
        let command = format!("cargo run -p tiebeam-tests --release -- sim --seed {seed}");
        let calls =
            if self.calls == 60 { String::new() } else { format!(" --calls {}", self.calls) };
        let text = format!("{command}{calls}\n\n{violation}\n");
        fs::write(folder.join(format!("seed-{seed}.txt")), text)
    }
}
