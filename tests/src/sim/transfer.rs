//! What is fetched from a peer: the chunks of a leader's snapshot, and records of the history that
//! a node lacks after it.
//!
//! A snapshot's chunks come before the message that offers it is given to raft (ruling 33): what is
//! there already is not fetched again, each piece is verified, and a node that cannot get it says
//! so. Gaps of the history are filled from above, verified by the chain (ruling 16).

use super::manifest::{Chunk, ChunkWish, Manifest, Range, RangeWish};
use super::net::Frame;
use super::plant::Plant;
use super::process::Halt;
use super::simulation::Simulation;
use std::collections::BTreeSet;
use tiebeam_replica::Input;
use tiebeam_replica::seams::mem::SeededRng;

/// Ticks after which a wish is repeated.
const WISH_TICKS: u64 = 3;
/// Ticks without a new chunk after which a snapshot is given up.
const GIVE_UP_TICKS: u64 = 60;
/// Chunks that are asked for at once.
const WISHES_MAX: usize = 4;

/// A snapshot that is being fetched.
struct Fetch {
    from: usize,
    message: Vec<u8>,
    manifest: Manifest,
    chunks: Vec<Option<Vec<u8>>>,
    /// Chunks that are asked for and have not come.
    asked: BTreeSet<usize>,
    asked_tick: u64,
    moved_tick: u64,
}

/// What a node fetches; gone with its process.
#[derive(Default)]
pub(super) struct Transfers {
    fetch: Option<Fetch>,
    /// Snapshots that were offered to others: machine and the tick of the offer.
    offers: Vec<(usize, u64)>,
    ticks: u64,
    range_asked_tick: Option<u64>,
}

impl Simulation {
    /// Offers a snapshot that raft wants sent.
    pub(super) fn offer(&mut self, at: usize, to: usize, message: Vec<u8>) {
        let machine = &mut self.machines[at];
        let offered = machine.process.as_ref().and_then(|process| process.offered.clone());
        let Some((manifest, _)) = offered else { return };
        let ticks = machine.transfers.ticks;
        machine.transfers.offers.push((to, ticks));
        self.counts.offers += 1;
        self.trace_of(at, || format!("offers its snapshot at {} to {to}", manifest.index));
        self.send(at, to, Frame::Offer(message, manifest));
    }

    /// A snapshot is offered: what is there of it is kept, the rest is asked for.
    pub(super) fn offered(
        &mut self,
        at: usize,
        from: usize,
        message: Vec<u8>,
        manifest: Manifest,
    ) -> Result<(), Halt> {
        self.reached(at, "offer.received")?;
        let transfers = &mut self.machines[at].transfers;
        let ticks = transfers.ticks;
        let old = transfers.fetch.take();
        let chunks = match old {
            Some(old) if old.manifest == manifest => old.chunks,
            _ => vec![None; manifest.chunks.len()],
        };
        let (asked, asked_tick, moved_tick) = (BTreeSet::new(), ticks, ticks);
        let fetch = Fetch { from, message, manifest, chunks, asked, asked_tick, moved_tick };
        transfers.fetch = Some(fetch);
        self.ask_chunks(at);
        Ok(())
    }

    fn ask_chunks(&mut self, at: usize) {
        let transfers = &mut self.machines[at].transfers;
        let Some(fetch) = &mut transfers.fetch else { return };
        if transfers.ticks >= fetch.asked_tick + WISH_TICKS {
            fetch.asked.clear();
        }
        fetch.asked_tick = transfers.ticks;
        let (from, index) = (fetch.from, fetch.manifest.index);
        let room = WISHES_MAX.saturating_sub(fetch.asked.len());
        let missing = fetch.chunks.iter().enumerate().filter(|(_, chunk)| chunk.is_none());
        let missing = missing.map(|(nth, _)| nth).filter(|nth| !fetch.asked.contains(nth));
        let missing: Vec<usize> = missing.take(room).collect();
        fetch.asked.extend(&missing);
        for nth in missing {
            self.send(at, from, Frame::ChunkWish(ChunkWish { index, nth }));
        }
    }

    pub(super) fn give_chunk(
        &mut self,
        at: usize,
        to: usize,
        wish: &ChunkWish,
    ) -> Result<(), Halt> {
        self.reached(at, "chunk.given")?;
        let Some(process) = &self.machines[at].process else { return Ok(()) };
        let bytes = process.offered.as_ref().and_then(|(manifest, body)| {
            let bytes = super::manifest::chunk_bytes(body);
            let from = (wish.nth * bytes).min(body.len());
            let to = (from + bytes).min(body.len());
            (manifest.index == wish.index).then(|| body.get(from..to).map(<[u8]>::to_vec))?
        });
        let chunk = Chunk { index: wish.index, nth: wish.nth, bytes };
        self.send(at, to, Frame::Chunk(chunk));
        Ok(())
    }

