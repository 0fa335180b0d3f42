//! `general_settings`: changes general settings.

use crate::error::invalid;
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::lock::Lock;
use tiebeam_core::settings::{Setting, SettingError};
use tiebeam_proto::RpcError;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "general_settings",
        group: "configuration",
        summary: "Change general settings",
        description: "`changes` is `{section: {key: value}}`; `null` as a value goes back to the \
                      default. All or none: one wrong key or value refuses the call and is named. \
                      settings_list shows every setting with its type, bounds and default. Takes \
                      effect on every node without a restart. Returns the diff.",
        params: &[Param::must("changes", Type::Dict, "what: {jobs: {commit_wait_ms: 500}}")],
        examples: &[
            r#"{"changes": {"jobs": {"commit_wait_ms": 500, "deadline_s": 120}}}"#,
            r#"{"changes": {"jobs": {"commit_wait_ms": null}}}"#,
        ],
        locks: |params| {
            let wanted = changes(params).unwrap_or_default();
            wanted.iter().map(|(setting, _)| Lock::write(setting.path().as_str())).collect()
        },
        precheck: |params| changes(params).map(drop),
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(general_settings(run)),
};

/// The settings to change with their values; the error names the place in the parameter.
fn changes(params: &Params) -> Result<Vec<(&'static Setting, Value)>, RpcError> {
    let mut wanted = Vec::new();
    let sections = params.get("changes").and_then(Value::as_object).into_iter().flatten();
    for (section, keys) in sections {
        let field = format!("changes.{}", name_shown(section));
        let Some(keys) = keys.as_object() else {
            return Err(invalid(field, "a section's changes must be a map {key: value}"));
        };
        for (key, value) in keys {
            let field = format!("{field}.{}", name_shown(key));
            let setting = Setting::find(section, key).map_err(|_| {
                invalid(&field, format!("there is no setting {}", &field["changes.".len()..]))
                    .hint("settings_list shows them all")
            })?;
            if !value.is_null() {
                setting.check(value).map_err(|error| wrong(&field, &error))?;
            }
            wanted.push((setting, value.clone()));
        }
    }
    if wanted.is_empty() {
        return Err(
            invalid("changes", "there is nothing to change").hint("{section: {key: value}}")
        );
    }
    Ok(wanted)
}

fn wrong(field: &str, error: &SettingError) -> RpcError {
    invalid(field, error.to_string())
}

/// A key of the caller's as an error may show it.
fn name_shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

async fn general_settings(run: Run) -> Result<Value, JobError> {
    let wanted = changes(run.params()).map_err(|error| JobError::failed(error.message))?;
    for (setting, value) in wanted {
        let at = setting.path();
        if !value.is_null() {
            run.set(&at, value)?;
        } else if run.has(&at) {
            run.remove(&at)?;
        }
    }
    Ok(json!(run.changes()))
}
