//! Peers over real sockets and real TLS, with certificates of the cluster's own CA.
//!
//! [`Site`] is the CA and the members' keys, [`Node`] a running end with a listener of its own and
//! a double of the daemon behind it. The tests are by subject: `frames`, `requests`, `entry`.

mod entry;
mod frames;
mod requests;

use super::*;
use crate::ca::tests::{CLUSTER, Pki};
use crate::ca::{key_hash, public_key};
use crate::front::handshake::PeerDoor;
use crate::identity::Identity;
use crate::secret::Secret;
use http_body_util::BodyExt;
use std::net::SocketAddr;
use std::time::SystemTime;
use tiebeam_proto::time::Time;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Members that were made so far, for their addresses.
static SEEDS: AtomicU64 = AtomicU64::new(1);
const YEAR_MICROS: i64 = 365 * 86_400 * 1_000_000;

pub fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    Time(i64::try_from(since.as_micros()).expect("before 300000"))
}

/// Waits until something is true.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What one member needs to run, and what the others know of it.
pub struct Seed {
    pub identity: Identity,
    pub key: Secret<String>,
    pub certificate: String,
    pub address: SocketAddr,
}

impl Seed {
    pub fn known(&self) -> PeerAddress {
        PeerAddress {
            raft_id: self.identity.raft_id(),
            key_hash: key_hash(&self.key).expect("a hash"),
            address: self.address.to_string(),
        }
    }
}

/// A cluster's CA.
pub struct Site(pub Pki);

impl Site {
    pub fn new() -> Site {
        Site(Pki::new())
    }

    /// A node's certificate, issued at `at`.
    pub fn issue(&self, identity: &Identity, key: &Secret<String>, at: Time) -> String {
        let hosts = ["127.0.0.1".to_owned()];
        let public = public_key(key).expect("a public key");
        self.0.authority().issue_node(&public, identity, &hosts, at).expect("a certificate")
    }

    /// A member with a key, a certificate and a port of its own.
    pub fn seed(&self, node_id: u32, incarnation: u32) -> Seed {
        let key = Pki::new().node_key;
        let name = format!("n{node_id}");
        let cluster_id = CLUSTER.to_owned();
        let identity = Identity { format: 1, cluster_id, node_id, incarnation, name };
        let certificate = self.issue(&identity, &key, now());
        // An address of its own: no other socket takes the port while the member is away.
        let [.., high, low] = SEEDS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let own = SocketAddr::from(([127, 77, high, low], 0));
        let listener = std::net::TcpListener::bind(own).expect("a port");
        let address = listener.local_addr().expect("an address");
        Seed { identity, key, certificate, address }
    }

    pub fn tls(&self, seed: &Seed) -> Arc<PeerTls> {
        let tls = PeerTls::new(&seed.certificate, &seed.key, &self.0.ca);
        Arc::new(tls.unwrap_or_else(|error| panic!("{}", crate::report::chain(&error))))
    }

    /// Members 1 to `count`, running and knowing each other.
    pub async fn cluster(&self, count: u32) -> Vec<Node> {
        let seeds: Vec<Seed> = (1..=count).map(|node| self.seed(node, 1)).collect();
        let known: Vec<PeerAddress> = seeds.iter().map(Seed::known).collect();
        let mut nodes = Vec::new();
        for seed in seeds {
            nodes.push(Node::start(self, seed, &known).await);
        }
        for node in &nodes {
            until("all streams", || node.others().iter().all(|id| node.peers.is_connected(*id)))
                .await;
            // The first of them dialled before the last one listened.
            node.inbox.unreachable.lock().expect("a lock").clear();
        }
        nodes
    }
}

/// The members, as a test wants them.
pub struct Book {
    pub members: Mutex<Vec<PeerAddress>>,
}

impl Directory for Book {
    fn cluster_id(&self) -> String {
        CLUSTER.to_owned()
    }

    fn members(&self) -> Vec<PeerAddress> {
        self.members.lock().expect("a lock").clone()
    }
}

/// The daemon's double: keeps frames, answers a request with its own body and who asked.
#[derive(Default)]
pub struct Inbox {
    pub frames: Mutex<Vec<(u64, u8, Bytes)>>,
    pub unreachable: Mutex<Vec<u64>>,
}

