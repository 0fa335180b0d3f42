//! HTTP/1.1 as it goes over the wire, on TLS or the unix socket, one request at a time.
//!
//! Written out rather than taken from a client library, so that a test sees status, headers and
//! bytes as they were sent, and can stop in the middle of a request. Blocking, with a limit on
//! every read so that a test that hangs fails.

use crate::tls::{self, Certificate};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The longest wait for bytes; no call of a test takes as long.
const READ_LIMIT: Duration = Duration::from_secs(90);

/// How a request says who sends it.
#[derive(Clone, Debug)]
pub enum Login {
    /// Not at all.
    None,
    /// Name and password.
    Basic(String, String),
    /// A token of `user_login`.
    Bearer(String),
}

impl Login {
    /// Name and password.
    pub fn basic(user: &str, password: &str) -> Login {
        Login::Basic(user.to_owned(), password.to_owned())
    }

    fn header(&self) -> Option<String> {
        match self {
            Login::None => None,
            Login::Basic(user, password) => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Login::Bearer(token) => Some(format!("Bearer {token}")),
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Header lines: names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{} {:?}: {error}", self.status, self.text()))
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One open connection.
pub struct Wire {
    stream: Box<dyn Stream>,
    /// Bytes that were read and belong to the next answer.
    rest: Vec<u8>,
    host: String,
    /// The certificate that the node showed, in DER; empty on the unix socket.
    pub shown: Vec<u8>,
}

impl Wire {
    /// A TLS connection that offers `http/1.1` and trusts this CA alone.
    ///
    /// # Errors
    /// No connection, or the handshake fails.
    pub fn tls(
        address: SocketAddr,
        ca_file: &Path,
        certificate: Option<Certificate>,
    ) -> io::Result<Wire> {
        Wire::tls_within(address, ca_file, certificate, READ_LIMIT)
    }

    /// As [`Wire::tls`], with another limit for the connection and for every read: of a node that
    /// may not answer.
    ///
    /// # Errors
    /// No connection within the limit, or the handshake fails.
    pub fn tls_within(
        address: SocketAddr,
        ca_file: &Path,
        certificate: Option<Certificate>,
        limit: Duration,
    ) -> io::Result<Wire> {
        let config = tls::config(ca_file, "http/1.1", certificate)?;
        let tcp = TcpStream::connect_timeout(&address, limit)?;
        tcp.set_read_timeout(Some(limit))?;
        tcp.set_nodelay(true)?;
        Wire::encrypted(config, tcp, address)
    }

    /// Does the handshake on a TCP connection.
    ///
    /// # Errors
    /// The node refused it.
    pub(crate) fn encrypted(
        config: Arc<ClientConfig>,
        mut tcp: TcpStream,
        address: SocketAddr,
    ) -> io::Result<Wire> {
        let name = ServerName::IpAddress(address.ip().into());
        let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        let shown = tls.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.map(|first| first.to_vec()).unwrap_or_default();
        let stream = Box::new(StreamOwned::new(tls, tcp));
        Ok(Wire { stream, rest: Vec::new(), host: address.to_string(), shown })
    }

    /// A connection without TLS, as no client should make it.
    ///
    /// # Errors
    /// No connection.
    pub fn plain(address: SocketAddr) -> io::Result<Wire> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(READ_LIMIT))?;
        let host = address.to_string();
        Ok(Wire { stream: Box::new(tcp), rest: Vec::new(), host, shown: Vec::new() })
    }

    /// A connection to the unix socket.
    ///
    /// # Errors
    /// No connection.
    pub fn unix(socket: &Path) -> io::Result<Wire> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        let host = "localhost".to_owned();
        Ok(Wire { stream: Box::new(stream), rest: Vec::new(), host, shown: Vec::new() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends a request without waiting for the answer.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        login: &Login,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let own_host = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        if !own_host {
            head.push_str(&format!("Host: {}\r\n", self.host));
        }
        if let Some(value) = login.header() {
            head.push_str(&format!("Authorization: {value}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if method != "GET" && method != "HEAD" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.send_raw(&[head.as_bytes(), body].concat())
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The connection is gone, or what comes is no HTTP.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        login: &Login,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        self.send(method, path, login, headers, body)?;
        if method == "HEAD" { self.read_head().map(|(reply, _)| reply) } else { self.read_reply() }
    }

    /// Reads the next answer.
    ///
    /// # Errors
    /// The connection is gone, or what comes is no HTTP.
    pub fn read_reply(&mut self) -> io::Result<Reply> {
        let (mut reply, chunked) = self.read_head()?;
        if chunked {
            reply.body = self.read_chunks()?;
        } else {
            let length = reply.header("content-length").map_or(Ok(0), str::parse);
            reply.body = self.take(length.map_err(io::Error::other)?)?;
        }
        Ok(reply)
    }

    fn read_head(&mut self) -> io::Result<(Reply, bool)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let no_http = || io::Error::other(format!("this is no HTTP: {first:?}"));
        let mut reply =
            Reply { status: status.ok_or_else(no_http)?, headers: Vec::new(), body: Vec::new() };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            reply.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let chunked = reply.header("transfer-encoding").is_some_and(|value| value == "chunked");
        Ok((reply, chunked))
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(self.line()?.trim(), 16).map_err(io::Error::other)?;
            body.extend(self.take(size)?);
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.rest.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.rest[..end]).into_owned();
                self.rest.drain(..end + 2);
                return Ok(line);
            }
            self.more()?;
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.rest.len() < count {
            self.more()?;
        }
        Ok(self.rest.drain(..count).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut block = [0; 16 * 1024];
        match self.stream.read(&mut block)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.rest.extend_from_slice(&block[..count]);
                Ok(())
            }
        }
    }

    /// A JSON-RPC call: the result, or the error object.
    ///
    /// # Errors
    /// The error object of the answer.
    ///
    /// # Panics
    /// There is no JSON-RPC answer.
    #[track_caller]
    pub fn call(&mut self, login: &Login, method: &str, params: Value) -> Result<Value, Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let reply = self.request("POST", "/", login, &[], body.to_string().as_bytes());
        let reply = reply.unwrap_or_else(|error| panic!("{method}: {error}"));
        assert_eq!(reply.status, 200, "{method}: {}", reply.text());
        let mut answer = reply.json();
        match answer.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(answer["result"].take()),
        }
    }
}
