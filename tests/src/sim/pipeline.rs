//! The way of a call through the node: admission, the one-entry path, the long path, the conductor.
//!
//! It mirrors the daemon's `pipeline` step by step, with time between the steps, so that every
//! interleaving that its tasks can have comes up. The decisions are core's: [`admit`],
//! [`State::may`](tiebeam_core::State::may), `due`, apply.

use super::clients::{Reply, Request};
use super::plant::Plant;
use super::process::{NODE, Process, Told};
use super::simulation::{Event, Simulation};
use super::world::{self, SimWorld};
use super::{invariants, process::Halt};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiebeam_core::declaration::{Params, Secrecy};
use tiebeam_core::effect::Answer;
use tiebeam_core::lock::Lock;
use tiebeam_core::proposal::{
    Body, Cancel, Committed, Finish, Plan, RequestKey, RunOnce, Schedule, Submission, Write,
};
use tiebeam_core::requests::Lookup;
use tiebeam_core::{State, admit, settings};
use tiebeam_jobs::Job;
use tiebeam_proto::limits::REPLANS_MAX;
use tiebeam_proto::record::{JobRecord, Mode, RequestFacts, Stages};
use tiebeam_proto::{ErrorCode, Outcome, RpcError, canonical, time::Time};
use tiebeam_replica::Input;

/// Longest delay of the committed stamp (ruling 6), in microseconds.
const COMMIT_EVERY_US: u64 = 20_000;
/// How often the conductor looks without being told.
const LOOK_EVERY_US: u64 = 1_000_000;
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
}

/// What of the node's memory belongs to its pipeline; gone with its process.
#[derive(Default)]
pub(super) struct Pipeline {
    pub(super) calls: BTreeMap<u64, Call>,
    asked: BTreeMap<u64, Asker>,
    /// Proposals of the conductor that are not answered.
    conducting: usize,
    /// Jobs whose function runs, with the State it sees and how often it was planned.
    running: BTreeMap<u64, (Arc<State>, u32)>,
}

/// A short look at the job that a request is for.
fn find(request: &Request) -> Result<&'static Job, RpcError> {
    tiebeam_jobs::find(request.job)
        .ok_or_else(|| RpcError::new(ErrorCode::UnknownJob, "there is no such job"))
}

impl Simulation {
    /// A call arrives at the node.
    pub(super) fn call_arrives(&mut self, client: usize, attempt: u64, request: &Arc<Request>) {
        let ready = self.process.as_ref().is_some_and(Process::is_master);
        let admitted = if ready { self.admit(client, attempt, request) } else { Err(no_master()) };
        match admitted {
            Err(error) => self.reply(client, attempt, Reply::Error(error)),
            Ok(mut call) => {
                let number = self.number();
                if request.volatile {
                    call.step = Step::Asked;
                    self.ask(Asker::Call(number), |process, ticket, _| {
                        process.receive(Input::Read { ticket });
                    });
                } else if let Some(id) = self.made_before(&call) {
                    call.step = Step::Wait(id);
                    self.step_soon(number);
                } else {
                    self.step_soon(number);
                }
                self.pipeline.calls.insert(number, call);
                self.settle();
            }
        }
    }

