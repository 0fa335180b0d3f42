//! Faults on purpose: a step of this crate may be left out, to prove that a test notices.
//!
//! Which steps are left out is a type that a driver chooses. The daemon's is [`Sound`], for which
//! the answer is the constant no: a fault is not switched off in it, it was never compiled in.

/// A step that a test can leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Waiting jobs are scheduled, or given up at their deadline.
    ScheduleWaiting,
    /// A plan travels with what it looked at.
    SendReads,
    /// A call travels with its request id.
    SendRequestId,
    /// A request id stands for its call's parameters.
    DigestCall,
    /// What the journal knows of is not started again.
    ReadJournal,
    /// A command that could not be started is fenced before that is told.
    FenceFirst,
    /// A command whose end nobody knows is reported as such.
    AdmitDoubt,
}

/// Which steps are left out.
pub trait Faults: Copy {
    /// Whether `step` is left out.
    fn skips(&self, step: Step) -> bool;
}

/// No step is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sound;

impl Faults for Sound {
    fn skips(&self, _: Step) -> bool {
        false
    }
}
