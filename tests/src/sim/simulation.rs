//! The simulation itself: one clock, one queue of events, one thread, one seed.
//!
//! It owns the node's process and disk, the clients and the observer's notes, and gives each event
//! to whom it is for. Everything random comes from its one source, so a seed is a whole run.

use super::clients::{Client, REGISTERS, Reply, Request};
use super::invariants::{self, Essence, Violation};
use super::ledger::Ledger;
use super::pipeline::Pipeline;
use super::process::{self, Halt, NODE, Process};
use super::{Settings, Summary};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::genesis::Genesis;
use tiebeam_proto::time::Time;
use tiebeam_replica::Input;
use tiebeam_replica::membership::raft_id;
use tiebeam_replica::seams::Rng;
use tiebeam_replica::seams::mem::{MemDisk, SeededRng, Stop};

/// 2026-11-20, the wall clock at the beginning.
const WALL_BEGIN_US: i64 = 1_795_132_800_000_000;
/// Time between two ticks of the replica.
const TICK_US: u64 = 20_000;
/// Longest time to rest after everything was healed: the deadline of jobs and the stop grace.
const REST_US: u64 = 75_000_000;
/// Events between two looks at everything.
const LOOK_EVERY: u64 = 1_000;
/// Events of a run: none comes near it unless it goes in circles.
const EVENTS_MAX: u64 = 200_000;

/// Something that happens.
pub(super) enum Event {
    /// A client may make its next call.
    Client(usize),
    /// A call reaches the node.
    Arrive { client: usize, attempt: u64, request: Arc<Request> },
    /// A client's connection broke.
    Lost { client: usize, attempt: u64 },
    /// A client has waited long enough.
    Impatient { client: usize, attempt: u64 },
    /// A client sends its call again.
    Again { client: usize, attempt: u64 },
    /// Something befalls the node.
    Fault,
    /// The disk has room again.
    Room,
    /// The node is started.
    Restart,
    /// The node's clock ticks.
    Tick,
    /// The log writer has its turn.
    Write,
    /// The log writer says how far it is.
    Persisted(u64),
    /// Apply has its turn.
    Apply,
    /// What apply did is shown, late: a planted fault.
    Show,
    /// The history is synced.
    SyncHistory,
    /// A snapshot is written.
    Snapshot(Box<State>),
    /// A call goes on.
    Call(u64),
    /// The conductor looks because something is due.
    Conduct,
    /// The conductor looks because time has passed.
    Look,
    /// A job's function runs.
    Run(u64),
    /// The process ends itself.
    Exit(String),
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Clients call, faults happen.
    Load,
    /// Everything was healed; what is open ends.
    Rest,
    /// Clients read every register once more.
    LastReads,
}

/// One run.
pub(super) struct Simulation {
    pub(super) settings: Settings,
    pub(super) rng: SeededRng,
    pub(super) now_us: u64,
    pub(super) wall_offset_us: i64,
    queue: BTreeMap<(u64, u64), (Option<u64>, Event)>,
    numbers: u64,
    events: u64,
    phase: Phase,
    healed_us: u64,
    pub(super) disk: MemDisk,
    pub(super) process: Option<Process>,
    /// Counts the node's lives; events of a former one are dropped.
    pub(super) life: u64,
    pub(super) pipeline: Pipeline,
    pub(super) paused_until_us: u64,
    pub(super) write_us: u64,
    /// When the board was last shown.
    pub(super) shown_us: u64,
    writing: bool,
    applying: bool,
    saving: bool,
    pub(super) last_stop: Stop,
    pub(super) clients: Vec<Client>,
    /// The newest revision that clients know of each register.
    pub(super) revisions: BTreeMap<&'static str, u64>,
    pub(super) ledger: Ledger,
    broken: Option<Violation>,
    /// Copies of the disk with a bit turned over, and those that no node started from.
    pub(super) rotten: u64,
    pub(super) refused: u64,
    pub(super) lines: Vec<String>,
}

fn genesis() -> Result<State, String> {
    let genesis = Genesis {
        cluster_id: "simulated".to_owned(),
        cluster_name: "simulated".to_owned(),
        node: (NODE, "n11".to_owned(), "127.0.0.1:20003".to_owned()),
        raft_id: raft_id(NODE.into(), 1),
        key_hash: "0".repeat(64),
        admin_hash: "$argon2id$v=19$m=8,t=1,p=1$c2ltdWxhdGlvbg$YWRtaW4".to_owned(),
        wall: Time(WALL_BEGIN_US),
    };
    State::genesis(&genesis).map_err(|error| error.to_string())
}

