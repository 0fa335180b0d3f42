//! Crash rounds on real processes: the daemon is killed, loses its power, or finds its files
//! damaged, and everything that it had acknowledged must be there exactly once.
//!
//! Owns the daemon's process in a folder of its own ([`subject`]), the load ([`load`]), the
//! ledger of what was acknowledged and how it is compared ([`ledger`]), the loop around rounds
//! (`rounds`), and the three kinds of them: [`kill`], [`power`], [`flip`]. Everything that is
//! started is stopped by process id; mounts and loop devices are undone when their guards drop.
//! Called by the suites and by the tests' program; nothing here is part of the daemon.

pub mod damage;
pub mod flip;
pub mod kill;
pub mod ledger;
pub mod load;
pub mod power;
pub mod processes;
mod rounds;
pub mod rpc;
pub mod subject;

pub use flip::bit_flips;
pub use kill::kill_rounds;
pub use power::power_rounds;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What stops a run itself: not a finding about the daemon, but a reason not to go on.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How a run is made.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds; `flip` has its fixed list of cases
    #[arg(long, default_value_t = 12)]
    pub rounds: u32,
    /// The seed of every random choice; another one each time if not given
    #[arg(long, default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
    /// The daemon's program; TIEBEAMD_BIN or the one beside this program if not given
    #[arg(long)]
    pub program: Option<PathBuf>,
    /// Where folders and images are made; the system's temporary folder if not given
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// Tells runs of one process apart: each has a loopback address of its own
    #[arg(long, default_value_t = 1, hide = true)]
    pub number: u8,
    /// Tell each round
    #[arg(long)]
    pub loud: bool,
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

impl Default for Options {
    fn default() -> Options {
        Options {
            rounds: 12,
            seed: fresh_seed(),
            program: None,
            folder: None,
            number: 1,
            loud: false,
        }
    }
}

/// One kind of rounds, as a subcommand of the tests' program.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// [`kill_rounds`].
    Kill,
    /// [`power_rounds`].
    Power,
    /// [`bit_flips`].
    Flip,
}

impl Kind {
    /// Makes the rounds, prints their table, and fails if something was found.
    pub fn execute(self, options: &Options) -> ExitCode {
        let findings = match self {
            Kind::Kill => kill_rounds(options).map(|report| report.findings),
            Kind::Power => power_rounds(options).map(|report| report.findings),
            Kind::Flip => bit_flips(options).map(|report| report.findings()),
        };
        match findings {
            Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("the rounds cannot go on: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Random choices from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The choices of this seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// A time between two.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to.saturating_sub(from)))
    }

    /// A text that does not compress to less than three quarters.
    pub fn text(&mut self, bytes: usize) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::with_capacity(bytes + 10);
        while text.len() < bytes {
            let bits = self.bits();
            text.extend((0..10).map(|at| LETTERS[(bits >> (6 * at)) as usize & 63] as char));
        }
        text.truncate(bytes);
        text
    }
}

/// The spread of measured times.
#[derive(Clone, Debug, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        let at = self.0.partition_point(|other| *other <= time);
        self.0.insert(at, time);
    }

    /// The time that `share` (0 to 1) of all stay within.
    pub fn at(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |share| self.at(share).as_secs_f64() * 1e3;
        write!(
            f,
            "min {:.0} ms, median {:.0} ms, 90 % {:.0} ms, 99 % {:.0} ms, max {:.0} ms",
            ms(0.0),
            ms(0.5),
            ms(0.9),
            ms(0.99),
            ms(1.0)
        )
    }
}

/// Runs a future to its end on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_the_same_for_a_seed_and_stay_in_their_range() {
        let (mut one, mut other) = (Dice::new(7), Dice::new(7));
        for _ in 0..1000 {
            assert_eq!(one.bits(), other.bits());
            let time = one.millis(20, 30).as_millis();
            assert_eq!(other.millis(20, 30).as_millis(), time);
            assert!((20..30).contains(&time));
        }
        assert_eq!(one.text(1001).len(), 1001);
    }

    #[test]
    fn a_spread_is_sorted() {
        let mut spread = Spread::default();
        for ms in [30, 10, 20] {
            spread.add(Duration::from_millis(ms));
        }
        assert_eq!(spread.at(0.0).as_millis(), 10);
        assert_eq!(spread.at(0.5).as_millis(), 20);
        assert_eq!(spread.at(1.0).as_millis(), 30);
        assert_eq!(Spread::default().at(0.5), Duration::ZERO);
    }
}
