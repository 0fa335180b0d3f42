//! What befalls the node: kills, power cuts, stops at crash points, disks that fail, fill up, rot
//! or are slow, pauses, and wall clocks that jump.

use super::invariants;
use super::process::{Halt, Process};
use super::simulation::{Event, Simulation};
use tiebeam_replica::seams::CRASH_POINTS;
use tiebeam_replica::seams::Rng;
use tiebeam_replica::seams::mem::{SeededRng, Stop};

/// Ten years in microseconds.
const TEN_YEARS_US: i64 = 10 * 365 * 24 * 3_600_000_000;

impl Simulation {
    /// Draws a fault and lets it happen; the next one comes later.
    pub(super) fn fault(&mut self) -> Result<(), Halt> {
        let next = 3_000 + self.rng.below(60_000);
        self.after(next, Event::Fault);
        match self.rng.below(14) {
            0 | 1 => {
                let stop = self.draw_stop();
                self.dies("the power is cut", Some(stop));
            }
            2 => self.dies("the process is killed", Some(Stop::Kill)),
            3..=5 => {
                let point = CRASH_POINTS[self.rng.below(CRASH_POINTS.len() as u64) as usize];
                let nth = self.rng.below(3);
                self.trace(|| format!("will stop at {point}, after {nth}"));
                self.disk.arm(point, nth);
            }
            6 => {
                let calls = self.rng.below(60);
                self.trace(|| format!("will stop after {calls} calls of the disk"));
                self.disk.crash_after(calls);
            }
            7 => {
                let good = self.rng.below(6);
                self.trace(|| format!("the disk fails after {good} syncs"));
                self.disk.fail_sync_after(good);
            }
            8 => self.fill_disk(),
            9 => {
                self.write_us = 200 + self.rng.below(30_000);
                let write_us = self.write_us;
                self.trace(|| format!("a write takes {write_us} µs"));
            }
            10 => {
                let most = if self.rng.one_in(6) { 3_000_000 } else { 40_000 };
                self.paused_until_us = self.now_us + self.rng.below(most);
                let until = self.paused_until_us;
                self.trace(|| format!("the node is paused until {until}"));
            }
            11 => {
                let jump = self.rng.below(2 * TEN_YEARS_US as u64) as i64 - TEN_YEARS_US;
                if self.settings.clock_jumps {
                    self.wall_offset_us = jump;
                    self.trace(|| format!("the wall clock is {jump} µs off"));
                }
            }
            _ => return self.rot(),
        }
        Ok(())
    }

    fn draw_stop(&mut self) -> Stop {
        match self.rng.below(4) {
            0 => Stop::LoseAll,
            1 => Stop::KeepAll,
            _ => Stop::Random(self.rng.next_u64()),
        }
    }

    fn fill_disk(&mut self) {
        let files = self.disk.paths();
        let used: usize =
            files.iter().filter_map(|path| self.disk.content(path)).map(|file| file.len()).sum();
        let room = self.rng.below(20_000);
        self.trace(|| format!("{room} bytes of disk are left"));
        self.disk.limit_bytes(Some(used as u64 + room));
        let lasts = self.rng.below(40_000);
        self.after(lasts, Event::Room);
    }

    /// The process is gone. Unsynced writes go the way of `stop`; a restart comes later.
    pub(super) fn dies(&mut self, why: &str, stop: Option<Stop>) {
        if self.process.take().is_none() {
            return;
        }
        let stop = match stop {
            Some(stop) => stop,
            None if self.rng.one_in(3) => Stop::Kill,
            None => self.draw_stop(),
        };
        self.trace(|| format!("{why}; {stop:?}"));
        self.life += 1;
        self.last_stop = stop;
        self.disk.restart(stop);
        let calls = std::mem::take(&mut self.pipeline).calls;
        for (_, call) in calls {
            let delay = self.rng.below(1_000);
            let (client, attempt) = (call.client, call.attempt);
            self.after(delay, Event::Lost { client, attempt });
        }
        let down = 1_000 + self.rng.below(20_000);
        self.after(down, Event::Restart);
    }

    /// One bit of a copy of the disk turns over: a node on that copy either refuses to start or
    /// knows everything. The copy is of a killed process; rot in the last group together with a
    /// power cut is what ruling 18 leaves open.
    fn rot(&mut self) -> Result<(), Halt> {
        let copy = self.disk.image();
        copy.restart(Stop::Kill);
        let mut paths = copy.paths();
        paths.retain(|path| path.starts_with("log/") || path.starts_with("snapshots/"));
        let path = paths[self.rng.below(paths.len() as u64) as usize].clone();
        let used = copy.content(&path).unwrap_or_default();
        let used = used.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let (offset, bit) = (self.rng.below(used), self.rng.below(8) as u8);
        if !copy.flip_bit(&path, offset, bit) {
            return Ok(());
        }
        let what = format!("bit {bit} at {offset} of {path}");
        self.trace(|| format!("on a copy of the disk: {what}"));
        let nonce = SeededRng::new(offset).next_u64();
        self.rotten += 1;
        let Ok(process) = Process::start(&copy, nonce, 0, None) else {
            self.refused += 1;
            return Ok(());
        };
        let state = self.replayed(process)?;
        invariants::damage_is_detected(&self.ledger, &state, &what)?;
        Ok(())
    }
}
