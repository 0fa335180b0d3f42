//! What apply asks the shell to do. Effects are hints (ruling 34): what is due is a function of
//! State, so an effect may be lost with the process and nothing is lost with it, except that
//! archived records are made again by replaying the log.

use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tiebeam_proto::record::{Archived, JobRecord};
use tiebeam_proto::{Outcome, RpcError, Stage, time::Time};

/// Something for the shell.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A record is final: append it to the history.
    Archive(Archived, Option<Arc<JobRecord>>),
    /// There is a new revision: publish it, coalesced.
    Revision(u64),
    /// Tell the subscribers.
    Event(Event),
    /// [`crate::State::due`] may have something new.
    Due,
}

/// An event, as every node makes it (ruling 39).
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `index` of the entry that made it, and its number within that entry.
    pub cursor: (u64, u32),
    /// What happened.
    pub what: What,
}

/// What an event tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum What {
    /// A job reached a stage.
    Stage {
        /// The job's id.
        job: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// Who started it: the one who may see the event.
        #[serde(skip)]
        user: Arc<str>,
        /// The stage.
        stage: Stage,
        /// How it ended, from stage finished on.
        #[serde(skip_serializing_if = "Option::is_none")]
        outcome: Option<Outcome>,
        /// When.
        time: Time,
    },
    /// A command began or ended.
    Command {
        /// The job's id.
        job: Arc<str>,
        /// Who started the job.
        #[serde(skip)]
        user: Arc<str>,
        /// The command's key.
        command: Arc<str>,
        /// Where it runs.
        node: u32,
        /// `open`, or how it ended.
        result: Arc<str>,
    },
    /// A node joined, left or changed its seat, or told something of itself.
    Node {
        /// The node.
        node: u32,
        /// `added`, `joined`, `promoted`, `demoted` or `removed`; of what it told of itself,
        /// `clock_suspect`, `clock_trusted` or `hand_edit`.
        change: Arc<str>,
        /// What else there is to say.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<Arc<str>>,
    },
    /// The cluster as a whole went over to something.
    Cluster {
        /// `feature_level` or `cluster_key`.
        change: Arc<str>,
        /// The new level, or the number of the key.
        number: u64,
    },
    /// There is a new master, and it has been heard of by what it put into the log first.
    Master {
        /// The node.
        node: u32,
        /// Its term.
        term: u64,
    },
    /// The configuration changed.
    Config {
        /// The new revision.
        revision: u64,
        /// The job that did it.
        job: Arc<str>,
        /// Who started that job.
        #[serde(skip)]
        user: Arc<str>,
    },
}

impl What {
    /// Something that happened to a node.
    pub fn of_node(node: u32, change: &str, detail: Option<String>) -> What {
        What::Node { node, change: change.into(), detail: detail.map(Arc::from) }
    }
}

impl Event {
    /// The event as a subscriber gets it.
    pub fn to_json(&self) -> Value {
        let mut value = json!(self.what);
        value["cursor"] = json!(format!("{}.{}", self.cursor.0, self.cursor.1));
        value
    }

    /// The user whom the event is about.
    pub fn user(&self) -> &str {
        match &self.what {
            What::Stage { user, .. } | What::Command { user, .. } | What::Config { user, .. } => {
                user
            }
            What::Node { .. } | What::Cluster { .. } | What::Master { .. } => "",
        }
    }
}

/// What the proposer of an entry is told once it is applied.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The entry did what it says and there is nothing to tell.
    Done,
    /// The job has an id; `record` is there if it ended in this entry.
    Job {
        /// The id.
        id: String,
        /// The record, if the job ended.
        record: Option<Arc<JobRecord>>,
    },
    /// The plan's reads have changed: nothing was kept (ruling 8).
    Stale,
    /// The same call was made before (ruling 5).
    Existing {
        /// The first job's id.
        id: String,
    },
    /// Nothing was kept, and why.
    Refused(RpcError),
    /// Whether a job could be stopped: `cancelled`, `stopping` or `too_late`.
    Cancel(&'static str),
}
