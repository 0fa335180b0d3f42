//! `config_wait`: waits until nodes have published a revision.

use crate::error::within;
use crate::nodes;
use crate::{Job, JobError, Run};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type, Way};
use tiebeam_proto::Outcome;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_wait",
        group: "configuration",
        summary: "Wait until nodes have published a revision",
        description: "A change is committed before each node has written its file \
                      `config/cluster.yaml`. This waits for the file: for programs that read it. \
                      Returns `{published: [node], pending: [node]}`; if a node has not published \
                      the revision after `timeout_s`, the outcome is timeout.",
        way: Way::Long,
        params: &[
            Param::must("revision", Type::Int, "the revision, as result_revision gave it"),
            Param::may("nodes", Type::Nodes, "which nodes; all if not given"),
            Param::may("timeout_s", Type::Int, "seconds, 1 to 3600; 30 if not given"),
        ],
        examples: &[r#"{"revision": 18}"#, r#"{"revision": 18, "nodes": [11], "timeout_s": 5}"#],
        deadline_s: Some(3700),
        precheck: |params| {
            within(params, "revision", 1..=i64::MAX)?;
            within(params, "timeout_s", 1..=3600)
        },
        ..Declaration::READ
    },
    run: |run| Box::pin(config_wait(run)),
};

async fn config_wait(run: Run) -> Result<Value, JobError> {
    let number = |name: &str| run.int(name).and_then(|number| u64::try_from(number).ok());
    let revision = number("revision").unwrap_or(1);
    let timeout_s = number("timeout_s").unwrap_or(30);
    let nodes = nodes::find_nodes(&run, "nodes")?;
    let waits = nodes.iter().map(|node| run.world().wait_published(*node, revision, timeout_s));
    let ends = join_all(waits).await;
    let with = |end: bool| -> Vec<u32> {
        nodes.iter().zip(&ends).filter(|(_, e)| **e == end).map(|(node, _)| *node).collect()
    };
    let (published, pending) = (with(true), with(false));
    let output = json!({"published": published, "pending": pending});
    if pending.is_empty() {
        return Ok(output);
    }
    let text = format!("revision {revision} is not published by {}", nodes::listed(&pending));
    Err(JobError::Partly { outcome: Outcome::Timeout, text, output })
}
