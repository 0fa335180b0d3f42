//! The HTTP endpoints beside the calls (wire.md section 2): probes, metrics, and what is refused.

use serde_json::json;
use std::io::ErrorKind;
use tiebeam_tests::{Login, Options, Reply, TestNode, Wire};

fn request(node: &TestNode, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    node.connect().request(method, path, &Login::None, headers, b"").expect("an answer")
}

#[test]
fn probes_need_no_login() {
    let node = TestNode::start(Options::default());
    let get = |path: &str| request(&node, "GET", path, &[]);
    let master = get("/master");
    assert_eq!((master.status, master.text()), (200, node.address.ip().to_string()));
    assert!(master.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    assert_eq!(get("/master?info_type=name").text(), "n11");
    assert_eq!((get("/is_master").status, get("/is_master").text()), (200, "true".to_owned()));
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(get(path).status, 200, "{path}");
        assert!(get(path).json().is_object(), "{path}: one JSON object");
        let head = request(&node, "HEAD", path, &[]);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
}

#[test]
fn metrics_are_for_those_who_watch() {
    let node = TestNode::start(Options::default());
    let watcher = node.user("watcher", 1101, "monitor");
    let other = node.user("other", 1102, "exausers");
    assert_eq!(node.get(&Login::None, "/metrics").status, 401);
    assert_eq!(node.get(&Login::basic("watcher", "wrong"), "/metrics").status, 401);
    assert_eq!(node.get(&other, "/metrics").status, 403);
    for login in [&watcher, &node.admin()] {
        let metrics = node.get(login, "/metrics");
        assert_eq!(metrics.status, 200);
        assert!(metrics.text().contains("# TYPE tiebeam_jobs counter"), "{}", metrics.text());
    }
}

#[test]
fn metrics_without_login_are_on_loopback_only_if_asked_for() {
    let (address, unused) = tiebeam_tests::node::own_place();
    std::fs::remove_dir(unused).expect("the test's own folder");
    let node = TestNode::start(Options::default().set("metrics.listen", &address.to_string()));
    let mut plain = Wire::plain(address).expect("a connection");
    let metrics = plain.request("GET", "/metrics", &Login::None, &[], b"").expect("an answer");
    assert_eq!(metrics.status, 200);
    let mut plain = Wire::plain(address).expect("a connection");
    let other = plain.request("GET", "/master", &Login::None, &[], b"").expect("an answer");
    assert_eq!(other.status, 404, "nothing else is served there");
    drop(node);
}

#[test]
fn wrong_paths_methods_and_protocols_are_told_so() {
    let node = TestNode::start(Options::default());
    assert_eq!(request(&node, "GET", "/nope", &[]).status, 404);
    assert_eq!(request(&node, "POST", "/rpc3", &[]).status, 404);
    for (method, path, allow) in [
        ("GET", "/", "POST"),
        ("PUT", "/rest", "POST"),
        ("DELETE", "/RPC2", "POST"),
        ("POST", "/health/live", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
    ] {
        let refused = request(&node, method, path, &[]);
        assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)), "{path}");
    }
    let mut plain = Wire::plain(node.address).expect("a connection");
    let hint = plain.request("POST", "/RPC2", &node.admin(), &[], b"<x/>").expect("an answer");
    assert_eq!(hint.status, 400);
    assert!(hint.text().contains("https://"), "{}", hint.text());
    assert_eq!(hint.text().lines().count(), 1);
}

#[test]
fn a_login_is_asked_for_by_both_schemes() {
    let node = TestNode::start(Options::default());
    for login in [Login::None, Login::basic("admin", "wrong"), Login::Bearer("tb1.x".into())] {
        let refused = node.connect().request("POST", "/RPC2", &login, &[], b"<methodCall/>");
        let refused = refused.expect("an answer");
        assert_eq!(refused.status, 401);
        let schemes: Vec<&str> = refused
            .headers
            .iter()
            .filter(|(name, _)| name == "www-authenticate")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(schemes, ["Basic realm=\"tiebeam\"", "Bearer"]);
    }
    // A connection goes on after a refusal, with its body drained.
    let mut wire = node.connect();
    let body = vec![b' '; 100_000];
    let refused = wire.request("POST", "/", &Login::None, &[], &body).expect("an answer");
    assert_eq!(refused.status, 401);
    match wire.request("GET", "/is_master", &Login::None, &[], b"") {
        Ok(reply) => assert_eq!(reply.text(), "true"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "or it was closed"),
    }
}

#[test]
fn pages_in_a_browser_are_refused() {
    let node = TestNode::start(Options::default());
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "job_list"}).to_string();
    let send = |headers: &[(&str, &str)]| {
        let reply = node.connect().request("POST", "/", &node.admin(), headers, call.as_bytes());
        reply.expect("an answer").status
    };
    assert_eq!(send(&[]), 200);
    assert_eq!(send(&[("Origin", "https://evil.example")]), 403);
    assert_eq!(send(&[("Origin", "null")]), 403);
    assert_eq!(send(&[("Sec-Fetch-Site", "cross-site")]), 403);
    assert_eq!(send(&[("Sec-Fetch-Site", "none")]), 200);
    assert_eq!(send(&[("Host", "evil.example")]), 403);
    assert_eq!(send(&[("Host", "n11:20003")]), 200, "a member's name");
}

#[test]
fn tls_is_as_old_as_1_2_and_no_older() {
    if !tiebeam_tests::need("tls versions", &["curl", "--version"]) {
        return;
    }
    let node = TestNode::start(Options::default());
    let curl = |options: &[&str]| {
        let mut curl = tiebeam_tests::program::command("curl", &["-s", "-o", "/dev/null"]);
        curl.args(["-w", "%{http_code} %{http_version}", "--cacert"]).arg(&node.ca_file);
        curl.args(options).arg(format!("{}/is_master", node.url));
        tiebeam_tests::run(&mut curl, "").out
    };
    assert_eq!(curl(&["--tlsv1.2", "--tls-max", "1.2"]), "200 2");
    assert_eq!(curl(&["--tlsv1.3"]), "200 2");
    assert_eq!(curl(&["--http1.1"]), "200 1.1");
    assert_eq!(curl(&["--no-alpn", "--http1.0"]), "200 1");
    assert_eq!(curl(&["--tlsv1.0", "--tls-max", "1.1"]), "000 0");
}
