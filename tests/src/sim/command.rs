//! The command `sim`: one seed with every message, or many on threads with counts and a rate.

use super::{Counts, Pace, Plant, Settings, Summary, run};
use clap::Args;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Command {
    /// Replay this seed and print every message
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    pub seed: Option<u64>,
    /// Run this many seeds
    #[arg(long, default_value_t = 100)]
    pub seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// Simulated seconds with faults and calls
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Calls and faults come so many times less often: for long runs
    #[arg(long, default_value_t = 1)]
    pub sparse: u64,
    /// Only the short runs of one node
    #[arg(long)]
    pub alone: bool,
    /// Voters; 3, 5 or 1 by the seed if not given
    #[arg(long)]
    pub nodes: Option<u32>,
    /// Seeds at once
    #[arg(long, default_value_t = 2)]
    pub threads: u64,
    /// Let nodes lose their disks also while they run commands
    #[arg(long)]
    pub busy_swaps: bool,
    /// Build a fault in, by name, to see it caught
    #[arg(long)]
    pub plant: Option<String>,
    /// Write the clients' calls of the seed as JSON lines into this file
    #[arg(long, requires = "seed")]
    pub export: Option<PathBuf>,
}

/// What many runs came to together.
#[derive(Default)]
struct Sums {
    failed: u64,
    events: u64,
    seconds: u64,
    entries: u64,
    acknowledged: u64,
    lives: u64,
    frames: (u64, u64, u64),
    counts: Counts,
}

impl Sums {
    fn add(&mut self, summary: &Summary) {
        self.events += summary.events;
        self.seconds += summary.seconds;
        self.entries += summary.entries;
        self.acknowledged += summary.acknowledged;
        self.lives += summary.lives;
        self.frames.0 += summary.frames.0;
        self.frames.1 += summary.frames.1;
        self.frames.2 += summary.frames.2;
        self.counts.add(&summary.counts);
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (arrived, lost, doubled) = self.frames;
        writeln!(out, "{}", self.counts)?;
        write!(
            out,
            "{} simulated seconds, {} events, {} entries, {} jobs acknowledged, {} lives of nodes; \
             {arrived} frames arrived, {lost} were lost, {doubled} came twice",
            self.seconds, self.events, self.entries, self.acknowledged, self.lives
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
        if self.alone {
            return Ok(Settings { plant, trace, ..Settings::alone(seed) });
        }
        let standard = Settings::standard(seed);
        let mut pace = Pace { load_us: self.seconds * 1_000_000, ..standard.pace.clone() };
        pace.fault_us.1 *= self.sparse.max(1);
        pace.think_us *= self.sparse.max(1);
        let nodes = self.nodes.unwrap_or(standard.nodes);
        let voters = self.nodes.map_or(standard.voters, |nodes| (nodes, nodes));
        let busy_swaps = self.busy_swaps;
        Ok(Settings { plant, trace, pace, nodes, voters, busy_swaps, ..standard })
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
        if let Some(path) = &self.export {
            let lines = run.calls.iter().map(serde_json::to_string);
            let lines: Result<Vec<String>, _> = lines.collect();
            let text = lines.map_err(|error| format!("cannot write a call: {error}"))?.join("\n");
            fs::write(path, text + "\n")
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        match &run.result {
            Ok(summary) => println!("seed {seed} holds: {} events", summary.events),
            Err(violation) => println!("seed {seed}: {violation}"),
        }
        Ok(run.result.is_ok())
    }

    fn many(&self) -> Result<bool, String> {
        // A bad name is told once, before the threads begin.
        self.settings(self.from, false)?;
        let begin = Instant::now();
        let sums = Mutex::new(Sums::default());
        let next = AtomicU64::new(self.from);
        let end = self.from.saturating_add(self.seeds);
        let kept: Result<(), String> = std::thread::scope(|scope| {
            let work = || self.work(&next, end, &sums);
            let threads: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err("a thread of the simulation ended".to_owned()))
            })
        });
        kept?;
        let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
        let seconds = begin.elapsed().as_secs_f64();
        let rate = self.seeds as f64 / seconds;
        println!("{sums}");
        let failed = sums.failed;
        println!("{} seeds, {failed} failed; {seconds:.1} s, {rate:.2} seeds/s", self.seeds);
        Ok(failed == 0)
    }

    /// Runs seeds until there are no more.
    fn work(&self, next: &AtomicU64, end: u64, sums: &Mutex<Sums>) -> Result<(), String> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return Ok(());
            }
            let result = run(&self.settings(seed, false)?).result;
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(summary) => sums.add(&summary),
                Err(violation) => {
                    sums.failed += 1;
                    println!("seed {seed}: {violation}");
                    if self.plant.is_none() {
                        self.keep(seed, &violation.to_string())
                            .map_err(|error| format!("cannot keep seed {seed}: {error}"))?;
                    }
                }
            }
        }
    }

    /// Keeps a seed that failed, with the command that shows it.
    fn keep(&self, seed: u64, violation: &str) -> io::Result<()> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sim/found");
        fs::create_dir_all(&folder)?;
        let mut command = format!("cargo run -p tiebeam-tests --release -- sim --seed {seed}");
        if self.alone {
            command.push_str(" --alone");
        }
        if self.seconds != 60 {
            command.push_str(&format!(" --seconds {}", self.seconds));
        }
        if self.sparse > 1 {
            command.push_str(&format!(" --sparse {}", self.sparse));
        }
        if let Some(nodes) = self.nodes {
            command.push_str(&format!(" --nodes {nodes}"));
        }
        let text = format!("{command}\n\n{violation}\n");
        fs::write(folder.join(format!("seed-{seed}.txt")), text)
    }
}
