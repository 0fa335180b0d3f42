//! Which nodes a job is about: ids, names, `label=value`, `group:g`, `all`.
//!
//! The answer depends on the configuration alone, never on who answers just now: a job that is
//! run again by a new master must ask for the same commands (ruling 10).

use crate::{JobError, Run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tiebeam_core::path::path;

/// What a selector of a group begins with.
const GROUP: &str = "group:";
/// What a parameter that takes nodes says of itself.
pub(crate) const ABOUT: &str = "which nodes: an id, a name, `label=value`, `group:g`, `all`, or a \
                                list of these; all if not given";
/// The same where it must be given.
pub(crate) const SOME: &str =
    "which nodes: an id, a name, `label=value`, `group:g`, `all`, or a list of these";
/// The label that names a node's groups, separated by commas: a node may be in several, which
/// `label=value` cannot say.
const GROUPS: &str = "group";

/// The nodes that the parameter `field` names, in the order of ids; all if it is not given.
pub(crate) fn find_nodes(run: &Run, field: &str) -> Result<Vec<u32>, JobError> {
    match run.param(field) {
        Some(wanted) => resolve(run, field, wanted),
        None => Ok(members(run).into_keys().collect()),
    }
}

/// The nodes that a list of selectors names, in the order of ids; an error names `field`.
pub(crate) fn resolve(run: &Run, field: &str, wanted: &Value) -> Result<Vec<u32>, JobError> {
    let members = members(run);
    let mut chosen = BTreeSet::new();
    for selector in wanted.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let found = matching(&members, selector);
        chosen.extend(found.map_err(|why| JobError::Failed(format!("`{field}`: {why}")))?);
    }
    if chosen.is_empty() {
        let text = format!("`{field}`: the list of nodes is empty");
        return Err(JobError::Failed(text));
    }
    Ok(chosen.into_iter().collect())
}

/// Whether a list of selectors can name one node at most, whatever the configuration says.
pub(crate) fn is_one(wanted: Option<&Value>) -> bool {
    let selectors = wanted.and_then(Value::as_array).map(Vec::as_slice);
    let Some([Value::String(only)]) = selectors else { return false };
    only != "all" && !only.contains('=') && !only.starts_with(GROUP)
}

/// The nodes that the parameter `field` names and that may run commands; a warning names those
/// that may not.
pub(crate) fn select_nodes(run: &Run, field: &str) -> Result<Vec<u32>, JobError> {
    let nodes = find_nodes(run, field)?;
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

/// The nodes that one selector names, or why there are none.
fn matching(members: &BTreeMap<u32, Value>, selector: &str) -> Result<Vec<u32>, String> {
    let shown: String = selector.chars().take(64).collect();
    if selector == "all" {
        return Ok(members.keys().copied().collect());
    }
    let of = |fits: &dyn Fn(&Value) -> bool| -> Vec<u32> {
        members.iter().filter(|(_, entry)| fits(entry)).map(|(id, _)| *id).collect()
    };
    let group = selector.strip_prefix(GROUP);
    let (found, what) = match (group, selector.split_once('=')) {
        (Some(group), _) => (of(&|node| is_in(node, group)), "is in"),
        (None, Some((label, value))) => {
            (of(&|node| node["labels"][label] == value), "has the label")
        }
        (None, None) => match selector.parse::<u32>().ok().filter(|id| members.contains_key(id)) {
            Some(id) => (vec![id], ""),
            None => (of(&|node| node["name"] == selector), "has the id or name"),
        },
    };
    match found.as_slice() {
        [] if group.is_some() => Err(format!(
            "no node {what} {shown:?}; a node is in the groups that its label `{GROUPS}` lists"
        )),
        [] => Err(format!("no node {what} {shown:?}; node_list shows all nodes")),
        _ => Ok(found),
    }
}

/// Whether a node's label lists the group.
fn is_in(node: &Value, group: &str) -> bool {
    let listed = node["labels"][GROUPS].as_str().unwrap_or_default();
    !group.is_empty() && listed.split(',').any(|one| one.trim() == group)
}
