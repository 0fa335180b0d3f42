//! A node that found damage: it stays up, answers `/health`, `/metrics` and the unix socket's
//! status call, and nothing else (ruling 45). It takes no part in the log, so it can neither lose
//! nor invent anything; what it found is for the operator to read.

use crate::front::seam::{
    Call, Caller, Credentials, Events, LoginError, Master, MethodClass, Place, Service, Source,
    Standing, Via,
};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;
use tiebeam_proto::{ErrorCode, Params, RpcError};

/// The one method that is left: what was found.
const STATUS: &str = "node_damage";

/// The service of a damaged node.
pub struct Damaged {
    /// Who this node is.
    pub node_id: u32,
    /// What was found, as one line.
    pub found: String,
}

/// What whoever reads it is to do.
const HINT: &str = "tiebeamd check shows the places. One of several nodes: node_remove on another \
                    one, then tiebeamd join with an empty data folder. A node alone: operating.md";

impl Damaged {
    fn about(&self) -> Value {
        json!({
            "live": true,
            "ready": false,
            "damage": self.found,
            "hint": HINT,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }

    fn refusal(&self) -> RpcError {
        RpcError::new(ErrorCode::NoMaster, "this node found damage and serves nothing")
            .hint("GET /health/live tells what it found")
    }
}

impl Service for Damaged {
    fn node_id(&self) -> u32 {
        self.node_id
    }

    fn place(&self) -> Place {
        Place::NoMaster
    }

    fn methods(&self) -> Vec<&'static str> {
        vec![STATUS]
    }

    fn method_class(&self, method: &str) -> MethodClass {
        if method == STATUS { MethodClass::Here } else { MethodClass::Master }
    }

    fn method_help(&self, method: &str) -> Option<String> {
        (method == STATUS).then(|| "node_damage(): what this node found".to_owned())
    }

    fn method_signatures(&self, method: &str) -> Option<Vec<Vec<&'static str>>> {
        (method == STATUS).then(|| vec![vec!["struct"]])
    }

    fn openrpc(&self) -> Value {
        json!({"openrpc": "1.2.6", "methods": []})
    }

    fn is_job(&self, _name: &str) -> bool {
        false
    }

    /// Passwords are in State, which is not to be trusted here: only who is root on this machine
    /// is let in, over the unix socket.
    fn login(
        &self,
        credentials: Credentials,
        _source: Source,
    ) -> BoxFuture<'static, Result<Arc<Caller>, LoginError>> {
        let caller = match credentials {
            Credentials::Unix { uid: 0, pid } => Ok(Arc::new(Caller {
                user: "root".to_owned(),
                via: Via::Unix { uid: 0, pid },
                expires: None,
                credential_revision: 0,
            })),
            Credentials::Unix { .. } => Err(LoginError::Wrong),
            _ => Err(LoginError::NoMaster),
        };
        Box::pin(async { caller })
    }

    fn standing(&self, _caller: &Caller) -> Standing {
        Standing::Good
    }

    fn revoked(&self, _caller: Arc<Caller>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn call(
        &self,
        _call: Call,
        method: String,
        _params: Params,
    ) -> BoxFuture<'static, Result<Value, RpcError>> {
        let answer = if method == STATUS { Ok(self.about()) } else { Err(self.refusal()) };
        Box::pin(async { answer })
    }

    fn subscribe(
        &self,
        _caller: Arc<Caller>,
        _filter: Value,
    ) -> BoxFuture<'static, Result<Events, RpcError>> {
        let refusal = self.refusal();
        Box::pin(async { Err(refusal) })
    }

    fn master(&self) -> Option<Master> {
        None
    }

    fn confirm_master(&self) -> BoxFuture<'static, bool> {
        Box::pin(async { false })
    }

    fn live(&self) -> (bool, Value) {
        (true, self.about())
    }

    fn ready(&self) -> (bool, Value) {
        (false, self.about())
    }

    fn applied(&self) -> u64 {
        0
    }

    fn may_read_metrics(&self, caller: &Caller) -> bool {
        caller.user == "root"
    }

    fn metrics_text(&self) -> String {
        "# HELP tiebeam_damaged Whether this node found damage and serves nothing.\n\
         # TYPE tiebeam_damaged gauge\ntiebeam_damaged 1\n# EOF\n"
            .to_owned()
    }

    fn origin_allowed(&self, _origin: &str) -> bool {
        false
    }

    fn host_allowed(&self, _host: &str) -> bool {
        true
    }
}
