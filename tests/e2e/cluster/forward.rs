//! `rpc.on_follower: forward` and the unix socket of a node that is not the master.

use super::{eventually, follower};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::need::{self, need};
use tiebeam_tests::program::command;
use tiebeam_tests::{Login, Options, Wire, run};

fn forwarding() -> Options {
    Options::default().set("rpc.on_follower", "forward")
}

fn record(cluster: &TestCluster, id: &Value) -> Value {
    cluster.call(&cluster.admin(), "job_info", json!([id])).expect("a record")
}

#[test]
fn a_stock_client_works_on_a_follower_that_forwards() {
    if !need("stock xmlrpc.client", &["python3", "-c", "import ssl, xmlrpc.client"]) {
        return;
    }
    let cluster = TestCluster::start(3, &forwarding());
    let node = &cluster.nodes[follower(&cluster)];
    let path = format!("{}/e2e/stock_forward.py", env!("CARGO_MANIFEST_DIR"));
    let mut script = command("python3", &[&path, &node.address.to_string()]);
    script.arg(&node.ca_file).arg(&node.password);
    let ended = run(&mut script, "");
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
    let request = &record(&cluster, &json!(ended.out.trim()))["request"];
    assert_eq!(request["protocol"], "xml-rpc", "{request}");
    let peer = request["peer"].as_str().unwrap_or_default();
    assert!(peer.starts_with("127.0.0.1:"), "the client, not the node that took the call: {peer}");
    assert!(request["user_agent"].to_string().contains("xmlrpc"), "{request}");
}

#[test]
fn every_forwarded_call_is_answered_while_the_master_is_killed() {
    const CALLS: usize = 40;
    let mut cluster = TestCluster::start(3, &forwarding());
    let master = cluster.master();
    let (address, ca) = {
        let node = &cluster.nodes[follower(&cluster)];
        (node.address, node.ca_file.clone())
    };
    let admin = cluster.admin();
    let login = admin.clone();
    let client = std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        let mut wire = Wire::tls(address, &ca, None).expect("a connection");
        for number in 0..CALLS {
            let params = json!({"path": format!("app/n{number}"), "value": number});
            let kwargs = json!({"params": params, "request_id": format!("forwarded-{number}")});
            let begun = Instant::now();
            while wire.call(&login, "job_exec", json!(["config_set", kwargs])).is_err() {
                assert!(begun.elapsed() < Duration::from_secs(60), "call {number}");
            }
            longest = longest.max(begun.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        longest
    });
    std::thread::sleep(Duration::from_millis(700));
    cluster.nodes[master].kill9();
    std::thread::sleep(Duration::from_millis(500));
    cluster.nodes[master].run();
    let longest = client.join().expect("every call was answered with 200");
    assert!(longest < Duration::from_secs(15), "a call took {longest:?}");
    let page = cluster.call(&admin, "job_history", json!([{"name": "config_set", "limit": 200}]));
    let records = page.expect("a page")["records"].as_array().map_or(0, Vec::len);
    assert_eq!(records, CALLS, "each ran once");
}

#[test]
fn the_unix_socket_of_a_follower_never_redirects() {
    if !nix::unistd::Uid::effective().is_root() {
        return need::not_run("unix socket of a follower", "it takes root");
    }
    let cluster = TestCluster::start(3, &Options::default());
    let at = follower(&cluster);
    let mut wire = Wire::unix(&cluster.nodes[at].socket()).expect("a connection");
    let state = wire.call(&Login::None, "user_state", json!([])).expect("root is user root");
    assert_eq!((&state["user"], &state["via"]), (&json!("root"), &json!("unix")), "{state}");
    let set = json!(["config_set", {"params": {"path": "app/by-root", "value": 1}}]);
    let result = wire.call(&Login::None, "job_exec", set).expect("a result");
    assert_eq!(result["result_code"], 0, "{result}");
    let record = record(&cluster, &result["result_jobid"]);
    let caller = format!("unix:{}:0:{}", 11 + at, std::process::id());
    assert_eq!(record["request"]["peer"], caller, "{record}");
    assert_eq!(record["user"], "root");
}

#[test]
fn root_of_another_node_is_nobody_where_the_master_says_so() {
    if !nix::unistd::Uid::effective().is_root() {
        return need::not_run("unix socket of a follower", "it takes root");
    }
    let cluster =
        TestCluster::start(3, &Options::default().set("unix_socket.remote_root", "false"));
    let (at, master) = (follower(&cluster), cluster.master());
    let call = |at: usize| {
        let mut wire = Wire::unix(&cluster.nodes[at].socket()).expect("a connection");
        wire.call(&Login::None, "job_exec", json!(["node_list"]))
    };
    let refused = call(at).expect_err("root of another node");
    assert_eq!(refused["data"]["name"], "forbidden", "{refused}");
    let own = eventually("root of the master's machine", || call(master).ok());
    assert_eq!(own["result_code"], 0, "{own}");
}
