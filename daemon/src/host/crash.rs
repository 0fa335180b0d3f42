//! Named crash points: places at which a test kills the process it is in.
//!
//! Owns one function. It does nothing unless the crate is built with the feature `crash-points`;
//! a released daemon cannot be stopped by its environment. Called by the shell wherever the order
//! of a write and an effect matters.

/// The environment variable that names the point at which to die, and at which pass if not the
/// first: `log.sync.before@17`.
#[cfg(feature = "crash-points")]
pub const CRASH_AT: &str = "TIEBEAM_CRASH_AT";

/// Dies by SIGKILL, as a process does in a crash, if the environment names this point and this
/// pass.
#[cfg(feature = "crash-points")]
pub fn crash_point(name: &str) {
    use nix::sys::signal::{Signal, kill};
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSES: AtomicU64 = AtomicU64::new(0);
    let Some(at) = std::env::var_os(CRASH_AT) else { return };
    let at = at.to_string_lossy();
    let (point, pass) = at.split_once('@').unwrap_or((&at, "1"));
    // Only the named point counts, so its passes have one counter.
    if point == name && pass.parse() == Ok(PASSES.fetch_add(1, Ordering::Relaxed) + 1) {
        let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
        // The signal is delivered before kill returns; this is for the type checker's peace only.
        std::process::abort();
    }
}

/// Does nothing: this build has no crash points.
#[cfg(not(feature = "crash-points"))]
pub fn crash_point(_name: &str) {}
