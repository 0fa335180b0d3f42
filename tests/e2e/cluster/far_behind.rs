//! A node that was away for so long that the others' logs do not reach back: it gets a snapshot,
//! and the history from its peers (rulings 16 and 33).

use super::{eventually, follower};
use serde_json::{Value, json};
use std::thread;
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::failover::equal;
use tiebeam_tests::{Options, TestNode};

/// Changes that the node misses: a snapshot is taken every 5,000 entries at least, and the log is
/// kept up to the one before the last.
const CHANGES: usize = 30_000;
/// Connections that make them, and changes of one request.
const WRITERS: usize = 4;
const BATCH: usize = 100;

fn write(node: &TestNode, number: usize) {
    let (mut wire, login) = (node.connect(), node.admin());
    for round in 0..CHANGES / WRITERS / BATCH {
        let calls: Vec<Value> = (0..BATCH)
            .map(|at| {
                let params = json!({"path": format!("app/w{number}/k{at}"), "value": round});
                json!({"jsonrpc": "2.0", "id": at, "method": "job_start",
                       "params": ["config_set", {"params": params}]})
            })
            .collect();
        let body = Value::from(calls).to_string();
        let reply = wire.request("POST", "/", &login, &[], body.as_bytes()).expect("an answer");
        let answers = reply.json();
        let started = answers
            .as_array()
            .map_or(0, |all| all.iter().filter(|answer| answer["result"].is_string()).count());
        assert_eq!(started, BATCH, "{answers}");
    }
}

#[test]
fn a_node_that_missed_everything_catches_up_with_a_whole_history() {
    let mut cluster = TestCluster::start(3, &Options::default());
    let (master, away) = (cluster.master(), follower(&cluster));
    let early = cluster.exec("config_set", json!({"path": "app/early", "value": 1}));
    cluster.nodes[away].kill9();
    thread::scope(|scope| {
        for number in 0..WRITERS {
            let node = &cluster.nodes[master];
            scope.spawn(move || write(node, number));
        }
    });
    let missed = cluster.exec("config_set", json!({"path": "app/late", "value": 1}));
    cluster.nodes[away].run();
    let log = tiebeam_tests::node::read(&cluster.nodes[away].log_file());
    assert!(log.contains("it gets a snapshot"), "it was not far enough behind:\n{log}");
    let id = 11 + away;
    cluster.output("master_change", json!({"nids": [id]}));
    eventually("it is the master", || (cluster.master() == away).then_some(()));
    let verified = cluster.output("history_verify", json!({}));
    assert_eq!((&verified["ok"], &verified["gaps"]), (&json!(true), &json!([])), "{verified}");
    assert!(verified["records"].as_u64() >= Some(CHANGES as u64), "{verified}");
    let node = &cluster.nodes[away];
    for known in [&early, &missed] {
        let id = &known["result_jobid"];
        let result = node.call(&node.admin(), "job_result", json!([id])).expect("it knows the job");
        assert_eq!(result["result_revision"], known["result_revision"], "{result}");
    }
    let compared = equal::stop_and_compare(&mut cluster).expect("they come to the same index");
    assert_eq!(compared.findings, Vec::<String>::new());
}
