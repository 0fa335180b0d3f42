//! The simulation itself: one clock, one queue of events, one thread, one seed.
//!
//! It owns the machines, the network, the clients and the observer's notes, and gives each event to
//! whom it is for. Everything random comes from its one source, so a seed is a whole run.

use super::agent;
use super::archive::Library;
use super::clients::{Client, Reply, Request};
use super::coverage::Counts;
use super::invariants::{self, Essence, Violation};
use super::ledger::Ledger;
use super::machine::Machine;
use super::members::Course;
use super::net::{Frame, Net};
use super::process::{self, Halt, Identity, Process};
use super::{Settings, Summary};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::genesis::Genesis;
use tiebeam_core::state::Member;
use tiebeam_executor::end::CommandResult;
use tiebeam_proto::time::Time;
use tiebeam_replica::Input;
use tiebeam_replica::membership::{Membership, raft_id};
use tiebeam_replica::seams::Rng;
use tiebeam_replica::seams::mem::{MemDisk, SeededRng, Stop};

/// 2026-11-20, the wall clock at the beginning.
pub(super) const WALL_BEGIN_US: i64 = 1_795_132_800_000_000;
/// Node id of the first machine.
pub(super) const FIRST_NODE: u32 = 11;
/// Longest time to rest after everything was healed: the longest deadline of jobs and the stop
/// grace.
const REST_US: u64 = 90_000_000;
/// Events between two looks at everything.
const LOOK_EVERY: u64 = 1_000;
/// Events of a minute with faults: no run comes near it unless it goes in circles.
const EVENTS_A_MINUTE: u64 = 4_000_000;

/// Something that happens.
pub(super) enum Event {
    /// A client may make its next call.
    Client(usize),
    /// A call reaches a machine.
    Arrive { at: usize, client: usize, attempt: u64, request: Arc<Request> },
    /// A client's connection broke.
    Lost { client: usize, attempt: u64 },
    /// A client has waited long enough.
    Impatient { client: usize, attempt: u64 },
    /// A client sends its call again.
    Again { client: usize, attempt: u64 },
    /// Something befalls the cluster.
    Fault,
    /// A change of members goes on.
    Swap,
    /// Somebody cancels a job at this stage, or looks for one so often again.
    Cancel(usize, u32),
    /// Links are mended, in this order.
    Mend(Vec<(usize, usize)>),
    /// The network is as good as new.
    Clear,
    /// The disk has room again.
    Room(usize),
    /// A node is started.
    Restart(usize),
    /// A frame arrives from a machine, sent under this raft id.
    Deliver { from: usize, peer: u64, frame: Frame },
    /// A program on the machine ends.
    ProgramEnds(agent::Name, CommandResult),
    /// A shim begins, unless its attempt was taken back.
    ShimBegins(agent::Name),
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
    Snapshot(Box<State>, Membership),
    /// A call goes on.
    Call(u64),
    /// Nobody answered a ticket.
    Expire(u64),
    /// The conductor looks because something is due.
    Conduct,
    /// The conductor looks because time has passed.
    Look,
    /// A job's function runs.
    Run(u64),
    /// The agent looks at its commands.
    Tend,
    /// The node says what is to be done.
    Settle,
    /// The member tells the others how far it is.
    Report,
    /// The same, because time has passed.
    ReportAgain,
    /// A message to this raft id did not arrive.
    Unreachable(u64),
    /// The process ends itself.
    Exit(String),
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Clients call, faults happen.
    Load,
    /// Everything was healed; what is open ends.
    Rest,
    /// Clients read every register once more.
    LastReads,
}

/// Whose event it is: a machine's, in any life or in one.
type Whose = Option<(usize, Option<u64>)>;

