//! Is the call well formed: kwargs and parameters against a declaration (wire.md section 4).
//!
//! Checked once, at submission. Every refusal names the field and the way out; no value of a
//! parameter is ever repeated in it, because it may be a secret in the wrong place (ruling 31).

use crate::declaration::{Declaration, Param, Params, Type};
use crate::path::Path;
use crate::schema::is_name;
use serde_json::{Map, Value};
use tiebeam_proto::limits::{REASON_BYTES_MAX, REQUEST_ID_CHARS_MAX};
use tiebeam_proto::{ErrorCode, Kind, RpcError};

/// What a call of a job says beside its parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kwargs {
    /// The job's parameters, not yet checked.
    pub params: Map<String, Value>,
    /// Plan only.
    pub dry_run: bool,
    /// Keep no record.
    pub volatile: bool,
    /// The idempotency key.
    pub request_id: Option<String>,
    /// How long `job_exec` waits, in milliseconds.
    pub wait_ms: Option<u64>,
    /// Why.
    pub reason: Option<String>,
    /// Seconds from submission to the deadline.
    pub deadline_s: Option<u64>,
}

/// Keys that a later version brings (ruling 24).
const LATER: [&str; 3] = ["not_before", "confirm_within_s", "plan"];

/// Keys of this version, for the hint.
const KEYS: &str = "params, dry_run, volatile, request_id, wait_s, reason, deadline_s";

fn invalid(field: &str, message: impl Into<String>) -> RpcError {
    RpcError::new(ErrorCode::InvalidParameter, message).field(field)
}

/// A name from a request as an error may show it: short, one line.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

impl Kwargs {
    /// Reads the second argument of `job_start` and `job_exec`; null is the same as nothing.
    pub fn read(value: &Value) -> Result<Kwargs, RpcError> {
        let object = match value {
            Value::Null => return Ok(Kwargs::default()),
            Value::Object(object) => object,
            _ => {
                return Err(RpcError::new(ErrorCode::InvalidArguments, "kwargs must be a map")
                    .field("kwargs")
                    .hint("parameters go into {\"params\": {…}}"));
            }
        };
        let mut kwargs = Kwargs::default();
        for (key, value) in object {
            kwargs.read_key(key, value)?;
        }
        Ok(kwargs)
    }

    fn read_key(&mut self, key: &str, value: &Value) -> Result<(), RpcError> {
        if LATER.contains(&key) {
            let absent = value.is_null();
            return if absent { Ok(()) } else { Err(RpcError::not_in_this_version(key)) };
        }
        match key {
            "params" => self.params = params_object(value)?,
            "dry_run" => self.dry_run = boolean(key, value)?,
            "volatile" => self.volatile = boolean(key, value)?,
            "request_id" => self.request_id = request_id(value)?,
            "reason" => self.reason = reason(value)?,
            "deadline_s" => self.deadline_s = seconds(key, value)?.map(|s| s.ceil() as u64),
            "wait_s" => self.wait_ms = seconds(key, value)?.map(|s| (s * 1000.0) as u64),
            _ => {
                let text = format!("there is no key {:?} beside `params`", shown(key));
                return Err(invalid(&shown(key), text).hint(format!("keys are {KEYS}")));
            }
        }
        Ok(())
    }
}

fn params_object(value: &Value) -> Result<Map<String, Value>, RpcError> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(object) => Ok(object.clone()),
        _ => Err(invalid("params", "`params` must be a map of the job's parameters")),
    }
}

fn boolean(key: &str, value: &Value) -> Result<bool, RpcError> {
    match value {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        _ => Err(invalid(key, format!("`{key}` must be true or false"))),
    }
}

fn seconds(key: &str, value: &Value) -> Result<Option<f64>, RpcError> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => match number.as_f64() {
            Some(seconds) if (0.0..=31_536_000.0).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(invalid(key, format!("`{key}` must be from 0 to 31536000 seconds"))),
        },
        _ => Err(invalid(key, format!("`{key}` must be a number of seconds"))),
    }
}

fn request_id(value: &Value) -> Result<Option<String>, RpcError> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text,
        _ => return Err(invalid("request_id", "`request_id` must be a text")),
    };
    let fits = (1..=REQUEST_ID_CHARS_MAX).contains(&text.chars().count())
        && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    if !fits {
        let text = "`request_id` must have 1 to 64 characters, no spaces or control characters";
        return Err(invalid("request_id", text).hint("a UUIDv7 is best"));
    }
    Ok(Some(text.clone()))
}

