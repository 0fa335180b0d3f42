//! Puts a node together: keys, snapshot and log, history, threads, peers, and the engine that
//! holds them. It starts nothing that answers a client; `node` does that.

use crate::auth::Authenticator;
use crate::board::Board;
use crate::ca;
use crate::certificates;
use crate::cluster::keeper;
use crate::cluster::service::Desk;
use crate::cluster::{Cluster, ClusterOutbox};
use crate::engine::{Engine, Role};
use crate::history::{HistoryThread, Start};
use crate::host::{ExecPolicy, Host};
use crate::identity::Identity;
use crate::jobfile;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::node::NodeError;
use crate::peer::{PeerTls, Peers};
use crate::proposer::{Proposer, Stamp};
use crate::settings::Settings;
use crate::threads::raft::ToRaft;
use crate::threads::start::{Recovered, Replica, Wiring};
use arc_swap::ArcSwap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tiebeam_proto::chain::Head;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What has to be stopped in order, at the end.
pub struct Parts {
    /// What the parts have in common.
    pub engine: Arc<Engine>,
    /// The threads around the replica.
    pub replica: Replica,
    /// The history.
    pub history: HistoryThread,
    /// The job files.
    pub job_files: jobfile::Projection,
    /// The raft thread's queue.
    pub raft: Sender<ToRaft>,
    /// Whether this node is certainly the only voter.
    pub alone: bool,
    /// Ends the connections to other members: they outlast the drain, which needs them.
    pub peers_end: CancellationToken,
}

/// Recovers, and starts threads, peers and the engine.
///
/// # Errors
/// See [`NodeError`].
pub fn assemble(data: PathBuf, identity: Identity, settings: Settings) -> Result<Parts, NodeError> {
    let (stored, host) = std::thread::scope(|scope| {
        // Thousands of small files, beside a few large ones.
        let host = scope.spawn(|| open_host(&data, &settings));
        (Stored::open(&data, &identity), host.join())
    });
    let Stored { keys, recovered, alone, history } = stored?;
    let host = host.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let board = Arc::new(Board::new(recovered.state().clone()));
    let metrics = Arc::new(Metrics::default());
    let tls =
        certificates::tls(&data, &keys, recovered.state()).map_err(NodeError::Certificates)?;
    let users = Arc::new(crate::users::StateUsers::new(board.clone()));
    let auth = Authenticator::new(users, keys.cluster.clone()).map_err(NodeError::Keys)?;
    let jobs_waiting = Arc::new(AtomicU64::new(0));
    let job_files = start_job_files(&data, &history, &jobs_waiting)?;
    let (to_raft, from_all) = channel();
    let (role, role_seen) = watch::channel(Role::default());
    let cluster = Arc::new(among_members(&identity, &settings, &board, role_seen));
    let desk = Arc::new(Desk::new(cluster.clone(), to_raft.clone()));
    let peers_end = CancellationToken::new();
    let peer_tls = Arc::new(peer_tls(&data, &keys)?);
    let dialled = Peers::start(peer_tls.clone(), cluster.clone(), desk.clone(), peers_end.clone());
    cluster.connect(dialled);
    let stamp = Arc::new(Stamp::default());
    let wiring = Wiring {
        board: board.clone(),
        history: history.handle.clone(),
        metrics: metrics.clone(),
        stamp: stamp.clone(),
        outbox: Arc::new(ClusterOutbox(cluster.clone())),
        queue: (to_raft.clone(), from_all),
        role,
    };
    let replica = recovered.start(&settings, wiring).map_err(NodeError::Replica)?;
    let node_id = identity.node_id;
    let engine = Arc::new(Engine {
        space: Arc::new(crate::space::Space::new(&data)),
        data,
        settings: ArcSwap::from_pointee(settings),
        keys,
        board,
        proposer: Proposer::new(Box::new(replica.inbox()), node_id, jobs_waiting.clone(), stamp),
        cluster,
        members_facts: ArcSwap::default(),
        role: replica.role(),
        history: history.history.clone(),
        history_thread: history.handle.clone(),
        job_files: job_files.metrics.clone(),
        host,
        auth,
        flight: Default::default(),
        volatile: crate::pipeline::volatile::VolatileResults::new(node_id),
        subscriptions: Default::default(),
        waiting: Default::default(),
        published: Default::default(),
        metrics,
        tls,
        peer_tls,
        stop: CancellationToken::new(),
        started: std::time::Instant::now(),
        identity,
    });
    desk.open(&engine);
    tokio::spawn(keeper::note_load(engine.clone(), jobs_waiting));
    keeper::report_each_batch(&engine);
    Ok(Parts { engine, replica, history, job_files, raft: to_raft, alone, peers_end })
}

