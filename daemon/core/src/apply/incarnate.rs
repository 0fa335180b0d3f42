//! A new incarnation of a cluster: what `tiebeamd recover` makes of the State of the last voter,
//! and `tiebeamd restore` of the State in a backup (rulings 35, 44 and 49).
//!
//! It is a step like an entry, taken once and outside of any log: the caller puts the State that
//! comes out into the first snapshot of a new log. Ids and revisions go on at the next multiple of
//! [`GAP`], because nobody can know which ones were given away by members that are gone or after
//! the backup was made. A job record says what was done, and its change leads from the last
//! revision before the gap to the first one after it, so that old revisions stay readable.

use super::Entry;
use crate::diff;
use crate::effect::{Answer, Effect};
use crate::job::Job;
use crate::member::incarnation;
use crate::path::{Path, path};
use crate::proposal::{Committed, Finish, Header, Plan, Skipped, Submission};
use crate::state::{Member, State};
use crate::tree::{Hash, Node, Tree, TreeError, sealed_digest};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tiebeam_proto::outcome::Move;
use tiebeam_proto::record::{Archived, AuditRecord, FORMAT, Mode, NodesApplied, RequestFacts};
use tiebeam_proto::{Kind, Outcome, Stage, time::Time};

/// Where ids and revisions of a new incarnation begin: the next multiple of this (ruling 35). No
/// cluster gives a billion of them away between a backup and its restore.
pub const GAP: u64 = 1_000_000_000;

/// Why there is a new incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The quorum is lost for good; the node goes on alone with everything that it has. Its jobs
    /// are still its own, so the next master resumes them.
    Recovered,
    /// A backup was restored on another machine: what ran then is not known here.
    Restored,
}

/// The only member of the new incarnation, and what the record says.
#[derive(Clone, Debug)]
pub struct Incarnation {
    /// Why.
    pub cause: Cause,
    /// A term above every one that the log knows.
    pub term: u64,
    /// The member's node id.
    pub node: u32,
    /// Its name.
    pub name: String,
    /// Its advertised `host:port`.
    pub address: String,
    /// SHA-256 of its public key.
    pub key_hash: String,
    /// The user of the operating system who did it.
    pub by: String,
    /// The wall clock.
    pub wall: Time,
    /// A sentence for people.
    pub reason: String,
    /// What the record says beside members and incarnation.
    pub facts: Map<String, Value>,
    /// A new floor of the history, and the hash before it, if records below it are lost.
    pub floor: Option<(u64, Hash)>,
    /// Whether sealed secrets are taken out: the keys that open them are not at hand.
    pub forget_secrets: bool,
}

impl Cause {
    /// The name of the job that stands in the history for it.
    pub fn job(self) -> &'static str {
        match self {
            Cause::Recovered => "cluster_recover",
            Cause::Restored => "cluster_restore",
        }
    }
}

/// The first number behind the gap.
fn behind_gap(last: u64) -> u64 {
    (last / GAP + 1) * GAP
}

impl State {
    /// Makes this State the first one of a new incarnation with one member, and gives the records
    /// that follow the newest one in the history.
    ///
    /// # Errors
    /// The configuration does not take the member's entry; State is unchanged then.
    pub fn begin_incarnation(&mut self, new: &Incarnation) -> Result<Vec<Archived>, TreeError> {
        let revision = behind_gap(self.revision);
        let config = self.config_of(new, revision)?;
        let header = Header { wall: new.wall, elapsed_us: 0, proposer: new.node };
        let mut entry = self.begin(self.applied + 1, new.term, header);
        if let Some((index, previous)) = new.floor {
            (self.chain.floor_index, self.chain.floor_previous) = (index, previous);
        }
        self.lose_dropped(&mut entry, new);
        self.end_live_jobs(&mut entry, new);
        let mut job = self.incarnation_job(new);
        job.record_mut().change = diff::between(&self.config, &config, &Path::root()).into();
        job.record_mut().result.result_revision = Some(revision);
        (self.config, self.revision) = (config, revision);
        self.seat_alone(new, entry.index);
        self.keep_full_tree(revision);
        let record = self.archive_job(&mut entry, job.record);
        self.archive_full_tree(&mut entry, &record, new.wall);
        let archived = |effect| match effect {
            Effect::Archive(archived, _) => Some(archived),
            _ => None,
        };
        Ok(entry.effects.into_iter().filter_map(archived).collect())
    }

