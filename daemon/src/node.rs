//! A running node: recovery, the threads, the tasks, the front, and the way down.
//!
//! Start: lock the folder, load keys and settings, load the newest snapshot, open the history and
//! the log, start the threads, wait until what was committed is applied, then listen. Stop (ruling
//! 1): close the listeners, hand over, let every open request get its answer, sync, exit 0.

use crate::assembly::{Parts, assemble};
use crate::blobs;
use crate::certificates::{self, CertificatesError};
use crate::cluster::{catch_up, install, keeper, remote};
use crate::damaged::Damaged;
use crate::engine::Engine;
use crate::front::tls::TlsState;
use crate::front::{Front, FrontError, Listening};
use crate::history::HistoryError;
use crate::host::HostError;
use crate::hygiene::{self, HygieneError};
use crate::identity::{Identity, IdentityError};
use crate::keys::{KeyError, Keys};
use crate::pipeline::{agent, conductor, world};
use crate::service::Node;
use crate::settings::{Settings, SettingsError};
use crate::threads::raft::ToRaft;
use crate::threads::start::ReplicaError;
use crate::{assembly, publish, renewal, report, retention};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use tiebeam_core::proposal::Body;
use tiebeam_replica::recovery::RecoveryError;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The unix socket below the data folder.
pub const SOCKET: &str = "tiebeam.sock";
/// How often collected audit facts are proposed.
const AUDIT_EVERY: Duration = Duration::from_secs(5);
/// How often they are offered to a master, and the pause between two times.
const AUDIT_TRIES: u32 = 6;
const AUDIT_AGAIN: Duration = Duration::from_millis(500);
/// How often the room on the disk is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a first leader at the start.
const FIRST_LEADER_WAIT: Duration = Duration::from_secs(10);
/// Time for answers that were given to members at the very end to leave this node.
const LAST_ANSWERS_WAIT: Duration = Duration::from_millis(100);

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The process or the folder is not as it must be.
    #[error("this node cannot start")]
    Hygiene(#[source] HygieneError),
    /// There is no identity.
    #[error("{} is no node's data folder: make one with tiebeamd init", .0.display())]
    Identity(PathBuf, #[source] IdentityError),
    /// The settings are wrong.
    #[error("the settings are wrong")]
    Settings(#[source] SettingsError),
    /// The keys cannot be used.
    #[error("the keys cannot be used")]
    Keys(#[source] KeyError),
    /// The certificates cannot be used.
    #[error("the certificates cannot be used")]
    Certificates(#[source] CertificatesError),
    /// Snapshot or log cannot be used.
    #[error("the replicated state cannot be recovered")]
    Replica(#[source] ReplicaError),
    /// The history cannot be used.
    #[error("the history cannot be opened")]
    History(#[source] HistoryError),
    /// The command journal cannot be used.
    #[error("the command journal cannot be opened")]
    Host(#[source] HostError),
    /// The node certificate cannot be used towards peers.
    #[error("the node certificate cannot be used towards other nodes")]
    Peers(#[source] crate::peer::PeerTlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(std::net::SocketAddr, #[source] std::io::Error),
    /// The front cannot serve.
    #[error("cannot serve")]
    Front(#[source] FrontError),
    /// The runtime or a signal handler cannot be made.
    #[error("the runtime cannot start")]
    Runtime(#[source] std::io::Error),
    /// The log lost its end: what is in the history had been in the log before.
    #[error(
        "the log in {} has lost its end: the history has records up to {history}, snapshot and \
         log only up to {chain}; going on would give the lost ids and revisions away again",
        .data.display()
    )]
    LogLost {
        /// The data folder.
        data: PathBuf,
        /// The newest record of the history.
        history: u64,
        /// The newest record of State.
        chain: u64,
    },
    /// No leader was elected, although this node is the only voter.
    #[error("this node did not become the master of its own cluster")]
    NoLeader,
    /// The job files' thread cannot be started.
    #[error("the job files cannot be written")]
    JobFiles(#[source] std::io::Error),
}

impl NodeError {
    /// Whether what is kept is damaged, so that trying again is of no use and the node must say
    /// what it found.
    fn is_damage(&self) -> bool {
        match self {
            NodeError::LogLost { .. } => true,
            NodeError::History(error) => {
                matches!(error, HistoryError::Damaged { .. } | HistoryError::Forked { .. })
            }
            NodeError::Replica(ReplicaError::Recover(error)) => matches!(
                error,
                RecoveryError::Damaged { .. }
                    | RecoveryError::LogLost { .. }
                    | RecoveryError::SnapshotLost { .. }
            ),
            NodeError::Replica(ReplicaError::State(error)) => !error.is_newer(),
            _ => false,
        }
    }
}

/// Runs a node until SIGTERM or Ctrl-C.
///
/// # Errors
/// See [`NodeError`].
pub fn run(data: &Path, flags: &[(String, String)]) -> Result<(), NodeError> {
    hygiene::harden().map_err(NodeError::Hygiene)?;
    let data = std::path::absolute(data).map_err(NodeError::Runtime)?;
    let identity =
        Identity::read(&data).map_err(|error| NodeError::Identity(data.clone(), error))?;
    let _lock = hygiene::take_folder(&data).map_err(NodeError::Hygiene)?;
    let flags: Vec<(&str, String)> =
        flags.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let settings =
        Settings::load(&data, std::env::vars_os(), &flags).map_err(NodeError::Settings)?;
    crate::logging::start(&settings);
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().min(8));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(NodeError::Runtime)?;
    runtime.block_on(serve(data, identity, settings, flags))
}

async fn serve(
    data: PathBuf,
    identity: Identity,
    settings: Settings,
    flags: Vec<(&str, String)>,
) -> Result<(), NodeError> {
    let parts = match assemble(data.clone(), identity.clone(), settings.clone()) {
        Err(error) if error.is_damage() => {
            return stay_up(&data, &identity, settings, &error).await;
        }
        parts => parts?,
    };
    let engine = parts.engine.clone();
    if parts.alone {
        wait_for_leader(&engine).await?;
        if let Err(error) = compare_history(&engine).await {
            stop(parts).await;
            return match error.is_damage() {
                true => stay_up(&data, &identity, settings, &error).await,
                false => Err(error),
            };
        }
        engine.cluster.note_caught_up();
    }
    let service = Arc::new(Node(engine.clone()));
    let front = Front::new(service).map_err(NodeError::Front)?;
    if let Some(peers) = engine.cluster.peers() {
        front.open_to_peers(peers.door());
    }
    let ssl_revision = certificates::catch_up(&engine).map_err(NodeError::Certificates)?;
    let settings = engine.settings.load_full();
    let listening = listen(&engine.data, &settings, &engine.tls, &front).await?;
    spawn_tasks(&engine, &parts.raft);
    tokio::spawn(certificates::follow(engine.clone(), ssl_revision));
    notify("READY=1");
    tokio::spawn(tell_status(engine.clone()));
    tracing::info!(
        node = engine.identity.node_id,
        listen = %engine.settings.load().listen,
        applied = engine.board.state().applied,
        "ready"
    );
    wait_for_signal(|| reload(&engine, &flags)).await?;
    notify("STOPPING=1");
    for one in &listening {
        one.close();
    }
    // Who waits for a call to end is better served by the next master. It takes peers to hand over,
    // and to learn from the log what became of the calls that are on their way (ruling 1).
    hand_over(&engine).await;
    engine.stop.cancel();
    // From now on it reports nothing any more: nobody is to wait for that.
    engine.cluster.leave(keeper::report_now(&engine));
    front.drain().await;
    stop(parts).await;
    Ok(())
}

/// Gives leadership to another voter, if there is one that takes it.
async fn hand_over(engine: &Engine) {
    let successors = keeper::successors(&engine.cluster, &engine.board.state());
    if !engine.role.borrow().leads || successors.is_empty() {
        return;
    }
    let begun = Instant::now();
    let given = world::hand_over(engine, &[]).await.is_ok();
    tracing::info!(given, took_ms = begun.elapsed().as_millis(), "leadership handed over");
}

/// Tells systemd what this node is, as it changes (ruling 45).
async fn tell_status(engine: Arc<Engine>) {
    let mut role = engine.role.clone();
    loop {
        let now = *role.borrow_and_update();
        let state = engine.board.state();
        let voters = state.voters().count();
        let seen = state.voters().filter(|(_, one)| engine.cluster.is_online(one.raft_id)).count();
        let status = match (now.leads, now.leader) {
            (true, _) if voters == 1 => format!("STATUS=master of one voter, term {}", now.term),
            (true, _) => format!("STATUS=master of {voters} voters, term {}", now.term),
            (false, Some(leader)) => format!("STATUS=follows node {}", leader >> 16),
            (false, None) => format!("STATUS=waiting for a master ({seen} of {voters} seen)"),
        };
        notify(&status);
        tokio::select! {
            changed = role.changed() => if changed.is_err() { return },
            () = engine.stop.cancelled() => return,
        }
    }
}

fn notify(state: &str) {
    for line in state.lines() {
        let state = match line.split_once('=') {
            Some(("READY", _)) => sd_notify::NotifyState::Ready,
            Some(("STOPPING", _)) => sd_notify::NotifyState::Stopping,
            Some((_, text)) => sd_notify::NotifyState::Status(text),
            None => continue,
        };
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[state]);
    }
}

async fn wait_for_leader(engine: &Arc<Engine>) -> Result<(), NodeError> {
    let mut role = engine.role.clone();
    let led = async {
        loop {
            let now = *role.borrow_and_update();
            if now.leads {
                break;
            }
            if role.changed().await.is_err() {
                break;
            }
        }
        // The first entry of the own term: whatever was committed before is applied with it.
        while !engine.is_master() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(FIRST_LEADER_WAIT, led).await.map_err(|_| NodeError::NoLeader)
}

/// Refuses a history that is ahead of the log. An entry is applied only when the own log has it
/// durably, so there is one way to get there: a part of the log was lost as a whole, which leaves
/// no damaged byte behind.
async fn compare_history(engine: &Arc<Engine>) -> Result<(), NodeError> {
    // The history first: State is confirmed to be newer than what was looked at.
    let history = engine.history.newest();
    let Ok(state) = engine.confirmed_state().await else { return Err(NodeError::NoLeader) };
    let chain = state.chain.index;
    if history > chain {
        return Err(NodeError::LogLost { data: engine.data.clone(), history, chain });
    }
    Ok(())
}

/// A node that found damage serves `/health`, `/metrics` and one status call until it is stopped
/// (ruling 45).
async fn stay_up(
    data: &Path,
    identity: &Identity,
    settings: Settings,
    error: &NodeError,
) -> Result<(), NodeError> {
    let found = report::chain(error);
    tracing::error!(found, "this node found damage: it serves nothing but its health");
    let keys = Keys::load(data).map_err(NodeError::Keys)?;
    // Without a State that can be trusted it shows its own certificate.
    let own = tiebeam_core::State::default();
    let tls = certificates::tls(data, &keys, &own).map_err(NodeError::Certificates)?;
    let status = format!("READY=1\nSTATUS=damaged: {found}");
    let front = Front::new(Arc::new(Damaged { node_id: identity.node_id, found }))
        .map_err(NodeError::Front)?;
    let listening = listen(data, &settings, &tls, &front).await?;
    notify(&status);
    wait_for_signal(|| {}).await?;
    notify("STOPPING=1");
    for one in &listening {
        one.close();
    }
    front.drain().await;
    Ok(())
}

async fn listen(
    data: &Path,
    settings: &Settings,
    tls: &Arc<TlsState>,
    front: &Front,
) -> Result<Vec<Listening>, NodeError> {
    let address = settings.listen;
    let bound = TcpListener::bind(address).await;
    let listener = bound.map_err(|error| NodeError::Listen(address, error))?;
    let mut listening = vec![front.serve_tls(listener, tls.clone())];
    if let Some(address) = settings.metrics.listen {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|error| NodeError::Listen(address, error))?;
        listening.push(front.serve_metrics(listener));
    }
    let socket = data.join(SOCKET);
    listening.push(front.serve_unix(&socket).map_err(NodeError::Front)?);
    share_socket(&settings.unix_socket.group, data, &socket);
    Ok(listening)
}

/// Gives the socket, and the way to it, to its group, if there is such a group and this process
/// may. The group passes through the data folder; it can list and read nothing else there.
fn share_socket(group: &str, data: &Path, socket: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(Some(group)) = nix::unistd::Group::from_name(group) else { return };
    let shared = nix::unistd::chown(socket, None, Some(group.gid))
        .and_then(|()| nix::unistd::chown(data, None, Some(group.gid)))
        .map_err(std::io::Error::from)
        .and_then(|()| std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o710)));
    if let Err(error) = shared {
        tracing::warn!(group = group.name, %error, "the socket stays with the daemon's group");
    }
}

fn spawn_tasks(engine: &Arc<Engine>, raft: &Sender<ToRaft>) {
    tokio::spawn(keeper::catch_up(engine.clone()));
    tokio::spawn(keeper::keep(engine.clone(), raft.clone()));
    tokio::spawn(keeper::tell_histories(engine.clone(), raft.clone()));
    tokio::spawn(catch_up::from_members(engine.clone()));
    tokio::spawn(blobs::tend::tend(engine.clone()));
    tokio::spawn(keeper::ask_facts(engine.clone()));
    tokio::spawn(renewal::keep(engine.clone()));
    tokio::spawn(install::fetch_snapshots(
        engine.cluster.clone(),
        engine.data.clone(),
        raft.clone(),
        engine.stop.clone(),
    ));
    tokio::spawn(conductor::conduct(engine.clone()));
    tokio::spawn(agent::tend(engine.clone()));
    tokio::spawn(agent::sweep(engine.clone()));
    tokio::spawn(publish::publish(engine.clone()));
    tokio::spawn(keep_audit(engine.clone()));
    tokio::spawn(measure_space(engine.clone()));
    tokio::spawn(retention::watch(engine.clone()));
}

async fn measure_space(engine: Arc<Engine>) {
    loop {
        let disk = engine.settings.load().disk.clone();
        let given_back = engine.space.measure(&disk);
        engine.metrics.short_of_room.store(!engine.space.is_enough(), Ordering::Relaxed);
        if given_back {
            // The log before a snapshot can go; and whoever has room should be the master.
            engine.proposer.take_snapshot();
            engine.proposer.transfer(None);
        }
        tokio::select! {
            () = tokio::time::sleep(MEASURE_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

async fn keep_audit(engine: Arc<Engine>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(AUDIT_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
        propose_audit(&engine, engine.auth.drain_audit()).await;
    }
}

async fn propose_audit(engine: &Engine, facts: Vec<tiebeam_proto::record::AuditRecord>) {
    if facts.is_empty() {
        return;
    }
    for _ in 0..AUDIT_TRIES {
        if remote::propose(engine, Body::Audit(facts.clone())).await {
            return;
        }
        tokio::time::sleep(AUDIT_AGAIN).await;
    }
    tracing::warn!(count = facts.len(), "audit facts are lost: there is no master to tell");
}

/// Waits for SIGTERM or Ctrl-C; SIGHUP calls `reload`.
async fn wait_for_signal(reload: impl Fn()) -> Result<(), NodeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(NodeError::Runtime)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(NodeError::Runtime)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = hangup.recv() => reload(),
        }
    }
}

fn reload(engine: &Engine, flags: &[(&str, String)]) {
    let new = match Settings::load(&engine.data, std::env::vars_os(), flags) {
        Ok(new) => new,
        Err(error) => {
            tracing::error!(error = %report::chain(&error), "settings not read again");
            return;
        }
    };
    let change = crate::settings::reload::reload(&engine.settings.load(), &new);
    engine.host.set_policy(assembly::policy(&change.settings));
    crate::logging::follow(&change.settings);
    engine.settings.store(Arc::new(change.settings));
    tracing::info!(applied = ?change.applied, needs_restart = ?change.restart, "settings");
}

/// The way down, after the front has drained.
async fn stop(parts: Parts) {
    let Parts { engine, replica, history, job_files, peers_end, .. } = parts;
    propose_audit(&engine, engine.auth.drain_audit_all()).await;
    if !engine.cluster.others().is_empty() {
        // Calls that other nodes passed on were answered when the drain began.
        tokio::time::sleep(LAST_ANSWERS_WAIT).await;
    }
    peers_end.cancel();
    let ended = tokio::task::spawn_blocking(move || {
        replica.stop();
        job_files.stop();
        history.stop()
    });
    match ended.await {
        Ok(Ok(())) => tracing::info!("stopped"),
        Ok(Err(error)) => tracing::error!(error = %report::chain(&error), "history not closed"),
        Err(_) => tracing::error!("a thread could not be stopped"),
    }
}

/// Whether the node behind a unix socket says that it is ready.
pub fn is_ready(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let timeout = Some(Duration::from_secs(2));
    if stream.set_read_timeout(timeout).is_err() {
        return false;
    }
    let request = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}
