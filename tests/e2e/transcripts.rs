//! The curl transcripts in `transcripts/`: documents for people that are run word for word.

use tiebeam_tests::{Options, TestNode, need, transcript};

fn replay(name: &str, text: &str) {
    if !need("curl transcripts", &["curl", "--version"]) {
        return;
    }
    let node = TestNode::start(Options::default());
    let ca = node.ca_file.display().to_string();
    let folder = node.folder.display().to_string();
    let curl = format!("curl -s --cacert {ca} -u admin:{}", node.password);
    let environment = [
        ("CURL", curl.as_str()),
        ("CA", ca.as_str()),
        ("URL", node.url.as_str()),
        ("PASSWORD", node.password.as_str()),
        ("FOLDER", folder.as_str()),
    ];
    transcript::replay(name, text, &environment);
}

#[test]
fn json_rpc() {
    replay("json_rpc.md", include_str!("transcripts/json_rpc.md"));
}

#[test]
fn rest() {
    replay("rest.md", include_str!("transcripts/rest.md"));
}
