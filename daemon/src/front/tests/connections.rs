//! Connections: what is not TLS, limits, replacement of certificates, the unix socket, draining.

use super::client::{admin, read_answer, start, start_all};
use crate::front::connection::Timers;
use crate::front::tls::ClientCertificates;
use crate::peer::tests::{Node, Site, until};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const ECHO: &str = r#"{"jsonrpc":"2.0","id":1,"method":"echo"}"#;

fn request(body: &str) -> String {
    format!(
        "POST /rpc2 HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        admin(),
        body.len()
    )
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(request(ECHO).as_bytes()).await.unwrap();
    let got = read_answer(&mut stream).await;
    assert_eq!(got.status, 400);
    assert!(got.body.contains("https://"), "{}", got.body);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert!(running.double.started().is_empty());
}

#[tokio::test]
async fn a_peer_on_the_client_listener_gets_an_alert() {
    let running = start().await;
    let error = running.try_tls_stream("tiebeam-peer/1", None).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("protocol"), "{error}");
}

#[tokio::test]
async fn peers_come_in_on_the_clients_port_even_if_clients_have_all_places() {
    let running = start().await;
    let site = Site::new();
    let (mut one, two) = (site.seed(1, 1), site.seed(2, 1));
    one.address = running.address;
    let known = [one.known(), two.known()];
    let one = Node::closed(&site, one, &known);
    running.front.open_to_peers(one.peers.door());
    let mut client = running.tls_stream("http/1.1", None).await;
    let mut places = Vec::new();
    while let Some(place) = running.front.shared.admission.connection() {
        places.push(place);
    }
    let two = Node::start(&site, two, &known).await;
    until("both streams", || one.peers.is_connected(two.id) && two.peers.is_connected(one.id))
        .await;
    // A client that is in is served; another one is turned away at its ClientHello.
    client.write_all(request(ECHO).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut client).await.status, 200);
    assert!(running.try_tls_stream("http/1.1", None).await.is_err());
    drop(places);
    let mut late = running.tls_stream("h2", None).await;
    late.write_all(b"x").await.unwrap();
    // Peers hold no place of clients, and the drain does not wait for them.
    assert_eq!(running.front.connections_open(), 2);
    drop((client, late));
    running.front.drain().await;
    assert!(two.peers.is_connected(one.id));
}

const SOON: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_slow_head_is_closed() {
    let timers = Timers { head: SOON, idle: NEVER };
    let running = start_all(ClientCertificates::None, timers).await;
    let mut kept = running.tls_stream("http/1.1", None).await;
    kept.write_all(request(ECHO).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut kept).await.status, 200);
    let mut slow = running.tls_stream("http/1.1", None).await;
    slow.write_all(b"POST / HTTP/1.1\r\nHo").await.unwrap();
    assert!(matches!(slow.read(&mut [0; 99]).await, Ok(0) | Err(_)));
    // Between requests the head's limit does not run.
    kept.write_all(request(ECHO).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut kept).await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_an_open_request_is_not() {
    let timers = Timers { head: NEVER, idle: SOON };
    let running = start_all(ClientCertificates::None, timers).await;
    let mut waiting = running.tls_stream("http/1.1", None).await;
    waiting.write_all(request(&ECHO.replace("echo", "job_wait")).as_bytes()).await.unwrap();
    running.double.open.notified().await;
    let mut idle = running.tls_stream("http/1.1", None).await;
    idle.write_all(request(ECHO).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut idle).await.status, 200);
    assert!(matches!(idle.read(&mut [0; 99]).await, Ok(0) | Err(_)));
    let front = Arc::clone(&running.front);
    let draining = tokio::spawn(async move { front.drain().await });
    assert_eq!(read_answer(&mut waiting).await.json()["result"], false);
    draining.await.unwrap();
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let running = start().await;
    let long = " ".repeat((1 << 20) + 1);
    assert_eq!(running.post("/", Some(&admin()), &long).await.status, 413);
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        admin(),
        long.len()
    );
    assert_eq!(running.send(&chunked).await.status, 413);
    let fits = format!("{ECHO}{}", " ".repeat((1 << 20) - ECHO.len()));
    assert_eq!(running.post("/", Some(&admin()), &fits).await.status, 200);
}

