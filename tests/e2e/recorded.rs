//! Data folders of released versions, replayed: apply must do with an old log what it did when the
//! log was written (ruling 12).
//!
//! `tests/fixtures/v1` was written by the version that its `states.json` names: folders as two
//! nodes left them, and what State was at every tenth index. A version adds a folder of its own
//! with
//!
//! ```text
//! TIEBEAM_RECORD=tests/fixtures/v2 cargo test -p tiebeam-tests --test all -- --ignored record_a
//! ```
//!
//! and never changes an old one. The keys in it belong to nobody.

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tiebeam_proto::chain;
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::failover::equal;
use tiebeam_tests::program::tiebeamd_command;
use tiebeam_tests::{Options, TestNode, run};
use tiebeamd::identity::Identity;
use tiebeamd::kept::Kept;

/// State is compared at every so many entries.
const EVERY: usize = 10;
/// What a folder may have, compressed.
const BYTES_MAX: u64 = 300 << 10;
/// Parts that are made again from the others.
const PROJECTIONS: [&str; 5] = ["index", "jobs", "config", "tiebeam.sock", "reserve"];

/// State at every tenth index that the folder reaches, and at the last one.
fn states(data: &Path) -> Value {
    let kept = Kept::read(data).expect("snapshots and log");
    let own = Identity::read(data).expect("an identity").raft_id();
    let last = kept.newest_committed(own).expect("a State").state.applied;
    let indices = (1..last).step_by(EVERY).chain([last]);
    let at = |index| {
        let state = kept.committed_at(index, own).ok()?.state;
        Some((index.to_string(), json!(chain::to_text(&state.digest()))))
    };
    indices.filter_map(at).collect::<serde_json::Map<_, _>>().into()
}

/// Unpacks a recorded folder; `place` is removed with its node.
fn unpack(packed: &Path, place: &TestNode, name: &str) -> PathBuf {
    let data = place.folder.join(name);
    std::fs::create_dir(&data).expect("a new folder");
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).expect("it is ours");
    let tar = zstd::decode_all(std::fs::File::open(packed).expect("a recorded folder"));
    let file = place.folder.join("recorded.tar");
    std::fs::write(&file, tar.expect("it is zstd")).expect("a file of the test");
    let mut tar = Command::new("tar");
    tar.args(["-x", "-p", "--no-same-owner", "-f"]).arg(&file).arg("-C").arg(&data);
    run(&mut tar, "").ok();
    data
}

#[test]
fn every_recorded_folder_replays_to_the_same_states() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let versions = std::fs::read_dir(fixtures).expect("fixtures").map(|one| one.expect("one"));
    let place = TestNode::init(Options::default());
    let mut folders = 0;
    for version in versions.filter(|one| one.path().join("states.json").exists()) {
        let expected = std::fs::read_to_string(version.path().join("states.json"));
        let expected: Value = serde_json::from_str(&expected.expect("states")).expect("JSON");
        for (node, then) in expected["states"].as_object().expect("nodes") {
            let packed = version.path().join(format!("{node}.tar.zst"));
            let name = format!("{}-{node}", version.file_name().display());
            assert!(std::fs::metadata(&packed).expect("a file").len() < BYTES_MAX, "{name}");
            replays(&unpack(&packed, &place, &name), then, &name);
            folders += 1;
        }
    }
    assert!(folders > 1);
}

#[track_caller]
fn replays(data: &Path, then: &Value, name: &str) {
    let (now, then) = (states(data), then.as_object().expect("states"));
    assert!(then.len() > 2, "{name}: only {} states", then.len());
    for (index, digest) in then {
        assert_eq!(now.get(index), Some(digest), "{name}: State at {index}");
    }
    let mut check = tiebeamd_command();
    let ended = run(check.arg("check").arg("--data").arg(data), "");
    assert_eq!(ended.code, 0, "{name}: {}{}", ended.out, ended.err);
}

