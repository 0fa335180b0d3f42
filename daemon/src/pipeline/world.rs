//! The outside as job functions see it: the daemon's side of [`tiebeam_jobs::World`].

use super::conductor::told;
use super::execute::WorldFacts;
use super::part;
use crate::certificates;
use crate::cluster::keeper;
use crate::engine::Engine;
use crate::facts;
use crate::progress::Word;
use crate::secret::Secret;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::apply::incarnate::GAP;
use tiebeam_core::apply::retention::TREE_EVERY;
use tiebeam_core::proposal::{Body, Intent, Recorded};
use tiebeam_core::{Path, State, Tree, diff};
use tiebeam_executor::command::{self, Ask, Intended, Refusal};
use tiebeam_jobs::JobError;
use tiebeam_jobs::world::{
    CertificateOffer, CheckedCertificate, CommandWish, DebugFound, DebugWish, DerivedSecret, Part,
    SealedSecret, World,
};
use tiebeam_proto::canonical;
use tiebeam_proto::record::{CommandRecord, JobRecord};

/// Changes that a look back undoes at most: a full tree is never further, unless the newest of
/// them waits for its committed stamp.
const LOOK_BACK_MAX: u64 = 2 * TREE_EVERY;

/// What a member gets beyond an election timeout to take leadership over.
const HAND_OVER_MARGIN: Duration = Duration::from_millis(200);

/// The world of one run.
pub struct JobWorld {
    engine: Arc<Engine>,
    facts: WorldFacts,
}

impl JobWorld {
    /// The world of a run of this job.
    pub fn new(engine: Arc<Engine>, facts: WorldFacts) -> JobWorld {
        JobWorld { engine, facts }
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> JobError {
    tracing::error!(error = %crate::report::chain(error), "cannot {what}");
    JobError::Failed(format!("cannot {what}"))
}

impl World for JobWorld {
    fn master(&self) -> (u32, u64) {
        (self.engine.identity.node_id, self.engine.role.borrow().term)
    }

    fn now(&self) -> tiebeam_proto::time::Time {
        self.engine.proposer.wall()
    }

    fn clock_off_us(&self) -> Option<i64> {
        self.engine.cluster.clocks.own_off_us(&self.engine.board.state())
    }

    fn hash_password(&self, password: String) -> BoxFuture<'static, Result<String, JobError>> {
        let engine = self.engine.clone();
        Box::pin(async move {
            let password = Arc::new(Secret::new(password));
            let hashed = engine.auth.passwords().hash(password).await;
            hashed.map_err(|error| JobError::Failed(error.to_string()))
        })
    }

    fn check_ready_hash(&self, hash: &str) -> Result<(), JobError> {
        crate::auth::check_ready_hash(hash).map_err(|error| JobError::Failed(error.to_string()))
    }

    fn seal(&self, place: &Path, value: &Value) -> Result<SealedSecret, JobError> {
        let plain = zeroize::Zeroizing::new(canonical::to_vec(value));
        let keys = &self.engine.keys.cluster;
        let text = keys.seal(&plain).map_err(|error| failed("seal a secret", &error))?;
        let digest = keys
            .commitment(&self.facts.nonce, place.as_str(), &plain)
            .map_err(|error| failed("commit to a secret", &error))?;
        Ok(SealedSecret { text, digest })
    }

    fn derive(&self, purpose: &str, subject: &str) -> DerivedSecret {
        let keys = &self.engine.keys.cluster;
        let nonce = self.facts.nonce.clone();
        let secret = keys.derive(purpose, subject, &nonce);
        let hash = secret.map(|secret| crate::keys::one_time_hash(secret.expose()));
        DerivedSecret { hash: hash.unwrap_or_default(), nonce }
    }

    fn revisions(&self, below: Option<u64>, limit: usize) -> Result<Vec<Arc<JobRecord>>, JobError> {
        facts::revisions(&self.engine, below, limit)
            .map_err(|error| failed("read the history", &error))
    }

    fn revision(&self, revision: u64) -> Result<Option<Arc<JobRecord>>, JobError> {
        facts::revision(&self.engine, revision).map_err(|error| failed("read the history", &error))
    }

    fn tree_at(&self, revision: u64) -> Result<Tree, JobError> {
        let state = self.engine.board.state();
        let unknown = || {
            let newest = state.revision;
            let text = format!(
                "unknown_revision: revision {revision} is not kept; the newest is {newest}"
            );
            JobError::Failed(text)
        };
        if revision == 0 || revision > state.revision {
            return Err(unknown());
        }
        let (mut tree, mut at) = self.nearest_tree(&state, revision)?;
        let mut steps = 0;
        while at > revision {
            let records = self.revisions(Some(at + 1), 256)?;
            for record in &records {
                if record.result.result_revision != Some(at) || steps > LOOK_BACK_MAX {
                    return Err(unknown());
                }
                if at == revision {
                    break;
                }
                tree = diff::undo(&tree, &record.change, at)?;
                at = before(at, record);
                steps += 1;
            }
            if records.is_empty() {
                return Err(unknown());
            }
        }
        // One in the gap before a new incarnation never was.
        if at == revision { Ok(tree) } else { Err(unknown()) }
    }

    fn node_facts(&self, node: u32) -> Value {
        facts::node(&self.engine, node)
    }

    fn node_state(&self, node: u32) -> &'static str {
        self.engine.cluster.node_state(node)
    }

