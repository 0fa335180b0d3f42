//! The way of a call through a node: admission, the one-entry path, the long path, the answer.
//!
//! It drives [`tiebeam_executor::submit`], as the daemon's `pipeline` does, with time between the
//! steps, so that every interleaving that its tasks can have comes up. What the master does without
//! a call is in [`super::conductor`].

use super::clients::{Reply, Request};
use super::commit::Reports;
use super::conductor::{Conducting, Running};
use super::invariants;
use super::net::Report;
use super::plant::{Plant, Planted};
use super::process::{Halt, Process, Told};
use super::simulation::{Event, Simulation};
use super::words::{named, shortly};
use super::world::{self, Live, Planned, SimWorld};
use serde_json::json;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::admit::Kwargs;
use tiebeam_core::declaration::Params;
use tiebeam_core::proposal::{Body, Plan, Submission, Write};
use tiebeam_executor::commit::{Wait, change_index};
use tiebeam_executor::submit::{
    self, Admitted, Again, Answered, Attempts, Caller, Declined, Started,
};
use tiebeam_jobs::Job;
use tiebeam_proto::record::{JobRecord, RequestFacts};
use tiebeam_proto::{ErrorCode, Outcome, RpcError, time::Time};
use tiebeam_replica::Input;

/// The year 2027: no run without a jump of the wall clock comes this far.
const FAR_AHEAD: Time = Time(1_798_761_600_000_000);

/// A call inside the node.
pub(super) struct Call {
    pub(super) client: usize,
    pub(super) attempt: u64,
    request: Arc<Request>,
    job: &'static Job,
    admitted: Admitted<Planted>,
    /// The State that the next plan is made against.
    view: Arc<State>,
    /// Its locks are in flight.
    reserved: bool,
    attempts: Attempts,
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
    /// It waits for a job's end.
    Wait(String),
    /// It waits until the job's change is committed.
    Commit(Arc<JobRecord>, Wait),
}

/// Who asked under a ticket.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    Call(u64),
    Conductor,
    Runner(u64),
    /// The function of a job, for a command.
    Intent(u64, String),
    /// The node itself: what had been committed when it started.
    CatchUp,
    /// Nobody waits for it.
    Agent,
}

