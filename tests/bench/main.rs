//! Benchmarks of one node, by hand: `cargo run -p tiebeam-tests --release --bin tiebeam-bench`.
//!
//! It starts a node on loopback in a folder on the disk that is to be measured, drives it over
//! TLS with one keep-alive connection per client, and prints jobs per second, median and 99th
//! percentile, with the raw fdatasync rate of the same minute beside them. Conditions: 128-byte
//! values, each client on a path of its own, job files on. A row whose history lags by more than
//! a second at its end says so.

mod client;
mod disk;
mod load;
mod node;

use clap::Parser;
use load::{Load, Outcome};
use std::path::PathBuf;
use std::time::Duration;

/// What to measure.
#[derive(Parser)]
struct Arguments {
    /// Seconds of each row
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128])]
    clients: Vec<usize>,
    /// Loads: start, exec, read, volatile
    #[arg(long, value_delimiter = ',', default_value = "start,exec,read,volatile")]
    loads: Vec<String>,
    /// Lines of configuration to begin with
    #[arg(long, default_value_t = 4_000)]
    lines: usize,
    /// Folder for the node's data; a temporary one without it
    #[arg(long)]
    data: Option<PathBuf>,
    /// Address of the node
    #[arg(long, default_value = "127.0.0.77:20003")]
    listen: String,
    /// The daemon; without it the one beside this program
    #[arg(long)]
    tiebeamd: Option<PathBuf>,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    rustls::crypto::ring::default_provider().install_default().expect("no other provider");
    let (listen, data) = (&arguments.listen, arguments.data.clone());
    let subject = node::Subject::start(listen, data, arguments.tiebeamd.clone());
    let connector = client::Connector::new(subject.address, &subject.data, &subject.password);
    node::fill(&connector, arguments.lines).await;
    let rss = subject.rss_kib();
    println!("idle RSS with {} lines: {:.1} MB", arguments.lines, rss as f64 / 1024.0);
    println!(
        "load      clients   jobs/s    p50 ms    p99 ms   lag   fdatasync/s (p50 us)  syncs/job"
    );
    for load in &arguments.loads {
        let load = Load::parse(load);
        for clients in &arguments.clients {
            let mut rounds = Vec::new();
            for _ in 0..arguments.rounds {
                let raw = disk::fdatasync(&subject.data, Duration::from_millis(700));
                let duration = Duration::from_secs(arguments.seconds);
                let outcome = load::run(&connector, load, *clients, duration).await;
                rounds.push((outcome, raw, subject.lag(&connector).await));
            }
            print_row(load, *clients, &mut rounds);
        }
    }
    println!("RSS at the end: {:.1} MB", subject.rss_kib() as f64 / 1024.0);
    let (stopped, seconds) = subject.wait_for_lag(&connector).await;
    println!("lag is {stopped} after {seconds:.1} s");
}

fn print_row(load: Load, clients: usize, rounds: &mut [(Outcome, disk::Raw, u64)]) {
    rounds.sort_by(|a, b| a.0.per_second.total_cmp(&b.0.per_second));
    let (outcome, raw, _) = &rounds[rounds.len() / 2];
    let lag = rounds.iter().map(|round| round.2).max().unwrap_or(0);
    println!(
        "{:<9} {:>7} {:>8.0} {:>9.3} {:>9.3} {:>5} {:>12.0} ({:>5.0})     {:>6.3}  errors {}",
        load.name(),
        clients,
        outcome.per_second,
        outcome.p50_ms,
        outcome.p99_ms,
        lag,
        raw.per_second,
        raw.p50_us,
        outcome.syncs_per_job,
        outcome.errors,
    );
}