/// What the data folder held.
struct Stored {
    keys: Arc<Keys>,
    recovered: Recovered,
    alone: bool,
    history: HistoryThread,
}

impl Stored {
    fn open(data: &Path, identity: &Identity) -> Result<Stored, NodeError> {
        let keys = Arc::new(Keys::load(data).map_err(NodeError::Keys)?);
        let recovered = Recovered::load(data, identity).map_err(NodeError::Replica)?;
        let alone = recovered.is_alone();
        let chain = recovered.state().chain;
        // A node alone never jumps: a history that ends before its State is damage.
        let start = match alone {
            true => Start::at(data, None),
            false => Start::behind(data, Head { index: chain.index, hash: chain.head }),
        };
        let history = HistoryThread::spawn(&start).map_err(NodeError::History)?;
        report_opening(&history);
        Ok(Stored { keys, recovered, alone, history })
    }
}

fn among_members(
    identity: &Identity,
    settings: &Settings,
    board: &Arc<Board>,
    role: watch::Receiver<Role>,
) -> Cluster {
    let (own, cluster_id) = (identity.raft_id(), identity.cluster_id.clone());
    Cluster::new(own, cluster_id, board.clone(), role, election_timeout(settings))
}

fn open_host(data: &Path, settings: &Settings) -> Result<Host, NodeError> {
    let program = std::env::current_exe().map_err(NodeError::Runtime)?;
    let (host, found) = Host::open(data, program, policy(settings)).map_err(NodeError::Host)?;
    tracing::info!(commands = found.len(), "command journal opened");
    Ok(host)
}

fn start_job_files(
    data: &Path,
    history: &HistoryThread,
    jobs_waiting: &Arc<AtomicU64>,
) -> Result<jobfile::Projection, NodeError> {
    jobfile::Projection::spawn(jobfile::Start {
        folder: data.join("jobs"),
        history: history.history.clone(),
        handle: history.handle.clone(),
        jobs_waiting: jobs_waiting.clone(),
        limits: jobfile::Limits::default(),
    })
    .map_err(NodeError::JobFiles)
}

/// The shortest time without a leader after which a member asks for an election.
fn election_timeout(settings: &Settings) -> Duration {
    let raft = &settings.raft;
    Duration::from_millis(u64::from(raft.tick_ms) * u64::from(raft.election_ticks))
}

fn peer_tls(data: &Path, keys: &Keys) -> Result<PeerTls, NodeError> {
    let own = |name: &str| {
        let read = ca::read_certificate(data, name);
        read.map_err(|error| NodeError::Certificates(certificates::CertificatesError::Read(error)))
    };
    let (node, authority) = (own(ca::NODE_CERTIFICATE)?, own(ca::CA_CERTIFICATE)?);
    PeerTls::new(&node, &keys.node_key, &authority).map_err(NodeError::Peers)
}

fn report_opening(history: &HistoryThread) {
    let opened = &history.opened;
    tracing::info!(
        newest = opened.last,
        torn_bytes = opened.torn_bytes,
        missing = ?opened.missing,
        index_rebuilt = opened.index_rebuilt.as_deref().unwrap_or("no"),
        "history opened"
    );
}

/// The settings' part about commands.
pub fn policy(settings: &Settings) -> ExecPolicy {
    ExecPolicy {
        enabled: settings.exec.enabled,
        allow: settings.exec.allow.iter().map(PathBuf::from).collect(),
        users: settings.exec.users.clone(),
        ..ExecPolicy::default()
    }
}
