//! `user_init`: sets the first password of a user who was made without one.
//!
//! Not in the catalogue: the method `user_init` of the wire runs it, as the user it is about, who
//! has no other way to log in yet.

use crate::users;
use crate::{Job, JobError, Run};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tiebeam_core::declaration::{Declaration, Param, Params, Secrecy, Type};
use tiebeam_core::lock::Lock;

/// The job behind the method `user_init`.
pub static USER_INIT: Job = Job {
    declaration: Declaration {
        name: "user_init",
        group: "users",
        summary: "Set the first password of a user",
        description: "Uses the one-time secret that user_create returned, once, within 72 hours.",
        params: &[
            Param::must("name", Type::Name, "whose"),
            Param::must("one_time_secret", Type::Line, "the secret that user_create returned")
                .secret(Secrecy::Password),
            Param::must("password", Type::Line, "the new password").secret(Secrecy::Password),
        ],
        users: &[],
        groups: &[],
        self_param: Some("name"),
        examples: &[
            r#"{"name": "alice", "one_time_secret": "Zm9y-once", "password": "your-password"}"#,
        ],
        locks: write_lock,
        precheck: users::check_new_password,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(user_init(run)),
};

fn write_lock(params: &Params) -> Vec<Lock> {
    let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
    vec![Lock::write(format!("users/{name}"))]
}

async fn user_init(run: Run) -> Result<Value, JobError> {
    let name = run.text("name").unwrap_or_default();
    let given = run.text("one_time_secret").unwrap_or_default();
    let state = run.state();
    let one_time = state.credentials.get(name).and_then(|credential| credential.one_time.clone());
    let good = one_time
        .is_some_and(|(hash, ends_us)| state.clock_us < ends_us && hash == hex_sha256(given));
    if !good {
        // One text for every cause: the caller is not logged in.
        return Err(JobError::Declined(
            "the one-time secret is wrong, used or too old; ask an administrator for user_passwd"
                .to_owned(),
        ));
    }
    let password = run.text("password").unwrap_or_default().to_owned();
    let hash = run.world().hash_password(password).await?;
    users::set_password(&run, name, hash)?;
    Ok(Value::Null)
}

/// Hex SHA-256 of the secret's bytes, as `World::derive` gives it.
fn hex_sha256(secret: &str) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}
