//! `node_wait_offline`: waits until nodes are offline.

use crate::error::within;
use crate::node_wait_ready::{PARAMS, wait};
use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Way};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_wait_offline",
        group: "cluster",
        summary: "Wait until nodes are offline",
        description: "A node is offline when the master has heard nothing of it for one election \
                      timeout. Returns `{offline: [node], pending: [node]}`; if a node still \
                      answers after `timeout` seconds, the outcome is timeout.",
        way: Way::Long,
        params: PARAMS,
        examples: &[r#"{"nids": 13}"#, r#"{"nids": ["n13"], "timeout": 5}"#],
        deadline_s: Some(3700),
        precheck: |params| within(params, "timeout", 1..=3600),
        ..Declaration::READ
    },
    run: |run| Box::pin(node_wait_offline(run)),
};

async fn node_wait_offline(run: Run) -> Result<Value, JobError> {
    wait(&run, "offline", |run, node| run.world().node_state(node) == "offline").await
}
