//! How commands end, in the words of the journal, of reports and of records. Values only.

use serde::{Deserialize, Serialize};
use tiebeam_proto::record::CommandRecord;
use tiebeam_proto::time::Time;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandResult {
    /// Exit status 0.
    Ok,
    /// Another exit status, a signal, or it could not be started at all.
    Failed,
    /// Stopped after its time.
    Timeout,
    /// Stopped because somebody asked.
    Cancelled,
    /// It did not run and never will on this node.
    Refused,
    /// Whether or how it ran cannot be told.
    Indeterminate,
}

impl CommandResult {
    /// The word in records.
    pub const fn name(self) -> &'static str {
        match self {
            CommandResult::Ok => "ok",
            CommandResult::Failed => "failed",
            CommandResult::Timeout => "timeout",
            CommandResult::Cancelled => "cancelled",
            CommandResult::Refused => "refused",
            CommandResult::Indeterminate => "indeterminate",
        }
    }
}

/// The end of a command as the shim writes it into the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndLine {
    /// How it ended.
    pub result: CommandResult,
    /// Exit status; absent if a signal ended it or it never began.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Start of the program by this node's wall clock, microseconds.
    pub started_us: i64,
    /// End of its tree by this node's wall clock, microseconds.
    pub ended_us: i64,
    /// Bytes that it printed, kept or not, secrets replaced.
    pub output_bytes: u64,
    /// Bytes that were kept.
    pub kept_bytes: u64,
    /// SHA-256 of the kept bytes in hex; absent if it printed nothing.
    pub output_sha256: Option<String>,
    /// What else is to be said: why it could not start, what was left over.
    pub evidence: Option<String>,
}

/// The end of a command as it is reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandEnd {
    /// How it ended.
    pub result: CommandResult,
    /// Exit status; absent if a signal ended it or it never began.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Start by this node's wall clock, microseconds; 0 if it never began.
    pub started_us: i64,
    /// End by this node's wall clock, microseconds; 0 if unknown.
    pub ended_us: i64,
    /// First and last 32 KiB of the output (ruling 32).
    pub output: String,
    /// Bytes of the whole output.
    pub output_bytes: u64,
    /// SHA-256 of the kept output in hex; absent if it printed nothing.
    pub output_sha256: Option<String>,
    /// Whether `output` is not the whole.
    pub truncated: bool,
    /// Whether the kept output lies in `blobs/` under its digest.
    pub blob: bool,
    /// Nodes that have the blob.
    #[serde(default)]
    pub holders: Vec<u32>,
    /// How a refusal or a doubt was established, and other remarks.
    pub evidence: Option<String>,
}

impl CommandEnd {
    /// The end of a command that did not run, or of which nothing more is known.
    pub fn without_run(result: CommandResult, evidence: String) -> CommandEnd {
        CommandEnd {
            result,
            status: None,
            signal: None,
            started_us: 0,
            ended_us: 0,
            output: String::new(),
            output_bytes: 0,
            output_sha256: None,
            truncated: false,
            blob: false,
            holders: Vec::new(),
            evidence: Some(evidence),
        }
    }

    /// The end as the job's record keeps it: of the command `key` on this node.
    pub fn record(&self, key: &str, node: u32) -> CommandRecord {
        let time = |us: i64| (us != 0).then_some(Time(us));
        CommandRecord {
            name: key.to_owned(),
            node,
            started: time(self.started_us),
            ended: time(self.ended_us),
            result: self.result.name().to_owned(),
            output: self.output.clone(),
            output_bytes: self.output_bytes,
            output_sha256: self.output_sha256.clone(),
            truncated: self.truncated,
            status: self.status.or(self.signal.map(|signal| -signal)),
            clock_offset_us: None,
            evidence: self.evidence.clone(),
            holders: self.holders.clone(),
        }
    }
}

/// Where a command is on this node.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandState {
    /// Nothing of it has run; it may be started.
    NotStarted,
    /// A shim was asked to begin and has not yet.
    Starting,
    /// Its shim lives.
    Running,
    /// It ended.
    Ended(Box<CommandEnd>),
    /// It did not run and never will.
    Refused {
        /// Why.
        why: String,
    },
    /// It may have run; only a probe can tell.
    Unknown {
        /// What is known.
        evidence: String,
    },
}

/// A node's answer to somebody who gives a command up.
#[derive(Clone, Debug, PartialEq)]
pub enum Fence {
    /// It has not run and, from now on, cannot.
    Refused,
    /// It runs.
    Started,
    /// It ended.
    Ended(Box<CommandEnd>),
    /// It may have run.
    Unknown {
        /// What is known.
        evidence: String,
    },
}
