//! `user_list`: lists the users.

use crate::users;
use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::Declaration;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "user_list",
        group: "users",
        summary: "List the users",
        description: "Returns one entry per user, by name: `{name, id, group, additional_groups, \
                      login_enabled, authorized_keys, has_password}`.",
        ..Declaration::READ
    },
    run: |run| Box::pin(user_list(run)),
};

async fn user_list(run: Run) -> Result<Value, JobError> {
    let state = run.state();
    let all = users::entries(&state, "users").into_iter();
    Ok(Value::Object(
        all.map(|(name, user)| (name.clone(), users::shown(&state, &name, user))).collect(),
    ))
}
