//! `job_retention`: says how much of the history is kept.

use crate::error::invalid;
use crate::{Job, JobError, Run};
use serde_json::{Map, Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::lock::Lock;
use tiebeam_core::settings::Setting;
use tiebeam_proto::RpcError;

/// Each parameter and the setting of section `history` that it is.
const SETTINGS: [(&str, &str); 3] = [
    ("keep_bytes", "bytes_max"),
    ("keep_count", "reads_keep_count"),
    ("keep_days", "reads_keep_days"),
];

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "job_retention",
        group: "jobs",
        summary: "Say how much of the history is kept",
        description: "Records of reads are kept for `keep_days` days and up to `keep_count` of \
                      them, whichever is less. All other records are kept for ever, unless the \
                      history grows beyond `keep_bytes` on the master: then the oldest go, \
                      together, on all nodes. A node's own `history.bytes_max` holds there if it \
                      is less; 0 leaves it to that alone. What is gone does not come back. \
                      Without parameters it changes nothing. Returns the values that hold.",
        params: &[
            Param::may("keep_days", Type::Int, "days that records of reads are kept"),
            Param::may("keep_count", Type::Int, "records of reads that are kept"),
            Param::may("keep_bytes", Type::Int, "bytes of the whole history; 0: no bound here"),
        ],
        examples: &[r#"{"keep_days": 30, "keep_count": 500000}"#, r#"{}"#],
        locks: |_| vec![Lock::write("settings/history")],
        precheck: check,
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(job_retention(run)),
};

/// The settings that the parameters change.
fn wanted(params: &Params) -> Result<Vec<(&'static Setting, Value)>, RpcError> {
    let mut wanted = Vec::new();
    for (name, key) in SETTINGS {
        let Some(value) = params.get(name) else { continue };
        let setting = Setting::find("history", key).map_err(|e| invalid(name, e.to_string()))?;
        if setting.check(value).is_err() {
            return Err(invalid(name, format!("`{name}` must be {}", setting.allowed())));
        }
        wanted.push((setting, value.clone()));
    }
    Ok(wanted)
}

fn check(params: &Params) -> Result<(), RpcError> {
    wanted(params).map(drop)
}

async fn job_retention(run: Run) -> Result<Value, JobError> {
    for (setting, value) in wanted(run.params()).map_err(|e| JobError::failed(e.message))? {
        run.set(&setting.path(), value)?;
    }
    let config = run.config();
    let shown = SETTINGS.iter().filter_map(|(name, key)| {
        let setting = Setting::find("history", key).ok()?;
        Some(((*name).to_owned(), setting.value_in(&config)))
    });
    Ok(json!(shown.collect::<Map<String, Value>>()))
}
