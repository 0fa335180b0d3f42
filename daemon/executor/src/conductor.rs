//! A master's look at State: what it schedules, gives up, runs and stamps, and in which order.
//!
//! It acts on [`State::due`] and on nothing else (ruling 34), so taking over after a crash is the
//! same as going on: jobs that State says are running get their function run again, and recorded
//! results come back at once. Its driver carries the acts out one after the other.

use crate::Office;
use crate::commit::{self, Hearsay};
use crate::faults::{Faults, Sound, Step};
use std::collections::{BTreeMap, BTreeSet};
use tiebeam_core::State;
use tiebeam_core::commit::Parted;
use tiebeam_core::proposal::{Body, Cancel, Committed, Schedule};
use tiebeam_proto::time::Time;

/// Longest delay of the committed stamp (ruling 6), in microseconds.
const COMMIT_EVERY_US: u64 = 20_000;
/// How often the conductor looks without being told, in microseconds: deadlines of waiting jobs.
pub const LOOK_EVERY_US: u64 = 1_000_000;
/// Jobs whose committed stamp travels in one entry.
const COMMITTED_MAX: usize = 4_096;

/// What a conductor sees when it looks.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// This node's id.
    pub own: u32,
    /// Its office.
    pub office: Office,
    /// The newest State that it shows.
    pub state: &'a State,
    /// Its monotonic clock, in microseconds.
    pub now_us: u64,
    /// Cluster time, in microseconds.
    pub clock_us: u64,
}

/// Something that a master does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Proposes the end of a job that waited beyond its deadline.
    GiveUp {
        /// The job.
        job: u64,
        /// Its id.
        id: String,
    },
    /// Proposes that the job starts.
    Schedule(u64),
    /// Runs the job's function.
    Run(u64),
    /// Proposes that the changes of these jobs are committed.
    Stamp {
        /// The jobs.
        jobs: Vec<u64>,
        /// Who has applied them, and who has not.
        parted: Parted,
    },
}

impl Act {
    /// What is proposed at this wall time; `None` if it is nothing for the log.
    pub fn body(&self, time: Time) -> Option<Body> {
        Some(match self {
            Act::Run(_) => return None,
            Act::Schedule(job) => Body::Schedule(Schedule { job: *job, time }),
            Act::GiveUp { job, id } => {
                let user = format!("its deadline ({id} waited for locks)");
                Body::Cancel(Cancel { job: *job, user, time })
            }
            Act::Stamp { jobs, parted } => {
                let Parted { applied, pending } = parted.clone();
                Body::Committed(Committed { jobs: jobs.clone(), time, applied, pending })
            }
        })
    }
}

/// When a conductor looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// After so many microseconds and not before: stamps of many jobs share an entry.
    For(u64),
    /// When something is due or the office changed, and after so many microseconds at the latest.
    UntilTold(u64),
}

/// What came of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// To be done one after the other: each proposal is answered before the next is made.
    pub acts: Vec<Act>,
    /// When to look again once they are done.
    pub rest: Rest,
}

/// A master's conductor; on other nodes it rests.
#[derive(Clone, Debug, Default)]
pub struct Conductor<F = Sound> {
    faults: F,
    /// Jobs whose function runs in this process.
    running: BTreeSet<u64>,
    /// When this master first saw changes that wait for their stamp, by job.
    seen: BTreeMap<u64, u64>,
}

impl<F: Faults> Conductor<F> {
    /// One that runs nothing yet.
    pub fn new(faults: F) -> Conductor<F> {
        Conductor { faults, running: BTreeSet::new(), seen: BTreeMap::new() }
    }

    /// Looks at what is due.
    pub fn look(&mut self, sight: Sight<'_>, heard: &impl Hearsay) -> Round {
        if !sight.office.is_master(sight.state) {
            self.seen.clear();
            return Round { acts: Vec::new(), rest: Rest::UntilTold(LOOK_EVERY_US) };
        }
        let due = sight.state.due(sight.clock_us);
        let mut acts = Vec::new();
        if !self.faults.skips(Step::ScheduleWaiting) {
            let live = |job: &u64| sight.state.jobs.get(job);
            let id = |job: u64| Some(Act::GiveUp { id: live(&job)?.record.job.to_string(), job });
            acts.extend(due.overdue.into_iter().filter_map(id));
            acts.extend(due.schedule.into_iter().map(Act::Schedule));
        }
        let new = due.run.into_iter().filter(|job| self.running.insert(*job));
        acts.extend(new.map(Act::Run));
        acts.extend(self.stamps(sight, &due.commit, heard));
        let waits = !due.commit.is_empty();
        let rest = if waits { Rest::For(COMMIT_EVERY_US) } else { Rest::UntilTold(LOOK_EVERY_US) };
        Round { acts, rest }
    }

    /// The function of this job does not run here any more: if State still has it running, it is
    /// run again.
    pub fn left(&mut self, job: u64) {
        self.running.remove(&job);
    }

    /// Stamps for changes whose awaited members have applied them, or have been waited for long
    /// enough (ruling 6). Changes with the same members pending share an entry.
    fn stamps(
        &mut self,
        sight: Sight<'_>,
        changes: &[(u64, u64)],
        heard: &impl Hearsay,
    ) -> Vec<Act> {
        self.seen.retain(|job, _| sight.state.uncommitted.contains(job));
        let wait_us = commit::wait_us(sight.state);
        let mut groups: BTreeMap<Parted, Vec<u64>> = BTreeMap::new();
        for (job, index) in changes.iter().take(COMMITTED_MAX) {
            let since = *self.seen.entry(*job).or_insert(sight.now_us);
            let parted = sight.state.awaited(sight.own, *index, |raft_id| heard.of(raft_id));
            let lagging = parted.pending.iter().any(|(_, why)| why == "lagging");
            let waited = sight.now_us.saturating_sub(since) >= wait_us;
            if !lagging || waited {
                groups.entry(parted).or_default().push(*job);
            }
        }
        groups.into_iter().map(|(parted, jobs)| Act::Stamp { jobs, parted }).collect()
    }
}
