//! The ways into a node that a decent client does not take: from another source address, with a
//! certificate of a node, for another protocol than HTTP; and WebSocket frames on a connection.
//!
//! It adds to [`crate::wire`] what the suites of security need and owns nothing else.

use crate::tls::{self, Certificate};
use crate::wire::{Login, Reply, Wire};
use rustls::ClientConfig;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct Door {
    /// The node's address.
    pub address: SocketAddr,
    /// From which address of the loopback network; the system's choice if none.
    pub source: Option<Ipv4Addr>,
    /// How long a read waits.
    pub patience: Duration,
    tls: Arc<ClientConfig>,
}

impl Door {
    /// The door of a node whose certificate leads to the authority in `ca_file`: `alpn` is the
    /// protocol that is asked for, usually `http/1.1`; `own` the client's certificate.
    ///
    /// # Errors
    /// A certificate cannot be read or used.
    pub fn new(
        address: SocketAddr,
        ca_file: &Path,
        alpn: &str,
        own: Option<Certificate>,
    ) -> io::Result<Door> {
        let tls = tls::config(ca_file, alpn, own)?;
        Ok(Door { address, source: None, patience: Duration::from_secs(90), tls })
    }

    /// The same door, entered from this address.
    #[must_use]
    pub fn entered_from(&self, source: Ipv4Addr) -> Door {
        Door { source: Some(source), ..self.clone() }
    }

    /// The same door, with another patience.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Door {
        Door { patience, ..self.clone() }
    }

    /// A TCP connection without TLS.
    ///
    /// # Errors
    /// There is none.
    pub fn tcp(&self) -> io::Result<TcpStream> {
        let stream = match self.source {
            None => TcpStream::connect(self.address)?,
            Some(source) => connect_from(source, self.address)?,
        };
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A connection whose handshake is done.
    ///
    /// # Errors
    /// There is none, or the node refused the handshake.
    pub fn open(&self) -> io::Result<Wire> {
        Wire::encrypted(self.tls.clone(), self.tcp()?, self.address)
    }
}

/// The standard library cannot choose the source address; tokio can.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
        socket.connect(to).await
    })?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

impl Wire {
    /// Asks for a WebSocket; the answer's status is 101 if it was granted.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn upgrade(&mut self, login: &Login) -> io::Result<Reply> {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        self.request("GET", "/ws", login, &headers, b"")
    }

    /// Sends one text frame.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_frame(&mut self, text: &str) -> io::Result<()> {
        let length = text.len() as u64;
        let mut frame = vec![0x81];
        match length {
            0..=125 => frame.push(0x80 | length as u8),
            126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&length.to_be_bytes());
            }
        }
        // Clients mask their frames; a mask of zeros leaves the text as it is.
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        self.send_raw(&frame)
    }

    /// The text of the next frame that has one.
    ///
    /// # Errors
    /// The connection is gone, or the node closed it.
    pub fn frame(&mut self) -> io::Result<String> {
        loop {
            let head = self.take(2)?;
            let length = match head[1] & 0x7f {
                126 => self.take(2)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
                127 => self.take(8)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
                short => usize::from(short),
            };
            let content = self.take(length)?;
            match head[0] & 0x0f {
                1 => return Ok(String::from_utf8_lossy(&content).into_owned()),
                8 => return Err(io::ErrorKind::ConnectionReset.into()),
                _ => {}
            }
        }
    }

    /// Reads until the node closes; whether it did within the connection's patience.
    pub fn closed(&mut self) -> bool {
        loop {
            if let Err(error) = self.take(1) {
                let waits = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
                return !waits.contains(&error.kind());
            }
        }
    }
}
