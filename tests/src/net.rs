//! A network of the test's own: each node in a network namespace, the clients in another one, all
//! on a bridge in a third kind; with partitions, loss and narrow links between the nodes.
//!
//! Owns the namespaces, which have names of this process and go when the network is dropped, also
//! by a panic. The network of the machine is not touched. Clients reach every node whatever is cut
//! between nodes. Faults are rules of nftables at the bridge.

use crate::need::need;
use crate::program::{command, run};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The port of every node.
const PORT: u16 = 20003;
/// The last byte of the clients' address; nodes have 1, 2, ….
const CLIENTS: u8 = 200;

/// Counts the networks of this process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network of nodes; nodes are counted from 0.
pub struct Net {
    name: String,
    nodes: u8,
}

impl Net {
    /// A network for so many nodes. The calling thread, and what it starts from now on, is on the
    /// clients' side. `None` if the machine does not permit it; then that is noted for `group`.
    ///
    /// # Panics
    /// The machine permits it, and it does not work.
    #[track_caller]
    pub fn new(group: &str, nodes: u8) -> Option<Net> {
        let probe = "n=tiebeam-probe-$$; ip netns add $n && \
                     ip netns exec $n nft add table bridge probe; e=$?; ip netns del $n; exit $e";
        if !need(group, &["sh", "-c", probe]) {
            return None;
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let net = Net { name: format!("tiebeam-{}-{count}", std::process::id()), nodes };
        net.make();
        net.enter(&net.namespace(CLIENTS));
        Some(net)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    /// The namespace of a node by the last byte of its address.
    fn namespace(&self, host: u8) -> String {
        format!("{}-{host}", self.name)
    }

    fn hosts(&self) -> impl Iterator<Item = u8> {
        (1..=self.nodes).chain([CLIENTS])
    }

    #[track_caller]
    fn make(&self) {
        let hub = self.hub();
        ip(&["netns", "add", &hub]);
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &hub, "link", "set", "br0", "up"]);
        for host in self.hosts() {
            let (one, link) = (self.namespace(host), format!("v{host}"));
            ip(&["netns", "add", &one]);
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &one];
            ip(&[&["-n", &hub, "link", "add", &link], &peer[..]].concat());
            ip(&["-n", &hub, "link", "set", &link, "master", "br0", "up"]);
            let address = format!("{}/24", address(host));
            ip(&["-n", &one, "addr", "add", &address, "dev", "eth0"]);
            ip(&["-n", &one, "link", "set", "eth0", "up"]);
            ip(&["-n", &one, "link", "set", "lo", "up"]);
        }
        self.nft("add table bridge faults");
        self.nft("add chain bridge faults way { type filter hook forward priority 0; }");
    }

    #[track_caller]
    fn nft(&self, words: &str) {
        let mut nft = command("ip", &["netns", "exec", &self.hub(), "nft", words]);
        run(&mut nft, "").ok();
    }

    #[track_caller]
    fn enter(&self, namespace: &str) {
        let path = format!("/run/netns/{namespace}");
        let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a network namespace");
    }

    /// Where a node listens.
    pub fn address(&self, node: usize) -> SocketAddr {
        SocketAddr::from((address(host_of(node)), PORT))
    }

    /// Does something, such as starting a process, on the side of a node.
    #[track_caller]
    pub fn on<T>(&self, node: usize, act: impl FnOnce() -> T) -> T {
        self.enter(&self.namespace(host_of(node)));
        let done = act();
        self.enter(&self.namespace(CLIENTS));
        done
    }

    /// Nothing goes from `from` to `to` any more; the other way stays open.
    #[track_caller]
    pub fn cut(&self, from: usize, to: usize) {
        let (from, to) = (address(host_of(from)), address(host_of(to)));
        self.nft(&format!("add rule bridge faults way ip saddr {from} ip daddr {to} drop"));
    }

    /// Nothing goes between this node and the other nodes.
    #[track_caller]
    pub fn isolate(&self, node: usize) {
        for other in (0..usize::from(self.nodes)).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// This share of the packets between nodes is lost.
    #[track_caller]
    pub fn lose(&self, percent: u32) {
        let nodes = format!("{}-{}", address(1), address(self.nodes));
        let lost = format!("numgen random mod 100 < {percent} drop");
        let rule = format!("add rule bridge faults way ip saddr {nodes} ip daddr {nodes} {lost}");
        self.nft(&rule);
    }

    /// All ways between nodes are open and nothing is lost.
    #[track_caller]
    pub fn heal(&self) {
        self.nft("flush chain bridge faults way");
    }

    /// The link of every node carries so much and delays what comes faster, up to `latency_ms`.
    #[track_caller]
    pub fn narrow(&self, kbit: u32, latency_ms: u32) {
        let (rate, latency) = (format!("{kbit}kbit"), format!("{latency_ms}ms"));
        for host in 1..=self.nodes {
            let way = ["-n", &self.hub(), "qdisc", "replace", "dev", &format!("v{host}")];
            let how = ["root", "tbf", "rate", &rate, "burst", "16kb", "latency", &latency];
            run(&mut command("tc", &[&way[..], &how[..]].concat()), "").ok();
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // It runs while a test panics, and goes as far as it gets.
        let names = self.hosts().map(|host| self.namespace(host)).chain([self.hub()]);
        for name in names.collect::<Vec<_>>() {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

fn host_of(node: usize) -> u8 {
    u8::try_from(node + 1).expect("a handful of nodes")
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

#[track_caller]
fn ip(arguments: &[&str]) {
    run(&mut command("ip", arguments), "").ok();
}
