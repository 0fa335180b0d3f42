//! `history_verify`: verifies the kept history against its chain of hashes.

use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Way};

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "history_verify",
        group: "history",
        summary: "Verify the kept history against its chain of hashes",
        description: "Reads every record that the master keeps and compares its hash with the \
                      chain that the cluster agreed on: a record that was changed, taken out or \
                      put in is found and named. Needs no key. `ok` is false if anything \
                      is wrong. Records that this node still fetches from other members are not \
                      wrong: `complete` is false then, and `missing` says which and why. It can \
                      take minutes where there \
                      are millions of records. `tiebeamd check` does the same offline.",
        way: Way::Long,
        deadline_s: Some(3600),
        ..Declaration::READ
    },
    run: |run| Box::pin(history_verify(run)),
};

async fn history_verify(run: Run) -> Result<Value, JobError> {
    run.world().verify_history().await
}
