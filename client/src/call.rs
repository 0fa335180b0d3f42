//! One RPC call, brought to the master: redirects, other members, patience.
//!
//! Owns the decision what may be sent again. The rule: a request that cannot have arrived, or was
//! answered with 302 or 503 (nothing of it was proposed, ruling 1), may always be sent again; one
//! that may have arrived only if the call is *repeatable*: a read, or a start that carries a
//! `request_id`. Called by `client`; sends through `transport`.

use crate::address::Address;
use crate::clock::ServerClock;
use crate::error::Error;
use crate::roster::Roster;
use crate::secret::Secret;
use crate::transport::{Answer, Failure, Request, Transport};
use base64::Engine;
use http::header::HeaderValue;
use serde_json::{Value, json};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use tiebeam_proto::{ErrorCode, RpcError};
use tokio::time::Instant;

/// Redirects followed in a row: one leads to the master, a second one if it just changed.
const HOPS_MAX: usize = 4;
/// First pause between two rounds over the members; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause: about one election.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Time to ask for the members: it comes on top of a call that was answered already.
const LEARN_WITHIN: Duration = Duration::from_secs(2);

/// What a batch is called where a method's name is shown.
const BATCH: &str = "batch";

/// How a client logs in; a client certificate is not here but in the TLS settings.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    /// By certificate or unix socket, or not at all.
    None,
    /// HTTP Basic.
    Password { user: String, password: Secret },
    /// HTTP Bearer.
    Token(Secret),
}

/// How long a client goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) retry_for: Duration,
    pub(crate) answer_within: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { retry_for: Duration::from_secs(30), answer_within: Duration::from_secs(60) }
    }
}

/// One call.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) params: Value,
    /// Whether doing it twice is the same as doing it once.
    pub(crate) repeatable: bool,
    /// Whether credentials are sent (`user_login` and `user_init` go without).
    pub(crate) login: bool,
    /// Time that the call itself waits at the daemon.
    pub(crate) waits: Duration,
}

/// The state that all calls of a client share.
#[derive(Debug)]
pub(crate) struct Caller {
    roster: Roster,
    transport: Transport,
    credentials: RwLock<Credentials>,
    patience: Patience,
    pub(crate) clock: ServerClock,
}

/// What to do after an attempt failed.
#[derive(Debug)]
enum Verdict {
    /// Tell the caller.
    Final(Error),
    /// Ask another member, after this pause if there is one.
    Next { error: Error, pause: Option<Duration> },
    /// Send it again to this address.
    Redirect(Address),
}

impl Caller {
    pub(crate) fn new(
        roster: Roster,
        transport: Transport,
        credentials: Credentials,
        patience: Patience,
    ) -> Caller {
        Caller {
            roster,
            transport,
            credentials: RwLock::new(credentials),
            patience,
            clock: ServerClock::new(),
        }
    }

    /// The members that this client was given.
    pub(crate) fn members(&self) -> &[Address] {
        self.roster.given()
    }

    /// Takes other credentials from now on.
    pub(crate) fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.write().unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    /// Makes one call and returns its `result`.
    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<Value, Error> {
        let value = self.deliver(call, envelope(call.method, &call.params)).await?;
        if call.login && self.roster.take_turn() {
            self.learn().await;
        }
        Ok(value)
    }

    /// Asks the master who the members are, so that this client survives the loss of all that it
    /// was given. The read leaves no record, and its failure is nobody's concern.
    async fn learn(&self) {
        let Some(master) = self.roster.master() else { return };
        let call = Call {
            method: "job_exec",
            params: json!(["node_list", {"volatile": true}]),
            repeatable: true,
            login: true,
            waits: Duration::ZERO,
        };
        let body = envelope(call.method, &call.params);
        let asked = tokio::time::timeout(LEARN_WITHIN, self.follow(master, &call, &body)).await;
        if let Ok(Ok(result)) = asked {
            self.roster.learn(&result);
        }
    }

    /// Makes several calls in one batch; the answers come in the order of the calls.
    pub(crate) async fn batch(
        &self,
        calls: &[(&str, Value)],
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let mut answers = Vec::with_capacity(calls.len());
        for chunk in calls.chunks(tiebeam_proto::limits::BATCH_MAX) {
            let members: Vec<Value> = chunk
                .iter()
                .enumerate()
                .map(|(id, (method, params))| request(method, params, id))
                .collect();
            let call = Call {
                method: BATCH,
                params: Value::Null,
                repeatable: true,
                login: true,
                waits: Duration::ZERO,
            };
            let answer = self.deliver(&call, json!(members).to_string().into_bytes()).await?;
            let mut found = answer.as_array().cloned().unwrap_or_default();
            found.sort_by_key(|member| member["id"].as_u64());
            if found.len() != chunk.len() {
                return Err(Error::Answer {
                    address: "the cluster".to_owned(),
                    method: call.method.to_owned(),
                    reason: format!("{} answers to {} calls", found.len(), chunk.len()),
                });
            }
            answers.extend(found.into_iter().map(|member| result_of(member, BATCH, "a member")));
        }
        Ok(answers)
    }

