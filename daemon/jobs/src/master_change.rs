//! `master_change`: hands the master's place to another node.

use crate::{Job, JobError, Run, nodes, seats};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "master_change",
        group: "cluster",
        summary: "Hand the master's place to another node",
        description: "Another voter becomes the master, within less than a second as a rule; jobs \
                      that run go on there. `nids` are the nodes that may, in the order in which \
                      they are tried; without it, it is the voter that is furthest. Nothing \
                      happens if one of them is the master already. A node with a higher affinity \
                      gets the place back by itself: for maintenance, lower that one first. \
                      Returns `{master, was}`.",
        params: &[Param::may("nids", Type::Nodes, "who may become the master; else any voter")],
        examples: &[r#"{"nids": [12]}"#, r#"{}"#],
        deadline_s: Some(60),
        ..Declaration::ACT
    },
    run: |run| Box::pin(master_change(run)),
};

async fn master_change(run: Run) -> Result<Value, JobError> {
    // The job runs again from its start on whoever is the master then: this tells whether that
    // one was wanted.
    let (master, _) = run.world().master();
    let was = run.world().submitted_to();
    let wanted = candidates(&run)?;
    let done = match wanted.as_slice() {
        [] => master != was,
        wanted => wanted.contains(&master),
    };
    if done {
        return Ok(json!({"master": master, "was": was}));
    }
    run.world().hand_over(&wanted).await?;
    Err(JobError::failed("the job goes on on the new master"))
}

/// The voters that may, in the caller's order.
fn candidates(run: &Run) -> Result<Vec<u32>, JobError> {
    let Some(selectors) = run.param("nids").and_then(Value::as_array) else {
        return match run.state().voters().count() {
            1 => Err(JobError::failed("there is no other voter")),
            _ => Ok(Vec::new()),
        };
    };
    let mut wanted: Vec<u32> = Vec::new();
    for selector in selectors {
        for node in nodes::resolve(run, "nids", &json!([selector]))? {
            if !wanted.contains(&node) {
                wanted.push(node);
            }
        }
    }
    wanted.retain(|node| seats::seat(run, *node).is_ok_and(|seat| seat.voter));
    match wanted.is_empty() {
        true => Err(JobError::failed("none of these nodes votes; only a voter can be the master")),
        false => Ok(wanted),
    }
}
