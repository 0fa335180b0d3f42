//! What the master does without a call: drives [`tiebeam_executor::conductor`] and, for each job
//! that it runs, [`tiebeam_executor::run`] and [`tiebeam_executor::command`].
//!
//! The decisions are the executor's, the ones that the daemon runs; here are the queue of acts, the
//! clocks, and time between the steps. A job function with commands is run from its start at every
//! step of its commands, as a new master would run it (ruling 10).

use super::pipeline::Asker;
use super::plant::Planted;
use super::process::{Halt, Process, Told};
use super::simulation::{Event, Simulation};
use super::world::{self, Live, Planned};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tiebeam_core::declaration::Params;
use tiebeam_core::proposal::{Body, Intent, Plan};
use tiebeam_core::{Job, State};
use tiebeam_executor::command::{self, Intended, Refusal};
use tiebeam_executor::conductor::{Act, Conductor, LOOK_EVERY_US, Rest, Sight};
use tiebeam_executor::run::{self, Moment, Next, Run};
use tiebeam_jobs::CommandWish;
use tiebeam_proto::{Outcome, canonical, time::Time};

/// A node's conductor and what it is about to do.
#[derive(Default)]
pub(super) struct Conducting {
    conductor: Option<Conductor<Planted>>,
    acts: VecDeque<Act>,
    /// A proposal of it is not answered.
    busy: bool,
    /// Something became due meanwhile.
    due: bool,
    rests_until_us: u64,
}

/// A job whose function runs on this node.
pub(super) struct Running {
    run: Run<Planted>,
    /// It stands still until something becomes of a command.
    stands: bool,
    /// Its end, once it has been proposed, and when it ended.
    end: Option<(Plan, Time)>,
    /// Commands whose intent is on its way.
    intending: BTreeSet<String>,
    /// Commands that it cannot have.
    refused: BTreeMap<String, Refusal>,
}

impl Simulation {
    /// What this run leaves out of the executor.
    pub(super) fn planted(&self) -> Planted {
        Planted(self.settings.plant)
    }

    /// Something may be due: the conductor looks, unless it is busy or rests.
    pub(super) fn conduct(&mut self, at: usize) -> Result<(), Halt> {
        self.board_changed(at)?;
        self.functions_go_on(at);
        let (planted, now_us) = (self.planted(), self.now_us);
        let Some(process) = &self.machines[at].process else { return Ok(()) };
        let (board, office) = (process.board.clone(), process.office());
        let conducting = &mut self.machines[at].pipeline.conducting;
        conducting.due = true;
        if conducting.busy || now_us < conducting.rests_until_us {
            return Ok(());
        }
        if office.is_master(&board) {
            self.reached(at, "conduct.before")?;
        }
        let heard = self.hearsay(at);
        let Moment { now_us, clock_us } = self.moment(at, &board);
        let own = self.machines[at].identity.node;
        let sight = Sight { own, office, state: &board, now_us, clock_us };
        let conducting = &mut self.machines[at].pipeline.conducting;
        conducting.due = false;
        let conductor = conducting.conductor.get_or_insert_with(|| Conductor::new(planted));
        let round = conductor.look(sight, &heard);
        conducting.acts = round.acts.into();
        if let Rest::For(us) = round.rest {
            conducting.rests_until_us = self.now_us + us;
        }
        self.act(at);
        self.settle(at);
        Ok(())
    }

    /// Carries out what the conductor wants, up to the next proposal.
    fn act(&mut self, at: usize) {
        while let Some(act) = self.machines[at].pipeline.conducting.acts.pop_front() {
            if let Act::Run(job) = act {
                self.begin_to_run(at, job);
                continue;
            }
            if let Act::Stamp { parted, .. } = &act {
                self.counts.pending += parted.pending.len() as u64;
            }
            if let Some(body) = act.body(self.wall(at)) {
                self.machines[at].pipeline.conducting.busy = true;
                return self.propose(at, Asker::Conductor, body);
            }
        }
        let conducting = &mut self.machines[at].pipeline.conducting;
        conducting.busy = false;
        let rests_us = conducting.rests_until_us.saturating_sub(self.now_us);
        if rests_us > 0 || conducting.due {
            self.after_in_life(at, rests_us, Event::Conduct);
        }
    }

