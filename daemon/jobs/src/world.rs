//! The outside as a job function may ask for it. The daemon implements it; tests have their own.

use crate::error::JobError;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;
use tiebeam_core::declaration::Params;
use tiebeam_core::{Path, State, Tree};
use tiebeam_proto::record::{CommandRecord, JobRecord};
use tiebeam_proto::time::Time;

/// A command that a job wants run on a node.
#[derive(Clone, Debug, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct CommandWish {
    /// Unique within the job, never a running number: `run-n12`, `restart-n11`.
    pub key: String,
    /// The node that is to run it.
    pub node: u32,
    /// Program and arguments; never through a shell.
    pub argv: Vec<String>,
    /// The OS user it runs as; `None` for the first of the node's `exec.users`.
    #[serde(default)]
    pub user: Option<String>,
    /// Its working folder.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Variables added to its clean environment.
    #[serde(default)]
    pub env: std::collections::BTreeMap<String, String>,
    /// What it reads on standard input.
    #[serde(default)]
    pub stdin: String,
    /// Seconds it may take.
    pub timeout_s: u64,
    /// Bytes of output that are kept; `None` for the node's own limit.
    #[serde(default)]
    pub output_bytes_max: Option<u64>,
    /// Whether it is one of the daemon's own programs (systemctl, journalctl): run as the daemon's
    /// user and not subject to `exec.allow`, which is for what callers name.
    #[serde(default)]
    pub own: bool,
}

/// A secret after sealing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecret {
    /// The sealed text.
    pub text: String,
    /// The commitment that users see, `sha256:…`.
    pub digest: String,
}

/// A secret that is derived, not stored (ruling 26).
#[derive(Clone, Debug)]
pub struct DerivedSecret {
    /// Hex SHA-256 of the secret's bytes: what State keeps and what `user_init` compares.
    pub hash: String,
    /// The nonce to keep.
    pub nonce: String,
}

/// A certificate that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedCertificate {
    /// Its facts: subject, names, validity, fingerprint, issuer.
    pub facts: Value,
    /// What is worth a warning.
    pub warnings: Vec<String>,
}

/// What `cert_update` hands over for checking.
#[derive(Clone, Debug, Default)]
pub struct CertificateOffer {
    /// The private key, PEM.
    pub key: String,
    /// The certificate or chain, PEM.
    pub cert: String,
    /// The authority, PEM.
    pub ca: Option<String>,
    /// Hosts of the members' advertised addresses, all of which it must cover.
    pub names: Vec<String>,
    /// Whether the chain is checked against `ca` or the cluster's authority.
    pub verify: bool,
    /// Whether names may be missing.
    pub force: bool,
}

/// What `debug_collect` wants gathered.
#[derive(Clone, Debug)]
pub struct DebugWish {
    /// Of which nodes.
    pub nodes: Vec<u32>,
    /// From then on; a day back, if nobody says.
    pub from: Option<Time>,
    /// Up to then; now, if nobody says.
    pub to: Option<Time>,
    /// Seconds that a node gets to answer.
    pub timeout_s: u64,
}

/// A part of a job that is a job of its own: for changes of which one job makes one only.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its name.
    pub job: &'static str,
    /// Its parameters.
    pub params: Params,
    /// Unique within the job that it is a part of, never a running number.
    pub key: String,
    /// Seconds that it may take.
    pub deadline_s: u64,
}

/// What was gathered.
#[derive(Clone, Debug)]
pub struct DebugFound {
    /// The archive, on the master.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Nodes that are not in it, and why.
    pub failed: Vec<(u32, String)>,
}

