//! Commands on three nodes while daemons die: each ends once, and its result is there (ruling 9).

use super::{eventually, follower};
use nix::unistd::{Uid, User};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tiebeam_tests::Options;
use tiebeam_tests::cluster::TestCluster;

/// The user that commands run as: nobody, or who runs the tests if that is not root.
fn command_user() -> String {
    let own = Uid::effective();
    if own.is_root() {
        return "nobody".to_owned();
    }
    User::from_uid(own).ok().flatten().map_or_else(|| own.to_string(), |user| user.name)
}

fn start() -> TestCluster {
    let options = Options::default()
        .set("exec.enabled", "true")
        .set("exec.allow", "/bin/sh")
        .set("exec.users", &command_user());
    TestCluster::start(3, &options)
}

/// A file to which every command adds its process id.
fn marks(cluster: &TestCluster) -> PathBuf {
    let file = cluster.nodes[0].folder.join("marks");
    std::fs::write(&file, "").expect("a new file");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).expect("it is ours");
    file
}

fn marked(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("it is there");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Starts a command that leaves its mark, says it, lives for some seconds and says `done`.
fn begin(cluster: &TestCluster, marks: &Path, seconds: u32, nodes: Value) -> String {
    let text = format!("echo $$ >> {}; echo $$; sleep {seconds}; echo done", marks.display());
    let params = json!({"argv": ["/bin/sh", "-c", text], "nodes": nodes});
    let kwargs = json!({"params": params, "request_id": format!("command-of-{seconds}")});
    let id = cluster.call(&cluster.admin(), "job_start", json!(["command_run", kwargs]));
    id.expect("a job").as_str().expect("an id is text").to_owned()
}

fn run_marks(file: &Path, count: usize) {
    eventually("the commands run", || (marked(file).len() >= count).then_some(()));
}

/// Each node's command ended well and is one of those that left a mark, which are no more.
#[track_caller]
fn ran_once_each(result: &Value, marks: &Path, nodes: &[usize]) {
    assert_eq!(result["result_code"], 0, "{result}");
    let mut told: Vec<String> = Vec::new();
    for at in nodes {
        let output = &result["result_output"][(11 + at).to_string()]["output"];
        let mut lines = output.as_str().unwrap_or_default().lines();
        told.extend(lines.next().map(str::to_owned));
        assert_eq!(lines.next(), Some("done"), "{result}");
    }
    told.sort();
    assert_eq!(told, marked(marks), "each ran once: {result}");
}

#[test]
fn a_command_on_three_nodes_outlives_two_masters() {
    let mut cluster = start();
    let marks = marks(&cluster);
    let begun = Instant::now();
    let id = begin(&cluster, &marks, 20, json!("all"));
    for second in [5, 12] {
        std::thread::sleep((begun + Duration::from_secs(second)).duration_since(Instant::now()));
        let master = cluster.master();
        cluster.nodes[master].kill9();
        std::thread::sleep(Duration::from_secs(2));
        cluster.nodes[master].begin();
    }
    ran_once_each(&cluster.result(&id), &marks, &[0, 1, 2]);
    println!("it ended {:.1} s after its start", begun.elapsed().as_secs_f64());
    cluster.nodes.iter_mut().for_each(tiebeam_tests::TestNode::wait_ready);
    let record = cluster.call(&cluster.admin(), "job_info", json!([id])).expect("a record");
    let commands = record["commands"].as_array().expect("commands");
    assert_eq!(commands.len(), 3, "{record}");
    assert!(commands.iter().all(|command| command["result"] == "ok"), "{record}");
}

#[test]
fn a_command_outlives_the_daemon_of_its_own_node() {
    let mut cluster = start();
    let (marks, at) = (marks(&cluster), follower(&cluster));
    let id = begin(&cluster, &marks, 6, json!([11 + at]));
    run_marks(&marks, 1);
    cluster.nodes[at].kill9();
    std::thread::sleep(Duration::from_secs(2));
    cluster.nodes[at].begin();
    ran_once_each(&cluster.result(&id), &marks, &[at]);
}

#[test]
fn a_command_that_ends_while_its_node_is_down_is_told_when_it_is_back() {
    let mut cluster = start();
    let (marks, at) = (marks(&cluster), follower(&cluster));
    let id = begin(&cluster, &marks, 2, json!([11 + at]));
    run_marks(&marks, 1);
    cluster.nodes[at].kill9();
    std::thread::sleep(Duration::from_secs(4));
    let unfinished =
        cluster.call(&cluster.admin(), "job_result", json!([id])).expect("it is known");
    assert_eq!(unfinished["result_code"], 5, "{unfinished}");
    cluster.nodes[at].begin();
    ran_once_each(&cluster.result(&id), &marks, &[at]);
}

#[test]
fn what_a_command_on_another_node_prints_is_seen_while_it_runs() {
    let cluster = start();
    let at = follower(&cluster);
    let gate = cluster.nodes[0].folder.join("gate");
    let text = format!(
        "echo first $CANARY; until test -e {0}; do sleep 0.1; done; echo second",
        gate.display()
    );
    let env = json!({"CANARY": "not-to-be-seen"});
    let params = json!({"argv": ["/bin/sh", "-c", text], "nodes": [11 + at], "env": env});
    let admin = cluster.admin();
    let id = cluster.call(&admin, "job_start", json!(["command_run", {"params": params}]));
    let id = id.expect("a job").as_str().expect("an id is text").to_owned();
    let live = eventually("its output is there while it runs", || {
        let info = cluster.call(&admin, "job_info", json!([id])).expect("it is known");
        assert_eq!(info["ended"], false, "{info}");
        let live = info["live"].as_object().and_then(|live| live.values().next().cloned());
        live.filter(|live| live["output"].as_str().is_some_and(|text| text.contains("first")))
    });
    assert_eq!(live["output"], "first [secret]\n", "{live}");
    assert_eq!((&live["node"], &live["output_bytes"]), (&json!(11 + at), &json!(15)), "{live}");
    let other = cluster.nodes[cluster.master()].user("eve", 4711, "exausers");
    let hidden = cluster.call(&other, "job_info", json!([id])).expect_err("it is not theirs");
    assert_eq!(hidden["code"], -32004, "{hidden}");
    std::fs::write(&gate, "").expect("a new file");
    let result = cluster.result(&id);
    let output = &result["result_output"][(11 + at).to_string()]["output"];
    assert_eq!(output, "first [secret]\nsecond\n", "{result}");
    let info = cluster.call(&admin, "job_info", json!([id])).expect("it is known");
    assert!(info.get("live").is_none(), "the record has it now: {info}");
}

#[test]
fn who_follows_a_job_hears_how_far_it_is() {
    let cluster = start();
    let node = &cluster.nodes[cluster.master()];
    let (admin, eve) = (node.admin(), node.user("eve", 4711, "exausers"));
    let follow = json!([{"jobs": "all", "kinds": ["progress"]}]);
    let polled = [&admin, &eve]
        .map(|login| node.call(login, "subscribe", follow.clone()).expect("a subscription"));
    let mut wire = node.connect();
    assert_eq!(wire.upgrade(&admin).expect("an answer").status, 101);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "subscribe", "params": follow});
    wire.send_frame(&call.to_string()).expect("an open WebSocket");
    let mut frame = || -> Value {
        serde_json::from_str(&wire.frame().expect("a frame")).expect("JSON in a frame")
    };
    assert!(frame()["result"].is_number(), "the subscription's id");
    // The second node's turn comes when the first one's has ended.
    let gate = cluster.nodes[0].folder.join("gate");
    let text = format!("until test -e {}; do sleep 0.1; done", gate.display());
    let params = json!({"argv": ["/bin/sh", "-c", text], "nodes": [12, 13], "batch": "1"});
    let id = cluster.call(&admin, "job_start", json!(["command_run", {"params": params}]));
    let id = id.expect("a job");
    let said = |percent, text| {
        let mut event = json!({"kind": "progress", "text": text});
        (event["job"], event["percent"]) = (id.clone(), json!(percent));
        event
    };
    assert_eq!(frame()["params"]["result"], said(0, "node 12"));
    let heard = node.call(&admin, "events", json!([polled[0], 30])).expect("events");
    assert_eq!(heard, json!([said(0, "node 12")]));
    std::fs::write(&gate, "").expect("a new file");
    assert_eq!(frame()["params"]["result"], said(50, "node 13"));
    assert_eq!(cluster.result(id.as_str().expect("an id is text"))["result_code"], 0);
    let heard = node.call(&eve, "events", json!([polled[1], 0])).expect("events");
    assert_eq!(heard, json!([]), "it is not theirs");
}

