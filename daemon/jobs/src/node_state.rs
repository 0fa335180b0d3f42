//! `node_state`: tells which nodes are online.

use crate::{Job, JobError, Run, nodes};
use serde_json::{Map, Value, json};
use tiebeam_core::declaration::Declaration;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_state",
        group: "cluster",
        summary: "Show which nodes are online",
        description: "Returns `{\"11\": \"online\", …, \"booted\": {\"11\": time}}` as the master \
                      sees it: online, offline, joining (no snapshot yet), or suspended (online, \
                      but runs no commands). node_info tells more of one node.",
        everyone: true,
        ..Declaration::READ
    },
    run: |run| Box::pin(node_state(run)),
};

async fn node_state(run: Run) -> Result<Value, JobError> {
    let mut states = Map::new();
    let mut booted = Map::new();
    for node in nodes::members(&run).into_keys() {
        states.insert(node.to_string(), json!(state_of(&run, node)));
        if let Some(time) = run.world().node_booted(node) {
            booted.insert(node.to_string(), json!(time));
        }
    }
    states.insert("booted".to_owned(), Value::Object(booted));
    Ok(Value::Object(states))
}

/// A node's state in one word.
pub(crate) fn state_of(run: &Run, node: u32) -> &'static str {
    match run.world().node_state(node) {
        "online" if nodes::is_suspended(run, node) => "suspended",
        other => other,
    }
}