    /// The conductor's proposal was answered: it goes on.
    pub(super) fn conductor_told(&mut self, at: usize) {
        if self.machines[at].pipeline.conducting.busy {
            self.act(at);
            self.after_in_life(at, 0, Event::Settle);
        }
    }

    /// Looks now and then without being told: deadlines.
    pub(super) fn look(&mut self, at: usize) -> Result<(), Halt> {
        self.after_in_life(at, LOOK_EVERY_US, Event::Look);
        self.conduct(at)
    }

    /// A machine's clocks now.
    pub(super) fn moment(&self, at: usize, board: &State) -> Moment {
        let now_us = self.clock_us(at);
        let passed_us = now_us.saturating_sub(self.machines[at].shown_us);
        Moment { now_us, clock_us: board.clock_us + passed_us }
    }

    fn begin_to_run(&mut self, at: usize, sequence: u64) {
        let Some(process) = &self.machines[at].process else { return };
        let (board, office) = (process.board.clone(), process.office());
        let Some(job) = board.jobs.get(&sequence) else {
            return self.leave(at, sequence);
        };
        let began = (office, self.moment(at, &board));
        let limits = (self.settings.pace.grace_us, self.planted());
        let run = Run::begin(&board, job, began, self.wall(at), limits);
        let running = Running {
            run,
            stands: false,
            end: None,
            intending: BTreeSet::new(),
            refused: BTreeMap::new(),
        };
        self.machines[at].pipeline.running.insert(sequence, running);
        let delay = 50 + self.rng.below(1_000);
        self.after_in_life(at, delay, Event::Run(sequence));
    }

    /// The function of a job does not run here any more.
    fn leave(&mut self, at: usize, sequence: u64) {
        let pipeline = &mut self.machines[at].pipeline;
        pipeline.running.remove(&sequence);
        if let Some(conductor) = &mut pipeline.conducting.conductor {
            conductor.left(sequence);
        }
        self.after_in_life(at, 0, Event::Conduct);
    }

    /// Functions that stand still go on: a command of theirs may have ended.
    fn functions_go_on(&mut self, at: usize) {
        let running = self.machines[at].pipeline.running.iter_mut();
        let stood =
            |(job, one): (&u64, &mut Running)| std::mem::take(&mut one.stands).then_some(*job);
        let standing: Vec<u64> = running.filter_map(stood).collect();
        for job in standing {
            self.after_in_life(at, 20, Event::Run(job));
        }
    }

    /// Runs the function of a job on the long path, and proposes its end or its commands.
    pub(super) fn run_job(&mut self, at: usize, sequence: u64) -> Result<(), Halt> {
        let (now_us, machine) = (self.clock_us(at), &mut self.machines[at]);
        let Some(board) = machine.process.as_ref().map(|process| process.board.clone()) else {
            return Ok(());
        };
        let Some(running) = machine.pipeline.running.get_mut(&sequence) else { return Ok(()) };
        running.stands = false;
        let end = running.end.clone();
        let stopping = running.run.is_stopping(&board, now_us);
        let late = stopping && now_us >= running.run.patience_us();
        let conflict = running.run.conflict();
        self.reached(at, "run.before")?;
        let (plan, finished) = match (end, conflict) {
            (Some(end), _) => end,
            (None, Some(conflict)) => (conflict, self.wall(at)),
            (None, None) => match self.plan_job(at, sequence) {
                Planned::Ended(plan) => {
                    let Some(running) = self.machines[at].pipeline.running.get(&sequence) else {
                        return Ok(());
                    };
                    (running.run.ended(&board, now_us, *plan), self.wall(at))
                }
                Planned::Waits(_) if late => {
                    let Some(running) = self.machines[at].pipeline.running.get(&sequence) else {
                        return Ok(());
                    };
                    (running.run.abandoned(&board), self.wall(at))
                }
                Planned::Waits(wishes) => {
                    self.wait_for(at, sequence, wishes);
                    return Ok(());
                }
            },
        };
        self.propose_end(at, sequence, (plan, finished));
        self.settle(at);
        Ok(())
    }

