//! What a job function sees of State: a view that remembers what was looked at, and a place for
//! what it wants changed. Out of a draft comes a [`Plan`].

use crate::diff;
use crate::member::MemberChange;
use crate::path::Path;
use crate::proposal::{Derived, Plan, Read, Write};
use crate::schema::Violation;
use crate::state::State;
use crate::tree::{self, Tree, TreeError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tiebeam_proto::Outcome;
use tiebeam_proto::record::Change;

/// A plan in the making.
#[derive(Clone, Debug)]
pub struct Draft {
    base: Arc<State>,
    config: Tree,
    reads: BTreeMap<String, Option<u64>>,
    writes: Vec<Write>,
    derived: Vec<Derived>,
    warnings: Vec<String>,
    member: Option<MemberChange>,
}

impl Draft {
    /// A draft against this State.
    pub fn new(base: Arc<State>) -> Draft {
        Draft {
            config: base.config.clone(),
            base,
            reads: BTreeMap::new(),
            writes: Vec::new(),
            derived: Vec::new(),
            warnings: Vec::new(),
            member: None,
        }
    }

    /// Takes what was drafted and leaves an empty draft against the same State.
    #[must_use]
    pub fn take(&mut self) -> Draft {
        let empty = Draft::new(self.base.clone());
        std::mem::replace(self, empty)
    }

    /// The State it is made against. What is looked at here is not remembered: for job functions
    /// that only read, and for what cannot change under a plan's feet.
    pub fn state(&self) -> &Arc<State> {
        &self.base
    }

    /// The configuration with the draft's own changes.
    pub fn config(&self) -> &Tree {
        &self.config
    }

    /// Changes a member of the group along with the writes. One change at most (ruling 43).
    pub fn change_member(&mut self, change: MemberChange) {
        self.member = Some(change);
    }

    /// Whether the draft changes anything.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn remember(&mut self, path: &Path) {
        let seen = self.base.config.revision_at(path);
        self.reads.entry(path.as_str().to_owned()).or_insert(seen);
    }

    /// The value at `path`, secrets as commitments; remembered as read.
    pub fn get(&mut self, path: &Path) -> Option<Value> {
        self.remember(path);
        self.config.value(path)
    }

    /// Whether there is something at `path`; remembered as read.
    pub fn has(&mut self, path: &Path) -> bool {
        self.remember(path);
        self.config.get(path).is_some()
    }

    /// The revision of the last change at or below `path` in the base; remembered as read.
    pub fn revision_at(&mut self, path: &Path) -> Option<u64> {
        self.remember(path);
        self.base.config.revision_at(path)
    }

    /// Puts a value at `path`. `$sealed` may only come from [`tree::sealed`].
    pub fn set(&mut self, path: &Path, value: Value) -> Result<(), TreeError> {
        self.config = self.config.set(path, &value, self.base.revision + 1)?;
        self.writes.push(Write::Set { path: path.as_str().to_owned(), value });
        Ok(())
    }

    /// Takes `path` out.
    pub fn remove(&mut self, path: &Path) -> Result<(), TreeError> {
        self.config = self.config.remove(path, self.base.revision + 1)?;
        self.writes.push(Write::Remove { path: path.as_str().to_owned() });
        Ok(())
    }

    /// Adds a change of what is not in the configuration tree.
    pub fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Notes a secret of the output that can be derived again.
    pub fn derive(&mut self, derived: Derived) {
        self.derived.push(derived);
    }

    /// Adds a warning to the result.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// The configuration diff of the draft, at the topmost paths that changed.
    pub fn changes(&self) -> Vec<Change> {
        diff::between(&self.base.config, &self.config, &Path::root())
    }

    /// The quick check of what apply will check: the schema and the rules across sections.
    pub fn check(&self) -> Result<(), Violation> {
        if self.writes.is_empty() {
            return Ok(());
        }
        self.base.try_writes(&self.writes).map(drop)
    }

    fn into_plan(self, outcome: Outcome, error: Option<String>, output: Option<Value>) -> Plan {
        let reads = self.reads.into_iter().map(|(path, seen)| Read { path, seen }).collect();
        let ok = outcome == Outcome::Ok;
        Plan {
            base_revision: self.base.revision,
            reads,
            writes: if ok { self.writes } else { Vec::new() },
            outcome,
            error,
            output: output.map(Arc::new),
            warnings: self.warnings,
            dry_run: None,
            member: if ok { self.member } else { None },
            open: Vec::new(),
            derived: if ok { self.derived } else { Vec::new() },
        }
    }

    /// The plan of a job that ended well.
    pub fn done(self, output: Option<Value>) -> Plan {
        self.into_plan(Outcome::Ok, None, output)
    }

    /// The plan of a job that did not: nothing is changed.
    pub fn failed(self, outcome: Outcome, error: String) -> Plan {
        self.into_plan(outcome, Some(error), None)
    }
}

/// Whether a user's value contains the reserved name of sealed secrets anywhere.
pub fn uses_reserved_name(value: &Value) -> bool {
    match value {
        Value::Object(object) => {
            object.contains_key(tree::SEALED) || object.values().any(uses_reserved_name)
        }
        Value::Array(list) => list.iter().any(uses_reserved_name),
        _ => false,
    }
}
