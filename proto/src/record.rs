//! The records of the history: what is kept of a job, of an audit fact, of late evidence.
//!
//! A record's canonical form (RFC 8785 JSON, [`crate::canonical`]) is what the chain hashes
//! (ruling 15); the job file (wire.md section 8) is a rendering of it. So every value here has
//! the form that the file shows: times are RFC 3339 text, sizes are integers, nothing is a float
//! unless a user put it into a parameter or output.

use crate::{Kind, Outcome, time::Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The `format` that this version writes.
pub const FORMAT: u32 = 1;

/// One link of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Record {
    /// A job that reached its last stage.
    Job(Box<JobRecord>),
    /// A login, a denial, a change of rights, a read by an auditor (ruling 46).
    Audit(AuditRecord),
    /// What became known of a job after its record was final (rulings 11 and 15).
    Addendum(AddendumRecord),
}

/// Who asked, from where, and how the request looked (ruling 31).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestFacts {
    /// `json-rpc`, `xml-rpc`, `rest`, `ws`, or `internal`.
    pub protocol: String,
    /// The path, without its query.
    pub path: String,
    /// `address:port`, or `unix:<node>:<uid>:<pid>`.
    pub peer: String,
    /// The TLS session; absent on the unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFacts>,
    /// The `User-Agent` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Headers by allow-list; `authorization` as scheme and user.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The idempotency key.
    #[serde(default)]
    pub request_id: Option<String>,
    /// Size of the body in bytes.
    #[serde(default)]
    pub bytes: u64,
}

/// The TLS session of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: String,
    /// The suite's standard name.
    pub cipher: String,
    /// Subject of a verified client certificate.
    pub client_certificate: Option<String>,
}

/// How the job was to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// At once.
    #[default]
    Immediate,
    /// By a schedule.
    Scheduled,
    /// Plan only.
    DryRun,
}

/// What the scheduler noted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scheduling {
    /// Node id of the master that took the job.
    pub master: u32,
    /// Its term.
    pub term: u64,
    /// The locks, as `read path` or `write path`.
    pub locks: Vec<String>,
    /// The revision the plan was made against.
    pub base_revision: u64,
    /// Cluster time between submission and schedule.
    pub waited_us: u64,
}

/// When each stage was reached; a stage that was not is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// The job had an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted: Option<Time>,
    /// The scheduler accepted or declined it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Time>,
    /// The plan or the first command began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executed: Option<Time>,
    /// It ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// Its revision was applied by the awaited members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Time>,
}

/// One command of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// The key that the job gave, unique within the job.
    pub name: String,
    /// The node that ran it.
    pub node: u32,
    /// Start, by the node's clock.
    #[serde(default)]
    pub started: Option<Time>,
    /// End, by the node's clock.
    #[serde(default)]
    pub ended: Option<Time>,
    /// `ok`, `failed`, `timeout`, `cancelled`, `refused`, `indeterminate`, or `open`.
    pub result: String,
    /// First and last 32 KiB of what it printed (ruling 32).
    #[serde(default)]
    pub output: String,
    /// Size of the whole output.
    #[serde(default)]
    pub output_bytes: u64,
    /// SHA-256 of the whole output, hex; absent if it printed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_sha256: Option<String>,
    /// Whether `output` is not the whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Exit status, or minus the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Node clock minus master clock when it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_us: Option<i64>,
    /// How an `indeterminate` or `refused` was established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// The part of the result object that is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// As in the result object.
    pub result_code: i64,
    /// The error text of every outcome but ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_desc: Option<String>,
    /// What the job returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_output: Option<Value>,
    /// The revision it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_revision: Option<u64>,
    /// Warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub result_warnings: Vec<String>,
    /// The plan of a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_plan: Option<Value>,
}

/// One line of a configuration diff.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What happened at `path`.
    pub op: ChangeOp,
    /// An RFC 6901 pointer without its first slash.
    pub path: String,
    /// The value before; absent for `add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// The value after; absent for `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// What a line of a diff says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeOp {
    /// There was nothing here.
    Add,
    /// There is nothing here any more.
    Remove,
    /// Another value is here.
    Replace,
}

/// Which members had applied a change when it was committed (ruling 6).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodesApplied {
    /// Members that had.
    pub applied: Vec<u32>,
    /// Members that had not, with the reason (`offline` or `lagging`) per node id.
    pub pending: Vec<u32>,
    /// Why each pending member had not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<u32, String>,
}

/// Everything that is kept of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The id, `<node id>.<sequence>`.
    pub job: String,
    /// The job's name.
    pub name: String,
    /// What such a job may do.
    pub kind: Kind,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Who started it.
    pub user: String,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it was to run.
    pub mode: Mode,
    /// Its parameters, secrets withheld or as commitments (ruling 21).
    pub parameters: Map<String, Value>,
    /// What the salts of the commitments in this record were made from, with the cluster's key;
    /// absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// The request that started it.
    pub request: RequestFacts,
    /// What the scheduler noted.
    pub scheduling: Scheduling,
    /// When each stage was reached.
    pub stages: Stages,
    /// Its commands, in the order of their start.
    #[serde(default)]
    pub commands: Vec<CommandRecord>,
    /// What it returned.
    #[serde(default)]
    pub result: ResultRecord,
    /// What it changed, secrets as commitments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub change: Vec<Change>,
    /// Who had applied the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodesApplied>,
}

/// A fact about access (ruling 46).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// `login`, `login_failed`, `denied`, `rights_changed`, `auditor_read`, or `suppressed`.
    pub audit: String,
    /// Whom it is about; absent in sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What was asked for: a method, a job, an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// How many such facts this record stands for.
    pub count: u64,
    /// Time of the first.
    pub time: Time,
}

/// Late evidence about a job (ruling 15).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddendumRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The job it belongs to.
    pub addendum: String,
    /// When it became known.
    pub time: Time,
    /// The late result of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandRecord>,
    /// What else is to be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A record's place in the chain: SHA-256 as lower-case hex with the prefix `sha256:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainLink {
    /// The record's number; the first has 1.
    pub index: u64,
    /// The hash of the record before it.
    pub previous: String,
    /// Its own hash.
    pub this: String,
}

/// A record with its place, as apply hands it to the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Archived {
    /// Its place.
    pub link: ChainLink,
    /// RFC 8785 JSON of the record, without the link: the bytes that were hashed.
    pub canonical: std::sync::Arc<[u8]>,
}
