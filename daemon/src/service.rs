//! The daemon's side of the front's seam: who is calling, who answers, what a method does.

use crate::auth;
use crate::certificate::Holder;
use crate::cluster::keeper;
use crate::cluster::remote;
use crate::engine::Engine;
use crate::front::seam::{
    Call, Caller, Credentials, Events, JoinCall, LoginError, Master, MethodClass, Place, Service,
    Source, Standing, Via,
};
use crate::join::desk;
use crate::methods::{self, Subscriptions};
use crate::pipeline::submit::source_text;
use crate::secret::Secret;
use crate::settings::OnFollower;
use futures_util::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::proposal::{Body, Rehash};
use tiebeam_proto::{ErrorCode, Params, RpcError, time::Time};

/// How often one call follows a master that moves.
const MOVES_MAX: u32 = 3;

/// The service over an engine.
pub struct Node(pub Arc<Engine>);

impl Node {
    fn engine(&self) -> &Engine {
        &self.0
    }
}

/// A caller who proved to be `user` by a one-time secret; `None` if there is no such user.
pub fn caller_by_secret(state: &State, user: &str) -> Option<Arc<Caller>> {
    let credential_revision = state.credential_revision(user)?;
    let user = user.to_owned();
    Some(Arc::new(Caller { user, via: Via::Basic, expires: None, credential_revision }))
}

/// Puts our own hash in the place of a migrated one, after a login that verified it.
pub async fn keep_rehash(engine: &Engine, login: &auth::Login) {
    let Some(new) = &login.rehash else { return };
    let state = engine.board.state();
    let old = state.credentials.get(login.user.as_str()).and_then(|c| c.hash.clone());
    if let Some(old) = old {
        let rehash = Rehash { user: login.user.clone(), old, new: new.expose().clone() };
        // If it cannot be kept now, the next login tries again.
        let _ = remote::propose(engine, Body::Rehash(rehash)).await;
    }
}

fn caller(engine: &Engine, login: &auth::Login, via: Via) -> Caller {
    let wall_us = |expires_us: u64| {
        let left = expires_us.saturating_sub(engine.board.clock_us());
        Time(engine.proposer.wall().0.saturating_add(i64::try_from(left).unwrap_or(i64::MAX)))
    };
    Caller {
        user: login.user.clone(),
        via,
        expires: login.expires_us.map(wall_us),
        credential_revision: login.credential_revision,
    }
}

async fn log_in(
    engine: Arc<Engine>,
    credentials: Credentials,
    source: Source,
) -> Result<Arc<Caller>, LoginError> {
    let source = source_text(source);
    let (shown, via) = match credentials {
        Credentials::Basic { user, password } => {
            let password = Secret::new(password.as_str().to_owned());
            (auth::Credentials::Basic { user, password }, Via::Basic)
        }
        Credentials::Bearer(token) => {
            let token = Secret::new(token.as_str().to_owned());
            let token_id = engine.auth.read_token(&token).map(|claims| claims.id);
            let via = Via::Bearer { token_id: token_id.unwrap_or_default() };
            (auth::Credentials::Bearer(token), via)
        }
        Credentials::Certificate(certificate) => {
            let holder = holder(&engine, &certificate);
            let via = Via::Certificate { subject: certificate.subject.clone() };
            (auth::Credentials::Certificate(holder), via)
        }
        Credentials::Unix { uid, pid } => (auth::Credentials::Unix { uid }, Via::Unix { uid, pid }),
    };
    match engine.auth.login(shown, &source).await {
        Ok(login) => {
            keep_rehash(&engine, &login).await;
            Ok(Arc::new(caller(&engine, &login, via)))
        }
        Err(auth::Denied::Busy) => Err(LoginError::NoMaster),
        Err(_) => Err(LoginError::Wrong),
    }
}

/// Runs a call here if this node is the master, else there; again when the master moved before
/// anything was proposed.
async fn call_anywhere(
    engine: &Arc<Engine>,
    call: Call,
    method: &str,
    params: Params,
) -> Result<Value, RpcError> {
    let mut moves = 0;
    loop {
        let here = engine.is_master();
        let (call, params) = (call.clone(), params.clone());
        let answer = match here {
            true => methods::run(engine.clone(), call, method, params).await,
            false => remote::call_master(engine, &call, method, params).await,
        };
        moves += 1;
        let nowhere = matches!(&answer, Err(error) if error.code == ErrorCode::NoMaster);
        if !nowhere || engine.is_master() == here || moves > MOVES_MAX {
            return answer;
        }
    }
}

