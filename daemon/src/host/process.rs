//! Processes as `/proc` shows them: who is alive, who descends from whom, when one ends.
//!
//! A process is named by its id, its start time and the boot it lives in, so that a process id
//! that was given again is never taken for the process that had it before. Called by the shim
//! (on its tree) and by the host (on shims). It signals only what it was given.

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::{fs, io, os::fd::OwnedFd, time::Duration};
use tokio::io::{Interest, unix::AsyncFd};

/// How often a process is looked at where the kernel has no pidfd (before 5.3).
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One process, for as long as this machine is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// Its id.
    pub pid: i32,
    /// Its start, in clock ticks after boot: field 22 of `/proc/<pid>/stat`.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its state letter.
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its start, in clock ticks after boot.
    pub start_ticks: u64,
}

impl Stat {
    /// Whether it still runs: a zombie has only its exit status left.
    pub fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Reads the text of a `stat` file. The program's name may hold any byte, brackets too, so
    /// the fields are counted from the last closing one.
    pub fn parse(text: &str) -> Option<Stat> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let start_ticks = fields.nth(17)?.parse().ok()?;
        Some(Stat { state, parent, start_ticks })
    }
}

/// The stat of a process; `None` if there is no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Stat::parse(&String::from_utf8_lossy(&bytes))
}

/// The id of this boot of the machine.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Every process that descends from `ancestor` and still runs, without `ancestor`.
pub fn descendants(ancestor: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let all: Vec<(i32, Stat)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect();
    let mut family = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(all.iter().filter(|(_, of)| of.parent == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    let runs = |pid: &i32| all.iter().any(|(of, stat)| of == pid && stat.runs());
    family.into_iter().skip(1).filter(runs).collect()
}

impl ProcessMark {
    /// The mark of a living process.
    pub fn of(pid: i32) -> io::Result<ProcessMark> {
        let start_ticks = stat(pid).ok_or(io::ErrorKind::NotFound)?.start_ticks;
        Ok(ProcessMark { pid, start_ticks, boot_id: boot_id()? })
    }

    /// The mark of this process.
    pub fn of_self() -> io::Result<ProcessMark> {
        ProcessMark::of(nix::unistd::getpid().as_raw())
    }

    /// Whether this very process still runs.
    pub fn runs(&self) -> bool {
        self.of_this_boot()
            && stat(self.pid).is_some_and(|now| now.runs() && now.start_ticks == self.start_ticks)
    }

    /// Whether the machine is still up since this process was seen.
    pub fn of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|now| now == self.boot_id)
    }

    /// Signals this very process; false if it is gone.
    ///
    /// The handle is opened before the start time is compared: from then on the id cannot be
    /// given to another process behind our back.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match self.handle()? {
            Some(handle) => match pidfd_send_signal(&handle, signal) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::SRCH) => Ok(false),
                Err(error) => Err(error.into()),
            },
            None => Ok(false),
        }
    }

    /// Ends when this very process has ended.
    pub async fn exited(&self) -> io::Result<()> {
        match self.handle() {
            Ok(None) => Ok(()),
            Ok(Some(handle)) => watch(handle)?.readable().await.map(drop),
            Err(error) if error.raw_os_error() == Some(Errno::ENOSYS as i32) => {
                while self.runs() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A handle on this very process, zombies included no more; `None` if it is gone.
    fn handle(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(self.runs().then_some(handle)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Registers a process handle, which is readable once its process has ended.
// The safe constructor is deprecated in favour of an unsafe one that asks for what an `OwnedFd`
// always keeps: the descriptor is its own and open until it is dropped.
#[expect(deprecated, reason = "unsound for other types only; this crate forbids unsafe code")]
fn watch(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(handle, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_brackets_does_not_shift_the_fields() {
        let text = "7 (a) R 1 (b) S 42 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat, Stat { state: 'S', parent: 42, start_ticks: 98765 });
        assert!(Stat::parse("7 (a) S 42").is_none());
        assert!(Stat::parse("").is_none());
    }

    #[test]
    fn a_process_id_that_was_given_again_is_another_process() {
        let own = ProcessMark::of_self().unwrap();
        assert!(own.runs());
        let earlier = ProcessMark { start_ticks: own.start_ticks - 1, ..own.clone() };
        assert!(!earlier.runs());
        // Were it taken for us, this would end the test.
        assert!(!earlier.signal(Signal::KILL).unwrap());
        let other_boot = ProcessMark { boot_id: "another".into(), ..own };
        assert!(!other_boot.runs());
        assert!(!other_boot.signal(Signal::KILL).unwrap());
    }
}
