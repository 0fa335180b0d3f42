//! The way of a call through a node: admission, the one-entry path, the long path, the answer.
//!
//! It mirrors the daemon's `pipeline` step by step, with time between the steps, so that every
//! interleaving that its tasks can have comes up. The decisions are core's: [`admit`],
//! [`State::may`](tiebeam_core::State::may), apply. What the master does without a call is in
//! [`super::conductor`].

use super::clients::{Reply, Request};
use super::commit::Reports;
use super::conductor::Running;
use super::invariants;
use super::net::Report;
use super::plant::Plant;
use super::process::{Halt, Process, Told};
use super::simulation::{Event, Simulation};
use super::words::{named, shortly};
use super::world::{self, Planned, SimWorld};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiebeam_core::declaration::{Params, Secrecy, Way};
use tiebeam_core::effect::Answer;
use tiebeam_core::lock::Lock;
use tiebeam_core::proposal::{Body, Plan, RequestKey, RunOnce, Submission, Write};
use tiebeam_core::requests::Lookup;
use tiebeam_core::{Job as LiveJob, State, admit, settings};
use tiebeam_jobs::Job;
use tiebeam_proto::limits::REPLANS_MAX;
use tiebeam_proto::record::{Mode, RequestFacts, Stages};
use tiebeam_proto::{ErrorCode, Outcome, RpcError, canonical, time::Time};
use tiebeam_replica::Input;

/// The year 2027: no run without a jump of the wall clock comes this far.
const FAR_AHEAD: Time = Time(1_798_761_600_000_000);

/// A call inside the node.
pub(super) struct Call {
    pub(super) client: usize,
    pub(super) attempt: u64,
    request: Arc<Request>,
    job: &'static Job,
    params: Params,
    nonce: String,
    submitted: Time,
    /// The State that the next plan is made against.
    view: Arc<State>,
    reserved: Vec<Lock>,
    replans: u32,
    step: Step,
    /// The newest revision that had been acknowledged when the call came.
    floor: u64,
}

/// What a call does next.
#[derive(Clone, Debug)]
enum Step {
    Reserve,
    Plan,
    /// It waits for the log, a read index, or apply.
    Asked,
    Read(u64),
    Wait(String),
}

/// Who asked under a ticket.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asker {
    Call(u64),
    Conductor,
    Runner(u64),
    /// Nobody waits for it.
    Agent,
}

/// What of the node's memory belongs to its pipeline; gone with its process.
#[derive(Default)]
pub(super) struct Pipeline {
    pub(super) calls: BTreeMap<u64, Call>,
    asked: BTreeMap<u64, Asker>,
    /// Proposals of the conductor that are not answered.
    pub(super) conducting: usize,
    /// Jobs whose function runs.
    pub(super) running: BTreeMap<u64, Running>,
    /// What the members said, and which changes were answered as committed.
    pub(super) reports: Reports,
}

/// A short look at the job that a request is for.
fn find(request: &Request) -> Result<&'static Job, RpcError> {
    tiebeam_jobs::find(request.job)
        .ok_or_else(|| RpcError::new(ErrorCode::UnknownJob, "there is no such job"))
}

impl Pipeline {
    /// The node has another role or term.
    pub(super) fn new_role(&mut self, term: u64) {
        if self.reports.new_term(term) {
            self.running.clear();
        }
    }

    /// A member sent something.
    pub(super) fn heard(&mut self, from: usize, now_us: u64) {
        self.reports.heard(from, now_us);
    }

    /// A member said how far it is; true if that is news.
    pub(super) fn reported(&mut self, from: usize, report: Report) -> bool {
        self.reports.reported(from, report)
    }
}

