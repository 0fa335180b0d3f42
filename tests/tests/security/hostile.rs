//! What no client should send: too much, too deep, too slow, from the wrong place, with control
//! characters where names belong. Each gets a clear answer or a closed connection; the node stays
//! up, its memory comes back and no line of its log is forged.

mod memory;
mod parameters;
mod slow;

use serde_json::json;
use std::io::{Read, Write};
use tiebeam_tests::door::Door;
use tiebeam_tests::{Login, Options, Reply, TestNode};

/// What stands at the start of a line if a client could begin one in the log.
const FORGED: &str = "FORGED";

/// Texts where a name, a path or a line belongs.
const POISON: [&str; 12] = [
    "../../../../etc/shadow",
    "a\0b",
    "ok\nFORGED 2026-11-20T00:00:00Z ERROR all is lost",
    "ok\r\nFORGED: 1",
    "\u{1b}[2K\u{1b}[1AFORGED",
    "-x",
    "--help",
    "; touch /tmp/tiebeam-was-here",
    "$(touch /tmp/tiebeam-was-here)",
    "\u{202e}txt.exe",
    "%s%s%n{}{0}",
    "'\"`\\",
];

fn node() -> TestNode {
    TestNode::start(Options::default().set("log.level", "debug"))
}

fn door(node: &TestNode) -> Door {
    Door::new(node.address, &node.ca_file, "http/1.1", None).expect("a door")
}

/// The node is the same process and answers; every line of its log is one that it wrote.
fn is_well(node: &mut TestNode) {
    assert_eq!(node.ended(), None, "the node is up");
    let state = node.call(&node.admin(), "user_state", json!([])).expect("it answers");
    assert_eq!(state["user"], "admin");
    let log = std::fs::read(node.log_file()).expect("its log");
    let log = String::from_utf8(log).expect("the log is UTF-8");
    for line in log.lines() {
        assert!(!line.starts_with(FORGED), "a forged line: {line:?}");
        let mut words = line.split_whitespace();
        let time = words.next().unwrap_or_default();
        let level = words.next().unwrap_or_default();
        let is_ours = time.starts_with("20") && time.ends_with('Z');
        assert!(
            is_ours && ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level),
            "{line:?}"
        );
        assert!(!line.chars().any(char::is_control), "control characters: {line:?}");
        assert!(!line.contains("panicked"), "a panic: {line:?}");
    }
}

/// A body, as `admin`, on a connection of its own.
fn post(node: &TestNode, path: &str, body: &[u8]) -> Reply {
    let mut wire = node.connect();
    wire.request("POST", path, &node.admin(), &[], body).expect("an answer")
}

fn nested_json(depth: usize) -> Vec<u8> {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"job_list","params":{open}{close}}}"#).into_bytes()
}

fn xml(params: &str) -> Vec<u8> {
    format!("<methodCall><methodName>job_list</methodName><params>{params}</params></methodCall>")
        .into_bytes()
}

fn nested_xml(depth: usize) -> Vec<u8> {
    let (open, close) =
        ("<value><array><data>".repeat(depth), "</data></array></value>".repeat(depth));
    xml(&format!("<param>{open}{close}</param>"))
}

fn entities() -> Vec<u8> {
    let mut text =
        String::from("<?xml version=\"1.0\"?><!DOCTYPE lolz [<!ENTITY a \"aaaaaaaaaa\">");
    for (this, next) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        text.push_str(&format!("<!ENTITY {next} \"{}\">", format!("&{this};").repeat(10)));
    }
    text.push_str("]>");
    text.push_str(&String::from_utf8(xml("<param><value>&i;</value></param>")).expect("text"));
    text.into_bytes()
}

fn multicall(calls: usize) -> Vec<u8> {
    let one = json!({"methodName": "job_list", "params": []});
    tiebeam_proto::xml::write_call("system.multicall", &[json!(vec![one; calls])])
}

