//! `config_set`: puts a value into the users' own section of the configuration.

use crate::app_section::{
    conceal_value, expect_revision, only_app, put, refuse_reserved, write_lock,
};
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_set",
        group: "configuration",
        summary: "Put a value into the section `app` of the configuration",
        description: "Replaces whatever is at `path`; missing maps above it are made. With \
                      `expect_revision` the job ends in conflict unless the last change at or \
                      below the path was in that revision (0: there is nothing). What a schema \
                      marks as secret is sealed; a secret that is given as its commitment, as \
                      config_get shows it, stays as it is. Returns the diff.",
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
    refuse_reserved(&value)?;
    expect_revision(&run, &path)?;
    put(&run, &path, value)?;
    Ok(json!(run.changes()))
}
