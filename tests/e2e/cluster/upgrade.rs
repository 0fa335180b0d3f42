//! A rolling upgrade: three nodes of one version become three of the next, one by one (ruling 12).

use super::{eventually, post, request};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::failover::equal;
use tiebeam_tests::program::{command_of, next_program};
use tiebeam_tests::{Options, TestNode, run};

fn level(cluster: &TestCluster) -> u64 {
    let info = cluster.output("cluster_info", json!({}));
    info["feature_level"].as_u64().expect("a level")
}

fn lists_the_new_job(node: &TestNode) -> bool {
    let reply = post(node, &node.admin(), "/", &request("job_list", json!([])));
    let jobs: Value = reply.json()["result"].clone();
    jobs.as_array().expect("names").iter().any(|job| job == "level_probe")
}

/// `app/_N`: a name that level 1 takes and level 2 does not.
fn set_old_name(cluster: &TestCluster, number: usize) -> i64 {
    let path = format!("app/_{number}");
    let result = cluster.exec("config_set", json!({"path": path, "value": number}));
    result["result_code"].as_i64().expect("a code")
}

/// What a stopped node held at an index.
fn digest(program: &Path, node: &TestNode, index: u64) -> String {
    let mut check = command_of(program);
    check.arg("check").arg("--data").arg(&node.data);
    run(check.args(["--digest", "--at", &index.to_string()]), "").ok()
}

#[track_caller]
fn is_still_old(cluster: &TestCluster, number: usize) {
    assert_eq!((level(cluster), set_old_name(cluster, number)), (1, 0), "step {number}");
    let new = cluster.call(&cluster.admin(), "job_start", json!(["level_probe", {}]));
    let code = new.expect_err("there is no such job yet")["code"].clone();
    let none = cluster.call(&cluster.admin(), "job_start", json!(["no_such_job", {}]));
    assert_eq!(code, none.expect_err("there is no such job")["code"], "it is unknown");
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        assert!(!lists_the_new_job(node), "step {number}: {}", node.url);
    }
}

#[test]
#[ignore = "needs a build of the next version; the group `cluster` of tests/run makes it"]
fn the_level_rises_when_the_last_member_is_upgraded() {
    let next = next_program();
    let mut cluster = TestCluster::start(3, &Options::default());
    for at in 0..3 {
        is_still_old(&cluster, 2 * at);
        assert_eq!(cluster.nodes[at].terminate(), 0);
        cluster.nodes[at].install(&next);
        if at == 2 {
            // The last one is away: it has not said yet what it supports.
            std::thread::sleep(Duration::from_secs(3));
        }
        is_still_old(&cluster, 2 * at + 1);
        if at < 2 {
            cluster.nodes[at].run();
        }
    }
    let before = equal::same_index(&cluster.nodes[..2]).expect("two that run");
    cluster.nodes[2].run();
    eventually("the level rises", || (level(&cluster) == 2).then_some(()));
    assert_ne!(set_old_name(&cluster, 9), 0, "a rule of the new level");
    let output = cluster.output("level_probe", json!({}));
    assert_eq!(output, json!({"feature_level": 2}));
    eventually("every node has the new job", || {
        cluster.nodes.iter().all(lists_the_new_job).then_some(())
    });
    let after = equal::same_index(&cluster.nodes).expect("all run");
    for node in &mut cluster.nodes {
        assert_eq!(node.terminate(), 0);
    }
    for index in [before, after] {
        let all: Vec<String> =
            cluster.nodes.iter().map(|node| digest(&next, node, index)).collect();
        assert!(all.iter().all(|one| *one == all[0]), "at {index}: {all:?}");
    }
    // There is no way back.
    let old = tiebeam_tests::program::tiebeamd_program();
    let mut start = command_of(&old);
    let ended = run(start.arg("run").arg("--data").arg(&cluster.nodes[0].data), "");
    let said = format!("{}{}", ended.out, ended.err);
    assert_ne!(ended.code, 0, "{said}");
    assert!(said.contains("the cluster has feature level 2; this version supports"), "{said}");
}
