//! `config_blame`: which job wrote each value.

use crate::{Job, JobError, Run};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tiebeam_core::Path;
use tiebeam_core::declaration::{Declaration, Param, Type};
use tiebeam_core::tree::Node;

/// Values that are told in one answer; it is kept in the history, so it has a bound.
const VALUES_MAX: usize = 5_000;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_blame",
        group: "configuration",
        summary: "Show which job last wrote each value",
        description: "Returns `{path: {revision, job, user, time}}` for each value at or below \
                      `path`. A value of revision 1 was made by `init` and has no job; of a \
                      revision that the history no longer keeps, only the number is known.",
        params: &[Param::must("path", Type::Path, "what: app/web; the empty text for everything")],
        examples: &[r#"{"path": "app/web"}"#, r#"{"path": "users/alice"}"#],
        ..Declaration::READ
    },
    run: |run| Box::pin(config_blame(run)),
};

async fn config_blame(run: Run) -> Result<Value, JobError> {
    let path = run.path("path");
    let state = run.state();
    let Some(node) = state.config.get(&path) else {
        return Err(JobError::Failed(format!("there is nothing at {path}")));
    };
    let mut values = Vec::new();
    walk(node, &path, &mut values);
    if values.len() > VALUES_MAX {
        let text = format!("there are more than {VALUES_MAX} values below {path}; narrow `path`");
        return Err(JobError::Failed(text));
    }
    let mut known: BTreeMap<u64, Value> = BTreeMap::new();
    let mut told = Map::new();
    for (at, revision) in values {
        let who = match known.get(&revision) {
            Some(who) => who.clone(),
            None => known.entry(revision).or_insert(who(&run, revision)?).clone(),
        };
        told.insert(at.as_str().to_owned(), who);
    }
    Ok(Value::Object(told))
}

/// Values and empty maps below `node`; stops when there are too many to tell.
fn walk(node: &Node, at: &Path, out: &mut Vec<(Path, u64)>) {
    match node.as_map().filter(|map| !map.is_empty()) {
        _ if out.len() > VALUES_MAX => {}
        None => out.push((at.clone(), node.revision())),
        Some(map) => map.iter().for_each(|(name, below)| walk(below, &at.child(name), out)),
    }
}

fn who(run: &Run, revision: u64) -> Result<Value, JobError> {
    Ok(match run.world().revision(revision)? {
        Some(record) => json!({
            "revision": revision,
            "job": record.job,
            "user": record.user,
            "time": record.stages.finished,
        }),
        None if revision <= 1 => json!({"revision": revision, "job": "", "user": "root"}),
        None => json!({"revision": revision}),
    })
}
