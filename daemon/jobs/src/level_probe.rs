//! `level_probe`: stands for a job that a later version brings, in builds that test upgrades only.

use crate::Job;
use serde_json::json;
use tiebeam_core::declaration::Declaration;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "level_probe",
        group: "cluster",
        summary: "Show the feature level that brought this job",
        everyone: true,
        since_level: 2,
        ..Declaration::READ
    },
    run: |run| Box::pin(async move { Ok(json!({"feature_level": run.state().feature_level})) }),
};
