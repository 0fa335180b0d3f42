//! A cluster of nodes as its users have it: processes on loopback addresses of their own, made with
//! `tiebeamd init` and `tiebeamd join`.
//!
//! Calls go to whoever is the master and follow it; that is what clients have to do, written out
//! so that a test sees where an answer came from.

use crate::node::{Options, TestNode};
use crate::wire::{Login, Wire};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long the cluster gets for anything: far above what it needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a node may take to say whether it is the master.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// Pause between two looks.
const AGAIN: Duration = Duration::from_millis(50);

/// Nodes of one cluster, the first one made by `init`.
pub struct TestCluster {
    /// The nodes; ids are 11, 12, ….
    pub nodes: Vec<TestNode>,
}

impl TestCluster {
    /// A cluster of `count` nodes that all run and, up to three, vote.
    ///
    /// # Panics
    /// It does not come up.
    #[track_caller]
    pub fn start(count: usize, options: &Options) -> TestCluster {
        let mut cluster = TestCluster { nodes: vec![TestNode::start(options.clone())] };
        while cluster.nodes.len() < count {
            cluster.grow(options);
        }
        cluster
    }

    /// Adds a node and waits until it is ready and, of up to three, a voter.
    ///
    /// # Panics
    /// It cannot be added.
    #[track_caller]
    pub fn grow(&mut self, options: &Options) {
        let id = 11 + u32::try_from(self.nodes.len()).expect("a handful of nodes");
        let master = self.master();
        let mut node = TestNode::join(&self.nodes[master], id, options.clone());
        node.run();
        self.nodes.push(node);
        let voters = self.nodes.len().min(3);
        self.wait_for("a voter more", |cluster| cluster.voters().len() >= voters);
    }

    /// The node ids that vote, by the master.
    pub fn voters(&self) -> Vec<u64> {
        let info = self.output("cluster_info", json!({}));
        let members = info["members"].as_object().cloned().unwrap_or_default();
        let votes = |member: &Value| member == "voter";
        members.iter().filter(|(_, m)| votes(m)).filter_map(|(id, _)| id.parse().ok()).collect()
    }

    /// Waits until something holds.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&TestCluster) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(AGAIN);
        }
    }

    /// The place in [`TestCluster::nodes`] of the node that a quorum confirmed as master; waits
    /// for one.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn master(&self) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.nodes.iter().position(says_master) {
                return found;
            }
            assert!(Instant::now() < until, "no master within {PATIENCE:?}");
            std::thread::sleep(AGAIN);
        }
    }

    /// A call to whoever is the master, again until there is an answer: it must be one that may
    /// be repeated.
    ///
    /// # Errors
    /// The error object of the answer.
    ///
    /// # Panics
    /// There is no answer.
    #[track_caller]
    pub fn call(&self, login: &Login, method: &str, params: Value) -> Result<Value, Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                if let Some(answer) = try_call(node, login, method, &params) {
                    return answer;
                }
            }
            assert!(Instant::now() < until, "{method}: no answer within {PATIENCE:?}");
            std::thread::sleep(AGAIN);
        }
    }

    /// The login of `admin`.
    pub fn admin(&self) -> Login {
        self.nodes[0].admin()
    }

    /// A job to its end as `admin`, run once however often the master moves: the result object.
    ///
    /// # Panics
    /// There is no result object.
    #[track_caller]
    pub fn exec(&self, job: &str, params: Value) -> Value {
        let key = format!("{}-{:p}-{:?}", job, &params, Instant::now());
        let key = format!("{:x}", number_of(&key));
        let kwargs = json!({"params": params, "request_id": key});
        let answer = self.call(&self.admin(), "job_exec", json!([job, kwargs]));
        let result = answer.unwrap_or_else(|error| panic!("{job} makes no job: {error}"));
        if result["result_code"] != 5 {
            return result;
        }
        self.result(result["result_jobid"].as_str().expect("an id"))
    }

    /// The result of a job, once it has one.
    ///
    /// # Panics
    /// It has none.
    #[track_caller]
    pub fn result(&self, id: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let _ = self.call(&self.admin(), "job_wait", json!([id, 2]));
            let result = self.call(&self.admin(), "job_result", json!([id]));
            let result = result.unwrap_or_else(|error| panic!("{id}: {error}"));
            if result["result_code"] != 5 {
                return result;
            }
            assert!(Instant::now() < until, "{id} has no end within {PATIENCE:?}");
        }
    }

    /// A job that must end with `ok`: its output, null if it has none.
    ///
    /// # Panics
    /// It ends otherwise.
    #[track_caller]
    pub fn output(&self, job: &str, params: Value) -> Value {
        let result = self.exec(job, params);
        assert_eq!(result["result_code"], 0, "{job}: {result}");
        result["result_output"].clone()
    }
}

/// A short number for a text, so that two calls of a test have two keys.
fn number_of(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Whether a node says, confirmed by a quorum, that it is the master; one that stands still does
/// not.
pub fn says_master(node: &TestNode) -> bool {
    if !node.is_running() {
        return false;
    }
    let wire = Wire::tls_within(node.address, &node.ca_file, None, LOOK_LIMIT);
    let Ok(mut wire) = wire else { return false };
    let reply = wire.request("GET", "/is_master", &Login::None, &[], b"");
    reply.is_ok_and(|reply| reply.status == 200)
}

/// The answer of a node that is the master; `None` for a redirect, 503 or no connection.
fn try_call(
    node: &TestNode,
    login: &Login,
    method: &str,
    params: &Value,
) -> Option<Result<Value, Value>> {
    let mut wire = Wire::tls(node.address, &node.ca_file, None).ok()?;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let reply = wire.request("POST", "/rpc", login, &[], body.as_bytes()).ok()?;
    if reply.status != 200 {
        return None;
    }
    let answer = reply.json();
    match answer.get("error") {
        Some(error) => Some(Err(error.clone())),
        None => Some(Ok(answer["result"].clone())),
    }
}
