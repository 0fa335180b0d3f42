//! The reserve: a disk that fills up, to its end, and has room again.

use super::draining::eventually;
use super::retention::gauge;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tiebeam_tests::{Options, TestNode, need, node, run};

const MIB: u64 = 1 << 20;

/// A small file system, unmounted when it is dropped.
pub struct Small(PathBuf);

impl Small {
    /// Mounts one at the node's data folder, with what is in that.
    pub fn under(node: &TestNode, mib: u64) -> Small {
        let aside = node.folder.join("aside");
        std::fs::rename(&node.data, &aside).expect("a folder is renamed");
        std::fs::create_dir(&node.data).expect("a folder is made");
        let options = format!("size={mib}m,mode=700");
        run(
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&node.data),
            "",
        )
        .ok();
        let small = Small(node.data.clone());
        let _ = std::fs::remove_file(aside.join("reserve"));
        run(Command::new("cp").arg("-aT").arg(&aside).arg(&node.data), "").ok();
        small
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays", self.0.display());
    }
}

/// Fills the node's file system but for so many bytes with the file `filler`.
#[track_caller]
pub fn leave(node: &TestNode, left: u64) {
    let filler = node.data.join("filler");
    let _ = std::fs::remove_file(&filler);
    let free = nix::sys::statvfs::statvfs(&node.data).expect("a file system");
    let free = free.blocks_available() as u64 * free.fragment_size() as u64;
    let bytes = free.saturating_sub(left).to_string();
    run(Command::new("fallocate").args(["-l", &bytes]).arg(&filler), "").ok();
}

fn refused(answer: Result<Value, Value>) -> bool {
    answer.is_err_and(|error| error["data"]["name"] == "too_busy")
}

fn held(data: &Path) -> Option<u64> {
    let facts = std::fs::metadata(data.join("reserve")).ok()?;
    // For a moment it is a file without bytes.
    (facts.len() > 0 && facts.blocks() * 512 >= facts.len()).then_some(facts.len())
}

#[test]
fn the_reserve_is_given_back_when_the_disk_is_full_and_comes_back_with_room() {
    let mounts = "test $(id -u) = 0 && d=$(mktemp -d) && mount -t tmpfs none $d && umount $d";
    if !need("a full disk", &["sh", "-c", mounts]) {
        return;
    }
    // Before the node, so that it is dropped after it.
    let small: Small;
    let options = Options::default().set("disk.free_bytes_min", "24MiB");
    let mut node = TestNode::init(options.set("disk.reserve_bytes", "16MiB"));
    small = Small::under(&node, 300);
    node.run();
    let call = |node: &TestNode, job: &str, kwargs: Value| {
        node.call(&node.admin(), "job_exec", json!([job, kwargs]))
    };
    let set = |node: &TestNode| {
        call(node, "config_set", json!({"params": {"path": "app/a", "value": 1}}))
    };
    assert_eq!(eventually("room is reserved", || held(&node.data)), 16 * MIB);
    assert!(set(&node).is_ok());
    // The log fills a spare segment now; later it would take what is to be left.
    let log = || std::fs::read_dir(node.data.join("log")).expect("a log").flatten();
    let segments = || log().filter(|e| e.file_name().to_string_lossy().starts_with("seg-")).count();
    eventually("a spare segment", || (segments() == 2).then_some(()));

    // Little room: changes are refused, reads go on.
    let filler = node.data.join("filler");
    let leave = |left: u64| leave(&node, left);
    leave(20 * MIB);
    eventually("changes are refused", || refused(set(&node)).then_some(()));
    assert!(call(&node, "node_list", json!({})).is_ok());
    assert_eq!(held(&node.data), Some(16 * MIB));

    // None: the reserve goes, and a snapshot comes.
    let snapshots = gauge(&node, "tiebeam_snapshots_total");
    leave(6 * MIB);
    eventually("the reserve is given back", || held(&node.data).is_none().then_some(()));
    eventually("a snapshot", || {
        (gauge(&node, "tiebeam_snapshots_total") > snapshots).then_some(())
    });
    assert_eq!(gauge(&node, "tiebeam_disk_reserve_bytes"), 0);
    assert!(refused(set(&node)) && refused(call(&node, "node_list", json!({}))));
    assert!(call(&node, "node_list", json!({"volatile": true})).is_ok());
    let health = node.get(&node.admin(), "/health/ready").text();
    assert!(health.contains("the reserve is given back"), "{health}");
    assert!(node::read(&node.log_file()).contains("the reserve is given back"));

    // Room again: everything goes on without a restart.
    std::fs::remove_file(&filler).expect("the filler is removed");
    assert_eq!(eventually("room is reserved", || held(&node.data)), 16 * MIB);
    eventually("changes are taken", || set(&node).is_ok().then_some(()));
    assert_eq!(node.terminate(), 0);
    drop(small);
}
