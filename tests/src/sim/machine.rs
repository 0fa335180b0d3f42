//! A machine: what of a node outlives its process, and the turns of the process's threads.
//!
//! Owns disk, clocks, the programs that run beside the daemon, and the process while there is one.
//! The turns mirror the daemon's threads; faults are drawn in [`super::faults`].

use super::agent::Programs;
use super::invariants::{self, Violation};
use super::net::{Frame, Report};
use super::pipeline::Pipeline;
use super::plant::Plant;
use super::process::{Halt, Identity, Process};
use super::simulation::{Event, Phase, Simulation};
use super::transfer::Transfers;
use std::collections::BTreeMap;
use tiebeam_core::State;
use tiebeam_proto::time::Time;
use tiebeam_replica::membership::Membership;
use tiebeam_replica::node::Halt as Stopped;
use tiebeam_replica::prefix::Held;
use tiebeam_replica::seams::Rng;
use tiebeam_replica::seams::mem::{MemDisk, Stop};
use tiebeam_replica::{Envelope, Input, Role, RoleReport};

/// Time between two syncs of the history, at least, in microseconds.
const SYNC_EVERY_US: u64 = 10_000;
/// Time between two reports of a member that has nothing new to tell, in microseconds.
const REPORT_EVERY_US: u64 = 150_000;

/// A machine of the cluster.
pub(super) struct Machine {
    pub(super) identity: Identity,
    pub(super) disk: MemDisk,
    pub(super) process: Option<Process>,
    /// Counts the process's lives; events of a former one are dropped.
    pub(super) life: u64,
    pub(super) pipeline: Pipeline,
    pub(super) transfers: Transfers,
    pub(super) programs: Programs,
    pub(super) paused_until_us: u64,
    /// Time that a write takes.
    pub(super) write_us: u64,
    /// When the board was last shown.
    pub(super) shown_us: u64,
    writing: bool,
    applying: bool,
    saving: bool,
    reporting: bool,
    pub(super) last_stop: Stop,
    /// How far the wall clock is off.
    pub(super) wall_offset_us: i64,
    /// How much faster than true time the monotonic clock runs, in parts per million.
    pub(super) drift_ppm: i64,
    /// What the disk must still hold after a stop.
    pub(super) promised: u64,
    /// The log was written since the power was last cut: rot in what it promised is found. Before,
    /// rot in the last group is what ruling 18 leaves open.
    pub(super) written: bool,
    /// Its jobs have other code than they had (a script's doing).
    pub(super) upgraded: bool,
    /// Its disk is damaged or empty: it stays down.
    pub(super) lost: bool,
    /// It is no member, and is not to be one.
    pub(super) out: bool,
    /// When its removal was known, if it was removed.
    pub(super) removed_us: Option<u64>,
    /// When something last came from each machine.
    heard_us: BTreeMap<usize, u64>,
    /// When each machine last refused it as one that is no member.
    denied_us: BTreeMap<usize, u64>,
    /// What each node has in its history, as it said.
    held: BTreeMap<usize, Held>,
}

