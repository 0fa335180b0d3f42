//! The node's own settings while it runs: what SIGHUP changes.

use super::draining::eventually;
use nix::sys::signal::Signal;
use tiebeam_tests::{Options, TestNode, node};

#[test]
fn a_hangup_changes_the_level_of_the_log() {
    let mut node = TestNode::init(Options::default());
    let file = node.data.join("tiebeamd.yaml");
    let text = node::read(&file);
    let with = |level: &str| format!("{text}\nlog:\n  level: {level}\n");
    std::fs::write(&file, with("error")).expect("a file of the node");
    node.run();
    std::fs::write(&file, with("info")).expect("a file of the node");
    node.signal(Signal::SIGHUP);
    let line = eventually("the log says what was taken", || {
        let log = node::read(&node.log_file());
        log.lines().find(|line| line.contains("log.level")).map(str::to_owned)
    });
    assert!(line.contains("needs_restart=[]"), "{line}");
}