/// Whom a verified certificate names: by its URI, else by its common name; a certificate that
/// names a node names no user (ruling 27).
fn holder(engine: &Engine, certificate: &crate::front::seam::ClientCertificate) -> Holder {
    let cluster = &engine.identity.cluster_id;
    let prefix = format!("tiebeam://{cluster}/user/");
    let ours: Vec<&String> =
        certificate.uris.iter().filter(|uri| uri.starts_with("tiebeam://")).collect();
    match ours.as_slice() {
        [] => certificate.common_name.clone().map_or(Holder::Nobody, Holder::User),
        [uri] => uri
            .strip_prefix(&prefix)
            .filter(|user| crate::certificate::is_user_name(user))
            .map_or(Holder::Nobody, |user| Holder::User(user.to_owned())),
        _ => Holder::Nobody,
    }
}

/// Whether a login is still good, by the State of this node.
pub fn standing(engine: &Engine, caller: &Caller) -> Standing {
    let state = engine.board.state();
    let revoked = match &caller.via {
        Via::Bearer { token_id } => state.revoked.contains_key(token_id.as_str()),
        Via::Basic | Via::Certificate { .. } | Via::Unix { .. } => false,
    };
    let same = state.credential_revision(&caller.user) == Some(caller.credential_revision);
    if revoked || !same || !state.is_enabled(&caller.user) {
        return Standing::Revoked;
    }
    if caller.expires.is_some_and(|end| end < engine.proposer.wall()) {
        return Standing::Expired;
    }
    Standing::Good
}

