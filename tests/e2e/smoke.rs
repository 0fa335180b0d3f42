//! The harness itself: a node starts, answers, restarts and ends.

use serde_json::json;
use tiebeam_tests::{Login, Options, TestNode};

#[test]
fn a_node_starts_answers_restarts_and_ends() {
    let mut node = TestNode::start(Options::default());
    assert_eq!(node.output("node_list", json!({}))["11"]["name"], "n11");
    assert_eq!(node.get(&Login::None, "/is_master").text(), "true");
    node.restart();
    node.kill9();
    node.run();
    assert_eq!(node.output("node_list", json!({}))["11"]["id"], 11);
    assert_eq!(node.terminate(), 0);
    assert!(node.check().ok().contains("everything is sound"));
}
