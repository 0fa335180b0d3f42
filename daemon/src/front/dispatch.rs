//! One call, whatever protocol brought it: the front's own methods, else the service's.
//!
//! [`Context`] is what the calls of one request share. The front's own methods are the
//! introspection of XML-RPC, `system.multicall` and `rpc.discover`; they need no state, so every
//! node answers them (ruling 2). A panic in a call ends that call alone.

use super::Shared;
use super::seam::{Call, Caller, MethodClass, Source};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tiebeam_proto::limits::BATCH_MAX;
use tiebeam_proto::record::RequestFacts;
use tiebeam_proto::{ErrorCode, Params, RpcError, xml};
use tokio_util::sync::CancellationToken;

/// The method that carries other calls.
pub const MULTICALL: &str = "system.multicall";
/// The methods that the front answers itself.
pub const OWN: [&str; 6] = [
    "rpc.discover",
    "system.getCapabilities",
    "system.listMethods",
    "system.methodHelp",
    "system.methodSignature",
    MULTICALL,
];

/// What the calls of one request share.
#[derive(Clone)]
pub struct Context {
    /// The front.
    pub shared: Arc<Shared>,
    /// Who calls; `None` only before a login.
    pub caller: Option<Arc<Caller>>,
    /// What the record keeps of the request.
    pub facts: Arc<RequestFacts>,
    /// Where it came from.
    pub source: Source,
    /// Fires when calls that wait are to answer: [`Call::stop`].
    pub stop: CancellationToken,
}

/// Methods that may be called without a login, alone in their request (ruling 2).
pub fn is_login(method: &str) -> bool {
    matches!(method, "user_login" | "user_init")
}

/// Where a call may run; a multicall follows its strictest member.
pub fn class(shared: &Shared, method: &str, params: &Params) -> MethodClass {
    if method != MULTICALL {
        return class_of_one(shared, method);
    }
    let strictest = inner_calls(params).ok().and_then(|calls| {
        calls.iter().map(|call| class_of_one(shared, call["methodName"].as_str()?).into()).max()?
    });
    strictest.unwrap_or(MethodClass::Here)
}

fn class_of_one(shared: &Shared, method: &str) -> MethodClass {
    if OWN.contains(&method) { MethodClass::Here } else { shared.service.method_class(method) }
}

/// The error for a method that does not exist.
pub fn unknown_method(method: &str) -> RpcError {
    let shown: String = method.chars().filter(|c| !c.is_control()).take(64).collect();
    let error = RpcError::new(ErrorCode::UnknownMethod, format!("there is no method {shown:?}"));
    match method {
        "subscribe" | "unsubscribe" => error.hint("subscriptions are on the WebSocket /ws"),
        _ => error.hint("system.listMethods lists the methods"),
    }
}

/// The calls inside a multicall, not yet looked at.
fn inner_calls(params: &Params) -> Result<&Vec<Value>, RpcError> {
    let calls = match params {
        Params::Positional(list) => list.first(),
        Params::Named(map) => map.get("calls"),
    };
    let calls = calls.and_then(Value::as_array).ok_or_else(|| {
        RpcError::new(ErrorCode::InvalidArguments, "system.multicall takes a list of calls")
            .field("calls")
    })?;
    if calls.len() > BATCH_MAX {
        let message = format!("system.multicall takes at most {BATCH_MAX} calls");
        return Err(RpcError::new(ErrorCode::TooLarge, message).field("calls"));
    }
    Ok(calls)
}

impl Context {
    /// Calls a method of the front or of the service.
    ///
    /// # Errors
    ///
    /// What the client is told.
    pub async fn call(&self, method: &str, params: Params) -> Result<Value, RpcError> {
        if method == MULTICALL {
            self.multicall(&params).await
        } else {
            self.one(method, params).await
        }
    }

    async fn one(&self, method: &str, params: Params) -> Result<Value, RpcError> {
        if let Some(answer) = self.own(method, &params) {
            return answer;
        }
        if self.shared.service.method_class(method) == MethodClass::Unknown {
            return Err(unknown_method(method));
        }
        let call = Call {
            caller: self.caller.clone(),
            facts: Arc::clone(&self.facts),
            source: self.source,
            stop: self.stop.clone(),
        };
        let calling = self.shared.service.call(call, method.to_owned(), params);
        guarded(method, calling).await
    }

    /// In order, each call on its own; a call that fails leaves a fault in its place (ruling 38).
    async fn multicall(&self, params: &Params) -> Result<Value, RpcError> {
        let (mut results, mut done) = (Vec::new(), false);
        let mut no_master = None;
        for call in inner_calls(params)? {
            let outcome = self.inner(call).await;
            done |= !matches!(&outcome, Err(error) if error.code == ErrorCode::NoMaster);
            results.push(match outcome {
                Ok(value) => json!([value]),
                Err(error) => {
                    let fault = xml::fault_value(&error);
                    no_master = no_master.or(Some(error).filter(|_first| !done));
                    fault
                }
            });
        }
        // As long as nothing was done the whole can still be sent to the master (ruling 1).
        no_master.filter(|_error| !done).map_or(Ok(Value::Array(results)), Err)
    }

