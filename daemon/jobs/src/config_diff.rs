//! `config_diff`: what changed between two revisions.

use super::config_get::tree_at;
use crate::app_section::commitment;
use crate::error::within;
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type};
use tiebeam_core::{Path, Tree, diff, tree};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_diff",
        group: "configuration",
        summary: "Show what changed between two revisions",
        description: "Returns a list of `{op, path, old, value}` that leads from revision `from` \
                      to revision `to`; `op` is add, remove or replace. A map that appears or \
                      goes is one line. A secret shows as its commitment.",
        params: &[
            Param::must("from", Type::Int, "the earlier revision"),
            Param::may("to", Type::Int, "the later revision; the newest if not given"),
        ],
        examples: &[r#"{"from": 17}"#, r#"{"from": 17, "to": 20}"#],
        precheck: |params| {
            within(params, "from", 1..=i64::MAX)?;
            within(params, "to", 1..=i64::MAX)
        },
        ..Declaration::READ
    },
    run: |run| Box::pin(config_diff(run)),
};

async fn config_diff(run: Run) -> Result<Value, JobError> {
    let revision = |name: &str| run.int(name).and_then(|number| u64::try_from(number).ok());
    let old = comparable(&tree_at(&run, revision("from"))?)?;
    let new = comparable(&tree_at(&run, revision("to"))?)?;
    Ok(json!(diff::between(&old, &new, &Path::root())))
}

/// The tree with commitments as leaves in the place of secrets, whether it came from State, where
/// secrets are sealed, or from the history, where they are maps.
fn comparable(from: &Tree) -> Result<Tree, JobError> {
    Ok(Tree::new().set(&Path::root(), &as_leaves(from.root().to_value()), 0)?)
}

fn as_leaves(value: Value) -> Value {
    if let Some(digest) = commitment(&value) {
        return tree::sealed("", digest);
    }
    match value {
        Value::Object(object) => {
            let children = object.into_iter().map(|(name, value)| (name, as_leaves(value)));
            Value::Object(children.collect())
        }
        other => other,
    }
}
