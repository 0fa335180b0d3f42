//! Who sits in the raft group, and which change of it the others survive.
//!
//! The rules that the jobs on members share: one node at a time, at most so many of each kind,
//! never without a majority that answers. What can be done at all is decided in apply (ruling 20);
//! what is wise is decided here, on the State that the job was given. Nothing here changes
//! anything.

use crate::error::invalid;
use crate::{JobError, Run, nodes};
use serde_json::Value;
use std::collections::BTreeMap;
use tiebeam_core::declaration::{Param, Params, Type};
use tiebeam_core::lock::Lock;
use tiebeam_core::path::path;
use tiebeam_core::state::Member;
use tiebeam_proto::RpcError;

/// Voters at most: every entry waits for a majority of them.
pub(crate) const VOTERS_MAX: usize = 7;
/// Learners at most: each costs the master one stream (ruling 43).
pub(crate) const LEARNERS_MAX: usize = 64;
/// Voters that a cluster gets by joining alone: more are asked for by name (ruling 20).
pub(crate) const VOTERS_BY_JOINING: usize = 3;
/// Largest id of a node: a raft id has 48 bits for it, a certificate's name less.
pub(crate) const NODE_ID_MAX: i64 = 0xffff;

/// What the parameter for one node says of itself.
pub(crate) const ONE: Param = Param::must("nid", Type::Nodes, "which node: its id or name");

/// ConfD's name of the parameter `address` (ruling 47).
pub(crate) const PRIV_NET: Param =
    Param::may("priv_net", Type::Line, "the same as `address`, by the name that ConfD has");

/// Changes of members wait for each other.
pub(crate) fn lock(_: &Params) -> Vec<Lock> {
    vec![Lock::write("nodes")]
}

/// The one node that `nid` names. The nodes' entries are remembered as read.
pub(crate) fn one_node(run: &Run) -> Result<u32, JobError> {
    run.get(&path(&["nodes"]));
    match nodes::find_nodes(run, "nid")?.as_slice() {
        [node] => Ok(*node),
        many => Err(JobError::Failed(format!(
            "this would change {}: members are changed one after the other, by a job each",
            nodes::listed(many)
        ))),
    }
}

/// The configuration's entries of all nodes, by id; remembered as read.
pub(crate) fn entries(run: &Run) -> BTreeMap<u32, Value> {
    run.get(&path(&["nodes"]));
    nodes::members(run)
}

/// A node's seat.
pub(crate) fn seat(run: &Run, node: u32) -> Result<Member, JobError> {
    let state = run.state();
    state.members.get(&node).cloned().ok_or_else(|| {
        JobError::Failed(format!("node {node} is no member of the cluster; node_list shows them"))
    })
}

/// Nodes that vote, or will once they have caught up.
pub(crate) fn voters_meant(entries: &BTreeMap<u32, Value>) -> usize {
    entries.values().filter(|entry| entry["role"] == "voter").count()
}

/// Refuses to let a voter go when those that stay could not decide anything right after it.
pub(crate) fn check_quorum_without(run: &Run, node: u32) -> Result<(), JobError> {
    let state = run.state();
    let left: Vec<u32> = state.voters().map(|(id, _)| id).filter(|id| *id != node).collect();
    check_majority(run, &left)
}

/// Refuses if of these voters no majority answers.
pub(crate) fn check_majority(run: &Run, left: &[u32]) -> Result<(), JobError> {
    let online = left.iter().filter(|id| run.world().node_state(**id) == "online").count();
    if online > left.len() / 2 {
        return Ok(());
    }
    Err(JobError::Declined(format!(
        "of the {} voters that would be left {online} answer, which is no majority",
        left.len()
    )))
}

/// Refuses to let the last voter go: that cannot be forced.
pub(crate) fn check_not_last(run: &Run, node: u32) -> Result<(), JobError> {
    if run.state().voters().any(|(other, _)| other != node) {
        return Ok(());
    }
    Err(JobError::Declined(format!("node {node} is the only voter: a cluster has at least one")))
}

/// Leaves the master's place, if it is this node's: the job goes on on the new master, and what
/// this run comes to is lost.
pub(crate) async fn leave_to_another(run: &Run, node: u32) -> Result<(), JobError> {
    if run.world().master().0 != node {
        return Ok(());
    }
    run.world().progress(10, "another voter becomes the master first");
    run.world().hand_over(&[]).await?;
    Err(JobError::failed("the job goes on on the new master"))
}

/// Warns of an even number of voters, which is for a transit only.
pub(crate) fn warn_if_even(run: &Run, voters: usize) {
    if voters.is_multiple_of(2) {
        let text = format!(
            "even voters: {voters} tolerate no more failures than {}",
            voters.saturating_sub(1)
        );
        run.warn(text);
    }
}

/// Whether a text can be a node's name: it goes into certificates as a DNS name.
fn is_node_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (1..=63).contains(&name.len()) && name.chars().all(fits) && !name.starts_with(['-', '.'])
}

/// Whether a text is `HOST:PORT`; an IPv6 address in brackets.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.len() <= 253 && host.split('.').all(is_node_name),
    };
    host_fits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Refuses what cannot be a node's name, address or role; what is not given passes.
pub(crate) fn check_entry(params: &Params) -> Result<(), RpcError> {
    let text = |name: &str| params.get(name).and_then(Value::as_str);
    if text("name").is_some_and(|name| !is_node_name(name)) {
        return Err(invalid("name", "`name` must have 1 to 63 letters, digits, dots or dashes"));
    }
    for name in ["address", PRIV_NET.name] {
        if text(name).is_some_and(|address| !is_address(address)) {
            let must = format!("`{name}` must be HOST:PORT, as others reach the node");
            let hint = "for example 10.0.0.12:20003 or [fd00::12]:20003";
            return Err(invalid(name, must).hint(hint));
        }
    }
    if text("role").is_some_and(|role| !["voter", "learner"].contains(&role)) {
        return Err(invalid("role", "`role` must be voter or learner"));
    }
    Ok(())
}

/// Refuses a name or an address that another node has.
pub(crate) fn check_unique(
    entries: &BTreeMap<u32, Value>,
    node: u32,
    field: &str,
    value: &str,
) -> Result<(), JobError> {
    let other = entries.iter().find(|(id, entry)| **id != node && entry[field] == value);
    match other {
        Some((id, _)) => Err(JobError::Failed(format!("the {field} {value} belongs to node {id}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_what_certificates_and_sockets_take() {
        for good in ["127.0.0.12:20003", "n12.example:1", "[fd00::12]:20003", "n12:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "n12", "n12:0", "n12:65536", ":1", "a b:1", "fd00::12:1", "[x]:1", "n:-1"] {
            assert!(!is_address(bad), "{bad}");
        }
        assert!(
            is_node_name("n12") && !is_node_name("") && !is_node_name("-n") && !is_node_name("a_b")
        );
    }
}