    fn node_booted(&self, node: u32) -> Option<String> {
        facts::node(&self.engine, node)["booted"].as_str().map(str::to_owned)
    }

    fn health(&self) -> Value {
        facts::health(&self.engine)
    }

    fn wait_published(&self, node: u32, revision: u64, timeout_s: u64) -> BoxFuture<'static, bool> {
        let engine = self.engine.clone();
        Box::pin(async move {
            let limit = std::time::Duration::from_secs(timeout_s);
            if node == engine.identity.node_id {
                let wait = engine.published.wait_for(revision);
                return tokio::time::timeout(limit, wait).await.is_ok();
            }
            let told = || {
                let state = engine.board.state();
                let member = state.members.get(&node)?.raft_id;
                engine.cluster.report_of(member).map(|report| report.published)
            };
            let wait = async {
                while told() < Some(revision) {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(limit, wait).await.is_ok()
        })
    }

    fn check_certificate(&self, offer: &CertificateOffer) -> Result<CheckedCertificate, JobError> {
        certificates::check(&self.engine, offer)
    }

    fn certificates(&self) -> Value {
        certificates::facts(&self.engine)
    }

    fn verify_history(&self) -> BoxFuture<'static, Result<Value, JobError>> {
        let engine = self.engine.clone();
        Box::pin(async move {
            let verified =
                tokio::task::spawn_blocking(move || facts::verify_history(&engine)).await;
            verified.unwrap_or_else(|_| Err(JobError::failed("the verification was stopped")))
        })
    }

    fn command(&self, wish: CommandWish) -> BoxFuture<'static, Result<CommandRecord, JobError>> {
        let engine = self.engine.clone();
        let live = self.facts.live.clone();
        Box::pin(async move {
            let (sequence, _) = live.ok_or_else(|| {
                JobError::failed("a job that is done in one entry cannot run commands")
            })?;
            run_command(&engine, sequence, wish).await
        })
    }

    fn recorded(&self, key: &str) -> Option<Value> {
        let (sequence, _) = self.facts.live.as_ref()?;
        command::recorded(&self.engine.board.state(), *sequence, key)
    }

    fn record(&self, key: &str, value: Value) -> BoxFuture<'static, Result<Value, JobError>> {
        let (engine, live, key) = (self.engine.clone(), self.facts.live.clone(), key.to_owned());
        Box::pin(async move {
            let (sequence, _) = live.ok_or_else(|| {
                JobError::failed("a job that is done in one entry is never run again")
            })?;
            record(&engine, sequence, key, value).await
        })
    }

    fn part(&self, part: Part) -> BoxFuture<'static, Result<Arc<JobRecord>, JobError>> {
        let (engine, live) = (self.engine.clone(), self.facts.live.clone());
        Box::pin(async move {
            let (sequence, _) = live
                .ok_or_else(|| JobError::failed("a job that is done in one entry has no parts"))?;
            part::run(&engine, sequence, part).await
        })
    }

    fn ca_fingerprint(&self) -> Result<String, JobError> {
        let facts = certificates::facts(&self.engine);
        let found = facts["authority"]["fingerprint"].as_str();
        let found = found.map(|text| text.trim_start_matches("sha256:").to_owned());
        found.ok_or_else(|| JobError::failed("the authority's certificate cannot be read"))
    }

    fn newest(&self) -> Arc<State> {
        self.engine.board.state()
    }

    fn caught_up(&self, node: u32) -> bool {
        keeper::is_near(&self.engine.cluster, &self.engine.board.state(), node)
    }

    fn pause(&self, milliseconds: u64) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(Duration::from_millis(milliseconds)))
    }

    fn submitted_to(&self) -> u32 {
        let live = self.facts.live.as_ref().and_then(|(_, id)| tiebeam_core::job::parse_job_id(id));
        live.map_or(self.engine.identity.node_id, |(node, _)| node)
    }

    fn hand_over(&self, to: &[u32]) -> BoxFuture<'static, Result<(), JobError>> {
        let (engine, to) = (self.engine.clone(), to.to_vec());
        Box::pin(async move { hand_over(&engine, &to).await })
    }

    fn collect_debug(&self, wish: DebugWish) -> BoxFuture<'static, Result<DebugFound, JobError>> {
        let engine = self.engine.clone();
        let job = self.facts.live.as_ref().map_or_else(String::new, |(_, id)| id.clone());
        Box::pin(async move { crate::debug::collect(&engine, &job, wish).await })
    }

    fn progress(&self, percent: u8, text: &str) {
        let Some((_, id)) = &self.facts.live else { return };
        let state = self.engine.board.state();
        let Some(job) = state.live_job(id) else { return };
        let (job, user) = (id.clone(), job.record.user.to_string());
        self.engine.metrics.progress.note(Word { job, user, percent, text: text.to_owned() });
    }
}

