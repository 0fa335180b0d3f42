//! The simulated network: what travels between nodes, and what befalls it on the way.
//!
//! It owns the links and their faults and says when, and how often, a frame arrives. It must not
//! look into a frame, nor know what a node does with it. `Simulation` asks it for every frame sent.

use super::manifest::{Chunk, ChunkWish, Manifest, Range, RangeWish};
use std::collections::BTreeMap;
use tiebeam_core::proposal::CommandEnded;
use tiebeam_replica::prefix::Held;
use tiebeam_replica::seams::mem::SeededRng;

/// Something that one node sends another.
#[derive(Clone, Debug)]
pub(super) enum Frame {
    /// A message of raft.
    Raft(Vec<u8>),
    /// A message of raft that carries a snapshot: its chunks are fetched first.
    Offer(Vec<u8>, Manifest),
    /// The receiver of an offer has all of it, or gives it up.
    Delivered(bool),
    /// Wants a piece of a snapshot.
    ChunkWish(ChunkWish),
    /// A piece of a snapshot.
    Chunk(Chunk),
    /// Wants records of the history.
    RangeWish(RangeWish),
    /// Records of the history.
    Range(Range),
    /// How far the sender is.
    Report(Report),
    /// A command of the sender ended; for the master.
    CommandEnded(Box<CommandEnded>),
}

/// What a member tells all others of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Its term: a master counts reports of its own term only (ruling 6).
    pub(super) term: u64,
    /// What it has applied.
    pub(super) applied: u64,
    /// What is durable in its history (ruling 16).
    pub(super) held: Held,
}

impl Frame {
    /// A word for the trace.
    pub(super) fn name(&self) -> String {
        match self {
            Frame::Raft(bytes) => format!("raft message of {} bytes", bytes.len()),
            Frame::Offer(_, manifest) => format!("offer of a snapshot at {}", manifest.index),
            Frame::Delivered(whole) => format!("delivered: {whole}"),
            Frame::ChunkWish(wish) => format!("wish for chunk {} of {}", wish.nth, wish.index),
            Frame::Chunk(chunk) => format!("chunk {} of {}", chunk.nth, chunk.index),
            Frame::RangeWish(wish) => format!("wish for records up to {}", wish.last),
            Frame::Range(range) => format!("{} records up to {}", range.records.len(), range.last),
            Frame::Report(report) => format!("report {report:?}"),
            Frame::CommandEnded(ended) => format!("end of {} of job {}", ended.key, ended.job),
        }
    }
}

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// Nothing passes.
    cut: bool,
    /// What is sent arrives after this moment, in microseconds.
    clogged_until_us: u64,
}

/// What the network counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Frames that arrived.
    pub(super) delivered: u64,
    /// Frames that did not.
    pub(super) lost: u64,
    /// Frames that arrived twice.
    pub(super) doubled: u64,
}

/// All links.
#[derive(Default)]
pub(super) struct Net {
    links: BTreeMap<(usize, usize), Link>,
    /// Of 1,000 frames so many are lost.
    pub(super) loss: u64,
    /// Of 1,000 frames so many arrive twice.
    pub(super) doubling: u64,
    /// Longest time on the way, in microseconds; drawn per frame, so frames overtake each other.
    pub(super) spread_us: u64,
    pub(super) traffic: Traffic,
}

/// Shortest time on the way, in microseconds.
const LEAST_US: u64 = 100;

impl Net {
    /// A network that works.
    pub(super) fn new() -> Net {
        let mut net = Net::default();
        net.heal();
        net
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self) {
        self.links.clear();
        (self.loss, self.doubling, self.spread_us) = (0, 0, 900);
    }

    /// Cuts one direction.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.links.entry((from, to)).or_default().cut = true;
    }

    /// Mends one direction.
    pub(super) fn mend(&mut self, from: usize, to: usize) {
        self.links.entry((from, to)).or_default().cut = false;
    }

    /// Holds back what is sent in one direction.
    pub(super) fn clog(&mut self, from: usize, to: usize, until_us: u64) {
        self.links.entry((from, to)).or_default().clogged_until_us = until_us;
    }

    /// Whether nothing passes in this direction.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.cut)
    }

    /// The moments at which a frame that is sent now arrives: none, one or two.
    pub(super) fn arrivals(
        &mut self,
        (from, to): (usize, usize),
        now_us: u64,
        rng: &mut SeededRng,
    ) -> Vec<u64> {
        let link = self.links.get(&(from, to)).copied().unwrap_or_default();
        let (lost, doubled) = (rng.below(1_000) < self.loss, rng.below(1_000) < self.doubling);
        let mut moment =
            || now_us.max(link.clogged_until_us) + LEAST_US + rng.below(self.spread_us);
        let moments = [moment(), moment()];
        if link.cut || lost {
            self.traffic.lost += 1;
            return Vec::new();
        }
        self.traffic.delivered += 1;
        self.traffic.doubled += u64::from(doubled);
        moments[..1 + usize::from(doubled)].to_vec()
    }
}
