//! `user_delete`: takes a user away.

use crate::users;
use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Param, Type};
use tiebeam_core::proposal::Write;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "user_delete",
        group: "users",
        summary: "Take a user away",
        description: "The user's password and tokens end at once; the jobs in the history keep \
                      the name. Jobs of the user that run go on, waiting ones are declined. The \
                      last user who can administer and the user root cannot be deleted. \
                      user_modify with login_enabled: false locks a user out and keeps the entry.",
        params: &[Param::must("username", Type::Name, "whom")],
        examples: &[r#"{"username": "alice"}"#],
        locks: users::write_lock,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(user_delete(run)),
};

async fn user_delete(run: Run) -> Result<Value, JobError> {
    let (name, _) = users::find_user(&run)?;
    if name == "root" {
        return Err(JobError::Declined("root is built in and cannot be deleted".to_owned()));
    }
    run.remove(&users::user_path(&name))?;
    run.write(Write::CredentialRemove { user: name });
    Ok(Value::Null)
}
