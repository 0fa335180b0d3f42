//! `group_list`: lists the groups.

use crate::users;
use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::Declaration;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "group_list",
        group: "users",
        summary: "List the groups",
        description: "Returns one entry per group, by name: `{id}`. root and exaadm administer; \
                      monitor reads /metrics; auditor sees every job's record; exadbadm, \
                      exastoradm, exabfsadm and exausers are kept for the jobs of later versions.",
        ..Declaration::READ
    },
    run: |run| Box::pin(group_list(run)),
};

async fn group_list(run: Run) -> Result<Value, JobError> {
    Ok(Value::Object(users::entries(&run.state(), "groups")))
}