    /// The configuration with this one member.
    fn config_of(&self, new: &Incarnation, revision: u64) -> Result<Tree, TreeError> {
        let mut config = self.config.clone();
        for node in self.nodes_in_config().into_iter().filter(|node| *node != new.node.to_string())
        {
            config = config.remove(&path(&["nodes", &node]), revision)?;
        }
        let own = State::node_path(new.node);
        let entry = match (new.cause, self.config.value(&own)) {
            (Cause::Recovered, Some(mut entry)) => {
                entry["role"] = json!("voter");
                entry
            }
            _ => json!({
                "id": new.node,
                "name": new.name,
                "address": new.address,
                "role": "voter",
                "labels": {},
                "affinity": 1,
                "added": new.wall,
            }),
        };
        config = config.set(&own, &entry, revision)?;
        if new.forget_secrets {
            for at in secrets(&config) {
                config = config.remove(&at, revision)?;
            }
        }
        Ok(config)
    }

    fn nodes_in_config(&self) -> Vec<String> {
        let nodes = self.config.get(&path(&["nodes"]));
        let nodes = nodes.and_then(|nodes| nodes.as_map());
        nodes.into_iter().flat_map(|map| map.iter()).map(|(name, _)| name.to_string()).collect()
    }

    /// The members that are dropped take along what they know of their commands; a node that joins
    /// anew under such an id knows nothing. In another cluster's backup nobody knows anything.
    fn lose_dropped(&mut self, entry: &mut Entry, new: &Incarnation) {
        let jobs = self.running.iter().filter_map(|job| self.jobs.get(job));
        let running = jobs.flat_map(|job| job.commands.iter().map(|command| command.node));
        let doubts =
            self.doubts.values().flat_map(|doubt| doubt.commands.iter().map(|(_, of)| *of));
        let nodes: BTreeSet<u32> = running.chain(doubts).collect();
        for node in nodes {
            if new.cause == Cause::Restored || node != new.node {
                self.lose_commands(entry, node);
            }
        }
    }

    /// Ends what cannot go on. A change that was made waits for nobody any more; and what ran on
    /// other machines is lost sight of, if this is another cluster's backup.
    fn end_live_jobs(&mut self, entry: &mut Entry, new: &Incarnation) {
        let time = new.wall;
        let jobs = self.uncommitted.iter().copied().collect();
        let applied = vec![new.node];
        self.apply_committed(entry, &Committed { jobs, time, applied, pending: Vec::new() });
        if new.cause == Cause::Recovered {
            return;
        }
        for sequence in self.waiting.clone() {
            let mut job = self.take_waiting(sequence);
            job.advance(Move::Refuse, time).expect("a waiting job can be refused");
            let why = "it waited when the backup was made that was restored now";
            job.end(Outcome::Cancelled, Some(why.to_owned()));
            self.archive_job(entry, job.record);
        }
        for job in self.running.clone() {
            let why = "it ran when the backup was made that was restored now";
            let plan = Plan::ended(self.revision, Outcome::Indeterminate, why);
            self.apply_finish(entry, &Finish { job, plan, executed: None, finished: time });
        }
    }

    /// The job that stands in the history for the step, with everything but its change.
    fn incarnation_job(&mut self, new: &Incarnation) -> Job {
        self.last_job = behind_gap(self.last_job);
        let dropped: Vec<u32> =
            self.members.keys().copied().filter(|node| *node != new.node).collect();
        let mut parameters = new.facts.clone();
        parameters.insert("by".into(), json!(new.by));
        parameters.insert("dropped".into(), json!(dropped));
        parameters.insert("incarnation".into(), json!(self.cluster.incarnation + 1));
        parameters.insert("node".into(), json!(new.node));
        let submission = Submission {
            name: new.cause.job().into(),
            kind: Kind::Modify,
            user: "root".into(),
            credential_revision: self.credential_revision("root").unwrap_or_default(),
            reason: Some(new.reason.clone()),
            mode: Mode::Immediate,
            parameters: Arc::new(parameters),
            nonce: None,
            inputs: None,
            request: Arc::new(RequestFacts {
                peer: format!("offline:{}:{}", new.node, new.by),
                protocol: "internal".to_owned(),
                ..RequestFacts::default()
            }),
            request_key: None,
            needs: Arc::default(),
            locks: Arc::default(),
            master: new.node,
            term: new.term,
            deadline_us: 0,
            submitted: new.wall,
        };
        let mut job = Job::submitted(&submission, self.last_job, self.clock_us);
        job.record_mut().scheduling.base_revision = self.revision;
        for step in [Move::Accept, Move::Begin, Move::End { revision: true }, Move::Commit] {
            job.advance(step, new.wall).expect("a job goes through its stages");
        }
        assert_eq!(job.stage, Stage::Committed, "it is final");
        job.end(Outcome::Ok, None);
        job.record_mut().nodes =
            Some(NodesApplied { applied: vec![new.node], ..NodesApplied::default() });
        job
    }

