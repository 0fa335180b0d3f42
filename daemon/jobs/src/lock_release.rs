//! `lock_release`: lets go of locks that a job left in doubt.

use crate::error::invalid;
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Type};
use tiebeam_core::proposal::Write;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "lock_release",
        group: "jobs",
        summary: "Let go of locks that a job left in doubt",
        description: "A job that ended indeterminate holds its locks, because a command of it may \
                      still run somewhere. If you know that nothing of it runs any more (the node \
                      was reinstalled, the process is gone), say why and let go. Look at \
                      lock_list and job_info first. The record keeps the reason. Returns the \
                      locks; a job that held none is let go of all the same, and its commands' \
                      late ends are not recorded any more.",
        params: &[
            Param::must("job_id", Type::JobId, "the job that holds them, from lock_list"),
            Param::must("reason", Type::Line, "how you know that nothing of it runs any more"),
        ],
        examples: &[r#"{"job_id": "11.89", "reason": "n12 was reinstalled, ticket 4711"}"#],
        precheck: |params| {
            let reason = params.get("reason").and_then(Value::as_str).unwrap_or_default();
            if reason.trim().is_empty() {
                return Err(invalid("reason", "`reason` must say why"));
            }
            Ok(())
        },
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(lock_release(run)),
};

async fn lock_release(run: Run) -> Result<Value, JobError> {
    let job = run.text("job_id").unwrap_or_default();
    let state = run.state();
    let Some(doubt) = state.doubts.values().find(|doubt| doubt.job == job) else {
        let text = format!("the job {job} is not in doubt; lock_list shows those that hold locks");
        return Err(JobError::Failed(text));
    };
    let locks: Vec<String> = doubt.locks.iter().map(ToString::to_string).collect();
    run.write(Write::LockRelease { job: job.to_owned() });
    Ok(json!({"job": job, "locks": locks}))
}
