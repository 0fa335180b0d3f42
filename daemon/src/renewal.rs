//! Node certificates renew themselves (ruling 40): at two thirds of its life a node asks the master
//! for another one, with the key that it has, and goes over to it without a restart.
//!
//! Peers know each other by the hash of that key, so a node whose certificate has expired still
//! reaches the master and is renewed too. The master signs with the key of the authority, which
//! every voter has; a sole voter so renews itself. What is written and served here is this node's.

use crate::ca::{self, Authority, CaError};
use crate::certificate::{Holder, Summary, summaries_from_pem};
use crate::certificates;
use crate::cluster::remote::{self, RemoteError};
use crate::engine::Engine;
use crate::identity::{self, Identity};
use crate::peer::PeerTlsError;
use crate::proposer::wall_now;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::State;
use tiebeam_core::member::incarnation;

/// How often the certificate is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Pause after a renewal that failed.
const AGAIN: Duration = Duration::from_secs(30);
/// Pause while there may be no master yet, and how often.
const AT_THE_START: (Duration, u32) = (Duration::from_secs(1), 30);
/// Warnings are logged every so many looks.
const WARN_EVERY: u32 = 24;
/// Hosts beside the address that a certificate is made out to.
const HOSTS_MAX: usize = 8;

/// What a node asks for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Wish {
    /// A certificate request (PEM), which proves that it has the key.
    pub request: String,
    /// Hosts, without port, that the certificate is to be valid for beside its address.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// A certificate or key cannot be read, made or written.
    #[error("a certificate cannot be made or kept")]
    Certificate(#[source] CaError),
    /// The one that is there, or the new one, cannot be read.
    #[error("the {0} certificate is none of this node")]
    Foreign(&'static str),
    /// This node does not have the key of the authority.
    #[error("this node does not have the authority's key yet")]
    NoAuthority,
    /// It is asked for by somebody whom State does not know with that key.
    #[error("the request is not by the member's own key")]
    NotAMember,
    /// Dates would be made from a wall clock that is not believed (ruling 22).
    #[error("the wall clock of this node is suspect: put it right, or accept it with clock_accept")]
    Clock,
    /// The master gave none.
    #[error("the master was asked in vain")]
    Remote(#[source] RemoteError),
    /// Peers cannot be shown the new one.
    #[error("the new certificate cannot be used")]
    Peers(#[source] PeerTlsError),
}

/// Renews this node's certificate whenever it is due, and warns of every one that ends soon.
pub async fn keep(engine: Arc<Engine>) {
    let (mut looks, mut failed) = (0_u32, 0_u32);
    loop {
        let pause = match renew_if_due(&engine).await {
            Ok(()) => LOOK_EVERY,
            Err(error) => {
                let why = crate::report::chain(&error);
                failed += 1;
                if failed < AT_THE_START.1 {
                    tracing::debug!(why, "the node's certificate is not renewed yet");
                    AT_THE_START.0
                } else {
                    tracing::warn!(why, "the node's certificate is not renewed");
                    AGAIN
                }
            }
        };
        if pause == LOOK_EVERY {
            warn(&engine, looks);
            (looks, failed) = (looks.wrapping_add(1), 0);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

fn warn(engine: &Engine, looks: u32) {
    if looks.is_multiple_of(WARN_EVERY) {
        for warning in certificates::warnings(engine) {
            tracing::warn!("{warning}");
        }
    }
}

fn first_of(pem: &str, which: &'static str) -> Result<Summary, RenewalError> {
    let all = summaries_from_pem(pem).map_err(|_| RenewalError::Foreign(which))?;
    all.into_iter().next().ok_or(RenewalError::Foreign(which))
}

async fn renew_if_due(engine: &Engine) -> Result<(), RenewalError> {
    let read = |name| ca::read_certificate(&engine.data, name).map_err(RenewalError::Certificate);
    let old = first_of(&read(ca::NODE_CERTIFICATE)?, "present")?;
    if !ca::is_renewal_due(&old, wall_now()) {
        return Ok(());
    }
    check_clock(engine)?;
    let key = &engine.keys.node_key;
    let wish = Wish {
        request: ca::certificate_request(key).map_err(RenewalError::Certificate)?,
        hosts: engine.settings.load().hosts(),
    };
    let pem = match engine.is_master() {
        true => issue(engine, engine.identity.raft_id(), &wish)?,
        false => {
            let told = remote::certificate(&engine.cluster, &wish).await;
            String::from_utf8_lossy(&told.map_err(RenewalError::Remote)?).into_owned()
        }
    };
    let new = first_of(&pem, "new")?;
    let Identity { cluster_id, node_id, incarnation, .. } = &engine.identity;
    let own = Holder::Node { node_id: *node_id, incarnation: *incarnation };
    if new.key_hash != old.key_hash || new.holder(cluster_id) != own {
        return Err(RenewalError::Foreign("new"));
    }
    let authority = read(ca::CA_CERTIFICATE)?;
    engine.peer_tls.replace(&pem, key, &authority).map_err(RenewalError::Peers)?;
    ca::write_certificate(&engine.data, ca::NODE_CERTIFICATE, &pem)
        .map_err(RenewalError::Certificate)?;
    certificates::refresh(engine);
    tracing::info!(until = %new.not_after, before = %old.not_after, "certificate renewed");
    Ok(())
}

fn check_clock(engine: &Engine) -> Result<(), RenewalError> {
    match engine.cluster.clocks.is_suspect(&engine.board.state()) {
        true => Err(RenewalError::Clock),
        false => Ok(()),
    }
}

/// A certificate for a member, signed here; its name and address are those of the configuration.
///
/// # Errors
/// [`RenewalError`]: this node cannot sign, or the key is not the one that State knows.
pub fn issue(engine: &Engine, raft_id: u64, wish: &Wish) -> Result<String, RenewalError> {
    check_clock(engine)?;
    let (public_key, key_hash) =
        ca::requested_key(&wish.request).map_err(RenewalError::Certificate)?;
    let state = engine.board.state();
    let (node, _) = state
        .member_of(raft_id)
        .filter(|(_, member)| is_same_key(&member.key_hash, &key_hash))
        .ok_or(RenewalError::NotAMember)?;
    let entry = state.config.value(&State::node_path(node)).unwrap_or_default();
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let node = Identity {
        format: identity::FORMAT,
        cluster_id: state.cluster.id.clone(),
        node_id: node,
        incarnation: u32::from(incarnation(raft_id)),
        name: text("name"),
    };
    let mut hosts: Vec<String> = wish.hosts.iter().take(HOSTS_MAX).cloned().collect();
    let address = text("address");
    hosts.extend(crate::settings::host_and_port(&address).map(|(host, _)| host.to_owned()));
    let key = engine.keys.authority_key().ok_or(RenewalError::NoAuthority)?;
    let ca = ca::read_certificate(&engine.data, ca::CA_CERTIFICATE);
    let authority = ca.and_then(|ca| Authority::new(&ca, key));
    let authority = authority.map_err(RenewalError::Certificate)?;
    authority.issue_node(&public_key, &node, &hosts, wall_now()).map_err(RenewalError::Certificate)
}

/// Hashes of keys are kept with and without the name of the function.
fn is_same_key(one: &str, other: &str) -> bool {
    let hex = |text: &str| text.strip_prefix("sha256:").unwrap_or(text).to_owned();
    hex(one) == hex(other)
}

/// When certificates end, in seconds since 1970, for `/metrics`: name, and 0 if there is none.
pub fn ends(engine: &Engine) -> [(&'static str, u64); 3] {
    let facts = certificates::facts(engine);
    let end = |name: &str| {
        let text = facts[name]["not_after"].clone();
        let time: Option<tiebeam_proto::time::Time> = match text {
            Value::String(text) => tiebeam_proto::time::Time::parse(&text),
            _ => None,
        };
        time.and_then(|time| u64::try_from(time.0 / 1_000_000).ok()).unwrap_or(0)
    };
    [("node", end("node")), ("clients", end("clients")), ("authority", end("authority"))]
}
