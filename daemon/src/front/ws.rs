//! `/ws`: JSON-RPC 2.0 over a WebSocket, with subscriptions (wire.md section 5).
//!
//! The upgrade is checked like any call for the master, with `wss:` in its redirect. Then one
//! session has three tasks: one reads messages, one writes them, and the one between runs the
//! calls, a bounded number at a time. The frames are soketto's; the rules are `jsonrpc`'s, so a
//! call means the same here as over HTTP. Called by `http`.

use super::answer::{self, Answer};
use super::connection::Connection;
use super::dispatch::{self, Context};
use super::drain::IDLE_WHILE_DRAINING;
use super::facts::facts;
use super::http::{elsewhere, login};
use super::jsonrpc;
use super::login::{Claim, claim};
use super::origin;
use super::seam::{Caller, MethodClass, Place, Standing};
use super::table::{Answered, Subscriber, login_ended, refusal};
use http::request::Parts;
use http::{Request, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use jsonrpsee::core::server::BoundedSubscriptions;
use serde_json::Value;
use serde_json::value::RawValue;
use soketto::data::ByteSlice125;
use soketto::handshake::http::{Server, is_upgrade_request};
use std::sync::Arc;
use std::time::Duration;
use tiebeam_proto::limits::{BODY_BYTES_MAX, IDLE};
use tiebeam_proto::record::RequestFacts;
use tiebeam_proto::{ErrorCode, Params, RpcError};
use tokio::io::BufWriter;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use tokio_util::sync::CancellationToken;

/// Messages of one session that are being answered at once; more wait in the socket.
const CALLS_MAX: usize = 64;
/// Subscriptions of one session; a console has one per view.
const SUBSCRIPTIONS_MAX: u32 = 32;
/// Messages on their way out: beyond, events wait in their stream and calls in their place.
const OUTBOX: usize = 64;
/// How often the other end is asked whether it is there.
const PING: Duration = Duration::from_secs(30);
/// How long an answer may wait for a client that does not read.
const UNREAD_MAX: Duration = Duration::from_secs(30);

type Io = Compat<BufWriter<TokioIo<Upgraded>>>;

/// Answers the request for an upgrade; the session then runs by itself.
pub async fn open(connection: &Arc<Connection>, parts: Parts) -> Answer {
    let Claim::Login(credentials) = claim(&parts.headers, &connection.peer) else {
        return answer::unauthorized(origin::is_fetch(&parts));
    };
    if let Some(answer) = elsewhere(connection, &parts, MethodClass::Master, "wss") {
        return answer;
    }
    let caller = match login(connection, &parts, credentials).await {
        Ok(caller) => caller,
        Err(answer) => return answer,
    };
    let shared = &connection.shared;
    let node_id = shared.service.node_id();
    let facts = facts("ws", &parts, &connection.peer, node_id, Some(&caller), 0);
    let request = Request::from_parts(parts, ());
    if !is_upgrade_request(&request) {
        return answer::text(StatusCode::BAD_REQUEST, "/ws is a WebSocket: send an Upgrade");
    }
    let mut server = Server::new();
    let accepted = match server.receive_request(&request) {
        Ok(response) => response,
        Err(error) => {
            return answer::text(StatusCode::BAD_REQUEST, format!("no WebSocket: {error}"));
        }
    };
    let connection = Arc::clone(connection);
    let drain = shared.drain.clone();
    drain.spawn_connection(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => serve(upgraded, server, connection, caller, facts).await,
            Err(error) => tracing::debug!(%error, "the upgrade to a WebSocket failed"),
        }
    });
    accepted.map(|()| answer::AnswerBody::default())
}

/// What the calls of one session share.
struct Session {
    connection: Arc<Connection>,
    caller: Arc<Caller>,
    facts: RequestFacts,
    subscriber: Subscriber,
    /// The daemon drains or the login was revoked: calls that wait answer, events end.
    stop: CancellationToken,
    /// The client does not read.
    broken: CancellationToken,
}

/// What the reader brings.
enum Heard {
    Message(Vec<u8>),
    Pong,
    TooLarge,
}

