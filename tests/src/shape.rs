//! Does the past slow the node down? Many jobs are started and never waited for; a call afterwards
//! must cost what it cost before.
//!
//! Run by hand with a release build (the figures are wall-clock times), and small as a test that
//! only holds that everything is answered. It measures and judges nothing.

use crate::wire::{Login, Wire};
use serde_json::{Value, json};
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Calls before the first that is measured: caches are warm then.
pub const WARM_UP: usize = 1_000;
/// Calls whose median counts, before and after.
pub const MEASURED: usize = 1_000;
/// The most that a call may cost afterwards, as a multiple of what it cost before.
pub const RATIO_MAX: f64 = 1.3;

/// The node that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Where it listens.
    pub address: SocketAddr,
    /// The cluster's CA certificate.
    pub ca_file: &'a Path,
    /// Who calls.
    pub login: &'a Login,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Jobs that were started and never waited for.
    pub jobs: usize,
    /// How long starting them took.
    pub starting: Duration,
    /// Median of `job_exec node_list` before.
    pub before: Duration,
    /// The same afterwards.
    pub after: Duration,
}

impl Figures {
    /// How much longer a call takes afterwards.
    pub fn ratio(&self) -> f64 {
        self.after.as_secs_f64() / self.before.as_secs_f64()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = self.jobs as f64 / self.starting.as_secs_f64();
        writeln!(out, "{} jobs started and not waited for, {per_second:.0}/s", self.jobs)?;
        writeln!(out, "median of job_exec before: {:?}", self.before)?;
        writeln!(out, "median of job_exec after:  {:?}", self.after)?;
        write!(out, "ratio: {:.2} (at most {RATIO_MAX})", self.ratio())
    }
}

/// Starts `jobs` jobs over this many keep-alive connections, and measures a call before and after.
///
/// # Panics
/// A call is not answered as it must be.
pub fn measure(subject: Subject<'_>, jobs: usize, connections: usize) -> Figures {
    let mut wire = connect(subject);
    let _warm = times(&mut wire, subject.login, WARM_UP);
    let before = median(times(&mut wire, subject.login, MEASURED));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..connections {
            let share = jobs / connections + usize::from(number < jobs % connections);
            scope.spawn(move || start(subject, share));
        }
    });
    let starting = began.elapsed();
    let after = median(times(&mut wire, subject.login, MEASURED));
    Figures { jobs, starting, before, after }
}

fn connect(subject: Subject<'_>) -> Wire {
    Wire::tls(subject.address, subject.ca_file, None).expect("a connection")
}

fn start(subject: Subject<'_>, jobs: usize) {
    let mut wire = connect(subject);
    for _ in 0..jobs {
        let id = wire.call(subject.login, "job_start", json!(["node_list"]));
        assert!(id.as_ref().is_ok_and(Value::is_string), "{id:?}");
    }
}

fn times(wire: &mut Wire, login: &Login, calls: usize) -> Vec<Duration> {
    (0..calls)
        .map(|_| {
            let began = Instant::now();
            let result = wire.call(login, "job_exec", json!(["node_list"])).expect("a result");
            assert_eq!(result["result_code"], 0, "{result}");
            began.elapsed()
        })
        .collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
