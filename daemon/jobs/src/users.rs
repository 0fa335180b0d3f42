//! What the jobs of users and groups share: finding them, passwords, and what is shown.
//!
//! Password hashes are not in the configuration. So that a new password is a revision, and ends
//! the user's tokens, each one counts `users/<name>/credential` up.

use crate::error::invalid;
use crate::{JobError, Run};
use serde_json::{Map, Value, json};
use tiebeam_core::declaration::Params;
use tiebeam_core::lock::Lock;
use tiebeam_core::path::path;
use tiebeam_core::proposal::Write;
use tiebeam_core::{Path, State};
use tiebeam_proto::RpcError;

/// Longest password in bytes: hashing must not take a caller's megabytes.
const PASSWORD_BYTES_MAX: usize = 1024;

/// The largest user or group id: the one above it means "no change" to the operating system.
pub(crate) const ID_MAX: i64 = u32::MAX as i64 - 1;

/// Where a user's entry is.
pub(crate) fn user_path(name: &str) -> Path {
    path(&["users", name])
}

/// The write lock of a job that changes one user.
pub(crate) fn write_lock(params: &Params) -> Vec<Lock> {
    let name = params.get("username").and_then(Value::as_str).unwrap_or_default();
    vec![Lock::write(format!("users/{name}"))]
}

/// The entries of a section, by name.
pub(crate) fn entries(state: &State, section: &str) -> Map<String, Value> {
    match state.config.value(&path(&[section])) {
        Some(Value::Object(entries)) => entries,
        _ => Map::new(),
    }
}

/// The user that `username` or `userid` names; remembered as read.
pub(crate) fn find_user(run: &Run) -> Result<(String, Value), JobError> {
    let name = match (run.text("username"), run.int("userid")) {
        (Some(name), _) => name.to_owned(),
        (None, Some(id)) => {
            let users = entries(&run.state(), "users");
            let found = users.into_iter().find(|(_, user)| user["id"] == id);
            let missing = || JobError::Failed(format!("there is no user with the id {id}"));
            found.ok_or_else(missing)?.0
        }
        (None, None) => return Err(JobError::failed("give username or userid")),
    };
    match run.get(&user_path(&name)) {
        Some(user) => Ok((name, user)),
        None => {
            Err(JobError::Failed(format!("there is no user {name}; user_list shows all users")))
        }
    }
}

/// The name of the group that a text means, by name or id.
pub(crate) fn group_name(run: &Run, text: &str) -> Result<String, JobError> {
    let groups = entries(&run.state(), "groups");
    if groups.contains_key(text) {
        return Ok(text.to_owned());
    }
    let id = text.parse::<i64>().ok();
    let found = groups.into_iter().find(|(_, group)| id.is_some_and(|id| group["id"] == id));
    let shown: String = text.chars().take(64).collect();
    let missing =
        || JobError::Failed(format!("there is no group {shown:?}; group_list shows all groups"));
    found.map(|(name, _)| name).ok_or_else(missing)
}

/// The names of the groups in a list parameter; a text with commas counts as several.
pub(crate) fn group_names(run: &Run, param: &str) -> Result<Vec<String>, JobError> {
    let mut names: Vec<String> = Vec::new();
    let given = run.texts(param);
    for text in given.iter().flat_map(|text| text.split(',')).map(str::trim) {
        let name = group_name(run, text)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The group that `groupname` or `groupid` names; remembered as read.
pub(crate) fn find_group(run: &Run) -> Result<(String, Value), JobError> {
    let id = run.int("groupid").map(|id| id.to_string());
    let name = match run.text("groupname") {
        Some(name) => name.to_owned(),
        None => group_name(run, &id.unwrap_or_default())?,
    };
    match run.get(&path(&["groups", &name])) {
        Some(group) => Ok((name, group)),
        None => Err(JobError::Failed(format!("there is no group {name}; group_list shows them"))),
    }
}

/// Users in a group, by name.
pub(crate) fn members_of(state: &State, group: &str) -> Vec<String> {
    let users = entries(state, "users");
    users.into_iter().map(|(name, _)| name).filter(|u| state.is_in_any(u, &[group])).collect()
}

/// What is shown of a user.
pub(crate) fn shown(state: &State, name: &str, mut entry: Value) -> Value {
    if let Some(object) = entry.as_object_mut() {
        let credential = state.credentials.get(name);
        object.remove("credential");
        object.insert("name".to_owned(), json!(name));
        let has_password = credential.is_some_and(|credential| credential.hash.is_some());
        object.insert("has_password".to_owned(), json!(has_password));
    }
    entry
}

/// Only root changes root: else every member of exaadm could become root.
pub(crate) fn guard_root(run: &Run, user: &str) -> Result<(), JobError> {
    if user == "root" && run.caller() != "root" {
        return Err(JobError::Declined("only root itself may change the user root".to_owned()));
    }
    Ok(())
}

/// Refuses a password that is empty or too long.
pub(crate) fn check_password(params: &Params, name: &str) -> Result<(), RpcError> {
    let length = params.get(name).and_then(Value::as_str).map(str::len);
    if length.is_some_and(|length| length == 0 || length > PASSWORD_BYTES_MAX) {
        let text = format!("`{name}` must have 1 to {PASSWORD_BYTES_MAX} bytes");
        return Err(invalid(name, text));
    }
    Ok(())
}

/// As [`check_password`], and refuses `*`, which elsewhere stands for a user without a password:
/// who means to lock a user out must not set a password of one character.
pub(crate) fn check_new_password(params: &Params) -> Result<(), RpcError> {
    check_password(params, "password")?;
    if params.get("password").is_some_and(|password| password == "*") {
        let error = invalid("password", "`*` is no password");
        return Err(error.hint("user_modify with login_enabled: false locks a user out"));
    }
    Ok(())
}

/// The hash of the parameter `password`: made here, or with `encode_passwd: false` given.
pub(crate) async fn password_hash(run: &Run) -> Result<String, JobError> {
    let password = run.text("password").unwrap_or_default().to_owned();
    if run.flag("encode_passwd", true) {
        return run.world().hash_password(password).await;
    }
    run.world().check_ready_hash(&password)?;
    Ok(password)
}

/// Puts a password hash in place of what the user had, and counts it.
pub(crate) fn set_password(run: &Run, user: &str, hash: String) -> Result<(), JobError> {
    let at = user_path(user).child("credential");
    let count = run.get(&at).and_then(|count| count.as_i64()).unwrap_or(0);
    run.set(&at, json!(count.saturating_add(1)))?;
    run.write(Write::Credential { user: user.to_owned(), hash: Some(hash), one_time: None });
    Ok(())
}
