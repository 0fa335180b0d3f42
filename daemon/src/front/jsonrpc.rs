//! JSON-RPC 2.0: requests and batches in, answers in the order of the calls out.
//!
//! The rules where implementations differ: an id may be a string, any number or null and is echoed
//! as it came; a call without `id` is a notification, which is run and not answered; the members
//! of a batch run at the same time (ruling 38); a batch over its limit is refused whole. Used by
//! `http` and `ws`, which differ in how one call is run.

use super::answer;
use super::table::{Answered, refusal};
use futures_util::future::join_all;
use serde_json::{Map, Value};
use std::future::Future;
use tiebeam_proto::json::{self, Reason};
use tiebeam_proto::limits::{BATCH_MAX, NESTING_MAX};
use tiebeam_proto::{ErrorCode, Params, RpcError};

/// A body that was read.
#[derive(Debug)]
pub enum Message {
    /// One call, alone.
    Single(Member),
    /// A batch with at least one member.
    Batch(Vec<Member>),
    /// No call at all: one error under the id null.
    Refused(RpcError),
}

/// One call of a message.
#[derive(Debug)]
pub struct Member {
    /// The id to answer under; `None` makes it a notification.
    pub id: Option<Value>,
    /// The call, or what is wrong with it.
    pub call: Result<(String, Params), RpcError>,
}

/// What goes back: nothing for notifications alone.
#[derive(Debug, Default)]
pub struct Reply {
    /// The JSON text.
    pub json: Option<String>,
    /// The error code, if every answer has this one.
    pub every: Option<ErrorCode>,
}

/// Reads a body under the limits.
pub fn parse(body: &[u8]) -> Message {
    match read(body) {
        Ok(value) => message(value),
        Err(error) => Message::Refused(error),
    }
}

/// Reads JSON under the limit of nesting.
///
/// # Errors
///
/// `parse_error` with the place.
pub fn read(body: &[u8]) -> Result<Value, RpcError> {
    json::parse(body, NESTING_MAX).map_err(|error| {
        let hint = matches!(error.reason, Reason::TooDeep { .. })
            .then(|| format!("at most {NESTING_MAX} levels"));
        let mut wrong = RpcError::new(error.code(), format!("no JSON: {error}"));
        wrong.hint = hint;
        wrong
    })
}

fn message(value: Value) -> Message {
    let refused = |code, text: &str| Message::Refused(RpcError::new(code, text));
    match value {
        Value::Array(members) if members.is_empty() => {
            refused(ErrorCode::InvalidRequest, "a batch has at least one call")
        }
        Value::Array(members) if members.len() > BATCH_MAX => {
            refused(ErrorCode::TooLarge, &format!("a batch has at most {BATCH_MAX} calls"))
        }
        Value::Array(members) => Message::Batch(members.into_iter().map(member).collect()),
        other => Message::Single(member(other)),
    }
}

/// One call from its value.
pub fn member(value: Value) -> Member {
    let wrong = |text: &str| Err(RpcError::new(ErrorCode::InvalidRequest, text));
    let Value::Object(mut call) = value else {
        return Member { id: Some(Value::Null), call: wrong("a call is an object") };
    };
    let id = match call.remove("id") {
        None => None,
        Some(id @ (Value::Null | Value::Number(_) | Value::String(_))) => Some(id),
        Some(_) => {
            let call = wrong("an id is a string, a number or null");
            return Member { id: Some(Value::Null), call };
        }
    };
    let call = parts(call);
    // What is no valid call is no notification either: it is answered under the id null.
    let id = if call.is_err() { Some(id.unwrap_or_default()) } else { id };
    Member { id, call }
}

fn parts(mut call: Map<String, Value>) -> Result<(String, Params), RpcError> {
    let wrong = |text: &str| Err(RpcError::new(ErrorCode::InvalidRequest, text));
    if call.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return wrong("`jsonrpc` is \"2.0\"");
    }
    let Some(Value::String(method)) = call.remove("method") else {
        return wrong("`method` is the name of a method");
    };
    let params = match call.remove("params") {
        None | Some(Value::Null) => Params::none(),
        Some(Value::Array(list)) => Params::Positional(list),
        Some(Value::Object(map)) => Params::Named(map),
        Some(_) => return wrong("`params` is a list or an object"),
    };
    Ok((method, params))
}

impl Message {
    /// The calls that can be run.
    pub fn calls(&self) -> impl Iterator<Item = &(String, Params)> {
        let members: &[Member] = match self {
            Message::Single(member) => std::slice::from_ref(member),
            Message::Batch(members) => members,
            Message::Refused(_) => &[],
        };
        members.iter().filter_map(|member| member.call.as_ref().ok())
    }

    /// Runs every call by `run` and puts the answers together. `run` may answer by a way of its
    /// own and return `None`.
    pub async fn run<F, R>(self, run: F) -> Reply
    where
        F: Fn(Value, String, Params) -> R,
        R: Future<Output = Option<Answered>>,
    {
        match self {
            Message::Refused(error) => single(Some(refusal(&Value::Null, &error))),
            Message::Single(member) => single(answer_member(member, &run).await),
            Message::Batch(members) => {
                let running = members.into_iter().map(|member| answer_member(member, &run));
                batch(join_all(running).await.into_iter().flatten().collect())
            }
        }
    }
}

async fn answer_member<F, R>(member: Member, run: &F) -> Option<Answered>
where
    F: Fn(Value, String, Params) -> R,
    R: Future<Output = Option<Answered>>,
{
    let is_notification = member.id.is_none();
    let id = member.id.unwrap_or_default();
    match member.call {
        Err(error) => Some(refusal(&id, &error)),
        Ok((method, params)) => run(id, method, params).await.filter(|_answered| !is_notification),
    }
}

fn single(answered: Option<Answered>) -> Reply {
    answered.map_or_else(Reply::default, |one| Reply { json: Some(one.json), every: one.code })
}

fn batch(answers: Vec<Answered>) -> Reply {
    let first = answers.first().and_then(|one| one.code);
    let every = first.filter(|code| answers.iter().all(|one| one.code == Some(*code)));
    if answers.is_empty() {
        return Reply::default();
    }
    let texts: Vec<&str> = answers.iter().map(|one| one.json.as_str()).collect();
    Reply { json: Some(format!("[{}]", texts.join(","))), every }
}

impl From<Reply> for answer::Answer {
    fn from(reply: Reply) -> answer::Answer {
        match reply.json {
            Some(json) => answer::with_body(http::StatusCode::OK, answer::JSON, json.into_bytes()),
            None => answer::no_content(),
        }
    }
}