/// Whether a start failed because the disk failed or was full, and not by what is on it.
fn is_of_the_disk(why: &str) -> bool {
    why.contains("simulated I/O error") || why.contains("NoSpace")
}

impl Simulation {
    /// A node that was just made, and clients that have not called yet.
    pub(super) fn new(settings: Settings) -> Result<Simulation, String> {
        let mut rng = SeededRng::new(settings.seed);
        let genesis = genesis()?;
        let disk = MemDisk::new();
        process::init(&disk, rng.next_u64(), &genesis)?;
        let left = settings.calls / settings.clients.max(1);
        let client = Client::new(left);
        Ok(Simulation {
            clients: vec![client; settings.clients as usize],
            settings,
            rng,
            now_us: 0,
            wall_offset_us: 0,
            queue: BTreeMap::new(),
            numbers: 0,
            events: 0,
            phase: Phase::Load,
            healed_us: 0,
            disk,
            process: None,
            life: 0,
            pipeline: Pipeline::default(),
            paused_until_us: 0,
            write_us: 200,
            shown_us: 0,
            writing: false,
            applying: false,
            saving: false,
            last_stop: Stop::Kill,
            revisions: BTreeMap::new(),
            ledger: Ledger::new(genesis),
            broken: None,
            rotten: 0,
            refused: 0,
            lines: Vec::new(),
        })
    }

    /// A number that was never given before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The node's wall clock.
    pub(super) fn wall(&self) -> Time {
        Time(WALL_BEGIN_US + self.now_us as i64 + self.wall_offset_us)
    }

    /// Notes a line of the trace, if somebody wants it.
    pub(super) fn trace(&mut self, line: impl FnOnce() -> String) {
        if self.settings.trace {
            self.lines.push(format!("{:>9} {}", self.now_us, line()));
        }
    }

    /// Lets something happen later, whatever becomes of the node.
    pub(super) fn after(&mut self, delay_us: u64, event: Event) {
        let number = self.number();
        self.queue.insert((self.now_us + delay_us, number), (None, event));
    }

    /// Lets something happen later, in this life of the node.
    pub(super) fn after_in_life(&mut self, delay_us: u64, event: Event) {
        let number = self.number();
        self.queue.insert((self.now_us + delay_us, number), (Some(self.life), event));
    }

    /// Runs to the end.
    pub(super) fn run(&mut self) -> Result<Summary, Violation> {
        self.after(0, Event::Restart);
        for client in 0..self.clients.len() {
            let delay = 5_000 + self.rng.below(5_000);
            self.after(delay, Event::Client(client));
        }
        self.after(10_000, Event::Fault);
        while let Some(((time_us, number), (life, event))) = self.queue.pop_first() {
            self.now_us = self.now_us.max(time_us);
            if life.is_some_and(|life| life != self.life) {
                continue;
            }
            if life.is_some() && self.now_us < self.paused_until_us {
                self.queue.insert((self.paused_until_us, number), (life, event));
                continue;
            }
            self.events += 1;
            let handled = self.handle(event);
            self.survive(handled)?;
            if let Some(violation) = self.broken.take() {
                return Err(violation);
            }
            if self.events.is_multiple_of(LOOK_EVERY) {
                invariants::standing(&self.ledger, &self.disk)?;
            }
            if self.go_on()? {
                return self.finish();
            }
        }
        self.finish()
    }

