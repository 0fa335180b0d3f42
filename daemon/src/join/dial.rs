//! A TLS connection to a member that is known by the fingerprint of its authority alone.
//!
//! The other end must show a chain with the certificate that the pin fits, and a node certificate
//! signed by it; its name does not count, because every member of the cluster may answer. Nothing
//! is sent before that is so. `enter` joins over it, `dev` runs its jobs.

use super::token::Pin;
use crate::certificate::{Summary, provider};
use crate::front::tls::ALPN_JOIN;
use crate::node_chain;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest time for a connection with its handshake.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// Longest time for an answer: a node is added, or a job runs.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// Bytes of an answer: a whole State in base64 (ruling 33 bounds what is in it).
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It is no address.
    #[error("{0:?} is not HOST:PORT")]
    Address(String),
    /// Nobody listens there, or not for us.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
    /// It took too long.
    #[error("{0} did not answer in time")]
    Late(String),
    /// It is not a node of the cluster that was meant, or no node at all.
    #[error("{0} did not prove to be a node of the cluster")]
    Tls(String, #[source] std::io::Error),
    /// TLS cannot be set up here.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// The connection broke.
    #[error("the connection to {0} broke")]
    Http(String, #[source] hyper::Error),
    /// The request cannot be written.
    #[error("the request cannot be written")]
    Request(#[source] http::Error),
    /// The answer broke off, or was too long.
    #[error("the answer of {0} broke off")]
    Body(String, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// An answer.
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Where to ask instead, for a redirect.
    pub location: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// One request: where to, and what.
pub struct Post<'a> {
    /// `host:port`.
    pub address: &'a str,
    /// The authority of whoever answers there.
    pub pin: &'a Pin,
    /// The path.
    pub path: &'a str,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The body, JSON.
    pub body: Bytes,
}

/// Sends it, on a connection of its own.
///
/// # Errors
/// [`DialError`]; nothing was sent unless it is one of the last three.
pub async fn post(post: Post<'_>) -> Result<Reply, DialError> {
    let address = post.address.to_owned();
    let late = |_| DialError::Late(address.clone());
    let connected = tokio::time::timeout(CONNECT_WAIT, connect(&address, post.pin));
    let stream = connected.await.map_err(late)??;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(post.path)
        .header(HOST, &address)
        .header(CONTENT_TYPE, "application/json");
    if let Some(login) = post.authorization {
        request = request.header(AUTHORIZATION, login);
    }
    let request = request.body(Full::new(post.body)).map_err(DialError::Request)?;
    let broke = |error| DialError::Http(address.clone(), error);
    let asked = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        let driven = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(broke)?;
        let status = answer.status().as_u16();
        let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
        let location = location.map(str::to_owned);
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| DialError::Body(address.clone(), error))?.to_bytes();
        driven.abort();
        Ok(Reply { status, location, body })
    };
    tokio::time::timeout(ANSWER_WAIT, asked).await.map_err(late)?
}

async fn connect(
    address: &str,
    pin: &Pin,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, DialError> {
    let wrong = || DialError::Address(address.to_owned());
    let (host, port) = crate::settings::host_and_port(address).ok_or_else(wrong)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| wrong())?;
    let tcp = TcpStream::connect((host, port)).await;
    let tcp = tcp.map_err(|error| DialError::Connect(address.to_owned(), error))?;
    let pinned = Pinned { pin: pin.clone() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(DialError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    connected.map_err(|error| DialError::Tls(address.to_owned(), error))
}

/// The check of the other end's chain.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = more.iter().find(|one| self.pin.fits(one.as_ref()));
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let summary = Summary::of(leaf).map_err(|_| CertificateError::BadEncoding)?;
        node_chain::check_chain(leaf, &summary, &roots, &provider())?;
        let is_node = summary.sans.iter().any(|name| {
            name.strip_prefix("URI:tiebeam://").is_some_and(|rest| rest.contains("/node/"))
        });
        match is_node {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        node_chain::refuse_old_tls()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        node_chain::check_signature(&provider(), message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        node_chain::schemes(&provider())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::tests::{CLUSTER, NOW, Pki};
    use crate::ca::{self};
    use crate::certificate::chain_from_pem;

    fn checked(pin: &Pin, chain: &[CertificateDer<'static>]) -> bool {
        let name = ServerName::try_from("127.0.0.99").expect("a name");
        let now = UnixTime::since_unix_epoch(Duration::ZERO);
        let pinned = Pinned { pin: pin.clone() };
        pinned.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).is_ok()
    }

    #[test]
    fn only_a_node_of_the_pinned_authority_is_spoken_to() {
        let (pki, other) = (Pki::new(), Pki::new());
        let chain =
            |leaf: &str, ca: &str| chain_from_pem(&format!("{leaf}{ca}"), "cert").expect("a chain");
        let own = chain(&pki.node_certificate(), &pki.ca);
        let fingerprint = Summary::of(&own[1]).expect("the authority").fingerprint;
        let pin = Pin::of_fingerprint(&fingerprint).expect("a pin");
        assert!(checked(&pin, &own));
        assert!(!checked(&pin, &chain(&other.node_certificate(), &other.ca)), "another cluster");
        assert!(!checked(&pin, &chain(&other.node_certificate(), &pki.ca)), "a borrowed authority");
        assert!(!checked(&pin, &own[..1]), "no authority in the chain");
        let public = ca::public_key(&pki.node_key).expect("a key");
        let user = pki.authority().issue_user(&public, CLUSTER, "alice", NOW).expect("issued");
        assert!(!checked(&pin, &chain(&user, &pki.ca)), "a user's certificate serves nobody");
        assert!(!checked(&pin, &chain(&pki.ca, &pki.ca)), "the authority is no node");
    }
}
