//! Node certificates renew themselves (ruling 40), also when they have expired meanwhile.

use super::eventually;
use serde_json::json;
use std::fs::read_to_string;
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::{Options, TestNode};
use tiebeamd::ca::{self, Authority};
use tiebeamd::certificate::{Summary, summaries_from_pem};
use tiebeamd::identity::Identity;
use tiebeamd::proposer::wall_now as now;
use tiebeamd::secret::Secret;

const DAY_US: i64 = 86_400 * 1_000_000;

fn certificate(node: &TestNode) -> Summary {
    let pem = ca::read_certificate(&node.data, ca::NODE_CERTIFICATE).expect("it is there");
    summaries_from_pem(&pem).expect("a certificate").remove(0)
}

/// Gives a stopped node the certificate that it would have had if it had been issued days ago.
fn age(cluster: &TestCluster, at: usize, days: i64) -> Summary {
    let node = &cluster.nodes[at];
    let secret = |node: &TestNode, name: &str| {
        Secret::new(read_to_string(node.data.join("keys").join(name)).expect("a key"))
    };
    let authority = read_to_string(&node.ca_file).expect("the authority's certificate");
    let authority = Authority::new(&authority, &secret(&cluster.nodes[0], "ca.key"));
    let identity = Identity::read(&node.data).expect("an identity");
    let key = ca::public_key(&secret(node, "node.key")).expect("a key");
    let hosts = [node.address.ip().to_string()];
    let issued = tiebeam_proto::time::Time(now().0 - days * DAY_US);
    let pem = authority.expect("it signs").issue_node(&key, &identity, &hosts, issued);
    ca::write_certificate(&node.data, ca::NODE_CERTIFICATE, &pem.expect("a certificate"))
        .expect("it is written");
    certificate(node)
}

#[test]
fn certificates_are_renewed_at_two_thirds_of_their_life_and_after_it() {
    let mut cluster = TestCluster::start(3, &Options::default());
    for node in &mut cluster.nodes {
        assert_eq!(node.terminate(), 0);
    }
    // Due, expired, and one that is good for long.
    let old: Vec<Summary> =
        [(0, 300), (1, 400), (2, 100)].map(|(at, d)| age(&cluster, at, d)).into();
    assert!(old[1].not_after < now(), "{}", old[1].not_after);
    cluster.nodes.iter_mut().for_each(TestNode::begin);
    cluster.nodes.iter_mut().for_each(TestNode::wait_ready);
    for (at, old) in old.iter().enumerate().take(2) {
        let new = eventually("a new certificate", || {
            let new = certificate(&cluster.nodes[at]);
            (new.not_after > old.not_after).then_some(new)
        });
        assert_eq!((&new.key_hash, &new.sans), (&old.key_hash, &old.sans));
        let days = (new.not_after.0 - now().0) / DAY_US;
        assert!((363..=365).contains(&days), "{days} days");
        // Clients see it without a restart.
        eventually("it is served", || {
            let facts = cluster.output("node_info", json!({"nid": 11 + at}));
            facts.to_string().contains(&new.fingerprint).then_some(())
        });
        let log = tiebeam_tests::node::read(&cluster.nodes[at].log_file());
        assert!(log.contains("certificate renewed"), "{log}");
    }
    assert_eq!(certificate(&cluster.nodes[2]), old[2], "it has time");
    changes_are_applied(&cluster);
}

#[track_caller]
fn changes_are_applied(cluster: &TestCluster) {
    let result = cluster.exec("config_set", json!({"path": "app/x", "value": 1}));
    assert_eq!(result["result_code"], 0, "{result}");
    assert!(result["result_warnings"].is_null(), "all three have applied it: {result}");
}

/// The key of the authority comes from whoever has it, for the master may not: here it led before
/// it was given the key, and the others' certificates end.
#[test]
fn a_master_without_the_key_of_the_authority_gets_it_from_a_follower() {
    let mut cluster = TestCluster::start(3, &Options::default());
    for node in &mut cluster.nodes {
        assert_eq!(node.terminate(), 0);
    }
    let old = age(&cluster, 1, 300);
    // Only the first node keeps the key, and never leads.
    for node in &cluster.nodes[1..] {
        let key = node.data.join("keys/ca.key");
        assert!(!key.exists() || std::fs::remove_file(&key).is_ok(), "{}", key.display());
    }
    for node in &mut cluster.nodes[1..] {
        node.begin();
    }
    cluster.nodes[1..].iter_mut().for_each(TestNode::wait_ready);
    assert_ne!(cluster.master(), 0);
    cluster.nodes[0].begin();
    cluster.nodes[0].wait_ready();
    let new = eventually("a new certificate", || {
        let new = certificate(&cluster.nodes[1]);
        (new.not_after > old.not_after).then_some(new)
    });
    assert_eq!(new.key_hash, old.key_hash);
    assert_ne!(cluster.master(), 0, "the one with the key does not lead");
    changes_are_applied(&cluster);
}
