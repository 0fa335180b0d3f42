//! `cluster_info`: the cluster in one answer.

use crate::{Job, JobError, Run};
use serde_json::{Map, Value, json};
use tiebeam_core::declaration::Declaration;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "cluster_info",
        group: "cluster",
        summary: "Show the cluster: master, members, revision, health",
        description: "Returns `{name, id, incarnation, feature_level, master, term, revision, \
                      members, health, versions, even_voters}`: `members` is each node's role, \
                      voter or learner, `versions` each node's version where it is known. \
                      `even_voters` is true for an even number of voters, which tolerates no more \
                      failures than one voter less and is for a transit only.",
        everyone: true,
        ..Declaration::READ
    },
    run: |run| Box::pin(cluster_info(run)),
};

async fn cluster_info(run: Run) -> Result<Value, JobError> {
    let state = run.state();
    let (master, term) = run.world().master();
    let mut members = Map::new();
    let mut versions = Map::new();
    for (node, member) in &state.members {
        let role = if member.voter { "voter" } else { "learner" };
        members.insert(node.to_string(), json!(role));
        if let Some(version) = run.world().node_facts(*node).get("version") {
            versions.insert(node.to_string(), version.clone());
        }
    }
    let voters = state.members.values().filter(|member| member.voter).count();
    if voters % 2 == 0 {
        run.warn(format!("even voters: {voters} tolerate no more failures than {}", voters - 1));
    }
    Ok(json!({
        "name": state.cluster.name,
        "id": state.cluster.id,
        "incarnation": state.cluster.incarnation,
        "feature_level": state.feature_level,
        "master": master,
        "term": term,
        "revision": state.revision,
        "members": members,
        "health": run.world().health(),
        "versions": versions,
        "even_voters": voters.is_multiple_of(2),
    }))
}
