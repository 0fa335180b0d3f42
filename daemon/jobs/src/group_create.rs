//! `group_create`: makes a group.

use crate::error::within;
use crate::users;
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type};
use tiebeam_core::lock::Lock;
use tiebeam_core::path::path;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "group_create",
        group: "users",
        summary: "Make a group",
        description: "A group of your own gives no rights by itself: jobs name the built-in groups \
                      (group_list shows them).",
        params: &[
            Param::must("groupname", Type::Name, "name: ^[a-z_][a-z0-9_-]{0,31}$"),
            Param::must("groupid", Type::Int, "numeric id that no other group has"),
        ],
        examples: &[r#"{"groupname": "operators", "groupid": 2001}"#],
        locks: |params| {
            let name = params.get("groupname").and_then(Value::as_str).unwrap_or_default();
            vec![Lock::write(format!("groups/{name}"))]
        },
        precheck: |params| within(params, "groupid", 0..=users::ID_MAX),
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(group_create(run)),
};

async fn group_create(run: Run) -> Result<Value, JobError> {
    let name = run.text("groupname").unwrap_or_default();
    let id = run.int("groupid").unwrap_or_default();
    let at = path(&["groups", name]);
    if run.has(&at) {
        return Err(JobError::Failed(format!("the group {name} exists already")));
    }
    let groups = users::entries(&run.state(), "groups");
    if let Some((other, _)) = groups.iter().find(|(_, group)| group["id"] == id) {
        return Err(JobError::Failed(format!("the group id {id} belongs to {other}")));
    }
    run.set(&at, json!({"id": id}))?;
    Ok(Value::Null)
}
