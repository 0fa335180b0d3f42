//! `config_rollback`: a new revision with the content of an old one, within ruling 29.

use super::config_schema_set::clear_secrets;
use crate::error::{invalid, within};
use crate::{Job, JobError, Run, restore, rollback};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::path::path;
use tiebeam_core::{Path, Tree, schema};
use tiebeam_proto::{ErrorCode, RpcError};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_rollback",
        group: "configuration",
        summary: "Make a new revision with the content of an old one",
        description: "Everything, or what is at `path`, becomes what it was at `revision`; the \
                      revisions between stay in the history. Never brought back: passwords, \
                      keys, tokens, secrets and logins that were taken away (a user who comes \
                      back cannot log in until user_modify and user_passwd). Nodes and the \
                      cluster's identity are not touched. A section is touched only if the \
                      caller may use that section's jobs. What was left out is in the warnings. \
                      Use dry_run to see the diff first. Returns the diff.",
        params: &[
            Param::must("revision", Type::Int, "the revision to go back to; config_log lists them"),
            Param::may("path", Type::Path, "only this part: app/web, users/alice, settings"),
        ],
        examples: &[r#"{"revision": 17, "path": "app/web"}"#, r#"{"revision": 17}"#],
        locks: crate::app_section::write_lock,
        precheck: check,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(config_rollback(run)),
};

/// The sections that can be rolled back, in the order in which it is done (a schema before what
/// it covers), with the jobs that a caller must be allowed for each.
const SECTIONS: [(&str, &[&str]); 6] = [
    ("settings", &["general_settings"]),
    ("ssl", &["general_settings", "cert_update"]),
    ("groups", &["group_create", "group_delete"]),
    ("users", &["user_create", "user_modify", "user_delete"]),
    ("schemas", &["config_schema_set"]),
    ("app", &["config_set", "config_delete"]),
];

fn check(params: &Params) -> Result<(), RpcError> {
    within(params, "revision", 1..=i64::MAX)?;
    let text = params.get("path").and_then(Value::as_str).unwrap_or_default();
    let path = Path::parse(text).unwrap_or_default();
    let names: Vec<_> = path.names().collect();
    match (path.section(), names.get(1)) {
        ("", _) => Ok(()),
        ("nodes" | "cluster", _) => {
            let text = "nodes and the cluster's identity are not rolled back";
            let error = RpcError::new(ErrorCode::Forbidden, text).field("path");
            Err(error.hint("use the jobs of the group cluster"))
        }
        ("ssl", Some(name)) if restore::CERTIFICATE.contains(&&**name) => {
            let error = invalid("path", "a certificate is rolled back with all of `ssl`");
            Err(error.hint("use cert_update to put another certificate in place"))
        }
        ("users", Some(_)) if names.len() > 2 => {
            let error = invalid("path", "a user is rolled back as a whole");
            Err(error.hint("give users/<name>, or use user_modify"))
        }
        (section, _) if SECTIONS.iter().any(|(name, _)| *name == section) => Ok(()),
        _ => Err(invalid("path", "there is no such section").hint("config_get shows them")),
    }
}

async fn config_rollback(run: Run) -> Result<Value, JobError> {
    let wanted = run.path("path");
    let revision = run.int("revision").and_then(|n| u64::try_from(n).ok());
    let then = super::config_get::tree_at(&run, revision)?;
    let then = Tree::new().set(&Path::root(), &then.root().to_value(), 0)?;
    let mut left_out = Vec::new();
    for (section, jobs) in SECTIONS {
        let section = path(&[section]);
        let at = if section.covers(&wanted) { wanted.clone() } else { section.clone() };
        if !wanted.covers(&at) {
            continue;
        }
        if let Some(why) = denied(&run, jobs) {
            if !wanted.is_root() {
                return Err(JobError::Declined(why));
            }
            left_out.push(format!("{section}: {why}"));
            continue;
        }
        let now = run.get(&at).and(run.config().get(&at).map(|node| node.to_sealed_value()));
        rollback::section(&run, &at, then.value(&at).as_ref(), now.as_ref(), &mut left_out)?;
    }
    if wanted.is_root() {
        for section in ["cluster", "nodes"].map(|name| path(&[name])) {
            if run.state().config.value(&section) != then.value(&section) {
                left_out.push(format!("{section}: is not rolled back"));
            }
        }
    }
    refuse_clear_secrets(&run)?;
    left_out.into_iter().for_each(|line| run.warn(format!("left out: {line}")));
    Ok(json!(run.changes()))
}

/// Why the caller may not use the jobs of a section.
fn denied(run: &Run, jobs: &[&str]) -> Option<String> {
    jobs.iter().find_map(|name| {
        let declaration = &crate::find(name)?.declaration;
        let needs = crate::needs(declaration, &Params::new());
        let denied = run.state().may(run.caller(), &needs).err()?;
        Some(format!("{name}: {denied}"))
    })
}

/// The backstop: no schema of the result may mark what is in clear in the result.
fn refuse_clear_secrets(run: &Run) -> Result<(), JobError> {
    let config = run.config();
    for (covered, schema) in schema::schema_of(&config, &Path::root()) {
        if let Some(place) = clear_secrets(&config, &covered, &schema).first() {
            let text = format!("{place} is in clear and would be marked as secret by a schema");
            return Err(JobError::Failed(text));
        }
    }
    Ok(())
}
