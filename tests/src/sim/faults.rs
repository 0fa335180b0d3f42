//! What befalls the cluster: kills, power cuts, stops at crash points, disks that fail, fill up,
//! rot or are slow, pauses, clocks that jump or drift, and everything that a network does.

use super::coverage;
use super::invariants;
use super::pipeline::Asker;
use super::process::{Halt, Process};
use super::simulation::{Event, Simulation};
use tiebeam_core::State;
use tiebeam_core::proposal::{Body, Cancel};
use tiebeam_replica::Input;
use tiebeam_replica::seams::Rng;
use tiebeam_replica::seams::mem::{MemDisk, SeededRng, Stop};

/// Ten years in microseconds.
const TEN_YEARS_US: i64 = 10 * 365 * 24 * 3_600_000_000;
/// Where a job is when somebody cancels it.
const CANCELLED_AT: [&str; 6] = [
    "cancel of a waiting job",
    "cancel before the commands",
    "cancel while commands run",
    "cancel after the commands",
    "cancel before the commit",
    "cancel after the end",
];
/// Time between two looks for a job to cancel, in microseconds, and looks at most.
const CANCEL_LOOK_US: u64 = 2_000;
const CANCEL_LOOKS: u32 = 200;

impl Simulation {
    /// Draws a fault and lets it happen; the next one comes later.
    pub(super) fn fault(&mut self) -> Result<(), Halt> {
        let (least, spread) = self.settings.pace.fault_us;
        let next = least + self.rng.below(spread);
        self.after(next, Event::Fault);
        let at = self.rng.below(self.machines.len() as u64) as usize;
        let kinds = if self.machines.len() > 1 { 27 } else { 15 };
        match self.rng.below(kinds) {
            0 | 1 => {
                let stop = self.draw_stop();
                self.counts.fault("power cut");
                self.dies(at, "the power is cut", Some(stop));
            }
            2 => {
                self.counts.fault("kill");
                self.dies(at, "the process is killed", Some(Stop::Kill));
            }
            3..=5 => self.arm(at),
            6 => {
                let calls = self.rng.below(60);
                self.counts.fault("stop at a call of the disk");
                self.trace_of(at, || format!("will stop after {calls} calls of the disk"));
                self.machines[at].disk.crash_after(calls);
            }
            7 => {
                let good = self.rng.below(6);
                self.counts.fault("failing syncs");
                self.trace_of(at, || format!("its disk fails after {good} syncs"));
                self.machines[at].disk.fail_sync_after(good);
            }
            8 => self.fill_disk(at),
            9 if self.rng.one_in(4) && self.lose_disk(at) => self.counts.fault("disk lost"),
            9 => {
                self.counts.fault("slow disk");
                let write_us = 200 + self.rng.below(30_000);
                self.machines[at].write_us = write_us;
                self.trace_of(at, || format!("a write takes {write_us} µs"));
            }
            10 => self.pause(at),
            11 => self.jump(at),
            12 | 13 => return self.rot(at),
            14 => {
                let stage = self.rng.below(CANCELLED_AT.len() as u64) as usize;
                self.cancel(stage, CANCEL_LOOKS);
            }
            15 | 16 if self.grow_or_shrink() => {}
            _ => self.network_fault(at),
        }
        Ok(())
    }

    fn arm(&mut self, at: usize) {
        let points: Vec<&str> = match self.machines.len() {
            1 => coverage::points_alone().collect(),
            // Half of the stops are where a node comes seldom.
            _ if self.rng.one_in(2) => coverage::rare_points().collect(),
            _ => coverage::points().collect(),
        };
        let point = points[self.rng.below(points.len() as u64) as usize];
        let nth = self.rng.below(3);
        self.counts.fault("stop at a crash point");
        self.trace_of(at, || format!("will stop at {point}, after {nth}"));
        self.machines[at].disk.arm(point, nth);
    }

    fn pause(&mut self, at: usize) {
        let (rare, usual) = self.settings.pace.pause_us;
        let most = if self.rng.one_in(6) { rare } else { usual };
        let until = self.now_us + self.rng.below(most);
        self.counts.fault("pause");
        self.machines[at].paused_until_us = until;
        self.trace_of(at, || format!("is paused until {until}"));
    }

    /// The wall clock jumps; the monotonic one never does, but may run fast or slow.
    fn jump(&mut self, at: usize) {
        let jump = self.rng.below(2 * TEN_YEARS_US as u64) as i64 - TEN_YEARS_US;
        let drift_ppm = self.rng.below(20_000) as i64 - 10_000;
        self.counts.fault("clock jump and drift");
        self.machines[at].drift_ppm = drift_ppm;
        if self.settings.clock_jumps {
            self.machines[at].wall_offset_us = jump;
            self.trace_of(at, || format!("its wall clock is {jump} µs off"));
        }
    }

