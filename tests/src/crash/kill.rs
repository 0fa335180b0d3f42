//! Rounds of killing: load, SIGKILL at a random moment, start, compare everything.
//!
//! A third of the rounds each kill the daemon alone, the daemon with its exec-shims, and the
//! whole cgroup. Where the daemon was built with crash points, a part of the rounds lets it (or a
//! shim) die at one of them instead; and in some rounds the daemon is killed a second time while
//! it starts. SIGKILL keeps the page cache: what is tested is the order of writes and effects,
//! not the disk; that is what [`super::power`] is for.

use super::ledger::{Ledger, Tally};
use super::load::Call;
use super::rounds::{self, Ground, Rounds, first_answer, print_findings, verification};
use super::subject::{self, Subject};
use super::{Dice, Failure, Options, Spread, block_on};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Rounds between two verifications of the whole chain.
const VERIFY_EVERY: u32 = 100;
/// One round of so many uses a crash point, where there are any.
const CRASH_POINT_EVERY: u64 = 5;
/// One round of so many kills the daemon again while it starts.
const TWICE_EVERY: u64 = 8;
/// How long a round waits for a crash point that may never be reached.
const CRASH_WAIT: Duration = Duration::from_millis(300);

/// The daemon's crash points that a round reaches, with how often they are passed in a round at
/// most: the round dies at one of these passes.
const DAEMON_POINTS: [(&str, u64); 7] = [
    ("log.write.before", 60),
    ("log.write.after", 60),
    ("log.sync.before", 60),
    ("log.sync.after", 60),
    ("command.intent", 4),
    ("command.spawned", 4),
    ("command.ordered", 4),
];
/// How many of them are passed without commands.
const LOG_POINTS: usize = 4;
/// The crash points of a shim; each shim passes each once.
const SHIM_POINTS: [&str; 4] = ["shim.running", "shim.spawned", "shim.ending", "shim.ended"];

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The daemon.
    Daemon,
    /// The daemon and its exec-shims.
    Shims,
    /// The whole cgroup: the programs of commands, too.
    All,
}

impl Victim {
    fn of(round: u32) -> Victim {
        [Victim::Daemon, Victim::Shims, Victim::All][round as usize % 3]
    }

    fn name(self) -> &'static str {
        match self {
            Victim::Daemon => "the daemon",
            Victim::Shims => "daemon and shims",
            Victim::All => "the whole cgroup",
        }
    }
}

/// What the rounds found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Rounds that were made.
    pub rounds: u32,
    /// Rounds by who died, with their counts.
    pub by_victim: BTreeMap<&'static str, (u32, Tally)>,
    /// Rounds by crash point.
    pub by_point: BTreeMap<String, u32>,
    /// Rounds in which the daemon was killed again while it started.
    pub twice: u32,
    /// From start to the first answer of a logged-in user.
    pub start: Spread,
    /// The same in the first and in the last quarter of the rounds: the log grows between
    /// snapshots, and with it what a start has to read.
    pub start_ends: [Spread; 2],
    /// Jobs that were compared once more at the end.
    pub compared: usize,
    /// How the whole cgroup was killed.
    pub killing: &'static str,
    /// The whole time.
    pub took: Duration,
    /// Everything that is wrong; empty if nothing is.
    pub findings: Vec<String>,
}

impl Report {
    /// Prints the table and the findings.
    pub fn print(&self) {
        println!(
            "{} rounds of kill -9, seed {}, {:.1} s ({:.2} s a round); cgroup: {}",
            self.rounds,
            self.seed,
            self.took.as_secs_f64(),
            self.took.as_secs_f64() / f64::from(self.rounds.max(1)),
            self.killing,
        );
        println!(
            "killed | rounds | acknowledged | sent again | of these had run | jobs | \
             commands by result code | in doubt that ran"
        );
        for (name, (rounds, tally)) in &self.by_victim {
            println!(
                "{name} | {rounds} | {} | {} | {} | {} | {:?} | {}",
                tally.acknowledged,
                tally.sent_again,
                tally.had_run,
                tally.jobs,
                tally.commands,
                tally.doubtful_ran
            );
        }
        println!("crash points: {:?}; killed again while starting: {}", self.by_point, self.twice);
        println!("start to first answer: {}", self.start);
        println!("  first quarter: {}", self.start_ends[0]);
        println!("  last quarter: {}", self.start_ends[1]);
        println!("jobs compared again at the end: {}", self.compared);
        print_findings(&self.findings);
    }
}

/// Makes the rounds and prints the table.
///
/// # Errors
/// The rounds cannot be made; what they find is in the report.
pub fn kill_rounds(options: &Options) -> Result<Report, Failure> {
    let report = block_on(kill(options))?;
    report.print();
    Ok(report)
}

struct Kills<'a> {
    options: &'a Options,
    ground: Ground,
    points: bool,
    report: Report,
}

