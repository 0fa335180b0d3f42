//! `node_modify`: changes a node's address and its affinity to be the master.

use crate::error::{invalid, within};
use crate::{Job, JobError, Run, seats};
use serde_json::{Value, json};
use tiebeam_core::State;
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_proto::RpcError;

/// The largest affinity: it is a rank among a handful of nodes, no measure.
const AFFINITY_MAX: i64 = 1000;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_modify",
        group: "cluster",
        summary: "Change a node's address or its affinity",
        description: "`affinity`: the voter with the highest one that has caught up is preferred \
                      in elections and hand-overs, and gets the master's place once it has been \
                      steady for 20 election timeouts (20 s); 1 from the start. With 0 a node \
                      never becomes the master, and hands it over if it is. At least one voter \
                      must have more than 0. `address` is where clients and members reach the \
                      node: change its own settings file first, so that it listens there, and see \
                      that its certificate covers the host. Returns the node's entry.",
        params: &[
            seats::ONE,
            Param::may("affinity", Type::Int, "0 to 1000; 0: never the master"),
            Param::may("address", Type::Line, "HOST:PORT at which others reach it")
                .or(&["priv_net"]),
            seats::PRIV_NET,
        ],
        examples: &[
            r#"{"nid": 13, "affinity": 0}"#,
            r#"{"nid": "n12", "address": "10.0.0.12:20003"}"#,
        ],
        locks: seats::lock,
        precheck: check,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(node_modify(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    within(params, "affinity", 0..=AFFINITY_MAX)?;
    if !["affinity", "address", "priv_net"].iter().any(|name| params.contains_key(*name)) {
        let error = invalid("affinity", "there is nothing to change");
        return Err(error.hint("give `affinity` or `address`"));
    }
    seats::check_entry(params)
}

async fn node_modify(run: Run) -> Result<Value, JobError> {
    let node = seats::one_node(&run)?;
    let entries = seats::entries(&run);
    let at = State::node_path(node);
    if let Some(affinity) = run.int("affinity") {
        let able = |(id, entry): (&u32, &Value)| {
            *id != node && entry["role"] == "voter" && entry["affinity"] != 0
        };
        if affinity == 0 && !entries.iter().any(able) {
            let text = "no voter could become the master: every other one has affinity 0";
            return Err(JobError::Declined(text.to_owned()));
        }
        run.set(&at.child("affinity"), json!(affinity))?;
    }
    if let Some(address) = run.text("address").or_else(|| run.text("priv_net")) {
        seats::check_unique(&entries, node, "address", address)?;
        run.set(&at.child("address"), json!(address))?;
    }
    Ok(run.get(&at).unwrap_or_default())
}
