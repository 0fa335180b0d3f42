//! A flood takes a bounded amount of memory, and gives it back.

use super::super::people::new_network;
use super::{door, is_well, nested_json, node};
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tiebeam_tests::door::Door;
use tiebeam_tests::{Login, TestNode, Wire};

/// Kibibytes by which the resident memory may grow while it lasts …
const DURING_KIB: u64 = 128 << 10;
/// … and afterwards.
const AFTER_KIB: u64 = 32 << 10;
/// How long the node may take to give memory back.
const CALM: Duration = Duration::from_secs(20);
/// Connections that do nothing.
const IDLE: usize = 300;
/// Handshakes that are begun and left; a source has 16 turns.
const HANDSHAKES: usize = 64;

/// The resident memory of a process in KiB.
fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Bodies of a mebibyte, each another kind of burden.
fn flood(door: &Door, login: &Login, number: usize) {
    let value = "x".repeat(1_000_000);
    let set = json!({"params": {"path": format!("app/flood/{number}"), "value": value}});
    let bodies = [
        json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec", "params": ["config_set", set]}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "job_list", "params": vec![0; 400_000]}),
        json!(vec![json!({"jsonrpc": "2.0", "id": 1, "method": "rpc.discover"}); 100]),
        json!(vec![json!({}); 200_000]),
    ];
    let mut wire = door.open().expect("a connection");
    for body in bodies {
        let reply = wire.request("POST", "/", login, &[], body.to_string().as_bytes());
        assert!([200, 503].contains(&reply.expect("an answer").status));
    }
    let reply = wire.request("POST", "/", login, &[], &nested_json(100_000));
    assert_eq!(reply.expect("an answer").status, 200);
}

fn settle(node: &TestNode, before: u64) -> u64 {
    let until = Instant::now() + CALM;
    loop {
        let now = resident_kib(node.pid());
        if now <= before + AFTER_KIB || Instant::now() > until {
            return now;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

#[test]
fn a_flood_is_served_within_bounds_and_gives_its_memory_back() {
    let mut node = node();
    let (door, login, pid) = (door(&node), node.admin(), node.pid());
    for _ in 0..50 {
        node.connect().call(&login, "job_exec", json!(["node_list"])).expect("a result");
    }
    let before = resident_kib(pid);
    let (most, over) = (AtomicU64::new(before), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(resident_kib(pid), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let idle: Vec<Wire> = (0..IDLE).map(|_| door.open().expect("a place")).collect();
        let begun: Vec<TcpStream> = (0..HANDSHAKES)
            .map(|_| {
                let mut tcp = door.tcp().expect("a connection");
                tcp.write_all(&[0x16, 3, 1]).expect("it is open");
                tcp
            })
            .collect();
        // Another source has its own turns.
        let mut other = door.entered_from(new_network()).open().expect("a turn");
        assert!(other.call(&login, "user_state", json!([])).is_ok());
        drop(begun);
        let floods: Vec<_> = (0..16)
            .map(|number| {
                let (door, login) = (door.entered_from(new_network()), &login);
                scope.spawn(move || flood(&door, login, number))
            })
            .collect();
        floods.into_iter().for_each(|one| one.join().expect("the flood is answered"));
        assert!(other.call(&login, "user_state", json!([])).is_ok());
        over.store(true, Ordering::Relaxed);
        drop(idle);
    });
    let most = most.load(Ordering::Relaxed);
    let after = settle(&node, before);
    println!("resident: {before} KiB before, at most {most} KiB, {after} KiB after");
    is_well(&mut node);
    assert!(most <= before + DURING_KIB, "{before} KiB before, {most} KiB during");
    assert!(after <= before + AFTER_KIB, "{before} KiB before, {after} KiB after");
}
