//! Which nodes a job is about: ids, names, `label=value`, `all`.
//!
//! The answer depends on the configuration alone, never on who answers just now: a job that is
//! run again by a new master must ask for the same commands (ruling 10).

use crate::{JobError, Run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tiebeam_core::path::path;

/// What a parameter that takes nodes says of itself.
pub(crate) const ABOUT: &str =
    "which nodes: an id, a name, `label=value`, `all`, or a list of these; all if not given";

/// The nodes that `wanted` names, in the order of ids; all if it is not given.
pub(crate) fn find_nodes(run: &Run, wanted: Option<&Value>) -> Result<Vec<u32>, JobError> {
    let members = members(run);
    let Some(wanted) = wanted else { return Ok(members.into_keys().collect()) };
    let mut chosen = BTreeSet::new();
    for selector in wanted.as_array().into_iter().flatten().filter_map(Value::as_str) {
        chosen.extend(matching(&members, selector)?);
    }
    if chosen.is_empty() {
        return Err(JobError::failed("the list of nodes is empty; leave it out for all nodes"));
    }
    Ok(chosen.into_iter().collect())
}

/// The nodes that `wanted` names and that may run commands; a warning names those that may not.
pub(crate) fn select_nodes(run: &Run, wanted: Option<&Value>) -> Result<Vec<u32>, JobError> {
    let nodes = find_nodes(run, wanted)?;
    let (suspended, active): (Vec<u32>, Vec<u32>) =
        nodes.into_iter().partition(|node| is_suspended(run, *node));
    if active.is_empty() {
        let text = format!("{} suspended and runs no commands", be(&suspended));
        return Err(JobError::Failed(text));
    }
    if !suspended.is_empty() {
        run.warn(format!("skipped: {} suspended and runs no commands", be(&suspended)));
    }
    Ok(active)
}

/// Whether the configuration says that a node is suspended.
pub(crate) fn is_suspended(run: &Run, node: u32) -> bool {
    let at = tiebeam_core::State::node_path(node).child("suspended");
    run.state().config.value(&at) == Some(Value::Bool(true))
}

/// The configuration's entries of all nodes, by id.
pub(crate) fn members(run: &Run) -> BTreeMap<u32, Value> {
    let nodes = run.state().config.value(&path(&["nodes"]));
    let nodes = nodes.as_ref().and_then(Value::as_object).into_iter().flatten();
    nodes.filter_map(|(id, entry)| Some((id.parse().ok()?, entry.clone()))).collect()
}

/// Nodes in words: `node 11` or `nodes 11, 12`.
pub(crate) fn listed(nodes: &[u32]) -> String {
    let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let word = if ids.len() == 1 { "node" } else { "nodes" };
    format!("{word} {}", ids.join(", "))
}

fn be(nodes: &[u32]) -> String {
    let verb = if nodes.len() == 1 { "is" } else { "are each" };
    format!("{} {verb}", listed(nodes))
}

fn matching(members: &BTreeMap<u32, Value>, selector: &str) -> Result<Vec<u32>, JobError> {
    let shown: String = selector.chars().take(64).collect();
    if selector == "all" {
        return Ok(members.keys().copied().collect());
    }
    if selector.starts_with("group:") {
        let text = format!("{shown:?}: groups of nodes are not in this version; use a label");
        return Err(JobError::Failed(text));
    }
    let of = |fits: &dyn Fn(&Value) -> bool| -> Vec<u32> {
        members.iter().filter(|(_, entry)| fits(entry)).map(|(id, _)| *id).collect()
    };
    let (found, what) = match selector.split_once('=') {
        Some((label, value)) => (of(&|node| node["labels"][label] == value), "has the label"),
        None => match selector.parse::<u32>().ok().filter(|id| members.contains_key(id)) {
            Some(id) => (vec![id], ""),
            None => (of(&|node| node["name"] == selector), "has the id or name"),
        },
    };
    if found.is_empty() {
        let text = format!("no node {what} {shown:?}; node_list shows all nodes");
        return Err(JobError::Failed(text));
    }
    Ok(found)
}
