//! Three nodes as processes: what clients see of a cluster, and that it keeps its promises while
//! nodes are killed, paused, added and removed. `tiebeam-tests failover` does it in many rounds.

mod affinity;
mod commands;
mod far_behind;
mod forward;
mod leaving;
mod membership;
mod paused;
mod redirect;
mod renewal;
mod retries;
mod rotation;
mod upgrade;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tiebeam_tests::cluster::TestCluster;
use tiebeam_tests::{Login, Reply, TestNode};

/// How long something may take to come true: far above what it needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A POST on a connection of its own.
#[track_caller]
fn post(node: &TestNode, login: &Login, path: &str, body: &Value) -> Reply {
    let reply = node.connect().request("POST", path, login, &[], body.to_string().as_bytes());
    reply.unwrap_or_else(|error| panic!("POST {path} on {}: {error}", node.url))
}

/// A JSON-RPC request.
fn request(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

/// The place of a node that is not the master.
fn follower(cluster: &TestCluster) -> usize {
    (cluster.master() + 1) % cluster.nodes.len()
}

/// Waits until something is there.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
