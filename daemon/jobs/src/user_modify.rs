//! `user_modify`: changes a user's groups, keys or login.

use crate::error::invalid;
use crate::users;
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_proto::RpcError;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "user_modify",
        group: "users",
        summary: "Change a user's groups, keys or login",
        description: "What is not given stays as it is; a list replaces the whole list. Any change \
                      ends the user's bearer tokens at once; jobs that run already go on, waiting \
                      ones are declined if the right is gone. The last user who can administer \
                      cannot be disabled or taken out of exaadm, and only root changes root. \
                      Returns the diff.",
        params: &[
            Param::must("username", Type::Name, "whom"),
            Param::may("group", Type::IntOrLine, "the new first group, by name or id"),
            Param::may("login_enabled", Type::Bool, "false locks the user out"),
            Param::may("additional_groups", Type::Lines, "all further groups; [] for none"),
            Param::may("authorized_keys", Type::Lines, "all public keys; [] for none"),
        ],
        examples: &[
            r#"{"username": "alice", "login_enabled": false}"#,
            r#"{"username": "alice", "group": "exaadm", "additional_groups": ["monitor"]}"#,
        ],
        locks: users::write_lock,
        precheck: check,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(user_modify(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    if params.len() > 1 {
        return Ok(());
    }
    let error = invalid("params", "there is nothing to change");
    Err(error.hint("give group, login_enabled, additional_groups or authorized_keys"))
}

async fn user_modify(run: Run) -> Result<Value, JobError> {
    let (name, _) = users::find_user(&run)?;
    users::guard_root(&run, &name)?;
    let at = users::user_path(&name);
    if let Some(group) = run.text("group") {
        run.set(&at.child("group"), json!(users::group_name(&run, group)?))?;
    }
    if let Some(enabled) = run.param("login_enabled") {
        run.set(&at.child("login_enabled"), enabled.clone())?;
    }
    if run.param("additional_groups").is_some() {
        let groups = users::group_names(&run, "additional_groups")?;
        run.set(&at.child("additional_groups"), json!(groups))?;
    }
    if run.param("authorized_keys").is_some() {
        run.set(&at.child("authorized_keys"), json!(run.texts("authorized_keys")))?;
    }
    Ok(json!(run.changes()))
}
