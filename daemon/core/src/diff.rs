//! The difference between two configurations, and the way back.
//!
//! Equal subtrees are recognised by hash, so a diff costs what changed. A subtree that appears or
//! goes is one line; inside maps that stay, each leaf is a line of its own.

use crate::path::Path;
use crate::tree::{Node, Tree, TreeError};
use std::sync::Arc;
use tiebeam_proto::record::{Change, ChangeOp};

/// What leads from `old` to `new`, below `at`, in the order of paths.
pub fn between(old: &Tree, new: &Tree, at: &Path) -> Vec<Change> {
    let mut changes = Vec::new();
    walk(at, old.get(at), new.get(at), &mut changes);
    changes
}

fn walk(at: &Path, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>, out: &mut Vec<Change>) {
    let line = |op, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>| Change {
        op,
        path: at.as_str().to_owned(),
        old: old.map(|node| node.to_value()),
        value: new.map(|node| node.to_value()),
    };
    match (old, new) {
        (None, None) => {}
        (Some(old), Some(new)) if old.hash() == new.hash() => {}
        (None, Some(new)) => out.push(line(ChangeOp::Add, None, Some(new))),
        (Some(old), None) => out.push(line(ChangeOp::Remove, Some(old), None)),
        (Some(old), Some(new)) => match (&**old, &**new) {
            (Node::Map(before), Node::Map(after)) => {
                for (name, old, new) in before.differences(after) {
                    walk(&at.child(&name), old.as_ref(), new.as_ref(), out);
                }
            }
            _ => out.push(line(ChangeOp::Replace, Some(old), Some(new))),
        },
    }
}

/// The tree before `changes`, from the tree after them. Secrets come back as their commitments,
/// so the result is for reading and comparing.
pub fn undo(tree: &Tree, changes: &[Change], revision: u64) -> Result<Tree, TreeError> {
    let mut tree = tree.clone();
    for change in changes.iter().rev() {
        let path = Path::parse(&change.path).unwrap_or_default();
        tree = match &change.old {
            Some(old) => tree.set(&path, old, revision)?,
            None => tree.remove(&path, revision)?,
        };
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_diff_names_leaves_and_leads_back() {
        let p = |text: &str| Path::parse(text).unwrap();
        let old = Tree::new().set(&p("app"), &json!({"a": 1, "b": {"c": 2, "d": 3}}), 1).unwrap();
        let new = old.set(&p("app/b/c"), &json!(5), 2).unwrap();
        let new = new.remove(&p("app/a"), 2).unwrap();
        let new = new.set(&p("app/e"), &json!({"f": 1}), 2).unwrap();
        let changes = between(&old, &new, &Path::root());
        let lines: Vec<_> = changes.iter().map(|c| (c.op, c.path.as_str())).collect();
        let expected =
            [(ChangeOp::Remove, "app/a"), (ChangeOp::Replace, "app/b/c"), (ChangeOp::Add, "app/e")];
        assert_eq!(lines, expected);
        assert_eq!(undo(&new, &changes, 3).unwrap().hash(), old.hash());
    }
}
