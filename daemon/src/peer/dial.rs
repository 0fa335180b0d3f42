//! A connection to a member: TCP, TLS in both directions, greeting.
//!
//! Each step has its time limit. The address of the directory is tried first, then the last that
//! worked (ruling 14). `stream` and `requests` dial; each keeps its own connections.

use super::Shared;
use super::link::Link;
use super::verify::Verifier;
use super::wire::{self, Greeting, GreetingError, Purpose};
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long TCP may take, the look-up of a name included.
const CONNECT: Duration = Duration::from_secs(2);
/// How long TLS and the greeting may take.
const GREET: Duration = Duration::from_secs(3);
/// rustls wants a name to connect to; it is neither sent nor compared.
const NAME: &str = "peer.tiebeam.invalid";

/// Why a member could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No TCP connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("{address} takes too long")]
    Slow {
        /// Where to.
        address: String,
    },
    /// TLS failed, or what answers is not the member that was meant.
    #[error("no TLS with {address}")]
    Tls {
        /// Where to.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The member closed instead of answering the greeting: it refused this node, or its version.
    #[error("{address} refused this node")]
    Refused {
        /// Where to.
        address: String,
        /// What was read, or a TLS alert.
        #[source]
        source: io::Error,
    },
    /// The member answered with a greeting of another version.
    #[error("{address} speaks another version")]
    Greeting {
        /// Where to.
        address: String,
        /// What it said.
        #[source]
        source: GreetingError,
    },
    /// There is no address.
    #[error("the member has no address")]
    NoAddress,
}

impl DialError {
    /// Whether the member said that this node is none: the alert of its verifier.
    fn is_denial(&self) -> bool {
        let DialError::Refused { source, .. } = self else { return false };
        let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(tls, Some(rustls::Error::AlertReceived(AlertDescription::AccessDenied)))
    }
}

/// Connects to the member of a link; the error is that of its first address.
pub async fn connect(
    shared: &Shared,
    link: &Link,
    purpose: Purpose,
) -> Result<TlsStream<TcpStream>, DialError> {
    let (mut first, mut denied) = (None, false);
    for address in link.addresses() {
        match connect_to(shared, link, purpose, &address).await {
            Ok(stream) => {
                link.note_denied(false);
                link.address_worked(&address);
                link.hear();
                return Ok(stream);
            }
            Err(error) => {
                denied |= error.is_denial();
                first.get_or_insert(error);
            }
        }
    }
    // What another address says, or that nobody is there, does not take it back.
    link.note_denied(denied);
    Err(first.unwrap_or(DialError::NoAddress))
}

async fn connect_to(
    shared: &Shared,
    link: &Link,
    purpose: Purpose,
    address: &str,
) -> Result<TlsStream<TcpStream>, DialError> {
    let owned = || address.to_owned();
    let slow = || DialError::Slow { address: owned() };
    let tcp = tokio::time::timeout(CONNECT, TcpStream::connect(address));
    let tcp = tcp.await.map_err(|_late| slow())?;
    let tcp = tcp.map_err(|source| DialError::Connect { address: owned(), source })?;
    prepare(&tcp);
    let greeted = tokio::time::timeout(GREET, async {
        let mut stream = secure(shared, link, tcp, address).await?;
        greet(link, &mut stream, purpose, address).await?;
        Ok(stream)
    });
    greeted.await.map_err(|_late| slow())?
}

async fn secure(
    shared: &Shared,
    link: &Link,
    tcp: TcpStream,
    address: &str,
) -> Result<TlsStream<TcpStream>, DialError> {
    let material = shared.tls.current();
    let verifier = Verifier::new(shared, material.clone(), Some(link.id.raft_id));
    let failed = |source| DialError::Tls { address: address.to_owned(), source };
    let config = material.dialer(verifier.clone()).map_err(|error| failed(error.into()))?;
    let name = ServerName::try_from(NAME).map_err(|error| failed(error.into()))?;
    let connected = TlsConnector::from(config).connect(name, tcp).await;
    match (connected, verifier.verdict()) {
        (Ok(stream), Some(Ok(verified))) => {
            if let Some(found) = &verified.dates_wrong {
                shared.warn_of_dates(link, found);
            }
            Ok(stream)
        }
        // Ours is the better explanation than what became of it in TLS.
        (_, Some(Err(refusal))) => Err(failed(refusal.into())),
        (Err(error), _) => Err(failed(error.into())),
        (Ok(_), None) => Err(failed("the member showed no certificate".into())),
    }
}

async fn greet(
    link: &Link,
    stream: &mut TlsStream<TcpStream>,
    purpose: Purpose,
    address: &str,
) -> Result<(), DialError> {
    let refused = |source| DialError::Refused { address: address.to_owned(), source };
    let mine = Greeting { purpose, format: wire::FORMAT };
    stream.write_all(&mine.to_bytes()).await.map_err(refused)?;
    stream.flush().await.map_err(refused)?;
    let mut answer = [0; Greeting::BYTES];
    stream.read_exact(&mut answer).await.map_err(refused)?;
    let theirs = Greeting::from_bytes(answer)
        .map_err(|source| DialError::Greeting { address: address.to_owned(), source })?;
    link.speaks(theirs.format);
    Ok(())
}

/// Frames are small and wanted at once; bytes that nobody acknowledges end the connection.
pub fn prepare(stream: &TcpStream) {
    let stalled = u32::try_from(wire::STALLED.as_millis()).unwrap_or(u32::MAX);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, stalled)?));
    if let Err(error) = set {
        tracing::debug!(%error, "socket options cannot be set");
    }
}
