//! `config_set`: puts a value into the users' own section of the configuration.

use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::lock::Lock;
use tiebeam_core::{Path, State, draft, schema};
use tiebeam_proto::{ErrorCode, RpcError};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_set",
        group: "configuration",
        summary: "Put a value into the section `app` of the configuration",
        description: "Replaces whatever is at `path`; missing maps above it are made. With \
                      `expect_revision` the job ends in conflict unless the last change at or \
                      below the path was in that revision (0: there is nothing). Returns the diff.",
        params: &[
            Param::must("path", Type::Path, "where, below `app`: app/web/port"),
            Param::must("value", Type::Object, "what: any value"),
            Param::may("expect_revision", Type::Int, "revision of the last change there; 0: none"),
        ],
        examples: &[r#"{"path": "app/web/port", "value": 8080}"#],
        locks: write_lock,
        conceal: conceal_value,
        precheck: only_app,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(config_set(run)),
};

async fn config_set(run: Run) -> Result<Value, JobError> {
    let path = run.path("path");
    let value = run.param("value").cloned().unwrap_or(Value::Null);
    if draft::uses_reserved_name(&value) {
        return Err(JobError::failed("the value uses the reserved name `$sealed`"));
    }
    expect_revision(&run, &path)?;
    put(&run, &path, value)?;
    Ok(json!(run.changes()))
}

/// The write lock of a job that changes `path`.
pub(crate) fn write_lock(params: &Params) -> Vec<Lock> {
    vec![Lock::write(params.get("path").and_then(Value::as_str).unwrap_or_default())]
}

/// Refuses a path outside `app`, and names the jobs that the section belongs to (ruling 29).
pub(crate) fn only_app(params: &Params) -> Result<(), RpcError> {
    let text = params.get("path").and_then(Value::as_str).unwrap_or_default();
    let path = Path::parse(text).unwrap_or_default();
    let jobs = match path.section() {
        "app" => return Ok(()),
        "users" => "user_create, user_modify, user_passwd or user_delete",
        "groups" => "group_create or group_delete",
        "settings" => "general_settings",
        "ssl" => "cert_update or general_settings",
        "nodes" => "the jobs of the group cluster",
        "schemas" => "config_schema_set",
        _ => "a path below app",
    };
    Err(RpcError::new(ErrorCode::Forbidden, "only paths below `app` can be changed by this job")
        .field("path")
        .hint(format!("use {jobs}")))
}

/// Fails in conflict unless the last change at `path` is the one the caller expects.
pub(crate) fn expect_revision(run: &Run, path: &Path) -> Result<(), JobError> {
    let Some(expected) = run.int("expect_revision") else { return Ok(()) };
    let found = run.revision_at(path).unwrap_or(0);
    if u64::try_from(expected) == Ok(found) {
        return Ok(());
    }
    let text = format!("the last change at {path} was in revision {found}, not {expected}");
    Err(JobError::Conflict(text))
}

/// Puts a value at `path`, with the parts that a schema marks as secret sealed.
pub(crate) fn put(run: &Run, path: &Path, value: Value) -> Result<(), JobError> {
    let mut secrets = Vec::new();
    for (covered, schema) in schema::schema_of(&run.state().config, path) {
        secrets.extend(secret_places_below(&covered, &schema, path, &value));
    }
    run.set(path, without(&value, path, &secrets))?;
    for place in secrets {
        if let Some(secret) = value_at(&value, path, &place) {
            run.set_secret(&place, &secret)?;
        }
    }
    Ok(())
}

/// Where a schema for `covered` finds secrets in `value` at `path`.
fn secret_places_below(covered: &Path, schema: &Value, path: &Path, value: &Value) -> Vec<Path> {
    let mut places = Vec::new();
    let whole = wrap(covered, path, value);
    schema::secret_places(schema, &whole, covered, &mut places);
    places
}

/// `value` as it would be seen from `covered`: inside the maps between the two.
fn wrap(covered: &Path, path: &Path, value: &Value) -> Value {
    if path.covers(covered) {
        return value_at(value, path, covered).unwrap_or(Value::Null);
    }
    let between: Vec<String> = path.names().skip(covered.depth()).collect();
    between.into_iter().rev().fold(value.clone(), |inner, name| json!({ name: inner }))
}

/// The part of `value` (which stands at `path`) that stands at `place`.
fn value_at(value: &Value, path: &Path, place: &Path) -> Option<Value> {
    if place.covers(path) {
        return Some(value.clone());
    }
    place.names().skip(path.depth()).try_fold(value, |v, name| v.get(&name)).cloned()
}

/// `value` without what stands at the secret places; a wholly secret value is null for a moment.
fn without(value: &Value, path: &Path, secrets: &[Path]) -> Value {
    let mut value = value.clone();
    for place in secrets {
        let names: Vec<String> = place.names().skip(path.depth()).collect();
        let Some((last, above)) = names.split_last() else { return Value::Null };
        let parent = above.iter().try_fold(&mut value, |v, name| v.get_mut(name));
        if let Some(object) = parent.and_then(Value::as_object_mut) {
            object.remove(last);
        }
    }
    value
}

/// The value is secret in the record if a schema marks anything in it.
pub(crate) fn conceal_value(state: &State, params: &Params) -> Vec<&'static str> {
    let path = params.get("path").and_then(Value::as_str).map(Path::parse);
    let (Some(Ok(path)), Some(value)) = (path, params.get("value")) else { return Vec::new() };
    let secret = schema::schema_of(&state.config, &path)
        .iter()
        .any(|(covered, schema)| !secret_places_below(covered, schema, &path, value).is_empty());
    if secret { vec!["value"] } else { Vec::new() }
}
