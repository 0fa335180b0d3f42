//! `job_list`, `job_help`, `job_desc`: answered by every node, from the declarations.

use super::arguments::Arguments;
use super::{Method, Right};
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
    run: |_, _, _| Box::pin(async { Ok(job_list()) }),
};

pub(super) const JOB_HELP: Method = Method {
    name: "job_help",
    class: MethodClass::Here,
    right: Right::LoggedIn,
    arguments: &["name"],
    signatures: &[&["string", "string"]],
    help: "job_help(name): what a job does, its parameters, who may run it, examples",
    run: |_, _, arguments| Box::pin(async move { job_help(&arguments) }),
};

pub(super) const JOB_DESC: Method = Method {
    name: "job_desc",
    class: MethodClass::Here,
    right: Right::LoggedIn,
    arguments: &["name"],
    signatures: &[&["array", "string"]],
    help: "job_desc(name): [true, details] with 12 details, or [false, message]",
    run: |_, _, arguments| Box::pin(async move { job_desc(&arguments) }),
};

fn job_list() -> Value {
    json!(tiebeam_jobs::JOBS.iter().map(|job| job.declaration.name).collect::<Vec<_>>())
}

fn job_help(arguments: &Arguments) -> Result<Value, RpcError> {
    Ok(json!(find_job(arguments.text(0)?)?.declaration.help()))
}

fn job_desc(arguments: &Arguments) -> Result<Value, RpcError> {
    Ok(match find_job(arguments.text(0)?) {
        Ok(job) => json!([true, job.declaration.details()]),
        Err(error) => json!([false, error.message]),
    })
}
