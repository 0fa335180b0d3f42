//! Exit statuses (wire.md section 9 and the rulings' table "Protocol details").

use crate::error::Error;
use std::process::ExitCode;
use tiebeam_proto::ErrorCode;
use tiebeam_proto::outcome::UNFINISHED;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well; warnings are still 0.
    Ok = 0,
    /// The job failed, was declined, cancelled, timed out, or conflicted.
    JobFailed = 1,
    /// Wrong usage, or a parameter that the daemon refuses.
    Usage = 2,
    /// Forbidden, or no login.
    Forbidden = 3,
    /// No member can be reached, or there is no master.
    Unreachable = 4,
    /// The job still runs.
    Unfinished = 5,
    /// Whether it took effect cannot be told.
    Indeterminate = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl Exit {
    /// The status of a job's `result_code`.
    pub fn of_result(code: i64) -> Exit {
        match code {
            0 => Exit::Ok,
            UNFINISHED => Exit::Unfinished,
            7 => Exit::Indeterminate,
            _ => Exit::JobFailed,
        }
    }

    /// The status of a failed call.
    pub fn of_error(error: &Error) -> Exit {
        match error {
            Error::Job(result) => Exit::of_result(result.result_code),
            Error::NoAddress
            | Error::NoUser
            | Error::Address { .. }
            | Error::File { .. }
            | Error::Tls { .. } => Exit::Usage,
            Error::Unreachable { .. }
            | Error::Redirect { .. }
            | Error::Status { .. }
            | Error::Answer { .. } => Exit::Unreachable,
            Error::RpcUnknown { .. } | Error::EventGap { .. } => Exit::JobFailed,
            Error::NoMaster { .. }
            | Error::AnswerLost { .. }
            | Error::Login { .. }
            | Error::Refused { .. }
            | Error::Rpc(_) => error.code().map_or(Exit::JobFailed, Exit::of_code),
        }
    }

    fn of_code(code: ErrorCode) -> Exit {
        match code {
            ErrorCode::ParseError
            | ErrorCode::InvalidRequest
            | ErrorCode::UnknownMethod
            | ErrorCode::InvalidArguments
            | ErrorCode::UnknownJob
            | ErrorCode::InvalidParameter
            | ErrorCode::UnknownJobId
            | ErrorCode::TooLarge => Exit::Usage,
            ErrorCode::Forbidden | ErrorCode::LoginRequired => Exit::Forbidden,
            ErrorCode::NoMaster | ErrorCode::TooBusy => Exit::Unreachable,
            ErrorCode::Internal | ErrorCode::Conflict => Exit::JobFailed,
            ErrorCode::OutcomeUnknown => Exit::Indeterminate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebeam_proto::{Outcome, RpcError};

    #[test]
    fn outcomes_have_the_statuses_of_the_table() {
        let statuses: Vec<u8> =
            Outcome::ALL.iter().map(|o| Exit::of_result(o.code()) as u8).collect();
        assert_eq!(statuses, [0, 1, 1, 1, 1, 1, 6]);
        assert_eq!(Exit::of_result(UNFINISHED) as u8, 5);
    }

    #[test]
    fn error_replies_have_the_statuses_of_the_table() {
        for (code, status) in [
            (ErrorCode::InvalidParameter, 2),
            (ErrorCode::UnknownJob, 2),
            (ErrorCode::Forbidden, 3),
            (ErrorCode::LoginRequired, 3),
            (ErrorCode::NoMaster, 4),
            (ErrorCode::OutcomeUnknown, 6),
        ] {
            let error = Error::Rpc(RpcError::new(code, "x"));
            assert_eq!(Exit::of_error(&error) as u8, status, "{code:?}");
        }
    }
}