#[test]
fn what_is_too_much_or_too_deep_is_refused_by_code() {
    let mut node = node();
    let batch = json!(vec![json!(1); 100_000]).to_string().into_bytes();
    let calls = json!({"jsonrpc": "2.0", "method": "system.multicall", "id": 1,
                       "params": [vec![json!({"methodName": "job_list"}); 30_000]]});
    let calls = calls.to_string().into_bytes();
    let external = "<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>".to_owned()
        + std::str::from_utf8(&xml("<param><value>&x;</value></param>")).expect("text");
    let cases: [(&str, Vec<u8>, i64); 14] = [
        ("JSON nested 10^5", nested_json(100_000), -32700),
        ("JSON nested 65", nested_json(65), -32700),
        ("JSON open only", vec![b'['; 200_000], -32700),
        ("JSON objects open only", b"{\"a\":".repeat(100_000), -32700),
        ("XML nested 10^4", nested_xml(10_000), -32700),
        ("XML tags open only", b"<a>".repeat(100_000), -32600),
        ("entities", entities(), -32700),
        ("an external entity", external.into_bytes(), -32700),
        ("an unknown entity", xml("<param><value>&nothing;</value></param>"), -32700),
        ("a batch of 10^5", batch, -32009),
        ("a multicall of 30,000", calls, -32009),
        ("a multicall of 101", multicall(101), -32009),
        ("an empty batch", b"[]".to_vec(), -32600),
        ("no UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}".to_vec(), -32700),
    ];
    for (name, body, code) in cases {
        for path in ["/", "/rest"] {
            let reply = post(&node, path, &body);
            assert_eq!(reply.status, 200, "{name} {path}: {}", reply.text());
            let text = reply.text();
            assert!(text.len() < 4096, "{name} {path}: an answer of {} bytes", text.len());
            if path == "/" {
                assert!(text.contains(&code.to_string()), "{name}: {text}");
            }
            assert!(!text.contains("-32603"), "{name} {path}: {text}");
        }
    }
    is_well(&mut node);
}

#[test]
fn a_body_over_the_limit_is_413_and_nobody_is_asked_twice() {
    let mut node = node();
    for size in [(1 << 20) + 1, 3 << 20, 16 << 20] {
        let mut wire = node.connect();
        let answered = wire.request("POST", "/", &node.admin(), &[], &vec![b' '; size]);
        // Beyond what is drained the connection may end before the body was sent.
        if let Ok(reply) = answered {
            assert_eq!(reply.status, 413, "{size}");
        } else {
            assert!(size > 4 << 20, "{size} bytes are drained and answered");
        }
    }
    let padded = |size: usize| {
        let mut body = br#"{"jsonrpc":"2.0","id":1,"method":"job_list"}"#.to_vec();
        body.resize(size, b' ');
        body
    };
    assert_eq!(post(&node, "/", &padded(1 << 20)).status, 200, "exactly the limit");
    // Before the login 4 KiB are read, and nothing of it is parsed.
    for body in [padded(5000), vec![b'['; 100_000], b"<!DOCTYPE a>".to_vec()] {
        let mut wire = node.connect();
        let reply = wire.request("POST", "/", &Login::None, &[], &body).expect("an answer");
        assert_eq!(reply.status, 401);
    }
    let mut login = json!({"jsonrpc": "2.0", "id": 1, "method": "user_login",
                           "params": ["admin", node.password]})
    .to_string();
    login.push_str(&" ".repeat(5000));
    let mut wire = node.connect();
    let reply = wire.request("POST", "/", &Login::None, &[], login.as_bytes());
    assert_eq!(reply.expect("an answer").status, 401, "a login has at most 4 KiB");
    is_well(&mut node);
}

