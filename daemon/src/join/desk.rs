//! The master's side of a join: the token, the job `node_add` in its issuer's name, the answer.
//!
//! The job goes the way of every other one, so there is a record of who came from where; the token
//! is in none. A node whose answer got lost asks again with the same token and key, and is answered
//! again; another key finds the token used (ruling 40). On the request path: it never panics.

use super::token::Token;
use super::{JoinAnswer, JoinRequest, KnownMember};
use crate::ca::{self, Authority};
use crate::cluster::address_of;
use crate::engine::Engine;
use crate::front::seam::{Call, JoinCall};
use crate::identity::{self, Identity};
use crate::pipeline::submit;
use crate::secret::Secret;
use crate::service::caller_by_secret;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::State;
use tiebeam_core::admit::Kwargs;
use tiebeam_core::member::{JoinToken, incarnation};
use tiebeam_core::state::Member;
use tiebeam_jobs::NODE_JOIN;
use tiebeam_proto::{ErrorCode, Outcome, RpcError};

/// Longest wait for the end of `node_add`, which has a deadline of its own.
const JOB_WAIT: Duration = Duration::from_secs(70);
/// Hosts beside the address that a certificate is made out to.
const HOSTS_MAX: usize = 8;

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request is not well formed.
    #[error("{0}")]
    Malformed(String),
    /// The token is not one that lets this node in. Which of the causes is not said.
    #[error("the token is wrong, was used, or has expired; make another one with node_token")]
    Token,
    /// The call was refused before there was a job.
    #[error("{}", .0.message)]
    Call(RpcError),
    /// The job did not end well.
    #[error("{text} (job {job})")]
    Job {
        /// Its id.
        job: String,
        /// What it says.
        text: String,
    },
    /// The node's program is too old for this cluster.
    #[error("this cluster has feature level {0}: the joining node needs a newer version")]
    TooOld(u32),
    /// Not now; the same request may succeed later.
    #[error("{0}; try again")]
    NotNow(&'static str),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::Token => StatusCode::UNAUTHORIZED,
            Refusal::Call(error) => match error.code {
                ErrorCode::InvalidParameter | ErrorCode::InvalidArguments => {
                    StatusCode::BAD_REQUEST
                }
                ErrorCode::Forbidden => StatusCode::FORBIDDEN,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            Refusal::Job { .. } | Refusal::TooOld(_) => StatusCode::CONFLICT,
            Refusal::NotNow(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// What is answered to one request.
pub async fn answer(engine: Arc<Engine>, call: JoinCall) -> (StatusCode, Value) {
    match join(&engine, call).await {
        Ok(answer) => (StatusCode::OK, json!(answer)),
        Err(refusal) => (refusal.status(), json!({"error": refusal.to_string()})),
    }
}

/// A request, its token and the key that it proved.
struct Asked {
    request: JoinRequest,
    token_id: String,
    token: JoinToken,
    public_key: String,
    key_hash: String,
}

async fn join(engine: &Arc<Engine>, call: JoinCall) -> Result<JoinAnswer, Refusal> {
    let asked = match read(engine, &call) {
        Err(Refusal::Token) => {
            engine.auth.join_refused(&submit::source_text(call.source)).await;
            return Err(Refusal::Token);
        }
        asked => asked?,
    };
    // What the answer needs is looked for before anything is done.
    let ca = ca::read_certificate(&engine.data, ca::CA_CERTIFICATE);
    let ca = ca.map_err(|_| Refusal::NotNow("the authority's certificate cannot be read"))?;
    let key = engine.keys.authority_key();
    let key = key.ok_or(Refusal::NotNow("this master has no key of the authority yet"))?;
    let authority = Authority::new(&ca, key);
    let authority = authority.map_err(|_| Refusal::NotNow("the authority cannot sign"))?;
    if seat_of(&engine.board.state(), &asked.key_hash).is_none() {
        add(engine, call, &asked).await?;
    }
    let state = engine.board.state();
    let (node, member) = seat_of(&state, &asked.key_hash)
        .ok_or(Refusal::NotNow("the node was added and is gone again"))?;
    let identity = Identity {
        format: identity::FORMAT,
        cluster_id: state.cluster.id.clone(),
        node_id: node,
        incarnation: u32::from(incarnation(member.raft_id)),
        name: name_of(&state, node),
    };
    let mut hosts = asked.request.hosts.clone();
    let own = crate::settings::host_and_port(&asked.request.address);
    hosts.extend(own.map(|(host, _)| host.to_owned()));
    let now = crate::proposer::wall_now();
    let certificate = authority
        .issue_node(&asked.public_key, &identity, &hosts, now)
        .map_err(|error| Refusal::Malformed(error.to_string()))?;
    tell(engine, &state, identity, certificate, ca).await
}

/// Reads the request and checks its token.
fn read(engine: &Engine, call: &JoinCall) -> Result<Asked, Refusal> {
    let malformed = |text: &str| Refusal::Malformed(text.to_owned());
    let request: Result<JoinRequest, _> = serde_json::from_slice(&call.body);
    let mut request = request.map_err(|_| malformed("this is no request to join"))?;
    let text = Secret::new(std::mem::take(&mut request.token));
    let shown = Token::read(text.expose()).ok_or(Refusal::Token)?;
    let state = engine.board.state();
    let token = state.join_tokens.get(shown.id.as_str()).cloned();
    // A hash is compared in any case: how long it takes tells nothing of the ids there are.
    let hash = token.as_ref().map_or("", |token| token.hash.as_str());
    let fits = shown.has_hash(hash);
    let token = token.filter(|token| fits && engine.board.clock_us() < token.expires_us);
    let token = token.ok_or(Refusal::Token)?;
    let (public_key, key_hash) = ca::requested_key(&request.request)
        .map_err(|_| malformed("`request` is no certificate request signed by its own key"))?;
    let seated = seat_of(&state, &key_hash).is_some();
    // A node that was removed since needs another token.
    if token.used_by.as_ref().is_some_and(|user| *user != key_hash || !seated) {
        return Err(Refusal::Token);
    }
    if request.hosts.len() > HOSTS_MAX {
        return Err(malformed("`hosts` has at most 8 entries"));
    }
    if request.feature_level < state.feature_level {
        return Err(Refusal::TooOld(state.feature_level));
    }
    Ok(Asked { request, token_id: shown.id, token, public_key, key_hash })
}

/// The member with this key.
fn seat_of<'a>(state: &'a State, key_hash: &str) -> Option<(u32, &'a Member)> {
    let mut members = state.members.iter();
    members.find(|(_, member)| member.key_hash == key_hash).map(|(node, member)| (*node, member))
}

fn name_of(state: &State, node: u32) -> String {
    let name = state.config.value(&State::node_path(node).child("name"));
    name.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Runs `node_add` as the token's issuer, to its end.
async fn add(engine: &Arc<Engine>, call: JoinCall, asked: &Asked) -> Result<(), Refusal> {
    let caller = caller_by_secret(&engine.board.state(), &asked.token.issuer);
    let Asked { request, token_id, key_hash, .. } = asked;
    let mut params = json!({
        "name": request.name,
        "address": request.address,
        "token_id": token_id,
        "key_hash": key_hash,
    });
    if let Some(node) = request.node_id {
        params["nid"] = json!(node);
    }
    let reason = format!("a node joins with the token {token_id}");
    let kwargs = Kwargs::read(&json!({"params": params, "reason": reason}));
    let kwargs = kwargs.map_err(Refusal::Call)?;
    let call = Call {
        caller: Some(caller.ok_or(Refusal::Token)?),
        facts: Arc::new(call.facts),
        source: call.source,
        stop: call.stop,
    };
    let started = submit::start_job(engine, &call, &NODE_JOIN, kwargs).await;
    let started = started.map_err(Refusal::Call)?;
    let sequence = tiebeam_core::job::parse_job_id(&started.id).map(|(_, sequence)| sequence);
    let end = engine.board.job_end(sequence.unwrap_or_default());
    tokio::select! {
        // Whether it has ended is looked at below.
        _ = tokio::time::timeout(JOB_WAIT, end) => {}
        () = call.stop.cancelled() => {}
    }
    let found = engine.job(&started.id).ok().flatten();
    let Some((record, true)) = found else {
        return Err(Refusal::NotNow("the node is being added"));
    };
    match record.outcome {
        Some(Outcome::Ok) => Ok(()),
        _ => {
            let text = record.result.result_desc.clone().unwrap_or_default();
            Err(Refusal::Job { job: started.id, text })
        }
    }
}

/// Everything that the new member has to know.
async fn tell(
    engine: &Engine,
    state: &Arc<State>,
    identity: Identity,
    certificate: String,
    ca: String,
) -> Result<JoinAnswer, Refusal> {
    let members = state.members.values().map(|member| KnownMember {
        raft_id: member.raft_id,
        address: address_of(state, member.raft_id).unwrap_or_default(),
        key_hash: member.key_hash.clone(),
    });
    let members = members.collect();
    let told = state.clone();
    let encode = move || STANDARD.encode(tiebeam_core::snapshot::encode(&told));
    let snapshot = tokio::task::spawn_blocking(encode).await;
    Ok(JoinAnswer {
        cluster_id: identity.cluster_id,
        cluster_name: state.cluster.name.clone(),
        node_id: identity.node_id,
        incarnation: identity.incarnation,
        certificate,
        ca,
        cluster_key: engine.keys.cluster.to_text().expose().clone(),
        members,
        snapshot: snapshot.map_err(|_| Refusal::NotNow("the snapshot cannot be written"))?,
        index: state.applied,
        term: state.term,
    })
}
