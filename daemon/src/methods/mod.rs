//! The one table of methods: where each may run, who may call it, what it says of itself.
//!
//! `system.*` and `rpc.discover` are the front's, made from this table. A method is added by a row
//! here; the security table of the tests fails until it has a row there too.

pub mod arguments;
mod catalogue;
mod events;
mod history;
mod jobs;
mod users;

use crate::engine::Engine;
use crate::front::seam::{Call, MethodClass, Service, Standing};
use crate::service::Node;
use arguments::Arguments;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_proto::{ErrorCode, Params, RpcError};

pub use events::Subscriptions;

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Whoever is logged in; what it shows or does is checked per object inside.
    LoggedIn,
    /// Everybody: the method is the login.
    Everybody,
}

/// A method's function.
pub type MethodFn = fn(Arc<Engine>, Call, Arguments) -> BoxFuture<'static, Result<Value, RpcError>>;

/// A row of the table.
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// Where it may run.
    pub class: MethodClass,
    /// Who may call it.
    pub right: Right,
    /// Its arguments in positional order.
    pub arguments: &'static [&'static str],
    /// Result type and argument types, in XML-RPC's names, one list per form.
    pub signatures: &'static [&'static [&'static str]],
    /// What it does.
    pub help: &'static str,
    /// The function.
    pub run: MethodFn,
}

/// Every method, in the order of names.
pub static METHODS: &[Method] = &[
    events::EVENTS,
    jobs::JOB_CANCEL,
    catalogue::JOB_DESC,
    jobs::JOB_EXEC,
    jobs::JOB_FILE,
    jobs::JOB_FINISHED,
    catalogue::JOB_HELP,
    history::JOB_HISTORY,
    jobs::JOB_INFO,
    catalogue::JOB_LIST,
    jobs::JOB_RESULT,
    jobs::JOB_START,
    jobs::JOB_WAIT,
    events::SUBSCRIBE,
    events::UNSUBSCRIBE,
    users::USER_INIT,
    users::USER_LOGIN,
    users::USER_LOGOUT,
    users::USER_STATE,
];

/// The row of a method.
pub fn find(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

/// Runs a method.
///
/// # Errors
/// What the client is told.
pub async fn run(
    engine: Arc<Engine>,
    call: Call,
    name: &str,
    params: Params,
) -> Result<Value, RpcError> {
    let method = find(name).ok_or_else(|| {
        RpcError::new(ErrorCode::UnknownMethod, "there is no such method")
            .hint("system.listMethods lists the methods")
    })?;
    if method.right == Right::LoggedIn && call.caller.is_none() {
        return Err(RpcError::new(ErrorCode::LoginRequired, "log in first"));
    }
    if method.class == MethodClass::Master && !engine.is_master() {
        return Err(RpcError::new(ErrorCode::NoMaster, "this node is not the master"));
    }
    let arguments = Arguments::read(method.name, method.arguments, params)?;
    (method.run)(engine, call, arguments).await
}

/// The caller's name, for a method that needs a login.
pub(crate) fn user_of(call: &Call) -> &str {
    call.caller.as_ref().map_or("", |caller| caller.user.as_str())
}

/// How often a call that waits looks whether its login still stands: often enough that nobody
/// reads on, seldom enough that thousands of waiting calls cost nothing.
const STANDING_EVERY: Duration = Duration::from_secs(1);

/// Resolves soon after the caller's login was revoked (ruling 4); a call that waits then answers.
pub(crate) async fn until_revoked(engine: &Arc<Engine>, call: &Call) {
    let Some(caller) = &call.caller else { return std::future::pending().await };
    let service = Node(engine.clone());
    while service.standing(caller) != Standing::Revoked {
        tokio::time::sleep(STANDING_EVERY).await;
    }
}

/// The OpenRPC document of `rpc.discover`.
pub fn openrpc() -> Value {
    let methods: Vec<Value> = METHODS
        .iter()
        .map(|method| {
            let params: Vec<Value> = method
                .arguments
                .iter()
                .map(|name| serde_json::json!({"name": name, "schema": {}}))
                .collect();
            serde_json::json!({
                "name": method.name,
                "description": method.help,
                "params": params,
                "result": {"name": "result", "schema": {}},
            })
        })
        .collect();
    serde_json::json!({
        "openrpc": "1.2.6",
        "info": {"title": "Tiebeam", "version": env!("CARGO_PKG_VERSION")},
        "methods": methods,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_stand_in_order_and_say_what_they_do() {
        assert!(METHODS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for method in METHODS {
            assert!(!method.help.is_empty() && !method.signatures.is_empty(), "{}", method.name);
            let longest = method.signatures.iter().map(|form| form.len()).max().unwrap_or(0);
            assert_eq!(longest, method.arguments.len() + 1, "{}", method.name);
        }
    }
}
