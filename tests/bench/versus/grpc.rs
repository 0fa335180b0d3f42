//! The leanest gRPC client: one HTTP/2 connection over TLS, one call at a time, with etcd's few
//! messages written out, so that what is measured is the subject.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why a call gave nothing.
#[derive(Debug)]
pub struct CallFailed;

/// A connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Connection {
    /// Connects.
    pub async fn open(tls: &TlsConnector, address: SocketAddr) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        let stream = tls.connect(name, stream).await?;
        let begun = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = begun.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            // Its end is seen by the next call.
            let _ = connection.await;
        });
        Ok(Connection { sender, authority: address.to_string() })
    }

    /// One unary call; the answer's message.
    pub async fn call(&mut self, path: &str, message: &[u8]) -> Result<Bytes, CallFailed> {
        let mut body = Vec::with_capacity(5 + message.len());
        body.push(0);
        body.extend_from_slice(&(message.len() as u32).to_be_bytes());
        body.extend_from_slice(message);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))
            .expect("a request of known parts");
        self.sender.ready().await.map_err(|_| CallFailed)?;
        let answer = self.sender.send_request(request).await.map_err(|_| CallFailed)?;
        let at_once = answer.headers().get("grpc-status").cloned();
        let collected = answer.into_body().collect().await.map_err(|_| CallFailed)?;
        let status = collected.trailers().and_then(|all| all.get("grpc-status").cloned());
        if status.or(at_once).is_none_or(|status| status != "0") {
            return Err(CallFailed);
        }
        let bytes = collected.to_bytes();
        if bytes.len() < 5 { Err(CallFailed) } else { Ok(bytes.slice(5..)) }
    }
}

/// A field of bytes.
pub fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push((length as u8 & 0x7f) | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
    out
}

/// The numbers and the messages at the top of a message, by field.
pub fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(tag) = varint(&mut bytes) {
        match tag & 7 {
            0 => match varint(&mut bytes) {
                Some(value) => found.push((tag >> 3, value, Vec::new())),
                None => return found,
            },
            2 => {
                let length = varint(&mut bytes).unwrap_or(0) as usize;
                if length > bytes.len() {
                    return found;
                }
                let (value, rest) = bytes.split_at(length);
                found.push((tag >> 3, 0, value.to_vec()));
                bytes = rest;
            }
            _ => return found,
        }
    }
    found
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for nth in 0..10 {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << (7 * nth);
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
