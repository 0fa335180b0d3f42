//! `node_token`: makes a token with which one node may join.

use crate::error::within;
use crate::{Job, JobError, Run, seats};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::member::JoinToken;
use tiebeam_core::path::path;
use tiebeam_core::proposal::Write;
use tiebeam_proto::RpcError;
use tiebeam_proto::time::Time;

/// Seconds that a token is good, if the caller does not say: long enough to log in over there.
const TTL_S: u64 = 3600;
/// Seconds that a token is good at most: a week, for machines that are still on their way.
const TTL_S_MAX: u64 = 7 * 24 * 3600;
/// Tokens that are good at once: State holds them.
const TOKENS_MAX: usize = 256;
/// Digits of the authority's fingerprint in a token: 128 bits, which nobody matches by chance.
const FINGERPRINT_DIGITS: usize = 32;
/// Digits of a token's id.
const ID_DIGITS: usize = 12;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_token",
        group: "cluster",
        summary: "Make a token with which one node may join",
        description: "Returns `{id, token, join, expires}`: `join` is the line to run on the new \
                      machine, with your own words in the place of the capital ones. The token is \
                      shown to you alone, for 10 minutes; only its hash is kept. It is good for \
                      one node, once, until it expires, and carries the fingerprint of the \
                      cluster's authority, so that the node knows whom it joins. The node joins \
                      as a job `node_add` of yours.",
        params: &[
            Param::may("role", Type::Line, "voter or learner; else voter up to 3, then learner"),
            Param::may("ttl_s", Type::Int, "seconds it is good, at most 604800; 3600"),
            Param::may("nid", Type::Int, "the id that the node must have; any if not given"),
        ],
        examples: &[r#"{}"#, r#"{"nid": 14, "role": "learner", "ttl_s": 600}"#],
        precheck: check,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(node_token(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    within(params, "ttl_s", 1..=TTL_S_MAX.cast_signed())?;
    within(params, "nid", 1..=seats::NODE_ID_MAX)?;
    seats::check_entry(params)
}

async fn node_token(run: Run) -> Result<Value, JobError> {
    let state = run.state();
    let node = run.int("nid").and_then(|nid| u32::try_from(nid).ok());
    if let Some(node) = node.filter(|node| state.members.contains_key(node)) {
        let text = format!("node {node} is a member already; node_remove it before it joins anew");
        return Err(JobError::Failed(text));
    }
    if state.join_tokens.len() >= TOKENS_MAX {
        let text = format!("{TOKENS_MAX} tokens are good already; wait until some expire");
        return Err(JobError::Failed(text));
    }
    let fingerprint = run.world().ca_fingerprint()?;
    let fingerprint = fingerprint.get(..FINGERPRINT_DIGITS).unwrap_or(&fingerprint);
    let id = token_id(&run);
    let form = format!("tbj1.{id}.{{}}.{fingerprint}");
    let hash = run.derived_text("token", "join", &id, &form);
    run.derived_text("join", "join", &id, &join_line(&run, node, &form));
    let ttl_s = run.int("ttl_s").and_then(|ttl| u64::try_from(ttl).ok()).unwrap_or(TTL_S);
    let token = JoinToken {
        hash,
        issuer: run.caller().to_owned(),
        role: run.text("role").map(str::to_owned),
        node,
        expires_us: ttl_s.saturating_mul(1_000_000),
        used_by: None,
    };
    run.write(Write::JoinToken { id: id.clone(), token });
    let lasts_us = i64::try_from(ttl_s).unwrap_or_default().saturating_mul(1_000_000);
    let expires = Time(run.world().now().0.saturating_add(lasts_us));
    let withheld = json!({"secret": "withheld"});
    Ok(json!({"id": id, "token": withheld, "join": withheld, "expires": expires}))
}

/// An id that follows from the job's nonce: the same when the job is planned again, and new for
/// the next one.
fn token_id(run: &Run) -> String {
    let hash = run.world().derive("join id", "").hash;
    hash.get(..ID_DIGITS).unwrap_or(&hash).to_owned()
}

/// The line for the new machine. The token goes in by standard input: what stands among a
/// program's arguments, everyone on the machine can read.
fn join_line(run: &Run, node: Option<u32>, token: &str) -> String {
    let (master, _) = run.world().master();
    let at = path(&["nodes", &master.to_string(), "address"]);
    let address = run.state().config.value(&at);
    let address = address.as_ref().and_then(Value::as_str).unwrap_or("MASTER:PORT");
    let node = node.map_or_else(|| "ID".to_owned(), |node| node.to_string());
    format!(
        "echo {token} | tiebeamd join --data DIR --node-id {node} --name NAME \
         --listen ADDRESS:PORT --master {address} --token -"
    )
}
