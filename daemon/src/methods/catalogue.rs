//! `job_list`, `job_help`, `job_desc`: answered by every node, from the declarations.

use super::arguments::Arguments;
use super::{Method, Right};
use crate::engine::Engine;
use crate::front::seam::MethodClass;
use crate::pipeline::submit::find_job;
use serde_json::{Value, json};
use tiebeam_proto::RpcError;

pub(super) const JOB_LIST: Method = Method {
    name: "job_list",
    class: MethodClass::Here,
    right: Right::LoggedIn,
    arguments: &[],
    signatures: &[&["array"]],
    help: "job_list(): the names of all jobs, sorted",
    run: |engine, _, _| Box::pin(async move { Ok(job_list(&engine)) }),
};

pub(super) const JOB_HELP: Method = Method {
    name: "job_help",
    class: MethodClass::Here,
    right: Right::LoggedIn,
    arguments: &["name"],
    signatures: &[&["string", "string"]],
    help: "job_help(name): what a job does, its parameters, who may run it, examples",
    run: |engine, _, arguments| Box::pin(async move { job_help(&engine, &arguments) }),
};

pub(super) const JOB_DESC: Method = Method {
    name: "job_desc",
    class: MethodClass::Here,
    right: Right::LoggedIn,
    arguments: &["name"],
    signatures: &[&["array", "string"]],
    help: "job_desc(name): [true, details] with 12 details, or [false, message]",
    run: |engine, _, arguments| Box::pin(async move { job_desc(&engine, &arguments) }),
};

fn job_list(engine: &Engine) -> Value {
    let listed = tiebeam_jobs::listed(engine.board.state().feature_level);
    json!(listed.map(|job| job.declaration.name).collect::<Vec<_>>())
}

fn job_help(engine: &Engine, arguments: &Arguments) -> Result<Value, RpcError> {
    Ok(json!(find_job(engine, arguments.text(0)?)?.declaration.help()))
}

fn job_desc(engine: &Engine, arguments: &Arguments) -> Result<Value, RpcError> {
    Ok(match find_job(engine, arguments.text(0)?) {
        Ok(job) => json!([true, job.declaration.details()]),
        Err(error) => json!([false, error.message]),
    })
}
