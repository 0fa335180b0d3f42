//! What this node does for its peers: takes raft's messages and reports, and answers requests.
//!
//! A peer is a member whose certificate was verified; it is trusted to state who called it
//! (ruling 3) and nothing more: what it proposes is only what a member has to say itself.

use super::remote::{Forwarded, answer_text};
use super::{Cluster, FRAME_HISTORIES, FRAME_RAFT, FRAME_REPORT, Histories, MemberReport};
use crate::blobs::marks::{Marks, TEXT_BYTES_MAX};
use crate::blobs::{is_digest, spread};
use crate::engine::Engine;
use crate::front::seam::{Call, Caller, Source, Standing, Via};
use crate::peer::{PeerId, PeerService};
use crate::threads::raft::ToRaft;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, Weak};
use tiebeam_core::proposal::{Body, Proposal};
use tiebeam_proto::time::Time;
use tiebeam_proto::{ErrorCode, Params, RpcError};
use tiebeam_replica::recovery::SNAPSHOT_FOLDER;
use tiebeam_replica::snapshot::{CHUNK_BYTES, snapshot_path};

/// Bytes of a request's body: a call of 1 MiB with its facts, or a proposal.
const BODY_MAX: usize = 9 << 20;

/// A peer's answer.
pub type PeerAnswer = Response<BoxBody<Bytes, io::Error>>;

/// The daemon's side of the peer channel.
pub struct Desk {
    cluster: Arc<Cluster>,
    raft: Sender<ToRaft>,
    engine: OnceLock<Weak<Engine>>,
}

impl Desk {
    /// A desk that has no engine behind it yet: requests are answered with 503 until then.
    pub fn new(cluster: Arc<Cluster>, raft: Sender<ToRaft>) -> Desk {
        Desk { cluster, raft, engine: OnceLock::new() }
    }

    /// Opens it for requests.
    pub fn open(&self, engine: &Arc<Engine>) {
        // It is called once, at the start.
        let _ = self.engine.set(Arc::downgrade(engine));
    }
}

impl PeerService for Desk {
    fn frame(&self, from: u64, kind: u8, frame: Bytes) {
        match kind {
            FRAME_RAFT => {
                // The raft thread has gone only if the node stops.
                let _ = self.raft.send(ToRaft::Message { from, bytes: frame });
            }
            FRAME_REPORT => match MemberReport::decode(&frame) {
                Some(report) => self.cluster.note_report(from, report),
                None => tracing::warn!(from, "a member's report cannot be read"),
            },
            FRAME_HISTORIES => match Histories::decode(&frame) {
                // Who was the leader before may know less.
                Some(_) if !self.cluster.follows(from) => {}
                Some(Histories(held)) => drop(self.raft.send(ToRaft::Held(held))),
                None => tracing::warn!(from, "what a leader tells of histories cannot be read"),
            },
            other => tracing::debug!(from, kind = other, "a frame of a later version is dropped"),
        }
    }

    fn unreachable(&self, peer: u64) {
        let _ = self.raft.send(ToRaft::Unreachable(peer));
    }

    fn request(&self, from: PeerId, request: Request<Incoming>) -> BoxFuture<'static, PeerAnswer> {
        let engine = self.engine.get().and_then(Weak::upgrade);
        Box::pin(async move {
            match engine {
                Some(engine) => answer(engine, from, request).await,
                None => refuse(StatusCode::SERVICE_UNAVAILABLE, "this node is starting"),
            }
        })
    }
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> PeerAnswer {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

fn refuse(status: StatusCode, why: &'static str) -> PeerAnswer {
    plain(status, why.as_bytes())
}

async fn answer(engine: Arc<Engine>, from: PeerId, request: Request<Incoming>) -> PeerAnswer {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
    };
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    match (&parts.method, path.as_slice()) {
        (&Method::POST, ["call"]) => call(engine, &body).await,
        (&Method::POST, ["propose"]) => propose(&engine, from, &body).await,
        (&Method::GET, ["facts"]) => {
            let facts = crate::facts::node(&engine, engine.identity.node_id);
            plain(StatusCode::OK, facts.to_string())
        }
        (&Method::GET, ["snapshot", index, at]) => snapshot(&engine, index, at).await,
        (&Method::GET, ["history", first, last]) => history(&engine, first, last).await,
        (&Method::GET, ["blobs"]) => blobs(&engine).await,
        (&Method::GET, ["blob", digest, at]) => blob(&engine, digest, at).await,
        (&Method::POST, ["blob", digest]) => keep_blob(&engine, from, digest, &body).await,
        (&Method::GET, ["debug", from, to]) => debug(&engine, from, to).await,
        (&Method::POST, ["output"]) => output(&engine, &body).await,
        (&Method::GET, ["ca-key"]) => ca_key(&engine, from),
        (&Method::GET, ["cluster-key", number]) => cluster_key(&engine, from, number),
        (&Method::POST, ["certificate"]) => certificate(&engine, from, &body),
        _ => refuse(StatusCode::NOT_FOUND, "this version does not know that request"),
    }
}

