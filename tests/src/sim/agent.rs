//! The nodes' commands: drives [`tiebeam_executor::agent`], the agent that the daemon runs, for
//! each node over its own applied State; what it wants of the machine is in [`super::shims`].

use super::invariants;
use super::net::Frame;
use super::pipeline::Asker;
use super::plant::Planted;
use super::process::{Halt, Process, Told};
use super::shims::{self, Shims};
use super::simulation::{Event, Simulation};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::proposal::{Body, CommandEnded};
pub(super) use tiebeam_executor::agent::Name;
use tiebeam_executor::agent::{Agent, Do, Saw, Tending};
use tiebeam_executor::end::{CommandEnd, CommandResult, CommandState};
use tiebeam_executor::journal::{Admission, GivenBack, Line};
use tiebeam_replica::Input;

/// How long a report waits for the master's answer, in microseconds.
const ANSWER_US: u64 = 100_000;

/// What a machine has of commands: beside its process, and in it.
#[derive(Default)]
pub(super) struct Programs {
    /// What outlives the daemon.
    pub(super) shims: Shims,
    /// What is gone with it.
    tends: Tends,
}

/// The agent of a process.
#[derive(Default)]
struct Tends {
    agent: Option<Agent<Planted>>,
    tended: BTreeMap<Name, Tended>,
    /// The journals were looked at since the start.
    opened: bool,
    caught_up: CaughtUp,
}

/// Whether a process has applied what had been committed when it started.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum CaughtUp {
    #[default]
    No,
    Asked,
    /// Once it has applied this index.
    At(u64),
    Yes,
}

struct Tended {
    tending: Tending<Planted>,
    /// The attempt whose shim has not said anything yet.
    attempt: Option<String>,
    /// When it does not wait any more for what it does now.
    until_us: Option<u64>,
}

impl Programs {
    /// The power was cut: no program runs any more.
    pub(super) fn power_cut(&mut self) {
        self.shims.power_cut();
    }

    /// The daemon is gone, the programs are not.
    pub(super) fn daemon_gone(&mut self) {
        self.tends = Tends::default();
    }
}

impl Simulation {
    /// The agent's look at State, and at what it tends.
    pub(super) fn tend(&mut self, at: usize) -> Result<(), Halt> {
        let planted = self.planted();
        self.open_journals(at)?;
        self.catch_up(at);
        let machine = &mut self.machines[at];
        let Some(process) = &machine.process else { return Ok(()) };
        let (board, own) = (process.board.clone(), process.identity.node);
        let tends = &mut machine.programs.tends;
        let caught_up = tends.caught_up == CaughtUp::Yes;
        let agent = tends.agent.get_or_insert_with(|| Agent::new(own, planted));
        for tending in agent.look(&board, caught_up, process.role.term) {
            let tended = Tended { tending, attempt: None, until_us: None };
            tends.tended.insert(tended.tending.name().clone(), tended);
        }
        let names: Vec<Name> = tends.tended.keys().cloned().collect();
        for name in names {
            self.tend_one(at, &name, &board)?;
        }
        Ok(())
    }

    /// A daemon that has just started voids what no shim has taken over.
    fn open_journals(&mut self, at: usize) -> Result<(), Halt> {
        let machine = &mut self.machines[at];
        let Some(process) = &machine.process else { return Ok(()) };
        if std::mem::replace(&mut machine.programs.tends.opened, true) {
            return Ok(());
        }
        let voided = shims::void_orphans(&mut machine.disk);
        process.disk_went("the command journal", voided)
    }

    /// Asks what had been committed when the process started.
    fn catch_up(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(process) = &machine.process else { return };
        let caught_up = &mut machine.programs.tends.caught_up;
        match *caught_up {
            CaughtUp::No => {
                *caught_up = CaughtUp::Asked;
                self.ask(at, Asker::CatchUp, |process, ticket, _| {
                    process.receive(Input::Read { ticket });
                });
                self.after_in_life(at, 0, Event::Settle);
            }
            CaughtUp::At(index) if process.board.applied >= index => *caught_up = CaughtUp::Yes,
            CaughtUp::At(_) | CaughtUp::Asked | CaughtUp::Yes => {}
        }
    }

    /// What had been committed is known, or is asked for again.
    pub(super) fn caught_up_told(&mut self, at: usize, told: &Told) -> Result<(), Halt> {
        let caught_up = &mut self.machines[at].programs.tends.caught_up;
        let (next, delay) = match told {
            Told::Readable(index) => (CaughtUp::At(*index), 1),
            _ => (CaughtUp::No, ANSWER_US),
        };
        *caught_up = next;
        self.after_in_life(at, delay, Event::Tend);
        Ok(())
    }

