//! What happened in a run, counted: so that a run in which little happened is seen.

use std::collections::BTreeMap;
use std::fmt;
use tiebeam_replica::seams::CRASH_POINTS;

/// How often a node comes to a crash point.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comes {
    Often,
    /// It is drawn more often, to make up for it.
    Seldom,
}

/// Crash points of the shell around the replica: where messages, installs, commands, the history
/// and the conductor can be stopped. Those of log and snapshots are the replica's own.
const SHELL_POINTS: [(&str, Comes); 32] = [
    ("elected", Comes::Seldom),
    ("send.before", Comes::Often),
    ("send.after", Comes::Often),
    ("receive.before", Comes::Often),
    ("receive.after", Comes::Often),
    ("propose.before", Comes::Often),
    ("conduct.before", Comes::Often),
    ("run.before", Comes::Often),
    ("offer.received", Comes::Seldom),
    ("chunk.given", Comes::Seldom),
    ("chunk.received", Comes::Seldom),
    ("fetch.complete", Comes::Seldom),
    ("install.before", Comes::Seldom),
    ("install.history.after", Comes::Seldom),
    ("install.snapshot.after", Comes::Seldom),
    ("install.apply.before", Comes::Seldom),
    ("range.given", Comes::Seldom),
    ("range.received", Comes::Seldom),
    ("range.filled", Comes::Seldom),
    ("history.write.before", Comes::Often),
    ("history.write.after", Comes::Often),
    ("history.sync.after", Comes::Often),
    ("history.fill.written", Comes::Seldom),
    ("snapshot.begin", Comes::Often),
    ("snapshot.history.after", Comes::Often),
    ("compact.before", Comes::Often),
    ("command.start.before", Comes::Often),
    ("command.start.journaled", Comes::Seldom),
    ("command.start.after", Comes::Seldom),
    ("command.fence.before", Comes::Seldom),
    ("command.fence.after", Comes::Seldom),
    ("command.report", Comes::Often),
];

/// Crash points that a node without others can pass, and does often.
pub(super) fn points_alone() -> impl Iterator<Item = &'static str> {
    points().filter(|point| CRASH_POINTS.contains(point) || point.starts_with("history.w"))
}

/// All crash points.
pub(super) fn points() -> impl Iterator<Item = &'static str> {
    let shell = SHELL_POINTS.into_iter().map(|(point, _)| point);
    // The drive's own; this shell answers otherwise.
    CRASH_POINTS.into_iter().filter(|point| *point != "reply.after").chain(shell)
}

/// Crash points that are seldom passed.
pub(super) fn rare_points() -> impl Iterator<Item = &'static str> {
    let seldom = SHELL_POINTS.into_iter().filter(|(_, comes)| *comes == Comes::Seldom);
    seldom.map(|(point, _)| point)
}

/// Counts of a run, or of many.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// How often nodes were stopped, by crash point.
    pub stops: BTreeMap<String, u64>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Members that came, or lost their disk, and are voters.
    pub swaps: u64,
    /// Members that were removed.
    pub removed: u64,
    /// Frames that were refused because their sender is no member.
    pub denied: u64,
    /// What was said of wishes to cancel.
    pub cancels: BTreeMap<&'static str, u64>,
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

    /// Notes what was said of a wish to cancel.
    pub(super) fn told(&mut self, told: &'static str) {
        *self.cancels.entry(told).or_default() += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Counts) {
        for (point, count) in &other.stops {
            *self.stops.entry(point.clone()).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        for (told, count) in &other.cancels {
            *self.cancels.entry(told).or_default() += count;
        }
        self.swaps += other.swaps;
        self.removed += other.removed;
        self.denied += other.denied;
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
            swaps,
            removed,
            denied,
            cancels,
            elections,
            offers,
            installs,
            ranges,
            commands,
            fences,
            pending,
            ..
        } = self;
        writeln!(
            out,
            "{elections} elections, {swaps} members joined, {removed} removed, {denied} frames of \
             strangers, cancels {cancels:?}, {offers} snapshots offered, \
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
