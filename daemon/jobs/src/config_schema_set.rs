//! `config_schema_set`: says what a part of the users' own section may look like.

use crate::app_section::{child, only_app};
use crate::error::invalid;
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::lock::Lock;
use tiebeam_core::path::path;
use tiebeam_core::tree::sealed_digest;
use tiebeam_core::{Path, Tree, schema};
use tiebeam_proto::RpcError;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_schema_set",
        group: "configuration",
        summary: "Say what a part of the section `app` may look like",
        description: "Keeps a JSON Schema (draft 2020-12) for what is at `path`; from then on no \
                      change is accepted that does not pass it. `null` removes it. Refused if \
                      what is there now does not pass. `\"secret\": true` (or `\"writeOnly\": \
                      true`) in a schema marks a value as secret: it is checked and sealed when \
                      it is set and shows as a commitment. Marks are read at the top of the \
                      schema and below `properties` and `additionalProperties`. A place that \
                      holds a value in clear cannot be marked, because the history has the \
                      value: take it out with config_delete, mark the place, then set a new \
                      secret. Returns the diff.",
        params: &[
            Param::must("path", Type::Path, "where, below `app`: app/web"),
            Param::must("schema", Type::Object, "a JSON Schema; null removes the one there is"),
        ],
        examples: &[
            r#"{"path": "app/web", "schema": {"type": "object", "properties":
                {"port": {"type": "integer"}, "password": {"type": "string", "secret": true}}}}"#,
            r#"{"path": "app/web", "schema": null}"#,
        ],
        locks: |params| {
            let covered = params.get("path").and_then(Value::as_str).unwrap_or_default();
            vec![Lock::read(covered), Lock::write("schemas")]
        },
        precheck: check,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(config_schema_set(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    only_app(params)?;
    match params.get("schema") {
        Some(Value::Null | Value::Bool(_) | Value::Object(_)) | None => Ok(()),
        Some(_) => Err(invalid("schema", "`schema` must be a JSON Schema (a map) or null")),
    }
}

async fn config_schema_set(run: Run) -> Result<Value, JobError> {
    let covered = run.path("path");
    let place = child(&path(&["schemas"]), covered.as_str())?;
    let wanted = run.param("schema").cloned().unwrap_or(Value::Null);
    if wanted.is_null() {
        if run.has(&place) {
            run.remove(&place)?;
        } else {
            run.warn(format!("there was no schema for {covered}"));
        }
        return Ok(json!(run.changes()));
    }
    schema::check_schema(&covered, &wanted).map_err(|why| JobError::failed(why.to_string()))?;
    if has_hidden_mark(&wanted) {
        return Err(JobError::failed(
            "a secret can only be marked at the top of the schema and below `properties` and \
             `additionalProperties`: elsewhere the mark would not be seen",
        ));
    }
    if let Some(value) = run.get(&covered) {
        let clear = clear_secrets(&run.config(), &covered, &wanted);
        if let Some(first) = clear.first() {
            return Err(JobError::Failed(format!(
                "{first} holds a value in clear, and the history keeps it: take it out with \
                 config_delete, set the schema, then set a new secret"
            )));
        }
        schema::check_value(&covered, &wanted, &value)?;
    }
    run.set(&place, Value::String(wanted.to_string()))?;
    Ok(json!(run.changes()))
}

/// Places that a schema for `covered` marks as secret and that hold a value in clear.
pub(crate) fn clear_secrets(config: &Tree, covered: &Path, wanted: &Value) -> Vec<Path> {
    let Some(value) = config.value(covered) else { return Vec::new() };
    let mut places = Vec::new();
    schema::secret_places(wanted, &value, covered, &mut places);
    places.retain(|place| {
        let stored = config.get(place).map(|node| node.to_sealed_value());
        stored.is_some_and(|stored| sealed_digest(&stored).is_none())
    });
    places
}

/// Whether a mark stands where [`schema::secret_places`] does not look.
fn has_hidden_mark(wanted: &Value) -> bool {
    let Some(object) = wanted.as_object().filter(|_| !schema::is_secret(wanted)) else {
        return false;
    };
    object.iter().any(|(keyword, below)| match keyword.as_str() {
        "properties" => below.as_object().is_some_and(|all| all.values().any(has_hidden_mark)),
        "additionalProperties" => has_hidden_mark(below),
        "default" | "const" | "enum" | "examples" => false,
        _ => has_mark(below),
    })
}

fn has_mark(value: &Value) -> bool {
    match value {
        Value::Object(object) => schema::is_secret(value) || object.values().any(has_mark),
        Value::Array(list) => list.iter().any(has_mark),
        _ => false,
    }
}