/// A call that another node took (wire.md section 3).
async fn call(engine: Arc<Engine>, body: &[u8]) -> PeerAnswer {
    let Ok(forwarded) = serde_json::from_slice::<Forwarded>(body) else {
        return refuse(StatusCode::BAD_REQUEST, "the call cannot be read");
    };
    plain(StatusCode::OK, answer_text(run(&engine, forwarded).await))
}

async fn run(engine: &Arc<Engine>, forwarded: Forwarded) -> Result<Value, RpcError> {
    if !engine.is_master() {
        return Err(RpcError::new(ErrorCode::NoMaster, "this node is not the master"));
    }
    let Forwarded { method, params, caller, facts, source } = forwarded;
    let caller = match caller {
        None => None,
        Some(stated) => {
            let caller = stated.caller().ok_or_else(login_required)?;
            check(engine, &caller)?;
            Some(Arc::new(caller))
        }
    };
    let params = match params {
        Value::Object(map) => Params::Named(map),
        Value::Array(list) => Params::Positional(list),
        _ => Params::none(),
    };
    let call = Call {
        caller,
        facts: Arc::new(facts),
        source: source.map_or(Source::Unix, Source::Address),
        stop: engine.stop.clone(),
    };
    crate::methods::run(engine.clone(), call, &method, params).await
}

fn login_required() -> RpcError {
    RpcError::new(ErrorCode::LoginRequired, "log in again")
}

/// The member verified the login against what it had applied; the master has the newest State.
fn check(engine: &Engine, caller: &Caller) -> Result<(), RpcError> {
    if matches!(caller.via, Via::Unix { uid: 0, .. })
        && !engine.settings.load().unix_socket.remote_root
    {
        let text = "root of another node is not trusted here (unix_socket.remote_root)";
        return Err(RpcError::new(ErrorCode::Forbidden, text));
    }
    match crate::service::standing(engine, caller) {
        Standing::Good => Ok(()),
        Standing::Expired | Standing::Revoked => Err(login_required()),
    }
}

/// What a member itself has to say: how a command on it ended, what its doors saw, how it is.
async fn propose(engine: &Engine, from: PeerId, body: &[u8]) -> PeerAnswer {
    let body = match Proposal::decode(body).map(|proposal| proposal.body) {
        Ok(body @ (Body::Audit(_) | Body::Rehash(_))) => body,
        Ok(Body::CommandEnded(ended)) if ended.record.node == from.node => {
            Body::CommandEnded(ended)
        }
        Ok(Body::Notice(notice)) if notice.node() == from.node && notice.is_short() => {
            Body::Notice(notice)
        }
        Ok(_) => return refuse(StatusCode::FORBIDDEN, "a member does not propose this"),
        Err(_) => return refuse(StatusCode::BAD_REQUEST, "the proposal cannot be read"),
    };
    match engine.proposer.propose(body).await {
        Ok(_) => plain(StatusCode::OK, Bytes::new()),
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "it is not known to be in the log"),
    }
}