async fn until_revoked(engine: Arc<Engine>, caller: Arc<Caller>) {
    let mut changes = engine.board.follow_cluster();
    while standing(&engine, &caller) != Standing::Revoked {
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

impl Service for Node {
    fn node_id(&self) -> u32 {
        self.engine().identity.node_id
    }

    fn place(&self) -> Place {
        let engine = self.engine();
        if engine.is_master() {
            return Place::Here;
        }
        match remote::master_address(engine) {
            // Elected, and not ready before it has applied the first entry of its term.
            _ if engine.role.borrow().leads => Place::NoMaster,
            Some(address) => Place::Master { address },
            None => Place::NoMaster,
        }
    }

    fn forwards(&self) -> bool {
        self.engine().settings.load().rpc.on_follower == OnFollower::Forward
    }

    fn finds_master(&self) -> bool {
        true
    }

    fn methods(&self) -> Vec<&'static str> {
        methods::METHODS.iter().map(|method| method.name).collect()
    }

    fn method_class(&self, method: &str) -> MethodClass {
        methods::find(method).map_or(MethodClass::Unknown, |method| method.class)
    }

    fn method_help(&self, method: &str) -> Option<String> {
        methods::find(method).map(|method| method.help.to_owned())
    }

    fn method_signatures(&self, method: &str) -> Option<Vec<Vec<&'static str>>> {
        methods::find(method).map(|m| m.signatures.iter().map(|form| form.to_vec()).collect())
    }

    fn openrpc(&self) -> Value {
        methods::openrpc()
    }

    fn is_job(&self, name: &str) -> bool {
        // A reserved one has its own refusal, which the call itself gives.
        tiebeam_jobs::find_at(name, self.engine().board.state().feature_level).is_some()
            || tiebeam_jobs::reserved::is_reserved(name)
    }

    fn login(
        &self,
        credentials: Credentials,
        source: Source,
    ) -> BoxFuture<'static, Result<Arc<Caller>, LoginError>> {
        Box::pin(log_in(self.0.clone(), credentials, source))
    }

    fn standing(&self, caller: &Caller) -> Standing {
        standing(self.engine(), caller)
    }

    fn revoked(&self, caller: Arc<Caller>) -> BoxFuture<'static, ()> {
        Box::pin(until_revoked(self.0.clone(), caller))
    }

    fn call(
        &self,
        call: Call,
        method: String,
        params: Params,
    ) -> BoxFuture<'static, Result<Value, RpcError>> {
        let engine = self.0.clone();
        let class = self.method_class(&method);
        let passes = self.forwards() || call.source == Source::Unix;
        Box::pin(async move {
            if class != MethodClass::Master || !passes {
                return methods::run(engine, call, &method, params).await;
            }
            call_anywhere(&engine, call, &method, params).await
        })
    }

    fn subscribe(
        &self,
        caller: Arc<Caller>,
        filter: Value,
    ) -> BoxFuture<'static, Result<Events, RpcError>> {
        let engine = self.0.clone();
        Box::pin(async move { Subscriptions::stream(engine, caller.user.clone(), &filter) })
    }

    fn join(&self, call: JoinCall) -> BoxFuture<'static, (StatusCode, Value)> {
        Box::pin(desk::answer(self.0.clone(), call))
    }

    fn master(&self) -> Option<Master> {
        let engine = self.engine();
        let leader = engine.cluster.leader()?;
        let node = u32::try_from(leader >> 16).ok()?;
        let entry = engine.board.state().config.value(&State::node_path(node))?;
        let address = entry["address"].as_str()?;
        let (host, _) = crate::settings::host_and_port(address)?;
        Some(Master { host: host.to_owned(), name: entry["name"].as_str()?.to_owned() })
    }

    fn confirm_master(&self) -> BoxFuture<'static, bool> {
        let engine = self.0.clone();
        Box::pin(async move {
            // Only what a quorum says within one election timeout counts (ruling 25).
            let confirmed = engine.confirmed_state();
            let told = tokio::time::timeout(engine.cluster.election_timeout(), confirmed);
            engine.is_master() && matches!(told.await, Ok(Ok(_))) && engine.is_master()
        })
    }

    fn live(&self) -> (bool, Value) {
        (true, json!({"live": true, "version": env!("CARGO_PKG_VERSION")}))
    }

    fn ready(&self) -> (bool, Value) {
        let engine = self.engine();
        let state = engine.board.state();
        let led = engine.cluster.leader().is_some();
        let whole = engine.history.gaps(state.chain.floor_index.max(1)).is_empty();
        let caught_up = engine.cluster.is_caught_up();
        // What the only voter lacks nobody is awaited for: it is a problem, and the node serves.
        let alone = keeper::is_only_voter(&state, engine.identity.node_id);
        let ready = led && (whole || alone) && caught_up && !engine.stop.is_cancelled();
        let health = crate::facts::health(engine);
        let about = json!({
            "ready": ready,
            "master": engine.is_master(),
            "caught_up": caught_up,
            "history_whole": whole,
            "applied": state.applied,
            "revision": state.revision,
            "problems": health["problems"],
        });
        (ready, about)
    }

    fn applied(&self) -> u64 {
        self.engine().board.state().applied
    }

    fn may_read_metrics(&self, caller: &Caller) -> bool {
        let state = self.engine().board.state();
        caller.user == "root" || state.is_in_any(&caller.user, &["monitor", "root", "exaadm"])
    }

    fn metrics_text(&self) -> String {
        crate::metrics::text(self.engine())
    }

    fn origin_allowed(&self, origin: &str) -> bool {
        self.engine().settings.load().rpc.origins.iter().any(|allowed| allowed == origin)
    }

    fn host_allowed(&self, host: &str) -> bool {
        let settings = self.engine().settings.load();
        if settings.rpc.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)) {
            return true;
        }
        // Every request comes through here: the nodes are looked at where they are.
        let state = self.engine().board.state();
        let nodes = state.config.at(&["nodes"]).and_then(|nodes| nodes.as_map());
        let mut nodes = nodes.into_iter().flat_map(|nodes| nodes.iter());
        let is_member = nodes.any(|(_, node)| {
            let address = node.text("address").and_then(crate::settings::host_and_port);
            node.text("name").is_some_and(|name| name.eq_ignore_ascii_case(host))
                || address.is_some_and(|(address, _)| address.eq_ignore_ascii_case(host))
        });
        let metrics = settings.metrics.listen.map(|address| address.ip().to_string());
        is_member
            || metrics.is_some_and(|own| own == host || host.eq_ignore_ascii_case("localhost"))
            || settings.hosts().iter().any(|own| own.eq_ignore_ascii_case(host))
    }
}
