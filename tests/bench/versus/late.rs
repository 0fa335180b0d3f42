//! A node that was away for many jobs: how long it takes to catch up by snapshot and history
//! ranges, and what the clients of the others notice meanwhile.

use crate::Outcome;
use crate::nodes::Nodes;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const CLIENTS: usize = 32;
/// How long one look at the clients' times is.
const LOOK: Duration = Duration::from_secs(3);
/// How long the node may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Takes a follower away for `jobs` jobs and prints what its return costs.
pub async fn run(nodes: &mut Nodes, jobs: u64) {
    let leader = nodes.leader().await.0;
    let away = (leader + 1) % 3;
    let term = info(nodes).await["term"].clone();
    nodes.kill(away);
    let begun = Instant::now();
    let before = revision(nodes).await;
    let mut looks = Vec::new();
    while revision(nodes).await < before + jobs {
        looks.push(nodes.run("start", CLIENTS, LOOK).await);
    }
    let done = revision(nodes).await - before;
    let alone = worst_but_median(&looks);
    println!(
        "node {} was away for {done} jobs, {:.0} s; p99 of the clients meanwhile {:.2} ms",
        11 + away,
        begun.elapsed().as_secs_f64(),
        alone,
    );
    nodes.restart(away);
    let back = Instant::now();
    let mut looks = Vec::new();
    while !is_whole(nodes, away).await {
        assert!(back.elapsed() < PATIENCE, "node {} does not catch up", 11 + away);
        looks.push(nodes.run("start", CLIENTS, LOOK).await);
    }
    let during = worst_but_median(&looks);
    let same = info(nodes).await["term"] == term;
    println!(
        "it caught up in {:.1} s under load; p99 meanwhile {during:.2} ms, {:.2} times; \
         no election: {same}",
        back.elapsed().as_secs_f64(),
        during / alone,
    );
}

/// The median of the looks' 99th percentiles.
fn worst_but_median(looks: &[Outcome]) -> f64 {
    let mut all: Vec<f64> = looks.iter().map(|look| look.p99_ms()).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

async fn info(nodes: &Nodes) -> Value {
    let mut connection = nodes.leader().await.1;
    let kwargs = json!({"volatile": true});
    connection.call("job_exec", json!(["cluster_info", kwargs])).await["result_output"].clone()
}

async fn revision(nodes: &Nodes) -> u64 {
    info(nodes).await["revision"].as_u64().unwrap_or(0)
}

/// Whether a node says of itself that it is ready: caught up, and its history has no gap.
async fn is_whole(nodes: &Nodes, nth: usize) -> bool {
    match nodes.connectors()[nth].try_connect().await {
        Ok(mut connection) => connection.try_get("/health/ready").await.is_ok(),
        Err(_) => false,
    }
}