    async fn inner(&self, call: &Value) -> Result<Value, RpcError> {
        let wrong = |message: &str| Err(RpcError::new(ErrorCode::InvalidRequest, message));
        let Some(method) = call["methodName"].as_str() else {
            return wrong("a call in system.multicall has a methodName");
        };
        if method == MULTICALL {
            return wrong("system.multicall cannot contain itself");
        }
        let params = match &call["params"] {
            Value::Null => Params::none(),
            Value::Array(list) => Params::Positional(list.clone()),
            _ => return wrong("the params of a call in system.multicall are a list"),
        };
        self.one(method, params).await
    }

    /// The front's own methods, but for multicall.
    fn own(&self, method: &str, params: &Params) -> Option<Result<Value, RpcError>> {
        let service = &self.shared.service;
        let about = |answer: &dyn Fn(&str) -> Option<Value>| {
            let name = method_argument(params)?;
            answer(name).ok_or_else(|| {
                let mut error = unknown_method(name).field("name");
                error.code = ErrorCode::InvalidArguments;
                error
            })
        };
        Some(match method {
            "rpc.discover" => Ok(service.openrpc()),
            "system.getCapabilities" => Ok(capabilities()),
            "system.listMethods" => {
                let mut names = service.methods();
                names.extend(OWN);
                names.sort_unstable();
                Ok(json!(names))
            }
            "system.methodHelp" => about(&|name| {
                own_help(name).map(Value::from).or_else(|| Some(service.method_help(name)?.into()))
            }),
            "system.methodSignature" => about(&|name| {
                own_signature(name)
                    .map(|one| json!([one]))
                    .or_else(|| Some(json!(service.method_signatures(name)?)))
            }),
            _ => return None,
        })
    }
}

fn method_argument(params: &Params) -> Result<&str, RpcError> {
    let name = match params {
        Params::Positional(list) => list.first(),
        Params::Named(map) => map.get("name"),
    };
    name.and_then(Value::as_str).ok_or_else(|| {
        RpcError::new(ErrorCode::InvalidArguments, "the name of a method is missing").field("name")
    })
}

/// The specifications that the XML side follows, in the form of `system.getCapabilities`.
fn capabilities() -> Value {
    let entry = |url: &str, version: i32| json!({"specUrl": url, "specVersion": version});
    let mut all = Map::new();
    all.insert("xmlrpc".to_owned(), entry("http://xmlrpc.com/spec.md", 1));
    let introspection = "http://xmlrpc-c.sourceforge.net/introspection.html";
    all.insert("introspection".to_owned(), entry(introspection, 1));
    let multicall = "http://mirrors.talideon.com/articles/multicall.html";
    all.insert("system.multicall".to_owned(), entry(multicall, 1));
    let faults = "http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php";
    all.insert("faults_interop".to_owned(), entry(faults, 20_010_516));
    Value::Object(all)
}

fn own_help(method: &str) -> Option<&'static str> {
    Some(match method {
        "rpc.discover" => "rpc.discover(): the OpenRPC document of this service.",
        "system.getCapabilities" => "system.getCapabilities(): the specifications followed.",
        "system.listMethods" => "system.listMethods(): the names of all methods, sorted.",
        "system.methodHelp" => "system.methodHelp(name): a text about a method.",
        "system.methodSignature" => {
            "system.methodSignature(name): a list of signatures, each a list of type names with \
             the result's first."
        }
        MULTICALL => {
            "system.multicall([{methodName, params}, …]): the calls in order; for each a list \
             with its result, or its fault. At most 100."
        }
        _ => return None,
    })
}

fn own_signature(method: &str) -> Option<&'static [&'static str]> {
    Some(match method {
        "rpc.discover" | "system.getCapabilities" => &["struct"],
        "system.listMethods" => &["array"],
        "system.methodHelp" => &["string", "string"],
        "system.methodSignature" => &["array", "string"],
        MULTICALL => &["array", "array"],
        _ => return None,
    })
}

/// Awaits a call of the service and answers a panic in it, which says nothing of its inside.
async fn guarded(
    method: &str,
    calling: BoxFuture<'static, Result<Value, RpcError>>,
) -> Result<Value, RpcError> {
    AssertUnwindSafe(calling).catch_unwind().await.unwrap_or_else(|_panic| {
        tracing::error!(method, "a call panicked");
        Err(RpcError::new(ErrorCode::Internal, "the daemon failed in this call"))
    })
}
