//! The seam between the front and the rest of the daemon: one trait, and the types it speaks.
//!
//! The front knows connections, requests and protocols; it knows nothing of State, jobs or
//! passwords. Whatever it needs from there is asked through [`Service`]. The daemon implements the
//! trait once; tests implement it with a small double. Nothing here does any work.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::StatusCode;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use tiebeam_proto::record::RequestFacts;
use tiebeam_proto::time::Time;
use tiebeam_proto::{Params, RpcError};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How a caller proved who he is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// User name and password with every request.
    Basic,
    /// A token of `user_login`.
    Bearer {
        /// The token's id, which `user_logout` keeps.
        token_id: String,
    },
    /// A verified client certificate.
    Certificate {
        /// Its subject, as [`ClientCertificate::subject`].
        subject: String,
    },
    /// The unix socket.
    Unix {
        /// The peer's user id.
        uid: u32,
        /// The peer's process id; 0 if the kernel did not say.
        pid: i32,
    },
}

/// A user who is logged in, for the length of one request or one `/ws` connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user's name in the cluster.
    pub user: String,
    /// How he proved it.
    pub via: Via,
    /// When the proof ends, for a token.
    pub expires: Option<Time>,
    /// The user's credential revision in State when he was verified (ruling 4).
    pub credential_revision: u64,
}

/// What a verified client certificate says. Whether its chain is good is already known; whom it
/// logs in is for [`Service::login`] (a node's certificate logs nobody in, ruling 27).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject, as in `CN=alice, O=example`.
    pub subject: String,
    /// The subject's first common name.
    pub common_name: Option<String>,
    /// Subject alternative names of type URI.
    pub uris: Vec<String>,
    /// Subject alternative names of type DNS.
    pub dns_names: Vec<String>,
    /// Subject alternative names of type e-mail.
    pub emails: Vec<String>,
}

/// A claim of a request, not yet verified. It has no `Debug`: it holds secrets.
pub enum Credentials {
    /// `Authorization: Basic`.
    Basic {
        /// The user name, as sent.
        user: String,
        /// The password, as sent; it may contain `:` and any UTF-8.
        password: Zeroizing<String>,
    },
    /// `Authorization: Bearer`.
    Bearer(Zeroizing<String>),
    /// A client certificate whose chain was verified, on a request without `Authorization`.
    Certificate(Arc<ClientCertificate>),
    /// The process at the other end of the unix socket.
    Unix {
        /// Its user id.
        uid: u32,
        /// Its process id; 0 if the kernel did not say.
        pid: i32,
    },
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A TCP peer; failures are counted per address (ruling 46).
    Address(IpAddr),
    /// The unix socket of this node.
    Unix,
}

/// Why a login failed. All but [`LoginError::NoMaster`] look alike to the client: 401, or 403 on
/// the unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The user, the password, the token or the certificate is wrong, disabled or expired.
    #[error("the login is not valid")]
    Wrong,
    /// It cannot be told now: there is no master, or this node cannot serve. 503.
    #[error("the login cannot be verified now")]
    NoMaster,
}

/// Who answers calls that touch replicated state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This node.
    Here,
    /// Another node.
    Master {
        /// Its address as `host:port`, IPv6 in brackets: it is put into `Location` as it is.
        address: String,
    },
    /// Nobody, as far as this node knows.
    NoMaster,
}

/// Where a method may run (ruling 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MethodClass {
    /// There is no such method.
    Unknown,
    /// On every node.
    Here,
    /// On the master only.
    Master,
}

/// Whether a login that was good when `/ws` was opened is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Good,
    /// Its token expired: calls are answered with -32008 until the client connects again.
    Expired,
    /// Its user's rights, password or `login_enabled` changed, or the token was ended: closed.
    Revoked,
}

/// Everything about a call but its method and arguments.
#[derive(Clone)]
pub struct Call {
    /// Who calls; `None` only for `user_login` and `user_init` without credentials.
    pub caller: Option<Arc<Caller>>,
    /// What the record keeps of the request (ruling 31); `request_id` is left to the callee.
    pub facts: Arc<RequestFacts>,
    /// Where it came from.
    pub source: Source,
    /// Fires when this node drains (ruling 1), on `/ws` also when the session's login is revoked
    /// (ruling 4): a call that waits then answers at once.
    pub stop: CancellationToken,
}

/// A node's request to join (`/join`). It has no `Debug`: it holds a token.
pub struct JoinCall {
    /// The body, as it came.
    pub body: Zeroizing<Vec<u8>>,
    /// What the record keeps of the request.
    pub facts: RequestFacts,
    /// Where it came from.
    pub source: Source,
    /// Fires when this node drains.
    pub stop: CancellationToken,
}

/// The master, as `/master` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its host, without port.
    pub host: String,
    /// Its node name.
    pub name: String,
}

