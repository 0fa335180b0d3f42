//! A new cluster key after a node was removed (ruling 21).

use super::{eventually, post, request};
use serde_json::{Value, json};
use std::path::Path;
use tiebeam_core::Path as At;
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::failover::equal;
use tiebeam_tests::program::tiebeamd_command;
use tiebeam_tests::{Login, Options, TestNode, run};
use tiebeamd::kept::Kept;
use tiebeamd::keys::Keys;

fn newest(node: &TestNode) -> u32 {
    Keys::load(&node.data).map_or(0, |keys| keys.cluster.newest())
}

fn set_secret(cluster: &TestCluster, name: &str) {
    let params = json!({"path": format!("app/s/{name}"), "value": format!("secret of {name}")});
    let result = cluster.exec("config_set", params);
    assert_eq!(result["result_code"], 0, "{result}");
}

/// The number of the key that seals `app/NAME` in a stopped node's State, and what it opens to.
fn opened(data: &Path, name: &str) -> (u32, String) {
    let state = Kept::read(data).expect("a folder").everything().expect("a State").state;
    let at = At::parse("app/s").expect("a path").child(name);
    let sealed = state.config.get(&at).expect("it is there").to_sealed_value();
    let sealed = tiebeam_core::tree::sealed_text(&sealed).expect("it is sealed").to_owned();
    let number = sealed.split('.').nth(1).and_then(|number| number.parse().ok());
    let keys = Keys::load(data).unwrap_or_else(|error| panic!("{error}"));
    let plain = keys.cluster.open(&sealed).unwrap_or_else(|error| panic!("{name}: {error}"));
    let plain: String = serde_json::from_slice(plain.expose()).expect("a text");
    (number.expect("a number"), plain)
}

fn log_in(cluster: &TestCluster) -> Login {
    let password = cluster.nodes[0].password.clone();
    let answer = cluster.call(&Login::None, "user_login", json!(["admin", password]));
    let answer = answer.expect("a token");
    Login::Bearer(answer["token"].as_str().or(answer.as_str()).expect("a text").to_owned())
}

fn status(node: &TestNode, login: &Login) -> u16 {
    post(node, login, "/", &request("job_list", json!([]))).status
}

#[test]
fn a_removed_node_leaves_a_new_key_behind() {
    let mut cluster = TestCluster::start(4, &Options::default());
    let schema = json!({"properties": {"before": {"secret": true}, "after": {"secret": true}}});
    cluster.output("config_schema_set", json!({"path": "app/s", "schema": schema}));
    set_secret(&cluster, "before");
    let (old_login, master) = (log_in(&cluster), cluster.master());
    assert_eq!(status(&cluster.nodes[master], &old_login), 200);
    let join: Value = cluster.output("node_token", json!({}));
    // The learner is away while it happens; one of the voters goes.
    assert_eq!(cluster.nodes[3].terminate(), 0);
    let gone = (0..3).find(|at| *at != cluster.master()).expect("a follower");
    cluster.output("node_remove", json!({"nid": 11 + gone}));
    let gone = cluster.nodes.remove(gone);
    eventually("those that run have the new key", || {
        cluster.nodes[..2].iter().all(|node| newest(node) == 2).then_some(())
    });
    assert_eq!(newest(&gone), 1, "it has no part in it");
    assert_eq!(newest(&cluster.nodes[2]), 1, "it was away");
    eventually("the new key is used", || {
        set_secret(&cluster, "after");
        (status(&cluster.nodes[cluster.master()], &old_login) == 401).then_some(())
    });
    assert_eq!(status(&cluster.nodes[cluster.master()], &log_in(&cluster)), 200);
    set_secret(&cluster, "after");
    cluster.nodes[2].run();
    eventually("who was away has fetched it", || (newest(&cluster.nodes[2]) == 2).then_some(()));
    // Its token was derived from the key that the removed node has.
    let text = join["token"].as_str().expect("a text").to_owned();
    let place = TestNode::init(Options::default());
    let mut join = tiebeamd_command();
    join.arg("join").arg("--data").arg(place.folder.join("new")).args(["--node-id", "19"]);
    join.args(["--name", "n19", "--listen", &place.address.to_string(), "--token", "-"]);
    let master = cluster.nodes[cluster.master()].address.to_string();
    let refused = run(join.args(["--master", &master]), &text);
    assert!(refused.code != 0 && refused.err.contains("the token is wrong"), "{}", refused.err);
    equal::same_index(&cluster.nodes).expect("they come to the same index");
    for node in &mut cluster.nodes {
        assert_eq!(node.terminate(), 0);
        let data = &node.data;
        assert_eq!(opened(data, "before"), (1, "secret of before".to_owned()));
        assert_eq!(opened(data, "after"), (2, "secret of after".to_owned()));
    }
}
