//! From an accepted TCP stream to a connection: first byte, TLS handshake, what it settled.
//!
//! Runs in the connection's own task under [`HANDSHAKE`], with its turn among the handshakes. A
//! client that speaks plain HTTP gets one line that says so; a peer is handed to the peers' door
//! before it has taken a turn, and before any cryptography. `listen` calls it.

use super::Shared;
use super::connection::{Peer, Version};
use super::tls::{self, ALPN_H2, ALPN_JOIN, ALPN_PEER, TlsState};
use rustls::ProtocolVersion;
use rustls::server::Acceptor;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_proto::limits::HANDSHAKE;
use tiebeam_proto::record::TlsFacts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

/// A TLS record of type "handshake": the first byte of every TLS connection.
const HANDSHAKE_RECORD: u8 = 0x16;
/// How long a plain-HTTP client may still send after it was told to use TLS.
const PLAIN_LINGER: Duration = Duration::from_secs(1);
/// How long a connection without a place has to show that it is a peer.
const HELLO_WITHOUT_PLACE: Duration = Duration::from_secs(2);
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 48\r\nConnection: close\r\n\r\n\
    This port speaks TLS only: use https:// instead\n";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Nothing, or not everything, arrived in time, or its turn did not come.
    #[error("the handshake took too long")]
    Slow,
    /// The client went away before its first byte.
    #[error("the client left before the handshake")]
    Left,
    /// The client spoke plain HTTP and was told.
    #[error("the client did not speak TLS")]
    Plain,
    /// The stream broke.
    #[error("the stream broke in the handshake")]
    Stream(#[source] std::io::Error),
    /// There is no place for another client.
    #[error("there are too many connections")]
    Full,
    /// TLS refused, for example a wrong client certificate or no common protocol.
    #[error("the TLS handshake failed")]
    Tls(#[source] std::io::Error),
}

/// A stream with TLS on, and what is known of its other end.
#[derive(Debug)]
pub struct Secured {
    /// The stream.
    pub stream: TlsStream<TcpStream>,
    /// The version of HTTP to speak.
    pub version: Version,
    /// The other end.
    pub peer: Peer,
}

/// What came of a stream.
#[derive(Debug)]
pub enum Arrival {
    /// A client.
    Client(Box<Secured>),
    /// A peer; the door has it.
    Peer,
}

/// Takes connections of other members (ALPN [`ALPN_PEER`]). The daemon's peer channel is one.
pub trait PeerDoor: Send + Sync + 'static {
    /// Takes the connection over and returns at once. Everything is up to the door from here on:
    /// certificates, limits, its end.
    fn enter(&self, hello: StartHandshake<TcpStream>, address: SocketAddr);
}

/// Does the handshake, within its time. `has_place` says whether a client may come in: without a
/// place only peers do, which have places of their own, and there is less time to say so.
///
/// # Errors
///
/// [`HandshakeError`]; the stream is closed then.
pub async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    tls: &TlsState,
    shared: &Arc<Shared>,
    has_place: bool,
) -> Result<Arrival, HandshakeError> {
    let all = async {
        // Silent connections wait here without a turn: they take none from those that speak.
        let mut first = [0];
        match stream.peek(&mut first).await.map_err(HandshakeError::Stream)? {
            0 => return Err(HandshakeError::Left),
            _ if !has_place && first != [HANDSHAKE_RECORD] => return Err(HandshakeError::Full),
            _ if first != [HANDSHAKE_RECORD] => return refuse_plain(stream).await,
            _ => {}
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let hello = hello.await.map_err(HandshakeError::Tls)?;
        // Without a door the client configuration does not offer it: the peer gets the alert
        // `no_application_protocol` and knows that this node does not take peers here.
        match shared.peers.get() {
            Some(door) if offers(&hello, ALPN_PEER) => {
                door.enter(hello, address);
                return Ok(Arrival::Peer);
            }
            _ if !has_place => return Err(HandshakeError::Full),
            _ => {}
        }
        let _turn = shared.admission.handshake(address.ip()).await;
        secure(hello, address, tls).await.map(|secured| Arrival::Client(Box::new(secured)))
    };
    let limit = if has_place { HANDSHAKE } else { HELLO_WITHOUT_PLACE };
    tokio::time::timeout(limit, all).await.map_err(|_late| HandshakeError::Slow)?
}

fn offers(hello: &StartHandshake<TcpStream>, protocol: &[u8]) -> bool {
    hello.client_hello().alpn().is_some_and(|mut offered| offered.any(|one| one == protocol))
}

async fn secure(
    hello: StartHandshake<TcpStream>,
    address: SocketAddr,
    tls: &TlsState,
) -> Result<Secured, HandshakeError> {
    let joins = offers(&hello, ALPN_JOIN);
    let stream = hello.into_stream(tls.current(joins)).await.map_err(HandshakeError::Tls)?;
    let (_tcp, session) = stream.get_ref();
    let version = match session.alpn_protocol() {
        Some(protocol) if protocol == ALPN_H2 => Version::Http2,
        _ => Version::Http1,
    };
    let certificate = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(tls::read_certificate)
        .map(Arc::new);
    let facts = TlsFacts {
        version: version_name(session.protocol_version()),
        cipher: session
            .negotiated_cipher_suite()
            .map(|suite| standard_name(&format!("{:?}", suite.suite())))
            .unwrap_or_default(),
        client_certificate: certificate.as_ref().map(|read| read.subject.clone()),
    };
    Ok(Secured { version, peer: Peer::Tcp { address, tls: Some(facts), certificate }, stream })
}

fn version_name(version: Option<ProtocolVersion>) -> String {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".to_owned(),
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".to_owned(),
        other => format!("{other:?}"),
    }
}

/// rustls writes `TLS13_AES_256_GCM_SHA384` for the suite that IANA calls `TLS_AES_…`.
fn standard_name(suite: &str) -> String {
    suite.strip_prefix("TLS13_").map_or_else(|| suite.to_owned(), |rest| format!("TLS_{rest}"))
}

/// Tells a plain-HTTP client what to do, and reads a little of what it still sends: closing with
/// unread bytes would reset the connection and lose the answer.
async fn refuse_plain<T>(mut stream: TcpStream) -> Result<T, HandshakeError> {
    stream.write_all(PLAIN_ANSWER).await.map_err(HandshakeError::Stream)?;
    stream.shutdown().await.map_err(HandshakeError::Stream)?;
    let linger = async {
        let mut scrap = [0; 4096];
        let mut seen = 0;
        while let Ok(read @ 1..) = stream.read(&mut scrap).await {
            seen += read;
            if seen > 64 << 10 {
                break;
            }
        }
    };
    // Either the client closed or it had its second: the answer is out.
    let _ended = tokio::time::timeout(PLAIN_LINGER, linger).await;
    Err(HandshakeError::Plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_answer_says_its_own_length() {
        let text = std::str::from_utf8(PLAIN_ANSWER).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }

    #[test]
    fn suites_have_their_standard_names() {
        assert_eq!(standard_name("TLS13_AES_256_GCM_SHA384"), "TLS_AES_256_GCM_SHA384");
        let old = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        assert_eq!(standard_name(old), old);
    }
}
