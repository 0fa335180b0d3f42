//! `node_resume`: lets nodes run commands again.

use crate::node_suspend::set_suspended;
use crate::{Job, JobError, Run, seats};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Param};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_resume",
        group: "cluster",
        summary: "Let nodes run commands again",
        description: "Ends what node_suspend began. Returns `{suspended: [node]}`: the nodes that \
                      still are.",
        params: &[Param {
            about: "which nodes: ids, names, `label=value`, `group:g`, `all`",
            ..seats::ONE
        }],
        examples: &[r#"{"nid": 12}"#, r#"{"nid": "all"}"#],
        locks: seats::lock,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(node_resume(run)),
};

async fn node_resume(run: Run) -> Result<Value, JobError> {
    set_suspended(&run, false)
}