    /// Plain GET of a path at one member, without login: health and `/master`.
    pub(crate) async fn get(&self, member: &Address, path: &str) -> Result<(u16, String), Error> {
        let within = self.patience.answer_within.min(Duration::from_secs(10));
        let request = Request { path, body: None, authorization: None, within };
        let answer = self.transport.send(member, request).await.map_err(|failure| {
            let (Failure::NotSent(source) | Failure::Unanswered(source)) = failure;
            Error::Unreachable { address: member.to_string(), source }
        })?;
        if let Some(date) = &answer.date {
            self.clock.note(date);
        }
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// Learns the cluster's time before the first key is made; a failure is left to the call.
    pub(crate) async fn learn_time(&self) {
        for member in self.roster.given() {
            if self.clock.known() || self.get(member, "/health/live").await.is_ok() {
                return;
            }
        }
    }

    async fn deliver(&self, call: &Call<'_>, body: Vec<u8>) -> Result<Value, Error> {
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let mut asked = None;
            let mut last = Error::NoAddress;
            for member in self.roster.order() {
                match self.follow(member, call, &body).await {
                    Ok(value) => return Ok(value),
                    Err(Verdict::Next { error, pause }) => {
                        asked = asked.max(pause);
                        last = error;
                    }
                    Err(Verdict::Final(error)) => return Err(error),
                    Err(Verdict::Redirect(_)) => {}
                }
            }
            let left = self.patience.retry_for.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(last);
            }
            tokio::time::sleep(asked.unwrap_or(pause).min(PAUSE_MAX).min(left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Sends to one member and on along its redirects.
    async fn follow(&self, first: Address, call: &Call<'_>, body: &[u8]) -> Result<Value, Verdict> {
        let mut address = first;
        for _ in 0..HOPS_MAX {
            let request = Request {
                path: "/",
                body: Some(body.to_vec()),
                authorization: if call.login { self.authorization()? } else { None },
                within: self.patience.answer_within.saturating_add(call.waits),
            };
            let sent = self.transport.send(&address, request).await;
            if let Ok(Answer { date: Some(date), .. }) = &sent {
                self.clock.note(date);
            }
            match judge(sent, &address, call) {
                Ok(value) => {
                    self.roster.remember(Some(address));
                    return Ok(value);
                }
                Err(Verdict::Redirect(there)) => address = there,
                Err(verdict) => {
                    let answered = matches!(verdict, Verdict::Final(Error::Rpc(_)));
                    self.roster.remember(answered.then_some(address));
                    return Err(verdict);
                }
            }
        }
        // Members that point at each other are between two masters.
        let error = Error::NoMaster { address: address.to_string() };
        Err(Verdict::Next { error, pause: None })
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, Verdict> {
        let text = match &*self.credentials.read().unwrap_or_else(PoisonError::into_inner) {
            Credentials::None => return Ok(None),
            Credentials::Token(token) => {
                zeroize::Zeroizing::new(format!("Bearer {}", token.expose()))
            }
            Credentials::Password { user, password } => {
                let pair = zeroize::Zeroizing::new(format!("{user}:{}", password.expose()));
                let engine = base64::engine::general_purpose::STANDARD;
                zeroize::Zeroizing::new(format!("Basic {}", engine.encode(pair.as_bytes())))
            }
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            Verdict::Final(Error::Login { address: "a header, as it has line ends in it".into() })
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn request(method: &str, params: &Value, id: usize) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn envelope(method: &str, params: &Value) -> Vec<u8> {
    request(method, params, 1).to_string().into_bytes()
}

/// What an attempt's end means: the table of the module's first paragraph.
fn judge(
    sent: Result<Answer, Failure>,
    address: &Address,
    call: &Call<'_>,
) -> Result<Value, Verdict> {
    let name = || address.to_string();
    let answer = match sent {
        Ok(answer) => answer,
        Err(Failure::NotSent(source)) => {
            return Err(next(Error::Unreachable { address: name(), source }));
        }
        Err(Failure::Unanswered(source)) => {
            let error =
                Error::AnswerLost { method: call.method.to_owned(), address: name(), source };
            return Err(if call.repeatable { next(error) } else { Verdict::Final(error) });
        }
    };
    match answer.status {
        200 => match parse(&answer.body, call, address) {
            Err(error) if may_pass(&error, call) => Err(next(error)),
            other => other.map_err(Verdict::Final),
        },
        302 | 307 | 308 => {
            let location = answer.location.unwrap_or_default();
            Err(match address.redirected(&location) {
                Ok(there) => Verdict::Redirect(there),
                Err(error) => Verdict::Final(error),
            })
        }
        401 => Err(Verdict::Final(Error::Login { address: name() })),
        403 => Err(Verdict::Final(Error::Refused { address: name(), reason: start(&answer.body) })),
        413 => Err(Verdict::Final(Error::Rpc(
            RpcError::new(ErrorCode::TooLarge, "the call is larger than the daemon takes")
                .hint("a request body has at most 1 MiB"),
        ))),
        503 => Err(Verdict::Next {
            error: Error::NoMaster { address: name() },
            pause: answer.retry_after,
        }),
        status => Err(Verdict::Final(Error::Status {
            address: name(),
            status,
            text: start(&answer.body),
        })),
    }
}

fn next(error: Error) -> Verdict {
    Verdict::Next { error, pause: None }
}

/// Error replies after which the same call is worth another round.
fn may_pass(error: &Error, call: &Call<'_>) -> bool {
    match error {
        Error::Rpc(error) => match error.code {
            ErrorCode::NoMaster => true,
            ErrorCode::OutcomeUnknown => error.retryable && call.repeatable,
            _ => false,
        },
        _ => false,
    }
}

fn parse(body: &[u8], call: &Call<'_>, address: &Address) -> Result<Value, Error> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| Error::Answer {
        address: address.to_string(),
        method: call.method.to_owned(),
        reason: error.to_string(),
    })?;
    if answer.is_array() && call.method == BATCH {
        return Ok(answer);
    }
    result_of(answer, call.method, &address.to_string())
}

fn result_of(mut answer: Value, method: &str, address: &str) -> Result<Value, Error> {
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        return Err(match (RpcError::from_json(error), error["code"].as_i64()) {
            (Some(known), _) => Error::Rpc(known),
            (None, Some(code)) => Error::RpcUnknown {
                code,
                message: error["message"].as_str().unwrap_or("unknown error").to_owned(),
            },
            (None, None) => unclear(method, address, "an error without a code"),
        });
    }
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(unclear(method, address, "neither result nor error")),
    }
}

fn unclear(method: &str, address: &str, reason: &str) -> Error {
    Error::Answer {
        address: address.to_owned(),
        method: method.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The start of a body, as one line for a message.
fn start(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(repeatable: bool) -> Call<'static> {
        Call {
            method: "job_start",
            params: Value::Null,
            repeatable,
            login: true,
            waits: Duration::ZERO,
        }
    }

    fn here() -> Address {
        Address::parse("n11").unwrap()
    }

    fn answered(status: u16, body: &str) -> Result<Answer, Failure> {
        Ok(Answer { status, body: body.into(), ..Answer::default() })
    }

    fn word(sent: Result<Answer, Failure>, repeatable: bool) -> &'static str {
        match judge(sent, &here(), &call(repeatable)) {
            Ok(_) => "value",
            Err(Verdict::Final(_)) => "final",
            Err(Verdict::Next { .. }) => "next",
            Err(Verdict::Redirect(_)) => "redirect",
        }
    }

    #[test]
    fn what_may_have_arrived_is_sent_again_only_if_repeatable() {
        let lost = || Err(Failure::Unanswered("reset".into()));
        let unsent = || Err(Failure::NotSent("refused".into()));
        assert_eq!((word(lost(), true), word(lost(), false)), ("next", "final"));
        assert_eq!((word(unsent(), true), word(unsent(), false)), ("next", "next"));
        assert_eq!(word(answered(503, ""), false), "next");
    }

    #[test]
    fn only_replies_that_may_pass_are_asked_again() {
        let reply = |code, retryable| {
            let mut error = RpcError::new(code, "x");
            error.retryable = retryable;
            answered(200, &json!({"jsonrpc": "2.0", "error": error.to_json()}).to_string())
        };
        for (code, retryable, repeatable, expected) in [
            (ErrorCode::NoMaster, true, false, "next"),
            (ErrorCode::OutcomeUnknown, true, true, "next"),
            (ErrorCode::OutcomeUnknown, false, true, "final"),
            (ErrorCode::OutcomeUnknown, true, false, "final"),
            (ErrorCode::TooBusy, true, true, "final"),
            (ErrorCode::Forbidden, false, true, "final"),
        ] {
            assert_eq!(word(reply(code, retryable), repeatable), expected, "{code:?}");
        }
    }

    #[test]
    fn statuses_and_bodies_that_end_a_call() {
        for (status, body) in [(400, "TLS only"), (401, ""), (403, ""), (413, ""), (500, "")] {
            assert_eq!(word(answered(status, body), true), "final", "{status}");
        }
        for body in ["", "[", "{}", "{\"error\":{}}"] {
            assert_eq!(word(answered(200, body), true), "final", "{body}");
        }
        assert_eq!(word(answered(302, ""), true), "redirect");
        assert_eq!(word(answered(200, "{\"result\":null}"), true), "value");
    }
}
