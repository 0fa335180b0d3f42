//! What the master does without a call: schedules what may run, runs it, gives up what is overdue,
//! and stamps changes as committed.
//!
//! It mirrors the daemon's conductor and acts on `State::due` and nothing else (ruling 34). A job
//! function with commands is run from its start at every step of its commands, as a new master
//! would run it (ruling 10).

use super::pipeline::Asker;
use super::plant::Plant;
use super::process::{Halt, Process, Told};
use super::simulation::{Event, Simulation};
use super::world::{self, Planned};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiebeam_core::commit::Parted;
use tiebeam_core::declaration::Params;
use tiebeam_core::effect::Answer;
use tiebeam_core::proposal::{Body, Cancel, Committed, Finish, Intent, Plan, Schedule};
use tiebeam_core::{Job, State};
use tiebeam_jobs::CommandWish;
use tiebeam_proto::limits::REPLANS_MAX;
use tiebeam_proto::{Kind, Outcome, canonical};

/// Longest delay of the committed stamp (ruling 6), in microseconds.
const COMMIT_EVERY_US: u64 = 20_000;
/// How often the conductor looks without being told.
const LOOK_EVERY_US: u64 = 1_000_000;

/// A job whose function runs on this master.
#[derive(Clone)]
pub(super) struct Running {
    /// The State that it sees.
    view: Arc<State>,
    replans: u32,
    /// It stands still until a command ends.
    stands: bool,
    /// Since when its commands are being stopped.
    stopping_us: Option<u64>,
    /// When the intent of each of its commands was proposed.
    intended_us: BTreeMap<String, u64>,
}

impl Simulation {
    /// The conductor's round: what State says is due.
    pub(super) fn conduct(&mut self, at: usize) -> Result<(), Halt> {
        let Some(process) = &self.machines[at].process else { return Ok(()) };
        if !process.is_master() || self.machines[at].pipeline.conducting > 0 {
            return Ok(());
        }
        self.reached(at, "conduct.before")?;
        let Some(process) = &self.machines[at].process else { return Ok(()) };
        let board = process.board.clone();
        let due = board.due(self.cluster_clock_us(at, &board));
        let time = self.wall(at);
        let mut bodies = Vec::new();
        if self.settings.plant != Some(Plant::ForgetWaitingJobs) {
            let user = || "its deadline".to_owned();
            let cancel = |job| Body::Cancel(Cancel { job, user: user(), time });
            bodies.extend(due.overdue.into_iter().map(cancel));
            let schedule = |job| Body::Schedule(Schedule { job, time });
            bodies.extend(due.schedule.into_iter().map(schedule));
        }
        bodies.extend(self.commit(at, &due.commit));
        for job in due.run {
            self.start_or_go_on(at, job, &board);
        }
        self.machines[at].pipeline.conducting = bodies.len();
        for body in bodies {
            self.propose(at, Asker::Conductor, body);
        }
        self.settle(at);
        self.board_changed(at)
    }

    /// Looks now and then without being told: deadlines.
    pub(super) fn look(&mut self, at: usize) -> Result<(), Halt> {
        self.after_in_life(at, LOOK_EVERY_US, Event::Look);
        self.conduct(at)?;
        self.tend(at)
    }

    /// Cluster time as this node knows it, between two entries.
    pub(super) fn cluster_clock_us(&self, at: usize, board: &State) -> u64 {
        board.clock_us + self.clock_us(at).saturating_sub(self.machines[at].shown_us)
    }

    /// The stamps of changes that every awaited member has, or that were awaited long enough.
    fn commit(&mut self, at: usize, changes: &[(u64, u64)]) -> Vec<Body> {
        let mut groups: Vec<(Parted, Vec<u64>)> = Vec::new();
        let mut again_us = u64::MAX;
        for (job, index) in changes {
            match self.commit_now(at, *job, *index) {
                Err(later_us) => again_us = again_us.min(later_us),
                Ok(parted) => match groups.iter_mut().find(|(known, _)| *known == parted) {
                    Some((_, jobs)) => jobs.push(*job),
                    None => groups.push((parted, vec![*job])),
                },
            }
        }
        if again_us != u64::MAX {
            self.after_in_life(at, again_us, Event::Conduct);
        }
        let time = self.wall(at);
        let mut bodies = Vec::new();
        for (Parted { applied, pending }, jobs) in groups {
            for job in &jobs {
                self.machines[at].pipeline.reports.note_committed(*job);
            }
            self.counts.pending += pending.len() as u64;
            bodies.push(Body::Committed(Committed { jobs, time, applied, pending }));
        }
        bodies
    }