fn reason(value: &Value) -> Result<Option<String>, RpcError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.len() > REASON_BYTES_MAX => {
            Err(invalid("reason", format!("`reason` may have {REASON_BYTES_MAX} bytes")))
        }
        Value::String(text) if text.chars().any(is_bad_in_text) => {
            let must = "a text without control characters other than tabs and line ends";
            Err(invalid("reason", format!("`reason` must be {must}")))
        }
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(invalid("reason", "`reason` must be a text")),
    }
}

/// Checks the kwargs that depend on what the job may do.
pub fn check_kwargs(declaration: &Declaration, kwargs: &Kwargs) -> Result<(), RpcError> {
    if kwargs.volatile && declaration.kind != Kind::Read {
        return Err(invalid("volatile", "only read jobs can be volatile")
            .hint("leave `volatile` out: every change has a record"));
    }
    if kwargs.volatile && (declaration.always_recorded || kwargs.dry_run) {
        return Err(invalid("volatile", "this call always leaves a record"));
    }
    if kwargs.dry_run && declaration.kind == Kind::Act {
        return Err(RpcError::not_in_this_version("dry_run"));
    }
    if kwargs.deadline_s == Some(0) {
        return Err(invalid("deadline_s", "`deadline_s` must be at least 1"));
    }
    Ok(())
}

/// Checks a job's parameters: unknown, missing and ill-typed ones are refused by name, null
/// counts as absent, substitutes stand in.
pub fn check_params(
    declaration: &Declaration,
    given: &Map<String, Value>,
) -> Result<Params, RpcError> {
    let mut params = Params::new();
    for (name, value) in given {
        let Some(param) = declaration.param(name) else {
            return Err(unknown_param(declaration, name));
        };
        if value.is_null() && param.kind != Type::Object {
            continue;
        }
        params.insert(name.clone(), check_value(param, value)?);
    }
    for param in declaration.params {
        let stands_in = param.substitutes.iter().filter(|name| params.contains_key(**name)).count();
        let present = usize::from(params.contains_key(param.name));
        if param.mandatory && present + stands_in == 0 {
            return Err(missing_param(declaration, param));
        }
        if present + stands_in > 1 {
            let others = param.substitutes.join(" or ");
            let text = format!("give `{}` or {others}, not both", param.name);
            return Err(invalid(param.name, text));
        }
    }
    (declaration.precheck)(&params)?;
    Ok(params)
}

fn unknown_param(declaration: &Declaration, name: &str) -> RpcError {
    let names: Vec<&str> = declaration.params.iter().map(|param| param.name).collect();
    let hint = if names.is_empty() {
        format!("{} has no parameters", declaration.name)
    } else {
        format!("parameters of {} are {}", declaration.name, names.join(", "))
    };
    invalid(&shown(name), format!("there is no parameter {:?}", shown(name))).hint(hint)
}

fn missing_param(declaration: &Declaration, param: &Param) -> RpcError {
    let name = param.name;
    let or: String = param.substitutes.iter().map(|other| format!(" (or `{other}`)")).collect();
    let text = format!("the mandatory parameter `{name}`{or} of {} is missing", declaration.name);
    invalid(name, text).hint(format!("{name}: {}", param.about))
}

/// Checks one value; gives it the form that the job function expects.
fn check_value(param: &Param, value: &Value) -> Result<Value, RpcError> {
    let hint = || format!("{}: {}", param.name, param.about);
    let wrong = |must: &str| {
        let text = format!("`{}` must be {must}", param.name);
        Err(invalid(param.name, text).hint(hint()))
    };
    let text = value.as_str();
    match param.kind {
        Type::Line if text.is_none_or(|t| t.chars().any(char::is_control)) => {
            wrong("a text of one line without control characters")
        }
        Type::Text if text.is_none_or(|t| t.chars().any(is_bad_in_text)) => {
            wrong("a text without control characters other than tabs and line ends")
        }
        Type::Name if !text.is_some_and(is_name) => wrong("a name: ^[a-z_][a-z0-9_-]{0,31}$"),
        Type::Path => match text.map(Path::parse) {
            Some(Ok(path)) => Ok(Value::String(path.as_str().to_owned())),
            Some(Err(why)) => {
                Err(invalid(param.name, format!("`{}`: {why}", param.name)).hint(hint()))
            }
            None => wrong("a path such as app/web/port"),
        },
        Type::JobId if text.is_none_or(|t| crate::job::parse_job_id(t).is_none()) => {
            wrong("a job id such as \"11.89\"")
        }
        Type::Int => match value.as_i64().or_else(|| text.and_then(|t| t.parse().ok())) {
            Some(number) => Ok(Value::from(number)),
            None => wrong("an integer"),
        },
        Type::IntOrLine => match (value.as_i64(), text) {
            (Some(number), _) => Ok(Value::from(number.to_string())),
            (None, Some(text)) if !text.chars().any(char::is_control) => Ok(Value::from(text)),
            _ => wrong("an integer or a text of one line"),
        },
        Type::Float if !value.is_number() => wrong("a number"),
        Type::Bool if !value.is_boolean() => wrong("true or false"),
        Type::List if !value.is_array() => wrong("a list"),
        Type::Lines => lines(value).map_or_else(|| wrong("a list of one-line texts"), Ok),
        Type::Dict if !value.is_object() => wrong("a map"),
        Type::Nodes => nodes(value).map_or_else(|| wrong("a node id, name or a list of them"), Ok),
        _ => Ok(value.clone()),
    }
}

