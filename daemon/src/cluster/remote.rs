//! Asking other members: the master for what only it may do, anybody for snapshots, history and
//! facts. Requests of the peer channel; `service` is the other end.
//!
//! What was not sent is sent again; what may have arrived is not, unless it may be repeated
//! (ruling 1).

use super::{Cluster, address_of};
use crate::blobs::marks::Marks;
use crate::blobs::{PIECE_BYTES, is_digest};
use crate::engine::Engine;
use crate::front::seam::{Call, Caller, Source, Via};
use crate::peer::PeerError;
use crate::pipeline::live::{Live, Wanted};
use crate::renewal::Wish;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::proposal::{Body, Header, Proposal};
use tiebeam_proto::record::RequestFacts;
use tiebeam_proto::{ErrorCode, Params, RpcError, time::Time};
use tiebeam_replica::Mark;
use tokio::time::Instant;

/// How long a forwarded call looks for a master.
const MASTER_WAIT: Duration = Duration::from_secs(6);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Longest wait for an answer that needs no work.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Longest time that a call which waits for nothing may take on the master.
const CALL_WAIT: Duration = Duration::from_secs(12);
/// Bytes of an answer: a call's, the text of a file, the digests of a million outputs.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// Why a member did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// There is nobody to ask.
    #[error("no other member is known")]
    Nobody,
    /// It was not reached, or did not answer.
    #[error("the request failed")]
    Request(#[source] PeerError),
    /// Its answer broke off, or is longer than an answer may be.
    #[error("the answer did not come whole")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("there was no answer in time")]
    Late,
    /// It answered that it cannot.
    #[error("a member answered {status}: {text}")]
    Status {
        /// The status.
        status: u16,
        /// What it said.
        text: String,
    },
}

/// A call that another node took.
#[derive(Debug, Serialize, Deserialize)]
pub struct Forwarded {
    /// The method.
    pub method: String,
    /// Its arguments: a list or a map.
    pub params: Value,
    /// Who calls; `None` for a login.
    #[serde(default)]
    pub caller: Option<Stated>,
    /// What the record keeps of the request.
    pub facts: RequestFacts,
    /// Where it came from; `None` for the unix socket.
    #[serde(default)]
    pub source: Option<IpAddr>,
}

/// Who the member says that the caller is (ruling 3).
#[derive(Debug, Serialize, Deserialize)]
pub struct Stated {
    /// The user.
    pub user: String,
    /// `basic`, `bearer`, `certificate` or `unix`.
    pub via: String,
    /// The token's id, the certificate's subject, or the uid.
    pub detail: String,
    /// When the proof ends.
    #[serde(default)]
    pub expires: Option<Time>,
    /// The user's credential revision that the member saw.
    pub credential_revision: u64,
}

impl Stated {
    fn of(caller: &Caller) -> Stated {
        let (via, detail) = match &caller.via {
            Via::Basic => ("basic", String::new()),
            Via::Bearer { token_id } => ("bearer", token_id.clone()),
            Via::Certificate { subject } => ("certificate", subject.clone()),
            Via::Unix { uid, .. } => ("unix", uid.to_string()),
        };
        Stated {
            user: caller.user.clone(),
            via: via.to_owned(),
            detail,
            expires: caller.expires,
            credential_revision: caller.credential_revision,
        }
    }

    /// The caller that is meant; `None` if the statement cannot be read.
    pub fn caller(self) -> Option<Caller> {
        let via = match self.via.as_str() {
            "basic" => Via::Basic,
            "bearer" => Via::Bearer { token_id: self.detail },
            "certificate" => Via::Certificate { subject: self.detail },
            "unix" => Via::Unix { uid: self.detail.parse().ok()?, pid: 0 },
            _ => return None,
        };
        let Stated { user, expires, credential_revision, .. } = self;
        Some(Caller { user, via, expires, credential_revision })
    }
}

fn get(path: String) -> Request<Full<Bytes>> {
    request(Method::GET, path, Bytes::new())
}

fn request(method: Method, path: String, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    // The paths are made here, from numbers and words.
    *request.uri_mut() = path.parse().unwrap_or_default();
    request
}

