//! The records of the history: what is kept of a job, of an audit fact, of late evidence.
//!
//! A record's canonical form (RFC 8785 JSON, [`crate::canonical`]) is what the chain hashes
//! (ruling 15); the job file (wire.md section 8) is a rendering of it. So every value here has
//! the form that the file shows: times are RFC 3339 text, sizes are integers, nothing is a float
//! unless a user put it into a parameter or output. What does not change any more while a job goes
//! from stage to stage is shared: State keeps several versions of a record for a while. Fields
//! stand in alphabetical order, which is their canonical one ([`crate::canonical::of_sorted`]).

use crate::{Kind, Outcome, time::Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// The whole configuration at a revision, so that looking back needs few diffs.
    Tree(TreeRecord),
}

/// Who asked, from where, and how the request looked (ruling 31).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestFacts {
    /// Size of the body in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// Headers by allow-list; `authorization` as scheme and user.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The path, without its query.
    pub path: String,
    /// `address:port`, or `unix:<node>:<uid>:<pid>`.
    pub peer: String,
    /// `json-rpc`, `xml-rpc`, `rest`, `ws`, or `internal`.
    pub protocol: String,
    /// The idempotency key.
    #[serde(default)]
    pub request_id: Option<String>,
    /// The TLS session; absent on the unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFacts>,
    /// The `User-Agent` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

/// The TLS session of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// The suite's standard name.
    pub cipher: String,
    /// Subject of a verified client certificate.
    pub client_certificate: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: String,
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
    /// The revision the plan was made against.
    pub base_revision: u64,
    /// The locks, as `read path` or `write path`.
    pub locks: Arc<[String]>,
    /// Node id of the master that took the job.
    pub master: u32,
    /// Its term.
    pub term: u64,
    /// Cluster time between submission and schedule.
    pub waited_us: u64,
}

/// When each stage was reached; a stage that was not is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// Its revision was applied by the awaited members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Time>,
    /// The plan or the first command began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executed: Option<Time>,
    /// It ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// The scheduler accepted or declined it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Time>,
    /// The job had an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted: Option<Time>,
}

/// One command of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// Node clock minus master clock when it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_us: Option<i64>,
    /// End, by the node's clock.
    #[serde(default)]
    pub ended: Option<Time>,
    /// How an `indeterminate` or `refused` was established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Nodes that had the whole output as a blob when the command ended; empty if the record has
    /// it all (ruling 32).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<u32>,
    /// The key that the job gave, unique within the job.
    pub name: String,
    /// The node that ran it.
    pub node: u32,
    /// First and last 32 KiB of what it printed (ruling 32).
    #[serde(default)]
    pub output: String,
    /// Size of the whole output.
    #[serde(default)]
    pub output_bytes: u64,
    /// SHA-256 of the whole output, hex; absent if it printed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_sha256: Option<String>,
    /// `ok`, `failed`, `timeout`, `cancelled`, `refused`, `indeterminate`, or `open`.
    pub result: String,
    /// Start, by the node's clock.
    #[serde(default)]
    pub started: Option<Time>,
    /// Exit status, or minus the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Whether `output` is not the whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl CommandRecord {
    /// Whether this says how the command ended: `open` and `indeterminate` do not.
    pub fn is_definite(&self) -> bool {
        !matches!(self.result.as_str(), "open" | "indeterminate")
    }
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
    pub result_output: Option<Arc<Value>>,
    /// The plan of a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_plan: Option<Value>,
    /// The revision it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_revision: Option<u64>,
    /// Warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub result_warnings: Vec<String>,
}

/// One line of a configuration diff.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The value before; absent for `add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// What happened at `path`.
    pub op: ChangeOp,
    /// An RFC 6901 pointer without its first slash.
    pub path: String,
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
    pub reasons: BTreeMap<String, String>,
}

/// Everything that is kept of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// What it changed, secrets as commitments.
    #[serde(default, skip_serializing_if = "<[Change]>::is_empty")]
    pub change: Arc<[Change]>,
    /// Its commands, in the order of their start.
    #[serde(default)]
    pub commands: Vec<Arc<CommandRecord>>,
    /// [`FORMAT`].
    pub format: u32,
    /// The id, `<node id>.<sequence>`.
    pub job: Arc<str>,
    /// What such a job may do.
    pub kind: Kind,
    /// How it was to run.
    pub mode: Mode,
    /// The job's name.
    pub name: Arc<str>,
    /// Who had applied the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodesApplied>,
    /// What the salts of the commitments in this record were made from, with the cluster's key;
    /// absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Its parameters, secrets withheld or as commitments (ruling 21).
    pub parameters: Arc<Map<String, Value>>,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The request that started it.
    pub request: Arc<RequestFacts>,
    /// What it returned.
    #[serde(default)]
    pub result: ResultRecord,
    /// What the scheduler noted.
    pub scheduling: Scheduling,
    /// When each stage was reached.
    pub stages: Stages,
    /// Who started it.
    pub user: Arc<str>,
}

