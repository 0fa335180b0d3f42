//! Whether a connection has an open request, and since when it has none.
//!
//! The idle limit runs only while no request is open (ruling 37), and the head limit only from the
//! first byte of a head to its last; hyper's own head timer starts with the wait for the next
//! request and would close idle connections after 10 s. So the connection's bytes and requests
//! are watched here. An answer counts as long as its bytes move: a slow reader gets all of it, one
//! that stopped reading is idle. One `Activity` per connection, made by `connection`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What is known of one connection.
#[derive(Debug)]
pub struct Activity {
    now: Mutex<Now>,
    changed: Notify,
    /// Longest wait without a request.
    idle: Duration,
    /// Longest time from the first byte of a head to its last; `None` for HTTP/2, where a byte
    /// may belong to any frame and the idle limit alone holds.
    head: Option<Duration>,
}

#[derive(Debug)]
struct Now {
    open: usize,
    idle_since: Instant,
    head_since: Option<Instant>,
}

impl Activity {
    /// A connection that begins now, without a request.
    pub fn new(idle: Duration, head: Option<Duration>) -> Arc<Activity> {
        let now = Now { open: 0, idle_since: Instant::now(), head_since: None };
        Arc::new(Activity { now: Mutex::new(now), changed: Notify::new(), idle, head })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Now) -> T) -> T {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut now)
    }

    /// Counts a request as open until the guard is dropped, that is: until its answer is made.
    pub fn open(self: &Arc<Self>) -> Open {
        self.change(|now| {
            now.open += 1;
            now.head_since = None;
        });
        self.changed.notify_one();
        Open(Arc::clone(self))
    }

    /// Whether no request is open.
    pub fn is_idle(&self) -> bool {
        self.change(|now| now.open == 0)
    }

    fn bytes_arrived(&self) {
        let began = self.head.is_some()
            && self.change(|now| {
                let begins = now.open == 0 && now.head_since.is_none();
                if begins {
                    now.head_since = Some(Instant::now());
                }
                begins
            });
        if began {
            self.changed.notify_one();
        }
    }

    fn bytes_left(&self) {
        self.change(|now| now.idle_since = Instant::now());
    }

    fn deadline(&self, idle: Duration, from: Instant) -> Option<Instant> {
        self.change(|now| {
            if now.open > 0 {
                return None;
            }
            let idle_end = now.idle_since.max(from) + idle;
            let head_end = now.head_since.zip(self.head).map(|(since, limit)| since + limit);
            Some(head_end.map_or(idle_end, |end| end.min(idle_end)))
        })
    }

    /// Resolves when the connection was idle, or a head was coming, for too long.
    pub async fn expired(&self) {
        self.idle_for(self.idle).await;
    }

    /// Resolves when no request was open for `idle` from now on, or a head came for too long.
    pub async fn idle_for(&self, idle: Duration) {
        let from = Instant::now();
        loop {
            match self.deadline(idle, from) {
                None => self.changed.notified().await,
                Some(end) if end <= Instant::now() => return,
                Some(end) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(end) => {}
                        () = self.changed.notified() => {}
                    }
                }
            }
        }
    }
}

/// An open request.
#[derive(Debug)]
pub struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.change(|now| {
            now.open = now.open.saturating_sub(1);
            now.idle_since = Instant::now();
        });
        self.0.changed.notify_one();
    }
}

/// A stream whose arriving bytes are noted.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    /// Watches `stream` for `activity`.
    pub fn new(stream: S, activity: Arc<Activity>) -> Watched<S> {
        Watched { stream, activity }
    }

    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.bytes_left();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if into.filled().len() > before {
            self.activity.bytes_arrived();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
