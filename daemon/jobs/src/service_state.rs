//! `service_state`: tells how a service is on nodes.

use crate::batch::{Batches, on_nodes};
use crate::{Job, JobError, Run, nodes, systemctl};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Way};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "service_state",
        group: "nodes",
        summary: "Show the state of a service on nodes",
        description: "Returns `{node: {unit, load, active, sub, pid, exit_status, enabled, \
                      since}}` as systemd tells it. A service that a node does not know is a \
                      failure, with the other nodes' states in the output.",
        way: Way::Long,
        params: systemctl::PARAMS,
        examples: &[r#"{"service": "sshd"}"#, r#"{"service": "sshd", "nodes": "rack=a"}"#],
        deadline_s: Some(3700),
        precheck: systemctl::check,
        ..Declaration::READ
    },
    run: |run| Box::pin(service_state(run)),
};

async fn service_state(run: Run) -> Result<Value, JobError> {
    let nodes = nodes::select_nodes(&run, "nodes")?;
    let service = run.text("service").and_then(systemctl::unit).unwrap_or_default();
    let each = |node: u32| {
        let (run, service) = (run.clone(), service.clone());
        Box::pin(async move { systemctl::state_on(&run, node, &service).await }) as _
    };
    on_nodes(&run, &nodes, Batches::ALL, each).await
}
