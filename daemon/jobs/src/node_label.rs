//! `node_label`: sets and deletes labels of a node.

use crate::error::invalid;
use crate::{Job, JobError, Run, seats};
use serde_json::{Value, json};
use tiebeam_core::State;
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_proto::RpcError;

/// Labels of one node.
const LABELS_MAX: usize = 64;
/// Bytes of a label's name, and of its value.
const BYTES_MAX: usize = 63;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "node_label",
        group: "cluster",
        summary: "Set and delete labels of a node",
        description: "Labels select nodes in every job that takes nodes: `rack=a`. The label \
                      `group` lists the groups of a node, separated by commas: `db,web` lets both \
                      `group:db` and `group:web` select it. A value is one line; numbers and true \
                      or false are kept as text. A label that is deleted and is not there is no \
                      error. Returns the node's labels.",
        params: &[
            seats::ONE,
            Param::may("set", Type::Dict, "labels to set: {rack: a}"),
            Param::may("delete", Type::Lines, "names of labels to delete: [rack]"),
        ],
        examples: &[
            r#"{"nid": 12, "set": {"rack": "b", "slot": 7}}"#,
            r#"{"nid": 13, "set": {"group": "db,web"}}"#,
            r#"{"nid": "n12", "delete": ["rack"]}"#,
        ],
        locks: seats::lock,
        precheck: check,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(node_label(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    let labels = params.get("set").and_then(Value::as_object);
    let deleted = params.get("delete").and_then(Value::as_array);
    if labels.is_none_or(|map| map.is_empty()) && deleted.is_none_or(|list| list.is_empty()) {
        return Err(invalid("set", "there is nothing to change").hint("give `set` or `delete`"));
    }
    for (name, value) in labels.into_iter().flatten() {
        if !is_label(name) {
            let text = "a label's name must have 1 to 63 letters, digits, dots, dashes, _ or /";
            return Err(invalid("set", text));
        }
        if text_of(value).is_none() {
            return Err(invalid("set", "a label's value must be one line of at most 63 bytes"));
        }
    }
    Ok(())
}

fn is_label(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    (1..=BYTES_MAX).contains(&name.len()) && name.chars().all(fits)
}

/// A label's value as text: that is what selectors compare.
fn text_of(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return None,
    };
    (text.len() <= BYTES_MAX && !text.chars().any(char::is_control)).then_some(text)
}

async fn node_label(run: Run) -> Result<Value, JobError> {
    let node = seats::one_node(&run)?;
    let at = State::node_path(node).child("labels");
    let set = run.param("set").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, value) in set {
        run.set(&at.child(&name), json!(text_of(&value)))?;
    }
    for name in run.texts("delete") {
        let label = at.child(&name);
        if run.has(&label) {
            run.remove(&label)?;
        }
    }
    let labels = run.get(&at).unwrap_or_else(|| json!({}));
    if labels.as_object().is_some_and(|labels| labels.len() > LABELS_MAX) {
        return Err(JobError::Failed(format!("a node has at most {LABELS_MAX} labels")));
    }
    Ok(labels)
}