impl JobWorld {
    /// The nearest whole configuration at or above a revision: a full tree, or the newest one.
    fn nearest_tree(&self, state: &State, revision: u64) -> Result<(Tree, u64), JobError> {
        // The first revision of a new incarnation has a full tree, too, whatever lies before it.
        for full in [revision.next_multiple_of(TREE_EVERY), revision.next_multiple_of(GAP)] {
            if full >= state.revision {
                continue;
            }
            let found = facts::full_tree(&self.engine, full);
            let found = found.map_err(|error| failed("read the history", &error))?;
            if let Some(record) = found {
                let tree = Tree::new().set(&Path::root(), &record.tree.config, full)?;
                return Ok((tree, full));
            }
        }
        Ok((state.config.clone(), state.revision))
    }
}

/// The revision before the one that this record made: a new incarnation leaves a gap.
fn before(revision: u64, made: &JobRecord) -> u64 {
    if revision.is_multiple_of(GAP) { made.scheduling.base_revision } else { revision - 1 }
}

/// Hands leadership to the first of these members that takes it; if none is named, to any voter
/// that can. One that has just become a voter may not be ready to lead yet, so there is a second
/// round.
///
/// # Errors
/// Nobody takes it.
pub async fn hand_over(engine: &Engine, to: &[u32]) -> Result<(), JobError> {
    let state = engine.board.state();
    let voter = |node: &u32| state.members.get(node).filter(|m| m.voter).map(|m| m.raft_id);
    let tries: Vec<u64> = match to {
        [] => keeper::successors(&engine.cluster, &state),
        named => named.iter().filter_map(voter).collect(),
    };
    let mut role = engine.role.clone();
    for next in tries.iter().chain(&tries) {
        engine.proposer.transfer(Some(*next));
        let given = role.wait_for(|role| !role.leads);
        // Raft ignores a second request for the same member until the first one is given up.
        let wait = engine.cluster.election_timeout() + HAND_OVER_MARGIN;
        if tokio::time::timeout(wait, given).await.is_ok() {
            return Ok(());
        }
    }
    Err(JobError::failed("no voter took the leadership over: see node_state for who is online"))
}

/// Runs a command of a live job: its intent first, then its end, whichever master saw it start.
async fn run_command(
    engine: &Arc<Engine>,
    sequence: u64,
    wish: CommandWish,
) -> Result<CommandRecord, JobError> {
    let plain = serde_json::to_value(&wish).map_err(|error| failed("write a command", &error))?;
    let plain = zeroize::Zeroizing::new(canonical::to_vec(&plain));
    let digest = canonical::hex(&{
        use sha2::Digest;
        sha2::Sha256::digest(&*plain)
    });
    loop {
        match command::ask(&engine.board.state(), sequence, &wish.key, &digest) {
            Ask::Ended(record) => return Ok(*record),
            Ask::Refused(refusal) => return Err(job_error(refusal)),
            // The end wakes us; a State that was replaced meanwhile is looked at again.
            Ask::Await => drop(engine.board.command_end(sequence, &wish.key).await),
            Ask::Intend => {
                let sealed = engine.keys.cluster.seal(&plain);
                let intent = Intent {
                    job: sequence,
                    key: wish.key.clone(),
                    node: wish.node,
                    digest: digest.clone(),
                    spec: sealed.map_err(|error| failed("seal a command", &error))?,
                    deadline_us: wish.timeout_s.saturating_mul(1_000_000),
                    time: engine.proposer.wall(),
                };
                propose(engine, sequence, Body::Intent(intent)).await?;
            }
        }
    }
}

/// Records a value for every later run of a live job; what was recorded first is what counts.
///
/// # Errors
/// The job has ended, or this node is not the master any more.
pub async fn record(
    engine: &Engine,
    job: u64,
    key: String,
    value: Value,
) -> Result<Value, JobError> {
    loop {
        if let Some(known) = command::recorded(&engine.board.state(), job, &key) {
            return Ok(known);
        }
        let recorded = Recorded { job, key: key.clone(), value: value.clone() };
        propose(engine, job, Body::Recorded(recorded)).await?;
    }
}

/// Proposes what a job's function needs in the log. Whether it is there is looked for in State.
async fn propose(engine: &Engine, job: u64, body: Body) -> Result<(), JobError> {
    let answer = engine.proposer.propose(body).await;
    let office = engine.role.borrow().office();
    match command::intended(&engine.board.state(), job, told(&answer), office) {
        Intended::AskIn(us) => tokio::time::sleep(Duration::from_micros(us)).await,
        Intended::Refused(refusal) => return Err(job_error(refusal)),
    }
    Ok(())
}

fn job_error(refusal: Refusal) -> JobError {
    match refusal {
        Refusal::Cancelled(text) => JobError::Cancelled(text),
        Refusal::Late(text) => JobError::Timeout(text),
        Refusal::Indeterminate(text) => JobError::Indeterminate(text),
    }
}
