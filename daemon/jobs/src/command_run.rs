//! `command_run`: runs a program on nodes.

use crate::batch::{Batches, End, on_nodes};
use crate::error::{invalid, within};
use crate::{CommandWish, Job, JobError, Run, nodes};
use serde_json::Value;
use std::collections::BTreeMap;
use tiebeam_core::declaration::{Declaration, Param, Params, Secrecy, Type};
use tiebeam_proto::RpcError;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "command_run",
        group: "nodes",
        summary: "Run a program on nodes",
        description: "Runs `argv` on each node, never through a shell, and waits for the end. Only \
                      programs that `exec.allow` names, as users that `exec.users` names, in each \
                      node's own settings file. With `batch` the nodes are done in groups, one \
                      group after the other; once `stop_after_failures` nodes have failed, no \
                      further group is begun. Returns `{node: {result, status, output, \
                      output_bytes, truncated}}`; a node that was not reached has the result \
                      `not_run`. If one node fails, the job fails and its text names the node. \
                      `env` and `stdin` are kept as commitments only; `argv` is kept in clear, so \
                      give secrets by `stdin`.",
        params: &[
            Param::must("argv", Type::Lines, "program and arguments; the program by its full path"),
            Param::may("nodes", Type::Nodes, nodes::ABOUT),
            Param::may("user", Type::Name, "OS user; the first of exec.users if not given"),
            Param::may("cwd", Type::Line, "working folder, by its full path"),
            Param::may("env", Type::Dict, "variables added to a clean environment, as texts")
                .secret(Secrecy::Secret),
            Param::may("stdin", Type::Text, "what the program reads").secret(Secrecy::Secret),
            Param::may("timeout_s", Type::Int, "seconds per node, 1 to 86400; 300 if not given"),
            Param::may("output_bytes_max", Type::Int, "bytes of output that are kept per node"),
            Param::may("batch", Type::IntOrLine, "nodes at once: a number or \"20%\"; else all"),
            Param::may("stop_after_failures", Type::Int, "begin no group after so many failures"),
        ],
        examples: &[
            r#"{"argv": ["/usr/bin/uptime"]}"#,
            r#"{"argv": ["/usr/bin/systemctl", "is-system-running"], "nodes": ["rack=a", 13],
                "batch": "20%", "stop_after_failures": 1, "timeout_s": 30}"#,
        ],
        precheck: check,
        ..Declaration::ACT
    },
    run: |run| Box::pin(command_run(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    let program = params.get("argv").and_then(|argv| argv.get(0)?.as_str()).unwrap_or_default();
    if !program.starts_with('/') {
        let error = invalid("argv", "`argv` must begin with a program's full path");
        return Err(error.hint("for example [\"/usr/bin/uptime\"]"));
    }
    if params.get("cwd").and_then(Value::as_str).is_some_and(|cwd| !cwd.starts_with('/')) {
        return Err(invalid("cwd", "`cwd` must be a full path"));
    }
    for (name, value) in params.get("env").and_then(Value::as_object).into_iter().flatten() {
        if !is_variable(name) {
            let text = "a variable's name must have letters, digits and _ only, and not be LD_…";
            return Err(invalid("env", text).hint("LD_… would run other code than exec.allow"));
        }
        if value.as_str().is_none_or(|text| text.contains('\0')) {
            return Err(invalid("env", "a variable's value must be a text"));
        }
    }
    let batch = params.get("batch").and_then(Value::as_str);
    if batch.is_some_and(|text| Batches::size_of(text, 1).is_none()) {
        return Err(invalid("batch", "`batch` must be a number of nodes or a share: 3 or \"20%\""));
    }
    within(params, "timeout_s", 1..=86_400)?;
    within(params, "output_bytes_max", 0..=1 << 30)?;
    within(params, "stop_after_failures", 1..=i64::MAX)
}

fn is_variable(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(word)
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !name.starts_with("LD_")
}

async fn command_run(run: Run) -> Result<Value, JobError> {
    let nodes = nodes::select_nodes(&run, "nodes")?;
    let number = |name: &str| run.int(name).and_then(|number| u64::try_from(number).ok());
    let count = |name: &str| run.int(name).and_then(|number| usize::try_from(number).ok());
    let size = run.text("batch").and_then(|text| Batches::size_of(text, nodes.len()));
    let batches = Batches {
        size: size.unwrap_or(usize::MAX),
        failures_max: count("stop_after_failures").unwrap_or(usize::MAX),
    };
    let env: BTreeMap<String, String> = run
        .param("env")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let wish = CommandWish {
        argv: run.texts("argv"),
        user: run.text("user").map(str::to_owned),
        cwd: run.text("cwd").map(str::to_owned),
        env,
        stdin: run.text("stdin").unwrap_or_default().to_owned(),
        timeout_s: number("timeout_s").unwrap_or(300),
        output_bytes_max: number("output_bytes_max"),
        ..CommandWish::default()
    };
    let each = |node: u32| {
        let wish = CommandWish { key: format!("run-n{node}"), node, ..wish.clone() };
        let command = run.world().command(wish);
        Box::pin(async move { End::of(&command.await) }) as _
    };
    on_nodes(&run, &nodes, batches, each).await
}
