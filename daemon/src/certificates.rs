//! The certificates in use, the check of a new one, and the switch to it (jobs.md, certificates).
//!
//! State says which certificate clients are to see; this module makes the node serve it, without
//! dropping a connection, as soon as the change is applied here.

use crate::ca;
use crate::certificate::{self, CertError, Summary};
use crate::engine::Engine;
use crate::front::tls::{ClientCertificates, TlsState};
use crate::keys::Keys;
use crate::secret::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tiebeam_core::path::path;
use tiebeam_core::{State, settings, tree};
use tiebeam_jobs::JobError;
use tiebeam_jobs::world::{CertificateOffer, CheckedCertificate};

/// Days before an expiry at which warnings begin.
const WARN_DAYS: i64 = 30;

/// Why certificates could not be put into force.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// A file could not be read.
    #[error("the node's certificates cannot be read")]
    Read(#[source] ca::CaError),
    /// The stored private key cannot be opened with this node's keys.
    #[error("the private key of the certificate in ssl cannot be opened")]
    Open(#[source] crate::keys::KeyError),
    /// TLS does not take them.
    #[error("the certificates cannot be served")]
    Serve(#[source] crate::front::tls::TlsError),
    /// A stored certificate or key is not one.
    #[error("a certificate or key is malformed")]
    Malformed(#[source] CertError),
}

/// What clients are to see, as State and the data folder have it.
pub struct Serving {
    /// The chain, PEM.
    pub chain: String,
    /// Its key, PEM.
    pub key: Secret<String>,
    /// Authorities of client certificates, PEM.
    pub client_authorities: String,
    /// Whether clients are asked for one.
    pub mode: ClientCertificates,
}

/// What is to be served under `state`.
///
/// # Errors
/// A file or the stored key cannot be read.
pub fn serving(data: &Path, keys: &Keys, state: &State) -> Result<Serving, CertificatesError> {
    let text = |name: &str| {
        state.config.value(&path(&["ssl", name])).and_then(|v| v.as_str().map(str::to_owned))
    };
    let own = |name: &str| ca::read_certificate(data, name).map_err(CertificatesError::Read);
    let authority = own(ca::CA_CERTIFICATE)?;
    let sealed = state.config.get(&path(&["ssl", "key"])).map(|node| node.to_sealed_value());
    let key = match sealed.as_ref().and_then(tree::sealed_text) {
        Some(sealed) => Some(open_key(keys, sealed)?),
        None => None,
    };
    let (chain, key) = match (text("certificate"), key) {
        (Some(chain), Some(key)) => (chain, key),
        _ => {
            let chain = format!("{}{authority}", own(ca::NODE_CERTIFICATE)?);
            (chain, Secret::new(keys.node_key.expose().clone()))
        }
    };
    let client_authorities = match text("authority") {
        Some(more) => format!("{authority}{more}"),
        None => authority,
    };
    let mode = match settings::word(&state.config, "ssl", "cert_verify").as_str() {
        "required" => ClientCertificates::Required,
        "optional" => ClientCertificates::Optional,
        _ => ClientCertificates::None,
    };
    Ok(Serving { chain, key, client_authorities, mode })
}

fn open_key(keys: &Keys, sealed: &str) -> Result<Secret<String>, CertificatesError> {
    let opened = keys.cluster.open(sealed).map_err(CertificatesError::Open)?;
    // What was sealed is canonical JSON: a text with quotes.
    let text: String = serde_json::from_slice(opened.expose()).unwrap_or_default();
    Ok(Secret::new(text))
}

/// What rustls takes.
type Parts = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Vec<CertificateDer<'static>>);

fn parts(serving: &Serving) -> Result<Parts, CertificatesError> {
    let chain = certificate::chain_from_pem(&serving.chain, "cert");
    let authorities = certificate::chain_from_pem(&serving.client_authorities, "ca");
    let key = PrivateKeyDer::from_pem_slice(serving.key.expose().as_bytes());
    let key = key.map_err(|_| CertificatesError::Malformed(CertError::Key))?;
    Ok((
        chain.map_err(CertificatesError::Malformed)?,
        key,
        authorities.map_err(CertificatesError::Malformed)?,
    ))
}

/// TLS for `state`.
///
/// # Errors
/// See [`CertificatesError`].
pub fn tls(data: &Path, keys: &Keys, state: &State) -> Result<Arc<TlsState>, CertificatesError> {
    let serving = serving(data, keys, state)?;
    let (chain, key, authorities) = parts(&serving)?;
    let made = TlsState::new(chain, key, &authorities, serving.mode);
    let made = made.map_err(CertificatesError::Serve)?;
    serve_joining(data, keys, &made)?;
    Ok(Arc::new(made))
}

/// To nodes that join, the node's own certificate is shown, with the authority that issued it.
fn serve_joining(data: &Path, keys: &Keys, tls: &TlsState) -> Result<(), CertificatesError> {
    let own = |name: &str| ca::read_certificate(data, name).map_err(CertificatesError::Read);
    let authority = own(ca::CA_CERTIFICATE)?;
    let own = Serving {
        chain: format!("{}{authority}", own(ca::NODE_CERTIFICATE)?),
        key: Secret::new(keys.node_key.expose().clone()),
        client_authorities: authority,
        mode: ClientCertificates::None,
    };
    let (chain, key, _) = parts(&own)?;
    tls.serve_joining(chain, key).map_err(CertificatesError::Serve)
}

fn switch(engine: &Engine, state: &State) -> Result<(), CertificatesError> {
    let serving = serving(&engine.data, &engine.keys, state)?;
    let (chain, key, authorities) = parts(&serving)?;
    let replaced = engine.tls.replace(chain, key, &authorities, serving.mode);
    replaced.map_err(CertificatesError::Serve)?;
    serve_joining(&engine.data, &engine.keys, &engine.tls)
}

/// Serves what the newest State and the files say: a certificate or a key is another one now.
pub fn refresh(engine: &Engine) {
    if let Err(error) = switch(engine, &engine.board.state()) {
        tracing::error!(error = %crate::report::chain(&error), "certificates not switched");
    }
}

/// The revision of the section `ssl`.
fn ssl_revision(state: &State) -> Option<u64> {
    state.config.revision_at(&path(&["ssl"]))
}

/// Serves what the newest State says, and gives the revision of its section `ssl`. For the start:
/// the snapshot, with which [`tls`] was made, may be older than the log.
///
/// # Errors
/// See [`CertificatesError`].
pub fn catch_up(engine: &Engine) -> Result<Option<u64>, CertificatesError> {
    let state = engine.board.state();
    switch(engine, &state)?;
    Ok(ssl_revision(&state))
}

/// Follows the section `ssl` of State, of which `served` is in force, and serves what it says,
/// until the node stops.
pub async fn follow(engine: Arc<Engine>, mut served: Option<u64>) {
    let mut changes = engine.board.follow_cluster();
    loop {
        let state = engine.board.state();
        let newest = ssl_revision(&state);
        if newest != served {
            served = newest;
            match switch(&engine, &state) {
                Ok(()) => tracing::info!(revision = state.revision, "serving other certificates"),
                Err(error) => {
                    let error = crate::report::chain(&error);
                    tracing::error!(%error, "certificates not switched");
                }
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

/// Checks a certificate that somebody wants served.
///
/// # Errors
/// What is wrong, naming the parameter.
pub fn check(engine: &Engine, offer: &CertificateOffer) -> Result<CheckedCertificate, JobError> {
    let key = Secret::new(offer.key.clone());
    let own_ca = ca::read_certificate(&engine.data, ca::CA_CERTIFICATE).ok();
    let ca = offer.ca.clone().or(own_ca);
    let authority = ca.as_deref().filter(|_| offer.verify);
    let now = crate::proposer::wall_now();
    let (names, force) = (&offer.names, offer.force);
    let checked =
        certificate::check_server_certificate(&key, &offer.cert, authority, names, force, now);
    match checked {
        Ok(summary) => Ok(CheckedCertificate { facts: describe(&summary), warnings: Vec::new() }),
        Err(error) => {
            let text = format!("`{}`: {}", error.field(), crate::report::chain(&error));
            Err(JobError::Failed(text))
        }
    }
}

fn describe(summary: &Summary) -> Value {
    json!({
        "subject": summary.subject,
        "issuer": summary.issuer,
        "names": summary.sans,
        "not_before": summary.not_before,
        "not_after": summary.not_after,
        "fingerprint": summary.fingerprint,
    })
}

fn first_of(pem: &str) -> Option<Summary> {
    certificate::summaries_from_pem(pem).ok()?.into_iter().next()
}

/// The certificates in use, without keys.
pub fn facts(engine: &Engine) -> Value {
    let state = engine.board.state();
    let read = |name: &str| {
        let pem = ca::read_certificate(&engine.data, name).ok()?;
        first_of(&pem).as_ref().map(describe)
    };
    let own = state.config.value(&path(&["ssl", "certificate"]));
    let own = own.as_ref().and_then(|pem| first_of(pem.as_str()?));
    let node = read(ca::NODE_CERTIFICATE);
    json!({
        "clients": own.as_ref().map(describe).or_else(|| node.clone()),
        "node": node,
        "authority": read(ca::CA_CERTIFICATE),
        "cert_verify": settings::word(&state.config, "ssl", "cert_verify"),
    })
}

/// Warnings of certificates that end soon.
pub fn warnings(engine: &Engine) -> Vec<String> {
    let all = facts(engine);
    let soon = crate::proposer::wall_now().0 + WARN_DAYS * 86_400 * 1_000_000;
    ["clients", "node", "authority"]
        .into_iter()
        .filter_map(|name| {
            let until = tiebeam_proto::time::Time::parse(all[name]["not_after"].as_str()?)?;
            (until.0 < soon).then(|| format!("the certificate `{name}` ends at {until}"))
        })
        .collect()
}