    fn network_fault(&mut self, at: usize) {
        let nodes = self.machines.len();
        let lasts = self.draw_outage();
        match self.rng.below(10) {
            0 | 1 => {
                self.counts.fault("node cut off");
                let others = (0..nodes).filter(|other| *other != at);
                let links = others.flat_map(|other| [(at, other), (other, at)]).collect();
                self.cut(links, lasts);
            }
            2 => {
                self.counts.fault("one-way partition");
                let others = (0..nodes).filter(|other| *other != at);
                let outward = self.rng.one_in(2);
                let link = |other| if outward { (at, other) } else { (other, at) };
                self.cut(others.map(link).collect(), lasts);
            }
            3 => {
                self.counts.fault("link cut");
                let other = (at + 1) % nodes;
                self.cut(vec![(at, other), (other, at)], lasts);
            }
            4 => {
                self.counts.fault("one-way link cut");
                self.cut(vec![(at, (at + 1) % nodes)], lasts);
            }
            5 => self.swizzle(),
            6 => {
                self.counts.fault("clogged link");
                let other = (at + 1) % nodes;
                let until = self.now_us + lasts;
                self.net.clog(at, other, until);
                self.trace_of(at, || format!("the link to {other} is clogged until {until}"));
            }
            7 | 8 => {
                self.counts.fault("loss, doubling, disorder");
                self.net.loss = self.rng.below(300);
                self.net.doubling = self.rng.below(200);
                self.net.spread_us = 1_000 + self.rng.below(60_000);
                self.after(lasts, Event::Clear);
            }
            _ => {
                self.counts.fault("transfer");
                let to = self.machines[at].identity.raft;
                let to = (!self.rng.one_in(3)).then_some(to);
                for other in 0..nodes {
                    self.receive(other, Input::Transfer { to });
                }
            }
        }
    }

    fn draw_outage(&mut self) -> u64 {
        let (rare, usual) = self.settings.pace.outage_us;
        let most = if self.rng.one_in(8) { rare } else { usual };
        1_000 + self.rng.below(most)
    }

    fn cut(&mut self, links: Vec<(usize, usize)>, lasts: u64) {
        self.trace(|| format!("cut for {lasts} µs: {links:?}"));
        for (from, to) in &links {
            self.net.cut(*from, *to);
        }
        self.after(lasts, Event::Mend(links));
    }

    /// Links are mended.
    pub(super) fn mend(&mut self, links: Vec<(usize, usize)>) {
        self.trace(|| format!("mended: {links:?}"));
        for (from, to) in links {
            self.net.mend(from, to);
        }
    }

    /// Cuts off a part of the nodes one by one, and lets them back in another order.
    fn swizzle(&mut self) {
        self.counts.fault("swizzle-clog");
        let nodes = self.machines.len();
        let mut part: Vec<usize> = (0..nodes).filter(|_| self.rng.one_in(2)).collect();
        for place in (1..part.len()).rev() {
            part.swap(place, self.rng.below(place as u64 + 1) as usize);
        }
        for at in part {
            let lasts = self.draw_outage();
            let others = (0..nodes).filter(|other| *other != at);
            let links = others.flat_map(|other| [(at, other), (other, at)]).collect();
            self.cut(links, lasts);
        }
    }

    fn draw_stop(&mut self) -> Stop {
        match self.rng.below(4) {
            0 => Stop::LoseAll,
            1 => Stop::KeepAll,
            _ => Stop::Random(self.rng.next_u64()),
        }
    }

    fn fill_disk(&mut self, at: usize) {
        let disk = &self.machines[at].disk;
        let files = disk.paths();
        let used: usize =
            files.iter().filter_map(|path| disk.content(path)).map(|file| file.len()).sum();
        let room = self.rng.below(20_000);
        self.counts.fault("full disk");
        disk.limit_bytes(Some(used as u64 + room));
        self.trace_of(at, || format!("{room} bytes of disk are left"));
        let lasts = self.rng.below(40_000);
        self.after(lasts, Event::Room(at));
    }

    /// Cancels a job that is at this stage, or looks for one again soon.
    pub(super) fn cancel(&mut self, stage: usize, looks: u32) {
        let found = self.master().and_then(|master| {
            let board = self.machines[master].board()?;
            Some((master, at_stage(board, stage)?))
        });
        let Some((master, job)) = found else {
            if let Some(left) = looks.checked_sub(1) {
                self.after(CANCEL_LOOK_US, Event::Cancel(stage, left));
            }
            return;
        };
        self.counts.fault(CANCELLED_AT[stage]);
        let cancel = Cancel { job, user: "admin".to_owned(), time: self.wall(master) };
        self.propose(master, Asker::Agent, Body::Cancel(cancel));
        self.settle(master);
    }

