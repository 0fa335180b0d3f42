//! A master that stands still for longer than an election takes, and wakes up as one.

use super::{ANSWER, ELECTION, Site, ask, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tiebeam_tests::{Options, TestNode, Wire};

/// How long the master stands still.
const PAUSE: Duration = Duration::from_secs(5);
/// Connections to the master on which a read is sent while it stands still.
const WAITING: usize = 16;

fn set(number: u64) -> Value {
    let params = json!({"path": "app/counter", "value": number});
    json!(["config_set", {"params": params, "request_id": format!("count-{number}")}])
}

/// The counter in the answer to a volatile read; `None` if the node did not answer it.
fn read_in(answer: &Value) -> Option<u64> {
    let result = &answer["result"];
    (result["result_code"] == 0).then(|| result["result_output"].as_u64())?
}

fn read_call() -> Value {
    json!(["config_get", {"params": {"path": "app/counter"}, "volatile": true}])
}

/// Counts until it is stopped, one acknowledged step after the other, on whoever is the master;
/// notes the last one in `counted`. Gives the ids of the jobs.
fn count(nodes: &[&TestNode], counted: &AtomicU64, stop: &AtomicBool) -> Vec<String> {
    let (mut ids, mut number) = (Vec::new(), counted.load(Ordering::SeqCst));
    let mut served_by = 0;
    while !stop.load(Ordering::SeqCst) {
        let result = eventually("a step of the counter", || {
            (0..nodes.len()).find_map(|further| {
                let at = (served_by + further) % nodes.len();
                let node = nodes[at];
                let mut wire =
                    Wire::tls_within(node.address, &node.ca_file, None, Duration::from_secs(2));
                let body = json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec",
                                  "params": set(number + 1)});
                let reply = wire.as_mut().ok()?.request(
                    "POST",
                    "/",
                    &node.admin(),
                    &[],
                    body.to_string().as_bytes(),
                );
                let reply = reply.ok().filter(|reply| reply.status == 200)?.json();
                served_by = at;
                (reply["result"]["result_code"] == 0).then(|| reply["result"].clone())
            })
        });
        number += 1;
        counted.store(number, Ordering::SeqCst);
        ids.push(result["result_jobid"].as_str().expect("an id").to_owned());
    }
    ids
}

/// Reads one node until it is stopped: never less than what was counted before the read began.
fn watch(node: &TestNode, counted: &AtomicU64, stop: &AtomicBool) -> u64 {
    let mut reads = 0;
    while !stop.load(Ordering::SeqCst) {
        let least = counted.load(Ordering::SeqCst);
        let answer = ask(node, "job_exec", &read_call()).filter(|reply| reply.status == 200);
        if let Some(value) = answer.and_then(|reply| read_in(&reply.json())) {
            assert!(value >= least, "{} read {value}, {least} was acknowledged", node.url);
            reads += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    reads
}

/// Sends a read on every connection in turn while the node stands still; what must at least be
/// read on each.
fn send_reads(node: &TestNode, wires: &mut [Wire], counted: &AtomicU64) -> Vec<u64> {
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec", "params": read_call()});
    let mut least = Vec::new();
    let pause = PAUSE / (wires.len() as u32 + 1);
    for wire in wires {
        least.push(counted.load(Ordering::SeqCst));
        let sent = wire.send("POST", "/", &node.admin(), &[], call.to_string().as_bytes());
        sent.expect("the kernel takes it");
        std::thread::sleep(pause);
    }
    least
}

#[test]
fn a_master_that_wakes_up_reads_nothing_stale() {
    let Some(mut site) = Site::start(&Options::default()) else { return };
    assert_eq!(site.cluster.exec("config_set", set(0)[1]["params"].clone())["result_code"], 0);
    let (counted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let master = site.cluster.master();
    let nodes: Vec<&TestNode> = site.cluster.nodes.iter().collect();
    let old = nodes[master];
    let open = || Wire::tls_within(old.address, &old.ca_file, None, ANSWER).expect("a connection");
    let mut wires: Vec<Wire> = (0..WAITING).map(|_| open()).collect();
    let (ids, reads) = std::thread::scope(|scope| {
        let counting = scope.spawn(|| count(&nodes, &counted, &stop));
        let watching: Vec<_> = nodes
            .iter()
            .map(|node| {
                let (counted, stop) = (&counted, &stop);
                scope.spawn(move || watch(node, counted, stop))
            })
            .collect();
        std::thread::sleep(2 * ELECTION);
        old.signal(Signal::SIGSTOP);
        let (paused, before) = (Instant::now(), counted.load(Ordering::SeqCst));
        let least = send_reads(old, &mut wires, &counted);
        let during = counted.load(Ordering::SeqCst) - before;
        old.signal(Signal::SIGCONT);
        println!("stood still for {:?}; {during} steps meanwhile", paused.elapsed());
        let mut answered = 0;
        for (wire, least) in wires.iter_mut().zip(&least) {
            let reply = wire.read_reply().expect("a request that was read is answered");
            assert!(matches!(reply.status, 200 | 302 | 503), "{}", reply.status);
            let value = (reply.status == 200).then(|| read_in(&reply.json())).flatten();
            assert!(value.is_none_or(|value| value >= *least), "{value:?}, {least} was there");
            answered += usize::from(value.is_some());
        }
        println!("{answered} of {WAITING} reads that waited in it had a value");
        assert!(during > 0, "the others elected a master and went on");
        std::thread::sleep(2 * ELECTION);
        stop.store(true, Ordering::SeqCst);
        let reads = watching.into_iter().map(|one| one.join().expect("no stale read")).sum::<u64>();
        (counting.join().expect("a counter"), reads)
    });
    println!("{} steps, {reads} volatile reads, none stale", ids.len());
    let different: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(different.len(), ids.len(), "no step was acknowledged as another's job");
    for (number, id) in ids.iter().enumerate().rev().take(200) {
        let call = set(number as u64 + 1);
        let again = site.cluster.call(&site.cluster.admin(), "job_start", call);
        assert_eq!(again, Ok(json!(id)), "the key of step {}", number + 1);
    }
    drop(nodes);
    site.wait_ready();
    site.compare();
}
