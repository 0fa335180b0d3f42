//! `node_remove`: takes nodes out of the cluster.
//!
//! One change of the raft group is one job (ruling 43): a revision has one job that explains it.
//! So one node is removed by this job itself, several by parts of it, each a job of its own with
//! its own lock, record and end; what this job then tells of each node is what that one came to.

use crate::batch::{self, Batches, End};
use crate::world::Part;
use crate::{Job, JobError, Run, nodes, seats};
use serde_json::{Map, Value, json};
use tiebeam_core::State;
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::lock::Lock;
use tiebeam_core::member::MemberChange;
use tiebeam_proto::Outcome;

/// The key under which the nodes are recorded, in the order in which they go.
const ORDER: &str = "order";
/// Seconds that one removal may take.
const ONE_S: u64 = 60;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_remove",
        group: "cluster",
        summary: "Take nodes out of the cluster",
        description: "The node loses its seat and its entry in the configuration, and cannot \
                      connect any more; what it has on its disk stays there. A voter stays if the \
                      voters that would be left could not decide anything, because too few of \
                      them answer: `force` removes it all the same, as long as those that are \
                      there now can decide it. If the node is the master, another voter becomes \
                      it first. The node may join again, with an empty data folder and a new \
                      token. Returns `{nid, voters}`.\n\nSeveral nodes, or a selector that may \
                      name several, are removed one after the other, the master last, each by a \
                      job of its own; before the first one it is checked that the voters left \
                      after each step can decide. The first one that is not removed ends it, and \
                      so do cancel and deadline: nodes that were removed stay removed. Returns \
                      for each node `{result, job, voters}`, with `not_run` for those that were \
                      not tried.",
        params: &[
            Param { about: nodes::SOME, ..seats::ONE },
            Param::may("force", Type::Bool, "also if too few voters would be left; false"),
        ],
        examples: &[
            r#"{"nid": 13}"#,
            r#"{"nid": ["n12"], "force": true}"#,
            r#"{"nid": ["n12", 13]}"#,
        ],
        deadline_s: Some(900),
        locks,
        ..Declaration::ACT
    },
    run: |run| Box::pin(node_remove(run)),
};

/// A job that leaves the removing to its parts must not stand in their way.
fn locks(params: &Params) -> Vec<Lock> {
    match nodes::is_one(params.get("nid")) {
        true => seats::lock(params),
        false => Vec::new(),
    }
}

async fn node_remove(run: Run) -> Result<Value, JobError> {
    match nodes::is_one(run.param("nid")) {
        true => remove(&run).await,
        false => remove_each(&run).await,
    }
}

async fn remove(run: &Run) -> Result<Value, JobError> {
    let node = seats::one_node(run)?;
    let seat = seats::seat(run, node)?;
    let mut voters = run.state().voters().count();
    if seat.voter {
        voters -= 1;
        seats::check_not_last(run, node)?;
        if !run.flag("force", false) {
            seats::check_quorum_without(run, node)?;
        }
        seats::leave_to_another(run, node).await?;
        seats::warn_if_even(run, voters);
    }
    run.remove(&State::node_path(node))?;
    run.change_member(MemberChange::Remove { node, raft_id: seat.raft_id });
    Ok(json!({"nid": node, "voters": voters}))
}

async fn remove_each(run: &Run) -> Result<Value, JobError> {
    let force = run.flag("force", false);
    let nodes = decide(run, force).await?;
    let one_by_one = Batches { size: 1, failures_max: 1 };
    batch::on_nodes(run, &nodes, one_by_one, |node| {
        let run = run.clone();
        Box::pin(async move { remove_part(&run, node, force).await })
    })
    .await
}

/// The nodes in the order in which they go. They are checked and recorded before the first part
/// begins; a run on another master goes on with what is recorded: nodes are gone or going by then,
/// and who is the master or answers is not what it was.
async fn decide(run: &Run, force: bool) -> Result<Vec<u32>, JobError> {
    let order = match run.world().recorded(ORDER) {
        Some(order) => order,
        None => {
            let nodes = in_order(run, nodes::find_nodes(run, "nid")?);
            check_steps(run, &nodes, force)?;
            run.world().record(ORDER, json!(nodes)).await?
        }
    };
    serde_json::from_value(order)
        .map_err(|_| JobError::failed("what is recorded of this job is no list of nodes"))
}

/// Learners first, then voters that do not answer, and the master last: it hands its place over
/// once, to a node that stays.
fn in_order(run: &Run, mut nodes: Vec<u32>) -> Vec<u32> {
    let state = run.state();
    let (master, _) = run.world().master();
    nodes.sort_by_key(|node| {
        let votes = state.members.get(node).is_some_and(|member| member.voter);
        (*node == master, votes, run.world().node_state(*node) == "online", *node)
    });
    nodes
}

/// Refuses the whole if the voters that are left after one of the steps could not decide the next.
fn check_steps(run: &Run, nodes: &[u32], force: bool) -> Result<(), JobError> {
    let mut left: Vec<u32> = run.state().voters().map(|(node, _)| node).collect();
    let votes = |node: &u32| run.state().members.get(node).is_some_and(|member| member.voter);
    for node in nodes.iter().filter(|node| votes(node)) {
        left.retain(|voter| voter != node);
        if left.is_empty() {
            let text = "these are all voters: a cluster has at least one";
            return Err(JobError::Declined(text.to_owned()));
        }
        if !force {
            seats::check_majority(run, &left)?;
        }
    }
    Ok(())
}

/// Removes one node by a job of its own and tells what that came to.
async fn remove_part(run: &Run, node: u32, force: bool) -> End {
    let params = json!({"nid": [node.to_string()], "force": force});
    let part = Part {
        job: "node_remove",
        params: params.as_object().cloned().unwrap_or_else(Map::new),
        key: format!("remove-n{node}"),
        deadline_s: ONE_S,
    };
    let record = match run.world().part(part).await {
        Ok(record) => record,
        Err(error) => return End::of(&Err(error)),
    };
    let ended = record.outcome.unwrap_or(Outcome::Indeterminate);
    let mut output = json!({"result": ended.name(), "job": record.job});
    if let Some(returned) = &record.result.result_output {
        output["voters"] = returned["voters"].clone();
    }
    let why = record.result.result_desc.clone().unwrap_or_default();
    if ended != Outcome::Ok {
        output["error"] = json!(why);
    }
    match ended {
        // That somebody cancelled the part, or its time was over, is so of the part alone.
        Outcome::Cancelled | Outcome::Timeout => {
            let why = format!("its job {}: {why}", record.job);
            End { output, outcome: Outcome::Failed, why, last: false }
        }
        outcome => End { output, outcome, why, last: false },
    }
}
