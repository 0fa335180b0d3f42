//! Records of reads: kept for a while, then unknown on the wire, gone from the disk, and still
//! links of the chain.

use super::draining::eventually;
use super::retention::{gauge, noise};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tiebeam_tests::{Options, TestNode, client_program, run};

/// Different values, so that records of reading them do not compress together.
const VALUES: u64 = 12;

/// Reads until the first segment of the history is sealed; gives the ids, and of how many records
/// that segment is at least.
fn fill_a_segment(node: &TestNode) -> (Vec<String>, u64) {
    for nth in 0..VALUES {
        node.output("config_set", json!({"path": format!("app/n{nth}"), "value": noise(nth)}));
    }
    let (mut wire, mut ids) = (node.connect(), Vec::new());
    while sealed(&node.data).is_empty() {
        let params = json!({"path": format!("app/n{}", ids.len() as u64 % VALUES)});
        let read = wire.call(&node.admin(), "job_exec", json!(["config_get", {"params": params}]));
        let id = read.expect("a result")["result_jobid"].as_str().expect("an id").to_owned();
        ids.push(id);
        assert!(ids.len() < 10_000, "the segment is never full");
    }
    // Reads go on while it is sealed: what it holds ends where the next one begins.
    let next = segments(&node.data).into_iter().max().expect("a segment");
    assert!(next > 1, "the one that is filled now");
    (ids, next - 1)
}

/// The first index of each segment of the history.
fn segments(data: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(data.join("history")).expect("a history");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let segments = paths.filter(|path| path.extension().is_some_and(|kind| kind == "seg"));
    segments.filter_map(|path| path.file_stem()?.to_str()?.parse().ok()).collect()
}

/// The index files of the history.
fn sealed(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("history")).expect("a history");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|kind| kind == "idx")).collect()
}

/// Small reads, enough for a snapshot before its time.
fn many_reads(node: &TestNode) {
    let call = |nth: u64| {
        json!({"jsonrpc": "2.0", "id": nth, "method": "job_exec",
                                 "params": ["node_list"]})
    };
    let body = json!((0..100).map(call).collect::<Vec<Value>>()).to_string();
    let mut wire = node.connect();
    for _ in 0..55 {
        let reply = wire.request("POST", "/", &node.admin(), &[], body.as_bytes());
        assert_eq!(reply.expect("an answer").json().as_array().map(Vec::len), Some(100));
    }
}

fn is_unknown(node: &TestNode, method: &str, id: &str) -> bool {
    let answer = node.call(&node.admin(), method, json!([id]));
    answer.is_err_and(|error| error["data"]["name"] == "unknown_job_id")
}

fn job_file(data: &Path, id: &str) -> Option<PathBuf> {
    let name = format!("{id}.yaml");
    let mut folders = vec![data.join("jobs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of job files") {
            let entry = entry.expect("an entry");
            match entry.file_type().expect("a type").is_dir() {
                true => folders.push(entry.path()),
                false if *entry.file_name() == *name => return Some(entry.path()),
                false => {}
            }
        }
    }
    None
}

#[test]
fn old_reads_are_unknown_and_gone_and_the_chain_is_whole() {
    let mut node = TestNode::start(Options::default());
    let change = node.exec("config_set", json!({"path": "app/first", "value": 1}));
    let change = change["result_jobid"].as_str().expect("an id").to_owned();
    let changes = json!({"history": {"reads_keep_count": 100}, "jobs": {"deadline_s": 1}});
    node.output("general_settings", json!({"changes": changes}));
    let (ids, in_segment) = fill_a_segment(&node);
    let (first, last) = (&ids[0], &ids[ids.len() - 1]);
    let last_index = gauge(&node, "tiebeam_chain_index");
    let full = gauge(&node, "tiebeam_history_bytes");

    // Hidden when the young time of five seconds is over; the newest hundred are not.
    eventually("the first read is pruned", || is_unknown(&node, "job_result", first).then_some(()));
    assert!(!is_unknown(&node, "job_result", last), "it is one of the newest hundred");
    for method in ["job_info", "job_result", "job_file"] {
        assert!(is_unknown(&node, method, first), "{method}");
        assert!(!is_unknown(&node, method, &change), "{method}");
    }
    eventually("its file is gone", || job_file(&node.data, first).is_none().then_some(()));
    eventually("the other is there", || job_file(&node.data, &change));
    let page = node.call(&node.admin(), "job_history", json!([{"job": first}]));
    assert_eq!(page.expect("a page")["records"], json!([]));

    // Gone, when a snapshot says so and the segment lies below as a whole.
    many_reads(&node);
    eventually("all reads of the segment are pruned", || {
        (gauge(&node, "tiebeam_history_reads_from") > last_index).then_some(())
    });
    many_reads(&node);
    eventually("the bytes are gone", || {
        (gauge(&node, "tiebeam_history_bytes") < full / 4).then_some(())
    });
    println!("{full} bytes, then {}", gauge(&node, "tiebeam_history_bytes"));
    // All of it but the changes, and a few records that no job made.
    let reads = in_segment - 2 * VALUES;
    still_sound(&node, &ids, &change, reads);
    node.kill9();
    node.run();
    still_sound(&node, &ids, &change, reads);
    assert_eq!(node.terminate(), 0);
    let checked = node.check().ok();
    assert!(checked.contains("records of reads are pruned"), "{checked}");
    assert!(checked.contains("everything is sound"), "{checked}");
    let mut verify = std::process::Command::new(client_program());
    let verified = run(verify.args(["history", "verify"]).arg(node.data.join("jobs")), "").ok();
    println!("{verified}");
}

fn still_sound(node: &TestNode, ids: &[String], change: &str, reads: u64) {
    let verified = node.output("history_verify", json!({}));
    assert_eq!(verified["ok"], true, "{verified}");
    let pruned = verified["pruned"].as_u64().expect("a number");
    assert!(pruned >= reads, "{pruned} of {reads}");
    assert!(is_unknown(node, "job_info", &ids[0]) && is_unknown(node, "job_info", &ids[99]));
    assert!(!is_unknown(node, "job_info", change));
    assert_eq!(node.output("config_get", json!({"path": "app/first", "revision": 2})), 1);
    let log = node.output("config_log", json!({}));
    assert!(log.to_string().contains(change), "{log}");
}
