//! `config_delete`: takes a path out of the users' own section of the configuration.

use crate::app_section::{expect_revision, only_app, write_lock};
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_delete",
        group: "configuration",
        summary: "Take a path out of the section `app` of the configuration",
        description: "Removes what is at `path` and everything below it; `app` itself stays as an \
                      empty map. If there is nothing, nothing is changed and a warning says so. \
                      With `expect_revision` the job ends in conflict unless the last change at \
                      or below the path was in that revision. config_rollback brings back what \
                      was removed, except secrets. Returns the diff.",
        params: &[
            Param::must("path", Type::Path, "what, below `app`: app/web/port"),
            Param::may("expect_revision", Type::Int, "revision of the last change there"),
        ],
        examples: &[r#"{"path": "app/web/port"}"#],
        locks: write_lock,
        precheck: only_app,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(config_delete(run)),
};

async fn config_delete(run: Run) -> Result<Value, JobError> {
    let path = run.path("path");
    expect_revision(&run, &path)?;
    if !run.has(&path) {
        run.warn(format!("there was nothing at {path}"));
    } else if path.depth() == 1 {
        run.set(&path, json!({}))?;
    } else {
        run.remove(&path)?;
    }
    Ok(json!(run.changes()))
}