    fn admit(
        &mut self,
        client: usize,
        attempt: u64,
        request: &Arc<Request>,
    ) -> Result<Call, RpcError> {
        let job = find(request)?;
        let params = admit::check_params(&job.declaration, &request.params)?;
        let nonce = format!("nonce-{}", self.number());
        let Some(process) = &self.process else { return Err(no_master()) };
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
            submitted: self.wall(),
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

    fn step_soon(&mut self, call: u64) {
        let delay = 20 + self.rng.below(200);
        self.after_in_life(delay, Event::Call(call));
    }

    /// Proposes or reads under a new ticket.
    fn ask(&mut self, asker: Asker, ask: impl FnOnce(&mut Process, u64, (u64, Time))) {
        let ticket = self.number();
        let clock = (self.now_us, self.wall());
        if let Some(process) = &mut self.process {
            self.pipeline.asked.insert(ticket, asker);
            ask(process, ticket, clock);
        }
    }

    fn propose(&mut self, asker: Asker, body: Body) {
        self.trace(|| format!("proposes {}", named(&body)));
        self.ask(asker, |process, ticket, clock| process.propose(ticket, body, clock));
    }

    /// A call goes one step on.
    pub(super) fn call_steps(&mut self, number: u64) -> Result<(), Halt> {
        let Some(mut call) = self.pipeline.calls.remove(&number) else { return Ok(()) };
        match call.step.clone() {
            Step::Reserve => self.reserve(number, &mut call),
            Step::Plan => self.plan_once(number, &mut call),
            Step::Asked => {}
            Step::Read(index) => return self.read(number, call, index),
            Step::Wait(id) => {
                if let Some(reply) = self.end_of(&id) {
                    self.reply(call.client, call.attempt, reply);
                    return Ok(());
                }
            }
        }
        self.pipeline.calls.insert(number, call);
        self.settle();
        Ok(())
    }

    /// The one-entry path if nobody holds, awaits or carries a lock in the way; else the long one.
    fn reserve(&mut self, number: u64, call: &mut Call) {
        let locks = (call.job.declaration.locks)(&call.params);
        let Some(process) = &mut self.process else { return };
        if call.view.has_conflict(&locks) || process.flight.conflicts(&locks) {
            return self.queue(number, call);
        }
        process.flight.take(&locks);
        call.reserved = locks;
        call.step = Step::Plan;
        self.step_soon(number);
    }

    /// The long path: the job waits in State for its locks.
    fn queue(&mut self, number: u64, call: &mut Call) {
        let submission = self.submission(call, &call.view.clone(), true);
        call.step = Step::Asked;
        self.propose(Asker::Call(number), Body::Submit(Box::new(submission)));
    }

    fn plan_once(&mut self, number: u64, call: &mut Call) {
        let scheduled = self.wall();
        let plan = if call.replans == REPLANS_MAX {
            Plan::ended(call.view.revision, Outcome::Conflict, "what the job looked at changed")
        } else {
            self.plan(call.job, &call.request.user, &call.params, call.view.clone(), &call.nonce)
        };
        let times = Stages {
            submitted: Some(call.submitted),
            scheduled: Some(scheduled),
            executed: Some(scheduled),
            finished: Some(self.wall()),
            committed: None,
        };
        let submission = self.submission(call, &call.view.clone(), false);
        call.step = Step::Asked;
        let body = Body::RunOnce(Box::new(RunOnce { submission, plan, times }));
        self.propose(Asker::Call(number), body);
    }

    /// Runs a job function, and does to its plan what a planted fault does.
    fn plan(
        &self,
        job: &'static Job,
        user: &str,
        params: &Params,
        view: Arc<State>,
        nonce: &str,
    ) -> Plan {
        let Some(process) = &self.process else {
            return Plan::ended(view.revision, Outcome::Failed, "the node is down");
        };
        let world = SimWorld {
            master: (NODE, process.role.term),
            now: self.wall(),
            state: view,
            revisions: process.archive.revisions.clone(),
            nonce: nonce.to_owned(),
        };
        let mut plan = world::plan(job, user, params, world, false);
        match self.settings.plant {
            Some(Plant::SkipReadsCheck) => plan.reads.clear(),
            Some(Plant::DecideByWallClock) if self.wall() > FAR_AHEAD => {
                plan.warnings.push("the year is late".to_owned());
            }
            Some(Plant::BringLoginsBack) if job.declaration.name == "config_rollback" => {
                bring_logins_back(&mut plan);
            }
            _ => {}
        }
        plan
    }

    fn submission(&self, call: &Call, state: &State, long: bool) -> Submission {
        let declaration = &call.job.declaration;
        let default_s = settings::integer(&state.config, "jobs", "deadline_s");
        let deadline_s = declaration.deadline_s.unwrap_or(default_s);
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
            master: NODE,
            term: self.process.as_ref().map_or(0, |process| process.role.term),
            deadline_us: deadline_s.saturating_mul(1_000_000),
            submitted: call.submitted,
        }
    }

    /// What the log or apply says to who asked.
    pub(super) fn told(&mut self, ticket: u64, told: Told) -> Result<(), Halt> {
        let Some(asker) = self.pipeline.asked.remove(&ticket) else { return Ok(()) };
        self.trace(|| format!("{asker:?} is told {}", shortly(&told)));
        if let (Told::Applied(index, _), Some(process)) = (&told, &self.process) {
            invariants::a_failed_disk_is_silent(process.may_acknowledge(*index), *index)?;
        }
        match asker {
            Asker::Call(number) => self.call_told(number, told)?,
            Asker::Runner(job) => self.runner_told(job, &told),
            Asker::Conductor => {
                self.pipeline.conducting -= 1;
                if self.pipeline.conducting == 0 {
                    self.after_in_life(COMMIT_EVERY_US, Event::Conduct);
                }
            }
        }
        Ok(())
    }