    /// The conductor's proposal was answered; after the last one it looks again.
    pub(super) fn conductor_told(&mut self, at: usize) {
        let pipeline = &mut self.machines[at].pipeline;
        pipeline.conducting = pipeline.conducting.saturating_sub(1);
        if pipeline.conducting == 0 {
            self.after_in_life(at, COMMIT_EVERY_US, Event::Conduct);
        }
    }

    /// A job that is to run: its function is started, or goes on if it stands still.
    fn start_or_go_on(&mut self, at: usize, job: u64, board: &Arc<State>) {
        let running: &mut BTreeMap<u64, Running> = &mut self.machines[at].pipeline.running;
        let delay = match running.get_mut(&job) {
            Some(known) if known.stands => {
                known.stands = false;
                20
            }
            Some(_) => return,
            None => {
                let Some(live) = board.jobs.get(&job) else { return };
                let view = base_view(board, live);
                let new = Running {
                    view,
                    replans: 0,
                    stands: false,
                    stopping_us: None,
                    intended_us: BTreeMap::new(),
                };
                running.insert(job, new);
                50 + self.rng.below(1_000)
            }
        };
        self.after_in_life(at, delay, Event::Run(job));
    }

    /// Runs the function of a job on the long path, and proposes its end or its commands.
    pub(super) fn run_job(&mut self, at: usize, sequence: u64) -> Result<(), Halt> {
        let machine = &self.machines[at];
        let Some(process) = machine.process.as_ref().filter(|one| one.is_master()) else {
            return Ok(());
        };
        let Some(running) = machine.pipeline.running.get(&sequence).cloned() else {
            return Ok(());
        };
        let board = process.board.clone();
        let Some(job) = board.jobs.get(&sequence).cloned() else {
            self.machines[at].pipeline.running.remove(&sequence);
            return Ok(());
        };
        self.reached(at, "run.before")?;
        let planned = self.plan_job(at, &job, &running);
        let plan = match planned {
            Planned::Ended(plan) => *plan,
            Planned::Waits(wishes) => match self.wait_for(at, &job, wishes, &board) {
                None => return Ok(()),
                Some(plan) => plan,
            },
        };
        let plan = asked_for(&board, &job, plan, self.why_stop(at, &board, &job));
        let time = self.wall(at);
        let finish = Finish { job: sequence, plan, executed: Some(time), finished: time };
        self.propose(at, Asker::Runner(sequence), Body::Finish(Box::new(finish)));
        self.settle(at);
        Ok(())
    }

    fn plan_job(&self, at: usize, job: &Arc<Job>, running: &Running) -> Planned {
        let revision = running.view.revision;
        if running.replans == REPLANS_MAX {
            let why = "what the job looked at changed";
            return Planned::Ended(Box::new(Plan::ended(revision, Outcome::Conflict, why)));
        }
        let inputs = job.inputs.as_deref().unwrap_or_default();
        let opened = world::open(inputs).unwrap_or_else(|| inputs.as_bytes().to_vec());
        let params = serde_json::from_slice::<Params>(&opened);
        let nonce = job.record.nonce.clone().unwrap_or_default();
        match (tiebeam_jobs::find(&job.record.name), params) {
            (Some(found), Ok(params)) => {
                let view = (running.view.clone(), nonce.as_str());
                let live = Some(job.clone());
                self.plan(at, found, &job.record.user, &params, view, live)
            }
            _ => {
                let why = "it cannot be run";
                Planned::Ended(Box::new(Plan::ended(revision, Outcome::Indeterminate, why)))
            }
        }
    }

