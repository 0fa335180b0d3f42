//! Members come and go: growth, shrinking, a swap, and a node that was removed.

use super::eventually;
use serde_json::{Value, json};
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::failover::equal;
use tiebeam_tests::{Login, Options, TestNode};

fn seats(cluster: &TestCluster) -> Value {
    cluster.output("cluster_info", json!({}))["members"].clone()
}

fn set(cluster: &TestCluster, value: &str) {
    let result = cluster.exec("config_set", json!({"path": "app/step", "value": value}));
    assert_eq!(result["result_code"], 0, "{result}");
}

#[test]
fn a_cluster_grows_to_five_and_shrinks_to_three() {
    let options = Options::default();
    let mut cluster = TestCluster::start(1, &options);
    set(&cluster, "alone");
    for count in 2..=5 {
        cluster.grow(&options);
        set(&cluster, &format!("{count} nodes"));
    }
    let learners = json!({"11": "voter", "12": "voter", "13": "voter",
                          "14": "learner", "15": "learner"});
    assert_eq!(seats(&cluster), learners);
    for node in [14, 15] {
        cluster.output("node_promote", json!({"nid": node}));
    }
    assert_eq!(cluster.voters().len(), 5);
    // Two of five may be away.
    let master = cluster.master();
    let away: Vec<usize> = (0..5).filter(|at| *at != master).take(2).collect();
    away.iter().for_each(|at| cluster.nodes[*at].kill9());
    set(&cluster, "two away");
    away.iter().for_each(|at| cluster.nodes[*at].run());
    // The master may be one of those that go: it goes last, and hands over first.
    let removed = cluster.exec("node_remove", json!({"nid": [11, 12]}));
    assert_eq!(removed["result_code"], 0, "{removed}");
    assert!(removed.get("result_revision").is_none(), "its parts make the revisions: {removed}");
    for node in ["11", "12"] {
        let told = &removed["result_output"][node];
        assert_eq!(told["result"], "ok", "{removed}");
        let info = cluster.call(&cluster.admin(), "job_info", json!([told["job"]])).expect("a job");
        let whole = removed["result_jobid"].as_str().expect("an id");
        assert_eq!(info["reason"], format!("part of {whole}"), "{info}");
        assert!(info["result"]["result_revision"].is_number(), "{info}");
    }
    set(&cluster, "without 11 and 12");
    assert_eq!(seats(&cluster), json!({"13": "voter", "14": "voter", "15": "voter"}));
    cluster.nodes.drain(..2);
    let compared = equal::stop_and_compare(&mut cluster).expect("they come to the same index");
    assert_eq!(compared.findings, Vec::<String>::new());
}

#[test]
fn a_member_is_swapped_and_the_removed_one_says_that_it_is_none() {
    let options = Options::default();
    let mut cluster = TestCluster::start(3, &options);
    set(&cluster, "before");
    cluster.grow(&options);
    let gone = (0..3).find(|at| *at != cluster.master()).expect("a follower");
    let gone_id = 11 + gone as u64;
    cluster.output("node_promote", json!({"nid": 14}));
    cluster.output("node_remove", json!({"nid": gone_id}));
    assert!(!cluster.voters().contains(&gone_id));
    set(&cluster, "after");
    let mut removed = cluster.nodes.remove(gone);
    is_out(&removed);
    removed.terminate();
    removed.begin();
    is_out(&removed);
    set(&cluster, "much later");
    let compared = equal::stop_and_compare(&mut cluster).expect("they come to the same index");
    assert_eq!(compared.findings, Vec::<String>::new());
}

/// The node serves nobody and says why.
#[track_caller]
fn is_out(node: &TestNode) {
    let problems = eventually("it says that it is no member", || {
        let mut wire = tiebeam_tests::Wire::unix(&node.socket()).ok()?;
        let reply = wire.request("GET", "/health/ready", &Login::None, &[], b"").ok()?;
        let problems = reply.json()["problems"].to_string();
        (reply.status == 503 && problems.contains("removed")).then_some(problems)
    });
    assert!(problems.contains("tiebeamd join"), "{problems}");
    let call = super::request("job_exec", json!(["node_list"]));
    let reply = super::post(node, &node.admin(), "/", &call);
    assert_eq!(reply.status, 503, "{}", reply.text());
}
