//! What a node keeps of the past: all revisions, over full trees, and a history within its bound.

use super::draining::eventually;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tiebeam_tests::{Options, TestNode};

/// Sets values in batches of calls until a revision is reached; gives what each revision wrote.
fn write_until(node: &TestNode, revision: u64) -> BTreeMap<u64, (String, u64)> {
    let (mut wire, mut written) = (node.connect(), BTreeMap::new());
    let mut value = 0;
    while written.last_key_value().is_none_or(|(newest, _)| *newest < revision) {
        let calls: Vec<Value> = (0..100)
            .map(|nth| {
                let params = json!({"path": format!("app/p{}", nth % 7), "value": value + nth});
                json!({"jsonrpc": "2.0", "id": nth, "method": "job_exec",
                       "params": ["config_set", {"params": params}]})
            })
            .collect();
        let body = json!(calls).to_string();
        let reply = wire.request("POST", "/", &node.admin(), &[], body.as_bytes());
        for reply in reply.expect("an answer").json().as_array().expect("a batch") {
            let made = reply["result"]["result_revision"].as_u64();
            let nth = reply["id"].as_u64().expect("an id");
            written.insert(made.expect("a revision"), (format!("app/p{}", nth % 7), value + nth));
        }
        value += 100;
    }
    written
}

#[test]
fn any_old_revision_is_read_over_a_full_tree() {
    let mut node = TestNode::start(Options::default());
    node.output("config_merge", json!({"path": "app", "value": {"first": {"of": "all"}}}));
    let written = write_until(&node, 2_250);
    let check = |node: &TestNode| {
        for revision in [3, 999, 1_000, 1_001, 2_000, 2_249] {
            let (path, value) = &written[&revision];
            let params = json!({"path": path, "revision": revision});
            assert_eq!(node.output("config_get", params), *value, "revision {revision}");
            let params = json!({"path": "app/first", "revision": revision});
            assert_eq!(node.output("config_get", params), json!({"of": "all"}));
        }
        let (path, value) = &written[&1_000];
        let diff = node.output("config_diff", json!({"from": 999, "to": 1_000}));
        assert!(diff.to_string().contains(path.as_str()), "{diff}");
        assert!(diff.to_string().contains(&value.to_string()), "{diff}");
        assert_eq!(diff.as_array().map(Vec::len).unwrap_or(1), 1, "{diff}");
    };
    check(&node);
    let trees = |node: &TestNode| {
        let page = node.call(&node.admin(), "job_history", json!([{"limit": 1000}]));
        let page = page.expect("a page");
        let records = page["records"].as_array().expect("records").clone();
        records.into_iter().filter(|record| record["kind"] == "tree").collect::<Vec<_>>()
    };
    assert_eq!(trees(&node)[0]["note"], "the configuration at revision 2000");
    node.kill9();
    node.run();
    check(&node);
    assert_eq!(node.exec("history_verify", json!({}))["result_code"], 0);
    assert_eq!(node.terminate(), 0);
    assert!(node.check().ok().contains("the chain is unbroken"));
}

/// A number of `/metrics`.
pub fn gauge(node: &TestNode, name: &str) -> u64 {
    let text = node.get(&node.admin(), "/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// 60 KB that do not compress to much less.
pub fn noise(mut seed: u64) -> String {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    let letter = |_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(letters[(seed >> 58) as usize])
    };
    (0..60_000).map(letter).collect()
}

#[test]
fn a_history_over_its_bound_loses_its_oldest_records_and_says_so() {
    let mut node = TestNode::start(Options::default().set("history.bytes_max", "64MiB"));
    let first = node.exec("config_set", json!({"path": "app/first", "value": 1}));
    let first = first["result_jobid"].as_str().expect("an id").to_owned();
    let mut warned = false;
    let mut wire = node.connect();
    for seed in 1..2_000 {
        let params = json!({"path": "app/noise", "value": noise(seed)});
        let set = wire.call(&node.admin(), "job_exec", json!(["config_set", {"params": params}]));
        assert_eq!(set.expect("a result")["result_code"], 0);
        if seed % 25 == 0 {
            let health = &node.output("cluster_info", json!({}))["health"];
            warned |= health.to_string().contains("history.bytes_max");
            if gauge(&node, "tiebeam_history_floor") > 1 {
                println!("cut after {seed} jobs");
                break;
            }
        }
    }
    assert!(warned, "there was a warning before");
    let floor = gauge(&node, "tiebeam_history_floor");
    assert!(floor > 1, "it was cut");
    eventually("the files are gone", || {
        (gauge(&node, "tiebeam_history_bytes") < 64 << 20).then_some(())
    });
    let gone = |node: &TestNode| {
        let unknown = node.call(&node.admin(), "job_result", json!([first]));
        assert_eq!(unknown.expect_err("it is gone")["data"]["name"], "unknown_job_id");
        let old = node.exec("config_get", json!({"path": "app/first", "revision": 2}));
        assert!(old["result_desc"].as_str().expect("why").contains("unknown_revision"), "{old}");
        let verified = node.output("history_verify", json!({}));
        assert_eq!((&verified["ok"], &verified["from"]), (&json!(true), &json!(floor)));
        assert_eq!(node.output("config_get", json!({"path": "app/first"})), 1);
    };
    gone(&node);
    node.kill9();
    node.run();
    gone(&node);
    assert_eq!(node.terminate(), 0);
    assert!(node.check().ok().contains("everything is sound"));
}