/// A subscriber's events, pulled one by one.
///
/// The front pulls the next event when the last one was handed to the connection. So a slow
/// subscriber costs no memory here: a stream that has fallen behind the retained window yields
/// `{"gap": {"from", "to"}}` and goes on (ruling 39). It ends when the subscriber may see nothing
/// more.
pub type Events = BoxStream<'static, Value>;

/// What the front asks of the daemon.
///
/// Futures may be dropped at any await point when the client goes away: what must not be lost is
/// to be proposed or spawned by the callee. A panic in [`Service::call`] is answered with -32603
/// and logged; the connection lives on.
pub trait Service: Send + Sync + 'static {
    /// This node's id, for the record's `unix:<node>:<uid>:<pid>`.
    fn node_id(&self) -> u32;
    /// Who answers calls that touch replicated state. Asked once per request; must not wait.
    fn place(&self) -> Place;
    /// Whether [`Service::call`] passes calls of class [`MethodClass::Master`] on to the master by
    /// itself (`rpc.on_follower: forward`). Calls of the unix socket are always given to it.
    fn forwards(&self) -> bool {
        false
    }
    /// Whether calls that it passes on may be given to it while there is no master: it waits a
    /// little for one.
    fn finds_master(&self) -> bool {
        false
    }
    /// Every RPC method, without `system.*`, `rpc.discover`, `subscribe` of `/ws`. Asked once.
    fn methods(&self) -> Vec<&'static str>;
    /// Where a method runs.
    fn method_class(&self, method: &str) -> MethodClass;
    /// The text of `system.methodHelp`; `None` if there is no such method.
    fn method_help(&self, method: &str) -> Option<String>;
    /// The signatures of `system.methodSignature`, each result type first, in XML-RPC's names.
    fn method_signatures(&self, method: &str) -> Option<Vec<Vec<&'static str>>>;
    /// The OpenRPC document of `rpc.discover`.
    fn openrpc(&self) -> Value;
    /// Whether there is a job of this name, for `/rest` form 2.
    fn is_job(&self, name: &str) -> bool;

    /// Verifies a login. Slow-down of failures is inside; a success is cached inside.
    fn login(
        &self,
        credentials: Credentials,
        source: Source,
    ) -> BoxFuture<'static, Result<Arc<Caller>, LoginError>>;
    /// Whether a login is still good, for each call on `/ws`.
    fn standing(&self, caller: &Caller) -> Standing;
    /// Resolves when a login is revoked (ruling 4); never, if it is not. Asked for `/ws` sessions;
    /// calls that wait over HTTP look for themselves.
    fn revoked(&self, caller: Arc<Caller>) -> BoxFuture<'static, ()>;

    /// Runs a method.
    ///
    /// # Errors
    ///
    /// What the client is told. `NoMaster` promises that nothing of the call was proposed: a call
    /// over HTTP is then answered with 302 or 503 (ruling 1). `LoginRequired` of `user_login` is
    /// answered with 401.
    fn call(
        &self,
        call: Call,
        method: String,
        params: Params,
    ) -> BoxFuture<'static, Result<Value, RpcError>>;
    /// Starts a subscription on `/ws`; `filter` is the argument of `subscribe`, an object.
    ///
    /// # Errors
    ///
    /// A filter that is wrong or asks for too much.
    fn subscribe(
        &self,
        caller: Arc<Caller>,
        filter: Value,
    ) -> BoxFuture<'static, Result<Events, RpcError>>;

    /// Lets a node join: the status and the JSON of the answer. Called on the master only.
    fn join(&self, call: JoinCall) -> BoxFuture<'static, (StatusCode, Value)> {
        drop(call);
        Box::pin(async { (StatusCode::NOT_FOUND, Value::Null) })
    }

    /// The master of the newest term this node knows.
    fn master(&self) -> Option<Master>;
    /// Whether this node is the master and a quorum said so within one election timeout.
    fn confirm_master(&self) -> BoxFuture<'static, bool>;
    /// `/health/live`: whether the node lives, and one object about it.
    fn live(&self) -> (bool, Value);
    /// `/health/ready`: whether the node serves, and one object about it.
    fn ready(&self) -> (bool, Value);
    /// The applied index, for the header `Tiebeam-Applied` of calls that any node answers.
    fn applied(&self) -> u64;
    /// Whether a caller may read `/metrics`.
    fn may_read_metrics(&self, caller: &Caller) -> bool;
    /// The Prometheus text.
    fn metrics_text(&self) -> String;

    /// Whether a browser's `Origin` is in `rpc.origins` (ruling 30).
    fn origin_allowed(&self, origin: &str) -> bool;
    /// Whether a request may name this host, lower-case and without port (ruling 30).
    fn host_allowed(&self, host: &str) -> bool;
}
