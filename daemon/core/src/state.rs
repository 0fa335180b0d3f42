//! The replicated state: everything that must be the same on all nodes.
//!
//! State is changed by [`State::apply`](crate::apply) only. Its large maps share structure, so
//! cloning it is a handful of pointer copies: readers, planners and snapshots each hold a clone.

use crate::job::Job;
use crate::lock::{Lock, LockSet};
use crate::path::{Path, path};
use crate::proposal::Needs;
use crate::requests::RequestIds;
use crate::tree::{Hash, Node, Tree};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use tiebeam_proto::time::Time;

/// The snapshot format that this version writes.
pub const FORMAT: u32 = 1;

/// The newest feature level that this version supports (ruling 12).
pub const FEATURE_LEVEL: u32 = crate::level::SUPPORTED;

/// Who the cluster is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Made at `init`, for ever.
    pub id: String,
    /// The operators' name for it.
    pub name: String,
    /// Raised by restore and recover.
    pub incarnation: u32,
}

/// A member's seat in the raft group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Node id × 2^16 + incarnation (ruling 19).
    pub raft_id: u64,
    /// SHA-256 of its public key, hex.
    pub key_hash: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it has no snapshot yet: nobody waits for it (ruling 6).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joining: bool,
    /// Log index at which it became a member; 0 for the first one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: u64,
}

fn is_zero(index: &u64) -> bool {
    *index == 0
}

/// The newest cluster key (ruling 21): its number and who it is, never the key itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedKey {
    /// Its number; 0 while nothing was rotated in this incarnation of the cluster.
    pub number: u32,
    /// Its fingerprint: two masters that made one each give both the same number.
    pub print: String,
    /// Whether it is in use: every member that was online had it.
    pub used: bool,
    /// Whether a member was removed since it was made: the next one is due.
    pub due: bool,
}

impl SharedKey {
    fn is_first(&self) -> bool {
        *self == SharedKey::default()
    }
}

/// A user's password hash and one-time secret. Never part of the configuration tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// A PHC string, or a `$5$`/`$6$` hash of a migration.
    pub hash: Option<String>,
    /// Hash of a one-time secret and the cluster time at which it ends.
    pub one_time: Option<(String, u64)>,
}

/// Where the history stands (ruling 15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Index of the newest record; 0 before the first.
    pub index: u64,
    /// Its hash; zero before the first.
    pub head: Hash,
    /// The lowest index that is kept.
    pub floor_index: u64,
    /// The hash before the floor.
    pub floor_previous: Hash,
    /// Records of reads below this index are pruned: of each, only its hash is kept (ruling 36).
    #[serde(default)]
    pub reads_below: u64,
    /// Records of reads that entered the chain, pruned ones included.
    #[serde(default)]
    pub reads: u64,
}

/// A moment that State remembers, so that it can be told how old and how many the records of
/// reads above it are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadMark {
    /// Cluster time of that moment.
    pub clock_us: u64,
    /// [`Chain::reads`] at that moment.
    pub reads: u64,
}

/// Locks that a job left in doubt (ruling 11).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Doubt {
    /// The job's id.
    pub job: String,
    /// What it still holds; empty if the job had no locks: then only its late evidence is due.
    pub locks: Vec<Lock>,
    /// Keys of the commands whose end is not known.
    pub commands: Vec<(String, u32)>,
    /// Since when.
    pub since: Time,
    /// Nodes of these commands that were removed since: with their disks went what they could
    /// tell, and a node that joins under the same id knows nothing of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<u32>,
    /// The lowest chain index that the job's record can have; 0 if it is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub record_from: u64,
}

/// Everything replicated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// What apply may do; raised by an entry only.
    pub feature_level: u32,
    /// Who the cluster is.
    pub cluster: Cluster,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Its term.
    pub term: u64,
    /// Cluster time in microseconds (ruling 22).
    pub clock_us: u64,
    /// The proposer's wall clock in the last entry; for display.
    pub wall: Time,
    /// The configuration.
    pub config: Tree,
    /// Its revision.
    pub revision: u64,
    /// The configurations that live jobs were planned against, with the number of such jobs.
    pub bases: OrdMap<u64, (u32, Tree)>,
    /// The members.
    pub members: OrdMap<u32, Member>,
    /// The last incarnation of every node id that ever joined (ruling 19).
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub incarnations: OrdMap<u32, u16>,
    /// The newest feature level that members reported, by raft id, where it is not
    /// [`State::feature_level`].
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub supported: OrdMap<u64, u32>,
    /// Which cluster key is the newest; never the key.
    #[serde(default, skip_serializing_if = "SharedKey::is_first")]
    pub shared_key: SharedKey,
    /// What is known of wall clocks that are not simply right, by node.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub clocks: OrdMap<u32, crate::notice::ClockNote>,
    /// Tokens with which nodes may join, by id.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub join_tokens: OrdMap<Arc<str>, crate::member::JoinToken>,
    /// Password hashes by user.
    pub credentials: OrdMap<Arc<str>, Credential>,
    /// Tokens that ended early, with the cluster time at which they would have ended.
    pub revoked: OrdMap<Arc<str>, u64>,
    /// Live jobs by sequence number.
    pub jobs: OrdMap<u64, Arc<Job>>,
    /// Jobs in stage submitted.
    pub waiting: OrdSet<u64>,
    /// Jobs in stages scheduled and executed.
    pub running: OrdSet<u64>,
    /// Jobs that made a revision and have no committed stamp.
    pub uncommitted: OrdSet<u64>,
    /// The number of the last job.
    pub last_job: u64,
    /// What waiting jobs ask for and running jobs hold.
    pub locks_waiting: LockSet,
    /// What running jobs and doubts hold.
    pub locks_held: LockSet,
    /// Locks in doubt by sequence number.
    pub doubts: OrdMap<u64, Doubt>,
    /// Idempotency keys.
    pub requests: RequestIds,
    /// Secrets in results that may be derived again, until that cluster time.
    pub derived: OrdMap<u64, (u64, Vec<crate::proposal::Derived>)>,
    /// Where the history stands.
    pub chain: Chain,
    /// By the newest record's index of their moment; those below `chain.reads_below` are gone.
    #[serde(default)]
    pub read_marks: OrdMap<u64, ReadMark>,
}

