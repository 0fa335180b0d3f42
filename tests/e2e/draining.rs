//! A request that was read is answered (ruling 1): SIGTERM while calls wait.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tiebeam_tests::program::command;
use tiebeam_tests::{Options, TestNode, need, run};

/// Options under which `command_run` may sleep.
pub fn may_sleep() -> Options {
    Options::default()
        .set("exec.enabled", "true")
        .set("exec.allow", "/bin/sleep,/bin/cat")
        .set("exec.users", "nobody,root")
}

/// Asks until `holds` gives something.
#[track_caller]
pub fn eventually<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if let Some(found) = holds() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("this never came true: {what}");
}

/// The records of `command_run` that the node knows.
fn sleeps(node: &TestNode) -> Vec<Value> {
    let page = node.call(&node.admin(), "job_history", json!([{"name": "command_run"}]));
    page.expect("a page")["records"].as_array().expect("records").clone()
}

/// A gauge of `/metrics`.
fn gauge(node: &TestNode, name: &str) -> u64 {
    let text = node.get(&node.admin(), "/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

#[test]
fn sigterm_during_calls_answers_them_and_the_job_is_there_once() {
    if !need("drain under stock xmlrpc.client", &["python3", "-c", "import xmlrpc.client"]) {
        return;
    }
    let mut node = TestNode::start(may_sleep());
    let script = format!("{}/e2e/stock_waiting.py", env!("CARGO_MANIFEST_DIR"));
    let mut python = command("python3", &[script, node.address.to_string()]);
    python.arg(&node.ca_file).arg(&node.password).arg("4");
    let python = std::thread::spawn(move || run(&mut python, "").ok());
    let id =
        eventually("the job is there", || Some(sleeps(&node).first()?["job"].as_str()?.to_owned()));
    let mut waiting = node.connect();
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "job_wait", "params": [id, 300]});
    let body = body.to_string();
    waiting.send("POST", "/", &node.admin(), &[], body.as_bytes()).expect("it is sent");
    eventually("both calls wait", || (gauge(&node, "tiebeam_waiting_calls") == 2).then_some(()));
    assert_eq!(node.terminate(), 0, "a drained node ends with 0");

    let waited = waiting.read_reply().expect("job_wait is answered").json();
    assert_eq!(waited["result"], false, "{waited}");
    let answered = python.join().expect("the client ends");
    let answered: Value = serde_json::from_str(&answered).expect("JSON");
    assert_eq!(answered["result_code"], 5, "{answered}");
    assert_eq!(answered["result_jobid"], id.as_str(), "{answered}");

    node.run();
    let ended = eventually("the job ends", || {
        let result = node.call(&node.admin(), "job_result", json!([id])).expect("it is known");
        (result["result_code"] != 5).then_some(result)
    });
    println!("answered at SIGTERM: {answered}\nafter the restart:   {ended}");
    assert_eq!(ended["result_code"], 0, "the command went on while the daemon was away: {ended}");
    assert_eq!(sleeps(&node).len(), 1, "there is one job");
}

#[test]
fn a_draining_node_takes_no_new_connection_and_finishes_open_ones() {
    let mut node = TestNode::start(may_sleep());
    let mut open = node.connect();
    let wait = json!(["command_run", {"params": {"argv": ["/bin/sleep", "2"]}}]);
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec", "params": wait});
    let body = body.to_string();
    open.send("POST", "/", &node.admin(), &[], body.as_bytes()).expect("it is sent");
    eventually("the call waits", || (gauge(&node, "tiebeam_waiting_calls") == 1).then_some(()));
    assert_eq!(node.terminate(), 0);
    let reply = open.read_reply().expect("it is answered").json();
    assert_eq!(reply["result"]["result_code"], 5, "{reply}");
    assert!(std::net::TcpStream::connect(node.address).is_err(), "nobody listens");
    assert!(!node.socket().exists(), "the socket file is gone");
}
