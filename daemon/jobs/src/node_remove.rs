//! `node_remove`: takes a node out of the cluster.

use crate::{Job, JobError, Run, seats};
use serde_json::{Value, json};
use tiebeam_core::State;
use tiebeam_core::declaration::{Declaration, Param, Type};
use tiebeam_core::member::MemberChange;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_remove",
        group: "cluster",
        summary: "Take a node out of the cluster",
        description: "The node loses its seat and its entry in the configuration, and cannot \
                      connect any more; what it has on its disk stays there. Several nodes are \
                      removed one after the other, by a job each. A voter stays if the voters \
                      that would be left could not decide anything, because too few of them \
                      answer: `force` removes it all the same, as long as those that are there \
                      now can decide it. If the node is the master, another voter becomes it \
                      first. The node may join again, with an empty data folder and a new token. \
                      Returns `{nid, voters}`.",
        params: &[
            seats::ONE,
            Param::may("force", Type::Bool, "also if too few voters would be left; false"),
        ],
        examples: &[r#"{"nid": 13}"#, r#"{"nid": ["n12"], "force": true}"#],
        deadline_s: Some(60),
        locks: seats::lock,
        ..Declaration::ACT
    },
    run: |run| Box::pin(node_remove(run)),
};

async fn node_remove(run: Run) -> Result<Value, JobError> {
    let node = seats::one_node(&run)?;
    let seat = seats::seat(&run, node)?;
    let mut voters = run.state().voters().count();
    if seat.voter {
        voters -= 1;
        seats::check_not_last(&run, node)?;
        if !run.flag("force", false) {
            seats::check_quorum_without(&run, node)?;
        }
        seats::leave_to_another(&run, node).await?;
        seats::warn_if_even(&run, voters);
    }
    run.remove(&State::node_path(node))?;
    run.change_member(MemberChange::Remove { node, raft_id: seat.raft_id });
    Ok(json!({"nid": node, "voters": voters}))
}