/// A piece of a snapshot file. The file never changes once it has its name.
async fn snapshot(engine: &Engine, index: &str, at: &str) -> PeerAnswer {
    let (Ok(index), Ok(at)) = (index.parse::<u64>(), at.parse::<u64>()) else {
        return refuse(StatusCode::BAD_REQUEST, "index and offset are numbers");
    };
    let path = engine.data.join(snapshot_path(SNAPSHOT_FOLDER, index));
    let piece = tokio::task::spawn_blocking(move || -> io::Result<Vec<u8>> {
        let file = std::fs::File::open(path)?;
        let mut piece = vec![0; CHUNK_BYTES];
        let mut read = 0;
        while read < piece.len() {
            match file.read_at(&mut piece[read..], at + read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        piece.truncate(read);
        Ok(piece)
    });
    match piece.await {
        Ok(Ok(piece)) => plain(StatusCode::OK, piece),
        _ => refuse(StatusCode::NOT_FOUND, "that snapshot is not here"),
    }
}

/// Records of the history that end with `last`, as many as a parcel holds.
async fn history(engine: &Arc<Engine>, first: &str, last: &str) -> PeerAnswer {
    let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else {
        return refuse(StatusCode::BAD_REQUEST, "the range is two numbers");
    };
    let reader = engine.clone();
    let page = tokio::task::spawn_blocking(move || reader.history.parcel(first, last));
    match page.await {
        Ok(Ok(page)) => plain(StatusCode::OK, page),
        _ => refuse(StatusCode::NOT_FOUND, "these records cannot be read here"),
    }
}

/// The digests of the outputs that are here.
async fn blobs(engine: &Engine) -> PeerAnswer {
    let blobs = engine.host.blobs().clone();
    match tokio::task::spawn_blocking(move || blobs.list()).await {
        Ok(Ok(list)) => plain(StatusCode::OK, list.join("\n")),
        _ => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the outputs cannot be listed here"),
    }
}

/// A piece of an output. The file never changes once it has its name.
async fn blob(engine: &Engine, digest: &str, at: &str) -> PeerAnswer {
    let Ok(at) = at.parse::<u64>() else {
        return refuse(StatusCode::BAD_REQUEST, "the offset is a number");
    };
    let (blobs, digest) = (engine.host.blobs().clone(), digest.to_owned());
    match tokio::task::spawn_blocking(move || blobs.piece(&digest, at)).await {
        Ok(Ok(piece)) => plain(StatusCode::OK, piece),
        _ => refuse(StatusCode::NOT_FOUND, "that output is not here"),
    }
}

/// Keeps a copy of an output that the asking member has; it is fetched from there and verified.
async fn keep_blob(engine: &Arc<Engine>, from: PeerId, digest: &str, body: &[u8]) -> PeerAnswer {
    let text = std::str::from_utf8(body).ok().filter(|text| text.len() <= TEXT_BYTES_MAX);
    let (Some(marks), true) = (text.map(Marks::parse), is_digest(digest)) else {
        return refuse(StatusCode::BAD_REQUEST, "an output has a digest and jobs");
    };
    if !are_known(engine, &marks).await {
        return refuse(StatusCode::CONFLICT, "these jobs are not known here");
    }
    match spread::fetch(engine, from.raft_id, digest, marks).await {
        Ok(()) => plain(StatusCode::OK, Bytes::new()),
        Err(error) => {
            let why = crate::report::chain(&error);
            tracing::warn!(node = from.node, digest, why, "no copy of an output is kept");
            plain(StatusCode::INSUFFICIENT_STORAGE, why)
        }
    }
}

/// Whether there are these jobs: a blob of one that never comes would stay for ever. The member
/// that asks may have applied more than this node, but nothing that is not committed.
async fn are_known(engine: &Engine, marks: &Marks) -> bool {
    if spread::knows(&engine.board.state(), marks) {
        return true;
    }
    let Ok(index) = engine.proposer.read_index().await else { return false };
    engine.board.applied(index).await;
    spread::knows(&engine.board.state(), marks)
}

/// What helps to find a fault here.
async fn debug(engine: &Arc<Engine>, from: &str, to: &str) -> PeerAnswer {
    let (Ok(from), Ok(to)) = (from.parse(), to.parse()) else {
        return refuse(StatusCode::BAD_REQUEST, "the times are numbers");
    };
    let teller = engine.clone();
    let told = tokio::task::spawn_blocking(move || {
        let bundle = crate::debug::of_node(&teller, Time(from), Time(to));
        serde_json::to_vec(&bundle).unwrap_or_default()
    });
    match told.await {
        Ok(told) => plain(StatusCode::OK, told),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "it failed here"),
    }
}

/// What a command has printed here so far: whoever asks has decided who may see it.
async fn output(engine: &Engine, body: &[u8]) -> PeerAnswer {
    let Ok(wanted) = serde_json::from_slice(body) else {
        return refuse(StatusCode::BAD_REQUEST, "the request cannot be read");
    };
    match crate::pipeline::live::here(engine, &wanted).await {
        Some(live) => plain(StatusCode::OK, serde_json::to_vec(&live).unwrap_or_default()),
        None => refuse(StatusCode::NOT_FOUND, "no such command runs here"),
    }
}

/// The authority's key, for a voter that does not have it yet.
fn ca_key(engine: &Engine, from: PeerId) -> PeerAnswer {
    let state = engine.board.state();
    let is_voter = state.members.get(&from.node).is_some_and(|member| member.voter);
    match engine.keys.authority_key() {
        Some(key) if is_voter => plain(StatusCode::OK, key.expose().clone()),
        Some(_) => refuse(StatusCode::FORBIDDEN, "only voters hold the authority's key"),
        None => refuse(StatusCode::NOT_FOUND, "this node does not have it"),
    }
}

/// A cluster key for a member that lacks it. One that was removed has no connection; that this
/// node may not know it yet is no harm, because then it does not know the key either.
fn cluster_key(engine: &Engine, from: PeerId, number: &str) -> PeerAnswer {
    if engine.board.state().member_of(from.raft_id).is_none() {
        return refuse(StatusCode::FORBIDDEN, "only members are given keys");
    }
    match number.parse().ok().and_then(|number| engine.keys.one(number)) {
        Some(key) => plain(StatusCode::OK, key.to_text().expose().clone()),
        None => refuse(StatusCode::NOT_FOUND, "this node does not have that key"),
    }
}

/// A new certificate for a member, with the key that State knows (ruling 40).
fn certificate(engine: &Engine, from: PeerId, body: &[u8]) -> PeerAnswer {
    let Ok(wish) = serde_json::from_slice(body) else {
        return refuse(StatusCode::BAD_REQUEST, "the request cannot be read");
    };
    match crate::renewal::issue(engine, from.raft_id, &wish) {
        Ok(certificate) => plain(StatusCode::OK, certificate),
        Err(error) => {
            let why = crate::report::chain(&error);
            tracing::warn!(node = from.node, why, "no certificate for a member");
            plain(StatusCode::CONFLICT, why)
        }
    }
}
