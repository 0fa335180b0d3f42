//! What happened in a run, counted: so that a run in which little happened is seen.

use std::collections::BTreeMap;
use std::fmt;
use tiebeam_replica::seams::CRASH_POINTS;

/// Crash points of the shell around the replica: where messages, installs, commands, the history
/// and the conductor can be stopped. Those of log and snapshots are the replica's own.
pub(super) const SHELL_POINTS: [&str; 32] = [
    "elected",
    "send.before",
    "send.after",
    "receive.before",
    "receive.after",
    "propose.before",
    "conduct.before",
    "run.before",
    "offer.received",
    "chunk.given",
    "chunk.received",
    "fetch.complete",
    "install.before",
    "install.history.after",
    "install.snapshot.after",
    "install.apply.before",
    "range.given",
    "range.received",
    "range.filled",
    "history.write.before",
    "history.write.after",
    "history.sync.after",
    "history.fill.written",
    "snapshot.begin",
    "snapshot.history.after",
    "compact.before",
    "command.start.before",
    "command.start.journaled",
    "command.start.after",
    "command.fence.before",
    "command.fence.after",
    "command.report",
];

/// Crash points that are seldom passed: they are drawn more often.
pub(super) const RARE_POINTS: [&str; 17] = [
    "elected",
    "offer.received",
    "chunk.given",
    "chunk.received",
    "fetch.complete",
    "install.before",
    "install.history.after",
    "install.snapshot.after",
    "install.apply.before",
    "range.given",
    "range.received",
    "range.filled",
    "history.fill.written",
    "command.start.journaled",
    "command.start.after",
    "command.fence.before",
    "command.fence.after",
];

/// Crash points that a node without others can pass, and does often.
pub(super) fn points_alone() -> impl Iterator<Item = &'static str> {
    points().filter(|point| CRASH_POINTS.contains(point) || point.starts_with("history.w"))
}

/// All crash points.
pub(super) fn points() -> impl Iterator<Item = &'static str> {
    // The drive's own; this shell answers otherwise.
    CRASH_POINTS.into_iter().filter(|point| *point != "reply.after").chain(SHELL_POINTS)
}

/// Counts of a run, or of many.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// How often nodes were stopped, by crash point.
    pub stops: BTreeMap<String, u64>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Members that lost their disk and are voters again.
    pub swaps: u64,
    /// Elections won.
    pub elections: u64,
    /// Snapshots offered by leaders.
    pub offers: u64,
    /// Snapshots fetched whole.
    pub installs: u64,
    /// Pieces of history fetched.
    pub ranges: u64,
    /// Commands started.
    pub commands: u64,
    /// Commands that were fenced.
    pub fences: u64,
    /// Members named as pending in a committed stamp.
    pub pending: u64,
    /// Copies of a disk with a bit turned over, and those that no node started from.
    pub rotten: (u64, u64),
}

impl Counts {
    pub(super) fn stopped_at(&mut self, point: &str) {
        *self.stops.entry(point.to_owned()).or_default() += 1;
    }

    pub(super) fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Counts) {
        for (point, count) in &other.stops {
            *self.stops.entry(point.clone()).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.swaps += other.swaps;
        self.elections += other.elections;
        self.offers += other.offers;
        self.installs += other.installs;
        self.ranges += other.ranges;
        self.commands += other.commands;
        self.fences += other.fences;
        self.pending += other.pending;
        self.rotten.0 += other.rotten.0;
        self.rotten.1 += other.rotten.1;
    }

    /// Crash points at which no node was stopped.
    pub fn missed(&self) -> Vec<&'static str> {
        points().filter(|point| !self.stops.contains_key(*point)).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            swaps, elections, offers, installs, ranges, commands, fences, pending, ..
        } = self;
        writeln!(
            out,
            "{elections} elections, {swaps} members swapped, {offers} snapshots offered, \
             {installs} fetched, {ranges} ranges of history fetched, {commands} commands started, \
             {fences} fenced, {pending} members pending, {} rotten copies of which {} were refused",
            self.rotten.0, self.rotten.1
        )?;
        writeln!(out, "faults:")?;
        for (fault, count) in &self.faults {
            writeln!(out, "  {fault:<32} {count}")?;
        }
        writeln!(out, "stops by crash point:")?;
        for point in points() {
            writeln!(out, "  {point:<32} {}", self.stops.get(point).unwrap_or(&0))?;
        }
        let missed = self.missed();
        write!(out, "{} of {} crash points hit", points().count() - missed.len(), points().count())
    }
}
