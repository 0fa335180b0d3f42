//! A service with one user (`admin`, password `geheim:ü`), a token, a certificate's user, and a
//! few methods that show what the front did.

use crate::front::seam::{
    Call, Caller, Credentials, Events, LoginError, Master, MethodClass, Place, Service, Source,
    Standing, Via,
};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiebeam_proto::{ErrorCode, Params, RpcError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub const PASSWORD: &str = "geheim:ü";

/// What a test can set and see.
pub struct Double {
    pub place: Mutex<Place>,
    pub standing: Mutex<Standing>,
    pub revoked: CancellationToken,
    /// Methods in the order of their start.
    pub started: Mutex<Vec<String>>,
    /// Logins that were asked for.
    pub logins: AtomicUsize,
    /// The facts of the last call, as JSON.
    pub facts: Mutex<Value>,
    pub open: Notify,
    expires: AtomicBool,
    waiting: tokio::sync::Barrier,
}

impl Double {
    pub fn new() -> Arc<Double> {
        Arc::new(Double {
            place: Mutex::new(Place::Here),
            standing: Mutex::new(Standing::Good),
            revoked: CancellationToken::new(),
            started: Mutex::default(),
            logins: AtomicUsize::new(0),
            facts: Mutex::default(),
            open: Notify::new(),
            expires: AtomicBool::new(false),
            waiting: tokio::sync::Barrier::new(2),
        })
    }

    /// The login is good again until the next subscription was accepted.
    pub fn expire_at_event(&self) {
        *self.standing.lock().unwrap() = Standing::Good;
        self.expires.store(true, Ordering::Relaxed);
    }

    pub fn moves_to(&self, place: Place) {
        *self.place.lock().unwrap() = place;
    }

    pub fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }
}

/// The double as the front has it.
pub struct Handle(pub Arc<Double>);

fn caller(user: &str, via: Via) -> Arc<Caller> {
    Arc::new(Caller { user: user.to_owned(), via, expires: None, credential_revision: 1 })
}

impl Service for Handle {
    fn node_id(&self) -> u32 {
        11
    }

    fn place(&self) -> Place {
        self.0.place.lock().unwrap().clone()
    }

    fn methods(&self) -> Vec<&'static str> {
        vec![
            "job_list",
            "job_start",
            "job_exec",
            "job_result",
            "job_wait",
            "echo",
            "panic",
            "meet",
            "lost",
            "user_login",
        ]
    }

    fn method_class(&self, method: &str) -> MethodClass {
        match method {
            "job_list" => MethodClass::Here,
            other if self.methods().contains(&other) => MethodClass::Master,
            _ => MethodClass::Unknown,
        }
    }

    fn method_help(&self, method: &str) -> Option<String> {
        self.methods().contains(&method).then(|| format!("about {method}"))
    }

    fn method_signatures(&self, method: &str) -> Option<Vec<Vec<&'static str>>> {
        self.methods().contains(&method).then(|| vec![vec!["array"]])
    }

    fn openrpc(&self) -> Value {
        json!({"openrpc": "1.3.2"})
    }

    fn is_job(&self, name: &str) -> bool {
        name == "node_list"
    }

    fn login(
        &self,
        credentials: Credentials,
        _source: Source,
    ) -> BoxFuture<'static, Result<Arc<Caller>, LoginError>> {
        self.0.logins.fetch_add(1, Ordering::Relaxed);
        let verified = match credentials {
            Credentials::Basic { user, password }
                if user == "admin" && password.as_str() == PASSWORD =>
            {
                Ok(caller(&user, Via::Basic))
            }
            Credentials::Bearer(token) if token.as_str() == "tb1.good" => {
                Ok(caller("bob", Via::Bearer { token_id: "1".to_owned() }))
            }
            Credentials::Certificate(certificate)
                if certificate.uris.iter().any(|uri| uri.ends_with("/user/carol")) =>
            {
                let subject = certificate.subject.clone();
                Ok(caller("carol", Via::Certificate { subject }))
            }
            Credentials::Unix { uid, pid } => Ok(caller("root", Via::Unix { uid, pid })),
            _ => Err(LoginError::Wrong),
        };
        async move { verified }.boxed()
    }

    fn standing(&self, _caller: &Caller) -> Standing {
        *self.0.standing.lock().unwrap()
    }

    fn revoked(&self, _caller: Arc<Caller>) -> BoxFuture<'static, ()> {
        self.0.revoked.clone().cancelled_owned().boxed()
    }

    fn call(
        &self,
        call: Call,
        method: String,
        params: Params,
    ) -> BoxFuture<'static, Result<Value, RpcError>> {
        let double = Arc::clone(&self.0);
        async move {
            double.started.lock().unwrap().push(method.clone());
            *double.facts.lock().unwrap() = serde_json::to_value(&*call.facts).unwrap();
            match method.as_str() {
                "job_list" => Ok(json!(["node_list"])),
                "panic" => panic!("a fault that nobody may see"),
                // Two of these must be running at the same time for either to return.
                "meet" => {
                    double.waiting.wait().await;
                    Ok(json!("met"))
                }
                "job_wait" => {
                    double.open.notify_one();
                    call.stop.cancelled().await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok(json!(false))
                }
                "lost" => Err(RpcError::new(ErrorCode::NoMaster, "not the master any more")),
                "user_login" => match params {
                    Params::Positional(list) if list.get(1) == Some(&json!(PASSWORD)) => {
                        Ok(json!({"token": "tb1.good", "expires": 0}))
                    }
                    _ => Err(RpcError::new(ErrorCode::LoginRequired, "no")),
                },
                _ => {
                    let user = call.caller.map(|caller| caller.user.clone());
                    Ok(json!({"method": method, "params": params, "user": user}))
                }
            }
        }
        .boxed()
    }

    fn subscribe(
        &self,
        _caller: Arc<Caller>,
        filter: Value,
    ) -> BoxFuture<'static, Result<Events, RpcError>> {
        let double = Arc::clone(&self.0);
        async move {
            if double.expires.load(Ordering::Relaxed) {
                *double.standing.lock().unwrap() = Standing::Expired;
            }
            if filter["jobs"] == "none" {
                return Err(RpcError::new(ErrorCode::InvalidArguments, "no such jobs"));
            }
            let events = [json!({"cursor": "7.0", "filter": filter}), json!({"cursor": "8.0"})];
            let all: Events =
                futures_util::stream::iter(events).chain(futures_util::stream::pending()).boxed();
            Ok(all)
        }
        .boxed()
    }

    fn master(&self) -> Option<Master> {
        match self.place() {
            Place::NoMaster => None,
            _ => Some(Master { host: "127.0.0.11".to_owned(), name: "n11".to_owned() }),
        }
    }

    fn confirm_master(&self) -> BoxFuture<'static, bool> {
        let here = self.place() == Place::Here;
        async move { here }.boxed()
    }

    fn live(&self) -> (bool, Value) {
        (true, json!({"live": true}))
    }

    fn ready(&self) -> (bool, Value) {
        (self.place() != Place::NoMaster, json!({"applied": 42}))
    }

    fn applied(&self) -> u64 {
        42
    }

    fn may_read_metrics(&self, caller: &Caller) -> bool {
        caller.user == "admin"
    }

    fn metrics_text(&self) -> String {
        "# TYPE jobs counter\njobs_total 1\n".to_owned()
    }

    fn origin_allowed(&self, origin: &str) -> bool {
        origin == "https://console.example"
    }

    fn host_allowed(&self, host: &str) -> bool {
        host == "127.0.0.1" || host == "n11"
    }
}
