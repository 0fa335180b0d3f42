//! Facts: the few things of a record by which it is looked for.
//!
//! They are read from the record's canonical JSON once, when it is archived; the outlines keep
//! them in a compact form. This module is pure. It takes any bytes: a record that it does not
//! understand is kept and found by its index all the same.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{Kind, Outcome, Stage, time::Time};

/// Bytes of a reason that a list shows; the record has the whole.
const NOTE_BYTES_MAX: usize = 120;

/// A job's id, `<node id>.<sequence>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId {
    /// The node that took the job.
    pub node: u32,
    /// Its number.
    pub sequence: u64,
}

impl JobId {
    /// Reads the text form; `None` if it is not exactly what [`JobId`] displays.
    pub fn parse(text: &str) -> Option<JobId> {
        let (node, sequence) = text.split_once('.')?;
        let plain = |digits: &str| {
            digits.bytes().all(|b| b.is_ascii_digit())
                && (digits == "0" || !digits.starts_with('0'))
        };
        if !plain(node) || !plain(sequence) {
            return None;
        }
        Some(JobId { node: node.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.node, self.sequence)
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// It is the record of this job.
    Job(JobId),
    /// It adds to the record of this job.
    Addendum(JobId),
    /// It is a fact about access.
    Audit,
    /// It is the whole configuration at a revision.
    Tree,
    /// It is of a kind that this version does not know.
    #[default]
    Other,
}

/// By what a record is found, and what a list shows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What it is about.
    pub subject: Subject,
    /// What the job may do.
    pub kind: Option<Kind>,
    /// How the job ended.
    pub outcome: Option<Outcome>,
    /// Whether its last stage is `committed`; else it is `finished`.
    pub committed: bool,
    /// The job's name, or the word of the audit record.
    pub name: String,
    /// Who started it, or whom the audit record is about; empty if nobody.
    pub user: String,
    /// The master that took it and the nodes of its commands, sorted.
    pub nodes: Vec<u32>,
    /// Submission, or the time of the fact; microseconds since 1970.
    pub begun: i64,
    /// The time of the last stage.
    pub ended: i64,
    /// The revision it made.
    pub revision: Option<u64>,
    /// The beginning of its reason, or the object of the audit record.
    pub note: String,
}

#[derive(Deserialize)]
struct Seen {
    job: Option<String>,
    addendum: Option<String>,
    audit: Option<String>,
    tree: Option<SeenTree>,
    name: Option<String>,
    user: Option<String>,
    reason: Option<String>,
    note: Option<String>,
    object: Option<String>,
    kind: Option<Kind>,
    outcome: Option<Outcome>,
    scheduling: Option<SeenScheduling>,
    stages: Option<SeenStages>,
    #[serde(default)]
    commands: Vec<SeenCommand>,
    result: Option<SeenResult>,
    time: Option<Time>,
}

#[derive(Deserialize)]
struct SeenTree {
    revision: u64,
}

#[derive(Deserialize)]
struct SeenScheduling {
    master: u32,
}

#[derive(Deserialize)]
struct SeenStages {
    submitted: Option<Time>,
    finished: Option<Time>,
    committed: Option<Time>,
}

#[derive(Deserialize)]
struct SeenCommand {
    node: u32,
}

#[derive(Deserialize)]
struct SeenResult {
    result_revision: Option<u64>,
}

impl Facts {
    /// Reads them from a record's canonical JSON.
    pub fn of(canonical: &[u8]) -> Facts {
        let Ok(seen) = serde_json::from_slice::<Seen>(canonical) else {
            return Facts::default();
        };
        let stages = seen.stages.as_ref();
        let committed = stages.and_then(|stages| stages.committed);
        let time = seen.time.unwrap_or_default();
        let begun = stages.and_then(|stages| stages.submitted).unwrap_or(time);
        let ended = committed.or(stages.and_then(|stages| stages.finished)).unwrap_or(begun);
        let mut nodes: Vec<u32> = seen.commands.iter().map(|command| command.node).collect();
        nodes.extend(seen.scheduling.map(|scheduling| scheduling.master));
        nodes.sort_unstable();
        nodes.dedup();
        Facts {
            subject: match &seen.tree {
                Some(_) => Subject::Tree,
                None => {
                    let (job, addendum) = (seen.job.as_deref(), seen.addendum.as_deref());
                    subject(job, addendum, seen.audit.is_some())
                }
            },
            kind: seen.kind,
            outcome: seen.outcome,
            committed: committed.is_some(),
            name: seen.name.or(seen.audit).unwrap_or_default(),
            user: seen.user.unwrap_or_default(),
            nodes,
            begun: begun.0,
            ended: ended.0,
            revision: seen.result.and_then(|result| result.result_revision),
            note: match seen.tree {
                Some(tree) => format!("the configuration at revision {}", tree.revision),
                None => cut(seen.reason.or(seen.object).or(seen.note).unwrap_or_default()),
            },
        }
    }