/// Why a session ends.
enum End {
    /// The daemon drains: what was read is answered.
    Drained,
    /// The login was revoked, or a message was too large: closed as soon as calls have answered.
    Refused,
    /// The client is gone: nobody waits for answers.
    Left,
}

async fn serve(
    upgraded: Upgraded,
    server: Server,
    connection: Arc<Connection>,
    caller: Arc<Caller>,
    facts: RequestFacts,
) {
    let io = BufWriter::new(TokioIo::new(upgraded)).compat();
    let mut builder = server.into_builder(io);
    builder.set_max_message_size(BODY_BYTES_MAX);
    builder.set_max_frame_size(BODY_BYTES_MAX);
    let (sender, receiver) = builder.finish();
    let (out, outbox) = mpsc::channel(OUTBOX);
    let (heard, mut inbox) = mpsc::channel(1);
    let subscriber = Subscriber {
        connection: connection.shared.next_session(),
        out,
        limit: BoundedSubscriptions::new(SUBSCRIPTIONS_MAX),
    };
    let stop = connection.shared.drain.stop().child_token();
    let broken = CancellationToken::new();
    let session = Arc::new(Session { connection, caller, facts, subscriber, stop, broken });
    let finished = CancellationToken::new();
    let mut writer = tokio::spawn(write(sender, outbox, finished.clone()));
    let reader = tokio::spawn(read(receiver, heard));

    let mut calls = JoinSet::new();
    let end = session.converse(&mut inbox, &mut calls).await;
    reader.abort();
    session.stop.cancel();
    match end {
        End::Drained => {
            if let Ok(Heard::Message(message)) = inbox.try_recv() {
                calls.spawn(Arc::clone(&session).answer(message));
            }
            while calls.join_next().await.is_some() {}
        }
        End::Refused => {
            let answering = async { while calls.join_next().await.is_some() {} };
            // Whatever has not answered by then is cut: the caller may not wait for it any more.
            let _in_time = tokio::time::timeout(IDLE_WHILE_DRAINING, answering).await;
        }
        End::Left => {}
    }
    calls.shutdown().await;
    finished.cancel();
    if tokio::time::timeout(IDLE_WHILE_DRAINING, &mut writer).await.is_err() {
        writer.abort();
    }
}

impl Session {
    /// Takes messages and runs them until the session is to end.
    async fn converse(
        self: &Arc<Self>,
        inbox: &mut mpsc::Receiver<Heard>,
        calls: &mut JoinSet<()>,
    ) -> End {
        let shared = &self.connection.shared;
        let mut revoked = shared.service.revoked(Arc::clone(&self.caller));
        let mut last_heard = Instant::now();
        loop {
            let heard = tokio::select! {
                biased;
                () = shared.drain.stop().cancelled() => return End::Drained,
                () = &mut revoked => return End::Refused,
                () = self.broken.cancelled() => return End::Left,
                () = self.subscriber.out.closed() => return End::Left,
                _one = calls.join_next(), if !calls.is_empty() => continue,
                heard = inbox.recv(), if calls.len() < CALLS_MAX => heard,
                () = tokio::time::sleep_until(last_heard + IDLE), if calls.is_empty() => {
                    return End::Left;
                }
            };
            last_heard = Instant::now();
            match heard {
                Some(Heard::Message(message)) => {
                    calls.spawn(Arc::clone(self).answer(message));
                }
                Some(Heard::Pong) => {}
                Some(Heard::TooLarge) => {
                    let message = format!("a message has at most {BODY_BYTES_MAX} bytes");
                    let error = RpcError::new(ErrorCode::TooLarge, message);
                    self.send(refusal(&Value::Null, &error).json).await;
                    return End::Refused;
                }
                None => return End::Left,
            }
        }
    }

    async fn answer(self: Arc<Self>, body: Vec<u8>) {
        let mut charge = self.connection.shared.admission.body();
        let message = if charge.add(body.len()) {
            jsonrpc::parse(&body)
        } else {
            jsonrpc::Message::Refused(RpcError::new(ErrorCode::TooBusy, "too many bodies now"))
        };
        let facts = RequestFacts { bytes: body.len() as u64, ..self.facts.clone() };
        drop((body, charge));
        let context = Arc::new(Context {
            shared: Arc::clone(&self.connection.shared),
            caller: Some(Arc::clone(&self.caller)),
            facts: Arc::new(facts),
            source: self.connection.peer.source(),
            stop: self.stop.clone(),
        });
        let (session, context) = (&self, &context);
        let run = |id: Value, method: String, params| async move {
            session.call(context, &id, &method, params).await
        };
        if let Some(json) = message.run(run).await.json {
            self.send(json).await;
        }
    }