#[test]
fn plain_http_foreign_origins_and_foreign_hosts_are_turned_away() {
    let mut node = node();
    let mut tcp = door(&node).tcp().expect("a connection");
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is open");
    let mut hint = String::new();
    tcp.read_to_string(&mut hint).expect("an answer, then its end");
    assert!(hint.starts_with("HTTP/1.1 400 "), "{hint}");
    assert!(hint.to_ascii_lowercase().contains("https"), "the hint names TLS: {hint}");

    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "job_list"}).to_string();
    let own = node.address.to_string();
    let cases: [(&[(&str, &str)], u16); 12] = [
        (&[("Origin", "https://evil.example")], 403),
        (&[("Origin", "null")], 403),
        (&[("Origin", "")], 403),
        (&[("Sec-Fetch-Site", "cross-site")], 403),
        (&[("Sec-Fetch-Site", "same-site")], 403),
        (&[("Sec-Fetch-Site", "none")], 200),
        (&[("Host", "evil.example")], 403),
        (&[("Host", "evil.example:20003")], 403),
        (&[("Host", "127.0.0.1\u{7f}")], 400),
        (&[("Host", "")], 403),
        (&[("Host", "n11")], 200),
        (&[("Host", &own)], 200),
    ];
    for (headers, status) in cases {
        let mut wire = node.connect();
        let reply = wire.request("POST", "/", &node.admin(), headers, call.as_bytes());
        let reply = reply.expect("an answer");
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.text());
    }
    // Neither a socket nor a probe is open to pages.
    for path in ["/ws", "/metrics", "/master", "/health/live"] {
        let headers = [("Origin", "https://evil.example")];
        let mut wire = node.connect();
        let reply = wire.request("GET", path, &node.admin(), &headers, b"").expect("an answer");
        assert_eq!(reply.status, 403, "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{path}");
    }
    // A browser that is not logged in is not asked for a password.
    let headers = [("Sec-Fetch-Mode", "navigate")];
    let reply = node.connect().request("POST", "/", &Login::None, &headers, b"{}");
    let reply = reply.expect("an answer");
    assert_eq!(reply.status, 401);
    assert!(!reply.header("www-authenticate").unwrap_or_default().contains("Basic"));
    is_well(&mut node);
}

#[test]
fn broken_heads_and_logins_are_refused() {
    let mut node = node();
    let heads: [&[u8]; 8] = [
        b"GET /\0 HTTP/1.1\r\nHost: n11\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: n11\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: n11\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: n11\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: n11\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\0\0\0\0",
        b"GET / HTTP/1.1\r\nX: a\rFORGED: b\r\nHost: n11\r\n\r\n",
    ];
    for head in heads {
        let mut wire = node.connect();
        wire.send_raw(head).expect("the connection is open");
        // 401 where the head is sound and only the body is not: nobody was logged in.
        match wire.read_reply() {
            Ok(reply) => assert!([400, 401, 405].contains(&reply.status), "{}", reply.status),
            Err(_) => continue,
        }
    }
    let long = format!("GET / HTTP/1.1\r\nHost: n11\r\nX: {}\r\n\r\n", "a".repeat(100_000));
    let mut wire = node.connect();
    if wire.send_raw(long.as_bytes()).is_ok()
        && let Ok(reply) = wire.read_reply()
    {
        assert!((400..=431).contains(&reply.status), "{}", reply.status);
    }
    let values = [
        "",
        "Basic",
        "Basic !!!",
        "Basic YWRtaW4=",
        "Digest x",
        "Bearer",
        "Bearer a.b",
        "Bearer tb1.0..",
        "Bearer tb1.1.e30.AAAA",
        "basic",
    ];
    for value in values {
        let headers = [("Authorization", value)];
        let reply = door(&node)
            .entered_from(super::people::new_network())
            .open()
            .and_then(|mut wire| wire.request("POST", "/", &Login::None, &headers, b"{}"));
        assert_eq!(reply.expect("an answer").status, 401, "{value:?}");
    }
    for user in POISON.iter().chain(&["", "root:", "ADMIN", "admin "]) {
        let login = Login::basic(user, &node.password);
        let wire = door(&node).entered_from(super::people::new_network()).open();
        let reply = wire.and_then(|mut wire| wire.request("POST", "/", &login, &[], b"{}"));
        assert_eq!(reply.expect("an answer").status, 401, "{user:?}");
    }
    is_well(&mut node);
}
