//! What a test needs from the machine, and the list of tests that did not run for the lack of it.
//!
//! A test asks [`need`] first and returns if it says no. The list, `target/tiebeam-not-run.txt`
//! with lines `group | reason`, is read by the command that runs everything. With
//! `TIEBEAM_TESTS=all` nothing may be missing: then a lack is a failure.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The name of the list, in the target folder.
const LIST: &str = "tiebeam-not-run.txt";
/// The variable that makes a lack a failure, and its value.
const DEMAND: (&str, &str) = ("TIEBEAM_TESTS", "all");

/// Whether the machine has it: `probe` is a program with arguments that then exits with 0, such as
/// `["perl", "-MRPC::XML", "-e1"]`. If not, `group` and the reason are written to the list.
///
/// # Panics
/// It is missing and `TIEBEAM_TESTS=all`, or the list cannot be written.
pub fn need(group: &str, probe: &[&str]) -> bool {
    let [program, arguments @ ..] = probe else { panic!("{group}: an empty probe") };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let reason = match command.status() {
        Ok(status) if status.success() => return true,
        Ok(status) => format!("`{}` ended with {status}", probe.join(" ")),
        Err(error) => format!("`{program}` cannot be run: {error}"),
    };
    not_run(group, &reason);
    false
}

/// Writes to the list that `group` did not run.
///
/// # Panics
/// `TIEBEAM_TESTS=all`, or the list cannot be written.
pub fn not_run(group: &str, reason: &str) {
    let demanded = std::env::var(DEMAND.0).is_ok_and(|value| value == DEMAND.1);
    assert!(!demanded, "{group} cannot run: {reason}");
    eprintln!("not run: {group}: {reason}");
    let path = list();
    let file = OpenOptions::new().create(true).append(true).open(&path);
    // One write per line: tests of several processes may append at once.
    let line = format!("{group} | {}\n", reason.replace('\n', " "));
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
}

/// `target/tiebeam-not-run.txt`, beside the profile's folder of the running test.
fn list() -> PathBuf {
    let profile = crate::program::profile_folder();
    profile.parent().map_or_else(|| PathBuf::from(LIST), |target| target.join(LIST))
}
