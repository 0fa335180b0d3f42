//! Disks that fail, are slow, or are full, under one node of three.

use super::load::Load;
use super::{GROUP, PATIENCE, Site, eventually, eventually_within, health, metric, tells};
use crate::e2e::reserve::{Small, leave};
use serde_json::{Value, json};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tiebeam_tests::cluster::says_master;
use tiebeam_tests::program::command;
use tiebeam_tests::{Options, TestNode, need, node};

const MIB: u64 = 1 << 20;
const WRITERS: u64 = 6;
/// So many calls show that clients are served again.
const SERVED: u64 = 200;
/// What a sync takes on the slow disk.
const SLOW: Duration = Duration::from_secs(1);
/// Exit status of a node whose disk failed.
const FAILED: i32 = 70;

/// strace beside a node; its injection ends when this is dropped.
struct Injected(Child);

impl Injected {
    /// Every `fdatasync` of the node is `how`, as strace's `inject=` has it.
    #[track_caller]
    fn into(node: &TestNode, how: &str) -> Injected {
        let inject = format!("inject=fdatasync:{how}");
        let mut strace = command("strace", &["-f", "-qq", "-o", "/dev/null"]);
        strace.args(["-e", "trace=fdatasync", "-e", &inject, "-p", &node.pid().to_string()]);
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut injected = Injected(strace.spawn().expect("strace can be started"));
        let status = format!("/proc/{}/status", node.pid());
        eventually("strace is attached", || {
            let ended = !matches!(injected.0.try_wait(), Ok(None));
            let status = node::read(status.as_ref());
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:\t"));
            // A node whose first sync fails may have ended before anybody looks.
            let gone = status.lines().any(|line| line.starts_with("State:\tZ"));
            assert!(gone || !ended, "strace ended");
            (gone || tracer.is_some_and(|pid| pid != "0")).then_some(())
        });
        injected
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        // SIGTERM, not SIGKILL: it lets the node go.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}

fn can_trace() -> bool {
    need(GROUP, &["strace", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true"])
}

/// The node ends with what it found, and says so in its log.
#[track_caller]
fn ends_by_its_disk(node: &mut TestNode) {
    let begun = Instant::now();
    assert_eq!(node.wait_for_end(), FAILED);
    println!("ended {:?} after the injection", begun.elapsed());
    let log = node::read(&node.log_file());
    let said = log.lines().rev().take(20).any(|line| line.contains("sync"));
    assert!(said, "{log}");
}

#[test]
fn a_follower_whose_sync_fails_ends_and_the_others_go_on() {
    if !can_trace() {
        return;
    }
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let load = Load::start(&site.cluster, WRITERS);
    std::thread::sleep(Duration::from_secs(1));
    let (master, follower) = (site.cluster.master(), site.follower());
    let injected = Injected::into(site.node(follower), "error=EIO");
    ends_by_its_disk(&mut site.cluster.nodes[follower]);
    drop(injected);
    let before = load.pulse.beats();
    eventually("the others go on", || (load.pulse.beats() > before + SERVED).then_some(()));
    assert!(says_master(site.node(master)), "it has nothing to do with the master");
    site.run(follower);
    load.end("EIO under a follower");
    site.compare();
}

#[test]
fn a_master_whose_sync_fails_ends_and_another_one_leads() {
    if !can_trace() {
        return;
    }
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let load = Load::start(&site.cluster, WRITERS);
    std::thread::sleep(Duration::from_secs(1));
    let master = site.cluster.master();
    let injected = Injected::into(site.node(master), "error=EIO");
    ends_by_its_disk(&mut site.cluster.nodes[master]);
    drop(injected);
    let next = site.master_among(&site.others(master));
    println!("node {} leads", 11 + next);
    std::thread::sleep(Duration::from_secs(1));
    site.run(master);
    load.end("EIO under the master");
    site.compare();
}

/// The middle of the times that so many calls took, one after the other.
#[track_caller]
fn median(node: &TestNode, method: &str, calls: u32) -> Duration {
    let mut wire = node.connect();
    let mut times: Vec<Duration> = (0..calls)
        .map(|value| {
            let kwargs = json!({"params": {"path": "app/timed", "value": value}});
            let begun = Instant::now();
            let answer = wire.call(&node.admin(), method, json!(["config_set", kwargs]));
            assert!(answer.is_ok(), "{answer:?}");
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_follower_with_a_slow_disk_slows_nobody_down() {
    if !can_trace() {
        return;
    }
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let (master, follower) = (site.cluster.master(), site.follower());
    let before = median(site.node(master), "job_start", 60);
    let injected =
        Injected::into(site.node(follower), &format!("delay_enter={}", SLOW.as_micros()));
    let during = median(site.node(master), "job_start", 60);
    let committed = median(site.node(master), "job_exec", 12);
    drop(injected);
    println!("job_start p50 {before:?}, beside the slow disk {during:?}; job_exec {committed:?}");
    assert!(during < SLOW, "most of them did not wait for that disk: {during:?}");
    assert!(says_master(site.node(master)));
    site.compare();
}

fn set(site: &Site, value: u64) -> Result<Value, Value> {
    let kwargs = json!({"params": {"path": "app/a", "value": value}});
    site.cluster.call(&site.cluster.admin(), "job_exec", json!(["config_set", kwargs]))
}

fn mounts() -> bool {
    let mounts = "test $(id -u) = 0 && d=$(mktemp -d) && mount -t tmpfs none $d && umount $d";
    need(GROUP, &["sh", "-c", mounts])
}

/// Nodes with a small reserve, each on a small file system of its own.
#[track_caller]
fn small_site(disks: &mut Vec<Small>) -> Option<Site> {
    let options = Options::default().set("disk.free_bytes_min", "24MiB");
    let options = options.set("disk.reserve_bytes", "16MiB");
    let site = Site::start_with(&options, |node| disks.push(Small::under(node, 400)))?;
    let reserved = |place| metric(site.node(place), "tiebeam_disk_reserve_bytes");
    eventually("room is reserved", || {
        (0..3).all(|place| reserved(place) == Some(16 * MIB)).then_some(())
    });
    Some(site)
}

/// Whether a node says that its disk is nearly full, or full: the next segment of its log, which
/// it makes beforehand, may just have taken what was left.
fn lacks_room(node: &TestNode) -> bool {
    tells(node, "the disk is nearly full") || tells(node, "reserve is given back")
}

#[test]
fn a_master_whose_disk_fills_up_refuses_changes_and_goes_on_with_room() {
    if !mounts() {
        return;
    }
    let mut disks = Vec::new();
    let Some(mut site) = small_site(&mut disks) else { return };
    let master = site.cluster.master();
    assert!(set(&site, 1).is_ok());
    std::thread::sleep(Duration::from_secs(1));
    leave(site.node(master), 20 * MIB);
    let refused = eventually("changes are refused", || {
        set(&site, 2).err().filter(|error| error["data"]["name"] == "too_busy")
    });
    assert!(refused.to_string().contains("disk"), "{refused}");
    assert_eq!(site.cluster.master(), master);
    assert!(lacks_room(site.node(master)));
    let read = site.cluster.call(&site.cluster.admin(), "job_exec", json!(["node_list"]));
    assert!(read.is_ok(), "{read:?}");

    // None at all: it gives its reserve back and leads no more, or still takes no change.
    leave(site.node(master), 6 * MIB);
    eventually("it tells", || tells(site.node(master), "reserve is given back").then_some(()));
    let kwargs = json!({"volatile": true});
    let read = site.cluster.call(&site.cluster.admin(), "job_exec", json!(["node_list", kwargs]));
    assert!(read.is_ok(), "{read:?}");

    std::fs::remove_file(site.node(master).data.join("filler")).expect("the filler is removed");
    eventually("changes are taken again", || set(&site, 3).is_ok().then_some(()));
    eventually("nothing is wrong any more", || {
        health(site.node(master)).filter(|about| about["problems"] == json!([]))
    });
    site.compare();
    drop(site);
}

#[test]
fn a_follower_whose_disk_fills_up_tells_and_the_others_go_on() {
    if !mounts() {
        return;
    }
    let mut disks = Vec::new();
    let Some(mut site) = small_site(&mut disks) else { return };
    let (master, follower) = (site.cluster.master(), site.follower());
    assert!(set(&site, 1).is_ok());
    leave(site.node(follower), 20 * MIB);
    eventually("it tells", || lacks_room(site.node(follower)).then_some(()));
    assert!(set(&site, 2).is_ok(), "the cluster goes on");
    leave(site.node(follower), 2 * MIB);
    eventually("it gives its reserve back", || {
        tells(site.node(follower), "reserve is given back").then_some(())
    });
    // More than the log's segment that is filled beforehand, so that it has to grow.
    let large = "x".repeat(60_000);
    for number in 0..400 {
        let kwargs = json!({"params": {"path": "app/large", "value": format!("{number} {large}")}});
        let set = json!(["config_set", kwargs]);
        let answer = site.cluster.call(&site.cluster.admin(), "job_start", set);
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert!(says_master(site.node(master)), "the master is the same");
    let node = &mut site.cluster.nodes[follower];
    let ended = eventually_within(PATIENCE, "it stops acknowledging, and says why", || {
        let ended = node.ended();
        (ended.is_some() || tells(node, "reserve is given back")).then_some(ended)
    });
    println!(
        "the follower: {}",
        ended.map_or("runs on".to_owned(), |code| format!("ended, {code}"))
    );
    std::fs::remove_file(site.node(follower).data.join("filler")).expect("it is removed");
    if ended.is_some() {
        assert_eq!(site.cluster.nodes[follower].wait_for_end(), FAILED);
        site.run(follower);
    }
    site.wait_ready();
    eventually("nothing is wrong any more", || {
        health(site.node(follower)).filter(|about| about["problems"] == json!([]))
    });
    site.compare();
    drop(site);
}
