//! The outside of job functions in the simulation: the real jobs run against this.
//!
//! Nothing waits here and nothing is random: hashes, seals and nonces are functions of what they
//! are made from. The seal hides its content from a search of the disk; it is no cipher.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tiebeam_core::declaration::Params;
use tiebeam_core::proposal::Plan;
use tiebeam_core::{Path, State, Tree, diff, job};
use tiebeam_executor::command::{self, Ask, Refusal};
use tiebeam_jobs::world::{
    CertificateOffer, CheckedCertificate, CommandWish, DebugFound, DebugWish, DerivedSecret, Part,
    SealedSecret, World,
};
use tiebeam_jobs::{Job, JobError, Run};
use tiebeam_proto::canonical;
use tiebeam_proto::record::{CommandRecord, JobRecord};
use tiebeam_proto::time::Time;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a run of a job function came to.
pub(super) enum Planned {
    /// It ended.
    Ended(Box<Plan>),
    /// It waits for commands; these have no intent yet.
    Waits(Vec<CommandWish>),
}

/// A job on the long path.
pub(super) struct Live {
    pub(super) job: Arc<job::Job>,
    /// Commands that its function cannot have.
    pub(super) refused: BTreeMap<String, Refusal>,
}

/// The outside of one run of a job function.
pub(super) struct SimWorld {
    /// The node and its term.
    pub(super) master: (u32, u64),
    /// The wall clock.
    pub(super) now: Time,
    /// The State that the function runs against.
    pub(super) state: Arc<State>,
    /// The newest State of the node.
    pub(super) newest: Arc<State>,
    /// Members that have nearly everything that this node has.
    pub(super) caught_up: BTreeSet<u32>,
    /// Archived records of jobs that made a revision.
    pub(super) revisions: Arc<BTreeMap<u64, Arc<JobRecord>>>,
    /// What is derived depends on it.
    pub(super) nonce: String,
    /// The job, on the long path.
    pub(super) live: Option<Live>,
    /// The node's jobs have other code than they had.
    pub(super) upgraded: bool,
    /// Commands that the run asked for and that have no intent.
    pub(super) wishes: Arc<Mutex<Vec<CommandWish>>>,
}

/// Runs a job function from its start: recorded results come back at once, and where there is none
/// the run stands still (ruling 10).
pub(super) fn plan(job: &Job, user: &str, params: &Params, world: SimWorld) -> Planned {
    let (state, wishes) = (world.state.clone(), world.wishes.clone());
    let run = Run::new(user.to_owned(), params.clone(), state, Arc::new(world));
    let mut function = pin!((job.run)(run.clone()));
    let polled = function.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    match polled {
        Poll::Ready(result) => Planned::Ended(Box::new(run.into_plan(result, false))),
        Poll::Pending => {
            let mut wishes = wishes.lock().unwrap_or_else(PoisonError::into_inner);
            Planned::Waits(std::mem::take(&mut *wishes))
        }
    }
}

/// Digest of a command's arguments.
pub(super) fn digest_of(wish: &CommandWish) -> String {
    let plain = serde_json::to_value(wish).unwrap_or_default();
    canonical::hex(&canonical::digest(&plain))
}

fn digest(text: &str) -> String {
    canonical::hex(&canonical::digest(&json!(text)))
}

/// Hides bytes from a search of the disk, and nothing more.
pub(super) fn seal(plain: &[u8]) -> String {
    let turned: Vec<u8> = plain.iter().map(|byte| byte ^ 0xA5).collect();
    canonical::hex(&turned)
}

/// What [`seal`] hid.
pub(super) fn open(sealed: &str) -> Option<Vec<u8>> {
    let mut bytes = canonical::parse_hex(sealed)?;
    bytes.iter_mut().for_each(|byte| *byte ^= 0xA5);
    Some(bytes)
}

fn job_error(refusal: Refusal) -> JobError {
    match refusal {
        Refusal::Cancelled(text) => JobError::Cancelled(text),
        Refusal::Late(text) => JobError::Timeout(text),
        Refusal::Indeterminate(text) => JobError::Indeterminate(text),
    }
}

/// The commitment to a parameter's value.
pub(super) fn commitment(nonce: &str, name: &str, value: &[u8]) -> String {
    format!("sha256:{}", digest(&format!("{nonce} {name} {}", canonical::hex(value))))
}

impl SimWorld {
    fn record_of(&self, revision: u64) -> Option<Arc<JobRecord>> {
        if let Some(record) = self.revisions.get(&revision) {
            return Some(record.clone());
        }
        let live = self.state.uncommitted.iter().filter_map(|job| self.state.jobs.get(job));
        let made = |job: &&Arc<job::Job>| job.record.result.result_revision == Some(revision);
        live.into_iter().find(made).map(|job| job.record.clone())
    }
}

impl World for SimWorld {
    fn master(&self) -> (u32, u64) {
        self.master
    }

    fn now(&self) -> Time {
        self.now
    }

    fn clock_off_us(&self) -> Option<i64> {
        None
    }

    fn hash_password(&self, password: String) -> BoxFuture<Result<String, JobError>> {
        let hash = format!("$argon2id$v=19$m=8,t=1,p=1$c2ltdWxhdGlvbg${}", digest(&password));
        Box::pin(async move { Ok(hash) })
    }