/// Reads the body of an answer, up to `bytes_max` bytes of it: a member that fails may send more.
async fn read<B>(
    body: B,
    bytes_max: usize,
) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Ok(Limited::new(body, bytes_max).collect().await?.to_bytes())
}

impl Cluster {
    /// Asks one member and reads the whole answer, within `limit`.
    ///
    /// # Errors
    /// [`RemoteError`]; a status other than 200 is one.
    pub async fn ask(
        &self,
        member: u64,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Bytes, RemoteError> {
        self.ask_for(member, request, limit, ANSWER_BYTES_MAX).await
    }

    /// The same, for an answer of at most so many bytes.
    async fn ask_for(
        &self,
        member: u64,
        request: Request<Full<Bytes>>,
        limit: Duration,
        bytes_max: usize,
    ) -> Result<Bytes, RemoteError> {
        let peers = self.peers().ok_or(RemoteError::Nobody)?;
        let asked = async {
            let answer = peers.request(member, request).await.map_err(RemoteError::Request)?;
            let status = answer.status();
            let body = read(answer.into_body(), bytes_max).await.map_err(RemoteError::Body)?;
            if status.is_success() {
                return Ok(body);
            }
            let text = String::from_utf8_lossy(&body).chars().take(200).collect();
            Err(RemoteError::Status { status: status.as_u16(), text })
        };
        tokio::time::timeout(limit, asked).await.unwrap_or(Err(RemoteError::Late))
    }

    /// The other members, the master first, then those that are online.
    pub fn others(&self) -> Vec<u64> {
        let leader = self.role.borrow().leader;
        let state = self.board.state();
        let mut others: Vec<u64> = state.members.values().map(|member| member.raft_id).collect();
        others.retain(|raft_id| *raft_id != self.raft_id);
        others.sort_by_key(|raft_id| (Some(*raft_id) != leader, !self.is_online(*raft_id)));
        others
    }

    /// Asks members in turn until one gives what is asked for.
    async fn ask_any(&self, path: String, limit: Duration) -> Result<Bytes, RemoteError> {
        let mut last = RemoteError::Nobody;
        for member in self.others() {
            match self.ask(member, get(path.clone()), limit).await {
                Ok(body) => return Ok(body),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The master, if it is another node.
    fn master_elsewhere(&self) -> Option<u64> {
        let leader = self.role.borrow().leader?;
        (leader != self.raft_id).then_some(leader)
    }
}

/// A piece of the snapshot file at `mark`, from byte `at` on; shorter than a chunk at the end.
///
/// # Errors
/// No member has it.
pub async fn snapshot_piece(cluster: &Cluster, mark: Mark, at: u64) -> Result<Bytes, RemoteError> {
    cluster.ask_any(format!("/snapshot/{}/{at}", mark.index), ANSWER_WAIT).await
}

/// A parcel of records of the history that ends with `to`, from this member; empty if it has none.
///
/// # Errors
/// It does not answer.
pub async fn history_parcel(
    cluster: &Cluster,
    member: u64,
    from: u64,
    to: u64,
) -> Result<Bytes, RemoteError> {
    cluster.ask(member, get(format!("/history/{from}/{to}")), ANSWER_WAIT).await
}

/// A piece of a blob from byte `at` on, from this member; shorter than a whole one at the end.
///
/// # Errors
/// It does not have it, or does not answer.
pub async fn blob_piece(
    cluster: &Cluster,
    member: u64,
    digest: &str,
    at: u64,
) -> Result<Bytes, RemoteError> {
    let wanted = get(format!("/blob/{digest}/{at}"));
    cluster.ask_for(member, wanted, ANSWER_WAIT, PIECE_BYTES).await
}

/// Asks a member to keep a blob of this node, for these jobs; it fetches and verifies it.
///
/// # Errors
/// It has no copy, as far as is known.
pub async fn keep_blob(
    cluster: &Cluster,
    member: u64,
    digest: &str,
    marks: &Marks,
    limit: Duration,
) -> Result<(), RemoteError> {
    let sent = request(Method::POST, format!("/blob/{digest}"), marks.text().into());
    cluster.ask(member, sent, limit).await.map(drop)
}

/// The digests of all blobs that a member has.
///
/// # Errors
/// It does not answer.
pub async fn blobs(cluster: &Cluster, member: u64) -> Result<BTreeSet<String>, RemoteError> {
    let body = cluster.ask(member, get("/blobs".to_owned()), ANSWER_WAIT).await?;
    let text = String::from_utf8_lossy(&body);
    Ok(text.lines().filter(|line| is_digest(line)).map(str::to_owned).collect())
}

/// What a member knows of itself.
///
/// # Errors
/// It does not answer.
pub async fn facts(cluster: &Cluster, member: u64) -> Result<Value, RemoteError> {
    let body = cluster.ask(member, get("/facts".to_owned()), ANSWER_WAIT).await?;
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// What helps to find a fault on a member, of that time.
///
/// # Errors
/// It does not answer.
pub async fn debug(
    cluster: &Cluster,
    member: u64,
    (from, to): (Time, Time),
    limit: Duration,
) -> Result<crate::debug::Bundle, RemoteError> {
    let body = cluster.ask(member, get(format!("/debug/{}/{}", from.0, to.0)), limit).await?;
    serde_json::from_slice(&body).map_err(|_| RemoteError::Status {
        status: 200,
        text: "what it told cannot be read".to_owned(),
    })
}

/// What a command on a member has printed so far.
///
/// # Errors
/// It does not answer in time, or has no such command that runs.
pub async fn live_output(
    cluster: &Cluster,
    member: u64,
    wanted: &Wanted,
    limit: Duration,
) -> Result<Live, RemoteError> {
    let body = serde_json::to_vec(wanted).unwrap_or_default();
    let sent = request(Method::POST, "/output".to_owned(), body.into());
    let told = cluster.ask(member, sent, limit).await?;
    serde_json::from_slice(&told).map_err(|_| RemoteError::Status {
        status: 200,
        text: "what it told cannot be read".to_owned(),
    })
}

/// The key of the cluster's authority, which only a voter is given (ruling 21), from whoever has
/// it: a voter may lead before it has the key itself.
///
/// # Errors
/// No member gives it.
pub async fn ca_key(cluster: &Cluster) -> Result<Bytes, RemoteError> {
    cluster.ask_any("/ca-key".to_owned(), ANSWER_WAIT).await
}

/// The text of one cluster key (ruling 21), from the master or whoever has it.
///
/// # Errors
/// No member gives it.
pub async fn cluster_key(cluster: &Cluster, number: u32) -> Result<Bytes, RemoteError> {
    cluster.ask_any(format!("/cluster-key/{number}"), ANSWER_WAIT).await
}

/// A certificate for this node, signed by the cluster's authority (ruling 40).
///
/// # Errors
/// The master does not give it.
pub async fn certificate(cluster: &Cluster, wish: &Wish) -> Result<Bytes, RemoteError> {
    let master = cluster.master_elsewhere().ok_or(RemoteError::Nobody)?;
    let body = serde_json::to_vec(wish).unwrap_or_default();
    let sent = request(Method::POST, "/certificate".to_owned(), body.into());
    cluster.ask(master, sent, ANSWER_WAIT).await
}

/// Proposes what this node itself has to say, wherever the master is. False if it is not known
/// to be in the log: to be said again.
pub async fn propose(engine: &Engine, body: Body) -> bool {
    if engine.is_master() {
        return engine.proposer.propose(body).await.is_ok();
    }
    let Some(master) = engine.cluster.master_elsewhere() else { return false };
    let header = Header { wall: engine.proposer.wall(), elapsed_us: 0, proposer: 0 };
    let bytes = Proposal { header, body }.encode();
    let sent = request(Method::POST, "/propose".to_owned(), bytes.into());
    engine.cluster.ask(master, sent, ANSWER_WAIT).await.is_ok()
}

/// Whether a call may be made twice without doing anything twice.
fn may_repeat(method: &str, params: &Value) -> bool {
    let has_key = || {
        let kwargs = params.get(1).or_else(|| params.get("kwargs"));
        kwargs.is_some_and(|kwargs| kwargs["request_id"].is_string() || kwargs["volatile"] == true)
    };
    match method {
        "job_start" | "job_exec" => has_key(),
        "job_cancel" | "user_logout" => true,
        other => other.starts_with("job_") || other == "user_state",
    }
}

/// Passes a call on to the master and brings its answer (wire.md section 3).
///
/// # Errors
/// What the master says; `no_master` if none was found and nothing was sent, `outcome_unknown` if
/// the master was lost with the call.
pub async fn call_master(
    engine: &Arc<Engine>,
    call: &Call,
    method: &str,
    params: Params,
) -> Result<Value, RpcError> {
    let params = match params {
        Params::Positional(list) => Value::Array(list),
        Params::Named(map) => Value::Object(map),
    };
    let repeat = may_repeat(method, &params);
    let forwarded = Forwarded {
        method: method.to_owned(),
        params,
        caller: call.caller.as_deref().map(Stated::of),
        facts: (*call.facts).clone(),
        source: match call.source {
            Source::Address(address) => Some(address),
            Source::Unix => None,
        },
    };
    let body: Bytes = serde_json::to_vec(&forwarded).unwrap_or_default().into();
    let until = Instant::now() + MASTER_WAIT;
    loop {
        let asked = ask_master(engine, call, &body, method).await;
        match asked {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if error.code != ErrorCode::NoMaster || engine.is_master() => {
                return Err(error);
            }
            Ok(Err(error)) if Instant::now() >= until => return Err(error),
            Err(false) if !repeat || Instant::now() >= until => return Err(lost(repeat)),
            Err(true) if Instant::now() >= until => {
                let text = "there is no master to take this call";
                return Err(RpcError::new(ErrorCode::NoMaster, text));
            }
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

fn lost(repeat: bool) -> RpcError {
    let text = "the master was lost with the call: whether it took effect is not known";
    RpcError { retryable: repeat, ..RpcError::new(ErrorCode::OutcomeUnknown, text) }
        .hint("look for the job with job_history before you call again")
}

/// One try: what the master answered, or whether it certainly saw nothing.
async fn ask_master(
    engine: &Arc<Engine>,
    call: &Call,
    body: &Bytes,
    method: &str,
) -> Result<Result<Value, RpcError>, bool> {
    let cluster = &engine.cluster;
    if engine.is_master() {
        // It became the master itself meanwhile: the service runs the call here.
        let text = "the master moved to this node";
        return Ok(Err(RpcError::new(ErrorCode::NoMaster, text)));
    }
    let (Some(master), Some(peers)) = (cluster.master_elsewhere(), cluster.peers()) else {
        return Err(true);
    };
    let sent = request(Method::POST, "/call".to_owned(), body.clone());
    // Calls that wait take as long as they take; the channel notices a master that is gone.
    let waits = matches!(method, "job_exec" | "job_wait" | "events" | "system.multicall");
    let limit = async {
        match waits {
            true => std::future::pending().await,
            false => tokio::time::sleep(CALL_WAIT).await,
        }
    };
    let answered = async {
        let answer = peers.request(master, sent).await.map_err(|error| error.is_unsent())?;
        let bytes = read(answer.into_body(), ANSWER_BYTES_MAX).await.map_err(|_| false)?;
        let answer: Value = serde_json::from_slice(&bytes).map_err(|_| false)?;
        match answer.get("error") {
            Some(error) => Ok(Err(RpcError::from_json(error).ok_or(false)?)),
            None => Ok(Ok(answer.get("ok").cloned().unwrap_or_default())),
        }
    };
    tokio::select! {
        answered = answered => answered,
        () = limit => Err(false),
        () = call.stop.cancelled() => Err(false),
    }
}

/// The answer of a forwarded call as it travels.
pub fn answer_text(answer: Result<Value, RpcError>) -> Vec<u8> {
    let answer = match answer {
        Ok(value) => json!({"ok": value}),
        Err(error) => json!({"error": error.to_json()}),
    };
    answer.to_string().into_bytes()
}

/// Where a master is reached by clients: `host:port`.
pub fn master_address(engine: &Engine) -> Option<String> {
    let leader = engine.cluster.leader()?;
    address_of(&engine.board.state(), leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_bound() {
        let body = || Full::new(Bytes::from_static(b"12345"));
        assert_eq!(read(body(), 5).await.unwrap(), "12345");
        assert!(read(body(), 4).await.is_err());
    }
}
