//! `debug_collect`: gathers one archive for whoever looks for a fault.

use crate::error::{invalid, within};
use crate::world::DebugWish;
use crate::{Job, JobError, Run, journal, nodes};
use serde_json::{Map, Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_proto::time::Time;
use tiebeam_proto::{Outcome, RpcError};

/// Seconds that a node gets to answer, if the caller does not say.
const TIMEOUT_S: u64 = 60;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "debug_collect",
        group: "nodes",
        summary: "Gather one archive for whoever looks for a fault",
        description: "Writes one archive (tar, zstd) into the folder `debug` of the master's data \
                      folder, with a folder for each node: what it knows of itself, its metrics, \
                      its settings file, the last lines of its daemon's log, and its view of the \
                      configuration and of live jobs; from the master also the records of jobs of \
                      that time, 4 MiB at most, newest first. Secrets are in none of it: records \
                      and configuration have commitments in their place, keys are left out. The \
                      last five archives are kept. Returns `{file, node, bytes, nodes: {node: \
                      \"ok\" or why not}}`; if a node does not answer, the job fails and the \
                      archive is written without it.",
        params: &[
            Param::may("nodes", Type::Nodes, nodes::ABOUT),
            Param::may("start_date", Type::Line, "from then on: 2026-11-20T06:00:00Z; a day ago"),
            Param::may("end_date", Type::Line, "up to then; now if not given"),
            Param::may("timeout", Type::Int, "seconds per node, 1 to 600; 60"),
        ],
        examples: &[r#"{}"#, r#"{"nodes": [11], "start_date": "2026-11-20 06:00:00"}"#],
        deadline_s: Some(1800),
        always_recorded: true,
        precheck: check,
        ..Declaration::ACT
    },
    run: |run| Box::pin(debug_collect(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    for name in ["start_date", "end_date"] {
        let text = params.get(name).and_then(Value::as_str);
        if text.is_some_and(|text| journal::seconds(text).is_none()) {
            let error = invalid(name, format!("`{name}` must be a time"));
            return Err(error.hint("for example 2026-11-20T06:00:00Z or 2026-11-20 06:00:00"));
        }
    }
    within(params, "timeout", 1..=600)
}

async fn debug_collect(run: Run) -> Result<Value, JobError> {
    let nodes = nodes::find_nodes(&run, "nodes")?;
    let time = |name: &str| {
        let seconds = run.text(name).and_then(journal::seconds)?;
        seconds.checked_mul(1_000_000).map(Time)
    };
    let wish = DebugWish {
        nodes: nodes.clone(),
        from: time("start_date"),
        to: time("end_date"),
        timeout_s: run.int("timeout").and_then(|s| u64::try_from(s).ok()).unwrap_or(TIMEOUT_S),
    };
    let found = run.world().collect_debug(wish).await?;
    let why = |node: &u32| found.failed.iter().find(|(one, _)| one == node).map(|(_, why)| why);
    let ends: Map<String, Value> = nodes
        .iter()
        .map(|node| (node.to_string(), json!(why(node).map_or("ok", String::as_str))))
        .collect();
    let output = json!({
        "file": found.file,
        "node": run.world().master().0,
        "bytes": found.bytes,
        "nodes": ends,
    });
    if found.failed.is_empty() {
        return Ok(output);
    }
    let missing: Vec<u32> = found.failed.iter().map(|(node, _)| *node).collect();
    let text = format!("the archive is without {}", nodes::listed(&missing));
    Err(JobError::Partly { outcome: Outcome::Failed, text, output })
}