/// One run.
pub(super) struct Simulation {
    pub(super) settings: Settings,
    pub(super) rng: SeededRng,
    pub(super) now_us: u64,
    queue: BTreeMap<(u64, u64), (Whose, Event)>,
    numbers: u64,
    events: u64,
    pub(super) phase: Phase,
    healed_us: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) net: Net,
    /// The change of members that is under way.
    pub(super) course: Option<Course>,
    pub(super) clients: Vec<Client>,
    /// The newest revision that clients know of each register.
    pub(super) revisions: BTreeMap<&'static str, u64>,
    pub(super) ledger: Ledger,
    pub(super) broken: Option<Violation>,
    pub(super) counts: Counts,
    pub(super) lines: Vec<String>,
}

/// The first State of a cluster of `nodes` voters, and the entries of all that it may grow to.
fn genesis(nodes: u32, most: u32) -> Result<State, String> {
    let of = |node: u32| (node, format!("n{node}"), format!("127.0.0.{node}:20003"));
    let member = |node: u32| Member {
        raft_id: raft_id(node.into(), 1),
        key_hash: "0".repeat(64),
        voter: true,
        joining: false,
        since: 0,
    };
    let genesis = Genesis {
        cluster_id: "simulated".to_owned(),
        cluster_name: "simulated".to_owned(),
        node: of(FIRST_NODE),
        raft_id: raft_id(FIRST_NODE.into(), 1),
        key_hash: "0".repeat(64),
        admin_hash: "$argon2id$v=19$m=8,t=1,p=1$c2ltdWxhdGlvbg$YWRtaW4".to_owned(),
        wall: Time(WALL_BEGIN_US),
    };
    let mut state = State::genesis(&genesis).map_err(|error| error.to_string())?;
    for node in FIRST_NODE + 1..FIRST_NODE + most {
        let mut other = Genesis { node: of(node), ..genesis.clone() };
        other.raft_id = raft_id(node.into(), 1);
        let other = State::genesis(&other).map_err(|error| error.to_string())?;
        let at = State::node_path(node);
        let entry = other.config.value(&at).unwrap_or_default();
        state.config = state.config.set(&at, &entry, 1).map_err(|error| error.to_string())?;
        if node < FIRST_NODE + nodes {
            state.members.insert(node, member(node));
        }
    }
    Ok(state)
}

impl Simulation {
    /// Nodes that were just made, and clients that have not called yet.
    pub(super) fn new(settings: Settings) -> Result<Simulation, String> {
        let mut rng = SeededRng::new(settings.seed);
        let most = settings.nodes.max(settings.voters.1);
        let genesis = genesis(settings.nodes, most)?;
        let library = Library::default();
        let mut machines = Vec::new();
        for node in FIRST_NODE..FIRST_NODE + most {
            let disk = MemDisk::new();
            let is_member = genesis.members.contains_key(&node);
            if is_member {
                let voters = genesis.members.values().map(|member| member.raft_id);
                let voters = Membership::of_voters(voters);
                process::init(&disk, rng.next_u64(), &genesis, voters)?;
            }
            let identity = Identity {
                node,
                raft: raft_id(node.into(), 1),
                plant: settings.plant,
                library: library.clone(),
            };
            let mut machine = Machine::new(identity, disk);
            (machine.out, machine.lost) = (!is_member, !is_member);
            machines.push(machine);
        }
        let left = settings.calls / settings.clients.max(1);
        let watched = !settings.scripted;
        Ok(Simulation {
            clients: vec![Client::new(left); settings.clients as usize],
            settings,
            rng,
            now_us: 0,
            queue: BTreeMap::new(),
            numbers: 0,
            events: 0,
            phase: Phase::Load,
            healed_us: 0,
            machines,
            net: Net::new(),
            course: None,
            revisions: BTreeMap::new(),
            ledger: Ledger { watched, ..Ledger::new(genesis) },
            broken: None,
            counts: Counts::default(),
            lines: Vec::new(),
        })
    }

    /// A number that was never given before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Notes a line of the trace, if somebody wants it.
    pub(super) fn trace(&mut self, line: impl FnOnce() -> String) {
        if self.settings.trace {
            self.lines.push(format!("{:>10} {}", self.now_us, line()));
        }
    }

