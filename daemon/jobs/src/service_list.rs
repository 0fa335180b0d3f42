//! `service_list`: lists the services of nodes.

use crate::batch::{Batches, End, on_nodes};
use crate::error::within;
use crate::{Job, JobError, Run, nodes, systemctl};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Param, Type, Way};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "service_list",
        group: "nodes",
        summary: "List the services of nodes",
        description: "Returns `{node: [{unit, load, active, sub, description}]}`: every service \
                      that systemd has loaded, running or not. A list too long for a record is \
                      cut in its middle, with a warning.",
        way: Way::Long,
        params: &[
            Param::may("nodes", Type::Nodes, nodes::ABOUT),
            Param::may("timeout_s", Type::Int, "seconds per node, 1 to 3600; 60 if not given"),
        ],
        examples: &["{}", r#"{"nodes": [11]}"#],
        deadline_s: Some(3700),
        precheck: |params| within(params, "timeout_s", 1..=3600),
        ..Declaration::READ
    },
    run: |run| Box::pin(service_list(run)),
};

async fn service_list(run: Run) -> Result<Value, JobError> {
    let nodes = nodes::select_nodes(&run, "nodes")?;
    let each = |node: u32| {
        let run = run.clone();
        Box::pin(async move { list_on(&run, node).await }) as _
    };
    on_nodes(&run, &nodes, Batches::ALL, each).await
}

async fn list_on(run: &Run, node: u32) -> End {
    let argv = [
        "systemctl",
        "list-units",
        "--type=service",
        "--all",
        "--no-legend",
        "--plain",
        "--no-pager",
    ];
    let listed = run.command(systemctl::wish(run, format!("list-n{node}"), node, &argv)).await;
    let end = End::of(&listed);
    let Some(record) = listed.ok().filter(|record| record.result == "ok") else { return end };
    if record.truncated {
        run.warn(format!("the list of node {node} is not complete"));
    }
    End { output: systemctl::read_list(&record), ..end }
}