    /// The same facts of a job's record, for who has it at hand: apply, once for every job.
    pub fn of_job(record: &JobRecord) -> Facts {
        let stages = &record.stages;
        let begun = stages.submitted.unwrap_or_default();
        let ended = stages.committed.or(stages.finished).unwrap_or(begun);
        let mut nodes: Vec<u32> = record.commands.iter().map(|command| command.node).collect();
        nodes.push(record.scheduling.master);
        nodes.sort_unstable();
        nodes.dedup();
        Facts {
            subject: subject(Some(&record.job), None, false),
            kind: Some(record.kind),
            outcome: record.outcome,
            committed: stages.committed.is_some(),
            name: record.name.to_string(),
            user: record.user.to_string(),
            nodes,
            begun: begun.0,
            ended: ended.0,
            revision: record.result.result_revision,
            note: cut(record.reason.clone().unwrap_or_default()),
        }
    }

    /// The job that this is the record of.
    pub fn job(&self) -> Option<JobId> {
        match self.subject {
            Subject::Job(id) => Some(id),
            Subject::Addendum(_) | Subject::Audit | Subject::Tree | Subject::Other => None,
        }
    }

    /// What is known of a pruned record: a read, not earlier than this.
    pub(super) fn pruned(since_us: i64) -> Facts {
        let kind = Some(Kind::Read);
        Facts { kind, begun: since_us, ended: since_us, ..Facts::default() }
    }

    /// Whether this is the record of a read: one of those that are pruned.
    pub fn is_read(&self) -> bool {
        self.kind == Some(Kind::Read) && self.job().is_some()
    }

    /// The job that this is the record of, or adds to.
    pub fn about(&self) -> Option<JobId> {
        match self.subject {
            Subject::Job(id) | Subject::Addendum(id) => Some(id),
            Subject::Audit | Subject::Tree | Subject::Other => None,
        }
    }

    /// The job's last stage; `None` for what is no job.
    pub fn stage(&self) -> Option<Stage> {
        let stage = if self.committed { Stage::Committed } else { Stage::Finished };
        self.job().map(|_| stage)
    }

    /// The `kind` of its line in `chain.jsonl`.
    pub fn line_kind(&self) -> &'static str {
        match self.subject {
            Subject::Addendum(_) => "addendum",
            Subject::Audit => "audit",
            Subject::Tree => "tree",
            Subject::Job(_) | Subject::Other => self.kind.map_or("unknown", Kind::name),
        }
    }

    /// The object that a list shows; keys without a value are absent.
    pub fn summary(&self, index: u64) -> Value {
        let mut summary = Map::new();
        let mut put = |key: &str, value: Value| {
            let empty = value.is_null() || value.as_str().is_some_and(str::is_empty);
            if !empty {
                summary.insert(key.to_owned(), value);
            }
        };
        put("index", json!(index));
        put("kind", json!(self.line_kind()));
        match self.subject {
            Subject::Job(id) | Subject::Addendum(id) => put("job", json!(id.to_string())),
            Subject::Audit | Subject::Tree | Subject::Other => {}
        }
        let audit = self.subject == Subject::Audit;
        put(if audit { "audit" } else { "name" }, json!(self.name));
        put("user", json!(self.user));
        put("outcome", json!(self.outcome));
        put("stage", json!(self.stage()));
        put("revision", json!(self.revision));
        if self.job().is_some() {
            put("submitted", json!(Time(self.begun)));
            put("ended", json!(Time(self.ended)));
            put("nodes", json!(self.nodes));
            put("reason", json!(self.note));
        } else {
            put("time", json!(Time(self.begun)));
            put(if audit { "object" } else { "note" }, json!(self.note));
        }
        Value::Object(summary)
    }
}

fn subject(job: Option<&str>, addendum: Option<&str>, audit: bool) -> Subject {
    match (job.and_then(JobId::parse), addendum.and_then(JobId::parse)) {
        (Some(id), _) => Subject::Job(id),
        (None, Some(id)) => Subject::Addendum(id),
        (None, None) if audit => Subject::Audit,
        (None, None) => Subject::Other,
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(NOTE_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_has_one_text_form() {
        let id = JobId { node: 11, sequence: 42 };
        assert_eq!(JobId::parse(&id.to_string()), Some(id));
        for wrong in ["", "11", "11.", ".1", "011.1", "11.v7", "+1.1", "1.1.1", "4294967296.1"] {
            assert_eq!(JobId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_record_and_its_bytes_tell_the_same() {
        for number in 1..40 {
            let mut job = crate::history::fixture::job(number);
            job["reason"] = json!("é".repeat(number as usize * 3));
            let record: JobRecord = serde_json::from_value(job).unwrap();
            let canonical = tiebeam_proto::canonical::of_sorted(&record);
            assert_eq!(Facts::of_job(&record), Facts::of(&canonical));
        }
    }

    #[test]
    fn any_bytes_have_facts() {
        assert_eq!(Facts::of(b"\xff"), Facts::default());
        assert_eq!(Facts::of(b"{\"name\":7}").subject, Subject::Other);
        let long = format!("{{\"addendum\":\"1.2\",\"note\":\"{}\"}}", "é".repeat(100));
        let facts = Facts::of(long.as_bytes());
        assert_eq!(facts.subject, Subject::Addendum(JobId { node: 1, sequence: 2 }));
        assert_eq!(facts.note.len(), 120);
    }
}
