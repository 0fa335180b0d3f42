//! `/ws`: upgrade, calls, subscriptions, and how a session ends.

use super::client::{Running, admin, start};
use crate::front::seam::{Place, Standing};
use serde_json::{Value, json};
use soketto::handshake::{Client, ServerResponse};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

type Io = Compat<TlsStream<TcpStream>>;

struct Session {
    sender: soketto::Sender<Io>,
    receiver: soketto::Receiver<Io>,
}

async fn open(running: &Running) -> Session {
    let stream = running.tls_stream("http/1.1", None).await.compat();
    let login = admin();
    let mut client = Client::new(stream, "127.0.0.1", "/ws");
    let headers =
        [soketto::handshake::client::Header { name: "Authorization", value: login.as_bytes() }];
    client.set_headers(&headers);
    match client.handshake().await.unwrap() {
        ServerResponse::Accepted { .. } => {}
        other => panic!("{other:?}"),
    }
    let (sender, receiver) = client.into_builder().finish();
    Session { sender, receiver }
}

impl Session {
    async fn send(&mut self, message: &Value) {
        self.sender.send_text(message.to_string()).await.unwrap();
        self.sender.flush().await.unwrap();
    }

    /// The next message, or `None` if the session was closed.
    async fn next(&mut self) -> Option<Value> {
        let mut message = Vec::new();
        match self.receiver.receive(&mut message).await {
            Ok(soketto::Incoming::Data(_)) => Some(serde_json::from_slice(&message).unwrap()),
            _ => None,
        }
    }
}

fn call(id: Value, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn upgrade(login: &str) -> String {
    format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{login}"
    )
}

#[tokio::test]
async fn the_upgrade_is_checked_like_a_call() {
    let running = start().await;
    let login = format!("Authorization: {}\r\n", admin());
    assert_eq!(running.get("/ws", "").await.status, 401);
    assert_eq!(running.get("/ws", &login).await.status, 400);
    assert_eq!(running.get("/ws", &upgrade("")).await.status, 401);
    let wrong = "Authorization: Bearer x\r\n";
    assert_eq!(running.get("/ws", &upgrade(wrong)).await.status, 401);
    let page = upgrade(&format!("{login}Origin: https://evil.example\r\n"));
    assert_eq!(running.get("/ws", &page).await.status, 403);
    running.double.moves_to(Place::Master { address: "n12:1".to_owned() });
    let got = running.get("/ws", &upgrade(wrong)).await;
    assert_eq!((got.status, got.headers["location"].as_str()), (302, "wss://n12:1/ws"));
    running.double.moves_to(Place::NoMaster);
    assert_eq!(running.get("/ws", &upgrade(&login)).await.status, 503);
    running.double.moves_to(Place::Here);
    let got = running.get("/ws", &upgrade(&login)).await;
    assert_eq!(got.status, 101);
    assert_eq!(got.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[tokio::test]
async fn calls_mean_the_same_as_over_http() {
    let running = start().await;
    let mut session = open(&running).await;
    for id in [json!(1), json!(-1), json!(1.5), Value::Null, json!("x")] {
        session.send(&call(id.clone(), "echo", json!([1]))).await;
        let answer = session.next().await.unwrap();
        assert_eq!((&answer["id"], &answer["result"]["user"]), (&id, &json!("admin")));
    }
    session
        .send(&json!([call(json!(1), "meet", json!([])), call(json!(2), "meet", json!([]))]))
        .await;
    let answer = session.next().await.unwrap();
    assert_eq!((&answer[0]["id"], &answer[1]["id"]), (&json!(1), &json!(2)));
    session.send(&json!({"jsonrpc": "2.0", "method": "echo"})).await;
    session.send(&json!(7)).await;
    assert_eq!(session.next().await.unwrap()["error"]["code"], -32600);
    let facts = running.double.facts.lock().unwrap().clone();
    assert_eq!((&facts["protocol"], &facts["path"]), (&json!("ws"), &json!("/ws")));

    running.double.moves_to(Place::Master { address: "n12:1".to_owned() });
    session.send(&call(json!(1), "echo", json!([]))).await;
    assert_eq!(session.next().await.unwrap()["error"]["code"], -32005);
    session.send(&call(json!(1), "job_list", json!([]))).await;
    assert_eq!(session.next().await.unwrap()["result"], json!(["node_list"]));
    *running.double.standing.lock().unwrap() = Standing::Expired;
    session.send(&call(json!(1), "job_list", json!([]))).await;
    assert_eq!(session.next().await.unwrap()["error"]["code"], -32008);
}

#[tokio::test]
async fn a_subscription_answers_then_delivers_until_it_is_ended() {
    let running = start().await;
    let mut session = open(&running).await;
    for id in [json!(1), json!(-1)] {
        session.send(&call(id.clone(), "subscribe", json!([{"jobs": "all"}]))).await;
        let answer = session.next().await.unwrap();
        assert_eq!(answer["id"], id);
        let subscription = answer["result"].clone();
        let first = session.next().await.unwrap();
        assert_eq!(first["method"], "event");
        assert_eq!(first["params"]["subscription"], subscription);
        assert_eq!(first["params"]["result"]["filter"], json!({"jobs": "all"}));
        assert_eq!(session.next().await.unwrap()["params"]["result"]["cursor"], "8.0");
        for expected in [true, false] {
            session.send(&call(json!(2), "unsubscribe", json!([subscription]))).await;
            assert_eq!(session.next().await.unwrap()["result"], expected);
        }
    }
    session.send(&call(json!(3), "subscribe", json!({"filter": {"jobs": "none"}}))).await;
    let answer = session.next().await.unwrap();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(3), &json!(-32602)));
}

#[tokio::test]
async fn a_session_ends_with_its_login_and_with_the_daemon() {
    let running = start().await;
    let mut session = open(&running).await;
    session.send(&call(json!(1), "job_wait", json!([]))).await;
    running.double.open.notified().await;
    let front = Arc::clone(&running.front);
    let draining = tokio::spawn(async move { front.drain().await });
    assert_eq!(session.next().await.unwrap()["result"], false);
    assert_eq!(session.next().await, None);
    draining.await.unwrap();

    let running = start().await;
    let mut session = open(&running).await;
    session.send(&call(json!(1), "subscribe", json!([{}]))).await;
    assert!(session.next().await.is_some());
    session.send(&call(json!("wait"), "job_wait", json!([]))).await;
    running.double.open.notified().await;
    running.double.revoked.cancel();
    let mut answers = Vec::new();
    while let Some(message) = session.next().await {
        answers.push(message);
    }
    let waited = answers.iter().find(|message| message["id"] == "wait").unwrap();
    assert_eq!(waited["result"], false);
}

#[tokio::test]
async fn a_subscription_whose_login_expired_says_so() {
    let running = start().await;
    let mut session = open(&running).await;
    *running.double.standing.lock().unwrap() = Standing::Expired;
    session.send(&call(json!(1), "subscribe", json!([{}]))).await;
    assert_eq!(session.next().await.unwrap()["error"]["code"], -32008);
    running.double.expire_at_event();
    session.send(&call(json!(1), "subscribe", json!([{}]))).await;
    assert!(session.next().await.unwrap()["result"].is_number());
    let ended = session.next().await.unwrap();
    assert_eq!(ended["params"]["error"]["code"], -32008);
}
