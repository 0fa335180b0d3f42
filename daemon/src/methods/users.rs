//! Logging in and out, and the caller's own state.

use super::arguments::Arguments;
use super::{Method, Right};
use crate::auth;
use crate::engine::Engine;
use crate::front::seam::{Call, MethodClass, Via};
use crate::pipeline::submit::{self, source_text};
use crate::secret::Secret;
use serde_json::{Value, json};
use std::sync::Arc;
use tiebeam_core::admit::Kwargs;
use tiebeam_core::proposal::{Body, Revoke};
use tiebeam_core::settings;
use tiebeam_proto::{ErrorCode, RpcError, time::Time};

pub(super) const USER_LOGIN: Method = Method {
    name: "user_login",
    class: MethodClass::Master,
    right: Right::Everybody,
    arguments: &["name", "password", "ttl_s"],
    signatures: &[&["struct", "string", "string"], &["struct", "string", "string", "int"]],
    help: "user_login(name, password[, ttl_s]): {token, expires}; send it as Authorization: Bearer",
    run: |engine, call, arguments| Box::pin(user_login(engine, call, arguments)),
};

pub(super) const USER_LOGOUT: Method = Method {
    name: "user_logout",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["token"],
    signatures: &[&["boolean", "string"]],
    help: "user_logout(token): ends a token of the caller before its time",
    run: |engine, call, arguments| Box::pin(user_logout(engine, call, arguments)),
};

pub(super) const USER_STATE: Method = Method {
    name: "user_state",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &[],
    signatures: &[&["struct"]],
    help: "user_state(): {user, groups, via, expires} of the caller",
    run: |engine, call, _| Box::pin(async move { Ok(user_state(&engine, &call)) }),
};

pub(super) const USER_INIT: Method = Method {
    name: "user_init",
    class: MethodClass::Master,
    right: Right::Everybody,
    arguments: &["name", "one_time_secret", "password"],
    signatures: &[&["boolean", "string", "string", "string"]],
    help: "user_init(name, one_time_secret, password): sets the first password of a user",
    run: |engine, call, arguments| Box::pin(user_init(engine, call, arguments)),
};

/// Wall-clock time at which something ends that ends at this cluster time.
fn ends_at(engine: &Engine, expires_us: u64) -> Time {
    let left = expires_us.saturating_sub(engine.board.clock_us());
    Time(engine.proposer.wall().0.saturating_add(i64::try_from(left).unwrap_or(i64::MAX)))
}

async fn user_login(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let ttl_s = a.integer(2)?;
    let (user, password) = (a.text(0)?.to_owned(), Secret::new(a.text(1)?.to_owned()));
    let source = source_text(call.source);
    let credentials = auth::Credentials::Basic { user, password };
    let refused = || RpcError::new(ErrorCode::LoginRequired, "the login is not valid");
    let login = match engine.auth.login(credentials, &source).await {
        Ok(login) => login,
        Err(auth::Denied::Busy) => {
            return Err(RpcError::new(ErrorCode::TooBusy, "too many logins wait"));
        }
        Err(_) => return Err(refused()),
    };
    crate::service::keep_rehash(&engine, &login).await;
    let default_s = settings::integer(&engine.board.state().config, "login", "token_ttl_s");
    let issued = engine.auth.issue_token(&login, Some(ttl_s.unwrap_or(default_s)));
    let (token, claims) = issued.map_err(|error| {
        RpcError::new(ErrorCode::InvalidArguments, error.to_string()).field("ttl_s")
    })?;
    Ok(json!({"token": token.expose(), "expires": ends_at(&engine, claims.expires_us)}))
}

async fn user_logout(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let token = Secret::new(a.text(0)?.to_owned());
    let invalid = |text: &str| RpcError::new(ErrorCode::InvalidArguments, text).field("token");
    let claims = engine.auth.read_token(&token).map_err(|_| invalid("this is no token"))?;
    if claims.user != super::user_of(&call) {
        return Err(RpcError::new(ErrorCode::Forbidden, "this is not a token of yours"));
    }
    let revoke = Revoke { token: claims.id, expires_us: claims.expires_us };
    engine.proposer.propose(Body::Revoke(revoke)).await.map_err(|error| error.to_rpc(true))?;
    Ok(json!(true))
}

fn user_state(engine: &Engine, call: &Call) -> Value {
    let Some(caller) = &call.caller else { return Value::Null };
    let via = match &caller.via {
        Via::Basic => "basic",
        Via::Bearer { .. } => "bearer",
        Via::Certificate { .. } => "certificate",
        Via::Unix { .. } => "unix",
    };
    json!({
        "user": caller.user,
        "groups": engine.board.state().groups_of(&caller.user).collect::<Vec<_>>(),
        "via": via,
        "expires": caller.expires,
    })
}

async fn user_init(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let name = a.text(0)?.to_owned();
    let params = json!({
        "name": name,
        "one_time_secret": a.text(1)?,
        "password": a.text(2)?,
    });
    let refused = || RpcError::new(ErrorCode::LoginRequired, "the login is not valid");
    let state = engine.board.state();
    let hash = crate::keys::one_time_hash(a.text(1)?);
    let one_time = state.credentials.get(name.as_str()).and_then(|c| c.one_time.clone());
    let fits = one_time.is_some_and(|(kept, until)| {
        use subtle::ConstantTimeEq;
        bool::from(kept.as_bytes().ct_eq(hash.as_bytes())) && until > engine.board.clock_us()
    });
    if !fits {
        engine.auth.note_failed(&name, &source_text(call.source));
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        return Err(refused());
    }
    let caller = crate::service::caller_by_secret(&state, &name).ok_or_else(refused)?;
    let call = Call { caller: Some(caller), ..call };
    let params = params.as_object().cloned().unwrap_or_default();
    let kwargs = Kwargs { params, ..Kwargs::default() };
    let started = submit::start_job(&engine, &call, &tiebeam_jobs::USER_INIT, kwargs).await?;
    let ended = started.record.and_then(|record| record.outcome);
    if ended == Some(tiebeam_proto::Outcome::Ok) { Ok(json!(true)) } else { Err(refused()) }
}
