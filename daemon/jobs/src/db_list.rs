//! `db_list`: lists the databases; there are none before the database pack (ruling 47).

use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::Declaration;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "db_list",
        group: "database",
        summary: "List the databases",
        description: "Returns an empty list: this version manages no databases. It is here because \
                      clients written for ConfD call it first.",
        everyone: true,
        ..Declaration::READ
    },
    run: |run| Box::pin(db_list(run)),
};

async fn db_list(_: Run) -> Result<Value, JobError> {
    Ok(json!([]))
}
