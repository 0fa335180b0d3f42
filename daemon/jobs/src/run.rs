//! What a job function sees: its parameters, a view of the configuration that remembers what was
//! read, and the outside through [`World`].

use crate::error::JobError;
use crate::world::{CommandWish, World};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard};
use tiebeam_core::declaration::Params;
use tiebeam_core::draft::Draft;
use tiebeam_core::member::MemberChange;
use tiebeam_core::proposal::{Derived, Plan, Write};
use tiebeam_core::{Path, State, Tree, tree};
use tiebeam_proto::record::{Change, CommandRecord};

/// One run of a job function. Cloning it gives another handle of the same run.
#[derive(Clone)]
pub struct Run {
    shared: Arc<Shared>,
}

struct Shared {
    caller: String,
    params: Params,
    draft: Mutex<Draft>,
    world: Arc<dyn World>,
}

impl Run {
    /// A run by `caller` against `base`.
    pub fn new(caller: String, params: Params, base: Arc<State>, world: Arc<dyn World>) -> Run {
        let draft = Mutex::new(Draft::new(base));
        Run { shared: Arc::new(Shared { caller, params, draft, world }) }
    }

    fn draft(&self) -> MutexGuard<'_, Draft> {
        self.shared.draft.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Who started the job.
    pub fn caller(&self) -> &str {
        &self.shared.caller
    }

    /// The parameters, checked against the declaration.
    pub fn params(&self) -> &Params {
        &self.shared.params
    }

    /// A parameter of any type.
    pub fn param(&self, name: &str) -> Option<&Value> {
        self.shared.params.get(name)
    }

    /// A text parameter.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.param(name).and_then(Value::as_str)
    }

    /// An integer parameter.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.param(name).and_then(Value::as_i64)
    }

    /// A flag, or `default`.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.param(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// The texts of a list parameter; empty if it was not given.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let list = self.param(name).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }

    /// A path parameter; the root if it was not given.
    pub fn path(&self, name: &str) -> Path {
        self.text(name).and_then(|text| Path::parse(text).ok()).unwrap_or_default()
    }

    /// The outside.
    pub fn world(&self) -> &dyn World {
        &*self.shared.world
    }

    /// The State that the run is made against; what is looked at here is not remembered as read,
    /// so a job that changes something looks at the configuration through [`Run::get`].
    pub fn state(&self) -> Arc<State> {
        self.draft().state().clone()
    }

    /// The value at a path, secrets as commitments; remembered as read.
    pub fn get(&self, path: &Path) -> Option<Value> {
        self.draft().get(path)
    }

    /// Whether there is something at a path; remembered as read.
    pub fn has(&self, path: &Path) -> bool {
        self.draft().has(path)
    }

    /// The revision of the last change at or below a path; remembered as read.
    pub fn revision_at(&self, path: &Path) -> Option<u64> {
        self.draft().revision_at(path)
    }

    /// The configuration with the run's own changes, secrets sealed; not remembered as read.
    pub fn config(&self) -> Tree {
        self.draft().config().clone()
    }

    /// Puts a value into the configuration.
    pub fn set(&self, path: &Path, value: Value) -> Result<(), JobError> {
        Ok(self.draft().set(path, value)?)
    }

    /// Puts a secret into the configuration, sealed.
    pub fn set_secret(&self, path: &Path, value: &Value) -> Result<(), JobError> {
        let sealed = self.world().seal(path, value)?;
        Ok(self.draft().set(path, tree::sealed(&sealed.text, &sealed.digest))?)
    }

    /// Takes a path out of the configuration.
    pub fn remove(&self, path: &Path) -> Result<(), JobError> {
        Ok(self.draft().remove(path)?)
    }

    /// Adds a change of what is not in the configuration tree.
    pub fn write(&self, write: Write) {
        self.draft().write(write);
    }

    /// Changes a member of the cluster, together with what is written. One change at most.
    pub fn change_member(&self, change: MemberChange) {
        self.draft().change_member(change);
    }

    /// Adds a warning to the result.
    pub fn warn(&self, text: impl Into<String>) {
        self.draft().warn(text);
    }

    /// The diff of what was changed so far.
    pub fn changes(&self) -> Vec<Change> {
        self.draft().changes()
    }

    /// Makes a derived secret for `subject`: returns its hash to be stored, and puts the marker
    /// into the output under `field`; the caller alone sees the secret there (ruling 26).
    pub fn derived_secret(&self, field: &str, purpose: &str, subject: &str) -> String {
        self.derive(field, purpose, subject, None)
    }

    /// The same with a text around it: `form` has `{}` where the secret is to stand.
    pub fn derived_text(&self, field: &str, purpose: &str, subject: &str, form: &str) -> String {
        self.derive(field, purpose, subject, Some(form.to_owned()))
    }

    fn derive(&self, field: &str, purpose: &str, subject: &str, form: Option<String>) -> String {
        let derived = self.world().derive(purpose, subject);
        self.draft().derive(Derived {
            field: field.to_owned(),
            purpose: purpose.to_owned(),
            subject: subject.to_owned(),
            nonce: derived.nonce,
            form,
        });
        derived.hash
    }

    /// Runs a command on a node and waits for its end.
    pub async fn command(&self, wish: CommandWish) -> Result<CommandRecord, JobError> {
        self.shared.world.command(wish).await
    }

    /// The plan that the run came to. `dry_run` keeps the diff and drops the changes.
    pub fn into_plan(self, result: Result<Value, JobError>, dry_run: bool) -> Plan {
        let draft = self.draft().take();
        let checked = result.and_then(|output| {
            draft.check()?;
            Ok(output)
        });
        match checked {
            Err(error) => {
                let output = error.output().cloned().map(Arc::new);
                Plan { output, ..draft.failed(error.outcome(), error.to_string()) }
            }
            Ok(_) if dry_run => dry_plan(&draft),
            Ok(output) => draft.done((!output.is_null()).then_some(output)),
        }
    }
}

fn dry_plan(draft: &Draft) -> Plan {
    let plan = json!({
        "base_revision": draft.state().revision,
        "diff": draft.changes(),
        "commands": [],
        "locks": [],
    });
    let done = draft.clone().done(None);
    Plan { writes: Vec::new(), member: None, derived: Vec::new(), dry_run: Some(plan), ..done }
}