    /// The process is gone. Unsynced writes go the way of `stop`; a restart comes later.
    pub(super) fn dies(&mut self, at: usize, why: &str, stop: Option<Stop>) {
        if self.machines[at].process.take().is_none() {
            return;
        }
        let stop = match stop {
            Some(stop) => stop,
            None if self.rng.one_in(3) => Stop::Kill,
            None => self.draw_stop(),
        };
        self.trace_of(at, || format!("{why}; {stop:?}"));
        let machine = &mut self.machines[at];
        machine.life += 1;
        machine.last_stop = stop;
        machine.disk.restart(stop);
        machine.programs.daemon_gone();
        if stop != Stop::Kill {
            machine.programs.power_cut();
            machine.written = false;
        }
        machine.transfers = super::transfer::Transfers::default();
        let calls = std::mem::take(&mut machine.pipeline).calls;
        for (_, call) in calls {
            let delay = self.rng.below(1_000);
            let (client, attempt) = (call.client, call.attempt);
            self.after(delay, Event::Lost { client, attempt });
        }
        if self.settings.scripted {
            return;
        }
        let (rare, usual) = self.settings.pace.down_us;
        let most = if self.rng.one_in(8) { rare } else { usual };
        let down = 1_000 + self.rng.below(most);
        self.after(down, Event::Restart(at));
    }

    /// One bit of a copy of the disk turns over: a node on that copy either refuses to start or
    /// knows everything. The copy is of a killed process; rot in the last group together with a
    /// power cut is what ruling 18 leaves open.
    fn rot(&mut self, at: usize) -> Result<(), Halt> {
        self.counts.fault("bit flip on a copy");
        let copy = self.machines[at].disk.image();
        copy.restart(Stop::Kill);
        let mut paths = copy.paths();
        paths.retain(|path| path.starts_with("log/") || path.starts_with("snapshots/"));
        if paths.is_empty() {
            return Ok(());
        }
        let path = paths[self.rng.below(paths.len() as u64) as usize].clone();
        let used = copy.content(&path).unwrap_or_default();
        let used = used.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let (offset, bit) = (self.rng.below(used), self.rng.below(8) as u8);
        if !copy.flip_bit(&path, offset, bit) {
            return Ok(());
        }
        let what = format!("bit {bit} at {offset} of {path}");
        self.trace_of(at, || format!("on a copy of its disk: {what}"));
        self.counts.rotten.0 += 1;
        self.start_copy(at, &copy, &what)
    }

    fn start_copy(&mut self, at: usize, copy: &MemDisk, what: &str) -> Result<(), Halt> {
        let nonce = SeededRng::new(self.now_us).next_u64();
        let mut identity = self.machines[at].identity.clone();
        identity.plant = None;
        let Ok(process) = Process::start(copy, identity, nonce, 0) else {
            self.counts.rotten.1 += 1;
            return Ok(());
        };
        let last = process.last_index();
        invariants::damage_is_detected(&self.ledger, &process.board, what)?;
        let promised = if self.machines[at].written { self.machines[at].promised } else { 0 };
        invariants::what_was_promised_is_there(promised, last)?;
        if self.machines.len() == 1 && self.machines[at].written {
            let state = self.replayed(process)?;
            invariants::damage_hides_nothing(&self.ledger, &state, what)?;
        }
        Ok(())
    }

    /// Runs a process by itself until its State has everything that its log has.
    fn replayed(&mut self, mut process: Process) -> Result<tiebeam_core::State, Halt> {
        let last = process.last_index();
        let mut ledger = self.ledger.copy_of_entries();
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

/// A job at this stage, of those in [`CANCELLED_AT`].
fn at_stage(board: &State, stage: usize) -> Option<u64> {
    let running = |fits: fn(&tiebeam_core::Job) -> bool| {
        let fits = |sequence: &&u64| board.jobs.get(*sequence).is_some_and(|job| fits(job));
        board.running.iter().find(fits).copied()
    };
    match stage {
        0 => board.waiting.iter().next().copied(),
        1 => running(|job| job.commands.is_empty()),
        2 => running(|job| job.open_commands().next().is_some()),
        3 => running(|job| !job.commands.is_empty() && job.open_commands().next().is_none()),
        4 => board.uncommitted.iter().next().copied(),
        _ => Some(board.last_job).filter(|job| *job > 0 && !board.jobs.contains_key(job)),
    }
}