    fn call_told(&mut self, number: u64, told: Told) -> Result<(), Halt> {
        let Some(mut call) = self.pipeline.calls.remove(&number) else { return Ok(()) };
        let (index, answer) = match told {
            Told::Readable(index) => {
                call.step = Step::Read(index);
                self.pipeline.calls.insert(number, call);
                return self.call_steps(number);
            }
            Told::Refused => {
                self.give_back(&mut call);
                self.reply(call.client, call.attempt, Reply::Error(no_master()));
                return Ok(());
            }
            Told::Applied(index, answer) => (index, answer),
        };
        if let (Answer::Stale, Some(process)) = (&answer, &self.process) {
            call.view = process.board.clone();
            if call.replans == REPLANS_MAX || call.view.has_conflict(&call.reserved) {
                self.queue(number, &mut call);
            } else {
                call.replans += 1;
                call.step = Step::Plan;
                self.step_soon(number);
            }
            self.pipeline.calls.insert(number, call);
            return Ok(());
        }
        self.give_back(&mut call);
        self.ledger.acknowledged_index = self.ledger.acknowledged_index.max(index);
        match answer {
            Answer::Job { record: Some(record), .. } => {
                self.reply(call.client, call.attempt, Reply::Done(record));
            }
            Answer::Job { id, record: None } | Answer::Existing { id } => {
                call.step = Step::Wait(id);
                self.pipeline.calls.insert(number, call);
                self.step_soon(number);
            }
            Answer::Refused(error) => self.reply(call.client, call.attempt, Reply::Error(error)),
            Answer::Done | Answer::Stale | Answer::Cancel(_) => {
                let error = RpcError::new(ErrorCode::Internal, "an answer that does not fit");
                self.reply(call.client, call.attempt, Reply::Error(error));
            }
        }
        Ok(())
    }

    fn give_back(&mut self, call: &mut Call) {
        let locks = std::mem::take(&mut call.reserved);
        if let Some(process) = &mut self.process {
            process.flight.release(&locks);
        }
    }

    /// A volatile read, once the State is as new as its read index.
    fn read(&mut self, number: u64, call: Call, index: u64) -> Result<(), Halt> {
        let Some(process) = &self.process else { return Ok(()) };
        let board = process.board.clone();
        if board.applied < index {
            self.pipeline.calls.insert(number, call);
            return Ok(());
        }
        invariants::reads_see_what_was_committed(&board, call.floor)?;
        let plan =
            self.plan(call.job, &call.request.user, &call.params, board.clone(), &call.nonce);
        let found = (plan.outcome == Outcome::Ok).then_some(plan.output).flatten();
        self.reply(call.client, call.attempt, Reply::Read(found));
        Ok(())
    }

    /// How a job ended, if it did.
    fn end_of(&mut self, id: &str) -> Option<Reply> {
        let process = self.process.as_ref()?;
        let ended = match process.board.live_job(id) {
            Some(job) => job.has_ended().then(|| Arc::new(job.record.clone()))?,
            None => process.archive.jobs.get(id)?.clone(),
        };
        Some(Reply::Done(ended))
    }

    /// Calls that wait for the board look at it again.
    pub(super) fn board_changed(&mut self) -> Result<(), Halt> {
        let waits = |call: &Call| matches!(call.step, Step::Read(_) | Step::Wait(_));
        let calls = self.pipeline.calls.iter();
        let waiting: Vec<u64> =
            calls.filter(|(_, call)| waits(call)).map(|(number, _)| *number).collect();
        for number in waiting {
            self.call_steps(number)?;
        }
        Ok(())
    }

