//! How long nobody is served after kill -9 of the leader: the longest time between two
//! successful writes of eight clients that go to whoever answers.

use crate::client::Connector;
use crate::etcd::{self, Etcd};
use crate::grpc;
use crate::nodes::{self, Nodes};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
/// Before the kill, and after the restart of what was killed.
const SETTLE: Duration = Duration::from_secs(3);
/// After the kill.
const WATCH: Duration = Duration::from_secs(6);
/// Longest wait for one write.
const LIMIT: Duration = Duration::from_millis(1_500);

/// When writes succeeded.
type Successes = Arc<Mutex<Vec<Instant>>>;

fn note(successes: &Successes) {
    successes.lock().expect("no writer panics").push(Instant::now());
}

/// The longest pause between two successes around `from`.
fn longest(successes: &Successes, from: Instant) -> Duration {
    let mut times = successes.lock().expect("no writer panics").clone();
    times.sort();
    let before = times.partition_point(|at| *at < from).saturating_sub(1);
    let pairs = times[before..].windows(2).map(|pair| pair[1] - pair[0]);
    pairs.max().unwrap_or(WATCH)
}

/// Prints median and worst.
pub fn print(who: &str, mut gaps: Vec<Duration>) {
    gaps.sort();
    let ms = |gap: Duration| gap.as_millis();
    let all: Vec<u128> = gaps.iter().copied().map(ms).collect();
    let median = gaps.get(gaps.len() / 2).copied().map_or(0, ms);
    let worst = gaps.last().copied().map_or(0, ms);
    println!("gap after kill -9 of the leader, {who}: median {median} ms, max {worst} ms, {all:?}");
}

/// The gaps of `kills` kills of our master.
pub async fn of_nodes(nodes: &mut Nodes, kills: usize) -> Vec<Duration> {
    let mut gaps = Vec::new();
    for _ in 0..kills {
        let (stop, successes) = (Arc::new(AtomicBool::new(false)), Successes::default());
        let writers: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (all, stop) = (nodes.connectors(), stop.clone());
                tokio::spawn(write_ours(all, client, stop, successes.clone()))
            })
            .collect();
        tokio::time::sleep(SETTLE).await;
        let leader = nodes.leader().await.0;
        let killed = Instant::now();
        nodes.kill(leader);
        tokio::time::sleep(WATCH).await;
        gaps.push(longest(&successes, killed));
        nodes.restart(leader);
        tokio::time::sleep(SETTLE).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let _ = writer.await;
        }
    }
    gaps
}

async fn write_ours(
    all: Vec<Connector>,
    client: usize,
    stop: Arc<AtomicBool>,
    successes: Successes,
) {
    let (mut nth, mut number) = (client, 0);
    while !stop.load(Ordering::Relaxed) {
        nth += 1;
        let Ok(mut connection) = all[nth % all.len()].try_connect().await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let body = nodes::body("start", client, number);
            let sent = tokio::time::timeout(LIMIT, connection.try_post(&body)).await;
            let failed = match sent {
                Ok(Ok(answer)) => answer.windows(8).any(|part| part == b"\"error\":"),
                _ => true,
            };
            if failed {
                break;
            }
            note(&successes);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The gaps of `kills` kills of etcd's leader.
pub async fn of_etcd(etcd: &mut Etcd, kills: usize) -> Vec<Duration> {
    let mut gaps = Vec::new();
    for _ in 0..kills {
        let (stop, successes) = (Arc::new(AtomicBool::new(false)), Successes::default());
        let writers: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (tls, stop) = (etcd.tls(), stop.clone());
                tokio::spawn(write_theirs(tls, client, stop, successes.clone()))
            })
            .collect();
        tokio::time::sleep(SETTLE).await;
        let leader = etcd.leader().await;
        let killed = Instant::now();
        etcd.kill(leader);
        tokio::time::sleep(WATCH).await;
        gaps.push(longest(&successes, killed));
        etcd.restart(leader);
        tokio::time::sleep(SETTLE).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let _ = writer.await;
        }
    }
    gaps
}

async fn write_theirs(
    tls: tokio_rustls::TlsConnector,
    client: usize,
    stop: Arc<AtomicBool>,
    successes: Successes,
) {
    let (mut nth, mut number) = (client, 0);
    while !stop.load(Ordering::Relaxed) {
        nth += 1;
        let Ok(mut connection) = grpc::Connection::open(&tls, etcd::address(nth % 3)).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let message = etcd::put(client, number);
            let sent = tokio::time::timeout(LIMIT, connection.call(etcd::PUT, &message)).await;
            if !matches!(sent, Ok(Ok(_))) {
                break;
            }
            note(&successes);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
