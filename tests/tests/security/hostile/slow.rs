//! Clients that take their time. All of them at once, so that the test takes as long as the
//! longest limit: 30 s for a body.

use super::{door, is_well, node};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use tiebeam_tests::door::Door;

/// Longer than every limit that is waited for, by far.
const PATIENCE: Duration = Duration::from_secs(60);
/// Limits of the wire: nobody is closed much earlier.
const HEAD: Duration = Duration::from_secs(10);
const BODY: Duration = Duration::from_secs(30);
/// How much earlier than its limit a clock may read.
const EARLY: Duration = Duration::from_millis(500);

/// A head that never ends, some of it at once or byte by byte.
fn slow_head(door: &Door, by_byte: bool) {
    let began = Instant::now();
    let mut wire = door.open().expect("a connection");
    let head = b"POST /rpc2 HTTP/1.1\r\nHost: n11\r\nX-Slow: ";
    wire.send_raw(head).expect("it is open");
    while by_byte && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(700));
        if wire.send_raw(b"a").is_err() {
            break;
        }
    }
    assert!(wire.closed(), "a head that does not end is closed");
    assert!(began.elapsed() >= HEAD - EARLY && began.elapsed() < PATIENCE);
}

/// A body that never ends: answered, or closed.
fn slow_body(door: &Door, password: &str, with_login: bool) {
    let began = Instant::now();
    let mut wire = door.open().expect("a connection");
    let line = match with_login {
        true => {
            format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("admin:{password}")))
        }
        false => String::new(),
    };
    let head = format!("POST / HTTP/1.1\r\nHost: n11\r\n{line}Content-Length: 1000\r\n\r\n{{");
    wire.send_raw(head.as_bytes()).expect("it is open");
    match wire.read_reply() {
        Ok(reply) => assert!([400, 401, 408].contains(&reply.status), "{}", reply.status),
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
    }
    assert!(began.elapsed() < PATIENCE);
    assert!(!with_login || began.elapsed() >= BODY - EARLY);
}

/// A handshake that never ends, or never begins.
fn slow_handshake(door: &Door, first: &[u8]) {
    let began = Instant::now();
    let mut tcp = door.tcp().expect("a connection");
    tcp.write_all(first).expect("it is open");
    let mut rest = Vec::new();
    let ended = tcp.read_to_end(&mut rest);
    let waits =
        |kind| matches!(kind, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
    assert!(!ended.is_err_and(|error| waits(error.kind())), "a silent client is closed");
    assert!(began.elapsed() >= HEAD - EARLY && began.elapsed() < PATIENCE);
}

#[test]
fn who_is_slow_is_closed_and_who_is_not_is_served() {
    let mut node = node();
    let door = door(&node).with_patience(PATIENCE);
    std::thread::scope(|scope| {
        let (node, door) = (&node, &door);
        for _ in 0..4 {
            scope.spawn(|| slow_head(door, false));
            scope.spawn(|| slow_head(door, true));
            scope.spawn(|| slow_body(door, &node.password, true));
            scope.spawn(|| slow_body(door, &node.password, false));
            scope.spawn(|| slow_handshake(door, b""));
            scope.spawn(|| slow_handshake(door, &[0x16, 3, 1]));
        }
        std::thread::sleep(Duration::from_secs(1));
        let state = node.call(&node.admin(), "user_state", serde_json::json!([]));
        assert_eq!(state.expect("others are served")["user"], "admin");
    });
    is_well(&mut node);
}
