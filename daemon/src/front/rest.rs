//! `/rest`: the two JSON forms that ConfD's clients send (wire.md section 6).
//!
//! Form 1 names an RPC method beside its job and answers with the bare result. Form 2 is JSON-RPC
//! whose method is the name of a job, run as `job_exec`. Used by `http`.

use super::Shared;
use super::answer::{self, Answer};
use super::dispatch::Context;
use super::jsonrpc::{self, Member};
use super::table::{Answered, refusal};
use http::StatusCode;
use serde_json::{Map, Value, json};
use tiebeam_proto::{ErrorCode, Params, RpcError};

/// The keys that a `kwargs` object may hold beside `params` (wire.md section 4).
const KWARGS: [&str; 9] = [
    "dry_run",
    "volatile",
    "request_id",
    "wait_s",
    "reason",
    "not_before",
    "deadline_s",
    "confirm_within_s",
    "plan",
];

/// A body that was read.
#[derive(Debug)]
pub enum Message {
    /// A method beside its job.
    Bare(Result<(String, Params), RpcError>),
    /// JSON-RPC.
    Enveloped(Member),
}

/// Reads a body under the limits; which names are methods and which are jobs decides form 2.
pub fn parse(body: &[u8], shared: &Shared) -> Message {
    match jsonrpc::read(body) {
        Err(error) => Message::Bare(Err(error)),
        Ok(value) if value.get("jsonrpc").is_some() => Message::Enveloped(form_2(value, shared)),
        Ok(value) => Message::Bare(form_1(value)),
    }
}

fn form_1(value: Value) -> Result<(String, Params), RpcError> {
    let wrong = |text: &str| Err(RpcError::new(ErrorCode::InvalidRequest, text));
    let Value::Object(mut request) = value else {
        return wrong("the body is one object");
    };
    let Some(Value::String(method)) = request.remove("method") else {
        return wrong("`method` is the name of a method");
    };
    let given = request.remove("params").filter(|params| !params.is_null());
    let job = request.remove("job").filter(|job| !job.is_null());
    // Some clients number their requests; the answer has no place for it.
    request.remove("id");
    if let Some(key) = request.keys().next() {
        return Err(stray(key));
    }
    let Some(job) = job else {
        return Ok((method, without_job(given)?));
    };
    let mut list = vec![job];
    match given {
        Some(kwargs) if matches!(method.as_str(), "job_start" | "job_exec") => list.push(kwargs),
        // Of a method that takes a job's name alone, clients send an empty object.
        Some(Value::Object(map)) if !map.is_empty() => {
            let error = RpcError::new(
                ErrorCode::InvalidArguments,
                "this method takes a job's name and no `params`",
            );
            return Err(error.field("params").hint("job_start and job_exec take them"));
        }
        _ => {}
    }
    Ok((method, Params::Positional(list)))
}

/// A key beside the three: what would be left out must not look as if it had been heard.
fn stray(key: &str) -> RpcError {
    let shown: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
    let message = format!("there is no key {shown:?} beside `method`, `job` and `params`");
    RpcError::new(ErrorCode::InvalidRequest, message)
        .field(shown)
        .hint("a job's parameters, `dry_run` and the like go into `params`")
}

/// Arguments by name, where ConfD's `job_id` is our `id`, or by position.
fn without_job(given: Option<Value>) -> Result<Params, RpcError> {
    match given {
        None => Ok(Params::none()),
        Some(Value::Array(list)) => Ok(Params::Positional(list)),
        Some(Value::Object(mut map)) => {
            if let (Some(id), false) = (map.remove("job_id"), map.contains_key("id")) {
                map.insert("id".to_owned(), id);
            }
            Ok(Params::Named(map))
        }
        Some(_) => Err(RpcError::new(ErrorCode::InvalidRequest, "`params` is an object or a list")),
    }
}

fn form_2(value: Value, shared: &Shared) -> Member {
    let Member { id, call } = jsonrpc::member(value);
    let call = call.and_then(|(name, params)| {
        if shared.is_method(&name) {
            return Ok((name, params));
        }
        if !shared.service.is_job(&name) {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            let message = format!("there is no job or method {shown:?}");
            return Err(RpcError::new(ErrorCode::UnknownJob, message)
                .field("method")
                .hint("job_list lists the jobs"));
        }
        let kwargs = kwargs(params)?;
        Ok(("job_exec".to_owned(), Params::Positional(vec![name.into(), kwargs])))
    });
    // Every form-2 request is answered: ConfD's clients wait for it.
    Member { id: Some(id.unwrap_or_default()), call }
}

