//! A process that is measured: stopped by its own handle when dropped.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running process.
pub struct Process(Child);

impl Process {
    /// Starts a program whose output goes to a file.
    pub fn start(command: &mut Command, log: &Path) -> Process {
        let file = std::fs::File::options().create(true).append(true).open(log);
        let file = file.expect("the folder is writable");
        let errors = file.try_clone().expect("a file can be shared");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        Process(child.unwrap_or_else(|error| panic!("{command:?} does not start: {error}")))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.0.kill().expect("a child can be killed");
        self.0.wait().expect("a child can be waited for");
    }

    /// Resident memory in MB.
    pub fn rss_mb(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let text = text.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(0.0) / 1024.0
    }

    /// CPU time so far, user and system, in milliseconds (a clock tick is ten).
    pub fn cpu_ms(&self) -> u64 {
        self.cpu_ticks() * 10
    }

    /// Clock ticks of CPU time so far, user and system.
    pub fn cpu_ticks(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()));
        let text = text.unwrap_or_default();
        let after = text.rsplit(") ").next().unwrap_or_default().to_owned();
        let fields: Vec<&str> = after.split(' ').collect();
        [11, 12].iter().filter_map(|nth| fields.get(*nth)?.parse::<u64>().ok()).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; what it has not written is not needed any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
