//! A node that stands still holds nobody up: it is named, and catches up (ruling 6).

use super::{eventually, follower};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::failover::equal;
use tiebeam_tests::{Options, TestNode};

/// How long the node stands still.
const PAUSE: Duration = Duration::from_secs(10);
/// The setting `commit_wait_ms`.
const COMMIT_WAIT: Duration = Duration::from_secs(1);
/// What else a call may take while the machine is busy: a node that was waited for takes ten.
const SLACK: Duration = Duration::from_secs(3);
/// Clients that write meanwhile.
const WRITERS: usize = 8;

/// A call that was answered.
struct Answered {
    begun: Instant,
    took: Duration,
    result: Value,
}

fn write(
    node: &TestNode,
    number: usize,
    stop: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<Vec<Answered>> {
    let (mut wire, login, stop) = (node.connect(), node.admin(), stop.clone());
    std::thread::spawn(move || {
        let mut answered = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let params = json!({"path": format!("app/w{number}"), "value": answered.len()});
            let begun = Instant::now();
            let result = wire.call(&login, "job_exec", json!(["config_set", {"params": params}]));
            let result = result.expect("the master stays the master");
            answered.push(Answered { begun, took: begun.elapsed(), result });
        }
        answered
    })
}

#[test]
fn nobody_waits_for_a_node_that_stands_still_and_every_record_names_it() {
    let mut cluster = TestCluster::start(3, &Options::default());
    let (master, still) = (cluster.master(), follower(&cluster));
    let node_id = 11 + still as u64;
    let stop = Arc::new(AtomicBool::new(false));
    let writing: Vec<_> =
        (0..WRITERS).map(|number| write(&cluster.nodes[master], number, &stop)).collect();
    std::thread::sleep(Duration::from_secs(1));
    let paused = Instant::now();
    cluster.nodes[still].signal(Signal::SIGSTOP);
    std::thread::sleep(PAUSE);
    let woken = Instant::now();
    cluster.nodes[still].signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    let answered: Vec<Answered> =
        writing.into_iter().flat_map(|one| one.join().expect("a writer")).collect();
    let longest = answered.iter().map(|one| one.took).max().expect("calls");
    assert!(longest < COMMIT_WAIT + SLACK, "a call took {longest:?}");
    assert!(answered.iter().all(|one| one.result["result_code"] == 0));
    // Calls that began when the node had been silent for longer than an election timeout.
    let without: Vec<&Answered> = answered
        .iter()
        .filter(|one| one.begun > paused + Duration::from_secs(3) && one.begun + one.took < woken)
        .collect();
    let mut times: Vec<Duration> = without.iter().map(|one| one.took).collect();
    times.sort();
    let median = times[times.len() / 2];
    println!(
        "{} calls without the node, median {median:?}, longest of all {longest:?}",
        times.len()
    );
    assert!(median < COMMIT_WAIT / 2, "half of them took {median:?}");
    for one in &without {
        assert_eq!(one.result["result_nodes_pending"], json!([node_id]), "{}", one.result);
    }
    let reasons = reasons(&cluster, &answered, node_id, paused..woken);
    assert!(reasons.contains("offline"), "{reasons:?}");
    assert!(reasons.iter().all(|one| one == "offline" || one == "lagging"), "{reasons:?}");
    eventually("a call that awaits all three", || {
        let result = cluster.exec("config_set", json!({"path": "app/last", "value": "all"}));
        result["result_nodes_pending"].as_array().is_none_or(Vec::is_empty).then_some(())
    });
    let compared = equal::stop_and_compare(&mut cluster).expect("they come to the same index");
    assert_eq!(compared.findings, Vec::<String>::new());
}

/// What the records of some calls of that time say about the node.
fn reasons(
    cluster: &TestCluster,
    answered: &[Answered],
    node: u64,
    time: std::ops::Range<Instant>,
) -> BTreeSet<String> {
    let then: Vec<&Answered> =
        answered.iter().filter(|one| time.contains(&(one.begun + one.took))).collect();
    let every = (then.len() / 40).max(1);
    let mut reasons = BTreeSet::new();
    for one in then.iter().take(20).chain(then.iter().step_by(every)) {
        let id = &one.result["result_jobid"];
        let record = cluster.call(&cluster.admin(), "job_info", json!([id])).expect("a record");
        let pending = record["nodes"]["pending"].as_array().cloned().unwrap_or_default();
        if pending.contains(&json!(node)) {
            let reason = record["nodes"]["reasons"][node.to_string()].as_str();
            reasons.insert(reason.expect("who is named has a reason").to_owned());
        }
    }
    reasons
}
