//! `config_merge`: merges a patch into the users' own section of the configuration.

use crate::app_section::{
    child, commitment, conceal_value, expect_revision, only_app, put, refuse_reserved, write_lock,
};
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type};
use tiebeam_core::{Path, tree};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_merge",
        group: "configuration",
        summary: "Merge a map into the section `app` of the configuration",
        description: "As RFC 7396 says: maps are merged, `null` removes, everything else replaces \
                      what is there. What the map does not name stays as it is, secrets included. \
                      With `expect_revision` the job ends in conflict unless the last change at \
                      or below the path was in that revision (0: there is nothing). Returns the \
                      diff.",
        params: &[
            Param::must("path", Type::Path, "where, below `app`: app/web"),
            Param::must("value", Type::Dict, "the map to merge; null as a value removes the key"),
            Param::may("expect_revision", Type::Int, "revision of the last change there; 0: none"),
        ],
        examples: &[r#"{"path": "app/web", "value": {"port": 8081, "debug": null}}"#],
        locks: write_lock,
        conceal: conceal_value,
        precheck: only_app,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(config_merge(run)),
};

async fn config_merge(run: Run) -> Result<Value, JobError> {
    let path = run.path("path");
    let patch = run.param("value").cloned().unwrap_or(Value::Null);
    refuse_reserved(&patch)?;
    expect_revision(&run, &path)?;
    merge(&run, &path, &patch)?;
    Ok(json!(run.changes()))
}

/// Goes down only where there is a map already, so that each write is as small as the patch and
/// never passes a secret through that it does not name.
fn merge(run: &Run, at: &Path, patch: &Value) -> Result<(), JobError> {
    let is_map = run.config().get(at).is_some_and(|node| node.as_map().is_some());
    let object = patch.as_object().filter(|_| is_map && commitment(patch).is_none());
    let Some(object) = object else {
        return put(run, at, tree::merge_patch(None, patch));
    };
    for (name, value) in object {
        let below = child(at, name)?;
        if !value.is_null() {
            merge(run, &below, value)?;
        } else if run.has(&below) {
            run.remove(&below)?;
        }
    }
    Ok(())
}
