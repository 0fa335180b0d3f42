//! How a job function ends when it does not end well.

use serde_json::Value;
use std::ops::RangeInclusive;
use tiebeam_core::declaration::Params;
use tiebeam_core::schema::Violation;
use tiebeam_core::tree::TreeError;
use tiebeam_proto::{ErrorCode, Outcome, RpcError};

/// Why a job function did not do what it was asked. The text is for the caller: it names what is
/// wrong and the way out, and never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
    /// What the caller expected is not so.
    #[error("{0}")]
    Conflict(String),
    /// The job was cancelled while it ran.
    #[error("{0}")]
    Cancelled(String),
    /// Its deadline passed and nothing of it runs any more.
    #[error("{0}")]
    Timeout(String),
    /// Whether it took effect cannot be told.
    #[error("{0}")]
    Indeterminate(String),
    /// The rules refuse the change.
    #[error("{0}")]
    Declined(String),
    /// A part of it was done and a part not: what is known of each part is the job's output.
    #[error("{text}")]
    Partly {
        /// How the job ends: as its worst part did.
        outcome: Outcome,
        /// Which parts did not end well, and why.
        text: String,
        /// What the job returns in spite of it.
        output: Value,
    },
}

impl JobError {
    /// The outcome that this is.
    pub fn outcome(&self) -> Outcome {
        match self {
            JobError::Failed(_) => Outcome::Failed,
            JobError::Conflict(_) => Outcome::Conflict,
            JobError::Cancelled(_) => Outcome::Cancelled,
            JobError::Timeout(_) => Outcome::Timeout,
            JobError::Indeterminate(_) => Outcome::Indeterminate,
            JobError::Declined(_) => Outcome::Declined,
            JobError::Partly { outcome, .. } => *outcome,
        }
    }

    /// What the job returns in spite of the error.
    pub fn output(&self) -> Option<&Value> {
        match self {
            JobError::Partly { output, .. } => Some(output),
            _ => None,
        }
    }

    /// A failure with this text.
    pub fn failed(text: impl Into<String>) -> JobError {
        JobError::Failed(text.into())
    }
}

impl From<TreeError> for JobError {
    fn from(error: TreeError) -> JobError {
        JobError::Failed(error.to_string())
    }
}

impl From<Violation> for JobError {
    fn from(violation: Violation) -> JobError {
        JobError::Declined(violation.to_string())
    }
}

/// A refusal of a parameter before there is a job; never holds the parameter's value.
pub(crate) fn invalid(field: impl Into<String>, message: impl Into<String>) -> RpcError {
    RpcError::new(ErrorCode::InvalidParameter, message).field(field)
}

/// Refuses an integer parameter that is given and out of bounds.
pub(crate) fn within(
    params: &Params,
    name: &str,
    bounds: RangeInclusive<i64>,
) -> Result<(), RpcError> {
    match params.get(name).and_then(Value::as_i64) {
        Some(number) if !bounds.contains(&number) => {
            let (least, most) = bounds.into_inner();
            Err(invalid(name, format!("`{name}` must be from {least} to {most}")))
        }
        _ => Ok(()),
    }
}