    /// Notes what a machine does.
    pub(super) fn trace_of(&mut self, at: usize, line: impl FnOnce() -> String) {
        if self.settings.trace {
            let node = self.machines[at].identity.node;
            self.lines.push(format!("{:>10} n{node} {}", self.now_us, line()));
        }
    }

    fn plan_event(&mut self, delay_us: u64, whose: Whose, event: Event) {
        let number = self.number();
        self.queue.insert((self.now_us + delay_us, number), (whose, event));
    }

    /// Lets something happen later, whatever becomes of the nodes.
    pub(super) fn after(&mut self, delay_us: u64, event: Event) {
        self.plan_event(delay_us, None, event);
    }

    /// Lets something happen later on a machine, whichever life its process is in.
    pub(super) fn after_on(&mut self, at: usize, delay_us: u64, event: Event) {
        self.plan_event(delay_us, Some((at, None)), event);
    }

    /// Lets something happen later, in this life of a machine's process.
    pub(super) fn after_in_life(&mut self, at: usize, delay_us: u64, event: Event) {
        let life = self.machines[at].life;
        self.plan_event(delay_us, Some((at, Some(life))), event);
    }

    /// Begins a run: the machines are switched on, the clients begin to call.
    pub(super) fn begin(&mut self) {
        for at in 0..self.machines.len() {
            self.after(0, Event::Restart(at));
        }
        for client in 0..self.clients.len() {
            let delay = 5_000 + self.rng.below(5_000);
            self.after(delay, Event::Client(client));
        }
    }

    /// Runs to the end.
    pub(super) fn run(&mut self) -> Result<Summary, Violation> {
        self.begin();
        self.after(10_000, Event::Fault);
        while self.step()? {
            if self.go_on()? {
                break;
            }
        }
        self.finish()
    }

