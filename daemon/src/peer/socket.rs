//! The thread of the streams, and a socket that can move to it.
//!
//! Raft's frames must not wait behind requests of clients: a worker that is busy looks only now and
//! then at what other threads woke and at its sockets. So streams have a runtime of one thread for
//! themselves. What comes in is accepted, and strangers are refused, on the workers; a stream that
//! came in takes its socket with it to the thread.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Starts the thread; it ends, and everything on it, with `stop`.
///
/// # Errors
/// There can be no more threads or no more file descriptors.
pub fn spawn_thread(stop: CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name("peers".to_owned()).spawn(move || {
        runtime.block_on(stop.cancelled());
        // A look-up of a name may still run; nobody waits for it.
        runtime.shutdown_background();
    })?;
    Ok(handle)
}

/// A TCP socket that belongs to a runtime, or is on its way to another.
#[derive(Debug)]
pub enum Socket {
    /// It can be used on the runtime on which it was bound.
    Bound(TcpStream),
    /// It can only be bound.
    Moving(std::net::TcpStream),
    /// Binding failed.
    Lost,
}

impl Socket {
    /// Takes the socket from its runtime.
    pub fn unbind(&mut self) -> io::Result<()> {
        if let Socket::Bound(tcp) = std::mem::replace(self, Socket::Lost) {
            *self = Socket::Moving(tcp.into_std()?);
        }
        Ok(())
    }

    /// Gives it to the runtime of the caller.
    pub fn bind(&mut self) -> io::Result<()> {
        if let Socket::Moving(tcp) = std::mem::replace(self, Socket::Lost) {
            *self = Socket::Bound(TcpStream::from_std(tcp)?);
        }
        Ok(())
    }

    fn tcp(self: Pin<&mut Self>) -> io::Result<Pin<&mut TcpStream>> {
        match self.get_mut() {
            Socket::Bound(tcp) => Ok(Pin::new(tcp)),
            Socket::Moving(_) | Socket::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        waker: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp()?.poll_read(waker, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        waker: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write(waker, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        waker: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write_vectored(waker, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, waker: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_flush(waker)
    }

    fn poll_shutdown(self: Pin<&mut Self>, waker: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_shutdown(waker)
    }
}
