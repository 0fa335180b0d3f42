//! `cert_info`: shows the certificates in use.

use crate::{Job, JobError, Run};
use serde_json::Value;
use tiebeam_core::declaration::Declaration;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "cert_info",
        group: "certificates",
        summary: "Show the certificates in use",
        description: "Returns the facts of the certificate that clients see, of this node's own, \
                      and of the cluster's authority: subject, names, validity, fingerprint. \
                      node_info tells when another node's expires.",
        ..Declaration::READ
    },
    run: |run| Box::pin(cert_info(run)),
};

async fn cert_info(run: Run) -> Result<Value, JobError> {
    Ok(run.world().certificates())
}
