//! The offline commands on clusters of real processes: digests that agree, a quorum that is lost
//! for good, a backup under load and its restore into three new nodes.

use super::draining::eventually;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::program::tiebeamd_command;
use tiebeam_tests::{Ended, Options, TestNode, run};

/// What ids and revisions of a new incarnation are a multiple of.
const GAP: u64 = 1_000_000_000;

fn offline(command: &str, data: &Path, more: &[&str]) -> Ended {
    run(tiebeamd_command().arg(command).arg("--data").arg(data).args(more), "")
}

fn digest(node: &TestNode, at: Option<&str>) -> String {
    let at: Vec<&str> = at.into_iter().flat_map(|index| ["--at", index]).collect();
    offline("check", &node.data, &[&["--digest"], &at[..]].concat()).ok()
}

/// The newest index that every one of these stopped nodes can prove.
fn common_index(nodes: &[TestNode]) -> String {
    let applied = nodes.iter().map(|node| {
        let text = digest(node, None);
        let first = text.lines().next().and_then(|line| line.strip_prefix("applied "));
        first.and_then(|index| index.parse::<u64>().ok()).expect("its first line")
    });
    applied.min().expect("there are nodes").to_string()
}

fn set(node: &TestNode, path: &str, value: u64) -> u64 {
    let result = node.exec("config_set", json!({"path": path, "value": value}));
    assert_eq!(result["result_code"], 0, "{result}");
    result["result_revision"].as_u64().expect("a revision")
}

/// Every revision that was seen is still read, and the history verifies.
fn assert_whole(node: &TestNode, seen: &[(u64, u64)]) {
    for (revision, value) in seen {
        let params = json!({"path": "app/n", "revision": revision});
        assert_eq!(node.output("config_get", params), json!(value), "revision {revision}");
    }
    let verified = node.output("history_verify", json!({}));
    assert_eq!((&verified["ok"], &verified["gaps"]), (&json!(true), &json!([])), "{verified}");
}

fn newest_change(node: &TestNode) -> Value {
    node.output("config_log", json!({"limit": 1}))[0].clone()
}

#[test]
fn a_quorum_that_is_lost_for_good_is_left_behind() {
    let mut cluster = TestCluster::start(3, &Options::default());
    let master = cluster.master();
    let seen: Vec<(u64, u64)> =
        (0..20).map(|n| (set(&cluster.nodes[master], "app/n", n), n)).collect();
    cluster.nodes.iter_mut().for_each(TestNode::kill9);
    let index = common_index(&cluster.nodes);
    let digests: Vec<String> =
        cluster.nodes.iter().map(|node| digest(node, Some(&index))).collect();
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    let beyond = offline("check", &cluster.nodes[0].data, &["--digest", "--at", "99999"]);
    assert_ne!(beyond.code, 0);
    assert!(beyond.err.contains("is not known to be committed"), "{}", beyond.err);

    let mut survivor = cluster.nodes.swap_remove(1);
    let refused = offline("recover", &survivor.data, &["--only-voter", "--cluster", "other"]);
    assert!(refused.code != 0 && refused.err.contains("nothing was changed"), "{}", refused.err);
    let done = offline("recover", &survivor.data, &["--only-voter", "--cluster", "test"]).ok();
    assert!(done.contains("only member of cluster test, incarnation 2"), "{done}");
    survivor.run();
    assert_whole(&survivor, &seen);
    let change = newest_change(&survivor);
    assert_eq!((&change["name"], &change["revision"]), (&json!("cluster_recover"), &json!(GAP)));
    assert_eq!(set(&survivor, "app/n", 100), GAP + 1);

    // A member of before is nobody any more, and comes back only by joining anew.
    let mut old = cluster.nodes.swap_remove(0);
    old.begin();
    eventually("it is turned away", || {
        let text = std::fs::read_to_string(survivor.log_file()).unwrap_or_default();
        text.contains("a peer connection is refused").then_some(())
    });
    let info = survivor.output("cluster_info", json!({}));
    assert_eq!(info["members"], json!({"12": "voter"}), "{info}");
    old.kill9();
    let mut again = TestNode::join(&survivor, 11, Options::default());
    again.run();
    assert_eq!(set(&survivor, "app/n", 101), GAP + 3, "node_add was a revision, too");
}

#[test]
fn a_backup_under_load_is_restored_into_three_new_nodes() {
    let cluster = TestCluster::start(3, &Options::default());
    let master = cluster.master();
    let node = &cluster.nodes[master];
    let seen: Vec<(u64, u64)> = (0..10).map(|n| (set(node, "app/n", n), n)).collect();
    let words = node.folder.join("words");
    std::fs::write(&words, "a passphrase of some length\n").expect("a file");
    let words = words.to_str().expect("a path in UTF-8");
    let file = node.folder.join("backup.tar");
    let stop = AtomicBool::new(false);
    let newest = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut newest = 0;
            while !stop.load(Ordering::Relaxed) {
                newest = set(node, "app/load", newest);
            }
            newest
        });
        let before = set(node, "app/before", 1);
        let to = file.to_str().expect("a path in UTF-8");
        let made = offline("backup", &node.data, &["--to", to, "--passphrase-file", words]).ok();
        stop.store(true, Ordering::Relaxed);
        let newest = writer.join().expect("the writer ends");
        assert!(made.contains("the keys are in it"), "{made}");
        let revision = made.split("revision ").nth(1).and_then(|text| text.split(' ').next());
        let revision: u64 = revision.and_then(|text| text.parse().ok()).expect("a revision");
        assert!(before <= revision && revision <= newest, "{before} <= {revision} <= {newest}");
        newest
    });

    let mut first = TestNode::restore(node, &file, 31, &["--passphrase-file", words]);
    first.run();
    assert_whole(&first, &seen);
    assert_eq!(first.output("config_get", json!({"path": "app/before"})), json!(1));
    let change = newest_change(&first);
    assert_eq!((&change["name"], &change["revision"]), (&json!("cluster_restore"), &json!(GAP)));
    assert!(newest < GAP, "no revision is given twice");
    let mut restored = TestCluster { nodes: vec![first] };
    for id in [32, 33] {
        let mut next = TestNode::join(&restored.nodes[0], id, Options::default());
        next.run();
        restored.nodes.push(next);
        let voters = restored.nodes.len();
        restored.wait_for("a voter more", |cluster| cluster.voters().len() == voters);
    }
    restored.output("config_set", json!({"path": "app/n", "value": 200}));
    restored.nodes.iter_mut().for_each(TestNode::kill9);
    let index = common_index(&restored.nodes);
    let digests: Vec<String> =
        restored.nodes.iter().map(|node| digest(node, Some(&index))).collect();
    assert!(digests.iter().all(|other| *other == digests[0]), "{digests:?}");
}

#[test]
fn without_the_passphrase_there_is_a_new_authority_and_no_secret() {
    let node = TestNode::start(Options::default());
    let value = set(&node, "app/n", 1);
    let file = node.folder.join("backup.tar");
    let to = file.to_str().expect("a path in UTF-8");
    let made = offline("backup", &node.data, &["--to", to]).ok();
    assert!(made.contains("no key is in it"), "{made}");
    let again = offline("backup", &node.data, &["--to", to]);
    assert!(again.code != 0 && again.err.contains("never overwrites"), "{}", again.err);
    let mut restored = TestNode::restore(&node, &file, 31, &["--without-secrets"]);
    restored.run();
    assert_whole(&restored, &[(value, 1)]);
    let ca = |node: &TestNode| std::fs::read_to_string(&node.ca_file).expect("a certificate");
    assert_ne!(ca(&restored), ca(&node));
}