/// The outside of a job function.
pub trait World: Send + Sync {
    /// The node this runs on and its term as master.
    fn master(&self) -> (u32, u64);
    /// The wall clock, for display only. A job of the long path gets the time of its start, so that
    /// a re-run sees the same.
    fn now(&self) -> Time;
    /// By how many microseconds the wall clock of this node is off, if it is suspect (ruling 22).
    fn clock_off_us(&self) -> Option<i64>;
    /// Hashes a password (argon2id), off the async threads.
    fn hash_password(&self, password: String) -> BoxFuture<'static, Result<String, JobError>>;
    /// Checks a hash that a migration brings; the error says what is accepted.
    fn check_ready_hash(&self, hash: &str) -> Result<(), JobError>;
    /// Seals a secret value that is to stand at `place`.
    fn seal(&self, place: &Path, value: &Value) -> Result<SealedSecret, JobError>;
    /// Derives a secret for `subject`; the caller of the job gets it, nobody stores it.
    fn derive(&self, purpose: &str, subject: &str) -> DerivedSecret;
    /// Records of jobs that made a revision below `below` (or all), newest first, at most `limit`;
    /// jobs that are not archived yet are among them.
    fn revisions(&self, below: Option<u64>, limit: usize) -> Result<Vec<Arc<JobRecord>>, JobError>;
    /// The record of the job that made `revision`; `None` for the first revision of a cluster.
    fn revision(&self, revision: u64) -> Result<Option<Arc<JobRecord>>, JobError>;
    /// The configuration at a kept revision.
    fn tree_at(&self, revision: u64) -> Result<Tree, JobError>;
    /// What is known of a node that answers: version, applied index, uptime, load, disk, …
    fn node_facts(&self, node: u32) -> Value;
    /// `online`, `offline`, `joining`; a suspended node is told from the configuration.
    fn node_state(&self, node: u32) -> &'static str;
    /// When a node booted, if known, as RFC 3339.
    fn node_booted(&self, node: u32) -> Option<String>;
    /// Health of the cluster as this node sees it: `{"ok": bool, …}`.
    fn health(&self) -> Value;
    /// Waits until `node` has published at least `revision`; false after `timeout_s`.
    fn wait_published(&self, node: u32, revision: u64, timeout_s: u64) -> BoxFuture<'static, bool>;
    /// Checks a certificate before it is used.
    fn check_certificate(&self, offer: &CertificateOffer) -> Result<CheckedCertificate, JobError>;
    /// The certificates in use: of clients' port, of this node, of the cluster's authority.
    fn certificates(&self) -> Value;
    /// Verifies the whole kept history against the chain.
    fn verify_history(&self) -> BoxFuture<'static, Result<Value, JobError>>;
    /// Runs a command (ruling 9): intent, start, result, each durable. Returns its recorded result
    /// at once if it has one.
    fn command(&self, wish: CommandWish) -> BoxFuture<'static, Result<CommandRecord, JobError>>;
    /// What an earlier run of this job recorded under this key, on whichever master (ruling 10).
    fn recorded(&self, key: &str) -> Option<Value>;
    /// Records what was decided by something else than the job's inputs, for every later run.
    /// Returns what is recorded: the first value counts.
    ///
    /// # Errors
    /// It cannot be recorded any more: whatever this run comes to is lost.
    fn record(&self, key: &str, value: Value) -> BoxFuture<'static, Result<Value, JobError>>;
    /// Runs a part for the same caller and waits for its end: its record. It is started once by its
    /// key, however often this job runs again. If this job is cancelled or its deadline passes, the
    /// part is cancelled and the next one is not started.
    ///
    /// # Errors
    /// It made no job.
    fn part(&self, part: Part) -> BoxFuture<'static, Result<Arc<JobRecord>, JobError>>;
    /// SHA-256 of the certificate of the cluster's authority, hex: what a token to join carries.
    fn ca_fingerprint(&self) -> Result<String, JobError>;
    /// The newest State, for jobs that wait for something: what a job decides comes from the State
    /// that it was given.
    fn newest(&self) -> Arc<State>;
    /// Whether a member has applied nearly everything that this node has: what makes a voter of it
    /// costs the others nothing.
    fn caught_up(&self, node: u32) -> bool;
    /// Waits. Jobs count their pauses: they have no clock.
    fn pause(&self, milliseconds: u64) -> BoxFuture<'static, ()>;
    /// The node that was the master when the job was submitted.
    fn submitted_to(&self) -> u32;
    /// Hands leadership to the first of these members that takes it, or, if none is named, to the
    /// voter that is furthest. The error says why nobody took it; without one this node leads no
    /// more, the job goes on on the new master from its start, and whatever this run comes to is
    /// lost.
    fn hand_over(&self, to: &[u32]) -> BoxFuture<'static, Result<(), JobError>>;
    /// Gathers what helps to find a fault into one archive, without secrets.
    fn collect_debug(&self, wish: DebugWish) -> BoxFuture<'static, Result<DebugFound, JobError>>;
    /// Tells how far the job is; best effort.
    fn progress(&self, percent: u8, text: &str);
}