impl Machine {
    /// A machine whose disk was just made.
    pub(super) fn new(identity: Identity, disk: MemDisk) -> Machine {
        Machine {
            identity,
            disk,
            process: None,
            life: 0,
            pipeline: Pipeline::default(),
            transfers: Transfers::default(),
            programs: Programs::default(),
            paused_until_us: 0,
            write_us: 200,
            shown_us: 0,
            writing: false,
            applying: false,
            saving: false,
            reporting: false,
            last_stop: Stop::Kill,
            wall_offset_us: 0,
            drift_ppm: 0,
            promised: 0,
            written: false,
            upgraded: false,
            lost: false,
            out: false,
            removed_us: None,
            heard_us: BTreeMap::new(),
            denied_us: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// What a machine said of its history counts no more: it lost its disk.
    pub(super) fn forget_held(&mut self, at: usize) {
        self.held.remove(&at);
    }

    /// The newest State that its process shows.
    pub(super) fn board(&self) -> Option<&State> {
        self.process.as_ref().map(|process| &*process.board)
    }
}

impl Simulation {
    /// A machine's monotonic clock.
    pub(super) fn clock_us(&self, at: usize) -> u64 {
        let drift = self.machines[at].drift_ppm;
        (self.now_us as i64 + self.now_us as i64 / 1_000_000 * drift) as u64
    }

    /// A machine's wall clock.
    pub(super) fn wall(&self, at: usize) -> Time {
        let offset = self.machines[at].wall_offset_us;
        Time(super::simulation::WALL_BEGIN_US + self.now_us as i64 + offset)
    }

    /// The place of the machine with this node id.
    pub(super) fn place(&self, node: u32) -> Option<usize> {
        self.machines.iter().position(|machine| machine.identity.node == node)
    }

    /// The time between two ticks on this machine.
    fn tick_us(&self, at: usize) -> u64 {
        let tick = self.settings.pace.tick_us as i64;
        (tick - tick * self.machines[at].drift_ppm / 1_000_000).max(1) as u64
    }

    pub(super) fn receive(&mut self, at: usize, input: Input) {
        if let Some(process) = &mut self.machines[at].process {
            process.receive(input);
        }
        self.settle(at);
    }

    pub(super) fn tick(&mut self, at: usize) {
        self.receive(at, Input::Tick);
        self.transfers_tick(at);
        let next = self.tick_us(at);
        self.after_in_life(at, next, Event::Tick);
    }

    /// Lets the node say what is to be done, and plans its threads' turns.
    pub(super) fn settle(&mut self, at: usize) {
        let Some(process) = &mut self.machines[at].process else { return };
        let round = process.round();
        let (writes, entries) = (process.has_writes(), process.has_entries());
        if let Some(role) = round.role {
            self.role_changed(at, role);
        }
        self.send_all(at, round.sent);
        for group in round.believed {
            self.after_in_life(at, 5, Event::Persisted(group));
        }
        for (ticket, told) in round.told {
            // Refusals and read indices: no acknowledgement of an entry is among them.
            if let Err(Halt::Broken(violation)) = self.told(at, ticket, told) {
                self.broken.get_or_insert(violation);
            }
        }
        if let Some(why) = round.halted {
            self.halted(at, why);
        }
        if round.wants_snapshot {
            self.save(at);
        }
        let machine = &mut self.machines[at];
        if writes && !std::mem::replace(&mut machine.writing, true) {
            let write_us = machine.write_us;
            let delay = write_us / 2 + self.rng.below(write_us);
            self.after_in_life(at, delay, Event::Write);
        }
        let machine = &mut self.machines[at];
        if entries && !std::mem::replace(&mut machine.applying, true) {
            let delay = 20 + self.rng.below(300);
            self.after_in_life(at, delay, Event::Apply);
        }
    }

    fn role_changed(&mut self, at: usize, role: RoleReport) {
        self.trace_of(at, || format!("is {:?} in term {}", role.role, role.term));
        if role.role == Role::Leader {
            self.counts.elections += 1;
            let node = self.machines[at].identity.node;
            let Some(process) = &self.machines[at].process else { return };
            let held = invariants::one_leads_in_a_term(&mut self.ledger, role.term, node)
                .and_then(|()| invariants::who_leads_has_the_history(process));
            if let Err(violation) = held {
                self.broken.get_or_insert(violation);
            }
            if self.reached(at, "elected").is_err() {
                return;
            }
        }
        self.machines[at].pipeline.new_role(role.term);
        self.after_in_life(at, 50, Event::Conduct);
    }

    fn halted(&mut self, at: usize, why: Stopped) {
        self.trace_of(at, || format!("the replica halted: {why:?}"));
        if let Stopped::LogLost { .. } = why {
            let held = invariants::no_log_is_lost(&why, self.machines[at].lost);
            if let Err(violation) = held {
                self.broken.get_or_insert(violation);
            }
        }
    }

    /// Passes a crash point of a machine.
    pub(super) fn reached(&mut self, at: usize, point: &'static str) -> Result<(), Halt> {
        let process = self.machines[at].process.as_mut();
        process.map_or(Ok(()), |process| process.reached(point))
    }

    /// Sends raft's messages; one with a snapshot goes as an offer.
    fn send_all(&mut self, at: usize, envelopes: Vec<Envelope>) {
        if envelopes.is_empty() || self.reached(at, "send.before").is_err() {
            return;
        }
        for envelope in envelopes {
            let bytes = envelope.encode();
            let raft = envelope.to();
            let to = self.machines.iter().position(|machine| machine.identity.raft == raft);
            let Some(to) = to else { continue };
            if envelope.snapshot().is_some() {
                self.offer(at, to, bytes);
            } else {
                self.send(at, to, Frame::Raft(bytes));
            }
        }
        // What is sent is sent; only what follows is lost.
        let _ = self.reached(at, "send.after");
    }

    /// Sends a frame, to a member as far as the sender knows.
    pub(super) fn send(&mut self, from: usize, to: usize, frame: Frame) {
        let to_raft = self.machines[to].identity.raft;
        if self.machines[from].board().is_none_or(|board| board.member_of(to_raft).is_none()) {
            return;
        }
        let raft = matches!(frame, Frame::Raft(_));
        let arrivals = self.net.arrivals((from, to), self.now_us, &mut self.rng);
        if arrivals.is_empty() && raft && self.rng.one_in(3) {
            // A connection that fails is noticed now and then.
            let peer = self.machines[to].identity.raft;
            self.after_in_life(from, 1_000, Event::Unreachable(peer));
        }
        let peer = self.machines[from].identity.raft;
        for moment in arrivals {
            let delay = moment - self.now_us;
            self.after_on(to, delay, Event::Deliver { from, peer, frame: frame.clone() });
        }
    }

    /// A frame arrives. Who is no member by what the receiver knows is refused at its door.
    pub(super) fn deliver(
        &mut self,
        at: usize,
        (from, peer): (usize, u64),
        frame: Frame,
    ) -> Result<(), Halt> {
        let Some(board) = self.machines[at].board().filter(|_| !self.net.is_cut(from, at)) else {
            return Ok(());
        };
        if board.member_of(peer).is_none() {
            self.counts.denied += 1;
            self.machines[from].denied_us.insert(at, self.now_us);
            return Ok(());
        }
        if !matches!(frame, Frame::Raft(_) | Frame::Report(_)) {
            self.trace_of(at, || format!("gets {} from {from}", frame.name()));
        }
        self.machines[at].pipeline.heard(from, self.now_us);
        self.machines[at].heard_us.insert(from, self.now_us);
        match frame {
            Frame::Raft(bytes) => {
                self.reached(at, "receive.before")?;
                self.receive(at, Input::Message { from: peer, bytes: bytes.into() });
                self.reached(at, "receive.after")?;
            }
            Frame::Offer(bytes, manifest) => self.offered(at, from, bytes, manifest)?,
            Frame::Delivered(delivered) => {
                self.receive(at, Input::SnapshotSent { peer, delivered });
            }
            Frame::ChunkWish(wish) => self.give_chunk(at, from, &wish)?,
            Frame::Chunk(chunk) => self.chunk_arrives(at, from, chunk)?,
            Frame::RangeWish(wish) => self.give_range(at, from, &wish)?,
            Frame::Range(range) => self.range_arrives(at, &range)?,
            Frame::Report(report) => self.reported(at, from, report)?,
            Frame::CommandEnded(ended) => self.command_reported(at, *ended),
        }
        Ok(())
    }

    /// A member said how far it is.
    fn reported(&mut self, at: usize, from: usize, report: Report) -> Result<(), Halt> {
        self.machines[at].held.insert(from, report.held);
        self.tell_held(at)?;
        let new = self.machines[at].pipeline.reported(from, report);
        if new && self.machines[at].process.as_ref().is_some_and(Process::is_master) {
            self.calls_go_on(at)?;
        }
        Ok(())
    }

    /// Tells a node what the members have in their histories, which may let its log get shorter.
    fn tell_held(&mut self, at: usize) -> Result<(), Halt> {
        let machine = &mut self.machines[at];
        let Some(process) = &mut machine.process else { return Ok(()) };
        machine.held.insert(at, process.archive.held());
        let raft = |at: &usize| self.machines[*at].identity.raft;
        let held = self.machines[at].held.iter().map(|(at, held)| (raft(at), *held)).collect();
        let told = self.machines[at].process.as_mut().map_or(Ok(()), |process| process.told(held));
        self.look_at_dropped(at)?;
        self.settle(at);
        told
    }

    /// What a node dropped of its log is in the histories of a majority.
    fn look_at_dropped(&mut self, at: usize) -> Result<(), Halt> {
        for machine in &self.machines {
            if let Some(process) = &machine.process {
                self.ledger.held.insert(machine.identity.raft, process.archive.held());
            }
        }
        let Some(process) = &mut self.machines[at].process else { return Ok(()) };
        let Some(record) = process.dropped.take() else { return Ok(()) };
        let (own, voters) = (process.identity.raft, &process.membership().voters);
        Ok(invariants::what_is_dropped_is_in_histories(&self.ledger, own, voters, record)?)
    }

    /// Plans a report to all other members, soon.
    pub(super) fn report_soon(&mut self, at: usize) {
        if !std::mem::replace(&mut self.machines[at].reporting, true) {
            self.after_in_life(at, 2_000, Event::Report);
        }
    }

    /// Tells all others how far this member is.
    pub(super) fn report(&mut self, at: usize) {
        self.machines[at].reporting = false;
        let Some(process) = &self.machines[at].process else { return };
        let report = Report {
            term: process.role.term,
            applied: process.board.applied,
            held: process.archive.held(),
        };
        for to in (0..self.machines.len()).filter(|to| *to != at) {
            self.send(at, to, Frame::Report(report));
        }
    }

    /// Reports now and then, so that a lost report is made good.
    pub(super) fn report_again(&mut self, at: usize) {
        self.after_in_life(at, REPORT_EVERY_US, Event::ReportAgain);
        if self.machines.len() > 1 {
            self.report_soon(at);
            self.leave_to_an_elder(at);
        }
    }

    /// Whether anything came from a machine within one election timeout.
    pub(super) fn hears(&self, at: usize, from: usize) -> bool {
        let heard_us = self.machines[at].heard_us.get(&from).copied();
        at == from || heard_us.is_some_and(|us| us + self.silence_us() >= self.now_us)
    }

    fn silence_us(&self) -> u64 {
        20 * self.settings.pace.tick_us
    }

    /// A master that a voter refuses, because that one has not heard of it, leaves its office to a
    /// member which that one may know.
    fn leave_to_an_elder(&mut self, at: usize) {
        let machine = &self.machines[at];
        let Some(process) = machine.process.as_ref().filter(|one| one.is_master()) else { return };
        let board = process.board.clone();
        let place = |raft: u64| self.machines.iter().position(|one| one.identity.raft == raft);
        let refuses = |raft: u64| {
            let refused_us = place(raft).and_then(|other| machine.denied_us.get(&other));
            refused_us.is_some_and(|us| us + self.silence_us() >= self.now_us)
        };
        let own = machine.identity.raft;
        let answers = |raft: u64| place(raft).is_some_and(|other| self.hears(at, other));
        if !board.voters().any(|(_, voter)| refuses(voter.raft_id)) {
            return;
        }
        let elders = board.elders(own).filter(|elder| answers(*elder) && !refuses(*elder));
        let elder = elders.min();
        if let Some(to) = elder {
            self.counts.fault("office left to an elder");
            self.receive(at, Input::Transfer { to: Some(to) });
        }
    }

    pub(super) fn restart(&mut self, at: usize) -> Result<(), Halt> {
        if self.machines[at].process.is_some() {
            return Ok(());
        }
        let drawn = self.phase == Phase::Load && !self.settings.scripted && self.rng.one_in(8);
        if drawn && !self.machines[at].lost {
            self.machines[at].disk.crash_after(self.rng.below(40));
        }
        let (nonce, clock_us) = (self.rng.next_u64(), self.clock_us(at));
        let machine = &mut self.machines[at];
        match Process::start(&machine.disk, machine.identity.clone(), nonce, clock_us) {
            started if machine.lost => Ok(self.stays_down(at, started.map(drop))?),
            Ok(process) => {
                let last = process.last_index();
                invariants::what_was_promised_is_there(machine.promised, last)?;
                machine.promised = last;
                (machine.writing, machine.applying, machine.saving) = (false, false, false);
                machine.reporting = false;
                machine.process = Some(process);
                machine.held.clear();
                (machine.denied_us, machine.heard_us) = (BTreeMap::new(), BTreeMap::new());
                self.ledger.applied.insert(self.machines[at].identity.node, 0);
                self.trace_of(at, || format!("starts, its log ends at {last}"));
                if self.machines.len() == 1 {
                    invariants::acknowledged_entries_are_there(&self.ledger, last)?;
                }
                let tick = self.rng.below(self.settings.pace.tick_us);
                self.after_in_life(at, tick, Event::Tick);
                self.after_in_life(at, 2 * SYNC_EVERY_US, Event::SyncHistory);
                self.after_in_life(at, 1_000, Event::Look);
                self.after_in_life(at, REPORT_EVERY_US, Event::ReportAgain);
                self.settle(at);
                Ok(())
            }
            Err(why) if machine.disk.crashed().is_some() || is_of_the_disk(&why) => {
                self.trace_of(at, || format!("could not start: {why}"));
                let stop = Stop::Random(self.rng.next_u64());
                self.machines[at].disk.restart(stop);
                self.machines[at].life += 1;
                self.after(1_000, Event::Restart(at));
                Ok(())
            }
            Err(why) => Ok(invariants::a_stopped_node_starts(Err(why))?),
        }
    }

    /// A node whose log is damaged says so and does not start (ruling 18).
    fn stays_down(&mut self, at: usize, started: Result<(), String>) -> Result<(), Violation> {
        let why = started.err();
        self.trace_of(at, || format!("could not start: {}", why.as_deref().unwrap_or("nothing")));
        invariants::a_damaged_log_is_refused(why.is_some())
    }

    pub(super) fn write(&mut self, at: usize) -> Result<(), Halt> {
        let machine = &mut self.machines[at];
        machine.writing = false;
        let Some(process) = &mut machine.process else { return Ok(()) };
        let written = process.write();
        machine.promised = process.promised;
        if let Some(group) = written? {
            self.machines[at].written = true;
            let delay = 5 + self.rng.below(100);
            self.after_in_life(at, delay, Event::Persisted(group));
        }
        self.settle(at);
        Ok(())
    }

    pub(super) fn apply(&mut self, at: usize) -> Result<(), Halt> {
        self.machines[at].applying = false;
        self.ledger.moment = self.number();
        let Some(process) = &mut self.machines[at].process else { return Ok(()) };
        let shown = process.apply(&mut self.ledger)?;
        let (node, applied) = (process.identity.node, process.board.applied);
        self.ledger.applied.insert(node, applied);
        self.look_at_seats()?;
        self.machines[at].shown_us = self.clock_us(at);
        for (ticket, told) in shown.told {
            self.told(at, ticket, told)?;
        }
        self.board_changed(at)?;
        if self.settings.plant == Some(Plant::AnswerBeforeApply) {
            self.after_in_life(at, 3_000, Event::Show);
        }
        if shown.due {
            self.after_in_life(at, 50, Event::Conduct);
        }
        if self.machines.len() > 1 {
            self.report_soon(at);
        }
        let wants = self.machines[at].process.as_ref().is_some_and(Process::wants_snapshot);
        if wants {
            self.save(at);
        }
        self.settle(at);
        Ok(())
    }

    /// Takes a snapshot, unless one is being taken.
    fn save(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(process) = &mut machine.process else { return };
        if !std::mem::replace(&mut machine.saving, true) {
            let (state, membership) = process.state_to_save();
            let delay = 100 + self.rng.below(20_000);
            self.after_in_life(at, delay, Event::Snapshot(state, membership));
        }
    }

    pub(super) fn saved(
        &mut self,
        at: usize,
        state: Box<State>,
        membership: Membership,
    ) -> Result<(), Halt> {
        self.machines[at].saving = false;
        let process = self.machines[at].process.as_mut();
        let saved = process.map_or(Ok(()), |process| process.snapshot((state, membership)));
        saved?;
        self.tell_held(at)
    }

    pub(super) fn show(&mut self, at: usize) -> Result<(), Halt> {
        if let Some(process) = &mut self.machines[at].process {
            process.show();
        }
        self.board_changed(at)
    }

    pub(super) fn sync_history(&mut self, at: usize) -> Result<(), Halt> {
        let delay = SYNC_EVERY_US + self.rng.below(4 * SYNC_EVERY_US);
        self.after_in_life(at, delay, Event::SyncHistory);
        let Some(process) = &mut self.machines[at].process else { return Ok(()) };
        process.sync_history()?;
        self.tell_held(at)
    }
}

/// Whether a start failed because the disk failed or was full, and not by what is on it.
fn is_of_the_disk(why: &str) -> bool {
    why.contains("simulated I/O error") || why.contains("NoSpace")
}
