//! `tiebeamd join`: makes this machine a member of a cluster that is there (wire.md section 10).
//!
//! The node's key is made first and kept: a join that failed is run again with the same one, and
//! the master knows the node by it. While it is under way a file in the folder says so; the
//! identity comes last, and a folder without one is no node.

use super::dial::{self, DialError, Post};
use super::token::Token;
use super::{JoinAnswer, JoinRequest};
use crate::ca::{self, CaError};
use crate::certificate::{Holder, Summary, chain_from_pem};
use crate::disk::{DataDisk, SystemRng};
use crate::durable::{self, DurableError};
use crate::identity::{self, Identity, IdentityError};
use crate::keys::{self, KeyError, Keys};
use crate::secret::Secret;
use crate::settings::{self, Settings};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiebeam_core::State;
use tiebeam_core::state::FEATURE_LEVEL;
use tiebeam_replica::Mark;
use tiebeam_replica::log::LogSettings;
use tiebeam_replica::membership::Membership;
use tiebeam_replica::recovery::{self, LOG_FOLDER, RecoveryError, SNAPSHOT_FOLDER};
use tiebeam_replica::snapshot::SnapshotMeta;
use tokio::time::Instant;

/// The file that says that a join is under way.
const MARKER: &str = "joining";
/// Redirects that are followed: the master may move meanwhile.
const REDIRECTS_MAX: u32 = 5;
/// How long it is tried again while there is no master.
const AGAIN_FOR: Duration = Duration::from_secs(30);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// What `join` was asked for.
pub struct Join {
    /// The data folder.
    pub data: PathBuf,
    /// The node's id.
    pub node_id: u32,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What others are told, if it is not that.
    pub advertise: Option<String>,
    /// `host:port` of any member; it says who the master is.
    pub master: String,
    /// The token's text.
    pub token: Secret<String>,
}

/// What became of it.
#[derive(Debug)]
pub struct Joined {
    /// The cluster's name.
    pub cluster: String,
    /// The node's id.
    pub node_id: u32,
}