    fn propose_end(&mut self, at: usize, sequence: u64, (plan, finished): (Plan, Time)) {
        let machine = &mut self.machines[at];
        let office = machine.process.as_ref().map(Process::office).unwrap_or_default();
        let Some(running) = machine.pipeline.running.get_mut(&sequence) else { return };
        running.end = Some((plan.clone(), finished));
        match running.run.finish(office, plan, finished) {
            Some(finish) => {
                self.propose(at, Asker::Runner(sequence), Body::Finish(Box::new(finish)));
            }
            None => self.leave(at, sequence),
        }
    }

    fn plan_job(&self, at: usize, sequence: u64) -> Planned {
        let ended = |revision, why: &str| {
            Planned::Ended(Box::new(Plan::ended(revision, Outcome::Indeterminate, why)))
        };
        let Some(running) = self.machines[at].pipeline.running.get(&sequence) else {
            return ended(0, "it does not run");
        };
        let (job, view): (&Arc<Job>, _) = (running.run.job(), running.run.view().clone());
        let inputs = job.inputs.as_deref().unwrap_or_default();
        let opened = world::open(inputs).unwrap_or_else(|| inputs.as_bytes().to_vec());
        let params = serde_json::from_slice::<Params>(&opened);
        let nonce = job.record.nonce.clone().unwrap_or_else(|| format!("nonce-of-{sequence}"));
        match (tiebeam_jobs::find(&job.record.name), params) {
            (Some(found), Ok(params)) => {
                let live = Live { job: job.clone(), refused: running.refused.clone() };
                let user = &job.record.user;
                self.plan(at, found, user, &params, (view, &nonce), Some(live))
            }
            _ => ended(view.revision, "it cannot be run"),
        }
    }

    /// A function stands still until a command ends: intents of its new ones are proposed.
    fn wait_for(&mut self, at: usize, sequence: u64, mut wishes: Vec<CommandWish>) {
        let now_us = self.clock_us(at);
        let Some(running) = self.machines[at].pipeline.running.get_mut(&sequence) else { return };
        running.stands = true;
        wishes.retain(|wish| running.intending.insert(wish.key.clone()));
        let patience_us = running.run.patience_us().saturating_sub(now_us);
        // A clock that is behind true time gets there later.
        self.after_in_life(at, patience_us + patience_us / 1_000 + 1, Event::Run(sequence));
        for wish in wishes {
            self.intend(at, sequence, &wish);
        }
        self.settle(at);
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
        self.propose(at, Asker::Intent(job, wish.key.clone()), Body::Intent(intent));
    }

    /// The log's word on an intent: its function goes on.
    pub(super) fn intent_told(&mut self, at: usize, sequence: u64, key: &str, told: &Told) {
        let machine = &mut self.machines[at];
        let Some(process) = &machine.process else { return };
        let next = command::intended(&process.board, sequence, in_short(told), process.office());
        let Some(running) = machine.pipeline.running.get_mut(&sequence) else { return };
        let again_us = match next {
            Intended::AskIn(us) => us,
            Intended::Refused(refusal) => {
                running.refused.insert(key.to_owned(), refusal);
                0
            }
        };
        running.intending.remove(key);
        self.after_in_life(at, again_us + 20, Event::Run(sequence));
    }

    /// The log's word on a job's end.
    pub(super) fn runner_told(&mut self, at: usize, sequence: u64, told: &Told) {
        let machine = &mut self.machines[at];
        let Some(process) = &machine.process else { return };
        let Some(running) = machine.pipeline.running.get_mut(&sequence) else { return };
        match running.run.told(in_short(told), process.office(), &process.board) {
            Next::Plan => {
                (running.end, running.refused) = (None, BTreeMap::new());
                self.after_in_life(at, 50, Event::Run(sequence));
            }
            Next::ProposeIn(us) => self.after_in_life(at, us, Event::Run(sequence)),
            Next::Over => self.leave(at, sequence),
        }
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

/// What the log said, in the executor's words.
fn in_short(told: &Told) -> run::Told<'_> {
    match told {
        Told::Applied(_, answer) => run::Told::Answered(answer),
        Told::Refused => run::Told::NotMaster,
        Told::Unknown | Told::Readable(_) => run::Told::Unknown,
    }
}
