//! Failover rounds on real processes: three nodes, writers that follow the master, and the master
//! killed, paused or stopped under them; everything that was acknowledged must be there, once.
//!
//! Owns the cluster and the loop ([`rounds`]), the writers ([`writer`]), how long nobody was
//! served ([`pulse`]) and the comparison of all nodes at one index ([`equal`]). The ledger of what
//! was acknowledged is the one of [`crate::crash`]. Called by a suite and by the tests' program.

pub mod equal;
pub mod pulse;
pub mod writer;

use crate::cluster::TestCluster;
use crate::crash::ledger::{Ledger, Tally};
use crate::crash::load::{Call, Writer};
use crate::crash::rpc::{Login, Rpc, Waits};
use crate::crash::{Dice, Failure, Spread};
use crate::node;
use nix::sys::signal::Signal;
use pulse::Pulse;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use writer::Roamer;

/// Rounds between two comparisons of the stopped nodes.
const EQUAL_EVERY: u32 = 20;
/// One round of so many pauses the master instead of killing it, another one stops it in order.
const OTHERS_EVERY: u32 = 8;
/// Findings after which a run ends: the next ones would follow from them.
const FINDINGS_MAX: usize = 1;
/// What a patient client waits for.
const PATIENT: Waits = Waits {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(60),
    again: Duration::from_secs(60),
};

/// How a run is made.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds
    #[arg(long, default_value_t = 20)]
    pub rounds: u32,
    /// The seed of every random choice; another one each time if not given
    #[arg(long, default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
    /// Clients that write at once
    #[arg(long, default_value_t = 32)]
    pub clients: u64,
    /// Only kill -9: no pauses, no stops in order
    #[arg(long)]
    pub kills_only: bool,
    /// Tell each round
    #[arg(long)]
    pub loud: bool,
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

impl Default for Options {
    fn default() -> Options {
        let seed = fresh_seed();
        Options { rounds: 20, seed, clients: 32, kills_only: false, loud: false }
    }
}

impl Options {
    /// Makes the rounds, prints their table, and fails if something was found.
    pub fn execute(&self) -> ExitCode {
        match rounds(self) {
            Ok(report) if report.findings.is_empty() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("the rounds cannot go on: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// What happens to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// SIGKILL, and a start a little later.
    Kill,
    /// SIGSTOP, and SIGCONT seconds later: it wakes up and believes that it is the master.
    Pause,
    /// SIGTERM, and a start: it hands over.
    Stop,
}

impl Blow {
    fn of(round: u32, options: &Options) -> Blow {
        match round % OTHERS_EVERY {
            2 if !options.kills_only => Blow::Pause,
            5 if !options.kills_only => Blow::Stop,
            _ => Blow::Kill,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Blow::Kill => "killed",
            Blow::Pause => "paused",
            Blow::Stop => "stopped in order",
        }
    }
}

/// What the rounds of one kind saw.
#[derive(Clone, Debug, Default)]
pub struct Kind {
    /// Rounds.
    pub rounds: u32,
    /// Longest time of each round in which no client had an answer.
    pub silence: Spread,
    /// From the start of the node, or its waking up, until all three were ready.
    pub healed: Spread,
    /// Counts.
    pub tally: Tally,
}

/// What the rounds found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Rounds that were made.
    pub rounds: u32,
    /// By what happened to the master.
    pub kinds: BTreeMap<Blow, Kind>,
    /// How often the stopped nodes were compared, and were equal.
    pub equal: u32,
    /// The last index at which they were compared, with what was equal.
    pub digest: String,
    /// Jobs that were compared once more at the end.
    pub compared: usize,
    /// The whole time.
    pub took: Duration,
    /// Everything that is wrong; empty if nothing is.
    pub findings: Vec<String>,
}

impl Report {
    /// Prints the table and the findings.
    pub fn print(&self) {
        let took = self.took.as_secs_f64();
        println!("{} rounds of failover, seed {}, {took:.1} s", self.rounds, self.seed);
        println!("master | rounds | acknowledged | sent again | of these had run | jobs");
        for (blow, kind) in &self.kinds {
            let (name, tally) = (blow.name(), &kind.tally);
            let counts = [tally.acknowledged, tally.sent_again, tally.had_run, tally.jobs];
            let counts = counts.map(|count| count.to_string()).join(" | ");
            println!("{name} | {} | {counts}", kind.rounds);
            println!("  time without service: {}", kind.silence);
            println!("  until all were ready: {}", kind.healed);
        }
        println!("jobs compared again at the end: {}", self.compared);
        println!("all nodes stopped and equal: {} times; the last time:", self.equal);
        print!("{}", self.digest);
        println!("{} findings", self.findings.len());
        self.findings.iter().for_each(|finding| println!("  {finding}"));
    }
}

/// Makes the rounds and prints the table.
///
/// # Errors
/// The rounds cannot be made; what they find is in the report.
///
/// # Panics
/// The cluster does not come up.
pub fn rounds(options: &Options) -> Result<Report, Failure> {
    let begun = Instant::now();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cluster = TestCluster::start(3, &node::Options::default());
    let token = token(&cluster)?;
    let dice = Dice::new(options.seed);
    let report = Report { seed: options.seed, ..Report::default() };
    let (ledger, marks) = (Ledger::default(), PathBuf::new());
    let mut run = Run { options, runtime, cluster, token, ledger, dice, report };
    let rpc = run.rpc(PATIENT)?;
    run.ledger = run.runtime.block_on(Ledger::open(&rpc, marks))?;
    let ended = run.all();
    run.report.findings.append(&mut run.ledger.findings);
    run.report.took = begun.elapsed();
    run.report.print();
    if ended.is_err() || !run.report.findings.is_empty() {
        run.cluster.nodes.iter_mut().for_each(node::TestNode::keep);
    }
    ended.map(|()| run.report)
}

fn token(cluster: &TestCluster) -> Result<String, Failure> {
    let password = &cluster.nodes[0].password;
    let login = json!(["admin", password]);
    let answer = cluster.call(&cluster.admin(), "user_login", login);
    let answer = answer.map_err(|error| error.to_string())?;
    Ok(answer["token"].as_str().ok_or("user_login gave no token")?.to_owned())
}

struct Run<'a> {
    options: &'a Options,
    runtime: Runtime,
    cluster: TestCluster,
    token: String,
    ledger: Ledger,
    dice: Dice,
    report: Report,
}

/// Writers of a round.
struct Load {
    stop: Arc<AtomicBool>,
    pulse: Arc<Pulse>,
    writings: Vec<JoinHandle<Vec<Call>>>,
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), Failure> {
        for round in 0..self.options.rounds {
            self.round(round)?;
            self.report.rounds = round + 1;
            if self.ledger.findings.len() >= FINDINGS_MAX {
                return Ok(());
            }
            if (round + 1) % EQUAL_EVERY == 0 {
                self.compare_nodes()?;
            }
        }
        self.verify_history()?;
        let rpc = self.rpc(PATIENT)?;
        self.report.compared = self.runtime.block_on(self.ledger.compare_all(&rpc))?;
        self.compare_nodes()
    }