/// Why the node is no member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Something that was given does not fit.
    #[error("{0}")]
    Given(String),
    /// There is something else in the folder.
    #[error("{} is not empty: join makes a new node and destroys nothing", .0.display())]
    NotEmpty(PathBuf),
    /// The folder cannot be used.
    #[error("cannot use the folder {}", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// A key cannot be made or kept.
    #[error("the keys cannot be kept")]
    Keys(#[source] KeyError),
    /// A certificate cannot be asked for or kept.
    #[error("the certificates cannot be kept")]
    Certificates(#[source] CaError),
    /// The cluster was not reached.
    #[error("the cluster cannot be asked")]
    Dial(#[source] DialError),
    /// The master does not let it in.
    #[error("the cluster refuses: {0}")]
    Refused(String),
    /// Nobody could say who the master is.
    #[error("the cluster has no master that answers: {0}")]
    NoMaster(String),
    /// The answer does not fit together.
    #[error("the master's answer cannot be used: {0}")]
    Answer(&'static str),
    /// A file cannot be written.
    #[error("a file cannot be written")]
    Write(#[source] DurableError),
    /// The first snapshot or log cannot be written.
    #[error("the first snapshot and log cannot be written")]
    Replica(#[source] RecoveryError),
    /// The identity cannot be written.
    #[error("the identity cannot be written")]
    Identity(#[source] IdentityError),
}

/// Joins.
///
/// # Errors
/// See [`JoinError`]; it may be run again, with the same token as long as that is good.
pub async fn join(asked: &Join) -> Result<Joined, JoinError> {
    check(asked)?;
    let token = Token::read(asked.token.expose()).ok_or_else(|| {
        JoinError::Given("the token is none: it is the text that node_token returned".to_owned())
    })?;
    let settings = Settings {
        listen: asked.listen,
        advertise: asked.advertise.clone(),
        ..Settings::default()
    };
    begin(&asked.data)?;
    let key = Keys::joining(&asked.data).map_err(JoinError::Keys)?;
    let request = JoinRequest {
        token: asked.token.expose().trim().to_owned(),
        node_id: Some(asked.node_id),
        name: asked.name.clone(),
        address: settings.advertised(),
        hosts: settings.hosts(),
        request: ca::certificate_request(&key).map_err(JoinError::Certificates)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: FEATURE_LEVEL,
    };
    let answer = ask(&asked.master, &token, &request).await?;
    let found = verify(asked, &token, &key, &answer)?;
    write(asked, &settings, &answer, found)?;
    Ok(Joined { cluster: answer.cluster_name, node_id: answer.node_id })
}

fn check(asked: &Join) -> Result<(), JoinError> {
    let given = |text: &str| Err(JoinError::Given(text.to_owned()));
    if asked.node_id == 0 || asked.node_id > 0xffff {
        return given("--node-id must be from 1 to 65535");
    }
    if !identity::is_node_name(&asked.name) {
        return given("--name must have 1 to 63 letters, digits, dots or dashes");
    }
    if asked.listen.ip().is_unspecified() && asked.advertise.is_none() {
        return given("--advertise HOST:PORT is needed when --listen is every address");
    }
    let advertised = asked.advertise.as_deref();
    if advertised.is_some_and(|text| settings::host_and_port(text).is_none()) {
        return given("--advertise must be HOST:PORT");
    }
    Ok(())
}

/// Makes the folder, or cleans up what a join that failed left behind. Its key stays.
fn begin(data: &Path) -> Result<(), JoinError> {
    let failed = |error| JoinError::Folder(data.to_owned(), error);
    let marker = data.join(MARKER);
    durable::make_folder(data, 0o700).map_err(JoinError::Write)?;
    if !marker.exists() {
        if std::fs::read_dir(data).map_err(failed)?.next().is_some() {
            return Err(JoinError::NotEmpty(data.to_owned()));
        }
        let text = "A join began here and has not ended: run tiebeamd join again.\n";
        return durable::write_new(&marker, text.as_bytes(), 0o600).map_err(JoinError::Write);
    }
    if data.join(identity::FILE).exists() {
        return Err(JoinError::NotEmpty(data.to_owned()));
    }
    for folder in [LOG_FOLDER, SNAPSHOT_FOLDER] {
        match std::fs::remove_dir_all(data.join(folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Asks the master, wherever it is, until it answers.
async fn ask(master: &str, token: &Token, request: &JoinRequest) -> Result<JoinAnswer, JoinError> {
    let body = serde_json::to_vec(request).map_err(|_| JoinError::Answer("no request"))?;
    let body = bytes::Bytes::from(body);
    let until = Instant::now() + AGAIN_FOR;
    let mut address = master.to_owned();
    let mut redirects = 0;
    loop {
        let (pin, body) = (&token.pin, body.clone());
        let post = Post { address: &address, pin, path: "/join", authorization: None, body };
        let (why, last) = match dial::post(post).await {
            Ok(reply) if reply.status == 200 => {
                let answer = serde_json::from_slice(&reply.body);
                return answer.map_err(|_| JoinError::Answer("it is not of the form it must have"));
            }
            Ok(reply) if reply.status == 302 && redirects < REDIRECTS_MAX => {
                redirects += 1;
                let there = reply.location.as_deref().and_then(address_in);
                address = there.ok_or(JoinError::Answer("its redirect names no address"))?;
                continue;
            }
            Ok(reply) if [302, 503].contains(&reply.status) => (text_of(&reply.body), None),
            Ok(reply) => return Err(JoinError::Refused(text_of(&reply.body))),
            Err(error @ (DialError::Address(_) | DialError::Tls(..) | DialError::Setup(_))) => {
                return Err(JoinError::Dial(error));
            }
            Err(error) => (error.to_string(), Some(error)),
        };
        if Instant::now() >= until {
            return Err(last.map_or(JoinError::NoMaster(why), JoinError::Dial));
        }
        // The member that was named knows who the master is now.
        (address, redirects) = (master.to_owned(), 0);
        tokio::time::sleep(PAUSE).await;
    }
}

/// `host:port` of `https://host:port/…`.
fn address_in(location: &str) -> Option<String> {
    let rest = location.strip_prefix("https://")?;
    rest.split('/').next().map(str::to_owned)
}

/// What a refusal says: the JSON's error, or the line.
fn text_of(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match value["error"].as_str() {
        Some(text) => text.to_owned(),
        None => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    }
}

/// What the answer holds beside texts.
struct Found {
    identity: Identity,
    snapshot: Vec<u8>,
    meta: SnapshotMeta,
}

/// Whether everything in the answer is about this node and fits together.
fn verify(
    asked: &Join,
    token: &Token,
    key: &Secret<String>,
    answer: &JoinAnswer,
) -> Result<Found, JoinError> {
    let wrong = |what: &'static str| JoinError::Answer(what);
    let identity = Identity {
        format: identity::FORMAT,
        cluster_id: answer.cluster_id.clone(),
        node_id: answer.node_id,
        incarnation: answer.incarnation,
        name: asked.name.clone(),
    };
    let authority = chain_from_pem(&answer.ca, "ca").map_err(|_| wrong("no authority"))?;
    if !authority.first().is_some_and(|one| token.pin.fits(one.as_ref())) {
        return Err(wrong("its authority is not the one of the token"));
    }
    let chain = chain_from_pem(&answer.certificate, "cert");
    let chain = chain.map_err(|_| wrong("no certificate"))?;
    let own = chain.first().and_then(|one| Summary::of(one).ok());
    let own = own.ok_or_else(|| wrong("no certificate"))?;
    let (node_id, incarnation) = (identity.node_id, identity.incarnation);
    let is_own_key = ca::key_hash(key).map_err(JoinError::Certificates)? == own.key_hash;
    if !is_own_key || own.holder(&identity.cluster_id) != (Holder::Node { node_id, incarnation }) {
        return Err(wrong("its certificate is not for this node"));
    }
    let snapshot = STANDARD.decode(&answer.snapshot).map_err(|_| wrong("no snapshot"))?;
    let state = tiebeam_core::snapshot::decode(&snapshot).map_err(|_| wrong("no snapshot"))?;
    let seat = state.members.get(&node_id).map(|member| member.raft_id);
    let fits = state.cluster.id == identity.cluster_id && seat == Some(identity.raft_id());
    if !fits || (state.applied, state.term) != (answer.index, answer.term) {
        return Err(wrong("its snapshot does not hold this node"));
    }
    let mark = Mark { index: answer.index, term: answer.term };
    let meta = SnapshotMeta { mark, membership: membership(&state) };
    Ok(Found { identity, snapshot, meta })
}

fn membership(state: &State) -> Membership {
    let (voters, learners): (Vec<_>, Vec<_>) =
        state.members.values().partition(|member| member.voter);
    let ids = |members: Vec<&tiebeam_core::state::Member>| {
        members.into_iter().map(|member| member.raft_id).collect()
    };
    Membership { voters: ids(voters), learners: ids(learners) }
}

/// Writes everything; the identity comes last.
fn write(
    asked: &Join,
    settings: &Settings,
    answer: &JoinAnswer,
    found: Found,
) -> Result<(), JoinError> {
    let data = &asked.data;
    let cluster_key = Secret::new(answer.cluster_key.clone());
    Keys::keep_cluster(data, &cluster_key).map_err(JoinError::Keys)?;
    let keep = |name: &str, pem: &str| {
        ca::write_certificate(data, name, pem).map_err(JoinError::Certificates)
    };
    keep(ca::CA_CERTIFICATE, &answer.ca)?;
    keep(ca::NODE_CERTIFICATE, &answer.certificate)?;
    let text = settings::text::file_text(settings);
    durable::replace(&data.join(settings::FILE), text.as_bytes(), 0o600)
        .map_err(JoinError::Write)?;
    let (disk, rng) = (DataDisk::new(data), Box::new(SystemRng));
    recovery::bootstrap(disk, LogSettings::default(), rng, found.meta, &found.snapshot)
        .map_err(JoinError::Replica)?;
    found.identity.write_once(data).map_err(JoinError::Identity)?;
    let marker = data.join(MARKER);
    std::fs::remove_file(&marker).map_err(|error| JoinError::Folder(marker, error))?;
    durable::sync_folder(&data.join(keys::FOLDER)).map_err(JoinError::Write)?;
    durable::sync_folder(data).map_err(JoinError::Write)
}
