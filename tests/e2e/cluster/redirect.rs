//! Where calls go: redirect and forward are wire.md section 3, who says to be the master is ruling
//! 25.

use super::{eventually, follower, post, request};
use serde_json::{Value, json};
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::{Login, Options, Reply, TestNode};

fn node_list() -> Value {
    request("job_exec", json!(["node_list"]))
}

fn multicall(methods: &[&str]) -> Value {
    let calls: Vec<Value> =
        methods.iter().map(|name| json!({"methodName": name, "params": []})).collect();
    request("system.multicall", json!([calls]))
}

#[track_caller]
fn is_redirect(reply: &Reply, to: &str) {
    assert_eq!((reply.status, reply.header("location")), (302, Some(to)), "{}", reply.text());
    assert!(reply.body.is_empty(), "{}", reply.text());
}

#[track_caller]
fn is_answered_here(reply: &Reply) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let applied = reply.header("tiebeam-applied").and_then(|value| value.parse::<u64>().ok());
    assert!(applied.is_some_and(|index| index > 0), "{:?}", reply.headers);
}

#[test]
fn a_follower_points_to_the_master_and_answers_what_needs_no_state() {
    let cluster = TestCluster::start(3, &Options::default());
    let (master, follower) = (cluster.master(), follower(&cluster));
    let (master, follower) = (&cluster.nodes[master], &cluster.nodes[follower]);
    let admin = cluster.admin();
    for path in ["/", "/rpc", "/rpc2", "/RPC2", "/rest", "/rpc2?x=1"] {
        let body = match path {
            "/rest" => json!({"method": "job_exec", "job": "node_list"}),
            _ => node_list(),
        };
        let to = format!("{}{path}", master.url);
        is_redirect(&post(follower, &admin, path, &body), &to);
        // Who it is, is the master's to verify; that somebody says who, is not.
        is_redirect(&post(follower, &Login::basic("admin", "wrong"), path, &body), &to);
        let nobody = post(follower, &Login::None, path, &body);
        assert_eq!((nobody.status, nobody.header("location")), (401, None), "{path}");
        assert_eq!(post(master, &admin, path, &body).status, 200, "{path}");
    }
    let root = format!("{}/", master.url);
    let login = request("user_login", json!(["admin", follower.password]));
    is_redirect(&post(follower, &Login::None, "/", &login), &root);
    let here = request("job_list", json!([]));
    is_answered_here(&post(follower, &admin, "/", &here));
    assert_eq!(post(follower, &Login::basic("admin", "wrong"), "/", &here).status, 401);
    for method in ["system.listMethods", "system.getCapabilities", "rpc.discover"] {
        is_answered_here(&post(follower, &admin, "/", &request(method, json!([]))));
    }
    is_answered_here(&post(follower, &admin, "/", &request("job_desc", json!(["config_set"]))));
    is_answered_here(&post(follower, &admin, "/", &json!([here, here])));
    is_redirect(&post(follower, &admin, "/", &json!([here, node_list()])), &root);
    is_answered_here(&post(follower, &admin, "/", &multicall(&["job_list", "rpc.discover"])));
    is_redirect(&post(follower, &admin, "/", &multicall(&["job_list", "user_state"])), &root);
}

fn probe(node: &TestNode, path: &str) -> (u16, String) {
    let reply = node.get(&Login::None, path);
    if reply.status == 503 && path.starts_with("/master") {
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    (reply.status, reply.text().trim().to_owned())
}

#[test]
fn every_node_knows_the_master_and_without_a_majority_there_is_none() {
    let mut cluster = TestCluster::start(3, &Options::default());
    let master = cluster.master();
    let (host, name) =
        (cluster.nodes[master].address.ip().to_string(), format!("n{}", 11 + master));
    for (at, node) in cluster.nodes.iter().enumerate() {
        assert_eq!(probe(node, "/master"), (200, host.clone()));
        assert_eq!(probe(node, "/master?info_type=name"), (200, name.clone()));
        let expected = if at == master { (200, "true") } else { (503, "false") };
        let (status, text) = probe(node, "/is_master");
        assert_eq!((status, text.as_str()), expected, "node {at}");
    }
    for at in (0..3).filter(|at| *at != master) {
        cluster.nodes[at].kill9();
    }
    let last = &cluster.nodes[master];
    let admin = cluster.admin();
    let refused = eventually("calls are refused", || {
        let reply = post(last, &admin, "/", &node_list());
        (reply.status != 200).then_some(reply)
    });
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(probe(last, "/is_master"), (503, "false".to_owned()));
    eventually("nobody is called the master", || (probe(last, "/master").0 == 503).then_some(()));
    is_answered_here(&post(last, &admin, "/", &request("job_list", json!([]))));
    assert_eq!(last.get(&Login::None, "/health/live").status, 200);
    assert_eq!(last.get(&Login::None, "/health/ready").status, 503);
    for at in (0..3).filter(|at| *at != master) {
        cluster.nodes[at].begin();
    }
    cluster.nodes.iter_mut().for_each(TestNode::wait_ready);
    assert_eq!(
        cluster.output("node_list", json!({})).as_object().map(|nodes| nodes.len()),
        Some(3)
    );
}
