//! HTTP: which endpoint a request is for, and the checks on it in the order of ruling 2.
//!
//! `Origin` and `Host`; then, for a call: no login, 401; the body, read and parsed under its
//! limits; a call for the master on another node, 302 or 503 with the login not looked at; the
//! login; the call. Whatever comes before the end of a body drains it. `connection` calls
//! [`answer()`] once per request.

use super::answer::{self, Answer, TIEBEAM_APPLIED};
use super::body::{self, BodyError, Charged};
use super::connection::{Connection, Role};
use super::dispatch::Context;
use super::facts::facts;
use super::joining;
use super::login::{Claim, claim};
use super::message::Message;
use super::origin;
use super::probes;
use super::seam::{Caller, Credentials, LoginError, MethodClass, Place};
use super::ws;
use http::header::{HeaderValue, ORIGIN};
use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;
use tiebeam_proto::ErrorCode;
use tiebeam_proto::limits::{BODY_BYTES_BEFORE_LOGIN, BODY_BYTES_MAX};

/// The endpoints of wire.md section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Rpc,
    Rest,
    Join,
    WebSocket,
    Master,
    IsMaster,
    Live,
    Ready,
    Metrics,
}

impl Endpoint {
    fn of(path: &str) -> Option<Endpoint> {
        Some(match path {
            "" | "/" | "/rpc2" | "/RPC2" | "/rpc" => Endpoint::Rpc,
            "/rest" => Endpoint::Rest,
            "/join" => Endpoint::Join,
            "/ws" => Endpoint::WebSocket,
            "/master" => Endpoint::Master,
            "/is_master" => Endpoint::IsMaster,
            "/health/live" => Endpoint::Live,
            "/health/ready" => Endpoint::Ready,
            "/metrics" => Endpoint::Metrics,
            _ => return None,
        })
    }

    /// As the `Allow` header names them.
    const fn methods(self) -> &'static str {
        match self {
            Endpoint::Rpc | Endpoint::Rest | Endpoint::Join => "POST",
            Endpoint::WebSocket => "GET",
            _ => "GET, HEAD",
        }
    }

    fn allows(self, method: &Method) -> bool {
        self.methods().split(", ").any(|allowed| allowed == method.as_str())
    }
}

/// Answers one request.
pub async fn answer(connection: &Arc<Connection>, request: Request<Incoming>) -> Answer {
    let origin = request.headers().get(ORIGIN).cloned();
    let is_head = request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let service = connection.shared.service.as_ref();
    let mut answer = match origin::check(&parts, service, !connection.peer.is_unix()) {
        Err(refusal) => refused(&parts, body, answer::forbidden(refusal.line())).await,
        Ok(()) => {
            let mut answer = endpoint(connection, parts, body).await;
            if let Some(origin) = origin {
                origin::permit(&mut answer, origin);
            }
            answer
        }
    };
    if is_head {
        answer.body_mut().clear();
    }
    answer
}

/// An answer that does not wait for the body's end still drains it.
pub(super) async fn refused(parts: &Parts, mut body: Incoming, answer: Answer) -> Answer {
    body::drain(&mut body, &parts.headers).await;
    answer
}

async fn endpoint(connection: &Arc<Connection>, parts: Parts, body: Incoming) -> Answer {
    let found = Endpoint::of(parts.uri.path())
        .filter(|found| connection.role == Role::Rpc || *found == Endpoint::Metrics);
    let Some(found) = found else {
        let line = "not found; calls are POSTed to /rpc2 or /rest";
        return refused(&parts, body, answer::text(StatusCode::NOT_FOUND, line)).await;
    };
    if parts.method == Method::OPTIONS && parts.headers.contains_key(ORIGIN) {
        return origin::preflight(found.methods());
    }
    if !found.allows(&parts.method) {
        return refused(&parts, body, answer::wrong_method(found.methods())).await;
    }
    let service = connection.shared.service.as_ref();
    match found {
        Endpoint::Rpc | Endpoint::Rest => call(connection, parts, body, found).await,
        Endpoint::Join => joining::join(connection, parts, body).await,
        Endpoint::WebSocket => ws::open(connection, parts).await,
        Endpoint::Master => probes::master(service, parts.uri.query()),
        Endpoint::IsMaster => probes::is_master(service).await,
        Endpoint::Live => probes::health(service.live()),
        Endpoint::Ready => probes::health(service.ready()),
        Endpoint::Metrics => metrics(connection, &parts).await,
    }
}

async fn metrics(connection: &Connection, parts: &Parts) -> Answer {
    let service = connection.shared.service.as_ref();
    if connection.role == Role::Metrics {
        return probes::metrics(service, None);
    }
    let Claim::Login(credentials) = claim(&parts.headers, &connection.peer) else {
        return answer::unauthorized(origin::is_fetch(parts));
    };
    match login(connection, parts, credentials).await {
        Ok(caller) => probes::metrics(service, Some(&caller)),
        Err(answer) => answer,
    }
}

