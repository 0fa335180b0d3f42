//! `right_check`: tells whether a user may run a job, and by which rule.

use crate::error::invalid;
use crate::{Job, JobError, Run};
use serde_json::{Map, Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_proto::RpcError;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "right_check",
        group: "users",
        summary: "Tell whether a user may run a job, and why",
        description: "Returns `{allowed: true, rule}` or `{allowed: false, why}`. `params` matter \
                      where a user may do something for themself. It is the same check that a \
                      call goes through. About somebody else only root and members of exaadm may \
                      ask.",
        params: &[
            Param::must("job", Type::Name, "the job's name"),
            Param::may("username", Type::Name, "whom it is about; the caller if not given"),
            Param::may("params", Type::Dict, "the job's parameters"),
        ],
        everyone: true,
        examples: &[
            r#"{"job": "config_set"}"#,
            r#"{"job": "user_passwd", "username": "alice", "params": {"username": "alice"}}"#,
        ],
        precheck: check,
        ..Declaration::READ
    },
    run: |run| Box::pin(right_check(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    let name = params.get("job").and_then(Value::as_str).unwrap_or_default();
    if crate::find(name).is_none() {
        return Err(invalid("job", "there is no job of that name").hint("job_list lists them"));
    }
    Ok(())
}

async fn right_check(run: Run) -> Result<Value, JobError> {
    let state = run.state();
    let caller = run.caller();
    let user = run.text("username").unwrap_or(caller);
    if user != caller && caller != "root" && !state.is_in_any(caller, &["root", "exaadm"]) {
        let text = "about others only root and members of exaadm may ask";
        return Err(JobError::Declined(text.to_owned()));
    }
    let name = run.text("job").unwrap_or_default();
    let Some(job) = crate::find(name) else {
        return Err(JobError::Failed(format!("there is no job {name}")));
    };
    let none = Map::new();
    let params = run.param("params").and_then(Value::as_object).unwrap_or(&none);
    Ok(match state.may(user, &crate::needs(&job.declaration, params)) {
        Ok(rule) => json!({"allowed": true, "rule": rule.to_string()}),
        Err(denied) => json!({"allowed": false, "why": denied.to_string()}),
    })
}
