//! What may run now: jobs start in the order of submission; one that conflicts with a running or
//! an earlier waiting job waits, the rest overtake.

use crate::lock::{Lock, LockSet};
use crate::state::State;

/// Waiting jobs that are looked at in one round: a bound on the cost of a long queue. Jobs behind
/// it are looked at once those before it have moved.
pub const LOOKED_AT_MAX: usize = 1_000;

/// What is to be done, as a function of State (ruling 34).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Waiting jobs that may be scheduled, in order.
    pub schedule: Vec<u64>,
    /// Jobs that are scheduled or executed: each needs its function running somewhere.
    pub run: Vec<u64>,
    /// Jobs that need a committed stamp, with the log index of their change.
    pub commit: Vec<(u64, u64)>,
    /// Waiting jobs whose deadline has passed.
    pub overdue: Vec<u64>,
}

impl State {
    /// What is to be done at this cluster time.
    pub fn due(&self, clock_us: u64) -> Due {
        let mut due = Due {
            run: self.running.iter().copied().collect(),
            commit: self
                .uncommitted
                .iter()
                .map(|sequence| (*sequence, self.jobs[sequence].change_index.unwrap_or(0)))
                .collect(),
            ..Due::default()
        };
        let mut before = LockSet::new();
        for sequence in self.waiting.iter().take(LOOKED_AT_MAX) {
            let job = &self.jobs[sequence];
            if job.deadline_us < clock_us {
                due.overdue.push(*sequence);
            }
            if !self.locks_held.conflicts(&job.locks) && !before.conflicts(&job.locks) {
                due.schedule.push(*sequence);
            }
            before.take(&job.locks);
        }
        due
    }

    /// Whether a job that runs or waits has a lock in the way of these.
    pub fn has_conflict(&self, locks: &[Lock]) -> bool {
        self.locks_held.conflicts(locks) || self.locks_waiting.conflicts(locks)
    }

    /// Whether this waiting job may start now.
    pub(crate) fn may_start(&self, sequence: u64) -> bool {
        let Some(job) = self.jobs.get(&sequence) else { return false };
        if self.locks_held.conflicts(&job.locks) {
            return false;
        }
        let earlier = self.waiting.iter().take_while(|other| **other < sequence);
        !earlier.map(|other| &self.jobs[other]).any(|other| {
            other.locks.iter().any(|held| job.locks.iter().any(|wanted| wanted.conflicts(held)))
        })
    }
}
