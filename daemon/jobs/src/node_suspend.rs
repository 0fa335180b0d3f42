//! `node_suspend`: keeps commands away from nodes.

use crate::{Job, JobError, Run, nodes, seats};
use serde_json::{Value, json};
use tiebeam_core::State;
use tiebeam_core::declaration::{Declaration, Param};
use tiebeam_core::path::path;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_suspend",
        group: "cluster",
        summary: "Keep commands away from nodes",
        description: "A suspended node runs no commands of jobs until node_resume: jobs skip it \
                      and warn of it. It stays a member, votes and serves as before, and commands \
                      that run there run on. Returns `{suspended: [node]}`, all nodes that are.",
        params: &[Param {
            about: "which nodes: ids, names, `label=value`, `group:g`, `all`",
            ..seats::ONE
        }],
        examples: &[r#"{"nid": 12}"#, r#"{"nid": ["n12", "rack=b"]}"#],
        locks: seats::lock,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(node_suspend(run)),
};

async fn node_suspend(run: Run) -> Result<Value, JobError> {
    set_suspended(&run, true)
}

/// Marks the nodes that `nid` names, or takes the mark away; both jobs end here.
pub(crate) fn set_suspended(run: &Run, suspended: bool) -> Result<Value, JobError> {
    run.get(&path(&["nodes"]));
    for node in nodes::find_nodes(run, "nid")? {
        let at = State::node_path(node).child("suspended");
        match nodes::is_suspended(run, node) {
            false if suspended => run.set(&at, json!(true))?,
            true if !suspended => run.remove(&at)?,
            _ => {}
        }
    }
    let entries = run.get(&path(&["nodes"]));
    let entries = entries.as_ref().and_then(Value::as_object).into_iter().flatten();
    let marked = entries.filter(|(_, entry)| entry["suspended"] == true);
    let mut marked: Vec<u32> = marked.filter_map(|(id, _)| id.parse().ok()).collect();
    marked.sort_unstable();
    Ok(json!({"suspended": marked}))
}
