//! Errors as a client sees them: a stable integer code, a stable name, a sentence, and data.
//!
//! The table is wire.md section 7. A JSON-RPC error and an XML-RPC fault carry the same code.
//! This module never holds a parameter's value: an error names the field and the way out.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The stable codes of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
pub enum ErrorCode {
    /// The body is not JSON or XML, or is nested too deeply.
    ParseError = -32700,
    /// The body is JSON or XML but not a request.
    InvalidRequest = -32600,
    /// No such method.
    UnknownMethod = -32601,
    /// The method's own arguments are wrong.
    InvalidArguments = -32602,
    /// A fault of the daemon.
    Internal = -32603,
    /// No job of that name.
    UnknownJob = -32001,
    /// A job parameter is wrong, missing or unknown.
    InvalidParameter = -32002,
    /// The caller may not do this.
    Forbidden = -32003,
    /// No such job id, or one the caller may not see.
    UnknownJobId = -32004,
    /// There is no master now (inside `/ws` only; else HTTP 503).
    NoMaster = -32005,
    /// A limit of the daemon is reached; try again later.
    TooBusy = -32006,
    /// An idempotency key or plan does not fit.
    Conflict = -32007,
    /// The login expired (inside `/ws` only; else HTTP 401).
    LoginRequired = -32008,
    /// A batch, body or value is over its limit.
    TooLarge = -32009,
    /// The call was proposed, and whether it took effect is not known here (ruling 1).
    OutcomeUnknown = -32010,
}

impl ErrorCode {
    /// Every code, in the order of the wire's table.
    pub const ALL: [ErrorCode; 15] = [
        ErrorCode::ParseError,
        ErrorCode::InvalidRequest,
        ErrorCode::UnknownMethod,
        ErrorCode::InvalidArguments,
        ErrorCode::Internal,
        ErrorCode::UnknownJob,
        ErrorCode::InvalidParameter,
        ErrorCode::Forbidden,
        ErrorCode::UnknownJobId,
        ErrorCode::NoMaster,
        ErrorCode::TooBusy,
        ErrorCode::Conflict,
        ErrorCode::LoginRequired,
        ErrorCode::TooLarge,
        ErrorCode::OutcomeUnknown,
    ];

    /// The integer on the wire.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The stable name in `data.name`.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorCode::ParseError => "parse_error",
            ErrorCode::InvalidRequest => "invalid_request",
            ErrorCode::UnknownMethod => "unknown_method",
            ErrorCode::InvalidArguments => "invalid_arguments",
            ErrorCode::Internal => "internal",
            ErrorCode::UnknownJob => "unknown_job",
            ErrorCode::InvalidParameter => "invalid_parameter",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::UnknownJobId => "unknown_job_id",
            ErrorCode::NoMaster => "no_master",
            ErrorCode::TooBusy => "too_busy",
            ErrorCode::Conflict => "conflict",
            ErrorCode::LoginRequired => "login_required",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::OutcomeUnknown => "outcome_unknown",
        }
    }

    /// The code with this number, if there is one.
    pub fn from_number(number: i64) -> Option<ErrorCode> {
        ErrorCode::ALL.into_iter().find(|code| i64::from(code.number()) == number)
    }

    /// Whether the same call may succeed later without being changed.
    pub const fn retryable(self) -> bool {
        matches!(self, ErrorCode::NoMaster | ErrorCode::TooBusy)
    }
}

/// An error reply: what a request that made no job gets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct RpcError {
    /// The stable code.
    #[serde(with = "code_as_number")]
    pub code: ErrorCode,
    /// One sentence for a person.
    pub message: String,
    /// The argument, parameter or key that is meant, by name.
    pub field: Option<String>,
    /// The way out.
    pub hint: Option<String>,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// The call's idempotency key, where it had one.
    pub request_id: Option<String>,
}

impl RpcError {
    /// An error with the code's own answer to "may I retry?".
    pub fn new(code: ErrorCode, message: impl Into<String>) -> RpcError {
        RpcError {
            code,
            message: message.into(),
            field: None,
            hint: None,
            retryable: code.retryable(),
            request_id: None,
        }
    }

    /// Names the field that is meant.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> RpcError {
        self.field = Some(field.into());
        self
    }

    /// Names the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> RpcError {
        self.hint = Some(hint.into());
        self
    }

    /// A refusal of something that a later version brings (ruling 24).
    pub fn not_in_this_version(field: impl Into<String>) -> RpcError {
        let field = field.into();
        RpcError::new(ErrorCode::InvalidParameter, format!("`{field}` is not built yet"))
            .field(field)
            .hint("not in this version")
    }

    /// The one answer for a job id that does not exist and for one that is hidden.
    pub fn unknown_job_id(id: &str) -> RpcError {
        let shown: String = id.chars().filter(|c| !c.is_control()).take(64).collect();
        RpcError::new(ErrorCode::UnknownJobId, format!("there is no job with the id {shown:?}"))
            .field("id")
            .hint("job_history lists your jobs")
    }

    /// The object in `error.data`.
    pub fn data(&self) -> Value {
        let mut data = json!({"name": self.code.name(), "retryable": self.retryable});
        for (key, value) in
            [("field", &self.field), ("hint", &self.hint), ("request_id", &self.request_id)]
        {
            if let Some(text) = value {
                data[key] = json!(text);
            }
        }
        data
    }

    /// The JSON-RPC `error` member.
    pub fn to_json(&self) -> Value {
        json!({"code": self.code.number(), "message": self.message, "data": self.data()})
    }

    /// Reads a JSON-RPC `error` member; `None` if it is not one of ours.
    pub fn from_json(error: &Value) -> Option<RpcError> {
        let text = |key: &str| error["data"][key].as_str().map(str::to_owned);
        Some(RpcError {
            code: ErrorCode::from_number(error["code"].as_i64()?)?,
            message: error["message"].as_str()?.to_owned(),
            field: text("field"),
            hint: text("hint"),
            retryable: error["data"]["retryable"].as_bool().unwrap_or(false),
            request_id: text("request_id"),
        })
    }
}

mod code_as_number {
    use super::ErrorCode;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(code: &ErrorCode, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_i32(code.number())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<ErrorCode, D::Error> {
        let number = i64::deserialize(input)?;
        ErrorCode::from_number(number)
            .ok_or_else(|| D::Error::custom(format!("unknown error code {number}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_one_number_and_one_name_each() {
        let numbers: std::collections::BTreeSet<_> =
            ErrorCode::ALL.iter().map(|c| c.number()).collect();
        let names: std::collections::BTreeSet<_> =
            ErrorCode::ALL.iter().map(|c| c.name()).collect();
        assert_eq!((numbers.len(), names.len()), (15, 15));
    }

    #[test]
    fn an_error_survives_its_json() {
        let error = RpcError::new(ErrorCode::TooBusy, "full").field("jobs").hint("later");
        assert_eq!(RpcError::from_json(&error.to_json()), Some(error));
    }

    #[test]
    fn a_hidden_id_is_shown_without_control_characters() {
        assert!(!RpcError::unknown_job_id("1\n2\u{0}").message.contains('\n'));
    }
}
