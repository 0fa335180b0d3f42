//! Events by long polls (wire.md section 5, ruling 39): those that are about no entry of a job.

use super::draining::eventually;
use serde_json::{Value, json};
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::{Options, TestNode};

#[test]
fn progress_is_told_to_who_asks_for_it() {
    let node = TestNode::start(Options::default());
    let (admin, dave) = (node.admin(), node.user("dave", 1005, "exausers"));
    let follow = |jobs: &str| json!([{"jobs": jobs, "kinds": ["progress"]}]);
    let id = node.call(&admin, "subscribe", follow("mine")).expect("an id");
    let his = node.call(&dave, "subscribe", follow("all")).expect("an id");
    // No program may be run here; what it is at, it says all the same.
    let done = node.exec("command_run", json!({"argv": ["/bin/true"]}));
    let events = node.call(&admin, "events", json!([id, 60])).expect("events");
    let first = &events[0];
    assert_eq!((&first["kind"], &first["percent"]), (&json!("progress"), &json!(0)), "{events}");
    assert_eq!(first["job"], done["result_jobid"], "{events}");
    assert!(first["text"].is_string() && first.get("cursor").is_none(), "{events}");
    assert_eq!(node.call(&admin, "events", json!([id, 0])), Ok(json!([])), "it is told once");
    assert_eq!(node.call(&dave, "events", json!([his, 0])), Ok(json!([])), "it is not his job");
}

#[test]
fn a_new_master_is_told_of() {
    let cluster = TestCluster::start(3, &Options::default());
    let (was, admin) = (cluster.master(), cluster.admin());
    cluster.output("master_change", json!({}));
    let told = eventually("the new master tells of itself", || {
        let led = cluster.master();
        let node = (led != was).then(|| &cluster.nodes[led])?;
        let follow = json!([{"kinds": ["master"], "since": "0.0"}]);
        let id = node.call(&admin, "subscribe", follow).ok()?;
        let events = node.call(&admin, "events", json!([id, 1])).ok()?;
        let of_led = |event: &&Value| event["node"] == 11 + led;
        events.as_array()?.iter().find(of_led).cloned()
    });
    assert_eq!(told["kind"], "master", "{told}");
    assert!(told["cursor"].is_string() && told["term"].as_u64().is_some_and(|t| t > 1), "{told}");
}
