//! Faults that are built in on purpose, to prove that the invariants would notice them.
//!
//! Some are steps of the executor that are left out, so in the code that the daemon runs; the
//! others are in the simulated shell. A daemon has none of them: it is compiled with
//! [`Sound`](tiebeam_executor::faults::Sound).

use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_executor::faults::{Faults, Step};
use tiebeam_replica::membership::Change;

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The log's answer is believed before the log has it.
    AcknowledgeBeforeSync,
    /// A snapshot says that it is of an older entry than it is.
    ForgetAppliedIndex,
    /// A plan travels without what it looked at: no compare-and-set.
    SkipReadsCheck,
    /// Callers are answered before the State that they changed is shown.
    AnswerBeforeApply,
    /// A request id is used for another call, and the server does not notice.
    ReuseRequestId,
    /// A repeated call travels without its request id.
    DropRequestId,
    /// A record does not reach the history.
    DropRecord,
    /// After a start the log behind the snapshot is skipped.
    RestartWithoutReplay,
    /// The parameters of waiting jobs are not sealed.
    LeaveInputsOpen,
    /// The log goes on after a failed sync as if nothing had happened.
    IgnoreFailedSync,
    /// What a plan decides depends on the wall clock.
    DecideByWallClock,
    /// A waiting job is never scheduled, nor given up.
    ForgetWaitingJobs,
    /// A rollback of users brings back what was there, logins included.
    BringLoginsBack,
    /// A proposal's answer is taken from its index, whatever the term there.
    SkipTermCheck,
    /// A read is answered before the node has applied up to its read index.
    ReadWithoutWait,
    /// A node that lacks history may lead.
    LeadWithGap,
    /// Records from a peer are taken without a look at the chain, and a peer spoils them.
    SpoilHistory,
    /// A node starts a command again whose journal says that it was started.
    ForgetJournal,
    /// A command of which nobody knows how it ended is reported as failed.
    GuessTheEnd,
    /// A command that could not be started is reported as failed while it may still be started.
    TellBeforeFence,
    /// The log is dropped up to the newest snapshot, whoever has its records.
    DropLogUnasked,
    /// Raft goes on counting a voter that State has removed.
    CountRemoved,
    /// A learner becomes a voter before it has anything.
    SeatUnready,
    /// A cancel is acknowledged, and nobody on the nodes hears of it.
    ForgetCancel,
}

/// What a run leaves out of the executor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted(pub Option<Plant>);

impl Faults for Planted {
    fn skips(&self, step: Step) -> bool {
        self.0.and_then(Plant::step) == Some(step)
    }
}

impl Plant {
    /// All of them.
    pub const ALL: [Plant; 24] = [
        Plant::AcknowledgeBeforeSync,
        Plant::ForgetAppliedIndex,
        Plant::SkipReadsCheck,
        Plant::AnswerBeforeApply,
        Plant::ReuseRequestId,
        Plant::DropRequestId,
        Plant::DropRecord,
        Plant::RestartWithoutReplay,
        Plant::LeaveInputsOpen,
        Plant::IgnoreFailedSync,
        Plant::DecideByWallClock,
        Plant::ForgetWaitingJobs,
        Plant::BringLoginsBack,
        Plant::SkipTermCheck,
        Plant::ReadWithoutWait,
        Plant::LeadWithGap,
        Plant::SpoilHistory,
        Plant::ForgetJournal,
        Plant::GuessTheEnd,
        Plant::TellBeforeFence,
        Plant::DropLogUnasked,
        Plant::CountRemoved,
        Plant::SeatUnready,
        Plant::ForgetCancel,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Plant::AcknowledgeBeforeSync => "acknowledge-before-sync",
            Plant::ForgetAppliedIndex => "forget-applied-index",
            Plant::SkipReadsCheck => "skip-reads-check",
            Plant::AnswerBeforeApply => "answer-before-apply",
            Plant::ReuseRequestId => "reuse-request-id",
            Plant::DropRequestId => "drop-request-id",
            Plant::DropRecord => "drop-record",
            Plant::RestartWithoutReplay => "restart-without-replay",
            Plant::LeaveInputsOpen => "leave-inputs-open",
            Plant::IgnoreFailedSync => "ignore-failed-sync",
            Plant::DecideByWallClock => "decide-by-wall-clock",
            Plant::ForgetWaitingJobs => "forget-waiting-jobs",
            Plant::BringLoginsBack => "bring-logins-back",
            Plant::SkipTermCheck => "skip-term-check",
            Plant::ReadWithoutWait => "read-without-wait",
            Plant::LeadWithGap => "lead-with-gap",
            Plant::SpoilHistory => "spoil-history",
            Plant::ForgetJournal => "forget-journal",
            Plant::GuessTheEnd => "guess-the-end",
            Plant::TellBeforeFence => "tell-before-fence",
            Plant::DropLogUnasked => "drop-log-unasked",
            Plant::CountRemoved => "count-removed",
            Plant::SeatUnready => "seat-unready",
            Plant::ForgetCancel => "forget-cancel",
        }
    }

    /// The step of the executor that it leaves out.
    fn step(self) -> Option<Step> {
        Some(match self {
            Plant::SkipReadsCheck => Step::SendReads,
            Plant::ReuseRequestId => Step::DigestCall,
            Plant::DropRequestId => Step::SendRequestId,
            Plant::ForgetWaitingJobs => Step::ScheduleWaiting,
            Plant::ForgetJournal => Step::ReadJournal,
            Plant::GuessTheEnd => Step::AdmitDoubt,
            Plant::TellBeforeFence => Step::FenceFirst,
            _ => return None,
        })
    }

    /// The plant of this name.
    pub fn find(name: &str) -> Option<Plant> {
        Plant::ALL.into_iter().find(|plant| plant.name() == name)
    }
}

/// Whether raft goes on counting who is removed by this change.
pub(super) fn counts_removed(plant: Option<Plant>, change: Change) -> bool {
    plant == Some(Plant::CountRemoved) && matches!(change, Change::Remove(_))
}

/// Lets a State forget that its running jobs were cancelled.
pub(super) fn forget_cancels(plant: Option<Plant>, board: &mut State) {
    for sequence in board.running.clone().iter().filter(|_| plant == Some(Plant::ForgetCancel)) {
        if let Some(job) = board.jobs.get_mut(sequence) {
            Arc::make_mut(job).cancel = None;
        }
    }
}
