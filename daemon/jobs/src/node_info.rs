//! `node_info`: everything known of a node.

use super::node_state::state_of;
use crate::{Job, JobError, Run, nodes};
use serde_json::{Map, Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_info",
        group: "cluster",
        summary: "Show everything known of a node",
        description: "Returns what the configuration says of the node (id, name, address, role, \
                      labels, affinity), its state, and what it last reported: applied index and \
                      revision, lag, version, uptime, load, disk, expiry of its certificate. Of a \
                      node that is offline it is what was known last. With several nodes: one \
                      such entry each, by id.",
        params: &[Param::must("nid", Type::Nodes, nodes::SOME)],
        examples: &[r#"{"nid": 11}"#, r#"{"nid": ["n11", "n12"]}"#],
        ..Declaration::READ
    },
    run: |run| Box::pin(node_info(run)),
};

async fn node_info(run: Run) -> Result<Value, JobError> {
    let members = nodes::members(&run);
    let mut told: Vec<(u32, Value)> = Vec::new();
    for node in nodes::find_nodes(&run, "nid")? {
        let mut entry = match run.world().node_facts(node) {
            Value::Object(facts) => facts,
            _ => Map::new(),
        };
        entry.extend(members.get(&node).and_then(Value::as_object).cloned().unwrap_or_default());
        entry.insert("state".to_owned(), json!(state_of(&run, node)));
        entry.insert("booted".to_owned(), json!(run.world().node_booted(node)));
        entry.insert("master".to_owned(), json!(run.world().master().0 == node));
        told.push((node, Value::Object(entry)));
    }
    match told.as_mut_slice() {
        [(_, only)] => Ok(only.take()),
        _ => Ok(Value::Object(told.into_iter().map(|(n, e)| (n.to_string(), e)).collect())),
    }
}
