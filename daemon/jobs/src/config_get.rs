//! `config_get`: the configuration or a part of it, now or at a kept revision.

use crate::error::within;
use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Param, Type};
use tiebeam_core::{Path, Tree};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_get",
        group: "configuration",
        summary: "Show the configuration or a part of it",
        description: "Returns the value at `path`, or the whole configuration, as it is now or as \
                      it was at `revision`. Secrets appear as `{\"secret\": \"sha256:…\"}`: a \
                      commitment that changes when the secret does and tells nothing else. \
                      Password hashes are not in the configuration.",
        params: &[
            Param::may("path", Type::Path, "what: app/web; everything if not given"),
            Param::may("revision", Type::Int, "a kept revision; the newest if not given"),
        ],
        examples: &["{}", r#"{"path": "app/web", "revision": 17}"#],
        precheck: |params| within(params, "revision", 1..=i64::MAX),
        ..Declaration::READ
    },
    run: |run| Box::pin(config_get(run)),
};

async fn config_get(run: Run) -> Result<Value, JobError> {
    let path = run.path("path");
    let revision = run.int("revision").and_then(|number| u64::try_from(number).ok());
    let value = tree_at(&run, revision)?.value(&path);
    value.ok_or_else(|| nothing_at(&path, revision))
}

/// The configuration now, or at a kept revision (then with commitments in the place of secrets).
pub(crate) fn tree_at(run: &Run, revision: Option<u64>) -> Result<Tree, JobError> {
    let newest = run.state().revision;
    match revision {
        Some(wanted) if wanted > newest => {
            let text = format!("there is no revision {wanted} yet; the newest is {newest}");
            Err(JobError::Failed(text))
        }
        Some(wanted) if wanted != newest => run.world().tree_at(wanted),
        _ => Ok(run.state().config.clone()),
    }
}

fn nothing_at(path: &Path, revision: Option<u64>) -> JobError {
    let at = revision.map(|number| format!(" at revision {number}")).unwrap_or_default();
    JobError::Failed(format!("there is nothing at {path}{at}; config_log shows its changes"))
}
