//! `group_info`: shows a group.

use crate::users;
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "group_info",
        group: "users",
        summary: "Show a group and who is in it",
        description: "Returns `{name, id, users}`; `users` are those that have it as their first \
                      or an additional group.",
        params: &[
            Param::must("groupname", Type::Name, "which, by name").or(&["groupid"]),
            Param::may("groupid", Type::Int, "which, by numeric id"),
        ],
        examples: &[r#"{"groupname": "exaadm"}"#, r#"{"groupid": 499}"#],
        ..Declaration::READ
    },
    run: |run| Box::pin(group_info(run)),
};

async fn group_info(run: Run) -> Result<Value, JobError> {
    let (name, group) = users::find_group(&run)?;
    let users = users::members_of(&run.state(), &name);
    Ok(json!({"name": name, "id": group["id"], "users": users}))
}
