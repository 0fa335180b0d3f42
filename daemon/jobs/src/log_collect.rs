//! `log_collect`: gathers what services wrote to the journal of nodes.

use crate::batch::{Batches, End, on_nodes};
use crate::error::{invalid, within};
use crate::journal::{self, interval, is_identifier, priority, seconds};
use crate::{CommandWish, Job, JobError, Run, nodes, systemctl};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type, Way};
use tiebeam_proto::RpcError;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "log_collect",
        group: "nodes",
        summary: "Gather what services wrote to the journal",
        description: "Asks each node's journal (`journalctl`). Times are `2026-11-20 04:05:06`, in \
                      UTC, or RFC 3339. Without `start_time` it looks back `default_interval`: \
                      seconds, or `1w 2d 3h 4m 5s`. `error_level` is the least severity: ERR, \
                      WARN, NOTICE, INFO, or systemd's own names. Returns `{node: {lines, \
                      truncated}}`. Always leaves a record.",
        way: Way::Long,
        params: &[
            Param::must("services", Type::Lines, "units: [sshd, chronyd]"),
            Param::may("nodes", Type::Nodes, nodes::ABOUT),
            Param::may("start_time", Type::Line, "the earliest time"),
            Param::may("stop_time", Type::Line, "the latest time"),
            Param::may("default_interval", Type::IntOrLine, "how far back; 1h if not given"),
            Param::may("error_level", Type::Line, "the least severity: ERR, WARN, NOTICE, INFO"),
            Param::may("identifier", Type::Line, "only lines with this syslog identifier"),
            Param::may("tag", Type::Line, "to go on behind the last call: not in this version"),
            Param::may("timeout_s", Type::Int, "seconds per node, 1 to 3600; 60 if not given"),
        ],
        examples: &[
            r#"{"services": ["sshd"], "default_interval": "15m"}"#,
            r#"{"services": ["sshd", "chronyd"], "nodes": [11], "error_level": "WARN",
                "start_time": "2026-11-20 04:00:00", "stop_time": "2026-11-20T05:00:00Z"}"#,
        ],
        deadline_s: Some(3700),
        always_recorded: true,
        precheck: check,
        ..Declaration::READ
    },
    run: |run| Box::pin(log_collect(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    let services = params.get("services").and_then(Value::as_array);
    let services = services.into_iter().flatten().filter_map(Value::as_str);
    let units: Option<Vec<String>> = services.map(systemctl::unit).collect();
    if units.is_none_or(|units| units.is_empty() || units.len() > 64) {
        return Err(invalid("services", "`services` must be 1 to 64 names of units"));
    }
    let wrong = |name: &str, fits: &dyn Fn(&str) -> bool| {
        params.get(name).and_then(Value::as_str).is_some_and(|text| !fits(text))
    };
    for name in ["start_time", "stop_time"] {
        if wrong(name, &|text| seconds(text).is_some()) {
            let error = invalid(name, format!("`{name}` must be a time"));
            return Err(error.hint("2026-11-20 04:05:06 (UTC) or 2026-11-20T04:05:06+01:00"));
        }
    }
    if wrong("default_interval", &|text| interval(text).is_some()) {
        let error = invalid("default_interval", "`default_interval` must be a length of time");
        return Err(error.hint("seconds, or for example 1d 12h"));
    }
    if wrong("error_level", &|text| priority(text).is_some()) {
        let error = invalid("error_level", "`error_level` must be the name of a severity");
        return Err(error.hint("ERR, WARN, NOTICE or INFO"));
    }
    if wrong("identifier", &is_identifier) {
        let text = "`identifier` must be a syslog identifier: letters, digits, _.@:/-";
        return Err(invalid("identifier", text));
    }
    if params.contains_key("tag") {
        let error = invalid("tag", "`tag`, to go on behind the last call, is not in this version");
        return Err(error.hint("give the last call's end as `start_time`"));
    }
    within(params, "timeout_s", 1..=3600)
}

async fn log_collect(run: Run) -> Result<Value, JobError> {
    let nodes = nodes::select_nodes(&run, "nodes")?;
    let argv = journal::argv(&run);
    let each = |node: u32| {
        let wish = systemctl::wish(&run, format!("log-n{node}"), node, &[]);
        let command = run.world().command(CommandWish { argv: argv.clone(), ..wish });
        Box::pin(async move {
            let gathered = command.await;
            let end = End::of(&gathered);
            let Some(record) = gathered.ok().filter(|r| r.result == "ok") else { return end };
            let lines: Vec<&str> = record.output.lines().collect();
            End { output: json!({"lines": lines, "truncated": record.truncated}), ..end }
        }) as _
    };
    on_nodes(&run, &nodes, Batches::ALL, each).await
}
