//! The outside of job functions in the simulation: the real jobs run against this.
//!
//! Nothing waits here and nothing is random: hashes, seals and nonces are functions of what they
//! are made from. The seal hides its content from a search of the disk; it is no cipher.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tiebeam_core::declaration::Params;
use tiebeam_core::proposal::Plan;
use tiebeam_core::{Path, State, Tree, diff, job};
use tiebeam_jobs::world::{
    CertificateOffer, CheckedCertificate, CommandWish, DerivedSecret, SealedSecret, World,
};
use tiebeam_jobs::{Job, JobError, Run};
use tiebeam_proto::canonical;
use tiebeam_proto::record::{CommandRecord, JobRecord};
use tiebeam_proto::time::Time;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The outside of one run of a job function.
pub(super) struct SimWorld {
    /// The node and its term.
    pub(super) master: (u32, u64),
    /// The wall clock.
    pub(super) now: Time,
    /// The State that the function runs against.
    pub(super) state: Arc<State>,
    /// Archived records of jobs that made a revision.
    pub(super) revisions: Arc<BTreeMap<u64, Arc<JobRecord>>>,
    /// What is derived depends on it.
    pub(super) nonce: String,
}

/// Runs a job function to a plan.
pub(super) fn plan(job: &Job, user: &str, params: &Params, world: SimWorld, dry: bool) -> Plan {
    let state = world.state.clone();
    let run = Run::new(user.to_owned(), params.clone(), state, Arc::new(world));
    let mut function = pin!((job.run)(run.clone()));
    let polled = function.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let result = match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(JobError::failed("the simulation's world never waits")),
    };
    run.into_plan(result, dry)
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

impl SimWorld {
    fn record_of(&self, revision: u64) -> Option<Arc<JobRecord>> {
        if let Some(record) = self.revisions.get(&revision) {
            return Some(record.clone());
        }
        let live = self.state.uncommitted.iter().filter_map(|job| self.state.jobs.get(job));
        let made = |job: &&Arc<job::Job>| job.record.result.result_revision == Some(revision);
        live.into_iter().find(made).map(|job| Arc::new(job.record.clone()))
    }
}

impl World for SimWorld {
    fn master(&self) -> (u32, u64) {
        self.master
    }

    fn now(&self) -> Time {
        self.now
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

    fn command(&self, _wish: CommandWish) -> BoxFuture<Result<CommandRecord, JobError>> {
        Box::pin(async { Err(JobError::failed("there are no commands in the simulation")) })
    }

    fn progress(&self, _percent: u8, _text: &str) {}
}
