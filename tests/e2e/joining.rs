//! How a node joins: a token, a key that stays, an answer that may get lost.

use serde_json::{Value, json};
use std::path::Path;
use tiebeam_tests::program::tiebeamd_command;
use tiebeam_tests::{Ended, Login, Options, TestNode, run};

/// A machine that is to join the cluster of `master`.
struct Newcomer<'a> {
    master: &'a TestNode,
    folder: &'a Path,
    listen: String,
}

impl Newcomer<'_> {
    /// `tiebeamd join` in a folder of this name, with the token on standard input.
    fn join(&self, data: &str, name: &str, token: &str) -> Ended {
        let mut join = tiebeamd_command();
        join.arg("join").arg("--data").arg(self.folder.join(data));
        join.args(["--node-id", "12", "--name", name, "--listen", &self.listen]);
        join.args(["--master", &self.master.address.to_string(), "--token", "-"]);
        run(&mut join, token)
    }

    #[track_caller]
    fn is_refused(&self, name: &str, token: &str, why: &str) {
        let ended = self.join("data", name, token);
        assert_ne!(ended.code, 0, "{}", ended.out);
        assert!(ended.err.contains(why), "{why}: {}", ended.err);
        assert!(!self.folder.join("data/identity").exists(), "it is no node");
    }
}

fn token(master: &TestNode) -> String {
    let made = master.output("node_token", json!({"nid": 12}));
    let join = made["join"].as_str().expect("a line to paste");
    let token = made["token"].as_str().expect("a text");
    assert!(join.starts_with(&format!("echo {token} | tiebeamd join")), "{join}");
    token.to_owned()
}

/// The token with one of its parts changed.
fn changed(token: &str, part: usize) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let first = if parts[part].starts_with('0') { "1" } else { "0" };
    parts[part].replace_range(..1, first);
    parts.join(".")
}

fn history_of(master: &TestNode, name: &str) -> Vec<Value> {
    let asked = json!([{"name": name, "limit": 20}]);
    let found = master.call(&master.admin(), "job_history", asked).expect("the history");
    found["records"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_node_joins_with_its_own_token_and_key() {
    let master = TestNode::start(Options::default());
    let place = TestNode::init(Options::default());
    let folder = place.folder.clone();
    let new = Newcomer { master: &master, folder: &folder, listen: place.address.to_string() };
    std::fs::remove_dir_all(&place.data).expect("the test's own folder");
    let good = token(&master);
    new.is_refused("n12", "nonsense", "the token is none");
    new.is_refused("n12", &changed(&good, 1), "the token is wrong");
    new.is_refused("n12", &changed(&good, 2), "the token is wrong");
    new.is_refused("n12", &changed(&good, 3), "did not prove to be a node of the cluster");
    new.is_refused("n11", &good, "the name n11 belongs to node 11");
    let key = std::fs::read(folder.join("data/keys/node.key")).expect("the key");
    let joined = new.join("data", "n12", &good);
    assert_eq!(joined.code, 0, "{}", joined.err);
    assert_eq!(std::fs::read(folder.join("data/keys/node.key")).expect("the key"), key);
    let again = new.join("data", "n12", &good);
    assert!(again.code != 0 && again.err.contains("is not empty"), "{}", again.err);
    let other = new.join("other", "n12", &good);
    assert!(other.code != 0 && other.err.contains("was used"), "{}", other.err);
    // As if the answer had been lost on its way: the folder is that of a join under way.
    std::fs::remove_file(folder.join("data/identity")).expect("its identity");
    std::fs::write(folder.join("data/joining"), "").expect("its mark");
    let again = new.join("data", "n12", &good);
    assert_eq!(again.code, 0, "{}", again.err);
    let added = history_of(&master, "node_add");
    let outcomes: Vec<&Value> = added.iter().map(|record| &record["outcome"]).collect();
    assert_eq!(outcomes, ["ok", "failed"], "one was added, once; one had a taken name");
    let job = added[0]["job"].as_str().expect("an id");
    let file = master.call(&master.admin(), "job_file", json!([job])).expect("its file");
    let file = file.as_str().expect("YAML");
    let secret = good.split('.').nth(2).expect("the secret");
    assert!(file.contains("protocol: join") && file.contains("user: admin"), "{file}");
    assert!(!file.contains(secret), "{file}");

    let mut node = place;
    node.run();
    master.output("node_wait_ready", json!({"nids": [12], "timeout": 60}));
    // Whoever is no master says who is.
    let reply = node.connect().request("POST", "/join", &Login::None, &[], b"{}").expect("a reply");
    assert_eq!(reply.status, 302);
    let there = format!("https://{}/join", master.address);
    assert_eq!(reply.header("location"), Some(there.as_str()));
    // A node that was removed needs another token, and becomes another member.
    master.output("node_remove", json!({"nid": "n12"}));
    assert_eq!(node.terminate(), 0);
    std::fs::remove_dir_all(&node.data).expect("the test's own folder");
    new.is_refused("n12", &good, "was used");
    assert_eq!(new.join("data", "n12", &token(&master)).code, 0);
    let identity = std::fs::read_to_string(folder.join("data/identity")).expect("its identity");
    assert!(identity.contains("incarnation: 2"), "{identity}");
    node.run();
    master.output("node_wait_ready", json!({"nids": [12], "timeout": 60}));
}

#[test]
fn what_is_no_request_to_join_is_told_so() {
    let master = TestNode::start(Options::default());
    let ask = |body: &[u8]| {
        let reply = master.connect().request("POST", "/join", &Login::None, &[], body);
        let reply = reply.expect("a reply");
        (reply.status, reply.text().to_owned())
    };
    assert_eq!(ask(b"").0, 400);
    assert_eq!(ask(br#"{"token": 5}"#).0, 400);
    assert_eq!(ask(&vec![b' '; 17 << 10]).0, 413);
    let request = json!({"token": "tbj1.a.b.0123456789abcdef0123456789abcdef", "name": "n12",
        "address": "127.0.0.12:20003", "request": "", "version": "0", "feature_level": 1});
    let (status, text) = ask(request.to_string().as_bytes());
    assert_eq!(status, 401);
    assert!(text.contains("the token is wrong"), "{text}");
}
