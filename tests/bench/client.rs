//! The leanest HTTP/1.1 client over TLS: one connection, one request at a time, so that what is
//! measured is the subject.

use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes connections.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    address: std::net::SocketAddr,
    login: String,
}

impl Connector {
    /// Connections to this address, as admin.
    pub fn new(address: std::net::SocketAddr, data: &Path, password: &str) -> Connector {
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(data.join("keys/ca.crt")).expect("init or join wrote the CA");
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.expect("PEM")).expect("a CA");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.3")
            .with_root_certificates(roots);
        let tls = TlsConnector::from(Arc::new(config.with_no_client_auth()));
        let login = base64::engine::general_purpose::STANDARD.encode(format!("admin:{password}"));
        Connector { tls, address, login }
    }

    /// One connection.
    pub async fn connect(&self) -> Connection {
        self.try_connect().await.expect("the node listens and speaks TLS")
    }

    /// One connection to a node that may be down.
    pub async fn try_connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self.tls.connect(name, stream).await?;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {}\r\nContent-Length: ",
            self.address, self.login
        );
        Ok(Connection { stream, head, buffer: Vec::with_capacity(16 << 10) })
    }
}

/// A keep-alive connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    head: String,
    buffer: Vec<u8>,
}

impl Connection {
    /// Sends a body, returns the answer's body.
    pub async fn post(&mut self, body: &str) -> &[u8] {
        self.try_post(body).await.expect("the node answers")
    }

    /// The same with a node that may go away.
    pub async fn try_post(&mut self, body: &str) -> std::io::Result<&[u8]> {
        let request = format!("{}{}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        self.answer().await
    }

    /// Reads one answer and returns its body.
    async fn answer(&mut self) -> std::io::Result<&[u8]> {
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((start, length)) = frame(&self.buffer)
                && self.buffer.len() >= start + length
            {
                if !self.buffer.starts_with(b"HTTP/1.1 200") {
                    return Err(std::io::Error::other("the answer is no 200"));
                }
                return Ok(&self.buffer[start..start + length]);
            }
        }
    }

    /// The body of a GET, as text.
    pub async fn try_get(&mut self, path: &str) -> std::io::Result<String> {
        let head = self.head.replacen("POST /", &format!("GET {path}"), 1);
        let head = head.trim_end_matches("Content-Length: ").to_owned();
        let request = format!("{head}\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        Ok(String::from_utf8_lossy(self.answer().await?).into_owned())
    }

    /// Calls a method and returns its result.
    pub async fn call(&mut self, method: &str, params: serde_json::Value) -> serde_json::Value {
        let body =
            serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer: serde_json::Value =
            serde_json::from_slice(self.post(&body.to_string()).await).expect("JSON");
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].clone()
    }
}

/// Where the answer's body begins and how long it is.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    Some((end + 4, length?))
}
