//! Three nodes of Tiebeam beside three members of etcd, on the same disk and the same machine, by
//! hand: `cargo run -p tiebeam-tests --release --bin versus-etcd`.
//!
//! One process drives both, in alternation: as many connections as clients, all to the leader, TLS
//! for clients and for peers of both, 128-byte values. It prints puts beside modify jobs and
//! linearizable gets beside volatile reads: rate, p50, p99, and the CPU time that the three
//! processes spend per operation while the row lasts, which is a fair figure on a machine that
//! others use too; then how long nobody is served after kill -9 of the leader. etcd is Debian's
//! (`apt-get install etcd-server`).

#[path = "../client.rs"]
mod client;
#[path = "../disk.rs"]
mod disk;
mod etcd;
mod gap;
mod grpc;
mod late;
mod nodes;
mod process;

use clap::Parser;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Parser)]
struct Arguments {
    /// Seconds of each row
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds, alternating; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128])]
    clients: Vec<usize>,
    /// Rows: start, exec, volatile
    #[arg(long, value_delimiter = ',', default_value = "start,exec,volatile")]
    loads: Vec<String>,
    /// Lines of configuration to begin with
    #[arg(long, default_value_t = 4_000)]
    lines: usize,
    /// Kills of the leader, of each
    #[arg(long, default_value_t = 5)]
    kills: usize,
    /// Folder for the data of both
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leave etcd out
    #[arg(long)]
    alone: bool,
    /// Take a follower away for so many jobs and print what its return costs
    #[arg(long, default_value_t = 0)]
    away: u64,
}

/// What a row came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    errors: usize,
    operations: usize,
    cpu_ms: f64,
}

impl Outcome {
    /// The same, with the CPU time that the three processes spent meanwhile: per operation.
    fn with_cpu(self, spent_ms: u64) -> Outcome {
        let cpu_ms = spent_ms as f64 / self.operations.max(1) as f64;
        Outcome { cpu_ms, ..self }
    }

    /// The 99th percentile, in milliseconds.
    pub fn p99_ms(&self) -> f64 {
        self.p99_ms
    }
}

/// Sums up the calls of all clients.
pub fn sum_up(parts: Vec<(Vec<Duration>, usize)>, length: Duration) -> Outcome {
    let errors = parts.iter().map(|(_, errors)| errors).sum();
    let mut times: Vec<Duration> = parts.into_iter().flat_map(|(times, _)| times).collect();
    if times.is_empty() {
        return Outcome { errors, ..Outcome::default() };
    }
    times.sort();
    let at = |share: f64| {
        let place = ((times.len() as f64 * share) as usize).min(times.len() - 1);
        times[place].as_secs_f64() * 1e3
    };
    let per_second = times.len() as f64 / length.as_secs_f64();
    let (p50_ms, p99_ms, operations) = (at(0.5), at(0.99), times.len());
    Outcome { per_second, p50_ms, p99_ms, errors, operations, cpu_ms: 0.0 }
}

fn median(mut outcomes: Vec<Outcome>) -> Outcome {
    outcomes.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    outcomes.get(outcomes.len() / 2).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    rustls::crypto::ring::default_provider().install_default().expect("no other provider");
    let folder = arguments.data.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("tiebeam-versus-{}", std::process::id()))
    });
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let mut ours = nodes::Nodes::start(&folder).await;
    ours.fill(arguments.lines).await;
    let mut theirs = match arguments.alone {
        true => None,
        false => Some(etcd::Etcd::start(&folder).await),
    };
    println!("idle RSS of our nodes, MB: {:?}", ours.rss_mb());
    println!("idle CPU of our nodes over 10 s, percent: {:?}", ours.idle_cpu().await);
    rows(&arguments, &folder, &ours, theirs.as_ref()).await;
    println!("RSS at the end, MB: ours {:?}", ours.rss_mb());
    if arguments.away > 0 {
        late::run(&mut ours, arguments.away).await;
    }
    if arguments.kills > 0 {
        gap::print("tiebeam", gap::of(&mut ours, arguments.kills).await);
        if let Some(theirs) = &mut theirs {
            gap::print("etcd", gap::of(theirs, arguments.kills).await);
        }
    }
    drop((ours, theirs));
    if arguments.data.is_none() {
        let _ = std::fs::remove_dir_all(&folder);
    }
}

async fn rows(
    arguments: &Arguments,
    folder: &std::path::Path,
    ours: &nodes::Nodes,
    theirs: Option<&etcd::Etcd>,
) {
    let length = Duration::from_secs(arguments.seconds);
    println!(
        "row      clients |  ours/s   p50    p99  err |  etcd/s   p50    p99  err | ratio  p50 | \
         CPU ms/op: ours  etcd ratio | fdatasync/s (p50 us)"
    );
    for load in &arguments.loads {
        for clients in &arguments.clients {
            let (mut our, mut their, mut raw) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..arguments.rounds {
                raw.push(disk::fdatasync(folder, Duration::from_millis(500)));
                our.push(ours.run(load, *clients, length).await);
                if let Some(theirs) = theirs {
                    their.push(theirs.run(load == "volatile", *clients, length).await);
                }
            }
            let (our, their) = (median(our), median(their));
            raw.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
            let raw = &raw[raw.len() / 2];
            println!(
                "{load:<9} {clients:>6} | {:>7.0} {:>6.2} {:>6.2} {:>3} | {:>7.0} {:>6.2} {:>6.2} \
                 {:>3} | {:>5.2} {:>5.2} | {:>15.3} {:>5.3} {:>5.2} | {:>6.0} ({:.0})",
                our.per_second,
                our.p50_ms,
                our.p99_ms,
                our.errors,
                their.per_second,
                their.p50_ms,
                their.p99_ms,
                their.errors,
                our.per_second / their.per_second,
                our.p50_ms / their.p50_ms,
                our.cpu_ms,
                their.cpu_ms,
                our.cpu_ms / their.cpu_ms,
                raw.per_second,
                raw.p50_us,
            );
        }
    }
    let begin = Instant::now();
    let lag = ours.wait_for_lag().await;
    println!(
        "our history's lag: {lag} records {:.1} s after the end",
        begin.elapsed().as_secs_f64()
    );
}