/// A job's parameters as `kwargs`; an object that already has exactly their form is taken as such.
fn kwargs(params: Params) -> Result<Value, RpcError> {
    match params {
        Params::Positional(list) if list.is_empty() => Ok(json!({"params": {}})),
        Params::Positional(_) => {
            let message = "the parameters of a job are named: `params` is an object";
            Err(RpcError::new(ErrorCode::InvalidArguments, message).field("params"))
        }
        Params::Named(map) if is_kwargs(&map) => Ok(Value::Object(map)),
        Params::Named(map) => Ok(json!({"params": map})),
    }
}

fn is_kwargs(map: &Map<String, Value>) -> bool {
    map.get("params").is_some_and(Value::is_object)
        && map.keys().all(|key| key == "params" || KWARGS.contains(&key.as_str()))
}

impl Message {
    /// The call, if it can be run.
    pub fn call(&self) -> Option<&(String, Params)> {
        match self {
            Message::Bare(call) => call.as_ref().ok(),
            Message::Enveloped(member) => member.call.as_ref().ok(),
        }
    }

    /// Runs the call; the error code is returned beside the answer.
    pub async fn run(self, context: &Context) -> (Answer, Option<ErrorCode>) {
        match self {
            Message::Bare(call) => {
                let outcome = run(call, context).await;
                let code = outcome.as_ref().err().map(|error| error.code);
                let bare = outcome.unwrap_or_else(|error| json!({"error": error.to_json()}));
                (answer::json(StatusCode::OK, &bare), code)
            }
            Message::Enveloped(Member { id, call }) => {
                let id = id.unwrap_or_default();
                let answered = match run(call, context).await {
                    Ok(result) => Answered {
                        json: json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string(),
                        code: None,
                    },
                    Err(error) => refusal(&id, &error),
                };
                let bytes = answered.json.into_bytes();
                (answer::with_body(StatusCode::OK, answer::JSON, bytes), answered.code)
            }
        }
    }
}

async fn run(
    call: Result<(String, Params), RpcError>,
    context: &Context,
) -> Result<Value, RpcError> {
    let (method, params) = call?;
    context.call(&method, params).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_1_puts_the_job_first_and_renames_job_id() {
        let body = json!({"method": "job_start", "job": "node_list",
            "params": {"params": {}, "dry_run": false, "volatile": false}});
        let kwargs = json!({"params": {}, "dry_run": false, "volatile": false});
        let expected = Params::Positional(vec!["node_list".into(), kwargs]);
        assert_eq!(form_1(body), Ok(("job_start".to_owned(), expected)));

        let body = json!({"method": "job_result", "params": {"job_id": "11.3"}});
        let map = Map::from_iter([("id".to_owned(), json!("11.3"))]);
        assert_eq!(form_1(body), Ok(("job_result".to_owned(), Params::Named(map))));

        let body = json!({"method": "job_desc", "job": "user_create", "params": {}});
        let list = Params::Positional(vec!["user_create".into()]);
        assert_eq!(form_1(body), Ok(("job_desc".to_owned(), list)));
    }

    #[test]
    fn nothing_in_form_1_is_passed_over() {
        for (body, field) in [
            (json!({"method": "job_start", "job": "x", "dry_run": true, "params": {}}), "dry_run"),
            (json!({"method": "job_list", "kwargs": {}}), "kwargs"),
            (json!({"method": "job_desc", "job": "x", "params": {"a": 1}}), "params"),
        ] {
            let error = form_1(body.clone()).expect_err("refused");
            assert_eq!(error.field.as_deref(), Some(field), "{body}");
        }
        let numbered = json!({"method": "job_list", "id": 7, "job": null});
        assert_eq!(form_1(numbered), Ok(("job_list".to_owned(), Params::none())));
    }

    #[test]
    fn parameters_are_kwargs_only_in_exactly_that_form() {
        let of = |value: Value| match value {
            Value::Object(map) => kwargs(Params::Named(map)),
            _ => kwargs(Params::none()),
        };
        let own = json!({"params": {"a": 1}, "dry_run": true});
        assert_eq!(of(own.clone()), Ok(own));
        let mixed = json!({"params": {"a": 1}, "username": "x"});
        assert_eq!(of(mixed.clone()), Ok(json!({"params": mixed})));
        let flag = json!({"dry_run": true});
        assert_eq!(of(flag.clone()), Ok(json!({"params": flag})));
        assert_eq!(of(Value::Null), Ok(json!({"params": {}})));
    }
}
