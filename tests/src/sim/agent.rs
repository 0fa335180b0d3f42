//! The nodes' commands: each node runs what its own applied State holds open for it, with a durable
//! journal and a shim that outlives the daemon (ruling 9).
//!
//! It mirrors the daemon's agent and its host. A program here is a span of time on one machine: it
//! goes on when the daemon is killed, and is gone without a trace when the power is cut.

use super::invariants;
use super::net::Frame;
use super::pipeline::Asker;
use super::plant::Plant;
use super::process::{Halt, Process};
use super::simulation::{Event, Simulation};
use super::world;
use std::collections::BTreeMap;
use std::sync::Arc;
use tiebeam_core::job::Command;
use tiebeam_core::proposal::{Body, CommandEnded};
use tiebeam_core::{Job, State};
use tiebeam_jobs::CommandWish;
use tiebeam_proto::record::CommandRecord;
use tiebeam_replica::seams::mem::MemDisk;
use tiebeam_replica::seams::{Disk, DiskError, OpenMode};

/// The folder of the journals.
const FOLDER: &str = "journal";
/// Time after which a report is repeated, in microseconds.
const REPORT_AGAIN_US: u64 = 100_000;

/// A command, by job and key.
pub(super) type Name = (u64, String);

/// What a node knows of its commands outside its process.
#[derive(Default)]
pub(super) struct Programs {
    /// Programs that run, with the moment of their end by themselves.
    running: BTreeMap<Name, u64>,
    /// Raised by every loss of power.
    boot: u64,
    /// When an end was last reported; gone with the process.
    reported_us: BTreeMap<Name, u64>,
}

impl Programs {
    /// The power was cut: no program runs any more.
    pub(super) fn power_cut(&mut self) {
        self.running.clear();
        self.boot += 1;
    }

    /// The daemon is gone, the programs are not.
    pub(super) fn daemon_gone(&mut self) {
        self.reported_us.clear();
    }
}

/// What a journal says of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Journal {
    Nothing,
    Started { boot: u64 },
    Refused,
    Ended(String),
}

fn path_of((job, key): &Name) -> String {
    format!("{FOLDER}/{job}-{key}")
}

