//! The invariants, each a function with a name. Numbers are those of the blueprint's list, and the
//! rulings' additions to it.
//!
//! `entries` looks at every entry that is applied, `nodes` at what single nodes do, `ends` at
//! everything. They read the observer's notes and the simulated disks; they change nothing but the
//! notes. Where a number is held elsewhere than here, or only in part here:
//!
//! | number | held here by | and by |
//! |---|---|---|
//! | 14 | `nobody_does_what_they_may_not`: apply's decision is made again | the security table |
//! | 15 | nothing: views and streams are the daemon's | the security table, `last_admin` |
//! | 16 | `secrets_are_nowhere`: the disks | the canary suite: output, metrics, journal |
//! | 17 | `no_assertion_fails`, and events per run are bounded | the fuzz and flood suites |

pub(super) mod ends;
pub(super) mod entries;
pub(super) mod nodes;
#[cfg(test)]
mod tests;

pub(super) use ends::{everything_at_the_end, registers_are_linearizable, standing, whole};
pub(super) use entries::{Applied, after_entry};
pub(super) use nodes::*;

use super::ledger::Ledger;
use std::fmt;
use tiebeam_core::State;
use tiebeam_proto::Outcome;
use tiebeam_proto::record::JobRecord;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "invariant {} ({}): {}", self.number, self.invariant, self.detail)
    }
}

type Checked = Result<(), Violation>;

fn hold(
    holds: bool,
    (number, invariant): (u32, &'static str),
    detail: impl FnOnce() -> String,
) -> Checked {
    if holds { Ok(()) } else { Err(Violation { number, invariant, detail: detail() }) }
}

/// A job's id, how it ended, its revision and its warnings.
type End = (String, Option<Outcome>, Option<u64>, Vec<String>);

/// What a run came to, without the times that are displayed.
#[derive(Clone, Debug, PartialEq)]
pub struct Essence {
    revisions: Vec<[u8; 32]>,
    jobs: Vec<End>,
    clock_us: u64,
}

impl Essence {
    pub(super) fn of(ledger: &Ledger, state: &State) -> Essence {
        let records = job_records(ledger.records.iter().map(|record| &*record.canonical));
        let job = |record: JobRecord| {
            let result = record.result;
            let job = record.job.to_string();
            (job, record.outcome, result.result_revision, result.result_warnings)
        };
        Essence {
            revisions: ledger.revisions.values().copied().collect(),
            jobs: records.into_iter().map(job).collect(),
            clock_us: state.clock_us,
        }
    }
}

/// 19: the same run with and without jumps of the wall clock came to the same.
pub(super) fn wall_clocks_change_nothing(with: &Essence, without: &Essence) -> Checked {
    hold(with == without, (19, "wall_clocks_change_nothing"), || {
        let differ = with.jobs.iter().zip(&without.jobs).find(|(one, other)| one != other);
        format!("first difference in jobs: {differ:?}")
    })
}

fn job_records<'a>(kept: impl Iterator<Item = &'a [u8]>) -> Vec<JobRecord> {
    kept.filter_map(|canonical| serde_json::from_slice(canonical).ok()).collect()
}
