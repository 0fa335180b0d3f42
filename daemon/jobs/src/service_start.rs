//! `service_start`: starts a service on nodes.

use crate::{Job, systemctl};
use tiebeam_core::declaration::Declaration;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "service_start",
        group: "nodes",
        summary: "Start a service on nodes",
        description: "Waits until systemd has started it. A service that ended at once is a \
                      failure. Returns, for each node, the state of the service after: \
                      `{node: {unit, load, active, sub, pid, exit_status, enabled, since}}`. \
                      If one node fails, the job fails and its text names the node.",
        params: systemctl::PARAMS,
        examples: &[r#"{"service": "chronyd", "nodes": [11, 12]}"#],
        locks: systemctl::write_lock,
        precheck: systemctl::check,
        ..Declaration::ACT
    },
    run: |run| Box::pin(systemctl::act(run, "start")),
};