/// What of the node's memory belongs to its pipeline; gone with its process.
#[derive(Default)]
pub(super) struct Pipeline {
    pub(super) calls: BTreeMap<u64, Call>,
    asked: BTreeMap<u64, Asker>,
    pub(super) conducting: Conducting,
    /// Jobs whose function runs.
    pub(super) running: BTreeMap<u64, Running>,
    /// What the members said.
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
        self.reports.new_term(term);
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
                } else if let Some(id) = call.admitted.made_before(&call.view) {
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
        let nonce = format!("nonce-{}", self.number());
        let Some(process) = &self.machines[at].process else { return Err(no_master()) };
        let view = process.board.clone();
        let facts = RequestFacts { protocol: "json-rpc".to_owned(), ..RequestFacts::default() };
        let submitted = self.wall(at);
        let caller = Caller { user: request.user.clone(), request: facts.into(), nonce, submitted };
        let kwargs = Kwargs {
            params: request.params.clone(),
            volatile: request.volatile,
            request_id: request.request_id.clone(),
            deadline_s: request.deadline_s,
            ..Kwargs::default()
        };
        let others = (tiebeam_jobs::needs, self.planted());
        let admitted = submit::admit(&view, &job.declaration, caller, kwargs, others);
        let admitted = admitted.map_err(|declined| match declined {
            Declined::Malformed(error) => error,
            Declined::Denied(why) => RpcError::new(ErrorCode::Forbidden, why),
        })?;
        Ok(Call {
            client,
            attempt,
            request: request.clone(),
            job,
            admitted,
            view,
            reserved: false,
            attempts: Attempts::default(),
            step: Step::Reserve,
            floor: self.ledger.acknowledged_revision,
        })
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
                if let Some(reply) = self.end_of(at, number, &mut call, &id) {
                    self.reply(call.client, call.attempt, reply);
                    return Ok(());
                }
            }
            Step::Commit(record, wait) => {
                if let Some(may) = self.committed(at, &wait) {
                    self.reply(call.client, call.attempt, committed(record, may));
                    return Ok(());
                }
            }
        }
        self.machines[at].pipeline.calls.insert(number, call);
        self.settle(at);
        Ok(())
    }

    /// The one-entry path if it can be taken; else the long one.
    fn reserve(&mut self, at: usize, number: u64, call: &mut Call) {
        let Some(process) = &mut self.machines[at].process else { return };
        if !call.admitted.goes_once(&call.view, &mut process.flight) {
            return self.queue(at, number, call);
        }
        call.reserved = true;
        call.step = Step::Plan;
        self.step_soon(at, number);
    }

    /// The long path: the job waits in State for its locks.
    fn queue(&mut self, at: usize, number: u64, call: &mut Call) {
        let inputs = serde_json::to_vec(&call.admitted.params).unwrap_or_default();
        let sealed = if self.settings.plant == Some(Plant::LeaveInputsOpen) {
            String::from_utf8_lossy(&inputs).into_owned()
        } else {
            world::seal(&inputs)
        };
        let submission = self.submission(at, call, Some(sealed));
        call.step = Step::Asked;
        self.propose(at, Asker::Call(number), Body::Submit(Box::new(submission)));
    }

    fn plan_once(&mut self, at: usize, number: u64, call: &mut Call) {
        let scheduled = self.wall(at);
        let conflict = call.attempts.conflict(call.view.revision);
        let plan = conflict.unwrap_or_else(|| self.plan_alone(at, call, call.view.clone()));
        let submission = self.submission(at, call, None);
        call.step = Step::Asked;
        let entry = call.admitted.run_once(submission, plan, (scheduled, self.wall(at)));
        self.propose(at, Asker::Call(number), Body::RunOnce(Box::new(entry)));
    }

    fn submission(&self, at: usize, call: &Call, inputs: Option<String>) -> Submission {
        let machine = &self.machines[at];
        let commit = |name: &str, bytes: &[u8]| {
            Ok::<_, Infallible>(world::commitment(&call.admitted.nonce, name, bytes))
        };
        let Ok(shown) = call.admitted.shown(&call.view, commit);
        let term = machine.process.as_ref().map_or(0, |process| process.role.term);
        let master = (machine.identity.node, term);
        call.admitted.submission(&call.view, master, shown, inputs)
    }

    /// Plans a job that is done in one entry.
    fn plan_alone(&self, at: usize, call: &Call, view: Arc<State>) -> Plan {
        let revision = view.revision;
        let Admitted { user, params, nonce, .. } = &call.admitted;
        match self.plan(at, call.job, user, params, (view, nonce), None) {
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
        live: Option<Live>,
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
            Asker::Intent(job, key) => self.intent_told(at, job, &key, &told),
            Asker::CatchUp => self.caught_up_told(at, &told)?,
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
        match submit::answered(answer) {
            Answered::Stale => {
                let Some(process) = &self.machines[at].process else { return Ok(()) };
                call.view = process.board.clone();
                match call.attempts.stale(&call.view, &call.admitted.locks) {
                    Again::Queue => self.queue(at, number, &mut call),
                    Again::Plan => {
                        call.step = Step::Plan;
                        self.step_soon(at, number);
                    }
                }
                self.machines[at].pipeline.calls.insert(number, call);
            }
            Answered::Refused(error) => {
                self.give_back(at, &mut call);
                self.note_told(index);
                self.reply(call.client, call.attempt, Reply::Error(error));
            }
            Answered::Started(Started { id, record }) => {
                self.give_back(at, &mut call);
                self.note_told(index);
                let changed = record.as_ref().is_some_and(|r| r.result.result_revision.is_some());
                match record {
                    Some(record) if !(call.request.wait && changed) => {
                        self.reply(call.client, call.attempt, Reply::Done(record));
                    }
                    _ => {
                        call.step = Step::Wait(id);
                        self.machines[at].pipeline.calls.insert(number, call);
                        self.step_soon(at, number);
                    }
                }
            }
        }
        Ok(())
    }

    fn note_told(&mut self, index: u64) {
        self.ledger.acknowledged_index = self.ledger.acknowledged_index.max(index);
    }

    fn give_back(&mut self, at: usize, call: &mut Call) {
        if let Some(process) = &mut self.machines[at].process
            && std::mem::take(&mut call.reserved)
        {
            process.flight.release(&call.admitted.locks);
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
        self.reply(call.client, call.attempt, Reply::Read(found.as_deref().cloned()));
        Ok(())
    }

    /// How a job ended, if it did. One that made a change is answered once that is committed
    /// (ruling 6).
    fn end_of(&mut self, at: usize, number: u64, call: &mut Call, id: &str) -> Option<Reply> {
        let now_us = self.clock_us(at);
        let process = self.machines[at].process.as_ref()?;
        let record = match process.board.live_job(id) {
            Some(job) if !job.has_ended() => return None,
            Some(job) => job.record.clone(),
            None => process.archive.jobs.get(id)?.clone(),
        };
        let Some(index) = change_index(&process.board, id) else {
            return Some(Reply::Done(record));
        };
        let wait = Wait::begin(&process.board, process.office(), index, now_us);
        if let Some(may) = self.committed(at, &wait) {
            return Some(committed(record, may));
        }
        let left_us = wait.until_us().saturating_sub(now_us);
        call.step = Step::Commit(record, wait);
        // A clock that is behind true time gets there later.
        self.after_in_life(at, left_us + left_us / 1_000 + 1, Event::Call(number));
        None
    }

    /// Calls that wait look again.
    pub(super) fn calls_go_on(&mut self, at: usize) -> Result<(), Halt> {
        let waits =
            |call: &Call| matches!(call.step, Step::Read(_) | Step::Wait(_) | Step::Commit(..));
        let calls = self.machines[at].pipeline.calls.iter();
        let waiting: Vec<u64> =
            calls.filter(|(_, call)| waits(call)).map(|(number, _)| *number).collect();
        for number in waiting {
            self.call_steps(at, number)?;
        }
        Ok(())
    }

    /// There is a new State: calls and commands that wait for it look at it.
    pub(super) fn board_changed(&mut self, at: usize) -> Result<(), Halt> {
        self.calls_go_on(at)?;
        self.tend(at)
    }
}

/// The answer of a call whose wait is over. A master that is none any more may not say that the
/// change is committed.
fn committed(record: Arc<JobRecord>, may: bool) -> Reply {
    if may { Reply::Done(record) } else { Reply::Unknown }
}

fn no_master() -> RpcError {
    RpcError::new(ErrorCode::NoMaster, "there is no master to take this call")
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