impl Simulation {
    /// A call arrives at the node.
    pub(super) fn call_arrives(
        &mut self,
        at: usize,
        client: usize,
        attempt: u64,
        request: &Arc<Request>,
    ) {
        let Some(process) = &self.machines[at].process else {
            return self.reply(client, attempt, Reply::Down);
        };
        // A read index is good on every node; everything else is the master's.
        if !process.is_master() && !request.volatile {
            let master = process.leader();
            return self.reply(client, attempt, Reply::Redirect(master));
        }
        match self.admit(at, client, attempt, request) {
            Err(error) => self.reply(client, attempt, Reply::Error(error)),
            Ok(mut call) => {
                let number = self.number();
                if request.volatile {
                    call.step = Step::Asked;
                    self.ask(at, Asker::Call(number), |process, ticket, _| {
                        process.receive(Input::Read { ticket });
                    });
                } else if let Some(id) = self.made_before(&call) {
                    call.step = Step::Wait(id);
                    self.step_soon(at, number);
                } else {
                    self.step_soon(at, number);
                }
                self.machines[at].pipeline.calls.insert(number, call);
                self.settle(at);
            }
        }
    }

    fn admit(
        &mut self,
        at: usize,
        client: usize,
        attempt: u64,
        request: &Arc<Request>,
    ) -> Result<Call, RpcError> {
        let job = find(request)?;
        let params = admit::check_params(&job.declaration, &request.params)?;
        let nonce = format!("nonce-{}", self.number());
        let Some(process) = &self.machines[at].process else { return Err(no_master()) };
        let view = process.board.clone();
        let needs = tiebeam_jobs::needs(&job.declaration, &params);
        view.may(&request.user, &needs)
            .map_err(|denied| RpcError::new(ErrorCode::Forbidden, denied.to_string()))?;
        Ok(Call {
            client,
            attempt,
            request: request.clone(),
            job,
            params,
            nonce,
            submitted: self.wall(at),
            view,
            reserved: Vec::new(),
            replans: 0,
            step: Step::Reserve,
            floor: self.ledger.acknowledged_revision,
        })
    }

    fn made_before(&self, call: &Call) -> Option<String> {
        let key = self.request_key(call)?;
        match call.view.requests.look_up(&call.request.user, &key) {
            Lookup::Same(id) => Some(id),
            _ => None,
        }
    }

    fn request_key(&self, call: &Call) -> Option<RequestKey> {
        let key = call.request.request_id.clone()?;
        if self.settings.plant == Some(Plant::DropRequestId) {
            return None;
        }
        let used_for = if self.settings.plant == Some(Plant::ReuseRequestId) {
            json!([])
        } else {
            json!([call.request.job, Value::Object(call.params.clone()), false])
        };
        Some(RequestKey { key, digest: canonical::hex(&canonical::digest(&used_for)[..16]) })
    }

    fn step_soon(&mut self, at: usize, call: u64) {
        // Now and then a step waits long: its worker is busy.
        let most_us = if self.rng.one_in(8) { 30_000 } else { 200 };
        let delay = 20 + self.rng.below(most_us);
        self.after_in_life(at, delay, Event::Call(call));
    }

    /// Proposes or reads under a new ticket.
    pub(super) fn ask(
        &mut self,
        at: usize,
        asker: Asker,
        ask: impl FnOnce(&mut Process, u64, (u64, Time)),
    ) {
        let ticket = self.number();
        let clock = (self.clock_us(at), self.wall(at));
        if let Some(process) = &mut self.machines[at].process {
            ask(process, ticket, clock);
            self.machines[at].pipeline.asked.insert(ticket, asker);
            let patience = self.settings.pace.unknown_us;
            self.after_in_life(at, patience, Event::Expire(ticket));
        }
    }

    pub(super) fn propose(&mut self, at: usize, asker: Asker, body: Body) {
        if self.reached(at, "propose.before").is_err() {
            return;
        }
        self.trace_of(at, || format!("proposes {}", named(&body)));
        self.ask(at, asker, |process, ticket, clock| process.propose(ticket, body, clock));
    }

    /// Neither answer came in time: nobody can say what became of it (ruling 1).
    pub(super) fn expire(&mut self, at: usize, ticket: u64) -> Result<(), Halt> {
        if !self.machines[at].pipeline.asked.contains_key(&ticket) {
            return Ok(());
        }
        if let Some(process) = &mut self.machines[at].process {
            process.forget(ticket);
        }
        self.told(at, ticket, Told::Unknown)
    }

