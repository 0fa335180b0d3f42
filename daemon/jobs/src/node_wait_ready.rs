//! `node_wait_ready`: waits until nodes are ready.

use crate::error::within;
use crate::{Job, JobError, Run, nodes};
use serde_json::{Value, json};
use tiebeam_core::State;
use tiebeam_core::declaration::{Declaration, Param, Type, Way};
use tiebeam_proto::Outcome;

/// Milliseconds between two looks.
const LOOK_EVERY_MS: u64 = 200;
/// Seconds to wait, if the caller does not say.
const TIMEOUT_S: u64 = 60;

/// What both jobs take.
pub(crate) const PARAMS: &[Param] = &[
    Param::must("nids", Type::Nodes, "which nodes: ids, names, `label=value`, `group:g`, `all`"),
    Param::may("timeout", Type::Int, "seconds, 1 to 3600; 60"),
];

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_wait_ready",
        group: "cluster",
        summary: "Wait until nodes are ready",
        description: "A node is ready when it is online, has caught up with the master, and has \
                      the seat that its role says: a voter votes. Returns `{ready: [node], \
                      pending: [node]}`; if a node is not ready after `timeout` seconds, the \
                      outcome is timeout.",
        way: Way::Long,
        params: PARAMS,
        examples: &[r#"{"nids": "all"}"#, r#"{"nids": [11, 12], "timeout": 5}"#],
        deadline_s: Some(3700),
        precheck: |params| within(params, "timeout", 1..=3600),
        ..Declaration::READ
    },
    run: |run| Box::pin(node_wait_ready(run)),
};

async fn node_wait_ready(run: Run) -> Result<Value, JobError> {
    wait(&run, "ready", is_ready).await
}

fn is_ready(run: &Run, node: u32) -> bool {
    let state = run.world().newest();
    let votes = state.members.get(&node).is_some_and(|member| member.voter);
    let role = state.config.value(&State::node_path(node).child("role"));
    run.world().node_state(node) == "online"
        && run.world().caught_up(node)
        && (votes || role != Some(json!("voter")))
}

/// Waits until all nodes are `word`.
pub(crate) async fn wait(
    run: &Run,
    word: &str,
    is_so: impl Fn(&Run, u32) -> bool,
) -> Result<Value, JobError> {
    let nodes = nodes::find_nodes(run, "nids")?;
    let timeout_s = run.int("timeout").and_then(|timeout| u64::try_from(timeout).ok());
    let looks = timeout_s.unwrap_or(TIMEOUT_S).saturating_mul(1000) / LOOK_EVERY_MS;
    for _ in 0..looks {
        if nodes.iter().all(|node| is_so(run, *node)) {
            break;
        }
        run.world().pause(LOOK_EVERY_MS).await;
    }
    let (done, pending): (Vec<u32>, Vec<u32>) = nodes.iter().partition(|node| is_so(run, **node));
    let output = json!({word: done, "pending": pending});
    if pending.is_empty() {
        return Ok(output);
    }
    let text = format!("not {word}: {}", nodes::listed(&pending));
    Err(JobError::Partly { outcome: Outcome::Timeout, text, output })
}
