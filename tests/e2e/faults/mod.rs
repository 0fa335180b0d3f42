//! Faults of network, disk and clock under real nodes: three of them in network namespaces of their
//! own, with real TLS between them, while clients write and everything that was acknowledged must
//! be there, once. What the machine does not permit is noted and left out.

mod clocks;
mod damage;
mod disks;
mod forward;
mod links;
mod load;
mod pauses;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tiebeam_tests::cluster::{TestCluster, says_master};
use tiebeam_tests::failover::equal;
use tiebeam_tests::net::Net;
use tiebeam_tests::{Login, Options, Reply, TestNode, Wire};

/// The group of these tests in the list of what did not run.
const GROUP: &str = "faults";
/// How long something may take to come true: far above what it needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long a node that may be cut off gets for an answer.
const ANSWER: Duration = Duration::from_secs(15);
/// The election timeout of the nodes: the default of `raft.tick_ms` and `raft.election_ticks`.
const ELECTION: Duration = Duration::from_secs(1);

/// Three voters on a network of their own.
struct Site {
    cluster: TestCluster,
    /// Behind the nodes, so that it goes when they have gone.
    net: Net,
}

impl Site {
    /// Three voters; `None` if the machine has no namespaces for them.
    #[track_caller]
    fn start(options: &Options) -> Option<Site> {
        Site::start_with(options, |_| ())
    }

    /// As [`Site::start`]; each node is prepared before it runs first.
    #[track_caller]
    fn start_with(options: &Options, mut prepare: impl FnMut(&TestNode)) -> Option<Site> {
        let net = Net::new(GROUP, 4)?;
        let mut first = TestNode::init(options.clone().at(net.address(0)));
        prepare(&first);
        net.on(0, || first.run());
        let mut site = Site { cluster: TestCluster { nodes: vec![first] }, net };
        for place in 1..3 {
            let mut node = site.join(place, 11 + place as u32, options);
            prepare(&node);
            site.net.on(place, || node.run());
            site.cluster.nodes.push(node);
            let voters = place + 1;
            site.cluster.wait_for("a voter more", |cluster| cluster.voters().len() == voters);
        }
        Some(site)
    }

    /// A node that has joined and does not run yet, at a place in the network.
    #[track_caller]
    fn join(&self, place: usize, id: u32, options: &Options) -> TestNode {
        let options = options.clone().at(self.net.address(place));
        let master = &self.cluster.nodes[self.cluster.master()];
        self.net.on(place, || TestNode::join(master, id, options))
    }

    /// Starts a stopped node, on its side.
    #[track_caller]
    fn run(&mut self, place: usize) {
        self.net.on(place, || self.cluster.nodes[place].run());
    }

    fn node(&self, place: usize) -> &TestNode {
        &self.cluster.nodes[place]
    }

    /// The places of the nodes that are not this one.
    fn others(&self, place: usize) -> Vec<usize> {
        (0..self.cluster.nodes.len()).filter(|other| *other != place).collect()
    }

    /// The place of a node that is not the master.
    #[track_caller]
    fn follower(&self) -> usize {
        self.others(self.cluster.master())[0]
    }

    /// Waits until one of these nodes is the master; which one.
    #[track_caller]
    fn master_among(&self, places: &[usize]) -> usize {
        eventually("a master among those that can elect one", || {
            places.iter().copied().find(|place| says_master(self.node(*place)))
        })
    }

    /// Waits until the node has heard of everything and is ready.
    #[track_caller]
    fn wait_ready(&mut self) {
        self.cluster.nodes.iter_mut().for_each(TestNode::wait_ready);
    }

    /// Stops all nodes: they hold the same.
    #[track_caller]
    fn compare(&mut self) {
        let compared = equal::stop_and_compare(&mut self.cluster);
        let compared = compared.expect("they come to the same index");
        assert_eq!(compared.findings, Vec::<String>::new());
        println!("equal on all nodes: {}", compared.digest.replace('\n', " "));
    }
}

/// A JSON-RPC call to this node and no other; `None` without an answer.
fn ask(node: &TestNode, method: &str, params: &Value) -> Option<Reply> {
    let mut wire = Wire::tls_within(node.address, &node.ca_file, None, ANSWER).ok()?;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    wire.request("POST", "/", &node.admin(), &[], body.as_bytes()).ok()
}

/// What a node says of itself, whoever may be cut off.
fn health(node: &TestNode) -> Option<Value> {
    let mut wire = Wire::unix(&node.socket()).ok()?;
    let reply = wire.request("GET", "/health/ready", &Login::None, &[], b"").ok()?;
    Some(reply.json())
}

/// Whether a problem that the node tells has these words.
fn tells(node: &TestNode, words: &str) -> bool {
    health(node).is_some_and(|about| about["problems"].to_string().contains(words))
}

/// The value of a metric, at the node's unix socket.
fn metric(node: &TestNode, name: &str) -> Option<u64> {
    let mut wire = Wire::unix(&node.socket()).ok()?;
    let reply = wire.request("GET", "/metrics", &Login::None, &[], b"").ok()?;
    let text = reply.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

/// Waits until something is there.
#[track_caller]
fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, look)
}

#[track_caller]
fn eventually_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