#[test]
fn a_command_on_another_node_is_cancelled_for_certain() {
    let cluster = start();
    let (marks, at) = (marks(&cluster), follower(&cluster));
    let id = begin(&cluster, &marks, 600, json!([11 + at]));
    run_marks(&marks, 1);
    let word = cluster.call(&cluster.admin(), "job_cancel", json!([id])).expect("a word");
    assert_eq!(word, "stopping");
    let result = cluster.result(&id);
    assert_eq!(result["result_name"], "CANCELLED", "{result}");
    let pid = marked(&marks).remove(0);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "its process has gone");
    let record = cluster.call(&cluster.admin(), "job_info", json!([id])).expect("a record");
    let command = &record["commands"][0];
    assert_ne!(command["result"], "indeterminate", "{command}");
    let locks = cluster.output("lock_list", json!({}));
    assert!(!locks.to_string().contains(&id), "nothing is held: {locks}");
}

#[test]
fn a_node_that_comes_back_starts_nothing_that_was_given_up() {
    let mut cluster = start();
    let (marks, at) = (marks(&cluster), follower(&cluster));
    cluster.nodes[at].kill9();
    let text = format!("echo $$ >> {}", marks.display());
    let params = json!({"argv": ["/bin/sh", "-c", text], "nodes": [11 + at]});
    let kwargs = json!({"params": params, "deadline_s": 2});
    let id = cluster.call(&cluster.admin(), "job_start", json!(["command_run", kwargs]));
    let id = id.expect("a job").as_str().expect("an id is text").to_owned();
    let result = cluster.result(&id);
    assert_eq!(
        result["result_name"], "INDETERMINATE",
        "nobody can say that it did not run: {result}"
    );
    cluster.nodes[at].run();
    eventually("the doubt ends", || {
        let locks = cluster.output("lock_list", json!({}));
        (!locks.to_string().contains(&id)).then_some(())
    });
    assert_eq!(marked(&marks), Vec::<String>::new(), "it was given up long before");
}

