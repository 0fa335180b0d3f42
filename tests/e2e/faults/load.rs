//! Clients that write while something is wrong, and the ledger of what was acknowledged to them.

use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::crash::Dice;
use tiebeam_tests::crash::ledger::Ledger;
use tiebeam_tests::crash::load::{Call, Writer};
use tiebeam_tests::crash::rpc::{Login, Rpc, Waits};
use tiebeam_tests::failover::pulse::Pulse;
use tiebeam_tests::failover::writer::{Roamer, waits};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// What the ledger waits for.
const PATIENT: Waits = Waits {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(30),
    again: Duration::from_secs(45),
};

/// Writers that follow the master.
pub struct Load {
    runtime: Runtime,
    rpc: Rpc,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
    /// When anybody was last served.
    pub pulse: Arc<Pulse>,
    writings: Vec<JoinHandle<Vec<Call>>>,
}

impl Load {
    /// Starts so many writers. Until the end only they may make jobs.
    #[track_caller]
    pub fn start(cluster: &TestCluster, clients: u64) -> Load {
        let made = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = made.expect("a runtime");
        let login = json!(["admin", cluster.nodes[0].password]);
        let token = cluster.call(&cluster.admin(), "user_login", login).expect("a token");
        let token = token["token"].as_str().expect("it is a text").to_owned();
        let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.address).collect();
        let rpc = |waits| {
            let login = Login::Bearer(token.clone());
            Rpc::of_cluster(&cluster.nodes[0].ca_file, &addresses, login, waits).expect("a client")
        };
        let patient = rpc(PATIENT);
        let ledger = runtime.block_on(Ledger::open(&patient, PathBuf::new()));
        let ledger = ledger.unwrap_or_else(|error| panic!("{error}"));
        let (stop, pulse) = (Arc::<AtomicBool>::default(), Arc::<Pulse>::default());
        let mut dice = Dice::new(u64::from(std::process::id()));
        let mut writings = Vec::new();
        for number in 0..clients {
            let dice = Dice::new(dice.bits());
            let round = String::new();
            let writer = Writer { number, round, user: false, marks: None, dice };
            let (stop, pulse) = (stop.clone(), pulse.clone());
            let roamer = Roamer { writer, rpc: rpc(waits(number)), revision: 0, stop, pulse };
            writings.push(runtime.spawn(roamer.run()));
        }
        Load { runtime, rpc: patient, ledger, stop, pulse, writings }
    }

    /// Stops the writers and asks a cluster that is well again for everything that they were told:
    /// it is there, once, and nothing else is.
    #[track_caller]
    pub fn end(mut self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let silence = self.pulse.longest();
        let mut calls = Vec::new();
        for writing in self.writings {
            calls.extend(self.runtime.block_on(writing).expect("a writer does not panic"));
        }
        let settled = self.runtime.block_on(self.ledger.settle(&self.rpc, calls));
        settled.unwrap_or_else(|error| panic!("{what}: {error}"));
        let tally = &self.ledger.tally;
        println!(
            "{what}: {} acknowledged, {} sent again, of these {} had run; {} jobs; longest time \
             without an answer {silence:?}",
            tally.acknowledged, tally.sent_again, tally.had_run, tally.jobs
        );
        assert_eq!(self.ledger.findings, Vec::<String>::new(), "{what}");
        assert!(tally.acknowledged > 0, "{what}: nobody was served");
    }
}