    async fn call(
        &self,
        context: &Arc<Context>,
        id: &Value,
        method: &str,
        params: Params,
    ) -> Option<Answered> {
        if let Err(error) = self.may_call(method, &params) {
            return Some(refusal(id, &error));
        }
        let table = &self.connection.shared.table;
        match method {
            "subscribe" | "unsubscribe" => {
                table.subscription(&self.subscriber, context, id, method, params).await
            }
            _ => Some(table.call(context, id, method, params).await),
        }
    }

    /// A session outlives logins and masters, so each call looks again.
    fn may_call(&self, method: &str, params: &Params) -> Result<(), RpcError> {
        let shared = &self.connection.shared;
        let service = &shared.service;
        if service.standing(&self.caller) != Standing::Good {
            return Err(login_ended());
        }
        if dispatch::class(shared, method, params) != MethodClass::Master
            || self.connection.peer.is_unix()
            || service.forwards()
        {
            return Ok(());
        }
        match service.place() {
            Place::Here => Ok(()),
            Place::NoMaster => Err(RpcError::new(ErrorCode::NoMaster, "there is no master now")),
            Place::Master { address } => {
                let error = RpcError::new(ErrorCode::NoMaster, "this node is not the master");
                Err(error.hint(format!("the master is at wss://{address}/ws")))
            }
        }
    }

    async fn send(&self, json: String) {
        let Ok(json) = RawValue::from_string(json) else {
            return;
        };
        let sending = self.subscriber.out.send(json);
        if !matches!(tokio::time::timeout(UNREAD_MAX, sending).await, Ok(Ok(()))) {
            self.broken.cancel();
        }
    }
}

/// Brings messages in, one at a time: the next is read when the last one was taken.
async fn read(mut receiver: soketto::Receiver<Io>, heard: mpsc::Sender<Heard>) {
    loop {
        let mut message = Vec::new();
        let one = match receiver.receive(&mut message).await {
            Ok(soketto::Incoming::Data(_)) => Heard::Message(message),
            Ok(soketto::Incoming::Pong(_)) => Heard::Pong,
            Ok(soketto::Incoming::Closed(_)) => return,
            Err(soketto::connection::Error::MessageTooLarge { .. }) => Heard::TooLarge,
            Err(error) => {
                tracing::debug!(%error, "a WebSocket broke");
                return;
            }
        };
        if heard.send(one).await.is_err() {
            return;
        }
    }
}

/// Sends messages out until the session has finished, then closes; ends early if the socket breaks.
async fn write(
    mut sender: soketto::Sender<Io>,
    mut outbox: mpsc::Receiver<Box<RawValue>>,
    finished: CancellationToken,
) {
    let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
    let broken = loop {
        let sent = tokio::select! {
            biased;
            message = outbox.recv() => match message {
                Some(message) => send(&mut sender, message).await,
                None => break Ok(()),
            },
            () = finished.cancelled() => break Ok(()),
            _tick = ping.tick() => send_ping(&mut sender).await,
        };
        if sent.is_err() {
            break sent;
        }
    };
    let ended = match broken {
        Ok(()) => sender.close().await,
        broken => broken,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a WebSocket broke");
    }
}

async fn send(
    sender: &mut soketto::Sender<Io>,
    message: Box<RawValue>,
) -> Result<(), soketto::connection::Error> {
    sender.send_text_owned(String::from(Box::<str>::from(message))).await?;
    sender.flush().await
}

async fn send_ping(sender: &mut soketto::Sender<Io>) -> Result<(), soketto::connection::Error> {
    let nothing: &[u8] = &[];
    let Ok(payload) = ByteSlice125::try_from(nothing) else {
        return Ok(());
    };
    sender.send_ping(payload).await?;
    sender.flush().await
}
