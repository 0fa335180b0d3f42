//! `node_promote`: makes a learner a voter.

use crate::{Job, JobError, Run, seats};
use serde_json::{Value, json};
use tiebeam_core::State;
use tiebeam_core::declaration::{Declaration, Param};
use tiebeam_core::member::MemberChange;

/// Milliseconds between two looks at how far the node is.
const LOOK_EVERY_MS: u64 = 200;
/// Looks before the job gives up: a minute.
const LOOKS_MAX: u32 = 300;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_promote",
        group: "cluster",
        summary: "Make a learner a voter",
        description: "The node gets the role voter and votes from then on. It must be online and \
                      have caught up with the master; the job waits up to a minute for that. At \
                      most 7 nodes vote; an odd number is best, because an even one tolerates no \
                      more failures than one voter less. Returns `{nid, voters}`.",
        params: &[Param { about: "which learner: its id or name", ..seats::ONE }],
        examples: &[r#"{"nid": 13}"#],
        deadline_s: Some(120),
        locks: seats::lock,
        ..Declaration::ACT
    },
    run: |run| Box::pin(node_promote(run)),
};

async fn node_promote(run: Run) -> Result<Value, JobError> {
    let node = seats::one_node(&run)?;
    let seat = seats::seat(&run, node)?;
    let voters = run.state().voters().count();
    if seat.voter {
        let text = format!("node {node} is a voter already");
        return Err(JobError::Failed(text));
    }
    if voters >= seats::VOTERS_MAX {
        let text = format!("there are {voters} voters, as many as can be; node_demote one first");
        return Err(JobError::Failed(text));
    }
    wait_until_caught_up(&run, node).await?;
    seats::warn_if_even(&run, voters + 1);
    run.set(&State::node_path(node).child("role"), json!("voter"))?;
    run.change_member(MemberChange::Promote { node, raft_id: seat.raft_id });
    Ok(json!({"nid": node, "voters": voters + 1}))
}

/// A voter that is behind would hold the others up: it counts for a majority and cannot answer.
async fn wait_until_caught_up(run: &Run, node: u32) -> Result<(), JobError> {
    for _ in 0..LOOKS_MAX {
        match run.world().node_state(node) {
            "online" if run.world().caught_up(node) => return Ok(()),
            "online" | "joining" => run.world().pause(LOOK_EVERY_MS).await,
            _ => return Err(JobError::Failed(format!("node {node} is offline"))),
        }
    }
    Err(JobError::Failed(format!("node {node} has not caught up; node_info shows how far it is")))
}