async fn kill(options: &Options) -> Result<Report, Failure> {
    let begun = Instant::now();
    let mut subject = Subject::new("kill", options)?;
    subject.init()?;
    first_answer(&mut subject).await?;
    let ledger = Ledger::open(&subject.rpc()?, subject.marks.clone()).await?;
    let points = subject::has_crash_points(&subject::program(options)?);
    let report = Report { seed: options.seed, killing: subject.killing(), ..Report::default() };
    let ground = Ground { subject, ledger, dice: Dice::new(options.seed) };
    let mut kills = Kills { options, ground, points, report };
    kills.report.rounds = rounds::run(&mut kills, options).await?;
    kills.finish().await?;
    kills.report.took = begun.elapsed();
    Ok(kills.report)
}

impl Rounds for Kills<'_> {
    fn ground(&mut self) -> &mut Ground {
        &mut self.ground
    }

    async fn round(&mut self, round: u32) -> Result<(), Failure> {
        let victim = Victim::of(round);
        let before = std::mem::take(&mut self.ground.ledger.tally);
        let calls = self.load_and_kill(round, victim).await?;
        if self.ground.dice.below(TWICE_EVERY) == 0 {
            self.ground.subject.launch(None)?;
            tokio::time::sleep(self.ground.dice.millis(1, 120)).await;
            self.ground.subject.kill()?;
            self.report.twice += 1;
        }
        let after = first_answer(&mut self.ground.subject).await?;
        self.report.start.add(after);
        match round * 4 / self.options.rounds.max(1) {
            0 => self.report.start_ends[0].add(after),
            3 => self.report.start_ends[1].add(after),
            _ => {}
        }
        let settling = Instant::now();
        self.ground.ledger.settle(&self.ground.subject.rpc()?, calls).await?;
        let tally = std::mem::replace(&mut self.ground.ledger.tally, before);
        if self.options.loud {
            println!(
                "round {round}: {}; {} acknowledged, {} again; settled in {:?}",
                victim.name(),
                tally.acknowledged,
                tally.sent_again,
                settling.elapsed()
            );
        }
        let (rounds, sum) = self.report.by_victim.entry(victim.name()).or_default();
        *rounds += 1;
        sum.add(&tally);
        Ok(())
    }
}

impl Kills<'_> {
    /// One round's load, and its end.
    async fn load_and_kill(&mut self, round: u32, victim: Victim) -> Result<Vec<Call>, Failure> {
        let commands = victim == Victim::Shims || (round / 3).is_multiple_of(3);
        let point = self.arm(commands).await?;
        let marks = commands.then(|| self.ground.subject.marks.clone());
        let load = self.ground.load(&format!("r{round}"), marks)?;
        tokio::time::sleep(self.ground.dice.millis(10, 260)).await;
        if let Some(point) = point {
            self.wait_for_crash(point).await?;
        }
        match victim {
            Victim::Daemon => self.ground.subject.kill()?,
            Victim::Shims => self.ground.subject.kill_with_shims()?,
            Victim::All => self.ground.subject.kill_all()?,
        }
        let mut calls = load.end().await?;
        if round % VERIFY_EVERY == VERIFY_EVERY - 1 {
            calls.push(verification(round));
        }
        Ok(calls)
    }

    /// In some rounds: starts the daemon once more, with a crash point in its environment.
    async fn arm(&mut self, commands: bool) -> Result<Option<String>, Failure> {
        if !self.points || self.ground.dice.below(CRASH_POINT_EVERY) != 0 {
            return Ok(None);
        }
        let known = if commands { DAEMON_POINTS.len() + SHIM_POINTS.len() } else { LOG_POINTS };
        let at = self.ground.dice.below(known as u64) as usize;
        let point = match DAEMON_POINTS.get(at) {
            Some((point, passes)) => format!("{point}@{}", 1 + self.ground.dice.below(*passes)),
            None => SHIM_POINTS[at - DAEMON_POINTS.len()].to_owned(),
        };
        self.ground.subject.kill()?;
        let begun = Instant::now();
        self.ground.subject.launch(Some(&point))?;
        // It may die at its point before it answers: then the writers find nobody.
        self.ground.subject.wait_for_answer(begun).await?;
        Ok(Some(point))
    }

    /// Waits a little for the daemon to die at its point; what dies of a shim's is the shim.
    async fn wait_for_crash(&mut self, point: String) -> Result<(), Failure> {
        let begun = Instant::now();
        let is_daemons = !point.starts_with("shim.");
        while is_daemons && begun.elapsed() < CRASH_WAIT && self.ground.subject.runs()? {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let reached = !is_daemons || !self.ground.subject.runs()?;
        let name = point.split('@').next().unwrap_or_default();
        let name = if reached { name.to_owned() } else { format!("{name} (not reached)") };
        *self.report.by_point.entry(name).or_default() += 1;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        let rpc = self.ground.subject.rpc()?;
        let mut calls = vec![verification(self.report.rounds)];
        if self.ground.ledger.findings.is_empty() {
            self.report.compared = self.ground.ledger.compare_all(&rpc).await?;
            self.ground.ledger.settle(&rpc, std::mem::take(&mut calls)).await?;
        }
        self.ground.subject.kill_all()?;
        let (sound, text) = self.ground.subject.check()?;
        if !sound {
            self.ground.ledger.findings.push(format!("tiebeamd check: {text}"));
            self.ground.subject.keep();
        }
        self.report.findings = std::mem::take(&mut self.ground.ledger.findings);
        Ok(())
    }
}
