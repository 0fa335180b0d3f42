//! Finds and ends the processes of one data folder, and nobody else's.
//!
//! A process belongs to a folder if it is the daemon that was started on it, a shim whose
//! arguments name a place below it, or a descendant of one of these. What is killed was looked at
//! just before. A cgroup of the run's own makes it sure where the kernel offers one.

use super::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where cgroups of version 2 may be mounted.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
/// How long killed processes may take to go.
const DEATH_WAIT: Duration = Duration::from_secs(10);

/// Sends a signal (`KILL`, `STOP`, …) to processes; one that has gone already is no error.
pub fn signal(signal: &str, pids: &BTreeSet<u32>) {
    if pids.is_empty() {
        return;
    }
    let pids = pids.iter().map(u32::to_string);
    let sh = ["-c", "s=$1; shift; kill -\"$s\" \"$@\" 2>/dev/null", "sh", signal];
    let _ = Command::new("sh").args(sh).args(pids).status();
}

/// Every process with its parent; zombies are left out.
fn parents() -> BTreeMap<u32, u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let text = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let mut fields = text.rsplit(") ").next().unwrap_or_default().split(' ');
        let (state, parent) = (fields.next(), fields.next().and_then(|field| field.parse().ok()));
        if let (Some(state), Some(parent)) = (state, parent)
            && !matches!(state, "Z" | "X")
        {
            parents.insert(pid, parent);
        }
    }
    parents
}

fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The shims of a data folder.
pub fn shims(data: &Path) -> BTreeSet<u32> {
    let is_shim = |pid: &u32| {
        let words = arguments(*pid);
        words.get(1).is_some_and(|word| word == "exec-shim")
            && words.iter().any(|word| Path::new(word).starts_with(data))
    };
    parents().into_keys().filter(is_shim).collect()
}

/// The daemon, its shims, and all that descend from them.
pub fn family(daemon: Option<u32>, data: &Path) -> BTreeSet<u32> {
    let parents = parents();
    let mut family = shims(data);
    family.extend(daemon.filter(|pid| parents.contains_key(pid)));
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| family.contains(parent) && !family.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return family;
        }
        family.extend(more);
    }
}

/// A cgroup for one run; removed, with all that is in it, when dropped.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// Makes one, or nothing where there is no version 2 hierarchy or no right to it.
    pub fn make(name: &str) -> Option<Cgroup> {
        let root = HIERARCHIES
            .iter()
            .map(Path::new)
            .find(|root| root.join("cgroup.controllers").exists())?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
        let folder = root.join(own).join(name);
        fs::create_dir(&folder).ok()?;
        Some(Cgroup { folder })
    }

    /// The file that takes process ids.
    pub fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Whether the kernel kills a whole cgroup at once.
    pub fn kills(&self) -> bool {
        self.folder.join("cgroup.kill").exists()
    }

    /// Kills everything in it.
    ///
    /// # Errors
    /// Something does not die.
    pub fn kill(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let _ = fs::write(self.folder.join("cgroup.kill"), "1");
            let mut members = BTreeSet::new();
            members_below(&self.folder, &mut members);
            if members.is_empty() {
                return Ok(());
            }
            if !self.kills() {
                signal("KILL", &members);
            }
            if begun.elapsed() > DEATH_WAIT {
                return Err(format!("{members:?} do not die").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.kill();
        remove(&self.folder);
    }
}

fn members_below(folder: &Path, members: &mut BTreeSet<u32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // A zombie stays listed until its parent, this very process perhaps, has collected it.
    let alive = parents();
    let listed = text.lines().filter_map(|line| line.parse().ok());
    members.extend(listed.filter(|pid| alive.contains_key(pid)));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members_below(&entry.path(), members);
        }
    }
}

fn remove(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
