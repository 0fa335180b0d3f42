//! A node that found damage stays up to say so, and does nothing else (ruling 45).

use serde_json::{Value, json};
use tiebeam_tests::crash::damage::CASES;
use tiebeam_tests::node::own_place;
use tiebeam_tests::program::command;
use tiebeam_tests::{Login, Options, TestNode, Wire, run};

/// A node with some records, stopped, damaged, and started again.
fn damaged(options: Options, damage: impl FnOnce(&TestNode)) -> TestNode {
    let mut node = TestNode::start(options);
    for number in 0..12 {
        node.output("config_set", json!({"path": "app/n", "value": number}));
    }
    assert_eq!(node.terminate(), 0);
    damage(&node);
    node.run_damaged();
    node
}

/// One of the ways of the crash rounds.
fn as_in_rounds(what: &'static str) -> impl FnOnce(&TestNode) {
    move |node| {
        let case = CASES.iter().find(|case| case.what == what).expect("a case of damage");
        (case.damage)(&node.data).expect("a folder that can be damaged");
    }
}

/// The log as it was when the node was new: no byte of it is wrong.
fn with_the_first_log(node: &TestNode) {
    let new = TestNode::init(Options::default());
    let log = |node: &TestNode| node.data.join("log");
    std::fs::remove_dir_all(log(node)).expect("the log of a stopped node");
    run(command("cp", &["-a"]).arg(log(&new)).arg(log(node)), "").ok();
}

/// What the node says of itself at both doors: alive, not ready, and why.
#[track_caller]
fn health(node: &TestNode, names: &str) -> Value {
    let unix = || Wire::unix(&node.socket()).expect("a connection");
    let mut said = Vec::new();
    for mut wire in [node.connect(), unix()] {
        for (path, status) in [("/health/live", 200), ("/health/ready", 503)] {
            let reply = wire.request("GET", path, &Login::None, &[], b"").expect("an answer");
            assert_eq!(reply.status, status, "{path}: {}", reply.text());
            let about = reply.json();
            assert_eq!((&about["live"], &about["ready"]), (&json!(true), &json!(false)));
            said.push(about);
        }
    }
    assert!(said.iter().all(|about| *about == said[0]), "{said:?}");
    let found = said[0]["damage"].as_str().expect("what was found");
    assert!(found.contains(names), "{found}");
    assert!(said[0]["hint"].as_str().is_some_and(|hint| hint.contains("tiebeamd check")));
    said.remove(0)
}

/// What is done to a stopped node.
type Harm = Box<dyn FnOnce(&TestNode)>;

#[test]
fn damage_of_the_log_or_the_history_is_told_at_both_doors() {
    let ways: [(&str, &str, Harm); 3] = [
        ("log", "log/seg-", Box::new(as_in_rounds("log: bit in a middle record"))),
        ("log", "the log is gone", Box::new(as_in_rounds("log: newest segment deleted"))),
        ("log", "the history has records up to", Box::new(with_the_first_log)),
    ];
    for (what, names, damage) in ways {
        let mut node = damaged(Options::default(), damage);
        let about = health(&node, names);
        if nix::unistd::Uid::effective().is_root() {
            status_at_the_socket(&node, about);
        } else {
            tiebeam_tests::need::not_run("damage at the socket", "it takes root");
        }
        assert_eq!(node.terminate(), 0);
        let check = node.check();
        let named = check.out.lines().find(|line| line.contains("WRONG")).unwrap_or_default();
        assert!(check.code == 1 && named.starts_with(what), "{}", check.out);
    }
}

/// Root at the socket may ask what was found and read the metrics, and nothing else.
#[track_caller]
fn status_at_the_socket(node: &TestNode, about: Value) {
    let mut wire = Wire::unix(&node.socket()).expect("a connection");
    assert_eq!(wire.call(&Login::None, "node_damage", json!([])), Ok(about));
    let metrics = wire.request("GET", "/metrics", &Login::None, &[], b"").expect("an answer");
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("\ntiebeam_damaged 1\n"), "{}", metrics.text());
    let body = br#"{"jsonrpc": "2.0", "id": 1, "method": "job_exec", "params": ["db_list"]}"#;
    let refused = wire.request("POST", "/", &Login::None, &[], body).expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.text());
}

#[test]
fn everything_else_is_refused_and_the_node_still_stops_well() {
    let (plain, unused) = own_place();
    std::fs::remove_dir(unused).expect("the test's own folder");
    let options = Options::default().set("metrics.listen", &plain.to_string());
    let mut node = damaged(options, as_in_rounds("log: bit in a middle record"));
    let mut metrics = Wire::plain(plain).expect("a connection");
    let metrics = metrics.request("GET", "/metrics", &Login::None, &[], b"").expect("an answer");
    assert!(metrics.text().contains("\ntiebeam_damaged 1\n"), "{}", metrics.text());

    let call = |method: &str| json!({"jsonrpc": "2.0", "id": 1, "method": method}).to_string();
    let admin = node.admin();
    let xml = "<methodCall><methodName>job_list</methodName></methodCall>".to_owned();
    for (method, path, body) in [
        ("POST", "/", call("job_exec")),
        ("POST", "/", call("job_list")),
        ("POST", "/", call("node_damage")),
        ("POST", "/RPC2", xml),
        ("POST", "/rest", r#"{"cmd": "job_exec", "params": {}}"#.to_owned()),
        ("GET", "/metrics", String::new()),
        ("GET", "/master", String::new()),
    ] {
        let reply = node.connect().request(method, path, &admin, &[], body.as_bytes());
        let reply = reply.expect("an answer");
        assert_eq!(reply.status, 503, "{method} {path} {body}: {}", reply.text());
        assert!(!reply.text().trim().is_empty(), "{path} says nothing");
    }
    let is_master = node.get(&Login::None, "/is_master");
    assert_eq!(is_master.text(), "false", "{}", is_master.status);
    let socket = node.connect().upgrade(&admin).expect("an answer");
    assert_ne!(socket.status, 101);
    // Who does not say who he is learns no more than from a sound node.
    let nobody =
        node.connect().request("POST", "/", &Login::None, &[], call("job_list").as_bytes());
    assert_eq!(nobody.expect("an answer").status, 401);

    assert_eq!(node.terminate(), 0);
    let check = node.check();
    assert_eq!(check.code, 1, "{}", check.out);
    assert!(check.out.contains("WRONG"), "{}", check.out);
}