    pub(super) fn chunk_arrives(
        &mut self,
        at: usize,
        from: usize,
        chunk: Chunk,
    ) -> Result<(), Halt> {
        self.reached(at, "chunk.received")?;
        let transfers = &mut self.machines[at].transfers;
        let ticks = transfers.ticks;
        let Some(fetch) = &mut transfers.fetch else { return Ok(()) };
        if fetch.from != from || fetch.manifest.index != chunk.index {
            return Ok(());
        }
        let Some(bytes) = chunk.bytes else {
            // The giver has a newer one by now and will offer that.
            return self.fetched(at, false);
        };
        if fetch.manifest.holds(chunk.nth, &bytes) {
            fetch.moved_tick = ticks;
            fetch.asked.remove(&chunk.nth);
            fetch.chunks[chunk.nth] = Some(bytes);
        }
        if fetch.chunks.iter().all(Option::is_some) {
            return self.fetched(at, true);
        }
        self.ask_chunks(at);
        Ok(())
    }

    /// A fetch came to its end: raft gets the message, the giver is told.
    fn fetched(&mut self, at: usize, whole: bool) -> Result<(), Halt> {
        let Some(fetch) = self.machines[at].transfers.fetch.take() else { return Ok(()) };
        let giver = self.machines[fetch.from].identity.raft;
        if whole {
            self.reached(at, "fetch.complete")?;
            self.counts.installs += 1;
            let body = fetch.chunks.into_iter().flatten().flatten().collect();
            if let Some(process) = &mut self.machines[at].process {
                process.keep_fetched(fetch.manifest, body);
            }
            self.receive(at, Input::Message { from: giver, bytes: fetch.message.into() });
        }
        self.send(at, fetch.from, Frame::Delivered(whole));
        Ok(())
    }

    /// Repeats what was not answered and gives up what does not come.
    pub(super) fn transfers_tick(&mut self, at: usize) {
        let transfers = &mut self.machines[at].transfers;
        transfers.ticks += 1;
        let ticks = transfers.ticks;
        let late = |since: u64, most: u64| ticks >= since + most;
        let (late_offers, offers) = std::mem::take(&mut transfers.offers)
            .into_iter()
            .partition(|(_, since)| late(*since, 2 * GIVE_UP_TICKS));
        transfers.offers = offers;
        let late_offers: Vec<(usize, u64)> = late_offers;
        if let Some(fetch) = &transfers.fetch {
            if late(fetch.moved_tick, GIVE_UP_TICKS) {
                // Told that it failed, the leader offers it again.
                let _ = self.fetched(at, false);
            } else if late(fetch.asked_tick, WISH_TICKS) {
                self.ask_chunks(at);
            }
        }
        for (to, _) in late_offers {
            let peer = self.machines[to].identity.raft;
            self.receive(at, Input::SnapshotSent { peer, delivered: false });
        }
        self.ask_range(at);
    }

    /// Asks some peer for the newest records that are missing.
    fn ask_range(&mut self, at: usize) {
        let others = self.machines.len() as u64 - 1;
        let machine = &mut self.machines[at];
        let Some(process) = &machine.process else { return };
        let Some(wish) = process.archive.gap().filter(|_| others > 0) else { return };
        let asked = machine.transfers.range_asked_tick;
        if asked.is_some_and(|since| machine.transfers.ticks < since + WISH_TICKS) {
            return;
        }
        machine.transfers.range_asked_tick = Some(machine.transfers.ticks);
        let peer = pick_other(&mut self.rng, at, others);
        self.send(at, peer, Frame::RangeWish(wish));
    }

    pub(super) fn give_range(
        &mut self,
        at: usize,
        to: usize,
        wish: &RangeWish,
    ) -> Result<(), Halt> {
        self.reached(at, "range.given")?;
        let Some(process) = &self.machines[at].process else { return Ok(()) };
        let mut range = process.archive.range(wish);
        if self.settings.plant == Some(Plant::SpoilHistory)
            && let Some(record) = range.records.first_mut()
        {
            record.push(b' ');
        }
        self.send(at, to, Frame::Range(range));
        Ok(())
    }

    pub(super) fn range_arrives(&mut self, at: usize, range: &Range) -> Result<(), Halt> {
        self.reached(at, "range.received")?;
        let unchecked = self.settings.plant == Some(Plant::SpoilHistory);
        let Some(process) = &mut self.machines[at].process else { return Ok(()) };
        let filled = process.archive.fill(range, unchecked);
        let filled = match filled {
            Ok(filled) => filled,
            Err(error) => {
                process.disk_went("the history", Err(error))?;
                false
            }
        };
        self.reached(at, "range.filled")?;
        if filled {
            self.counts.ranges += 1;
            self.machines[at].transfers.range_asked_tick = None;
            self.ask_range(at);
            if let Some(process) = &mut self.machines[at].process {
                process.may_lead();
            }
            self.settle(at);
            // Who waits for the end of a job may find it now.
            self.board_changed(at)?;
        }
        Ok(())
    }
}

fn pick_other(rng: &mut SeededRng, at: usize, others: u64) -> usize {
    let drawn = rng.below(others) as usize;
    if drawn >= at { drawn + 1 } else { drawn }
}