    /// Goes on with a command as far as it gets now.
    fn tend_one(&mut self, at: usize, name: &Name, board: &Arc<State>) -> Result<(), Halt> {
        loop {
            let clock_us = self.moment(at, board).clock_us;
            let tends = &mut self.machines[at].programs.tends;
            let Some(tended) = tends.tended.get_mut(name) else { return Ok(()) };
            if tended.tending.is_to_stop(board, clock_us) {
                tended.tending.stop();
                tended.until_us = None;
            }
            let saw = match tended.tending.next(board) {
                Do::Leave => {
                    if let (Some(agent), Some(tended)) =
                        (&mut tends.agent, tends.tended.remove(name))
                    {
                        agent.left(&tended.tending);
                    }
                    if board.doubts.contains_key(&name.0) {
                        // The doubt came while the command was tended: it is to be looked at, too.
                        self.after_in_life(at, 1, Event::Tend);
                    }
                    return Ok(());
                }
                Do::Ask => Some(match self.command_state(at, name)? {
                    Ok(state) => Saw::Where(state),
                    Err(why) => Saw::Failed(why),
                }),
                Do::Start => self.start(at, name)?,
                Do::Wait => self.wait_for_end(at, name, board)?,
                Do::Fence(why) => Some(self.fence(at, name, why)?),
                Do::Stop => {
                    self.stop_program(at, name);
                    Some(Saw::Done)
                }
                Do::Report(ended) => self.report_end(at, name, *ended, board)?,
                Do::Rest(us) => self.waited(at, name, us).then_some(Saw::Done),
            };
            let Some(saw) = saw else { return Ok(()) };
            if let Some(tended) = self.machines[at].programs.tends.tended.get_mut(name) {
                tended.until_us = None;
                tended.tending.saw(saw);
            }
        }
    }

    /// Whether a command has waited so long; if not, it is looked at again then.
    fn waited(&mut self, at: usize, name: &Name, us: u64) -> bool {
        let now_us = self.now_us;
        let tended = self.machines[at].programs.tends.tended.get_mut(name);
        let Some(tended) = tended else { return false };
        match tended.until_us {
            Some(until_us) => now_us >= until_us,
            None => {
                tended.until_us = Some(now_us + us);
                self.after_in_life(at, us, Event::Tend);
                false
            }
        }
    }

    /// Starts a command: its journal says so first, then its shim gets the order. `None` until the
    /// shim has said something.
    fn start(&mut self, at: usize, name: &Name) -> Result<Option<Saw>, Halt> {
        let planted = self.planted();
        let machine = &mut self.machines[at];
        let Some(tended) = machine.programs.tends.tended.get_mut(name) else { return Ok(None) };
        let Some(command) = tended.tending.command().cloned() else {
            return Ok(Some(Saw::Sealed));
        };
        if let Some(attempt) = tended.attempt.clone() {
            return self.shim_said(at, name, &attempt);
        }
        self.reached(at, "command.start.before")?;
        let story = shims::read(&self.machines[at].disk, name);
        match story.admit(&command.digest, &planted) {
            Admission::Begin => {}
            Admission::OtherArguments => {
                let why = "it was started with other arguments".to_owned();
                return Ok(Some(Saw::Unrun(why)));
            }
            Admission::Known => {
                return Ok(Some(match self.command_state(at, name)? {
                    Ok(CommandState::Refused { why }) => Saw::Unrun(why),
                    Ok(_) => Saw::Started,
                    Err(why) => Saw::Unrun(why),
                }));
            }
        }
        let nonce = format!("attempt-{}", self.number());
        let (epoch, digest) = (command.epoch, command.digest.clone());
        let line = Line::Intent { nonce: nonce.clone(), epoch, digest, at_us: 0 };
        if let Err(why) = self.append(at, name, &line)? {
            return Ok(Some(Saw::Unrun(why)));
        }
        self.reached(at, "command.start.journaled")?;
        if let Some(tended) = self.machines[at].programs.tends.tended.get_mut(name) {
            tended.attempt = Some(nonce.clone());
        }
        self.order_shim(at, name, nonce, command);
        Ok(None)
    }

    /// What the shim of an attempt has said, by what the journal says since.
    fn shim_said(&mut self, at: usize, name: &Name, nonce: &str) -> Result<Option<Saw>, Halt> {
        let machine = &mut self.machines[at];
        if machine.programs.shims.is_silent(name) {
            return Ok(None);
        }
        if let Some(tended) = machine.programs.tends.tended.get_mut(name) {
            tended.attempt = None;
        }
        let failed = || "the shim ended without a word".to_owned();
        let saw = match shims::read(&machine.disk, name).give_back(nonce) {
            GivenBack::Begun => Saw::Started,
            GivenBack::Refused(why) => Saw::Unrun(why.to_owned()),
            GivenBack::Gone => Saw::Unrun(failed()),
            GivenBack::Void => {
                let line = Line::Void { nonce: nonce.to_owned(), why: failed() };
                self.append(at, name, &line)?.map_or_else(Saw::Unrun, |()| Saw::Unrun(failed()))
            }
        };
        self.reached(at, "command.start.after")?;
        Ok(Some(saw))
    }