/// Verifies a claim here.
///
/// # Errors
///
/// The answer to give instead.
pub(super) async fn login(
    connection: &Connection,
    parts: &Parts,
    credentials: Credentials,
) -> Result<Arc<Caller>, Answer> {
    let verified = connection.shared.service.login(credentials, connection.peer.source()).await;
    verified.map_err(|error| match error {
        LoginError::Wrong if connection.peer.is_unix() => {
            answer::forbidden("this operating system user is no user of the cluster")
        }
        LoginError::Wrong => answer::unauthorized(origin::is_fetch(parts)),
        LoginError::NoMaster => answer::no_master(),
    })
}

/// The answer to a call of `class` that does not run on this node, if so (ruling 1: nothing of it
/// was proposed yet). The unix socket is never redirected.
pub(super) fn elsewhere(
    connection: &Connection,
    parts: &Parts,
    class: MethodClass,
    scheme: &str,
) -> Option<Answer> {
    if class != MethodClass::Master {
        return None;
    }
    let service = &connection.shared.service;
    match service.place() {
        Place::Here => None,
        Place::NoMaster if !service.finds_master() => Some(answer::no_master()),
        _ if connection.peer.is_unix() || service.forwards() => None,
        Place::NoMaster => Some(answer::no_master()),
        Place::Master { address } => {
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            Some(answer::redirect(&format!("{scheme}://{address}{path}")))
        }
    }
}

async fn call(
    connection: &Arc<Connection>,
    parts: Parts,
    mut body: Incoming,
    endpoint: Endpoint,
) -> Answer {
    let claim = claim(&parts.headers, &connection.peer);
    let max = match claim {
        Claim::Malformed => {
            return refused(&parts, body, answer::unauthorized(origin::is_fetch(&parts))).await;
        }
        Claim::None => BODY_BYTES_BEFORE_LOGIN,
        Claim::Login(_) => BODY_BYTES_MAX,
    };
    let shared = &connection.shared;
    let read = body::read(&mut body, &parts.headers, max, &shared.admission).await;
    let (message, bytes) = match (read, &claim) {
        (Ok(charged), _) => (parse(&charged, endpoint, connection), charged.bytes.len()),
        (Err(_any), Claim::None) => {
            return refused(&parts, body, answer::unauthorized(origin::is_fetch(&parts))).await;
        }
        (Err(error), _) => return unread(&parts, body, &error, max).await,
    };
    let credentials = match claim {
        Claim::Login(credentials) => Some(credentials),
        _ if message.is_login() => None,
        _ => return answer::unauthorized(origin::is_fetch(&parts)),
    };
    let class = message.class(shared);
    if let Some(answer) = elsewhere(connection, &parts, class, "https") {
        return answer;
    }
    let caller = match credentials {
        None => None,
        Some(credentials) => match login(connection, &parts, credentials).await {
            Ok(caller) => Some(caller),
            Err(answer) => return answer,
        },
    };
    run(connection, &parts, message, class, caller, bytes).await
}

fn parse(body: &Charged, endpoint: Endpoint, connection: &Connection) -> Message {
    match endpoint {
        Endpoint::Rest => Message::parse_rest(&body.bytes, &connection.shared),
        _ => Message::parse(&body.bytes),
    }
}

/// The answer to a body that was not read; `max` is its limit.
pub(super) async fn unread(parts: &Parts, body: Incoming, error: &BodyError, max: usize) -> Answer {
    match error {
        BodyError::TooLarge => {
            let line = format!("a body has at most {max} bytes");
            refused(parts, body, answer::text(StatusCode::PAYLOAD_TOO_LARGE, line)).await
        }
        BodyError::Crowded => refused(parts, body, answer::unavailable("too busy")).await,
        BodyError::Slow | BodyError::Broken(_) => {
            answer::text(StatusCode::BAD_REQUEST, error.to_string())
        }
    }
}

async fn run(
    connection: &Arc<Connection>,
    parts: &Parts,
    message: Message,
    class: MethodClass,
    caller: Option<Arc<Caller>>,
    bytes: usize,
) -> Answer {
    let shared = &connection.shared;
    let service = &shared.service;
    let (peer, node_id) = (&connection.peer, service.node_id());
    let facts = facts(message.protocol(), parts, peer, node_id, caller.as_deref(), bytes);
    let context = Context {
        shared: Arc::clone(shared),
        caller,
        facts: Arc::new(facts),
        source: connection.peer.source(),
        stop: shared.drain.stop().clone(),
    };
    let (mut answer, every) = message.run(Arc::new(context)).await;
    match every {
        // Nothing was proposed: the master may have moved while the call was looked at.
        Some(ErrorCode::NoMaster) => elsewhere(connection, parts, MethodClass::Master, "https")
            .unwrap_or_else(answer::no_master),
        Some(ErrorCode::LoginRequired) => answer::unauthorized(origin::is_fetch(parts)),
        _ => {
            if class != MethodClass::Master {
                answer.headers_mut().insert(TIEBEAM_APPLIED, HeaderValue::from(service.applied()));
            }
            answer
        }
    }
}
