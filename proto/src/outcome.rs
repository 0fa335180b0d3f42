//! A job's kind, the stages it moves through, and how it ends.
//!
//! `Stage::next` is the one total function of the life cycle (blueprint section 2, ruling 7).

use serde::{Deserialize, Serialize};

/// What a job may do (never which stage is its last: ruling 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Changes nothing.
    Read,
    /// Changes replicated state only.
    Modify,
    /// Acts on nodes or hardware.
    Act,
}

impl Kind {
    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Modify => "modify",
            Kind::Act => "act",
        }
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It did what it was asked.
    Ok,
    /// It did not, and says why.
    Failed,
    /// The scheduler or apply refused it.
    Declined,
    /// Somebody cancelled it.
    Cancelled,
    /// Its deadline passed and nothing of it runs any more.
    Timeout,
    /// What its plan read changed underneath it.
    Conflict,
    /// Whether it took effect cannot be told; the record says what is known.
    Indeterminate,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 7] = [
        Outcome::Ok,
        Outcome::Failed,
        Outcome::Declined,
        Outcome::Cancelled,
        Outcome::Timeout,
        Outcome::Conflict,
        Outcome::Indeterminate,
    ];

    /// `result_code` of wire.md section 7 (5 is UNFINISHED and no outcome).
    pub const fn code(self) -> i64 {
        match self {
            Outcome::Ok => 0,
            Outcome::Failed => 1,
            Outcome::Declined => 2,
            Outcome::Cancelled => 3,
            Outcome::Timeout => 4,
            Outcome::Conflict => 6,
            Outcome::Indeterminate => 7,
        }
    }

    /// The word in records.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Declined => "declined",
            Outcome::Cancelled => "cancelled",
            Outcome::Timeout => "timeout",
            Outcome::Conflict => "conflict",
            Outcome::Indeterminate => "indeterminate",
        }
    }

    /// `result_name` of wire.md section 7.
    pub fn result_name(self) -> String {
        self.name().to_uppercase()
    }
}

/// `result_code` of a job that has not reached its last stage.
pub const UNFINISHED: i64 = 5;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It has an id and is in the replicated queue.
    Submitted,
    /// The scheduler accepted or declined it.
    Scheduled,
    /// Its plan or its first command began.
    Executed,
    /// All its commands are done and stored.
    Finished,
    /// Its change has a revision and the awaited members have applied it.
    Committed,
}

/// What moves a job on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The scheduler took its locks.
    Accept,
    /// The scheduler or apply refused it, or it was cancelled before it began.
    Refuse,
    /// Its plan or first command began.
    Begin,
    /// It ended; `revision` tells whether it made one.
    End {
        /// Whether the job made a revision.
        revision: bool,
    },
    /// The awaited members have applied its revision.
    Commit,
}

/// A move that the life cycle does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job in stage {stage:?} cannot {by:?}")]
pub struct IllegalMove {
    /// Where the job is.
    pub stage: Stage,
    /// What was asked.
    pub by: Move,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Stage; 5] =
        [Stage::Submitted, Stage::Scheduled, Stage::Executed, Stage::Finished, Stage::Committed];

    /// The word in records and events.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Submitted => "submitted",
            Stage::Scheduled => "scheduled",
            Stage::Executed => "executed",
            Stage::Finished => "finished",
            Stage::Committed => "committed",
        }
    }

    /// The stage after this one, by this move. Total: every pair has an answer or an error.
    pub const fn next(self, by: Move) -> Result<Stage, IllegalMove> {
        match (self, by) {
            (Stage::Submitted, Move::Accept) => Ok(Stage::Scheduled),
            (Stage::Scheduled, Move::Begin) => Ok(Stage::Executed),
            (Stage::Submitted | Stage::Scheduled, Move::Refuse) => Ok(Stage::Finished),
            (Stage::Scheduled | Stage::Executed, Move::End { .. }) => Ok(Stage::Finished),
            (Stage::Finished, Move::Commit) => Ok(Stage::Committed),
            (Stage::Submitted, Move::Begin | Move::End { .. } | Move::Commit)
            | (Stage::Scheduled, Move::Accept | Move::Commit)
            | (Stage::Executed, Move::Accept | Move::Refuse | Move::Begin | Move::Commit)
            | (Stage::Finished, Move::Accept | Move::Refuse | Move::Begin | Move::End { .. })
            | (
                Stage::Committed,
                Move::Accept | Move::Refuse | Move::Begin | Move::End { .. } | Move::Commit,
            ) => Err(IllegalMove { stage: self, by }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_move_leads_back_and_committed_absorbs() {
        let moves = [
            Move::Accept,
            Move::Refuse,
            Move::Begin,
            Move::End { revision: false },
            Move::End { revision: true },
            Move::Commit,
        ];
        for stage in Stage::ALL {
            for by in moves {
                if let Ok(next) = stage.next(by) {
                    assert!(next > stage, "{stage:?} by {by:?} gave {next:?}");
                }
            }
        }
        assert!(moves.into_iter().all(|by| Stage::Committed.next(by).is_err()));
    }

    #[test]
    fn codes_are_the_wire_s() {
        let codes: Vec<i64> = Outcome::ALL.iter().map(|o| o.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 6, 7]);
    }
}
