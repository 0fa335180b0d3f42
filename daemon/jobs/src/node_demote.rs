//! `node_demote`: makes a voter a learner.

use crate::{Job, JobError, Run, seats};
use serde_json::{Value, json};
use tiebeam_core::State;
use tiebeam_core::declaration::{Declaration, Param};
use tiebeam_core::member::MemberChange;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_demote",
        group: "cluster",
        summary: "Make a voter a learner",
        description: "The node gets the role learner: it follows and serves, and votes no more. \
                      Refused if the voters that would be left could not decide anything, because \
                      too few of them answer. If the node is the master, another voter becomes it \
                      first. Returns `{nid, voters}`.",
        params: &[Param { about: "which voter: its id or name", ..seats::ONE }],
        examples: &[r#"{"nid": 13}"#],
        deadline_s: Some(60),
        locks: seats::lock,
        ..Declaration::ACT
    },
    run: |run| Box::pin(node_demote(run)),
};

async fn node_demote(run: Run) -> Result<Value, JobError> {
    let node = seats::one_node(&run)?;
    let seat = seats::seat(&run, node)?;
    let state = run.state();
    if !seat.voter {
        let role = State::node_path(node).child("role");
        if run.get(&role) == Some(json!("voter")) {
            // It has not caught up yet; now it will not be made a voter when it has.
            run.set(&role, json!("learner"))?;
            return Ok(json!({"nid": node, "voters": state.voters().count()}));
        }
        return Err(JobError::Failed(format!("node {node} is a learner already")));
    }
    let learners = state.members.len() - state.voters().count();
    if learners >= seats::LEARNERS_MAX {
        return Err(JobError::Failed(format!("there are {learners} learners, as many as can be")));
    }
    seats::check_not_last(&run, node)?;
    seats::check_quorum_without(&run, node)?;
    seats::leave_to_another(&run, node).await?;
    let voters = state.voters().count() - 1;
    seats::warn_if_even(&run, voters);
    run.set(&State::node_path(node).child("role"), json!("learner"))?;
    run.change_member(MemberChange::Demote { node, raft_id: seat.raft_id });
    Ok(json!({"nid": node, "voters": voters}))
}
