//! A call that is sent again: with a `request_id` it is the first call, on whichever master
//! (ruling 5).

use super::eventually;
use serde_json::{Value, json};
use tiebeam_tests::Options;
use tiebeam_tests::cluster::TestCluster;

#[test]
fn a_key_is_the_first_job_on_every_master() {
    let mut cluster = TestCluster::start(3, &Options::default());
    let admin = cluster.admin();
    let start = |cluster: &TestCluster, value: i64| {
        let params = json!({"path": "app/once", "value": value});
        let kwargs = json!({"params": params, "request_id": "the-key-of-this-test"});
        cluster.call(&admin, "job_start", json!(["config_set", kwargs]))
    };
    let first = start(&cluster, 1).expect("a job");
    for _ in 0..2 {
        let master = cluster.master();
        cluster.nodes[master].kill9();
        assert_eq!(start(&cluster, 1).as_ref(), Ok(&first), "on the next master");
        let other = start(&cluster, 2).expect_err("these are other parameters");
        assert_eq!(other["code"], -32007, "{other}");
        assert!(other["message"].to_string().contains("another call"), "{other}");
        cluster.nodes[master].run();
    }
    let kwargs = json!({"params": {"path": "app/once", "value": 1},
                        "request_id": "the-key-of-this-test"});
    let again = cluster.call(&admin, "job_exec", json!(["config_set", kwargs])).expect("a result");
    assert_eq!((&again["result_jobid"], &again["result_code"]), (&first, &json!(0)), "{again}");
    let history = cluster.call(&admin, "job_history", json!([{"name": "config_set"}]));
    let records = history.expect("a page")["records"].as_array().cloned().unwrap_or_default();
    assert_eq!(records.len(), 1, "{records:?}");
}

#[test]
fn a_master_that_is_stopped_in_order_hands_over_and_answers_who_waits() {
    let mut cluster = TestCluster::start(3, &Options::default());
    let (master, admin) = (cluster.master(), cluster.admin());
    let node = &cluster.nodes[master];
    let mut wire = node.connect();
    // A revision that does not come keeps the job under way.
    let params = json!({"timeout_s": 50, "nodes": [11], "revision": 1_000_000});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec",
                      "params": ["config_wait", {"params": params, "request_id": "waits"}]});
    wire.send("POST", "/", &admin, &[], call.to_string().as_bytes()).expect("it is sent");
    let id: Value = eventually("the job is there", || {
        let page = node.call(&admin, "job_history", json!([{"name": "config_wait"}])).ok()?;
        Some(page["records"][0]["job"].clone()).filter(Value::is_string)
    });
    assert_eq!(cluster.nodes[master].terminate(), 0);
    let answer = wire.read_reply().expect("a request that was read is answered").json();
    assert_eq!(answer["result"]["result_code"], 5, "{answer}");
    assert_eq!(answer["result"]["result_jobid"], id, "{answer}");
    let log = tiebeam_tests::node::read(&cluster.nodes[master].log_file());
    assert!(log.contains("leadership handed over") && log.contains("given=true"), "{log}");
    let cancelled = cluster.call(&admin, "job_cancel", json!([id])).expect("the next one knows it");
    assert!(["cancelled", "stopping"].contains(&cancelled.as_str().unwrap_or_default()));
    cluster.nodes[master].run();
}
