//! A call's way into the log: the checks, the request id, what is submitted, and whether the job
//! is done in one entry or waits for its locks (ruling 8).
//!
//! Checks are in this order: are kwargs and parameters well formed, may the caller, was the call
//! made before. A driver brings what is secret or random: nonce, commitments, the seal.

use crate::faults::{Faults, Sound, Step};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tiebeam_core::admit::{self, Kwargs};
use tiebeam_core::declaration::{Declaration, Params, Secrecy, Way};
use tiebeam_core::effect::Answer;
use tiebeam_core::lock::{Lock, LockSet};
use tiebeam_core::proposal::{Needs, Plan, RequestKey, RunOnce, Submission};
use tiebeam_core::requests::Lookup;
use tiebeam_core::{State, settings};
use tiebeam_proto::limits::REPLANS_MAX;
use tiebeam_proto::record::{JobRecord, Mode, RequestFacts, Stages};
use tiebeam_proto::{ErrorCode, Outcome, RpcError, canonical, time::Time};

/// Why a call makes no job.
#[derive(Clone, Debug, PartialEq)]
pub enum Declined {
    /// It is not well formed.
    Malformed(RpcError),
    /// The caller may not, and why.
    Denied(String),
}

/// A call that passed its checks.
#[derive(Clone)]
pub struct Admitted<F = Sound> {
    /// The job's declaration.
    pub declaration: &'static Declaration,
    /// Its parameters, complete.
    pub params: Params,
    /// What else was asked.
    pub kwargs: Kwargs,
    /// Who asks.
    pub user: String,
    /// What the record keeps of the request.
    pub request: Arc<RequestFacts>,
    /// What salts of commitments are made from.
    pub nonce: String,
    /// When it was admitted.
    pub submitted: Time,
    /// What the caller needs.
    pub needs: Arc<Needs>,
    /// What the job holds while it runs.
    pub locks: Arc<[Lock]>,
    faults: F,
}

/// Who calls, and what the driver drew for the call.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user.
    pub user: String,
    /// What the record keeps of the request.
    pub request: Arc<RequestFacts>,
    /// A nonce that no other call has.
    pub nonce: String,
    /// The wall clock.
    pub submitted: Time,
}

/// A job's parameters as its record shows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// By name.
    pub parameters: Map<String, Value>,
    /// Whether a commitment is among them, so that the record keeps the nonce.
    pub committed: bool,
}

/// Checks a call. `needs` tells what a caller needs for a job with these parameters.
///
/// # Errors
/// [`Declined`].
pub fn admit<F: Faults>(
    state: &State,
    declaration: &'static Declaration,
    caller: Caller,
    kwargs: Kwargs,
    (needs, faults): (impl FnOnce(&Declaration, &Params) -> Needs, F),
) -> Result<Admitted<F>, Declined> {
    admit::check_kwargs(declaration, &kwargs).map_err(Declined::Malformed)?;
    let params = admit::check_params(declaration, &kwargs.params).map_err(Declined::Malformed)?;
    let needs = needs(declaration, &params);
    let Caller { user, request, nonce, submitted } = caller;
    state.may(&user, &needs).map_err(|denied| Declined::Denied(denied.to_string()))?;
    let request = match &kwargs.request_id {
        None => request,
        id => Arc::new(RequestFacts { request_id: id.clone(), ..(*request).clone() }),
    };
    let (needs, locks) = (Arc::new(needs), (declaration.locks)(&params).into());
    Ok(Admitted {
        declaration,
        params,
        kwargs,
        user,
        request,
        nonce,
        submitted,
        needs,
        locks,
        faults,
    })
}

impl<F: Faults> Admitted<F> {
    /// The idempotency key and what it is used for: job name and parameters, hashed together.
    pub fn request_key(&self) -> Option<RequestKey> {
        let key = self.kwargs.request_id.clone()?;
        if self.faults.skips(Step::SendRequestId) {
            return None;
        }
        let used_for = match self.faults.skips(Step::DigestCall) {
            true => json!([]),
            false => json!([
                self.declaration.name,
                Value::Object(self.params.clone()),
                self.kwargs.dry_run,
            ]),
        };
        let digest = canonical::hex(&canonical::digest(&used_for)[..16]);
        Some(RequestKey { key, digest })
    }

    /// The id of the job that the same call made before.
    pub fn made_before(&self, state: &State) -> Option<String> {
        match state.requests.look_up(&self.user, &self.request_key()?) {
            Lookup::Same(id) => Some(id),
            _ => None,
        }
    }

    /// The parameters as the record shows them (ruling 21); `commit` makes the commitment to the
    /// value of a parameter.
    ///
    /// # Errors
    /// What `commit` says.
    pub fn shown<E>(
        &self,
        state: &State,
        commit: impl Fn(&str, &[u8]) -> Result<String, E>,
    ) -> Result<Shown, E> {
        let concealed = (self.declaration.conceal)(state, &self.params);
        let mut shown = Shown::default();
        for (name, value) in &self.params {
            let param = self.declaration.param(name);
            let value = match param.map_or(Secrecy::Open, |param| param.secrecy) {
                Secrecy::Open if !concealed.contains(&name.as_str()) => value.clone(),
                Secrecy::Password => json!({"secret": "withheld"}),
                Secrecy::Open | Secrecy::Secret => {
                    shown.committed = true;
                    json!({"secret": commit(name, &canonical::to_vec(value))?})
                }
            };
            shown.parameters.insert(name.clone(), value);
        }
        Ok(shown)
    }