    /// A call goes one step on.
    pub(super) fn call_steps(&mut self, at: usize, number: u64) -> Result<(), Halt> {
        let Some(mut call) = self.machines[at].pipeline.calls.remove(&number) else {
            return Ok(());
        };
        match call.step.clone() {
            Step::Reserve => self.reserve(at, number, &mut call),
            Step::Plan => self.plan_once(at, number, &mut call),
            Step::Asked => {}
            Step::Read(index) => return self.read(at, number, call, index),
            Step::Wait(id) => {
                if let Some(reply) = self.end_of(at, &id) {
                    self.reply(call.client, call.attempt, reply);
                    return Ok(());
                }
            }
        }
        self.machines[at].pipeline.calls.insert(number, call);
        self.settle(at);
        Ok(())
    }

    /// The one-entry path if nobody holds, awaits or carries a lock in the way; else the long one.
    fn reserve(&mut self, at: usize, number: u64, call: &mut Call) {
        let locks = (call.job.declaration.locks)(&call.params);
        let Some(process) = &mut self.machines[at].process else { return };
        let long = call.job.declaration.way == Way::Long;
        if long || call.view.has_conflict(&locks) || process.flight.conflicts(&locks) {
            return self.queue(at, number, call);
        }
        process.flight.take(&locks);
        call.reserved = locks;
        call.step = Step::Plan;
        self.step_soon(at, number);
    }

    /// The long path: the job waits in State for its locks.
    fn queue(&mut self, at: usize, number: u64, call: &mut Call) {
        let submission = self.submission(at, call, &call.view.clone(), true);
        call.step = Step::Asked;
        self.propose(at, Asker::Call(number), Body::Submit(Box::new(submission)));
    }

    fn plan_once(&mut self, at: usize, number: u64, call: &mut Call) {
        let scheduled = self.wall(at);
        let plan = if call.replans == REPLANS_MAX {
            Plan::ended(call.view.revision, Outcome::Conflict, "what the job looked at changed")
        } else {
            self.plan_alone(at, call, call.view.clone())
        };
        let times = Stages {
            submitted: Some(call.submitted),
            scheduled: Some(scheduled),
            executed: Some(scheduled),
            finished: Some(self.wall(at)),
            committed: None,
        };
        let submission = self.submission(at, call, &call.view.clone(), false);
        call.step = Step::Asked;
        let body = Body::RunOnce(Box::new(RunOnce { submission, plan, times }));
        self.propose(at, Asker::Call(number), body);
    }

    /// Plans a job that is done in one entry.
    fn plan_alone(&self, at: usize, call: &Call, view: Arc<State>) -> Plan {
        let revision = view.revision;
        match self.plan(at, call.job, &call.request.user, &call.params, (view, &call.nonce), None) {
            Planned::Ended(plan) => *plan,
            Planned::Waits(_) => Plan::ended(revision, Outcome::Failed, "it waits"),
        }
    }

    /// Runs a job function, and does to its plan what a planted fault does.
    pub(super) fn plan(
        &self,
        at: usize,
        job: &'static Job,
        user: &str,
        params: &Params,
        (view, nonce): (Arc<State>, &str),
        live: Option<Arc<LiveJob>>,
    ) -> Planned {
        let Some(process) = &self.machines[at].process else {
            let plan = Plan::ended(view.revision, Outcome::Failed, "the node is down");
            return Planned::Ended(Box::new(plan));
        };
        let world = SimWorld {
            master: (process.identity.node, process.role.term),
            now: self.wall(at),
            state: view,
            newest: process.board.clone(),
            caught_up: self.machines[at].pipeline.reports.caught_up(&process.board),
            revisions: process.archive.revisions.clone(),
            nonce: nonce.to_owned(),
            live,
            upgraded: self.machines[at].upgraded,
            wishes: Arc::default(),
        };
        let mut plan = match world::plan(job, user, params, world) {
            Planned::Ended(plan) => plan,
            waits @ Planned::Waits(_) => return waits,
        };
        match self.settings.plant {
            Some(Plant::SkipReadsCheck) => plan.reads.clear(),
            Some(Plant::DecideByWallClock) if self.wall(at) > FAR_AHEAD => {
                plan.warnings.push("the year is late".to_owned());
            }
            Some(Plant::BringLoginsBack) if job.declaration.name == "config_rollback" => {
                bring_logins_back(&mut plan);
            }
            _ => {}
        }
        Planned::Ended(plan)
    }