    fn rpc(&self, waits: Waits) -> Result<Rpc, Failure> {
        let nodes = &self.cluster.nodes;
        let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
        let login = Login::Bearer(self.token.clone());
        Rpc::of_cluster(&nodes[0].ca_file, &addresses, login, waits)
    }

    fn round(&mut self, round: u32) -> Result<(), Failure> {
        let blow = Blow::of(round, self.options);
        let load = self.load()?;
        std::thread::sleep(self.dice.millis(300, 1_500));
        let master = self.cluster.master();
        load.pulse.begin();
        let healed = self.strike(master, blow);
        // The load goes on a little on a cluster that is whole again.
        std::thread::sleep(self.dice.millis(100, 500));
        let silence = load.pulse.longest();
        load.stop.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        for writing in load.writings {
            calls.extend(self.runtime.block_on(writing)?);
        }
        let before = std::mem::take(&mut self.ledger.tally);
        let rpc = self.rpc(PATIENT)?;
        self.runtime
            .block_on(self.ledger.settle(&rpc, calls))
            .map_err(|error| format!("round {round}, seed {}: {error}", self.options.seed))?;
        let tally = std::mem::replace(&mut self.ledger.tally, before);
        if self.options.loud {
            let (name, acknowledged) = (blow.name(), tally.acknowledged);
            println!("round {round}: {name}; {acknowledged} acknowledged; silence {silence:?}");
        }
        let kind = self.report.kinds.entry(blow).or_default();
        kind.rounds += 1;
        kind.silence.add(silence);
        kind.healed.add(healed);
        kind.tally.add(&tally);
        Ok(())
    }

    /// Hits the master and heals it; how long it then took until all nodes were ready.
    fn strike(&mut self, master: usize, blow: Blow) -> Duration {
        let pause = match blow {
            Blow::Kill | Blow::Stop => self.dice.millis(50, 2_500),
            Blow::Pause => self.dice.millis(2_000, 6_000),
        };
        let node = &mut self.cluster.nodes[master];
        match blow {
            Blow::Kill => node.kill9(),
            Blow::Pause => node.signal(Signal::SIGSTOP),
            Blow::Stop => drop(node.terminate()),
        }
        std::thread::sleep(pause);
        let healing = Instant::now();
        match blow {
            Blow::Kill | Blow::Stop => node.begin(),
            Blow::Pause => node.signal(Signal::SIGCONT),
        }
        self.cluster.nodes.iter_mut().for_each(node::TestNode::wait_ready);
        healing.elapsed()
    }

    fn load(&mut self) -> Result<Load, Failure> {
        let mut load = Load { stop: Arc::default(), pulse: Arc::default(), writings: Vec::new() };
        for number in 0..self.options.clients {
            let writer = Writer {
                number,
                round: String::new(),
                user: self.ledger.users.get(&number).copied().unwrap_or(false),
                marks: None,
                dice: Dice::new(self.dice.bits()),
            };
            let revision = self.ledger.revision_of(&writer::counter(number));
            let rpc = self.rpc(writer::waits(number))?;
            let (stop, pulse) = (load.stop.clone(), load.pulse.clone());
            let roamer = Roamer { writer, rpc, revision, stop, pulse };
            load.writings.push(self.runtime.spawn(roamer.run()));
        }
        Ok(load)
    }

    fn verify_history(&mut self) -> Result<(), Failure> {
        let result = self.cluster.exec("history_verify", json!({}));
        if result["result_code"] != 0 {
            self.ledger.findings.push(format!("history_verify: {result}"));
        }
        // It was a job that the ledger does not know.
        let rpc = self.rpc(PATIENT)?;
        self.runtime.block_on(self.ledger.skip(&rpc))
    }

    fn compare_nodes(&mut self) -> Result<(), Failure> {
        let compared = equal::stop_and_compare(&mut self.cluster)?;
        self.report.equal += u32::from(compared.findings.is_empty());
        self.report.digest = compared.digest;
        self.ledger.findings.extend(compared.findings);
        self.cluster.nodes.iter_mut().for_each(node::TestNode::begin);
        self.cluster.nodes.iter_mut().for_each(node::TestNode::wait_ready);
        Ok(())
    }
}