    fn check_ready_hash(&self, _hash: &str) -> Result<(), JobError> {
        Ok(())
    }

    fn seal(&self, place: &Path, value: &Value) -> Result<SealedSecret, JobError> {
        let plain = canonical::to_vec(value);
        let salted = format!("{} {place} {}", self.nonce, canonical::hex(&plain));
        Ok(SealedSecret { text: seal(&plain), digest: format!("sha256:{}", digest(&salted)) })
    }

    fn derive(&self, purpose: &str, subject: &str) -> DerivedSecret {
        let hash = digest(&format!("{purpose} {subject} {}", self.nonce));
        DerivedSecret { hash, nonce: self.nonce.clone() }
    }

    fn revisions(&self, below: Option<u64>, limit: usize) -> Result<Vec<Arc<JobRecord>>, JobError> {
        let newest = below.unwrap_or(self.state.revision + 1).saturating_sub(1);
        Ok((2..=newest).rev().filter_map(|number| self.record_of(number)).take(limit).collect())
    }

    fn revision(&self, revision: u64) -> Result<Option<Arc<JobRecord>>, JobError> {
        Ok(self.record_of(revision))
    }

    fn tree_at(&self, revision: u64) -> Result<Tree, JobError> {
        let mut tree = self.state.config.clone();
        for at in (revision + 1..=self.state.revision).rev() {
            let missing = || JobError::Failed(format!("revision {at} is not kept"));
            let record = self.record_of(at).ok_or_else(missing)?;
            tree = diff::undo(&tree, &record.change, at)?;
        }
        Ok(tree)
    }

    fn node_facts(&self, _node: u32) -> Value {
        json!({})
    }

    fn node_state(&self, _node: u32) -> &'static str {
        "online"
    }

    fn node_booted(&self, _node: u32) -> Option<String> {
        None
    }

    fn health(&self) -> Value {
        json!({"ok": true})
    }

    fn wait_published(&self, _node: u32, _revision: u64, _timeout_s: u64) -> BoxFuture<bool> {
        Box::pin(async { true })
    }

    fn check_certificate(&self, _: &CertificateOffer) -> Result<CheckedCertificate, JobError> {
        Err(JobError::failed("there are no certificates in the simulation"))
    }

    fn certificates(&self) -> Value {
        json!({})
    }

    fn verify_history(&self) -> BoxFuture<Result<Value, JobError>> {
        Box::pin(async { Err(JobError::failed("the simulation verifies the history itself")) })
    }

    fn command(&self, mut wish: CommandWish) -> BoxFuture<Result<CommandRecord, JobError>> {
        wish.timeout_s += u64::from(self.upgraded);
        let Some(live) = &self.live else {
            let error = JobError::failed("a job that is done in one entry cannot run commands");
            return Box::pin(async { Err(error) });
        };
        if let Some(refusal) = live.refused.get(&wish.key) {
            let error = job_error(refusal.clone());
            return Box::pin(async { Err(error) });
        }
        match command::ask(&self.newest, live.job.sequence, &wish.key, &digest_of(&wish)) {
            Ask::Ended(record) => Box::pin(async { Ok(*record) }),
            Ask::Refused(refusal) => Box::pin(async { Err(job_error(refusal)) }),
            Ask::Await => Box::pin(std::future::pending()),
            Ask::Intend => {
                self.wishes.lock().unwrap_or_else(PoisonError::into_inner).push(wish);
                Box::pin(std::future::pending())
            }
        }
    }

    fn ca_fingerprint(&self) -> Result<String, JobError> {
        Ok("0".repeat(64))
    }

    fn newest(&self) -> Arc<State> {
        self.newest.clone()
    }

    fn caught_up(&self, node: u32) -> bool {
        self.caught_up.contains(&node)
    }

    /// The run stands still; the conductor runs it again from its start, later.
    fn pause(&self, _milliseconds: u64) -> BoxFuture<()> {
        Box::pin(std::future::pending())
    }

    fn submitted_to(&self) -> u32 {
        self.live.as_ref().map_or(self.master.0, |live| live.job.record.scheduling.master)
    }

    fn hand_over(&self, _to: &[u32]) -> BoxFuture<Result<(), JobError>> {
        Box::pin(async { Err(JobError::failed("leadership is handed over by faults only")) })
    }

    fn recorded(&self, key: &str) -> Option<Value> {
        command::recorded(&self.newest, self.live.as_ref()?.job.sequence, key)
    }

    fn record(&self, _key: &str, _value: Value) -> BoxFuture<Result<Value, JobError>> {
        Box::pin(async { Err(JobError::failed("no job of the simulation records anything")) })
    }

    fn part(&self, _part: Part) -> BoxFuture<Result<Arc<JobRecord>, JobError>> {
        Box::pin(async { Err(JobError::failed("the clients of the simulation ask for no parts")) })
    }

    fn collect_debug(&self, _wish: DebugWish) -> BoxFuture<Result<DebugFound, JobError>> {
        Box::pin(async { Err(JobError::failed("there is nothing to collect in the simulation")) })
    }

    fn progress(&self, _percent: u8, _text: &str) {}
}
