//! The tree of processes that a command becomes, and how all of it is ended.
//!
//! Owns the cgroup of a command. With a version 2 cgroup (`Delegate=yes` in the unit) the kernel
//! knows the whole tree and ends it at once; without one, the shim is the reaper of its orphans
//! and looks for descendants until none is left. Either way a child that called `setsid` is
//! found. Only the shim's own descendants and the members of its own cgroup are ever signalled.

use super::process::{descendants, stat};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a tree that was sent SIGKILL is looked at until what is left is reported: a process
/// in an uninterruptible wait dies when the device answers, and nothing can hasten it.
const DEATH_WAIT: Duration = Duration::from_secs(10);
/// How long a cgroup that is still in use is tried to be removed.
const REMOVE_WAIT: Duration = Duration::from_secs(1);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The processes of one command.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// The cgroup, if one could be made.
    pub cgroup: Option<PathBuf>,
    reaper: i32,
}

/// A child of the shim that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub pid: i32,
    pub status: Option<i32>,
    pub signal: Option<i32>,
}

impl Tree {
    /// A tree below this process, and the place of its cgroup where there is a hierarchy for it.
    /// The cgroup is not made yet: first the journal names it, so that none is ever left behind
    /// that no journal knows.
    pub fn below_self(name: &str) -> Tree {
        let reaper = nix::unistd::getpid().as_raw();
        Tree { cgroup: place_of_cgroup(name), reaper }
    }

    /// Makes the cgroup. Where that cannot be done the tree has none from now on.
    pub fn make(&mut self) {
        self.cgroup = self.cgroup.take().filter(|cgroup| make_cgroup(cgroup));
    }

    /// What a shim that vanished left: only its cgroup tells.
    pub fn left_by(cgroup: Option<PathBuf>) -> Tree {
        // No process descends from process id 0 but the kernel's own, so none is looked for.
        Tree { cgroup, reaper: 0 }
    }

    /// The processes that still run.
    pub fn members(&self) -> Vec<i32> {
        let mut members = if self.reaper == 0 { Vec::new() } else { descendants(self.reaper) };
        if let Some(cgroup) = &self.cgroup {
            cgroup_members(cgroup, &mut members);
        }
        members.sort_unstable();
        members.dedup();
        members.retain(|pid| *pid > 1 && *pid != self.reaper);
        members
    }

    /// Signals every process once.
    pub fn signal(&self, signal: Signal) {
        for pid in self.members() {
            // A process that ended in between is what was wanted.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Kills every process once. One that was forked meanwhile is there for the next time.
    pub fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        }
        self.signal(Signal::SIGKILL);
    }

    /// Kills and collects until none is left: the program's own exit status must have been
    /// collected before. Returns how many there were and how many would not die.
    pub fn end(&self) -> (usize, usize) {
        let begun = Instant::now();
        let mut seen = self.members();
        let mut left = seen.clone();
        while !left.is_empty() && begun.elapsed() < DEATH_WAIT {
            self.kill();
            std::thread::sleep(LOOK_EVERY);
            if self.reaper != 0 {
                reap();
            }
            left = self.members();
            seen.extend(&left);
        }
        seen.sort_unstable();
        seen.dedup();
        (seen.len(), left.len())
    }

    /// Removes the cgroup. A process that joined it this moment is killed; one that does not die
    /// keeps it.
    pub fn remove(&self) {
        let Some(cgroup) = &self.cgroup else { return };
        let begun = Instant::now();
        remove_cgroup(cgroup);
        while cgroup.exists() && begun.elapsed() < REMOVE_WAIT {
            self.kill();
            std::thread::sleep(LOOK_EVERY);
            remove_cgroup(cgroup);
        }
    }
}

/// Collects every child of this process that has ended, adopted ones too.
pub(crate) fn reap() -> Vec<Exit> {
    let mut exits = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => {
                exits.push(Exit { pid: pid.as_raw(), status: Some(status), signal: None });
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                let signal = Some(signal as i32);
                exits.push(Exit { pid: pid.as_raw(), status: None, signal });
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return exits,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return exits,
        }
    }
}

/// A cgroup below the one this process is in; `None` where there is no version 2 hierarchy.
fn place_of_cgroup(name: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    Some(own_cgroup(&mounts, &own)?.join(name))
}

/// Makes a cgroup; false where there is no right to it, or no `cgroup.kill` (before Linux 5.14).
fn make_cgroup(cgroup: &Path) -> bool {
    match fs::create_dir(cgroup) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return false,
        _ => {}
    }
    if cgroup.join("cgroup.kill").exists() && cgroup.join("cgroup.procs").exists() {
        return true;
    }
    let _ = fs::remove_dir(cgroup);
    false
}

/// The folder of the version 2 cgroup of a process, by its `mountinfo` and its `cgroup`.
fn own_cgroup(mounts: &str, own: &str) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, mount) = mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        (kind.split(' ').next() == Some("cgroup2")).then_some((root, mount))
    })?;
    // The mount may show only a part of the hierarchy (a container).
    let below = Path::new(own).strip_prefix(root).ok()?;
    let mount = mount.replace("\\040", " ");
    Some(Path::new(&mount).join(below))
}

/// Adds the members of a cgroup and of all cgroups below it.
fn cgroup_members(cgroup: &Path, members: &mut Vec<i32>) {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let runs = |pid: &i32| stat(*pid).is_some_and(|stat| stat.runs());
    members.extend(text.lines().filter_map(|line| line.parse().ok()).filter(runs));
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            cgroup_members(&entry.path(), members);
        }
    }
}

fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

#[cfg(test)]
mod tests {
    use super::own_cgroup;
    use std::path::PathBuf;

    #[test]
    fn the_cgroup_is_found_in_every_kind_of_mount() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      38 31 0:35 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let own = "8:pids:/\n0::/system.slice/tiebeamd.service\n";
        let expected = "/sys/fs/cgroup/unified/system.slice/tiebeamd.service";
        assert_eq!(own_cgroup(hybrid, own), Some(PathBuf::from(expected)));
        let part = "41 31 0:38 /system.slice /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(own_cgroup(part, own), Some("/sys/fs/cgroup/tiebeamd.service".into()));
        let elsewhere = "41 31 0:38 /user.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_cgroup(elsewhere, own), None);
        assert_eq!(own_cgroup("31 23 0:28 / /sys rw - sysfs sysfs rw\n", own), None);
        assert_eq!(own_cgroup(hybrid, "8:pids:/\n"), None);
    }
}
