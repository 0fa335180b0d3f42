//! `user_passwd`: sets a user's password.

use crate::users;
use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Param, Secrecy, Type};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "user_passwd",
        group: "users",
        summary: "Set a user's password",
        description: "Every user may set their own. It ends the user's bearer tokens and one-time \
                      secret at once. The password is hashed (argon2id) before it is kept \
                      anywhere; records show it as withheld. With `encode_passwd: false` it is a \
                      ready hash: an argon2id PHC string, or a $5$ or $6$ crypt hash, which is \
                      replaced at the first login. Only root sets the password of root.",
        params: &[
            Param::must("username", Type::Name, "whose"),
            Param::must("password", Type::Line, "the new password").secret(Secrecy::Password),
            Param::may("encode_passwd", Type::Bool, "false: `password` is a ready hash; true"),
        ],
        self_param: Some("username"),
        examples: &[r#"{"username": "alice", "password": "your-password"}"#],
        locks: users::write_lock,
        precheck: users::check_new_password,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(user_passwd(run)),
};

async fn user_passwd(run: Run) -> Result<Value, JobError> {
    let (name, _) = users::find_user(&run)?;
    users::guard_root(&run, &name)?;
    let hash = users::password_hash(&run).await?;
    users::set_password(&run, &name, hash)?;
    Ok(Value::Null)
}