/// Why a caller may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule<'a> {
    /// Every user may.
    Everyone,
    /// This user may.
    User(&'a str),
    /// It is about the caller.
    Caller,
    /// A group of the caller's may.
    Group(&'a str),
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Everyone => out.write_str("every user may"),
            Rule::User(user) => write!(out, "user {user} is allowed"),
            Rule::Caller => out.write_str("it is about the caller"),
            Rule::Group(group) => write!(out, "group {group} is allowed"),
        }
    }
}

/// Why a caller may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The user is gone.
    #[error("the user {0} does not exist")]
    NoSuchUser(String),
    /// The user may not log in.
    #[error("the user {0} is disabled")]
    Disabled(String),
    /// The user's entry changed since the call was admitted.
    #[error("the rights of {0} changed while the call was on its way")]
    Changed(String),
    /// No rule allows it.
    #[error("{user} may not do this: allowed are {allowed}")]
    NotAllowed {
        /// Who asked.
        user: String,
        /// Who may.
        allowed: String,
    },
}

impl State {
    /// A member's configuration path.
    pub fn node_path(node: u32) -> Path {
        path(&["nodes", &node.to_string()])
    }

    /// A user's configuration path; `None` if the text cannot be a user's name.
    pub fn user_path(user: &str) -> Option<Path> {
        crate::schema::is_name(user).then(|| path(&["users", user]))
    }

    /// The revision of a user's entry: any change of it ends the user's tokens.
    pub fn credential_revision(&self, user: &str) -> Option<u64> {
        self.config.at(&["users", user]).map(|node| node.revision())
    }

    /// A value of a user's entry.
    fn user_field(&self, user: &str, field: &str) -> Option<&Value> {
        match &**self.config.at(&["users", user, field])? {
            Node::Leaf(leaf) => Some(&leaf.value),
            Node::Map(_) => None,
        }
    }

    /// Whether the user exists and may log in.
    pub fn is_enabled(&self, user: &str) -> bool {
        self.user_field(user, "login_enabled").and_then(Value::as_bool).unwrap_or(false)
    }

    /// The groups of a user, the first one first; none if there is no such user.
    pub fn groups_of(&self, user: &str) -> impl Iterator<Item = &str> {
        let first = self.user_field(user, "group").and_then(Value::as_str);
        let more = self.user_field(user, "additional_groups").and_then(Value::as_array);
        first.into_iter().chain(more.into_iter().flatten().filter_map(Value::as_str))
    }

    /// Whether the user is in one of the groups.
    pub fn is_in_any(&self, user: &str, groups: &[&str]) -> bool {
        self.groups_of(user).any(|group| groups.contains(&group))
    }

    /// Whether the user sees every job: root, members of exaadm and auditor.
    pub fn sees_every_job(&self, user: &str) -> bool {
        user == "root" || self.is_in_any(user, &["exaadm", "auditor"])
    }

    /// Checks a caller against what a job needs; says which rule allowed it.
    pub fn may<'a>(&self, user: &'a str, needs: &'a Needs) -> Result<Rule<'a>, Denied> {
        if self.credential_revision(user).is_none() {
            return Err(Denied::NoSuchUser(user.to_owned()));
        }
        if !self.is_enabled(user) {
            return Err(Denied::Disabled(user.to_owned()));
        }
        if needs.everyone {
            return Ok(Rule::Everyone);
        }
        if needs.users.iter().any(|allowed| allowed == user) {
            return Ok(Rule::User(user));
        }
        if needs.self_user.as_deref() == Some(user) {
            return Ok(Rule::Caller);
        }
        let is_in = |allowed: &&String| self.groups_of(user).any(|group| group == **allowed);
        match needs.groups.iter().find(is_in) {
            Some(group) => Ok(Rule::Group(group)),
            None => Err(Denied::NotAllowed { user: user.to_owned(), allowed: allowed_text(needs) }),
        }
    }

    /// Whether `user` may see a job of `owner`.
    pub fn may_see(&self, user: &str, owner: &str) -> bool {
        user == owner || self.sees_every_job(user)
    }

    /// The live job with this id. The node part of the id must be the one the job was given.
    pub fn live_job(&self, id: &str) -> Option<&Arc<Job>> {
        let (_, sequence) = crate::job::parse_job_id(id)?;
        self.jobs.get(&sequence).filter(|job| *job.record.job == *id)
    }

    /// The doubts that hold locks. One of a job without locks only waits for its late evidence.
    pub fn locks_in_doubt(&self) -> impl Iterator<Item = (&u64, &Doubt)> {
        self.doubts.iter().filter(|(_, doubt)| !doubt.locks.is_empty())
    }

    /// SHA-256 over the whole State: equal on two nodes at the same index, or there is a bug.
    pub fn digest(&self) -> Hash {
        Sha256::digest(crate::snapshot::encode(self)).into()
    }
}

fn allowed_text(needs: &Needs) -> String {
    let mut allowed: Vec<String> = needs.users.iter().map(|user| format!("user {user}")).collect();
    allowed.extend(needs.groups.iter().map(|group| format!("group {group}")));
    if needs.self_user.is_some() {
        allowed.push("the user it is about".to_owned());
    }
    allowed.join(", ")
}
