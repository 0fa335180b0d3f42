//! What can go wrong in a call, typed.
//!
//! One variant per operation that failed; `Display` never prints its source (the command line
//! prints the chain once, at its edge). The methods answer the questions every caller has: which
//! code and name, which field, what is the way out, may I try again.

use std::path::PathBuf;
use tiebeam_proto::{ErrorCode, ResultObject, RpcError};

/// Where a lower error came from.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error of this client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The builder got neither an URL nor a socket.
    #[error("no address of a cluster member is given")]
    NoAddress,
    /// The builder got a password, but not whose.
    #[error("a password is given, but no user")]
    NoUser,
    /// An URL cannot be used.
    #[error("the address {text:?} cannot be used: {reason}")]
    Address {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that the builder names cannot be read.
    #[error("cannot read the {what} {}", path.display())]
    File {
        /// `CA file`, `password file`, `token file`, `client certificate`, `client key`.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: Source,
    },
    /// The builder's TLS settings do not fit together.
    #[error("cannot set up TLS")]
    Tls {
        /// Why.
        #[source]
        source: Source,
    },
    /// No member could be reached, or none finished a TLS handshake that we accept.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The address tried last.
        address: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// The members that answered know no master.
    #[error("the cluster has no master now ({address} says so)")]
    NoMaster {
        /// The address asked last.
        address: String,
    },
    /// The call was sent, the answer did not come, and sending it again could do it twice.
    #[error("`{method}` was sent to {address}, but its answer was lost")]
    AnswerLost {
        /// The RPC method.
        method: String,
        /// Where it was sent.
        address: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// HTTP 401: no login, or a wrong or expired one.
    #[error("{address} does not accept the login")]
    Login {
        /// Who refused.
        address: String,
    },
    /// HTTP 403: this caller may not talk to this member at all.
    #[error("{address} refuses the call: {reason}")]
    Refused {
        /// Who refused.
        address: String,
        /// The answer's text.
        reason: String,
    },
    /// A redirect to something that is not a member over TLS.
    #[error("{address} redirects to {location:?}, which is not followed: {reason}")]
    Redirect {
        /// Who redirected.
        address: String,
        /// Where to.
        location: String,
        /// Why it is not followed.
        reason: &'static str,
    },
    /// An HTTP status that the protocol does not have.
    #[error("{address} answers with HTTP status {status}: {text}")]
    Status {
        /// Who answered.
        address: String,
        /// The status.
        status: u16,
        /// The start of the body.
        text: String,
    },
    /// The answer is not what the protocol says.
    #[error("the answer of {address} to `{method}` is not understood: {reason}")]
    Answer {
        /// Who answered.
        address: String,
        /// The RPC method.
        method: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The daemon made no job and says why.
    #[error("{0}")]
    Rpc(#[from] RpcError),
    /// An error reply with a code that this client does not know.
    #[error("{message} (code {code})")]
    RpcUnknown {
        /// The code.
        code: i64,
        /// The daemon's sentence.
        message: String,
    },
    /// The job ended otherwise than `OK` (raised by `run` only).
    #[error("job {} ended {}: {}", .0.result_jobid, .0.result_name, .0.result_desc)]
    Job(Box<ResultObject>),
    /// The cluster no longer has the events after this cursor and says from where it has them.
    #[error("events are missing: the cluster has them from {from} on")]
    EventGap {
        /// The first cursor that is still there.
        from: String,
    },
}

impl Error {
    /// The stable code of an error reply.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Rpc(error) => Some(error.code),
            Error::NoMaster { .. } => Some(ErrorCode::NoMaster),
            Error::Login { .. } => Some(ErrorCode::LoginRequired),
            Error::Refused { .. } => Some(ErrorCode::Forbidden),
            Error::AnswerLost { .. } => Some(ErrorCode::OutcomeUnknown),
            _ => None,
        }
    }

    /// A stable name: the wire's for error replies, a word of this crate else.
    pub fn name(&self) -> &str {
        match self {
            Error::NoAddress | Error::Address { .. } => "bad_address",
            Error::NoUser => "no_user",
            Error::File { .. } => "unreadable_file",
            Error::Tls { .. } => "bad_tls_settings",
            Error::Unreachable { .. } => "unreachable",
            Error::Redirect { .. } => "bad_redirect",
            Error::Status { .. } | Error::Answer { .. } => "bad_answer",
            Error::RpcUnknown { .. } => "unknown_error",
            Error::Job(result) => &result.result_name,
            Error::EventGap { .. } => "event_gap",
            Error::NoMaster { .. }
            | Error::Login { .. }
            | Error::Refused { .. }
            | Error::AnswerLost { .. }
            | Error::Rpc(_) => self.code().map_or("unknown_error", ErrorCode::name),
        }
    }

    /// The argument, parameter or key that is meant.
    pub fn field(&self) -> Option<&str> {
        match self {
            Error::Rpc(error) => error.field.as_deref(),
            _ => None,
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Rpc(error) => error.hint.as_deref(),
            Error::NoAddress => Some(
                "give --url, set TIEBEAM_URL, run `tiebeam login`, or work on a node that has \
                 /var/lib/tiebeam/tiebeam.sock",
            ),
            Error::NoUser => Some("give --user, or set TIEBEAM_USER"),
            Error::Login { .. } => Some("check user and password, or run `tiebeam login` again"),
            Error::AnswerLost { .. } => Some("job_history tells whether it took effect"),
            Error::Unreachable { .. } => Some("is the address right, and the daemon running?"),
            Error::NoMaster { .. } => Some("too few members are up; `tiebeam status` shows them"),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without being changed. For a start: only with the
    /// same `request_id`.
    pub fn retryable(&self) -> bool {
        match self {
            Error::Rpc(error) => error.retryable,
            Error::Unreachable { .. } | Error::NoMaster { .. } | Error::AnswerLost { .. } => true,
            _ => false,
        }
    }
}
