//! How long nobody is served after kill -9 of the leader: the longest time between two
//! successful writes of eight clients that go to whoever answers. One loop kills, for ours and for
//! etcd; what differs is how a member is written to.

use crate::client::{Connection, Connector};
use crate::etcd::{self, Etcd};
use crate::grpc;
use crate::nodes::{self, Nodes};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
/// Before the kill, and after the restart of what was killed.
const SETTLE: Duration = Duration::from_secs(3);
/// After the kill.
const WATCH: Duration = Duration::from_secs(6);
/// Longest wait for one write.
const LIMIT: Duration = Duration::from_millis(1_500);
/// Pause of a client that found nobody.
const AGAIN: Duration = Duration::from_millis(5);

/// Members of which the leader can be killed.
pub trait Members {
    /// How they are written to.
    type Door: Door;
    /// The way in, for one client.
    fn door(&self) -> Self::Door;
    /// The leader's place.
    async fn leader(&self) -> usize;
    /// kill -9.
    fn kill(&mut self, nth: usize);
    /// Starts it again.
    fn restart(&mut self, nth: usize);
}

/// How one client writes.
pub trait Door: Send + 'static {
    /// An open connection to one member.
    type Connection: Send;
    /// Connects to a member, any of them; nothing if it is not there.
    fn connect(&self, nth: usize) -> impl Future<Output = Option<Self::Connection>> + Send;
    /// Writes once; whether it was acknowledged.
    fn write(
        connection: &mut Self::Connection,
        client: usize,
        number: usize,
    ) -> impl Future<Output = bool> + Send;
}

/// When writes succeeded.
type Successes = Arc<Mutex<Vec<Instant>>>;

/// The longest pause between two successes around `from`.
fn longest(successes: &Successes, from: Instant) -> Duration {
    let mut times = successes.lock().expect("no writer panics").clone();
    times.sort();
    let before = times.partition_point(|at| *at < from).saturating_sub(1);
    let pairs = times[before..].windows(2).map(|pair| pair[1] - pair[0]);
    pairs.max().unwrap_or(WATCH)
}

/// Prints median and worst.
pub fn print(who: &str, mut gaps: Vec<Duration>) {
    gaps.sort();
    let ms = |gap: Duration| gap.as_millis();
    let all: Vec<u128> = gaps.iter().copied().map(ms).collect();
    let median = gaps.get(gaps.len() / 2).copied().map_or(0, ms);
    let worst = gaps.last().copied().map_or(0, ms);
    println!("gap after kill -9 of the leader, {who}: median {median} ms, max {worst} ms, {all:?}");
}

/// The gaps of `kills` kills of the leader.
pub async fn of(members: &mut impl Members, kills: usize) -> Vec<Duration> {
    let mut gaps = Vec::new();
    for _ in 0..kills {
        let (stop, successes) = (Arc::new(AtomicBool::new(false)), Successes::default());
        let writers: Vec<_> = (0..CLIENTS)
            .map(|client| {
                tokio::spawn(write(members.door(), client, stop.clone(), successes.clone()))
            })
            .collect();
        tokio::time::sleep(SETTLE).await;
        let leader = members.leader().await;
        let killed = Instant::now();
        members.kill(leader);
        tokio::time::sleep(WATCH).await;
        gaps.push(longest(&successes, killed));
        members.restart(leader);
        tokio::time::sleep(SETTLE).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let _ = writer.await;
        }
    }
    gaps
}

/// One client: writes on a connection until that fails, then goes on to the next member.
async fn write<D: Door>(door: D, client: usize, stop: Arc<AtomicBool>, successes: Successes) {
    let (mut nth, mut number) = (client, 0);
    while !stop.load(Ordering::Relaxed) {
        nth += 1;
        if let Some(mut connection) = door.connect(nth).await {
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let written = D::write(&mut connection, client, number);
                if tokio::time::timeout(LIMIT, written).await != Ok(true) {
                    break;
                }
                successes.lock().expect("no writer panics").push(Instant::now());
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Members for Nodes {
    type Door = Vec<Connector>;

    fn door(&self) -> Vec<Connector> {
        self.connectors()
    }

    async fn leader(&self) -> usize {
        Nodes::leader(self).await.0
    }

    fn kill(&mut self, nth: usize) {
        Nodes::kill(self, nth);
    }

    fn restart(&mut self, nth: usize) {
        Nodes::restart(self, nth);
    }
}

impl Door for Vec<Connector> {
    type Connection = Connection;

    async fn connect(&self, nth: usize) -> Option<Connection> {
        self[nth % self.len()].try_connect().await.ok()
    }

    async fn write(connection: &mut Connection, client: usize, number: usize) -> bool {
        let sent = connection.try_post(&nodes::body("start", client, number)).await;
        sent.is_ok_and(|answer| !answer.windows(8).any(|part| part == b"\"error\":"))
    }
}

impl Members for Etcd {
    type Door = tokio_rustls::TlsConnector;

    fn door(&self) -> tokio_rustls::TlsConnector {
        self.tls()
    }

    async fn leader(&self) -> usize {
        Etcd::leader(self).await
    }

    fn kill(&mut self, nth: usize) {
        Etcd::kill(self, nth);
    }

    fn restart(&mut self, nth: usize) {
        Etcd::restart(self, nth);
    }
}

impl Door for tokio_rustls::TlsConnector {
    type Connection = grpc::Connection;

    async fn connect(&self, nth: usize) -> Option<grpc::Connection> {
        grpc::Connection::open(self, etcd::address(nth % 3)).await.ok()
    }

    async fn write(connection: &mut grpc::Connection, client: usize, number: usize) -> bool {
        connection.call(etcd::PUT, &etcd::put(client, number)).await.is_ok()
    }
}
