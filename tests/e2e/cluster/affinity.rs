//! A node with a higher affinity is the master whenever it can be, and a hand-over by name is done
//! all the same.

use serde_json::json;
use tiebeam_tests::Options;
use tiebeam_tests::cluster::TestCluster;

#[test]
fn the_master_s_place_comes_back_to_the_node_that_is_wanted_most() {
    let options =
        Options::default().set("raft.election_ticks", "10").set("raft.heartbeat_ticks", "2");
    let mut cluster = TestCluster::start(3, &options);
    let wanted = (cluster.master() + 1) % 3;
    let id = 11 + wanted;
    cluster.output("node_modify", json!({"nid": id, "affinity": 10}));
    cluster.wait_for("it gets the place", |cluster| cluster.master() == wanted);
    cluster.nodes[wanted].kill9();
    let set = |cluster: &TestCluster, value: i64| {
        cluster.output("config_set", json!({"path": "app/a", "value": value}));
    };
    set(&cluster, 1);
    assert_ne!(cluster.master(), wanted);
    cluster.nodes[wanted].run();
    cluster.wait_for("it is the master again", |cluster| cluster.master() == wanted);
    set(&cluster, 2);
    // By name it goes to one that is wanted less, and comes back by itself.
    let other = 11 + (wanted + 1) % 3;
    let changed = cluster.output("master_change", json!({"nids": [other]}));
    assert_eq!(changed, json!({"master": other, "was": id}));
    cluster.wait_for("it comes back", |cluster| cluster.master() == wanted);
    set(&cluster, 3);
}