fn is_bad_in_text(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\r' | '\t')
}

/// A list of lines; a single line stands for a list of one, as ConfD's clients send it, and a
/// number for its digits: `[/bin/sleep, 60]` is what people write in YAML.
fn lines(value: &Value) -> Option<Value> {
    let line = |v: &Value| match v {
        Value::String(text) if !text.chars().any(char::is_control) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        Value::Array(list) => list.iter().map(line).collect::<Option<Vec<_>>>().map(Value::from),
        single => line(single).map(|line| Value::from(vec![line])),
    }
}

/// Nodes as a list of texts.
fn nodes(value: &Value) -> Option<Value> {
    let one = |v: &Value| match v {
        Value::Number(number) => number.as_u64().map(|n| n.to_string()),
        Value::String(text) if !text.is_empty() && !text.chars().any(char::is_control) => {
            Some(text.clone())
        }
        _ => None,
    };
    let list = match value {
        Value::Array(list) => list.iter().map(one).collect::<Option<Vec<_>>>()?,
        single => vec![one(single)?],
    };
    Some(Value::from(list))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DECLARATION: Declaration = Declaration {
        name: "probe",
        params: &[
            Param::must("username", Type::Name, "who").or(&["userid"]),
            Param::may("userid", Type::Int, "who, by number"),
            Param::may("note", Type::Line, "a note"),
        ],
        ..Declaration::MODIFY
    };

    fn check(given: Value) -> Result<Params, RpcError> {
        check_params(&DECLARATION, given.as_object().unwrap())
    }

    #[test]
    fn every_refusal_names_the_field_and_hides_the_value() {
        for (given, field) in [
            (json!({}), "username"),
            (json!({"username": "a", "userid": 3}), "username"),
            (json!({"username": "../canary"}), "username"),
            (json!({"username": "-x"}), "username"),
            (json!({"userid": "canary"}), "userid"),
            (json!({"username": "a", "note": "canary\n"}), "note"),
            (json!({"username": "a", "note": 5}), "note"),
            (json!({"username": "a", "other": "canary"}), "other"),
        ] {
            let error = check(given.clone()).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{given}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
            let says_how = error.hint.is_some() || error.message.contains("not both");
            assert!(says_how, "{given}: the way out is not named");
        }
        assert_eq!(check(json!({"userid": "7", "note": null})).unwrap()["userid"], 7);
    }

    #[test]
    fn a_list_of_lines_takes_what_people_write() {
        for (given, expected) in [
            (json!(["/bin/sleep", 60]), Some(json!(["/bin/sleep", "60"]))),
            (json!("one"), Some(json!(["one"]))),
            (json!(["a\nb"]), None),
            (json!([null]), None),
            (json!({}), None),
        ] {
            assert_eq!(lines(&given), expected, "{given}");
        }
    }

    #[test]
    fn kwargs_are_read_or_refused_by_name() {
        assert_eq!(Kwargs::read(&Value::Null).unwrap(), Kwargs::default());
        let later = Kwargs::read(&json!({"not_before": "2027-01-01T00:00:00Z"})).unwrap_err();
        assert_eq!(later.hint.as_deref(), Some("not in this version"));
        assert!(Kwargs::read(&json!({"username": "a"})).is_err());
        assert!(Kwargs::read(&json!([])).is_err());
        let kwargs = Kwargs::read(&json!({"wait_s": 0.5, "params": null})).unwrap();
        assert_eq!(kwargs.wait_ms, Some(500));
        let told = Kwargs::read(&json!({"reason": "ticket 4711:\n\tthe disk is full"}));
        assert!(told.is_ok_and(|kwargs| kwargs.reason.is_some()), "a reason is free text");
        let odd = Kwargs::read(&json!({"reason": "\u{1b}[2J"})).unwrap_err();
        assert_eq!(odd.field.as_deref(), Some("reason"));
    }

    #[test]
    fn only_reads_are_volatile() {
        let kwargs = Kwargs { volatile: true, ..Kwargs::default() };
        assert!(check_kwargs(&DECLARATION, &kwargs).is_err());
        assert!(check_kwargs(&Declaration::READ, &kwargs).is_ok());
    }
}
