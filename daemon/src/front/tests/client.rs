//! A front for a test, and a client that sends exactly the bytes it is told to.

use super::service::{Double, Handle, PASSWORD};
use crate::front::Front;
use crate::front::connection::Timers;
use crate::front::tls::{ClientCertificates, TlsState};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate authority of one test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
}

/// A certificate and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    pub fn issue(&self, name: &str, uri: Option<&str>) -> Identity {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![certificate.der().clone()], key)
    }
}

/// A running front.
pub struct Running {
    pub front: Arc<Front>,
    pub double: Arc<Double>,
    pub authority: Authority,
    pub tls: Arc<TlsState>,
    pub address: SocketAddr,
}

pub async fn start() -> Running {
    start_with(ClientCertificates::None).await
}

pub async fn start_with(mode: ClientCertificates) -> Running {
    start_all(mode, Timers::default()).await
}

pub async fn start_all(mode: ClientCertificates, timers: Timers) -> Running {
    let authority = Authority::new();
    let (chain, key) = authority.issue("first", None);
    let ca = [authority.certificate.clone()];
    let tls = Arc::new(TlsState::new(chain, key, &ca, mode).unwrap());
    let double = Double::new();
    let front =
        Arc::new(Front::with_timers(Arc::new(Handle(Arc::clone(&double))), timers).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    front.serve_tls(listener, Arc::clone(&tls));
    Running { front, double, authority, tls, address }
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub fn admin() -> String {
    basic("admin", PASSWORD)
}

/// An answer as it came.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub challenges: Vec<String>,
    pub body: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Running {
    pub async fn tls_stream(&self, alpn: &str, identity: Option<Identity>) -> TlsStream<TcpStream> {
        self.try_tls_stream(alpn, identity).await.unwrap()
    }

    pub async fn try_tls_stream(
        &self,
        alpn: &str,
        identity: Option<Identity>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// One request over HTTP/1.1 on a connection of its own.
    pub async fn post(&self, path: &str, login: Option<&str>, body: &str) -> Got {
        let mut head = String::new();
        if let Some(login) = login {
            head = format!("Authorization: {login}\r\n");
        }
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
    }

    pub async fn get(&self, path: &str, headers: &str) -> Got {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n")).await
    }

    pub async fn send(&self, request: &str) -> Got {
        let mut stream = self.tls_stream("http/1.1", None).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_answer(&mut stream).await
    }

    /// An HTTP/2 connection.
    pub async fn h2(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(self.tls_stream("h2", None).await);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub fn h2_post(&self, path: &str, login: Option<&str>, body: Vec<u8>) -> Request<Full<Bytes>> {
        let uri = format!("https://{}{path}", self.address);
        let mut request = Request::post(uri).body(Full::new(Bytes::from(body))).unwrap();
        if let Some(login) = login {
            request.headers_mut().insert("authorization", login.parse().unwrap());
        }
        request
    }
}

pub async fn collect(response: Response<hyper::body::Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// Reads one HTTP/1.1 answer with a Content-Length.
pub async fn read_answer(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Got {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "closed inside a head");
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap()[9..12].parse().unwrap();
    let pairs: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let of = |wanted: &str| -> Vec<String> {
        pairs.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.clone()).collect()
    };
    let length: usize = of("content-length").first().map_or(0, |text| text.parse().unwrap());
    while bytes.len() < head_end + 4 + length {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "closed inside a body");
    }
    let body = String::from_utf8(bytes[head_end + 4..head_end + 4 + length].to_vec()).unwrap();
    let challenges = of("www-authenticate");
    Got { status, challenges, body, headers: pairs.into_iter().collect() }
}
