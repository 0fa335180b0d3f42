//! `group_delete`: takes a group away.

use crate::users;
use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Param, Type};
use tiebeam_core::lock::Lock;
use tiebeam_core::path::path;
use tiebeam_core::schema::BUILT_IN_GROUPS;

/// Users that the refusal names.
const NAMED_MAX: usize = 5;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "group_delete",
        group: "users",
        summary: "Take a group away",
        description: "Refused while a user is in the group (user_modify takes users out), and for \
                      the groups that are built in.",
        params: &[
            Param::must("groupname", Type::Name, "which, by name").or(&["groupid"]),
            Param::may("groupid", Type::Int, "which, by numeric id"),
        ],
        examples: &[r#"{"groupname": "operators"}"#, r#"{"groupid": 2001}"#],
        locks: |params| match params.get("groupname").and_then(Value::as_str) {
            Some(name) => vec![Lock::write(format!("groups/{name}"))],
            None => vec![Lock::write("groups")],
        },
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(group_delete(run)),
};

async fn group_delete(run: Run) -> Result<Value, JobError> {
    let (name, _) = users::find_group(&run)?;
    if BUILT_IN_GROUPS.iter().any(|(built_in, _)| *built_in == name) {
        let text = format!("the group {name} is built in and cannot be deleted");
        return Err(JobError::Failed(text));
    }
    let members = users::members_of(&run.state(), &name);
    if !members.is_empty() {
        let named: Vec<&str> = members.iter().take(NAMED_MAX).map(String::as_str).collect();
        let more = members.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let text = format!("the group {name} is in use by {}{more}", named.join(", "));
        return Err(JobError::Failed(text));
    }
    run.remove(&path(&["groups", &name]))?;
    Ok(Value::Null)
}