    /// When the next event happens.
    pub(super) fn next_us(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((time_us, _), _)| *time_us)
    }

    /// Lets the next event happen; false if there is none.
    pub(super) fn step(&mut self) -> Result<bool, Violation> {
        let Some(((time_us, number), (whose, event))) = self.queue.pop_first() else {
            return Ok(false);
        };
        self.now_us = self.now_us.max(time_us);
        if let Some((at, life)) = whose {
            let machine = &self.machines[at];
            if life.is_some_and(|life| life != machine.life) {
                return Ok(true);
            }
            let beside = matches!(event, Event::ProgramEnds(..) | Event::ShimBegins(_));
            if self.now_us < machine.paused_until_us && !beside {
                let later = machine.paused_until_us;
                self.queue.insert((later, number), (whose, event));
                return Ok(true);
            }
        }
        self.events += 1;
        let at = whose.map(|(at, _)| at);
        let handled = match at {
            Some(at) => self.happen_on(at, event),
            None => self.happen(event),
        };
        self.survive(at, handled)?;
        if let Some(violation) = self.broken.take() {
            return Err(violation);
        }
        if self.events.is_multiple_of(LOOK_EVERY) {
            let disks = self.machines.iter().map(|machine| &machine.disk);
            invariants::standing(&mut self.ledger, disks)?;
        }
        Ok(true)
    }

    /// A process that cannot go on is gone; a broken invariant ends the run.
    fn survive(&mut self, at: Option<usize>, handled: Result<(), Halt>) -> Result<(), Violation> {
        let halt = match handled {
            Err(Halt::Broken(violation)) => return Err(violation),
            Err(halt) => Some(halt),
            Ok(()) => None,
        };
        for at in 0..self.machines.len() {
            if let Some(point) = self.machines[at].disk.crashed() {
                self.counts.stopped_at(&point);
                self.dies(at, &format!("stopped at {point}"), None);
            }
        }
        if let (Some(at), Some(Halt::Exits(why))) = (at, halt) {
            // Others still find it alive for a moment: it must be silent already.
            self.settle(at);
            let delay = 500 + self.rng.below(5_000);
            self.after_in_life(at, delay, Event::Exit(why));
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Halt> {
        match event {
            Event::Client(client) => self.client_calls(client),
            Event::Arrive { at, client, attempt, request } => {
                let machine = &self.machines[at];
                if machine.process.is_some() && self.now_us < machine.paused_until_us {
                    let wait = machine.paused_until_us - self.now_us;
                    self.after(wait, Event::Arrive { at, client, attempt, request });
                } else {
                    self.call_arrives(at, client, attempt, &request);
                }
            }
            Event::Lost { client, attempt } | Event::Impatient { client, attempt } => {
                self.reply(client, attempt, Reply::Lost);
            }
            Event::Again { client, attempt } => self.client_again(client, attempt),
            Event::Fault if self.phase == Phase::Load => return self.fault(),
            Event::Swap => return self.swap_goes_on(),
            Event::Cancel(stage, tries) if self.phase == Phase::Load => self.cancel(stage, tries),
            Event::Mend(links) => self.mend(links),
            Event::Clear => self.net.heal(),
            Event::Room(at) => self.machines[at].disk.limit_bytes(None),
            Event::Restart(at) => return self.restart(at),
            _ => {}
        }
        Ok(())
    }

    fn happen_on(&mut self, at: usize, event: Event) -> Result<(), Halt> {
        match event {
            Event::Deliver { from, peer, frame } => return self.deliver(at, (from, peer), frame),
            Event::ProgramEnds(name, how) => return self.program_ends(at, name, how),
            Event::ShimBegins(name) => return self.shim_begins(at, &name),
            Event::Tick => self.tick(at),
            Event::Write => return self.write(at),
            Event::Persisted(group) => {
                if let Some(process) = &mut self.machines[at].process {
                    process.persisted(group);
                }
                self.settle(at);
            }
            Event::Apply => return self.apply(at),
            Event::Show => return self.show(at),
            Event::SyncHistory => return self.sync_history(at),
            Event::Snapshot(state, membership) => return self.saved(at, state, membership),
            Event::Call(call) => return self.call_steps(at, call),
            Event::Expire(ticket) => return self.expire(at, ticket),
            Event::Conduct => return self.conduct(at),
            Event::Look => return self.look(at),
            Event::Run(job) => return self.run_job(at, job),
            Event::Tend => return self.tend(at),
            Event::Settle => self.settle(at),
            Event::Report => self.report(at),
            Event::ReportAgain => self.report_again(at),
            Event::Unreachable(peer) => self.receive(at, Input::Unreachable { peer }),
            Event::Exit(why) => self.dies(at, &format!("ends itself: {why}"), None),
            _ => {}
        }
        Ok(())
    }

    /// From load to rest to the last reads; true at the end.
    fn go_on(&mut self) -> Result<bool, Violation> {
        let minutes = self.settings.pace.load_us / 60_000_000;
        if self.events / EVENTS_A_MINUTE > minutes.max(1) {
            let boards = self.whole_machines().into_iter().filter_map(Machine::board);
            invariants::jobs_end_in_time(boards, self.now_us)?;
            return Ok(true);
        }
        let load_us = self.settings.pace.load_us;
        match self.phase {
            Phase::Load if self.clients_rest() || (load_us > 0 && self.now_us >= load_us) => {
                self.heal();
            }
            Phase::Rest if self.events.is_multiple_of(16) => {
                if self.events.is_multiple_of(1_024) {
                    self.rejoin_strangers();
                }
                if self.rests() {
                    self.phase = Phase::LastReads;
                    self.clients[0].last_reads = self.settings.registers().to_vec();
                    self.after(0, Event::Client(0));
                } else if self.now_us - self.healed_us > REST_US {
                    let boards = self.whole_machines().into_iter().filter_map(Machine::board);
                    invariants::jobs_end_in_time(boards, REST_US)?;
                    invariants::the_cluster_comes_back(&self.whole_machines(), REST_US)?;
                    invariants::requests_are_answered(self.open_calls(), REST_US)?;
                    return Ok(true);
                }
            }
            Phase::LastReads if self.clients_rest() => return Ok(self.rests()),
            _ => {}
        }
        Ok(false)
    }

    fn clients_rest(&self) -> bool {
        self.clients.iter().all(Client::is_done)
    }

    /// Machines of members, whose disks are not lost.
    pub(super) fn whole_machines(&self) -> Vec<&Machine> {
        self.machines.iter().filter(|machine| !machine.lost && !machine.out).collect()
    }

    fn open_calls(&self) -> usize {
        self.whole_machines().iter().map(|machine| machine.pipeline.calls.len()).sum()
    }

    /// Whether nothing is left to do: one master, all nodes equal, all jobs ended and answered.
    pub(super) fn rests(&self) -> bool {
        let whole = self.whole_machines();
        let running = || whole.iter().filter_map(|machine| machine.process.as_ref());
        let masters = running().filter(|process| process.is_master()).count();
        let boards: Vec<&State> = whole.iter().filter_map(|machine| machine.board()).collect();
        let applied = boards.first().map_or(0, |board| board.applied);
        masters == 1
            && boards.len() == whole.len()
            && boards.iter().all(|board| board.applied == applied && board.jobs.is_empty())
            && running().all(|process| !process.archive.has_gap())
            && self.clients_rest()
            && self.open_calls() == 0
            && self.programs_rest()
            && self.course.is_none()
    }

    /// No more faults: the network is whole, the power is cut once more, every node is started.
    pub(super) fn heal(&mut self) {
        self.phase = Phase::Rest;
        self.healed_us = self.now_us;
        self.net.heal();
        for client in &mut self.clients {
            client.stop();
        }
        for at in 0..self.machines.len() {
            let machine = &mut self.machines[at];
            (machine.write_us, machine.paused_until_us, machine.drift_ppm) = (200, 0, 0);
            machine.disk.limit_bytes(None);
            self.dies(at, "the power is cut for the last time", Some(Stop::LoseAll));
            self.machines[at].disk.restart(Stop::Kill);
            self.after(20_000, Event::Restart(at));
        }
    }

    /// The last look at everything.
    pub(super) fn finish(&mut self) -> Result<Summary, Violation> {
        let broken = |halt: Halt| match halt {
            Halt::Broken(violation) => violation,
            other => invariants::no_assertion_fails(format!("{other:?}")),
        };
        let mut newest = None;
        let alone = self.machines.len() == 1;
        for machine in self.machines.iter_mut().filter(|machine| !machine.lost && !machine.out) {
            let Some(process) = &mut machine.process else { continue };
            process.sync_history().map_err(broken)?;
            let identity = machine.identity.clone();
            let started = Process::start(&machine.disk.image(), identity, 1, self.now_us);
            let again = invariants::a_stopped_node_starts(started)?;
            if alone {
                invariants::acknowledged_entries_are_there(&self.ledger, again.last_index())?;
            }
            let state = process.board.clone();
            invariants::whole(&mut self.ledger, &machine.disk, &state)?;
            newest = Some(state);
        }
        for told in self.ledger.cancels.values() {
            self.counts.told(told);
        }
        let traffic = self.net.traffic;
        let state = newest.unwrap_or_default();
        invariants::everything_at_the_end(&mut self.ledger, &state)?;
        Ok(Summary {
            events: self.events,
            seconds: self.now_us / 1_000_000,
            entries: self.ledger.entries.len() as u64,
            acknowledged: self.ledger.acknowledged.len() as u64,
            lives: self.machines.iter().map(|machine| machine.life + 1).sum(),
            counts: std::mem::take(&mut self.counts),
            frames: (traffic.delivered, traffic.lost, traffic.doubled),
            essence: Essence::of(&self.ledger, &state),
        })
    }
}