    /// A process that cannot go on is gone; a broken invariant ends the run.
    fn survive(&mut self, handled: Result<(), Halt>) -> Result<(), Violation> {
        match handled {
            Ok(()) => Ok(()),
            Err(Halt::Broken(violation)) => Err(violation),
            Err(Halt::Died) => {
                let point = self.disk.crashed().unwrap_or_default();
                self.dies(&format!("stopped at {point}"), None);
                Ok(())
            }
            Err(Halt::Exits(why)) => {
                // Others still find it alive for a moment: it must be silent already.
                self.settle();
                let delay = 500 + self.rng.below(5_000);
                self.after_in_life(delay, Event::Exit(why));
                Ok(())
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Halt> {
        match event {
            Event::Client(client) => self.client_calls(client),
            Event::Arrive { client, attempt, request } => {
                if self.process.is_some() && self.now_us < self.paused_until_us {
                    let wait = self.paused_until_us - self.now_us;
                    self.after(wait, Event::Arrive { client, attempt, request });
                } else {
                    self.call_arrives(client, attempt, &request);
                }
            }
            Event::Lost { client, attempt } | Event::Impatient { client, attempt } => {
                self.reply(client, attempt, Reply::Lost);
            }
            Event::Again { client, attempt } => self.client_again(client, attempt),
            Event::Fault if self.phase == Phase::Load => return self.fault(),
            Event::Fault => {}
            Event::Room => self.disk.limit_bytes(None),
            Event::Restart => return self.restart(),
            Event::Tick => {
                self.receive(Input::Tick);
                self.after_in_life(TICK_US, Event::Tick);
            }
            Event::Write => return self.write(),
            Event::Persisted(group) => self.receive(Input::Persisted { group }),
            Event::Apply => return self.apply(),
            Event::Show => return self.show(),
            Event::SyncHistory => {
                let delay = 10_000 + self.rng.below(40_000);
                self.after_in_life(delay, Event::SyncHistory);
                return self.process.as_mut().map_or(Ok(()), Process::sync_history);
            }
            Event::Snapshot(state) => {
                self.saving = false;
                let process = self.process.as_mut();
                let saved = process.map_or(Ok(()), |process| process.snapshot(state));
                self.settle();
                return saved;
            }
            Event::Call(call) => return self.call_steps(call),
            Event::Conduct | Event::Look => self.conduct(),
            Event::Run(job) => self.run_job(job),
            Event::Exit(why) => self.dies(&format!("the node ends itself: {why}"), None),
        }
        Ok(())
    }

    fn receive(&mut self, input: Input) {
        if let Some(process) = &mut self.process {
            process.receive(input);
        }
        self.settle();
    }

    /// Lets the node say what is to be done, and plans its threads' turns.
    pub(super) fn settle(&mut self) {
        let Some(process) = &mut self.process else { return };
        let round = process.round();
        let (writes, entries) = (process.has_writes(), process.has_entries());
        for group in round.believed {
            self.after_in_life(5, Event::Persisted(group));
        }
        for (ticket, told) in round.told {
            // Refusals and read indices: no acknowledgement of an entry is among them.
            if let Err(Halt::Broken(violation)) = self.told(ticket, told) {
                self.broken.get_or_insert(violation);
            }
        }
        if round.halted {
            self.trace(|| "the replica halted".to_owned());
        }
        if writes && !std::mem::replace(&mut self.writing, true) {
            let delay = self.write_us / 2 + self.rng.below(self.write_us);
            self.after_in_life(delay, Event::Write);
        }
        if entries && !std::mem::replace(&mut self.applying, true) {
            let delay = 20 + self.rng.below(300);
            self.after_in_life(delay, Event::Apply);
        }
    }

    fn restart(&mut self) -> Result<(), Halt> {
        if self.process.is_some() {
            return Ok(());
        }
        if self.phase == Phase::Load && self.rng.one_in(8) {
            self.disk.crash_after(self.rng.below(40));
        }
        let (nonce, plant) = (self.rng.next_u64(), self.settings.plant);
        match Process::start(&self.disk, nonce, self.now_us, plant) {
            Ok(process) => {
                let last = process.last_index();
                self.trace(|| format!("the node starts, its log ends at {last}"));
                (self.writing, self.applying, self.saving) = (false, false, false);
                self.process = Some(process);
                invariants::acknowledged_entries_are_there(&self.ledger, last)?;
                self.after_in_life(TICK_US, Event::Tick);
                self.after_in_life(20_000, Event::SyncHistory);
                self.after_in_life(1_000, Event::Look);
                self.settle();
                Ok(())
            }
            Err(why) if self.disk.crashed().is_some() || is_of_the_disk(&why) => {
                self.trace(|| format!("the node could not start: {why}"));
                let stop = Stop::Random(self.rng.next_u64());
                self.disk.restart(stop);
                self.life += 1;
                self.after(1_000, Event::Restart);
                Ok(())
            }
            Err(why) => Ok(invariants::a_stopped_node_starts(Err(why))?),
        }
    }

    fn write(&mut self) -> Result<(), Halt> {
        self.writing = false;
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some(group) = process.write()? {
            let delay = 5 + self.rng.below(100);
            self.after_in_life(delay, Event::Persisted(group));
        }
        self.settle();
        Ok(())
    }

    fn apply(&mut self) -> Result<(), Halt> {
        self.applying = false;
        let Some(process) = &mut self.process else { return Ok(()) };
        let shown = process.apply(&mut self.ledger)?;
        self.shown_us = self.now_us;
        for (ticket, told) in shown.told {
            self.told(ticket, told)?;
        }
        self.board_changed()?;
        if self.settings.plant == Some(super::Plant::AnswerBeforeApply) {
            self.after_in_life(3_000, Event::Show);
        }
        if shown.due {
            self.after_in_life(50, Event::Conduct);
        }
        self.save_if_due();
        self.settle();
        Ok(())
    }

    fn save_if_due(&mut self) {
        let Some(process) = &mut self.process else { return };
        if process.wants_snapshot() && !std::mem::replace(&mut self.saving, true) {
            let state = process.state_to_save();
            let delay = 100 + self.rng.below(20_000);
            self.after_in_life(delay, Event::Snapshot(state));
        }
    }

    fn show(&mut self) -> Result<(), Halt> {
        if let Some(process) = &mut self.process {
            process.show();
        }
        self.board_changed()
    }

    /// From load to rest to the last reads; true at the end.
    fn go_on(&mut self) -> Result<bool, Violation> {
        if self.events > EVENTS_MAX {
            let state = self.process.as_ref().map(|process| process.board.clone());
            let state = state.unwrap_or_default();
            invariants::jobs_end_in_time(&state, self.now_us)?;
            return Ok(true);
        }
        let idle = self.clients.iter().all(Client::is_done);
        match self.phase {
            Phase::Load if idle => self.heal(),
            Phase::Rest => {
                let Some(process) = self.process.as_ref() else { return Ok(false) };
                if process.is_master() && process.board.jobs.is_empty() {
                    self.phase = Phase::LastReads;
                    self.clients[0].last_reads = REGISTERS.to_vec();
                    self.after(0, Event::Client(0));
                } else if self.now_us - self.healed_us > REST_US {
                    invariants::jobs_end_in_time(&process.board, REST_US)?;
                }
            }
            Phase::LastReads if idle => return Ok(true),
            Phase::Load | Phase::LastReads => {}
        }
        Ok(false)
    }

    /// No more faults: the power is cut once more, and the node is started.
    fn heal(&mut self) {
        self.phase = Phase::Rest;
        self.healed_us = self.now_us;
        (self.write_us, self.paused_until_us) = (200, 0);
        self.dies("the power is cut for the last time", Some(Stop::LoseAll));
        self.disk.restart(Stop::Kill);
    }

    /// The last look at everything.
    fn finish(&mut self) -> Result<Summary, Violation> {
        let broken = |halt: Halt| match halt {
            Halt::Broken(violation) => violation,
            other => invariants::no_assertion_fails(format!("{other:?}")),
        };
        if let Some(process) = &mut self.process {
            process.sync_history().map_err(broken)?;
        }
        let plant = self.settings.plant;
        let started = Process::start(&self.disk.image(), 1, self.now_us, plant);
        let again = invariants::a_stopped_node_starts(started)?;
        let last = again.last_index();
        invariants::acknowledged_entries_are_there(&self.ledger, last)?;
        let state = self.process.as_ref().map(|process| process.board.clone());
        let state = state.unwrap_or_default();
        invariants::whole(&self.ledger, &self.disk, &state)?;
        Ok(Summary {
            events: self.events,
            entries: self.ledger.entries.len() as u64,
            acknowledged: self.ledger.acknowledged.len() as u64,
            lives: self.life + 1,
            rotten: (self.rotten, self.refused),
            essence: Essence::of(&self.ledger, &state),
        })
    }

    /// Runs a process by itself until its State has everything that its log has.
    pub(super) fn replayed(&mut self, mut process: Process) -> Result<State, Halt> {
        let last = process.last_index();
        let mut ledger = Ledger::new(self.ledger.genesis.clone());
        ledger.entries.clone_from(&self.ledger.entries);
        ledger.prints.clone_from(&self.ledger.prints);
        ledger.records.clone_from(&self.ledger.records);
        for _ in 0..100 {
            process.round();
            if let Some(group) = process.write()? {
                process.receive(Input::Persisted { group });
            }
            process.round();
            while process.has_entries() && process.board.applied < last {
                process.apply(&mut ledger)?;
            }
            if process.board.applied >= last {
                break;
            }
        }
        Ok((*process.board).clone())
    }
}