    /// What is submitted by this master, node and term. `inputs` are the sealed parameters, on the
    /// long path.
    pub fn submission(
        &self,
        state: &State,
        (master, term): (u32, u64),
        shown: Shown,
        inputs: Option<String>,
    ) -> Submission {
        let declaration = self.declaration;
        let default_s = || settings::integer(&state.config, "jobs", "deadline_s");
        let deadline_s =
            self.kwargs.deadline_s.or(declaration.deadline_s).unwrap_or_else(default_s);
        Submission {
            name: Arc::from(declaration.name),
            kind: declaration.kind,
            user: Arc::from(self.user.as_str()),
            credential_revision: state.credential_revision(&self.user).unwrap_or(0),
            reason: self.kwargs.reason.clone(),
            mode: if self.kwargs.dry_run { Mode::DryRun } else { Mode::Immediate },
            parameters: Arc::new(shown.parameters),
            nonce: shown.committed.then(|| self.nonce.clone()),
            inputs,
            request: self.request.clone(),
            request_key: self.request_key(),
            needs: self.needs.clone(),
            locks: self.locks.clone(),
            master,
            term,
            deadline_us: deadline_s.saturating_mul(1_000_000),
            submitted: self.submitted,
        }
    }

    /// The one entry of a job that was planned between these two wall times.
    pub fn run_once(
        &self,
        submission: Submission,
        mut plan: Plan,
        (scheduled, finished): (Time, Time),
    ) -> RunOnce {
        if self.faults.skips(Step::SendReads) {
            plan.reads.clear();
        }
        let times = Stages {
            submitted: Some(self.submitted),
            scheduled: Some(scheduled),
            executed: Some(scheduled),
            finished: Some(finished),
            committed: None,
        };
        RunOnce { submission, plan, times }
    }

    /// Whether the job may be done in one entry: it can be, and nobody holds, awaits or carries a
    /// lock in its way. Then its locks are in flight until they are released.
    pub fn goes_once(&self, state: &State, flight: &mut Flight) -> bool {
        self.declaration.way == Way::Once && flight.reserve(state, &self.locks)
    }
}

/// Locks of plans that are on their way into the log: the third part of the master's lock table,
/// beside what running and waiting jobs hold in State.
#[derive(Clone, Debug, Default)]
pub struct Flight {
    locks: LockSet,
}

impl Flight {
    /// Reserves `locks`, unless somebody holds, awaits or carries one that conflicts.
    pub fn reserve(&mut self, state: &State, locks: &[Lock]) -> bool {
        if state.has_conflict(locks) || self.locks.conflicts(locks) {
            return false;
        }
        self.locks.take(locks);
        true
    }

    /// Gives reserved locks back.
    pub fn release(&mut self, locks: &[Lock]) {
        self.locks.release(locks);
    }
}

/// A job that has an id.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// The id.
    pub id: String,
    /// Its record, if it has ended already.
    pub record: Option<Arc<JobRecord>>,
}

/// What the log said to a job that was proposed.
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// It has an id.
    Started(Started),
    /// Its plan looked at what has changed since.
    Stale,
    /// There is no job.
    Refused(RpcError),
}

/// What an answer of the log says to a call.
pub fn answered(answer: Answer) -> Answered {
    match answer {
        Answer::Job { id, record } => Answered::Started(Started { id, record }),
        Answer::Existing { id } => Answered::Started(Started { id, record: None }),
        Answer::Stale => Answered::Stale,
        Answer::Refused(error) => Answered::Refused(error),
        Answer::Done | Answer::Cancel(_) => {
            let text = "the log gave an answer that does not fit";
            Answered::Refused(RpcError::new(ErrorCode::Internal, text))
        }
    }
}

/// What a call does whose plan was stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It plans once more, against the newest State.
    Plan,
    /// It drops its plan and waits for its locks: another job's came first meanwhile, or its plans
    /// were all of them overtaken.
    Queue,
}

/// The attempts of a job that is to be done in one entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts(u32);

impl Attempts {
    /// The end of a job whose plans were all overtaken; `None` if its function is to run.
    pub fn conflict(&self, revision: u64) -> Option<Plan> {
        (self.0 >= REPLANS_MAX).then(|| {
            let why =
                format!("what the job looked at changed {REPLANS_MAX} times while it was planned");
            Plan::ended(revision, Outcome::Conflict, why)
        })
    }

    /// The plan was stale; `newest` is the State now.
    pub fn stale(&mut self, newest: &State, locks: &[Lock]) -> Again {
        if self.0 >= REPLANS_MAX || newest.has_conflict(locks) {
            return Again::Queue;
        }
        self.0 += 1;
        Again::Plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_is_in_the_way_until_it_is_released() {
        let (state, mut flight) = (State::default(), Flight::default());
        let (one, other) = ([Lock::write("a")], [Lock::read("a"), Lock::write("b")]);
        assert!(flight.reserve(&state, &one));
        assert!(!flight.reserve(&state, &other));
        flight.release(&one);
        assert!(flight.reserve(&state, &other));
    }

    #[test]
    fn a_job_that_is_overtaken_again_and_again_ends_as_a_conflict() {
        let (state, mut attempts) = (State::default(), Attempts::default());
        for _ in 0..REPLANS_MAX {
            assert!(attempts.conflict(1).is_none());
            assert_eq!(attempts.stale(&state, &[]), Again::Plan);
        }
        let plan = attempts.conflict(1).unwrap();
        assert_eq!(plan.outcome, Outcome::Conflict);
        assert_eq!(attempts.stale(&state, &[]), Again::Queue);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error_and_no_job() {
        let existing = Answer::Existing { id: "11.4".to_owned() };
        let started = Started { id: "11.4".to_owned(), record: None };
        assert_eq!(answered(existing), Answered::Started(started));
        assert_eq!(answered(Answer::Stale), Answered::Stale);
        assert!(matches!(answered(Answer::Done), Answered::Refused(_)));
    }
}