    /// A function stands still: intents of its new commands, or its end if it was stopped and its
    /// commands do not end.
    fn wait_for(
        &mut self,
        at: usize,
        job: &Arc<Job>,
        wishes: Vec<CommandWish>,
        board: &State,
    ) -> Option<Plan> {
        let sequence = job.sequence;
        let now_us = self.now_us;
        let stop = self.why_stop(at, board, job);
        let grace_us = self.settings.pace.grace_us;
        let running = self.machines[at].pipeline.running.get_mut(&sequence)?;
        running.stands = true;
        if let Some((outcome, why)) = stop {
            let since_us = *running.stopping_us.get_or_insert(now_us);
            if now_us - since_us >= grace_us || job.open_commands().next().is_none() {
                running.stands = false;
                return Some(Plan::ended(board.revision, outcome, why));
            }
            self.after_in_life(at, grace_us, Event::Conduct);
            return None;
        }
        let again_us = self.settings.pace.unknown_us;
        let running = self.machines[at].pipeline.running.get_mut(&sequence)?;
        let mut new = wishes;
        new.retain(|wish| {
            let proposed_us = running.intended_us.get(&wish.key).copied();
            proposed_us.is_none_or(|proposed_us| now_us >= proposed_us + again_us)
        });
        running.intended_us.extend(new.iter().map(|wish| (wish.key.clone(), now_us)));
        for wish in new {
            self.intend(at, sequence, &wish);
        }
        // Its deadline is looked at even if nothing ends.
        let left_us = job.deadline_us.saturating_sub(self.cluster_clock_us(at, board));
        self.after_in_life(at, left_us + 1_000, Event::Conduct);
        self.settle(at);
        None
    }

    fn intend(&mut self, at: usize, job: u64, wish: &CommandWish) {
        let plain = serde_json::to_value(wish).unwrap_or_default();
        let intent = Intent {
            job,
            key: wish.key.clone(),
            node: wish.node,
            digest: world::digest_of(wish),
            spec: world::seal(&canonical::to_vec(&plain)),
            deadline_us: wish.timeout_s.saturating_mul(1_000_000),
            time: self.wall(at),
        };
        self.propose(at, Asker::Agent, Body::Intent(intent));
    }

    /// Why a job is to stop: it was cancelled, or its deadline passed.
    fn why_stop(&self, at: usize, board: &State, job: &Job) -> Option<(Outcome, String)> {
        if let Some(by) = &job.cancel {
            return Some((Outcome::Cancelled, format!("cancelled by {by}")));
        }
        let passed = self.cluster_clock_us(at, board) > job.deadline_us;
        passed.then(|| (Outcome::Timeout, "the job's deadline passed".to_owned()))
    }

    pub(super) fn runner_told(&mut self, at: usize, sequence: u64, told: &Told) {
        let stale = matches!(told, Told::Applied(_, Answer::Stale));
        let process = self.machines[at].process.as_ref();
        let board = process.map(|process| process.board.clone());
        if let (true, Some(board)) = (stale, board)
            && let Some(running) = self.machines[at].pipeline.running.get_mut(&sequence)
        {
            (running.view, running.replans) = (board, running.replans + 1);
            return self.after_in_life(at, 50, Event::Run(sequence));
        }
        self.machines[at].pipeline.running.remove(&sequence);
        self.after_in_life(at, 0, Event::Conduct);
    }

    /// A node says that a command ended: the master puts it into the log.
    pub(super) fn command_reported(
        &mut self,
        at: usize,
        ended: tiebeam_core::proposal::CommandEnded,
    ) {
        if self.machines[at].process.as_ref().is_some_and(Process::is_master) {
            self.propose(at, Asker::Agent, Body::CommandEnded(Box::new(ended)));
            self.settle(at);
        }
    }
}

/// The State that a function sees: an act gets the configuration it was scheduled on (ruling 10).
fn base_view(board: &Arc<State>, job: &Job) -> Arc<State> {
    let base = job.record.scheduling.base_revision;
    match board.bases.get(&base) {
        Some((_, tree)) if job.record.kind == Kind::Act => {
            let mut view = (**board).clone();
            (view.config, view.revision) = (tree.clone(), base);
            Arc::new(view)
        }
        _ => board.clone(),
    }
}

/// How a job that was asked to stop ended: as asked, unless a command's end is not known.
fn asked_for(board: &State, job: &Job, plan: Plan, why: Option<(Outcome, String)>) -> Plan {
    let Some((outcome, text)) = why.filter(|_| plan.outcome != Outcome::Ok) else { return plan };
    let live = board.jobs.get(&job.sequence);
    let unknown = live.is_some_and(|job| {
        job.open_commands().next().is_some()
            || job.record.commands.iter().any(|command| command.result == "indeterminate")
    });
    if unknown {
        let error = Some(format!("{text}; a command's end is not known"));
        return Plan { outcome: Outcome::Indeterminate, error, ..plan };
    }
    Plan { outcome, error: Some(text), ..plan }
}