    fn submission(&self, at: usize, call: &Call, state: &State, long: bool) -> Submission {
        let declaration = &call.job.declaration;
        let default_s = settings::integer(&state.config, "jobs", "deadline_s");
        let declared_s = declaration.deadline_s.unwrap_or(default_s);
        let deadline_s = call.request.deadline_s.unwrap_or(declared_s);
        let process = self.machines[at].process.as_ref();
        let inputs = serde_json::to_vec(&call.params).unwrap_or_default();
        let sealed = if self.settings.plant == Some(Plant::LeaveInputsOpen) {
            String::from_utf8_lossy(&inputs).into_owned()
        } else {
            world::seal(&inputs)
        };
        Submission {
            name: declaration.name.to_owned(),
            kind: declaration.kind,
            user: call.request.user.clone(),
            credential_revision: state.credential_revision(&call.request.user).unwrap_or(0),
            reason: None,
            mode: Mode::Immediate,
            parameters: shown(call),
            nonce: Some(call.nonce.clone()),
            inputs: long.then_some(sealed),
            request: RequestFacts {
                protocol: "json-rpc".to_owned(),
                request_id: call.request.request_id.clone(),
                ..RequestFacts::default()
            },
            request_key: self.request_key(call),
            needs: tiebeam_jobs::needs(declaration, &call.params),
            locks: (declaration.locks)(&call.params),
            master: self.machines[at].identity.node,
            term: process.map_or(0, |process| process.role.term),
            deadline_us: deadline_s.saturating_mul(1_000_000),
            submitted: call.submitted,
        }
    }

    /// What the log or apply says to who asked.
    pub(super) fn told(&mut self, at: usize, ticket: u64, told: Told) -> Result<(), Halt> {
        let Some(asker) = self.machines[at].pipeline.asked.remove(&ticket) else {
            return Ok(());
        };
        self.trace_of(at, || format!("{asker:?} is told {}", shortly(&told)));
        if let (Told::Applied(index, _), Some(process)) = (&told, &self.machines[at].process) {
            invariants::a_failed_disk_is_silent(process.may_acknowledge(*index), *index)?;
        }
        match asker {
            Asker::Call(number) => self.call_told(at, number, told)?,
            Asker::Runner(job) => self.runner_told(at, job, &told),
            Asker::Conductor => self.conductor_told(at),
            Asker::Agent => {}
        }
        Ok(())
    }

    fn call_told(&mut self, at: usize, number: u64, told: Told) -> Result<(), Halt> {
        let Some(mut call) = self.machines[at].pipeline.calls.remove(&number) else {
            return Ok(());
        };
        let (index, answer) = match told {
            Told::Readable(index) => {
                call.step = Step::Read(index);
                self.machines[at].pipeline.calls.insert(number, call);
                return self.call_steps(at, number);
            }
            Told::Refused | Told::Unknown => {
                self.give_back(at, &mut call);
                let master = self.machines[at].process.as_ref().and_then(Process::leader);
                let refused = matches!(told, Told::Refused) || call.request.volatile;
                let reply = if refused { Reply::Redirect(master) } else { Reply::Unknown };
                self.reply(call.client, call.attempt, reply);
                return Ok(());
            }
            Told::Applied(index, answer) => (index, answer),
        };
        if let (Answer::Stale, Some(process)) = (&answer, &self.machines[at].process) {
            call.view = process.board.clone();
            if call.replans == REPLANS_MAX || call.view.has_conflict(&call.reserved) {
                self.queue(at, number, &mut call);
            } else {
                call.replans += 1;
                call.step = Step::Plan;
                self.step_soon(at, number);
            }
            self.machines[at].pipeline.calls.insert(number, call);
            return Ok(());
        }
        self.give_back(at, &mut call);
        self.ledger.acknowledged_index = self.ledger.acknowledged_index.max(index);
        match answer {
            Answer::Job { id, record: Some(record) } => {
                if call.request.wait && record.result.result_revision.is_some() {
                    call.step = Step::Wait(id);
                    self.machines[at].pipeline.calls.insert(number, call);
                } else {
                    self.reply(call.client, call.attempt, Reply::Done(record));
                }
            }
            Answer::Job { id, record: None } | Answer::Existing { id } => {
                call.step = Step::Wait(id);
                self.machines[at].pipeline.calls.insert(number, call);
                self.step_soon(at, number);
            }
            Answer::Refused(error) => self.reply(call.client, call.attempt, Reply::Error(error)),
            Answer::Done | Answer::Stale | Answer::Cancel(_) => {
                let error = RpcError::new(ErrorCode::Internal, "an answer that does not fit");
                self.reply(call.client, call.attempt, Reply::Error(error));
            }
        }
        Ok(())
    }