    /// How a command ended; `None` while it goes on.
    fn wait_for_end(&mut self, at: usize, name: &Name, board: &State) -> Result<Option<Saw>, Halt> {
        let end = match self.command_state(at, name)? {
            Ok(CommandState::Ended(end)) => *end,
            Ok(CommandState::Refused { why }) => {
                CommandEnd::without_run(CommandResult::Refused, why)
            }
            Ok(CommandState::Unknown { evidence }) => {
                CommandEnd::without_run(CommandResult::Indeterminate, evidence)
            }
            Ok(CommandState::NotStarted) => {
                return Ok(Some(Saw::Failed("it was not started on this node".to_owned())));
            }
            Err(why) => return Ok(Some(Saw::Failed(why))),
            Ok(CommandState::Starting | CommandState::Running) => {
                // Its deadline is looked at even if nothing happens.
                let clock_us = self.moment(at, board).clock_us;
                let tended = self.machines[at].programs.tends.tended.get_mut(name);
                if let Some(tended) = tended
                    && tended.until_us.is_none()
                    && tended.tending.is_under_way()
                    && let Some(job) = board.jobs.get(&name.0)
                {
                    let left_us = job.deadline_us.saturating_sub(clock_us);
                    tended.until_us = Some(self.now_us + left_us);
                    self.after_in_life(at, left_us + left_us / 1_000 + 1, Event::Tend);
                }
                return Ok(None);
            }
        };
        Ok(Some(Saw::Ended(Box::new(end))))
    }

    /// Sees to it that a command that has not run never does.
    fn fence(&mut self, at: usize, name: &Name, why: String) -> Result<Saw, Halt> {
        let machine = &self.machines[at];
        let tended = machine.programs.tends.tended.get(name);
        let epoch = tended.map_or(0, |tended| tended.tending.epoch());
        let story = shims::read(&machine.disk, name);
        if !story.may_refuse() {
            return Ok(Saw::Fenced(story.refused.is_some()));
        }
        self.reached(at, "command.fence.before")?;
        let line = Line::Refused { epoch, why, at_us: 0 };
        if let Err(why) = self.append(at, name, &line)? {
            return Ok(Saw::Failed(why));
        }
        let node = self.machines[at].identity.node;
        invariants::commands_are_fenced(&mut self.ledger, name, node)?;
        self.counts.fences += 1;
        self.reached(at, "command.fence.after")?;
        Ok(Saw::Fenced(true))
    }

    /// Tells the master how a command ended. Its answer is State's: the command is not open there
    /// any more.
    fn report_end(
        &mut self,
        at: usize,
        name: &Name,
        ended: CommandEnded,
        board: &State,
    ) -> Result<Option<Saw>, Halt> {
        if is_in_log(board, name) {
            return Ok(Some(Saw::Told(true)));
        }
        let tended = self.machines[at].programs.tends.tended.get(name);
        let new = tended.is_some_and(|tended| tended.until_us.is_none());
        if self.waited(at, name, ANSWER_US) {
            return Ok(Some(Saw::Told(false)));
        }
        if new {
            self.reached(at, "command.report")?;
            self.send_end(at, ended);
        }
        Ok(None)
    }

    fn send_end(&mut self, at: usize, ended: CommandEnded) {
        let Some(process) = &self.machines[at].process else { return };
        if process.is_master() {
            self.propose(at, Asker::Agent, Body::CommandEnded(Box::new(ended)));
            self.after_in_life(at, 1, Event::Settle);
            return;
        }
        let master = process.leader().and_then(|node| self.place(node));
        if let Some(to) = master.filter(|to| *to != at) {
            self.send(at, to, Frame::CommandEnded(Box::new(ended)));
        }
    }

    /// Whether a process answers as master on this machine.
    pub(super) fn is_master(&self, at: usize) -> bool {
        self.machines[at].process.as_ref().is_some_and(Process::is_master)
    }
}

/// Whether State knows how the command ended, or does not want to know any more.
fn is_in_log(board: &State, name: &Name) -> bool {
    let open = board.running.contains(&name.0)
        && board.jobs.get(&name.0).is_some_and(|job| {
            let mut open = job.open_commands();
            open.any(|command| command.key == name.1)
        });
    let doubt = board.doubts.get(&name.0);
    let doubted = doubt.is_some_and(|doubt| doubt.commands.iter().any(|(key, _)| *key == name.1));
    !open && !doubted
}
