//! What was acknowledged is there after a crash, and a folder has one daemon.

use serde_json::{Value, json};
use std::sync::Mutex;
use tiebeam_tests::{Login, Options, TestNode, Wire, run};

/// Every job that was acknowledged: its id and its result object.
type Acknowledged = Mutex<Vec<(String, Value)>>;

/// Sets values on a path of its own until the node is gone.
fn write_until_the_crash(node: &TestNode, writer: usize, acknowledged: &Acknowledged) {
    let mut wire = node.connect();
    for value in 0.. {
        let params = json!({"path": format!("app/w{writer}"), "value": value});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec",
                          "params": ["config_set", {"params": params}]});
        let body = body.to_string();
        let Ok(reply) = wire.request("POST", "/", &node.admin(), &[], body.as_bytes()) else {
            return;
        };
        let result = reply.json()["result"].clone();
        let id = result["result_jobid"].as_str().expect("an id").to_owned();
        acknowledged.lock().expect("a lock").push((id, result));
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let mut node = TestNode::start(Options::default());
    let acknowledged = Acknowledged::default();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (node, acknowledged) = (&node, &acknowledged);
            scope.spawn(move || write_until_the_crash(node, writer, acknowledged));
        }
        super::draining::eventually("some are acknowledged", || {
            (acknowledged.lock().expect("a lock").len() >= 100).then_some(())
        });
        node.signal(nix::sys::signal::Signal::SIGKILL);
    });
    node.wait_for_end();
    assert!(node.socket().exists(), "a crash leaves the socket file");
    assert!(node.check().ok().contains("everything is sound"));
    node.run();

    let acknowledged = acknowledged.into_inner().expect("a lock");
    let mut wire = node.connect();
    let mut newest = 0;
    for (id, result) in &acknowledged {
        let kept = wire.call(&node.admin(), "job_result", json!([id]));
        assert_eq!(kept.as_ref(), Ok(result), "{id}");
        newest = newest.max(result["result_revision"].as_u64().expect("a revision"));
    }
    println!("{} jobs were acknowledged, revision {newest}", acknowledged.len());
    assert!(node.output("cluster_info", json!({}))["revision"].as_u64() >= Some(newest));
    let verified = node.exec("history_verify", json!({}));
    assert_eq!(verified["result_code"], 0, "{verified}");
    let file = wire.call(&node.admin(), "job_file", json!([acknowledged[0].0])).expect("a file");
    assert!(file.as_str().expect("text").contains("\nchain: {index: "), "{file}");
    assert_eq!(node.terminate(), 0);
    assert!(node.check().ok().contains("the chain is unbroken"));
}

#[test]
fn the_published_file_is_the_newest_revision_after_a_crash() {
    let mut node = TestNode::start(Options::default());
    for value in 0..10 {
        node.output("config_set", json!({"path": "app/value", "value": value}));
    }
    node.kill9();
    node.run();
    let published = || tiebeam_tests::node::read(&node.data.join("config/cluster.yaml"));
    let head = super::draining::eventually("revision 11 is published", || {
        let head: Vec<String> = published().lines().take(6).map(str::to_owned).collect();
        head.contains(&"# revision: 11".to_owned()).then_some(head)
    });
    for start in ["# root: sha256:", "# checksum: sha256:"] {
        assert!(head.iter().any(|line| line.starts_with(start)), "{head:?}");
    }
    assert!(published().contains("value: 9"), "{}", published());
}

#[test]
fn a_folder_has_one_daemon() {
    let node = TestNode::start(Options::default());
    let second = run(&mut node.run_command(), "");
    assert_ne!(second.code, 0);
    assert!(second.err.contains(&node.data.display().to_string()), "{}", second.err);
    let check = node.check();
    assert_ne!(check.code, 0, "a folder in use is not checked: {}", check.out);
    assert_eq!(node.get(&Login::None, "/is_master").text(), "true", "the first one goes on");
    Wire::unix(&node.socket()).expect("and its socket is there");
}

#[test]
fn files_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let node = TestNode::start(Options::default());
    node.output("config_set", json!({"path": "app/a", "value": 1}));
    let mut folders = vec![node.data.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let entry = entry.expect("an entry");
            // What is replaced by a rename may be gone by now.
            let Ok(about) = entry.metadata() else { continue };
            let mode = about.permissions().mode() & 0o777;
            let path = entry.path();
            if about.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                folders.push(path);
            } else if about.is_file() {
                assert_eq!(mode, 0o600, "{}", path.display());
            }
        }
    }
}
