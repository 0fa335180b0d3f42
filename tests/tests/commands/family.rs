//! A program with a family that is hard to get rid of, and the look at who of it still lives.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Says `ready` and waits, with children that left its session: one that takes no notice of
/// SIGTERM, and one whose parent has gone. Six processes.
pub const FAMILY: &str = "setsid sh -c 'trap \"\" TERM; sleep 600; sleep 600' & \
    (setsid sh -c 'sleep 600; sleep 600' &); echo ready; sleep 600; sleep 600";
/// The processes of [`FAMILY`].
pub const FAMILY_SIZE: usize = 6;

/// The variable by which the processes of one command are known: children inherit it.
const MARK: &str = "TIEBEAM_TEST_MARK";
/// How long something may take to come true: far above what it needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts the marks of this process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A mark that no other command has.
pub struct Mark(String);

impl Mark {
    /// A new one.
    pub fn new() -> Mark {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Mark(format!("{}-{count}", std::process::id()))
    }

    /// The `env` of `command_run`.
    pub fn env(&self) -> serde_json::Value {
        serde_json::json!({MARK: self.0})
    }

    /// The living processes that have it, in containers too. A zombie has no environment left.
    pub fn processes(&self) -> Vec<u32> {
        let wanted = format!("{MARK}={}", self.0);
        let has_it = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
        };
        let entries = std::fs::read_dir("/proc").expect("processes can be listed");
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(has_it).collect()
    }

    /// Waits until as many processes have it.
    #[track_caller]
    pub fn await_processes(&self, count: usize) {
        eventually(&format!("{count} processes run"), || {
            (self.processes().len() == count).then_some(())
        });
    }
}

/// Asks until `holds` gives something.
#[track_caller]
pub fn eventually<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(found) = holds() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("this never came true: {what}");
}