/// What a cluster of one leaves behind: users, secrets, commands, rollbacks, failures.
fn live(cluster: &TestCluster) {
    let set = |path: &str, value: Value| {
        cluster.exec("config_set", json!({"path": path, "value": value}));
    };
    let schema = json!({"properties": {"pin": {"secret": true}, "port": {"type": "integer"}}});
    cluster.output("config_schema_set", json!({"path": "app/db", "schema": schema}));
    set("app/db", json!({"pin": "a secret", "port": 8563}));
    set("app/db/port", json!("not a number"));
    cluster.output("group_create", json!({"groupname": "ops", "groupid": 700}));
    let user = json!({"username": "alice", "userid": 1100, "group": "ops",
                      "password": "first-password"});
    cluster.output("user_create", user);
    let other = json!({"username": "alice", "password": "second-password"});
    cluster.output("user_passwd", other);
    cluster.output("user_modify", json!({"username": "alice", "login_enabled": false}));
    for number in 0..20 {
        set(&format!("app/list/k{}", number % 7), json!({"n": number, "t": "é"}));
    }
    cluster.output("config_rollback", json!({"revision": 6, "path": "app"}));
    cluster.output("command_run", json!({"argv": ["/bin/echo", "recorded"], "nodes": "all"}));
    cluster.exec("command_run", json!({"argv": ["/bin/false"], "nodes": [11]}));
}

/// With a second member, whose folder begins with the State in which it joined.
fn live_on(cluster: &TestCluster) {
    cluster.output("command_run", json!({"argv": ["/bin/echo", "both"], "nodes": "all"}));
    cluster.output("node_label", json!({"nid": 12, "set": {"rack": "r1"}}));
    cluster.output("general_settings", json!({"changes": {"jobs": {"commit_wait_ms": 900}}}));
    cluster.output("job_retention", json!({"keep_days": 3}));
    for number in 0..15 {
        cluster.exec("config_set", json!({"path": "app/late", "value": {"n": number}}));
    }
    cluster.output("user_delete", json!({"username": "alice"}));
    cluster.output("node_demote", json!({"nid": 12}));
    cluster.output("node_promote", json!({"nid": 12}));
}

/// A node's folder without what is made again from the rest.
fn pack(data: &Path) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args(["-c", "--sparse", "--sort=name", "--owner=0", "--group=0", "-f", "-"]);
    tar.args(PROJECTIONS.map(|part| format!("--exclude=./{part}")));
    let tar = tar.arg("-C").arg(data).arg(".").stderr(Stdio::inherit()).output();
    let tar = tar.expect("tar runs");
    assert!(tar.status.success());
    zstd::encode_all(tar.stdout.as_slice(), 19).expect("it is compressed")
}

#[test]
#[ignore = "writes a fixture; see the head of this file"]
fn record_a_data_folder() {
    let target = std::env::var("TIEBEAM_RECORD").expect("TIEBEAM_RECORD names the new folder");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(target);
    std::fs::create_dir_all(&target).expect("the new folder");
    let options = Options::default()
        .set("exec.enabled", "true")
        .set("exec.allow", "/bin/echo,/bin/false")
        .set("exec.users", "nobody");
    let mut cluster = TestCluster::start(1, &options);
    live(&cluster);
    cluster.grow(&options);
    live_on(&cluster);
    equal::same_index(&cluster.nodes).expect("they come to the same index");
    let mut of_nodes = serde_json::Map::new();
    for (node, name) in cluster.nodes.iter_mut().zip(["n11", "n12"]) {
        assert_eq!(node.terminate(), 0);
        std::fs::write(target.join(format!("{name}.tar.zst")), pack(&node.data)).expect("written");
        of_nodes.insert(name.to_owned(), states(&node.data));
    }
    let version = tiebeamd_command().arg("--version").output().expect("it says its version").stdout;
    let version = String::from_utf8_lossy(&version).trim().to_owned();
    let told = json!({"written_by": version, "states": of_nodes});
    let text = serde_json::to_string_pretty(&told).expect("JSON") + "\n";
    std::fs::write(target.join("states.json"), text).expect("it is written");
}
