//! Named crash points: places at which a test kills the process it is in.
//!
//! Owns one function. It does nothing unless the crate is built with the feature `crash-points`;
//! a released daemon cannot be stopped by its environment. Called by the shell wherever the order
//! of a write and an effect matters.

/// The environment variable that names the point at which to die.
#[cfg(feature = "crash-points")]
pub const CRASH_AT: &str = "TIEBEAM_CRASH_AT";

/// Dies by SIGKILL, as a process does in a crash, if the environment names this point.
#[cfg(feature = "crash-points")]
pub fn crash_point(name: &str) {
    use nix::sys::signal::{Signal, kill};
    if std::env::var_os(CRASH_AT).is_some_and(|at| at == name) {
        let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
        // The signal is delivered before kill returns; this is for the type checker's peace only.
        std::process::abort();
    }
}

/// Does nothing: this build has no crash points.
#[cfg(not(feature = "crash-points"))]
pub fn crash_point(_name: &str) {}
