//! The result object of wire.md section 7, exactly the keys a client may find.

use crate::outcome::{Outcome, UNFINISHED};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `job_result` and `job_exec` return.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultObject {
    /// 0 OK … 7 INDETERMINATE; 5 while the job runs.
    pub result_code: i64,
    /// The word for the code.
    pub result_name: String,
    /// `Success`, or the error text.
    pub result_desc: String,
    /// The job's id.
    pub result_jobid: String,
    /// Whatever the job returns, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_output: Option<Value>,
    /// The revision the job made, if it made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_revision: Option<u64>,
    /// Warnings, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub result_warnings: Vec<String>,
    /// Members that had not applied the change when it was committed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub result_nodes_pending: Vec<u32>,
    /// The plan of a dry run: `{base_revision, diff, commands, locks}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_plan: Option<Value>,
}

impl ResultObject {
    /// The answer while a job runs.
    pub fn unfinished(job: &str) -> ResultObject {
        ResultObject {
            result_code: UNFINISHED,
            result_name: "UNFINISHED".to_owned(),
            result_desc: "The job has not finished yet".to_owned(),
            result_jobid: job.to_owned(),
            result_output: None,
            result_revision: None,
            result_warnings: Vec::new(),
            result_nodes_pending: Vec::new(),
            result_plan: None,
        }
    }

    /// A finished job's answer without output; `error` is the text of every outcome but ok.
    pub fn finished(job: &str, outcome: Outcome, error: Option<&str>) -> ResultObject {
        ResultObject {
            result_code: outcome.code(),
            result_name: outcome.result_name(),
            result_desc: error.unwrap_or("Success").to_owned(),
            ..ResultObject::unfinished(job)
        }
    }
}
