//! `node_list`: the members and what is written of them in the configuration.

use crate::{Job, JobError, Run};
use serde_json::{Map, Value};
use tiebeam_core::declaration::Declaration;
use tiebeam_core::path::path;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_list",
        group: "cluster",
        summary: "List the nodes of the cluster",
        description: "Returns one entry per node, by node id: `{id, name, address, role, labels, \
                      affinity, added}`. Whether a node is online is the business of `node_state`.",
        everyone: true,
        ..Declaration::READ
    },
    run: |run| Box::pin(node_list(run)),
};

async fn node_list(run: Run) -> Result<Value, JobError> {
    Ok(run.get(&path(&["nodes"])).unwrap_or_else(|| Value::Object(Map::new())))
}