    /// The conductor's round: what State says is due (ruling 34).
    pub(super) fn conduct(&mut self) {
        self.after_in_life(LOOK_EVERY_US, Event::Look);
        let Some(process) = self.process.as_ref().filter(|process| process.is_master()) else {
            return;
        };
        if self.pipeline.conducting > 0 {
            return;
        }
        let board = process.board.clone();
        let passed = self.now_us.saturating_sub(self.shown_us);
        let due = board.due(board.clock_us + passed);
        let time = self.wall();
        let mut bodies = Vec::new();
        if self.settings.plant != Some(Plant::ForgetWaitingJobs) {
            let user = || "its deadline".to_owned();
            let cancel = |job| Body::Cancel(Cancel { job, user: user(), time });
            bodies.extend(due.overdue.into_iter().map(cancel));
            let schedule = |job| Body::Schedule(Schedule { job, time });
            bodies.extend(due.schedule.into_iter().map(schedule));
        }
        if !due.commit.is_empty() {
            let jobs = due.commit.iter().map(|(job, _)| *job).collect();
            let (applied, pending) = (vec![NODE], Vec::new());
            bodies.push(Body::Committed(Committed { jobs, time, applied, pending }));
        }
        let new = |job: &&u64| !self.pipeline.running.contains_key(job);
        let started: BTreeSet<u64> = due.run.iter().filter(new).copied().collect();
        for job in started {
            self.pipeline.running.insert(job, (board.clone(), 0));
            let delay = 50 + self.rng.below(1_000);
            self.after_in_life(delay, Event::Run(job));
        }
        self.pipeline.conducting = bodies.len();
        for body in bodies {
            self.propose(Asker::Conductor, body);
        }
        self.settle();
    }

    /// Runs the function of a job on the long path and proposes its end.
    pub(super) fn run_job(&mut self, sequence: u64) {
        let Some((view, replans)) = self.pipeline.running.get(&sequence).cloned() else { return };
        let Some(job) = view.jobs.get(&sequence).cloned() else { return };
        let executed = self.wall();
        let plan = if replans == REPLANS_MAX {
            Plan::ended(view.revision, Outcome::Conflict, "what the job looked at changed")
        } else {
            let inputs = job.inputs.as_deref().unwrap_or_default();
            let opened = world::open(inputs).unwrap_or_else(|| inputs.as_bytes().to_vec());
            let params = serde_json::from_slice::<Params>(&opened);
            let nonce = job.record.nonce.clone().unwrap_or_default();
            match (tiebeam_jobs::find(&job.record.name), params) {
                (Some(found), Ok(params)) => {
                    self.plan(found, &job.record.user, &params, view.clone(), &nonce)
                }
                _ => Plan::ended(view.revision, Outcome::Indeterminate, "it cannot be run"),
            }
        };
        let executed = Some(executed);
        let finish = Finish { job: sequence, plan, executed, finished: self.wall() };
        self.propose(Asker::Runner(sequence), Body::Finish(Box::new(finish)));
        self.settle();
    }

    fn runner_told(&mut self, sequence: u64, told: &Told) {
        let stale = matches!(told, Told::Applied(_, Answer::Stale));
        let board = self.process.as_ref().map(|process| process.board.clone());
        if let (true, Some(board)) = (stale, board)
            && let Some((view, replans)) = self.pipeline.running.get_mut(&sequence)
        {
            (*view, *replans) = (board, *replans + 1);
            return self.after_in_life(50, Event::Run(sequence));
        }
        self.pipeline.running.remove(&sequence);
        self.after_in_life(0, Event::Conduct);
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

fn named(body: &Body) -> String {
    match body {
        Body::Submit(submission) => format!("Submit {}", submission.name),
        Body::RunOnce(run) => format!(
            "RunOnce {} by {}: {} at base {}, {} reads, {} writes",
            run.submission.name,
            run.submission.user,
            run.plan.outcome.name(),
            run.plan.base_revision,
            run.plan.reads.len(),
            run.plan.writes.len()
        ),
        Body::Finish(finish) => format!("Finish {} {}", finish.job, finish.plan.outcome.name()),
        other => format!("{other:?}"),
    }
}

fn shortly(told: &Told) -> String {
    match told {
        Told::Applied(index, Answer::Job { id, record }) => {
            let ended = record.as_ref().map(|record: &Arc<JobRecord>| {
                let outcome = record.outcome.map_or("none", Outcome::name);
                format!(" {outcome}, revision {:?}", record.result.result_revision)
            });
            format!("entry {index}: job {id}{}", ended.unwrap_or_default())
        }
        other => format!("{other:?}"),
    }
}