fn read(disk: &MemDisk, name: &Name) -> Journal {
    let bytes = disk.content(&path_of(name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut found = Journal::Nothing;
    // A line without its end was not written whole.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let mut words = line.trim_end().splitn(2, ' ');
        match (words.next(), words.next()) {
            (Some("started"), Some(boot)) => {
                found = Journal::Started { boot: boot.parse().unwrap_or(0) };
            }
            (Some("refused"), _) => found = Journal::Refused,
            (Some("ended"), Some(how)) => found = Journal::Ended(how.to_owned()),
            _ => {}
        }
    }
    found
}

/// Adds a line to a journal, durably.
fn note(disk: &mut MemDisk, name: &Name, line: &str) -> Result<(), DiskError> {
    let path = path_of(name);
    disk.create_folder(FOLDER)?;
    let (file, at) = match disk.open(&path, OpenMode::Write) {
        Err(DiskError::NotFound { .. }) => {
            let file = disk.open(&path, OpenMode::Create)?;
            (file, 0)
        }
        opened => {
            // A torn tail is cut before the next line.
            let bytes = disk.content(&path).unwrap_or_default();
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let file = opened?;
            disk.set_len(file, whole as u64)?;
            (file, whole as u64)
        }
    };
    disk.write_at(file, at, format!("{line}\n").as_bytes())?;
    disk.sync(file)?;
    disk.close(file);
    disk.sync_folder(FOLDER)
}

impl Simulation {
    /// The agent's look at State: what is open for this node.
    pub(super) fn tend(&mut self, at: usize) -> Result<(), Halt> {
        let Some(process) = &self.machines[at].process else { return Ok(()) };
        let (board, own) = (process.board.clone(), process.identity.node);
        for sequence in &board.running {
            let Some(job) = board.jobs.get(sequence) else { continue };
            for command in job.open_commands().filter(|command| command.node == own) {
                self.tend_one(at, &board, job, command)?;
            }
        }
        for (sequence, doubt) in board.doubts.iter().filter(|(_, doubt)| !doubt.gone.contains(&own))
        {
            for (key, _) in doubt.commands.iter().filter(|(_, node)| *node == own) {
                let name = (*sequence, key.clone());
                self.stop(at, &name)?;
                // Only an end that is known ends a doubt.
                if let Some(how) = self.known_end(at, &name).filter(|how| how != "indeterminate") {
                    self.tell_end(at, &name, &how);
                }
            }
        }
        Ok(())
    }

    fn tend_one(
        &mut self,
        at: usize,
        board: &State,
        job: &Arc<Job>,
        command: &Command,
    ) -> Result<(), Halt> {
        let name = (job.sequence, command.key.clone());
        let late = self.cluster_clock_us(at, board) > job.deadline_us;
        if job.cancel.is_some() || late {
            self.stop(at, &name)?;
        } else if self.may_start(at, &name) {
            self.start(at, &name, command)?;
        }
        if let Some(how) = self.known_end(at, &name) {
            self.tell_end(at, &name, &how);
        }
        Ok(())
    }

    fn may_start(&self, at: usize, name: &Name) -> bool {
        let machine = &self.machines[at];
        let journal = read(&machine.disk, name);
        let forgets = self.settings.plant == Some(Plant::ForgetJournal);
        let again = forgets && !machine.programs.running.contains_key(name);
        journal == Journal::Nothing || (again && matches!(journal, Journal::Started { .. }))
    }

    /// Starts a program: the journal says so first.
    fn start(&mut self, at: usize, name: &Name, command: &Command) -> Result<(), Halt> {
        self.reached(at, "command.start.before")?;
        let machine = &mut self.machines[at];
        let line = format!("started {}", machine.programs.boot);
        let noted = note(&mut machine.disk, name, &line);
        if let Some(process) = &machine.process {
            process.disk_went("the command journal", noted)?;
        }
        self.reached(at, "command.start.journaled")?;
        let node = self.machines[at].identity.node;
        invariants::commands_start_once(&mut self.ledger, name, node, command)?;
        let duration_us = duration_of(command).unwrap_or(1_000);
        self.counts.commands += 1;
        self.trace_of(at, || format!("starts {} of job {}", name.1, name.0));
        let ends_us = self.now_us + duration_us;
        self.machines[at].programs.running.insert(name.clone(), ends_us);
        self.after_on(at, duration_us, Event::ProgramEnds(name.clone(), "ok"));
        self.reached(at, "command.start.after")
    }

    /// Stops a program, or sees to it that it never starts: the fence.
    fn stop(&mut self, at: usize, name: &Name) -> Result<(), Halt> {
        let machine = &mut self.machines[at];
        if machine.programs.running.contains_key(name) {
            self.after_on(at, 2_000, Event::ProgramEnds(name.clone(), "cancelled"));
            return Ok(());
        }
        if read(&machine.disk, name) != Journal::Nothing {
            return Ok(());
        }
        self.reached(at, "command.fence.before")?;
        let machine = &mut self.machines[at];
        let noted = note(&mut machine.disk, name, "refused");
        if let Some(process) = &machine.process {
            process.disk_went("the command journal", noted)?;
        }
        invariants::commands_are_fenced(&mut self.ledger, name, machine.identity.node)?;
        self.counts.fences += 1;
        self.reached(at, "command.fence.after")
    }

    /// A program ended: the shim writes it down, whether there is a daemon or not.
    pub(super) fn program_ends(
        &mut self,
        at: usize,
        name: Name,
        how: &'static str,
    ) -> Result<(), Halt> {
        let machine = &mut self.machines[at];
        let Some(ends_us) = machine.programs.running.get(&name).copied() else { return Ok(()) };
        if how == "ok" && ends_us > self.now_us {
            return Ok(());
        }
        let noted = note(&mut machine.disk, &name, &format!("ended {how}"));
        if noted.is_err() {
            // The shim tries again until the disk takes it.
            self.after_on(at, 20_000, Event::ProgramEnds(name, how));
            return Ok(());
        }
        machine.programs.running.remove(&name);
        self.trace_of(at, || format!("{} of job {} ended {how}", name.1, name.0));
        self.tend(at)
    }

    /// How a command ended on this node, if that is settled.
    fn known_end(&self, at: usize, name: &Name) -> Option<String> {
        let programs = &self.machines[at].programs;
        match read(&self.machines[at].disk, name) {
            Journal::Ended(how) => Some(how),
            Journal::Refused => Some("refused".to_owned()),
            Journal::Started { boot } => {
                let gone = boot != programs.boot || !programs.running.contains_key(name);
                gone.then(|| "indeterminate".to_owned())
            }
            Journal::Nothing => None,
        }
    }

    /// Tells the master how a command ended, again and again until State says it.
    fn tell_end(&mut self, at: usize, name: &Name, how: &str) {
        let now_us = self.now_us;
        let machine = &mut self.machines[at];
        let told_us = machine.programs.reported_us.get(name).copied();
        if told_us.is_some_and(|told_us| now_us < told_us + REPORT_AGAIN_US) {
            return;
        }
        machine.programs.reported_us.insert(name.clone(), now_us);
        self.after_in_life(at, REPORT_AGAIN_US, Event::Tend);
        if self.reached(at, "command.report").is_err() {
            return;
        }
        let node = self.machines[at].identity.node;
        let record = CommandRecord {
            name: name.1.clone(),
            node,
            result: how.to_owned(),
            status: (how == "ok").then_some(0),
            ..CommandRecord::default()
        };
        let ended = CommandEnded { job: name.0, key: name.1.clone(), record };
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

    /// Whether no program runs anywhere.
    pub(super) fn programs_rest(&self) -> bool {
        self.machines.iter().all(|machine| machine.programs.running.is_empty())
    }

    /// Whether a process answers as master on this machine.
    pub(super) fn is_master(&self, at: usize) -> bool {
        self.machines[at].process.as_ref().is_some_and(Process::is_master)
    }
}

/// How long a program runs: its argument, in milliseconds.
fn duration_of(command: &Command) -> Option<u64> {
    let opened = world::open(&command.spec)?;
    let wish: CommandWish = serde_json::from_slice(&opened).ok()?;
    let ms: u64 = wish.argv.get(1)?.parse().ok()?;
    Some((1_000 * ms).min(1_000_000 * wish.timeout_s))
}
