//! The end of the front: a stop signal, and the connections that are still there.
//!
//! Ruling 1: a request that was read is answered. So draining is in this order: listeners close;
//! connections without a request close; the others finish what they have, and calls that wait see
//! the signal and answer. Nothing here bounds a request: the process may be killed, not hurried.

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a connection without an open request may take to close once draining began: a client
/// that does not read its last answer must not hold the node.
pub const IDLE_WHILE_DRAINING: Duration = Duration::from_secs(5);

/// The stop signal and the count of what still runs; clones share both.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    close: CancellationToken,
    listeners: TaskTracker,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Drain {
        Drain::default()
    }

    /// The signal, to be awaited or handed to a call.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Whether draining has begun.
    pub fn begun(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The signal for one listener, which may also be closed alone.
    pub fn close(&self) -> CancellationToken {
        self.close.child_token()
    }

    /// Spawns a listener, which ends by its [`Drain::close`] signal.
    pub fn spawn_listener<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.listeners.spawn(work);
    }

    /// Spawns a connection, which ends some time after [`Drain::stop`].
    pub fn spawn_connection<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.connections.spawn(work);
    }

    /// Closes the listeners, then stops the connections, and returns when all have ended.
    pub async fn finish(&self) {
        self.close.cancel();
        self.listeners.close();
        self.listeners.wait().await;
        self.stop.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}