/// Lines of an output that no record holds whole.
const LONG_LINES: u64 = 20_000;

/// Their SHA-256.
const LONG_DIGEST: &str = "131d30ef6802d970a1ba9b337f8533b4993b41b2407bfc6992a4842bb0bfe649";

fn long_output() -> String {
    (1..=LONG_LINES).map(|line| format!("line {line}\n")).collect()
}

/// Runs a command with a long output on a node; gives the job's id and who holds the output.
fn print_much(cluster: &TestCluster, at: usize) -> (String, Value) {
    let text = format!("i=0; while [ $i -lt {LONG_LINES} ]; do i=$((i+1)); echo line $i; done");
    let params = json!({"argv": ["/bin/sh", "-c", text], "nodes": [11 + at]});
    let result = cluster.exec("command_run", params);
    assert_eq!(result["result_code"], 0, "{result}");
    let id = result["result_jobid"].as_str().expect("an id").to_owned();
    let record = cluster.call(&cluster.admin(), "job_info", json!([id])).expect("a record");
    let command = &record["commands"][0];
    assert_eq!(command["truncated"], true, "{command}");
    assert_eq!(command["output_sha256"], LONG_DIGEST, "{command}");
    (id, command["holders"].clone())
}

fn has_blob(node: &tiebeam_tests::TestNode, digest: &str) -> bool {
    node.data.join("blobs").join(digest).is_file()
}

#[test]
fn a_copy_that_a_member_could_not_take_is_made_soon() {
    let cluster = start();
    let at = follower(&cluster);
    let other = &cluster.nodes[(at + 1) % 3];
    // Something has the name that the copy is to get.
    let taken = other.data.join("blobs").join(LONG_DIGEST);
    std::fs::create_dir_all(taken.join("in-the-way")).expect("the folder is there");
    let (id, holders) = print_much(&cluster, at);
    assert_eq!(holders.as_array().map(Vec::len), Some(2), "{holders}");
    std::fs::remove_dir_all(&taken).expect("it is ours");
    eventually("the copy is made", || has_blob(other, LONG_DIGEST).then_some(()));
    for node in &cluster.nodes {
        let marks = node.data.join("blobs").join(format!("{LONG_DIGEST}.jobs"));
        let marks = std::fs::read_to_string(marks).expect("a blob has its jobs before its name");
        assert!(marks.lines().any(|line| line == id), "{marks:?}");
    }
}

#[test]
fn a_long_output_outlives_the_disk_of_its_node() {
    let mut cluster = start();
    let at = follower(&cluster);
    let ((id, holders), digest) = (print_much(&cluster, at), LONG_DIGEST);
    assert_eq!(holders, json!([11, 12, 13]));
    assert!(cluster.nodes.iter().all(|node| has_blob(node, digest)));
    let told = |cluster: &TestCluster| {
        let name = format!("run-n{}", 11 + at);
        cluster.call(&cluster.admin(), "job_file", json!([id, name])).expect("the output")
    };
    assert_eq!(told(&cluster), long_output());
    cluster.nodes[at].kill9();
    std::fs::remove_dir_all(&cluster.nodes[at].data).expect("it is stopped");
    assert_eq!(told(&cluster), long_output());
    // A spoilt copy is passed over, and one that is gone is made again on whoever joins.
    let master = cluster.master();
    let spoilt = cluster.nodes[master].data.join("blobs").join(digest);
    std::fs::write(&spoilt, "line 1\n").expect("its folder is there");
    assert_eq!(told(&cluster), long_output());
    cluster.output("node_remove", json!({"nid": 11 + at}));
    let options = Options::default();
    let new = tiebeam_tests::TestNode::join(&cluster.nodes[cluster.master()], 14, options);
    cluster.nodes[at] = new;
    cluster.nodes[at].run();
    eventually("the new member has a copy", || has_blob(&cluster.nodes[at], digest).then_some(()));
    assert_eq!(told(&cluster), long_output());
    let unknown = cluster.call(&cluster.admin(), "job_file", json!([id, "run-n99"]));
    assert_eq!(unknown.expect_err("no such command")["code"], -32602);
}
