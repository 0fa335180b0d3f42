//! `user_create`: makes a user.

use crate::error::within;
use crate::users;
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Secrecy, Type};
use tiebeam_core::proposal::Write;
use tiebeam_proto::RpcError;
use tiebeam_proto::time::Time;

/// Microseconds for which a one-time secret is good: 72 hours, a weekend.
const ONE_TIME_US: u64 = 72 * 3600 * 1_000_000;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "user_create",
        group: "users",
        summary: "Make a user",
        description: "Without `password` it returns `{one_time_secret, expires}`: give the secret \
                      to the user, who sets a password with it (method user_init) within 72 \
                      hours; it is shown once. With an empty password or `*` the user cannot log \
                      in by password. With `encode_passwd: false` the password is a ready hash: an \
                      argon2id PHC string, or a $5$ or $6$ crypt hash, which is replaced at the \
                      first login. What the user may do is decided by the groups.",
        params: &[
            Param::must("username", Type::Name, "name: ^[a-z_][a-z0-9_-]{0,31}$"),
            Param::must("userid", Type::Int, "numeric id that no other user has: 1001"),
            Param::must("group", Type::IntOrLine, "first group, by name or id: exausers"),
            Param::may("password", Type::Line, "password, or a hash with encode_passwd: false")
                .secret(Secrecy::Password),
            Param::may("login_enabled", Type::Bool, "whether the user may log in; true"),
            Param::may("additional_groups", Type::Lines, "further groups: [monitor]"),
            Param::may("authorized_keys", Type::Lines, "public keys, one text each"),
            Param::may("encode_passwd", Type::Bool, "false: `password` is a ready hash; true"),
        ],
        examples: &[
            r#"{"username": "alice", "userid": 1001, "group": "exausers"}"#,
            r#"{"username": "user_1", "userid": 1002, "group": 500, "password": "your-password",
                "login_enabled": true, "additional_groups": ["monitor"]}"#,
        ],
        locks: users::write_lock,
        precheck: check,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(user_create(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    within(params, "userid", 0..=users::ID_MAX)?;
    if params.get("password").is_some_and(|password| password == "") {
        return Ok(());
    }
    users::check_password(params, "password")
}

async fn user_create(run: Run) -> Result<Value, JobError> {
    let name = run.text("username").unwrap_or_default();
    let id = run.int("userid").unwrap_or_default();
    let at = users::user_path(name);
    if run.has(&at) {
        let text = format!("the user {name} exists already; user_modify changes it");
        return Err(JobError::Failed(text));
    }
    let others = users::entries(&run.state(), "users");
    if let Some((other, _)) = others.iter().find(|(_, user)| user["id"] == id) {
        return Err(JobError::Failed(format!("the user id {id} belongs to {other}")));
    }
    let entry = json!({
        "id": id,
        "group": users::group_name(&run, run.text("group").unwrap_or_default())?,
        "additional_groups": users::group_names(&run, "additional_groups")?,
        "login_enabled": run.flag("login_enabled", true),
        "authorized_keys": run.texts("authorized_keys"),
    });
    run.set(&at, entry)?;
    match run.text("password") {
        None => Ok(one_time(&run, name)),
        Some("" | "*") => Ok(Value::Null),
        Some(_) => {
            let hash = users::password_hash(&run).await?;
            users::set_password(&run, name, hash)?;
            Ok(Value::Null)
        }
    }
}

fn one_time(run: &Run, name: &str) -> Value {
    let hash = run.derived_secret("one_time_secret", "user_init", name);
    let one_time = Some((hash, ONE_TIME_US));
    run.write(Write::Credential { user: name.to_owned(), hash: None, one_time });
    let lasts = i64::try_from(ONE_TIME_US).unwrap_or(i64::MAX);
    let expires = Time(run.world().now().0.saturating_add(lasts));
    json!({"one_time_secret": {"secret": "withheld"}, "expires": expires})
}