impl Inbox {
    pub fn count(&self) -> usize {
        self.frames.lock().expect("a lock").len()
    }

    pub fn outages(&self) -> Vec<u64> {
        self.unreachable.lock().expect("a lock").clone()
    }
}

impl PeerService for Inbox {
    fn frame(&self, from: u64, kind: u8, frame: Bytes) {
        self.frames.lock().expect("a lock").push((from, kind, frame));
    }

    fn unreachable(&self, peer: u64) {
        self.unreachable.lock().expect("a lock").push(peer);
    }

    fn request(
        &self,
        from: PeerId,
        request: http::Request<Incoming>,
    ) -> BoxFuture<'static, http::Response<BoxBody<Bytes, io::Error>>> {
        Box::pin(async move {
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            http::Response::builder()
                .header("from", from.node)
                .header("path", path)
                .body(Full::new(body).map_err(|never| match never {}).boxed())
                .expect("a response")
        })
    }
}

/// A running end.
pub struct Node {
    pub id: u64,
    pub seed: Seed,
    pub tls: Arc<PeerTls>,
    pub peers: Arc<Peers>,
    pub inbox: Arc<Inbox>,
    pub book: Arc<Book>,
    stop: CancellationToken,
    accepting: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Starts a node that knows `known`, among which it may be itself.
    pub async fn start(site: &Site, seed: Seed, known: &[PeerAddress]) -> Node {
        let listener = TcpListener::bind(seed.address).await.expect("the port");
        let mut node = Node::closed(site, seed, known);
        node.accepting = tokio::spawn(accept(listener, node.peers.door()));
        node
    }

    /// As [`Node::start`], without a listener of its own.
    pub fn closed(site: &Site, seed: Seed, known: &[PeerAddress]) -> Node {
        let id = seed.identity.raft_id();
        let others = known.iter().filter(|one| one.raft_id != id).cloned().collect();
        let book = Arc::new(Book { members: Mutex::new(others) });
        let (tls, inbox, stop) = (site.tls(&seed), Arc::<Inbox>::default(), Default::default());
        let (directory, service) = (Arc::clone(&book) as _, Arc::clone(&inbox) as _);
        let peers =
            Peers::start(Arc::clone(&tls), directory, service, CancellationToken::clone(&stop));
        let accepting = tokio::spawn(std::future::ready(()));
        Node { id, seed, tls, peers, inbox, book, stop, accepting }
    }

    /// Ends everything of this node, as if its process had ended.
    pub async fn end(self) -> Seed {
        self.accepting.abort();
        let _aborted = self.accepting.await;
        self.stop.cancel();
        self.seed
    }

    pub fn others(&self) -> Vec<u64> {
        self.book.members().iter().map(|member| member.raft_id).collect()
    }

    pub fn know(&self, members: Vec<PeerAddress>) {
        *self.book.members.lock().expect("a lock") = members;
        self.peers.refresh();
    }

    pub fn refused(&self) -> u64 {
        self.peers.counters().refused.load(Ordering::Relaxed)
    }
}

/// As the front does it.
async fn accept(listener: TcpListener, door: Arc<Door>) {
    while let Ok((stream, address)) = listener.accept().await {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await;
        if let Ok(hello) = hello {
            door.enter(hello, address);
        }
    }
}

/// A connection to a node as anybody can make one, with any certificate or none.
pub async fn knock(
    site: &Site,
    address: SocketAddr,
    with: Option<(&str, &Secret<String>)>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in crate::certificate::chain_from_pem(&site.0.ca, "ca").expect("a CA") {
        roots.add(authority).expect("an authority");
    }
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(crate::certificate::provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
    let mut config = match with {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = crate::certificate::chain_from_pem(certificate, "cert").expect("a chain");
            let key = crate::certificate::certified_key(key, chain).expect("a pair");
            let key = Arc::new(rustls::sign::SingleCertAndKey::from(key));
            config.with_client_cert_resolver(key)
        }
    };
    config.alpn_protocols = vec![crate::front::tls::ALPN_PEER.to_vec()];
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").expect("a name");
    let tcp = TcpStream::connect(address).await?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}
