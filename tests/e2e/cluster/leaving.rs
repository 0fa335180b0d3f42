//! A node that is stopped says so: nobody waits for it, and the records name it as one that is
//! away (ruling 6).
//!
//! Silence alone makes a node `offline` here only after 50 seconds, and changes wait two seconds
//! for one that lags: `offline` in a record can come from nothing but the node's own word.

use super::eventually;
use serde_json::{Value, json};
use tiebeam_tests::Options;
use tiebeam_tests::cluster::TestCluster;

/// A change and what its record says of the members.
#[track_caller]
fn change(cluster: &TestCluster, value: &str) -> (Value, Value) {
    let result = cluster.exec("config_set", json!({"path": "app/step", "value": value}));
    assert_eq!(result["result_code"], 0, "{result}");
    let nodes = eventually("its record is final", || {
        let told = cluster.call(&cluster.admin(), "job_info", json!([result["result_jobid"]]));
        told.ok().map(|info| info["nodes"].clone()).filter(|nodes| !nodes.is_null())
    });
    (result, nodes)
}

#[test]
fn nobody_waits_for_a_node_that_said_that_it_stops() {
    let options = Options::default().set("raft.election_ticks", "1000");
    let mut cluster = TestCluster::start(3, &options);
    cluster.output("general_settings", json!({"changes": {"jobs": {"commit_wait_ms": 2_000}}}));
    let master = cluster.master();
    for (what, at) in [("the master", master), ("a follower", (master + 1) % 3)] {
        let id = 11 + at as u64;
        assert_eq!(cluster.nodes[at].terminate(), 0);
        let (result, nodes) = change(&cluster, what);
        assert_eq!(result["result_nodes_pending"], json!([id]), "{what}: {result}");
        assert_eq!(nodes["pending"], json!([id]), "{what}: {nodes}");
        assert_eq!(nodes["reasons"], json!({id.to_string(): "offline"}), "{what}: {nodes}");
        cluster.nodes[at].run();
        eventually("it is waited for again", || {
            let (result, _) = change(&cluster, &format!("{what} is back"));
            result.get("result_nodes_pending").is_none().then_some(())
        });
    }
}