/// A fact about access (ruling 46).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// `login`, `login_failed`, `denied`, `auditor_read`, or `suppressed`. A change of rights is
    /// the record of the job that made it.
    pub audit: String,
    /// How many such facts this record stands for.
    pub count: u64,
    /// [`FORMAT`].
    pub format: u32,
    /// What was asked for: a method, a job, an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Time of the first.
    pub time: Time,
    /// Whom it is about; absent in sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Late evidence about a job (ruling 15).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddendumRecord {
    /// The job it belongs to.
    pub addendum: String,
    /// The late result of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandRecord>,
    /// [`FORMAT`].
    pub format: u32,
    /// What else is to be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When it became known.
    pub time: Time,
}

/// The whole configuration at a revision. It follows the record of the job that made the revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// When the revision was committed.
    pub time: Time,
    /// The configuration.
    pub tree: FullTree,
}

/// A configuration as a record holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullTree {
    /// The root's value, secrets as commitments.
    pub config: Value,
    /// Its revision.
    pub revision: u64,
    /// The revision's hash. It covers secrets in their sealed form, so it cannot be computed from
    /// `config` where there are any.
    pub root: String,
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
    pub canonical: Arc<[u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical;
    use serde_json::json;

    fn text() -> Option<String> {
        Some("x".to_owned())
    }

    fn command() -> CommandRecord {
        CommandRecord {
            started: Some(Time(1)),
            ended: Some(Time(1)),
            output_sha256: text(),
            truncated: true,
            status: Some(1),
            clock_offset_us: Some(1),
            evidence: text(),
            holders: vec![11],
            ..CommandRecord::default()
        }
    }

    /// A record in which nothing is left out.
    fn full() -> JobRecord {
        let time = Some(Time(1));
        let tls = Some(TlsFacts { client_certificate: text(), ..TlsFacts::default() });
        let parameters = json!({"b": 1.0, "a": {"\u{1f600}": [1e21, -0.0]}});
        let change = json!({"op": "replace", "path": "a", "old": 1, "value": 2});
        let nodes = json!({"applied": [11], "pending": [12], "reasons": {"12": "offline"}});
        JobRecord {
            format: FORMAT,
            job: "11.1".into(),
            name: "x".into(),
            kind: Kind::Modify,
            outcome: Some(Outcome::Ok),
            user: "admin".into(),
            reason: text(),
            mode: Mode::Immediate,
            parameters: Arc::new(parameters.as_object().cloned().unwrap_or_default()),
            nonce: text(),
            request: Arc::new(RequestFacts { tls, user_agent: text(), ..RequestFacts::default() }),
            scheduling: Scheduling::default(),
            stages: Stages {
                submitted: time,
                scheduled: time,
                executed: time,
                finished: time,
                committed: time,
            },
            commands: vec![Arc::new(command())],
            result: ResultRecord {
                result_desc: text(),
                result_output: Some(Arc::new(json!(1.5))),
                result_revision: Some(1),
                result_warnings: vec!["w".into()],
                result_plan: Some(json!({})),
                ..ResultRecord::default()
            },
            change: Arc::new([serde_json::from_value(change).unwrap()]),
            nodes: serde_json::from_value(nodes).unwrap(),
        }
    }

    fn assert_sorted<T: Serialize>(record: &T) {
        let value = serde_json::to_value(record).unwrap();
        assert_eq!(canonical::of_sorted(record), canonical::to_vec(&value));
    }

    #[test]
    fn fields_stand_in_their_canonical_order() {
        assert_sorted(&full());
        assert_sorted(&JobRecord { parameters: Arc::default(), ..full() });
        assert_sorted(&AddendumRecord {
            format: FORMAT,
            addendum: "11.1".into(),
            time: Time(1),
            command: Some(command()),
            note: text(),
        });
        assert_sorted(&AuditRecord {
            format: FORMAT,
            audit: "login".into(),
            user: text(),
            source: text(),
            object: text(),
            count: 1,
            time: Time(1),
        });
        let tree = FullTree { config: json!({"a": 1}), revision: 1, root: String::new() };
        assert_sorted(&TreeRecord { format: FORMAT, tree, time: Time(1) });
    }
}