    /// Gives the node the only seat. Every other member keeps its incarnation for ever, so that it
    /// never comes back under the raft id that it had (ruling 19).
    fn seat_alone(&mut self, new: &Incarnation, index: u64) {
        let raft_id = self.next_raft_id(new.node);
        for (node, member) in &self.members {
            let last = self.incarnations.get(node).copied().unwrap_or_default();
            self.incarnations.insert(*node, last.max(incarnation(member.raft_id)));
        }
        self.incarnations.insert(new.node, incarnation(raft_id));
        let key_hash = new.key_hash.clone();
        let member = Member { raft_id, key_hash, voter: true, joining: false, since: index };
        self.members = std::iter::once((new.node, member)).collect();
        // Whoever holds one has the certificate of an authority that may be another now.
        self.join_tokens = imbl::OrdMap::new();
        // What the others supported and which keys they had is over; what is on the disk counts.
        self.supported = imbl::OrdMap::new();
        self.clocks = imbl::OrdMap::new();
        self.shared_key = crate::state::SharedKey::default();
        self.cluster.incarnation += 1;
    }
}

impl State {
    /// An entry that no node could apply is passed over, and a record says so. It is made from the
    /// entry alone, so it is the same on all nodes.
    pub(super) fn apply_skipped(&mut self, entry: &mut Entry, skipped: &Skipped) -> Answer {
        let Skipped { number, digest } = skipped;
        let fact = AuditRecord {
            audit: "entry_skipped".to_owned(),
            count: 1,
            format: FORMAT,
            object: Some(format!("entry {}, proposal {number}, sha256:{digest}", entry.index)),
            source: None,
            time: entry.header.wall,
            user: Some("root".to_owned()),
        };
        self.archive(entry, &fact, None);
        Answer::Done
    }
}

/// Where sealed secrets are. The parts of a certificate go together: without its key it cannot be
/// served.
fn secrets(config: &Tree) -> Vec<Path> {
    let mut found = Vec::new();
    walk(&Path::root(), config.root(), &mut found);
    if found.contains(&path(&["ssl", "key"])) {
        let parts = ["certificate", "authority"].map(|name| path(&["ssl", name]));
        found.extend(parts.into_iter().filter(|at| config.get(at).is_some()));
    }
    found
}