    fn give_back(&mut self, at: usize, call: &mut Call) {
        let locks = std::mem::take(&mut call.reserved);
        if let Some(process) = &mut self.machines[at].process {
            process.flight.release(&locks);
        }
    }

    /// A volatile read, once the State is as new as its read index.
    fn read(&mut self, at: usize, number: u64, call: Call, index: u64) -> Result<(), Halt> {
        let Some(process) = &self.machines[at].process else { return Ok(()) };
        let board = process.board.clone();
        if board.applied < index && self.settings.plant != Some(Plant::ReadWithoutWait) {
            self.machines[at].pipeline.calls.insert(number, call);
            return Ok(());
        }
        invariants::reads_see_what_was_committed(&board, call.floor)?;
        let plan = self.plan_alone(at, &call, board.clone());
        let found = (plan.outcome == Outcome::Ok).then_some(plan.output).flatten();
        self.reply(call.client, call.attempt, Reply::Read(found));
        Ok(())
    }

    /// How a job ended, if it did and every awaited member has its change (ruling 6).
    fn end_of(&mut self, at: usize, id: &str) -> Option<Reply> {
        let machine = &self.machines[at];
        let process = machine.process.as_ref()?;
        let ended = match process.board.live_job(id) {
            Some(job) => {
                let committed = machine.pipeline.reports.is_committed(job.sequence);
                (job.has_ended() && committed).then(|| job.record.clone())?
            }
            None => process.archive.jobs.get(id)?.clone(),
        };
        Some(Reply::Done(ended))
    }

    /// Calls that wait for the board look at it again.
    pub(super) fn board_changed(&mut self, at: usize) -> Result<(), Halt> {
        let waits = |call: &Call| matches!(call.step, Step::Read(_) | Step::Wait(_));
        let calls = self.machines[at].pipeline.calls.iter();
        let waiting: Vec<u64> =
            calls.filter(|(_, call)| waits(call)).map(|(number, _)| *number).collect();
        for number in waiting {
            self.call_steps(at, number)?;
        }
        self.tend(at)
    }
}

fn no_master() -> RpcError {
    RpcError::new(ErrorCode::NoMaster, "there is no master to take this call")
}

/// The parameters as the record shows them (ruling 21).
fn shown(call: &Call) -> Map<String, Value> {
    let secret = |name: &str| {
        call.job.declaration.param(name).is_some_and(|param| param.secrecy != Secrecy::Open)
    };
    let one = |(name, value): (&String, &Value)| {
        let value = if secret(name) { json!({"secret": "withheld"}) } else { value.clone() };
        (name.clone(), value)
    };
    call.params.iter().map(one).collect()
}

fn bring_logins_back(plan: &mut Plan) {
    for write in &mut plan.writes {
        if let Write::Set { path, value } = write
            && path.starts_with("users/")
            && let Some(enabled) = value.get_mut("login_enabled")
        {
            *enabled = json!(true);
        }
    }
}
