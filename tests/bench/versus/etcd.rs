//! Three members of etcd with TLS for clients and peers.

use crate::grpc::{self, Connection};
use crate::process::Process;
use crate::{Outcome, sum_up};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::TlsConnector;

/// Puts of key and value.
pub const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The members, by place 0 to 2.
pub struct Etcd {
    folder: PathBuf,
    processes: Vec<Process>,
    tls: TlsConnector,
}

/// Where a member takes clients.
pub fn address(nth: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 79, 11 + nth as u8], 2379))
}

/// The message of a put.
pub fn put(client: usize, number: usize) -> Vec<u8> {
    let mut message = grpc::field(1, format!("bench/c{client}").as_bytes());
    message.extend(grpc::field(2, format!("{number:0128}").as_bytes()));
    message
}

impl Etcd {
    /// Makes and starts them.
    pub async fn start(folder: &Path) -> Etcd {
        let folder = folder.join("etcd");
        std::fs::create_dir_all(&folder).expect("the folder is writable");
        let tls = certificates(&folder);
        let mut etcd = Etcd { folder, processes: Vec::new(), tls };
        for nth in 0..3 {
            let process = etcd.spawn(nth);
            etcd.processes.push(process);
        }
        etcd.leader().await;
        etcd
    }

    fn spawn(&self, nth: usize) -> Process {
        let client = |nth: usize| format!("https://{}", address(nth));
        let peer = |nth: usize| format!("https://{}:2380", address(nth).ip());
        let all: Vec<String> = (0..3).map(|nth| format!("e{nth}={}", peer(nth))).collect();
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("e{nth}"), "--data-dir", &file(&format!("e{nth}"))])
            .args(["--listen-client-urls", &client(nth), "--advertise-client-urls", &client(nth)])
            .args(["--listen-peer-urls", &peer(nth), "--initial-advertise-peer-urls", &peer(nth)])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
            .args(["--cert-file", &file("node.crt"), "--key-file", &file("node.key")])
            .args(["--client-cert-auth", "--trusted-ca-file", &file("ca.crt")])
            .args(["--peer-cert-file", &file("node.crt"), "--peer-key-file", &file("node.key")])
            .args(["--peer-client-cert-auth", "--peer-trusted-ca-file", &file("ca.crt")])
            .args(["--quota-backend-bytes", "2147483648", "--logger", "zap"])
            .args(["--log-level", "warn", "--heartbeat-interval", "100"])
            .args(["--election-timeout", "1000"]);
        Process::start(&mut command, &self.folder.join(format!("e{nth}.log")))
    }

    /// A connection to one.
    pub async fn connect(&self, nth: usize) -> std::io::Result<Connection> {
        Connection::open(&self.tls, address(nth)).await
    }

    /// What connects.
    pub fn tls(&self) -> TlsConnector {
        self.tls.clone()
    }

    /// The leader's place.
    pub async fn leader(&self) -> usize {
        let begin = Instant::now();
        loop {
            for nth in 0..3 {
                let Ok(mut connection) = self.connect(nth).await else { continue };
                let Ok(answer) = connection.call(STATUS, &[]).await else { continue };
                let fields = grpc::fields(&answer);
                let header = fields.iter().find(|(number, ..)| *number == 1).map(|f| &f.2);
                let own = header.and_then(|header| {
                    grpc::fields(header).into_iter().find(|(number, ..)| *number == 2)
                });
                let leader = fields.iter().find(|(number, ..)| *number == 4).map(|f| f.1);
                if own.is_some_and(|own| Some(own.1) == leader) {
                    return nth;
                }
            }
            assert!(begin.elapsed() < PATIENCE, "etcd has no leader");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// kill -9 of one.
    pub fn kill(&mut self, nth: usize) {
        self.processes[nth].kill();
    }

    /// Starts one that was killed.
    pub fn restart(&mut self, nth: usize) {
        self.processes[nth] = self.spawn(nth);
    }

    /// CPU time of all of them so far, in milliseconds.
    fn cpu_ms(&self) -> u64 {
        self.processes.iter().map(Process::cpu_ms).sum()
    }

    /// Drives the leader with `clients` clients: puts, or linearizable gets.
    pub async fn run(&self, reads: bool, clients: usize, length: Duration) -> Outcome {
        let leader = self.leader().await;
        let mut tasks = Vec::new();
        let before = self.cpu_ms();
        for client in 0..clients {
            let mut connection = self.connect(leader).await.expect("the leader listens");
            tasks.push(tokio::spawn(async move {
                let (mut times, mut errors) = (Vec::new(), 0);
                let begin = Instant::now();
                while begin.elapsed() < length {
                    let (path, message) = match reads {
                        true => (RANGE, grpc::field(1, b"bench/c0")),
                        false => (PUT, put(client, times.len())),
                    };
                    let one = Instant::now();
                    errors += usize::from(connection.call(path, &message).await.is_err());
                    times.push(one.elapsed());
                }
                (times, errors)
            }));
        }
        let mut parts = Vec::new();
        for task in tasks {
            parts.push(task.await.expect("a client runs to its end"));
        }
        let spent = self.cpu_ms() - before;
        sum_up(parts, length).with_cpu(spent)
    }
}

/// One CA and one certificate for members and clients.
fn certificates(folder: &Path) -> TlsConnector {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("a CA");
    let issuer = Issuer::new(ca, ca_key);
    // A member checks the address that a peer comes from, which is the machine's first one.
    let mut names: Vec<String> = (0..3).map(|nth| address(nth).ip().to_string()).collect();
    names.push("127.0.0.1".to_owned());
    let key = KeyPair::generate().expect("a key");
    let mut node = CertificateParams::new(names).expect("addresses");
    node.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = node.signed_by(&key, &issuer).expect("a certificate");
    for (name, text) in [
        ("ca.crt", ca_certificate.pem()),
        ("node.crt", certificate.pem()),
        ("node.key", key.serialize_pem()),
    ] {
        std::fs::write(folder.join(name), text).expect("the folder is writable");
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).expect("a CA");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate.der().clone()], key)
        .expect("certificate and key fit");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}