#[tokio::test]
async fn a_new_certificate_leaves_open_connections_alone() {
    let running = start().await;
    let mut open = running.tls_stream("http/1.1", None).await;
    let leaf = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = leaf(&open);
    let (chain, key) = running.authority.issue("second", None);
    let second = chain[0].clone();
    running.tls.replace(chain, key, &[], ClientCertificates::None).unwrap();
    open.write_all(request(ECHO).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut open).await.status, 200);
    let new = running.tls_stream("http/1.1", None).await;
    assert_ne!(first, second);
    assert_eq!(leaf(&new), second);

    // Now certificates are required; a mode without an authority is refused and changes nothing.
    let ca = [running.authority.certificate.clone()];
    let (chain, key) = running.authority.issue("third", None);
    running.tls.replace(chain, key, &ca, ClientCertificates::Required).unwrap();
    let (chain, key) = running.authority.issue("fourth", None);
    assert!(running.tls.replace(chain, key, &[], ClientCertificates::Required).is_err());
    let mut bare = running.tls_stream("http/1.1", None).await;
    assert!(bare.read(&mut [0]).await.is_err());
    open.write_all(request(ECHO).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut open).await.status, 200);
}

#[tokio::test]
async fn the_unix_socket_knows_its_caller_and_is_never_redirected() {
    let running = start().await;
    let folder = std::env::temp_dir().join(format!("front-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("tiebeam.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    running.front.serve_unix(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(running.front.serve_unix(&path).is_err(), "it is taken");
    let address = "10.0.0.12:20003".to_owned();
    running.double.moves_to(crate::front::seam::Place::Master { address });
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let length = ECHO.len();
    let request = format!("POST / HTTP/1.1\r\nHost: any\r\nContent-Length: {length}\r\n\r\n{ECHO}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let got = read_answer(&mut stream).await;
    assert_eq!(got.json()["result"]["user"], "root");
    let facts = running.double.facts.lock().unwrap().clone();
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(facts["peer"], format!("unix:11:{uid}:{}", std::process::id()));
    assert!(facts.get("tls").is_none());
    running.front.drain().await;
    assert!(!path.exists());
    std::fs::remove_dir(&folder).unwrap();
}

#[tokio::test]
async fn draining_answers_what_is_open_and_closes_the_rest() {
    let running = start().await;
    let mut waiting = running.tls_stream("http/1.1", None).await;
    waiting.write_all(request(&ECHO.replace("echo", "job_wait")).as_bytes()).await.unwrap();
    let mut idle = running.tls_stream("http/1.1", None).await;
    idle.write_all(request(ECHO).as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut idle).await.status, 200);
    let mut h2 = running.h2().await;
    running.double.open.notified().await;
    let body = ECHO.replace("echo", "job_wait").into_bytes();
    let h2_answer = h2.send_request(running.h2_post("/", Some(&admin()), body));
    let h2_answer = tokio::spawn(h2_answer);
    running.double.open.notified().await;

    let front = Arc::clone(&running.front);
    let draining = tokio::spawn(async move { front.drain().await });
    let got = read_answer(&mut waiting).await;
    assert_eq!(got.json()["result"], false);
    assert_eq!(got.headers["connection"], "close");
    let h2_answer = h2_answer.await.unwrap().unwrap();
    assert_eq!(super::client::collect(h2_answer).await.0, 200);
    assert!(matches!(idle.read(&mut [0]).await, Ok(0) | Err(_)));
    draining.await.unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
    assert_eq!(running.front.connections_open(), 0);
}