fn walk(at: &Path, node: &Arc<Node>, found: &mut Vec<Path>) {
    match node.as_map() {
        Some(map) => map.iter().for_each(|(name, child)| walk(&at.child(name), child, found)),
        None if sealed_digest(&node.to_sealed_value()).is_some() => found.push(at.clone()),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{apply, intent, state, submission};
    use crate::proposal::{Body, Schedule, Write};
    use crate::tree::sealed;
    use tiebeam_proto::chain::{self, Head};
    use tiebeam_proto::record::JobRecord;

    fn new(cause: Cause, node: u32) -> Incarnation {
        Incarnation {
            cause,
            term: 9,
            node,
            name: format!("n{node}"),
            address: format!("127.0.0.{node}:20003"),
            key_hash: "sha256:cc".into(),
            by: "alice".into(),
            wall: Time(77),
            reason: "why".into(),
            facts: Map::new(),
            floor: None,
            forget_secrets: false,
        }
    }

    /// Three members, one job waiting, one running, one without its committed stamp.
    fn three() -> State {
        let mut state = state();
        for node in [12, 13] {
            let entry = json!({"id": node, "name": format!("n{node}"), "role": "voter"});
            state.config = state.config.set(&State::node_path(node), &entry, 1).unwrap();
            let raft_id = u64::from(node) << 16 | 4;
            let key_hash = "bb".into();
            let member = Member { raft_id, key_hash, voter: true, joining: false, since: 1 };
            state.members.insert(node, member);
        }
        let mut asked = submission(&state);
        asked.inputs = Some("sealed".into());
        for _ in 0..2 {
            apply(&mut state, Body::Submit(asked.clone().into()));
        }
        apply(&mut state, Body::Schedule(Schedule { job: 1, time: Time(5) }));
        let value = json!(5);
        let plan = Plan {
            error: None,
            writes: vec![Write::Set { path: "app/n".into(), value }],
            ..Plan::ended(1, Outcome::Ok, "")
        };
        let run = crate::proposal::RunOnce { submission: asked, plan, times: Default::default() };
        apply(&mut state, Body::RunOnce(run.into()));
        assert_eq!((state.running.len(), state.waiting.len(), state.uncommitted.len()), (1, 1, 1));
        state
    }

    fn read(records: &[Archived]) -> Vec<Value> {
        records.iter().map(|one| serde_json::from_slice(&one.canonical).unwrap()).collect()
    }

    #[test]
    fn the_survivor_keeps_everything_but_the_others() {
        let mut state = three();
        let before = state.clone();
        let mut head = Head { index: state.chain.index, hash: state.chain.head };
        let records = state.begin_incarnation(&new(Cause::Recovered, 12)).unwrap();
        for record in &records {
            assert_eq!(record.link, head.extend(&record.canonical), "the chain goes on");
        }
        assert_eq!((head.index, head.hash), (state.chain.index, state.chain.head));
        assert_eq!(state.members.keys().copied().collect::<Vec<_>>(), [12]);
        assert_eq!(state.members[&12].raft_id, 12 << 16 | 5);
        assert_eq!(state.next_raft_id(13), 13 << 16 | 5, "13 never comes back as it was");
        assert_eq!(state.next_raft_id(11), 11 << 16 | 2);
        assert_eq!((state.revision, state.last_job, state.cluster.incarnation), (GAP, GAP, 2));
        assert_eq!((state.applied, state.term), (before.applied + 1, 9));
        assert_eq!((state.running.len(), state.waiting.len()), (1, 1), "jobs go on");
        let records = read(&records);
        let names: Vec<_> = records.iter().map(|r| r["name"].as_str().unwrap_or("tree")).collect();
        assert_eq!(names, ["config_set", "cluster_recover", "tree"]);
        assert_eq!(records[0]["nodes"]["applied"], json!([12]));
        let record: JobRecord = serde_json::from_value(records[1].clone()).unwrap();
        assert_eq!(*record.job, format!("12.{GAP}"));
        assert_eq!(record.parameters["dropped"], json!([11, 13]));
        let back = diff::undo(&state.config, &record.change, 3).unwrap();
        assert_eq!(back.hash(), before.config.hash(), "old revisions are read through the gap");
    }

    /// A node that joins anew under the id of a lost one must not run its command again, nor prove
    /// by its empty journal that it never ran.
    #[test]
    fn commands_of_lost_members_are_lost_with_them() {
        let mut state = three();
        for node in [12, 13] {
            apply(&mut state, intent(node));
        }
        let ends = |state: &State| -> Vec<(bool, bool)> {
            state.jobs[&1].commands.iter().map(|command| (command.ended, command.lost)).collect()
        };
        assert_eq!(ends(&state), [(false, false), (false, false)]);
        let mut recovered = state.clone();
        recovered.begin_incarnation(&new(Cause::Recovered, 12)).unwrap();
        assert_eq!(ends(&recovered), [(false, false), (true, true)], "12 has its journal");
        state.begin_incarnation(&new(Cause::Restored, 12)).unwrap();
        let doubt = state.doubts.values().next().expect("the job ended without a known end");
        assert_eq!((doubt.commands.len(), &doubt.gone[..]), (2, &[12, 13][..]));
    }

    #[test]
    fn a_restored_cluster_ends_what_it_cannot_know_and_takes_no_id_twice() {
        let mut state = three();
        let key = sealed("sealed1.1.x", "sha256:aa");
        for at in ["ssl/key", "app/password"] {
            state.config = state.config.set(&Path::parse(at).unwrap(), &key, 2).unwrap();
        }
        let at = path(&["ssl", "certificate"]);
        state.config = state.config.set(&at, &json!("PEM"), 2).unwrap();
        let wish = Incarnation { forget_secrets: true, ..new(Cause::Restored, 31) };
        let records = read(&state.begin_incarnation(&wish).unwrap());
        assert_eq!((state.jobs.len(), state.doubts.len()), (0, 0));
        let outcomes: Vec<_> = records.iter().filter_map(|r| r["outcome"].as_str()).collect();
        assert_eq!(outcomes, ["ok", "cancelled", "indeterminate", "ok"]);
        assert!(secrets(&state.config).is_empty() && state.config.get(&at).is_none());
        assert_eq!(state.config.value(&path(&["app"])), Some(json!({"n": 5})));
        let own = state.config.value(&State::node_path(31)).unwrap();
        assert_eq!((&own["name"], &own["role"]), (&json!("n31"), &json!("voter")));
        assert!(state.bases.is_empty() && state.locks_held == Default::default());
        // A second restore leaves the next gap.
        state.begin_incarnation(&new(Cause::Restored, 31)).unwrap();
        assert_eq!((state.revision, state.last_job), (2 * GAP, 2 * GAP));
        assert_eq!(state.members[&31].raft_id, 31 << 16 | 2);
        let kept = crate::snapshot::decode(&crate::snapshot::encode(&state)).unwrap();
        assert_eq!(kept, state);
        assert_ne!(chain::to_text(&state.chain.head), chain::to_text(&chain::GENESIS));
    }
}
