//! `cert_update`: puts another certificate in place for clients.

use crate::world::CertificateOffer;
use crate::{Job, JobError, Run, nodes};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Secrecy, Type};
use tiebeam_core::lock::Lock;
use tiebeam_core::path::path;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "cert_update",
        group: "certificates",
        summary: "Put another certificate in place for clients",
        description: "Checks before it switches: the key fits the certificate, it is valid now, \
                      the chain holds, and it covers every member's advertised address. All nodes \
                      then show it to new connections; open ones stay. The key is sealed and \
                      shown to nobody. Between nodes the cluster's own certificates are used, \
                      whatever stands here. Returns the certificate's facts.",
        params: &[
            Param::must("key", Type::Text, "private key, PEM").secret(Secrecy::Secret),
            Param::must("cert", Type::Text, "certificate, then its chain, PEM; one is fine"),
            Param::may("ca", Type::Text, "authority that it leads to, PEM"),
            Param::may("verify_cert", Type::Bool, "false: the chain is not checked; true"),
            Param::may("force", Type::Bool, "true: take it although names are missing; false"),
        ],
        examples: &[r#"{"key": "-----BEGIN PRIVATE KEY-----\n…",
                "cert": "-----BEGIN CERTIFICATE-----\n…"}"#],
        locks: |_| vec![Lock::write("ssl")],
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(cert_update(run)),
};

async fn cert_update(run: Run) -> Result<Value, JobError> {
    let text = |name: &str| run.text(name).unwrap_or_default().to_owned();
    let offer = CertificateOffer {
        key: text("key"),
        cert: text("cert"),
        ca: run.text("ca").map(str::to_owned),
        names: hosts(&run),
        verify: run.flag("verify_cert", true),
        force: run.flag("force", false),
    };
    let checked = run.world().check_certificate(&offer)?;
    checked.warnings.into_iter().for_each(|warning| run.warn(warning));
    run.set(&path(&["ssl", "certificate"]), json!(offer.cert))?;
    let authority = path(&["ssl", "authority"]);
    match &offer.ca {
        Some(ca) => run.set(&authority, json!(ca))?,
        None if run.has(&authority) => run.remove(&authority)?,
        None => {}
    }
    run.set_secret(&path(&["ssl", "key"]), &json!(offer.key))?;
    Ok(checked.facts)
}

/// The hosts of the members' advertised addresses.
fn hosts(run: &Run) -> Vec<String> {
    let host = |entry: &Value| {
        let (host, _) = entry["address"].as_str()?.rsplit_once(':')?;
        Some(host.trim_start_matches('[').trim_end_matches(']').to_owned())
    };
    nodes::members(run).values().filter_map(host).collect()
}
