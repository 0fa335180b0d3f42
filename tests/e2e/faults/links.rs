//! Links between nodes that are cut, on one side or on both, that lose, and that flap.

use super::load::Load;
use super::{ANSWER, ELECTION, Site, ask, eventually, health};
use serde_json::json;
use std::time::{Duration, Instant};
use tiebeam_tests::cluster::says_master;
use tiebeam_tests::crash::Dice;
use tiebeam_tests::{Login, Options, Wire};

/// What a machine with more to do than this may add to any time.
const SLACK: Duration = Duration::from_secs(3);
const WRITERS: u64 = 8;

/// The load before and after the fault.
fn for_a_while() {
    std::thread::sleep(Duration::from_millis(1_500));
}

/// The old master stops saying that it is one, within its limit; how long it took.
#[track_caller]
fn gives_up(site: &Site, old: usize) -> Duration {
    let (begun, node) = (Instant::now(), site.node(old));
    loop {
        let asked = Instant::now();
        let wire = Wire::tls_within(node.address, &node.ca_file, None, ANSWER);
        let mut wire = wire.expect("clients reach it");
        let reply = wire.request("GET", "/is_master", &Login::None, &[], b"");
        let reply = reply.expect("a request that was read is answered");
        let took = asked.elapsed();
        assert!(took < ELECTION + SLACK, "it knows after one election timeout: {took:?}");
        if reply.status == 503 {
            assert_eq!(reply.text(), "false");
            return begun.elapsed();
        }
        assert!(begun.elapsed() < 2 * ELECTION + SLACK, "{} {}", reply.status, reply.text());
    }
}

/// The node that is cut off takes no call: it points elsewhere or says that there is no master.
#[track_caller]
fn takes_no_call(site: &Site, cut_off: usize) {
    let set = json!(["config_set", {"params": {"path": "app/cut-off", "value": 1}}]);
    let status = eventually("an answer of the node that is cut off", || {
        let reply = ask(site.node(cut_off), "job_exec", &set)?;
        // What it had proposed before it knew has no known outcome; the next one has.
        (reply.status != 200).then_some(reply.status)
    });
    assert!(matches!(status, 302 | 503), "{status}");
    assert!(!says_master(site.node(cut_off)), "a quorum cannot have confirmed it");
}

/// The last node reports that it is as far as the master.
#[track_caller]
fn heals(site: &mut Site, load: Load, what: &str) {
    site.net.heal();
    let healing = Instant::now();
    site.wait_ready();
    println!("{what}: all ready {:?} after the links healed", healing.elapsed());
    for_a_while();
    load.end(what);
    site.compare();
}

#[test]
fn a_master_without_a_quorum_stops_being_one() {
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let load = Load::start(&site.cluster, WRITERS);
    for_a_while();
    let old = site.cluster.master();
    load.pulse.begin();
    site.net.isolate(old);
    let gave_up = gives_up(&site, old);
    let new = site.master_among(&site.others(old));
    let silence = load.pulse.longest();
    println!("gave up after {gave_up:?}; node {} leads; silence so far {silence:?}", 11 + new);
    // No job may be made by the test while the ledger counts: nothing was proposed here.
    takes_no_call(&site, old);
    let about = health(site.node(old)).expect("it tells how it is");
    assert_eq!(about["ready"], false, "{about}");
    assert!(about["problems"].to_string().contains("no master"), "{about}");
    for_a_while();
    heals(&mut site, load, "symmetric partition of the master");
}

#[test]
fn a_master_that_hears_nobody_is_replaced() {
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let load = Load::start(&site.cluster, WRITERS);
    for_a_while();
    let old = site.cluster.master();
    site.others(old).iter().for_each(|other| site.net.cut(*other, old));
    let gave_up = gives_up(&site, old);
    let new = site.master_among(&site.others(old));
    println!("gave up after {gave_up:?}; node {} leads", 11 + new);
    takes_no_call(&site, old);
    for_a_while();
    heals(&mut site, load, "the master hears nobody");
}

#[test]
fn a_master_that_nobody_hears_is_replaced() {
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let load = Load::start(&site.cluster, WRITERS);
    for_a_while();
    let old = site.cluster.master();
    site.others(old).iter().for_each(|other| site.net.cut(old, *other));
    let gave_up = gives_up(&site, old);
    let new = site.master_among(&site.others(old));
    println!("gave up after {gave_up:?}; node {} leads", 11 + new);
    takes_no_call(&site, old);
    for_a_while();
    heals(&mut site, load, "nobody hears the master");
}

#[test]
fn a_follower_that_is_cut_off_disturbs_nobody_when_it_is_back() {
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let load = Load::start(&site.cluster, WRITERS);
    let (master, follower) = (site.cluster.master(), site.follower());
    site.net.isolate(follower);
    std::thread::sleep(4 * ELECTION);
    takes_no_call(&site, follower);
    let term = || super::metric(site.node(master), "tiebeam_term");
    let before = term();
    assert!(before.is_some());
    site.net.heal();
    eventually("it is ready again", || {
        health(site.node(follower)).filter(|about| about["ready"] == true)
    });
    assert_eq!(term(), before, "no election: it asked before it campaigned");
    assert!(says_master(site.node(master)));
    heals(&mut site, load, "symmetric partition of a follower");
}

#[test]
fn links_that_lose_and_delay_are_worked_through() {
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let load = Load::start(&site.cluster, WRITERS);
    site.net.narrow(4_000, 200);
    for percent in [5, 10] {
        site.net.heal();
        site.net.lose(percent);
        load.pulse.begin();
        std::thread::sleep(Duration::from_secs(8));
        println!("{percent} % lost: longest silence {:?}", load.pulse.longest());
    }
    heals(&mut site, load, "loss on narrow links");
}

#[test]
fn links_that_flap_lose_nothing() {
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let load = Load::start(&site.cluster, WRITERS);
    let mut dice = Dice::new(7);
    let until = Instant::now() + Duration::from_secs(15);
    let mut times = 0;
    while Instant::now() < until {
        let one = dice.below(3) as usize;
        match dice.below(3) {
            0 => site.net.isolate(one),
            1 => site.net.cut(one, (one + 1) % 3),
            _ => site.net.cut((one + 1) % 3, one),
        }
        std::thread::sleep(dice.millis(100, 1_800));
        site.net.heal();
        std::thread::sleep(dice.millis(50, 900));
        times += 1;
    }
    heals(&mut site, load, &format!("links that flapped {times} times"));
}
