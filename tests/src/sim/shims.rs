//! The machine under the agent: journals on its disk, shims that outlive the daemon, and programs.
//!
//! What a journal means is [`tiebeam_executor::journal`]'s. A program here is a span of time: it
//! goes on when the daemon is killed, and is gone without a trace when the power is cut.

use super::agent::Name;
use super::invariants;
use super::process::Halt;
use super::simulation::{Event, Simulation};
use super::world;
use std::collections::{BTreeMap, BTreeSet};
use tiebeam_core::job::Command;
use tiebeam_executor::end::{CommandEnd, CommandResult, CommandState, EndLine};
use tiebeam_executor::journal::{self, Standing};
use tiebeam_jobs::CommandWish;
use tiebeam_replica::seams::mem::MemDisk;
use tiebeam_replica::seams::{Disk, DiskError, OpenMode};

/// The folder of the journals.
const FOLDER: &str = "journal";

/// A line of a journal; a shim is named by the boot that it lives in.
pub(super) type Line = journal::Line<u64>;
type Story = journal::Story<u64>;

/// The shims of a machine.
#[derive(Default)]
pub(super) struct Shims {
    shims: BTreeMap<Name, Shim>,
    /// Commands that somebody asked to stop.
    stops: BTreeSet<Name>,
    /// Raised by every loss of power.
    boot: u64,
}

struct Shim {
    nonce: String,
    command: Command,
    /// When its program ends by itself; `None` before it has begun.
    ends_us: Option<u64>,
    /// How it ended, once it has.
    end: Option<CommandResult>,
}

impl Shims {
    /// No process is left.
    pub(super) fn power_cut(&mut self) {
        *self = Shims { boot: self.boot + 1, ..Shims::default() };
    }

    /// Whether a shim was started and has not begun.
    pub(super) fn is_silent(&self, name: &Name) -> bool {
        self.shims.get(name).is_some_and(|shim| shim.ends_us.is_none())
    }

    fn runs(&self, name: &Name, boot: u64) -> bool {
        boot == self.boot && self.shims.contains_key(name)
    }
}

fn path_of((job, key): &Name) -> String {
    format!("{FOLDER}/{job}-{key}")
}

/// What the journal of a command says.
pub(super) fn read(disk: &MemDisk, name: &Name) -> Story {
    Story::parse(&disk.content(&path_of(name)).unwrap_or_default()).0
}

/// Adds a line to a journal, durably; a torn tail is cut first.
fn append(disk: &mut MemDisk, path: &str, line: &Line) -> Result<(), DiskError> {
    disk.create_folder(FOLDER)?;
    let (_, whole) = Story::parse(&disk.content(path).unwrap_or_default());
    let file = match disk.open(path, OpenMode::Write) {
        Err(DiskError::NotFound { .. }) => disk.open(path, OpenMode::Create)?,
        opened => opened?,
    };
    disk.set_len(file, whole)?;
    disk.write_at(file, whole, &journal::encode(line).unwrap_or_default())?;
    disk.sync(file)?;
    disk.close(file);
    disk.sync_folder(FOLDER)
}

/// Voids the attempts that no shim has taken over.
pub(super) fn void_orphans(disk: &mut MemDisk) -> Result<(), DiskError> {
    for path in disk.paths().into_iter().filter(|path| path.starts_with(FOLDER)) {
        let story = Story::parse(&disk.content(&path).unwrap_or_default()).0;
        if let Some(nonce) = story.orphan() {
            let why = "the daemon ended before the shim began".to_owned();
            append(disk, &path, &Line::Void { nonce: nonce.to_owned(), why })?;
        }
    }
    Ok(())
}

impl Simulation {
    /// Adds a line to a journal for the daemon. The inner error is the disk's, in words.
    pub(super) fn append(
        &mut self,
        at: usize,
        name: &Name,
        line: &Line,
    ) -> Result<Result<(), String>, Halt> {
        let disk = &mut self.machines[at].disk;
        let appended = append(disk, &path_of(name), line);
        if disk.crashed().is_some() {
            return Err(Halt::Died);
        }
        Ok(appended.map_err(|error| error.to_string()))
    }

    /// Where a command is. Writes `lost` if its shim vanished.
    pub(super) fn command_state(
        &mut self,
        at: usize,
        name: &Name,
    ) -> Result<Result<CommandState, String>, Halt> {
        let machine = &self.machines[at];
        let story = read(&machine.disk, name);
        let state = match story.standing(|boot| machine.programs.shims.runs(name, *boot)) {
            Standing::NotStarted => CommandState::NotStarted,
            Standing::Starting => CommandState::Starting,
            Standing::Running => CommandState::Running,
            Standing::Ended(end) => CommandState::Ended(Box::new(end_of(end))),
            Standing::Unknown(evidence) => CommandState::Unknown { evidence },
            Standing::Refused(why) => CommandState::Refused { why: why.to_owned() },
            Standing::Vanished => {
                let evidence = "the node was started again while the command ran".to_owned();
                let line = Line::Lost { evidence: evidence.clone(), at_us: 0 };
                let noted = self.append(at, name, &line)?;
                return Ok(noted.map(|()| CommandState::Unknown { evidence }));
            }
        };
        Ok(Ok(state))
    }

