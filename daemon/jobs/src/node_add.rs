//! `node_add`: adds a node that has presented a token.
//!
//! The node's key comes with its own request to join, never from a caller: the listed declaration
//! has no parameter for it, [`NODE_JOIN`] has, and only the endpoint that checks tokens runs that.

use crate::error::within;
use crate::{Job, JobError, Run, seats};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tiebeam_core::State;
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::member::{JoinToken, MemberChange};
use tiebeam_core::proposal::Write;
use tiebeam_proto::RpcError;

const NID: Param = Param::may("nid", Type::Int, "the node's id, 1 to 65535; the next free one");
const NAME: Param = Param::must("name", Type::Line, "the node's name: letters, digits, - and .");
const ADDRESS: Param =
    Param::must("address", Type::Line, "HOST:PORT at which clients and members reach it");
const ROLE: Param = Param::may("role", Type::Line, "voter or learner; as the token says");

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_add",
        group: "cluster",
        summary: "Add a node that has presented a token",
        description: "Runs by itself, in the name of the token's issuer, when a node joins: make \
                      a token with `node_token` and run `tiebeamd join` on the new machine. \
                      Started by hand it fails, because a node's key comes from the node alone. \
                      The node is a learner at first and votes, if that is its role, when it has \
                      caught up. By joining alone a cluster gets 3 voters; further nodes stay \
                      learners unless the role says otherwise. Returns `{nid, role}`.",
        params: &[NID, NAME, ADDRESS.or(&["priv_net"]), seats::PRIV_NET, ROLE],
        examples: &[r#"{"nid": 14, "name": "n14", "address": "127.0.0.14:20003"}"#],
        deadline_s: Some(60),
        locks: seats::lock,
        precheck: check,
        ..Declaration::ACT
    },
    run: |run| Box::pin(node_add(run)),
};

/// The same job with what the endpoint knows of the node.
pub static NODE_JOIN: Job = Job {
    declaration: Declaration {
        params: &[
            NID,
            NAME,
            ADDRESS,
            ROLE,
            Param::must("token_id", Type::Line, "the id of the token that was presented"),
            Param::must("key_hash", Type::Line, "SHA-256 of the node's public key"),
        ],
        examples: &[r#"{"nid": 14, "name": "n14", "address": "127.0.0.14:20003",
            "token_id": "0a1b2c3d4e5f", "key_hash": "sha256:00"}"#],
        ..JOB.declaration
    },
    run: JOB.run,
};

fn check(params: &Params) -> Result<(), RpcError> {
    within(params, "nid", 1..=seats::NODE_ID_MAX)?;
    seats::check_entry(params)
}

async fn node_add(run: Run) -> Result<Value, JobError> {
    let state = run.state();
    let (Some(token_id), Some(key_hash)) = (run.text("token_id"), run.text("key_hash")) else {
        return Err(JobError::failed(
            "no node has presented a token: make one with node_token and run `tiebeamd join` on \
             the new machine, which starts this job by itself",
        ));
    };
    let token = token(&state, token_id, key_hash)?;
    let entries = seats::entries(&run);
    let node = node_id(&run, token, &entries)?;
    if let Some(member) = state.members.get(&node) {
        if member.key_hash == key_hash {
            return Ok(json!({"nid": node, "role": entries.get(&node).map(|e| &e["role"])}));
        }
        let text = format!("node {node} is a member already, with another key; node_remove it");
        return Err(JobError::Failed(text));
    }
    if token.used_by.is_some() {
        let text = "the node was removed since it joined with this token; make another one";
        return Err(JobError::Declined(text.to_owned()));
    }
    if state.members.values().any(|member| member.key_hash == key_hash) {
        return Err(JobError::failed("another node has this key; a node makes its own"));
    }
    let (name, address) = (run.text("name").unwrap_or(""), run.text("address").unwrap_or(""));
    seats::check_unique(&entries, node, "name", name)?;
    seats::check_unique(&entries, node, "address", address)?;
    let role = role(&run, token, &entries)?;
    run.set(
        &State::node_path(node),
        json!({
            "id": node,
            "name": name,
            "address": address,
            "role": role,
            "labels": {},
            "affinity": 1,
            "added": run.world().now(),
        }),
    )?;
    let (id, key_hash) = (token_id.to_owned(), key_hash.to_owned());
    run.write(Write::JoinTokenUsed { id, key_hash: key_hash.clone() });
    let raft_id = state.next_raft_id(node);
    run.change_member(MemberChange::Add { node, raft_id, key_hash });
    Ok(json!({"nid": node, "role": role}))
}

fn token<'a>(state: &'a State, id: &str, key_hash: &str) -> Result<&'a JoinToken, JobError> {
    let token = state.join_tokens.get(id).filter(|token| {
        state.clock_us < token.expires_us
            && token.used_by.as_ref().is_none_or(|user| user == key_hash)
    });
    token.ok_or_else(|| {
        JobError::Declined("the token was used by another node, or has expired".to_owned())
    })
}

/// The id that was asked for, or the next free one.
fn node_id(run: &Run, token: &JoinToken, entries: &BTreeMap<u32, Value>) -> Result<u32, JobError> {
    let asked = run.int("nid").and_then(|nid| u32::try_from(nid).ok());
    if let (Some(asked), Some(meant)) = (asked, token.node)
        && asked != meant
    {
        let text = format!("the token is for node {meant}, not for node {asked}");
        return Err(JobError::Declined(text));
    }
    let next = || entries.keys().next_back().map_or(1, |last| last.saturating_add(1));
    let node = asked.or(token.node).unwrap_or_else(next);
    if i64::from(node) > seats::NODE_ID_MAX {
        return Err(JobError::failed("there is no free id above the last one; give `nid`"));
    }
    Ok(node)
}

fn role(
    run: &Run,
    token: &JoinToken,
    entries: &BTreeMap<u32, Value>,
) -> Result<&'static str, JobError> {
    let voters = seats::voters_meant(entries);
    let asked = run.text("role").map(str::to_owned);
    let role = match (asked, token.role.clone()) {
        (Some(asked), Some(meant)) if asked != meant => {
            return Err(JobError::Declined(format!("the token is for a {meant}")));
        }
        (asked, meant) => asked.or(meant),
    };
    let votes = match role {
        Some(role) => role == "voter",
        None => voters < seats::VOTERS_BY_JOINING,
    };
    if votes && voters >= seats::VOTERS_MAX {
        let text = format!("there are {voters} voters, as many as can be; let it be a learner");
        return Err(JobError::Failed(text));
    }
    if !votes && entries.len() - voters >= seats::LEARNERS_MAX {
        let text = format!("there are {} learners, as many as can be", seats::LEARNERS_MAX);
        return Err(JobError::Failed(text));
    }
    if votes {
        seats::warn_if_even(run, voters + 1);
    }
    Ok(if votes { "voter" } else { "learner" })
}
