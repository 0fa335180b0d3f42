//! `user_info`: shows a user.

use crate::users;
use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Param, Type};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "user_info",
        group: "users",
        summary: "Show a user",
        description: "Returns `{name, id, group, additional_groups, login_enabled, \
                      authorized_keys, has_password}`. Every user may see themself, by \
                      `username`. Passwords are shown to nobody.",
        params: &[
            Param::must("username", Type::Name, "whom, by name").or(&["userid"]),
            Param::may("userid", Type::Int, "whom, by numeric id"),
        ],
        self_param: Some("username"),
        examples: &[r#"{"username": "alice"}"#, r#"{"userid": 1001}"#],
        ..Declaration::READ
    },
    run: |run| Box::pin(user_info(run)),
};

async fn user_info(run: Run) -> Result<Value, JobError> {
    let (name, user) = users::find_user(&run)?;
    Ok(users::shown(&run.state(), &name, user))
}