    /// Starts a shim and gives it its order. It begins whether the daemon lives on or not.
    pub(super) fn order_shim(&mut self, at: usize, name: &Name, nonce: String, command: Command) {
        let shim = Shim { nonce, command, ends_us: None, end: None };
        self.machines[at].programs.shims.shims.insert(name.clone(), shim);
        let delay = 50 + self.rng.below(500);
        self.after_on(at, delay, Event::ShimBegins(name.clone()));
    }

    /// A shim takes its attempt over, and only then starts the program.
    pub(super) fn shim_begins(&mut self, at: usize, name: &Name) -> Result<(), Halt> {
        let planted = self.planted();
        let machine = &mut self.machines[at];
        let shims = &mut machine.programs.shims;
        let boot = shims.boot;
        let Some(shim) = shims.shims.get(name) else { return Ok(()) };
        let (nonce, command) = (shim.nonce.clone(), shim.command.clone());
        self.after_in_life(at, 1, Event::Tend);
        let machine = &mut self.machines[at];
        let line = Line::Running { nonce: nonce.clone(), shim: boot, cgroup: None, at_us: 0 };
        let begins = read(&machine.disk, name).may_begin(&nonce, &planted)
            && append(&mut machine.disk, &path_of(name), &line).is_ok();
        let shims = &mut machine.programs.shims;
        if !begins {
            shims.shims.remove(name);
            return Ok(());
        }
        let stopped = shims.stops.contains(name);
        let duration_us = if stopped { 0 } else { duration_of(&command).unwrap_or(1_000) };
        if let Some(shim) = shims.shims.get_mut(name) {
            shim.ends_us = Some(self.now_us + duration_us);
        }
        if stopped {
            self.after_on(at, 0, Event::ProgramEnds(name.clone(), CommandResult::Cancelled));
            return Ok(());
        }
        let node = machine.identity.node;
        invariants::commands_start_once(&mut self.ledger, name, node, &command)?;
        self.counts.commands += 1;
        self.trace_of(at, || format!("starts {} of job {}", name.1, name.0));
        self.after_on(at, duration_us, Event::ProgramEnds(name.clone(), CommandResult::Ok));
        Ok(())
    }

    /// Asks a program to end.
    pub(super) fn stop_program(&mut self, at: usize, name: &Name) {
        let machine = &mut self.machines[at];
        if !read(&machine.disk, name).may_stop() {
            return;
        }
        let shims = &mut machine.programs.shims;
        shims.stops.insert(name.clone());
        if shims.shims.get(name).is_some_and(|shim| shim.ends_us.is_some()) {
            self.after_on(at, 2_000, Event::ProgramEnds(name.clone(), CommandResult::Cancelled));
        }
    }

    /// A program ended: its shim writes it down, whether there is a daemon or not.
    pub(super) fn program_ends(
        &mut self,
        at: usize,
        name: Name,
        how: CommandResult,
    ) -> Result<(), Halt> {
        let machine = &mut self.machines[at];
        let shims = &mut machine.programs.shims;
        let Some(shim) = shims.shims.get_mut(&name) else { return Ok(()) };
        let Some(ends_us) = shim.ends_us else { return Ok(()) };
        if how == CommandResult::Ok && ends_us > self.now_us {
            return Ok(());
        }
        let how = *shim.end.get_or_insert(how);
        let key = (name.0, name.1.clone(), machine.identity.node);
        self.ledger.ended.insert(key, how.name());
        let end = EndLine {
            result: how,
            status: (how == CommandResult::Ok).then_some(0),
            signal: None,
            started_us: 0,
            ended_us: 0,
            output_bytes: 0,
            kept_bytes: 0,
            output_sha256: None,
            evidence: None,
        };
        let line = Line::Ended(Box::new(end));
        if append(&mut machine.disk, &path_of(&name), &line).is_err() {
            // The shim tries again until the disk takes it.
            self.after_on(at, 20_000, Event::ProgramEnds(name, how));
            return Ok(());
        }
        shims.shims.remove(&name);
        shims.stops.remove(&name);
        self.trace_of(at, || format!("{} of job {} ended {}", name.1, name.0, how.name()));
        self.after_in_life(at, 1, Event::Tend);
        Ok(())
    }

    /// Whether no program runs anywhere.
    pub(super) fn programs_rest(&self) -> bool {
        self.machines.iter().all(|machine| machine.programs.shims.shims.is_empty())
    }
}

/// The end as it is reported: nothing is printed here.
fn end_of(end: &EndLine) -> CommandEnd {
    CommandEnd {
        status: end.status,
        evidence: end.evidence.clone(),
        ..CommandEnd::without_run(end.result, String::new())
    }
}

/// How long a program runs: its argument, in milliseconds.
fn duration_of(command: &Command) -> Option<u64> {
    let opened = world::open(&command.spec)?;
    let wish: CommandWish = serde_json::from_slice(&opened).ok()?;
    let ms: u64 = wish.argv.get(1)?.parse().ok()?;
    Some((1_000 * ms).min(1_000_000 * wish.timeout_s))
}
