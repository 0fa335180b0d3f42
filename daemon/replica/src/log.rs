//! The raft log on disk: segments of checksummed records, one write and one sync per group.
//!
//! Owns the format and its recovery; asserts hard, because a log that guesses is worse than none.
//! It does no I/O of its own (everything goes through [`Disk`]) and knows nothing of raft's rules
//! beyond "an entry inside the log replaces what followed". The daemon's log-writer thread owns a
//! [`Log`]; `tiebeamd check` calls [`verify`].
//!
//! **Rules.** What [`Log::append`] returned `Ok` for with `must_sync` is never lost and never
//! changed. After the first failed write or sync the log is poisoned until the process ends: what
//! the kernel did with the dirty pages is unknown, and a second sync that succeeds proves nothing.
//! Damage below the promised mark is reported and the log is not opened for writing (ruling 18).
//!
//! **What stays open.** Rot inside the very last group together with a power cut before the next
//! sync looks like a torn tail, since the mark for a group becomes durable with the next sync.

mod format;
mod replay;
mod report;
mod scan;
mod supply;
#[cfg(test)]
mod tests;

use crate::entry::{Entry, Group, HardState, Mark};
use crate::seams::{Disk, DiskError, FileId, OpenMode, Rng};
use format::{
    Encoder, HARD_STATE_BYTES, HEAD_OFFSETS, Head, LINK_BYTES, Link, RECORD_HEADER, RECORDS_START,
    RecordKind,
};
pub use report::{Damage, DamageReason, Finding, FindingKind, LogError};
use scan::{Found, Scan};
use std::collections::VecDeque;
use supply::{Prepared, Supply};

/// Sizes of the log.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Bytes of a segment. 64 MiB: long enough that a new one is rare, short enough that dropping
    /// a prefix frees space soon.
    pub segment_bytes: u64,
    /// Bytes of the very first segment. 4 MiB: filled in milliseconds, so a new node starts fast.
    pub first_segment_bytes: u64,
    /// Syncs between two durable marks in the head. 1: every sync (ruling 18).
    pub mark_every: u32,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { segment_bytes: 64 << 20, first_segment_bytes: 4 << 20, mark_every: 1 }
    }
}

/// What a start found in the log.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The last hard state; its commit never points behind the last entry.
    pub hard_state: HardState,
    /// Position before the first entry.
    pub floor: Mark,
    /// All entries in order.
    pub entries: Vec<Entry>,
    /// Bytes behind the last valid record that were cut off, as far as they can be told from the
    /// leftovers of a recycled segment.
    pub torn_bytes: u64,
}

impl Recovered {
    /// Position of the last entry.
    pub fn last(&self) -> Mark {
        self.entries.last().map_or(self.floor, Entry::mark)
    }
}

/// What [`Log::open`] found: a log to write to, or damage.
#[derive(Debug)]
// Made once per start and taken apart at once: a box would save nothing.
#[allow(clippy::large_enum_variant)]
pub enum Opened<D> {
    /// All that was ever acknowledged is there.
    Sound(Log<D>, Recovered),
    /// Something acknowledged is lost: what is intact may be read, nothing may be written, and the
    /// node does not vote.
    Damaged(Damage, Recovered),
}

/// Counters for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Groups appended.
    pub groups: u64,
    /// Syncs on the way of a group.
    pub syncs: u64,
    /// Bytes of records written.
    pub bytes: u64,
    /// Times the log went on in a new segment.
    pub rolls: u64,
}

#[derive(Debug)]
struct Sealed {
    path: String,
    sequence: u64,
    file_len: u64,
    max_index: u64,
}

#[derive(Debug)]
struct Current {
    file: FileId,
    path: String,
    sequence: u64,
    head: Head,
    head_slot: usize,
    /// End of what is meant to be used; a group that is larger than a whole segment passes it.
    capacity: u64,
    file_len: u64,
    offset: u64,
    chain: u32,
    max_index: u64,
    linked: bool,
    unsynced: bool,
}

/// The log, open for writing.
pub struct Log<D> {
    disk: D,
    rng: Box<dyn Rng>,
    settings: LogSettings,
    sealed: VecDeque<Sealed>,
    current: Current,
    /// End and last checksum of the segment before the current one.
    previous: (u64, u32),
    supply: Supply,
    last: Mark,
    hard_state: HardState,
    announced: bool,
    poisoned: bool,
    syncs_unmarked: u32,
    buffer: Vec<u8>,
    counters: LogCounters,
}

impl<D> std::fmt::Debug for Log<D> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Log")
            .field("current", &self.current)
            .field("last", &self.last)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

impl<D: Disk> Log<D> {
    /// Opens the log in `folder`, or makes a new one. A torn tail is cut; damage is reported and
    /// left as it is. All that is returned is durable.
    pub fn open(
        mut disk: D,
        folder: &str,
        settings: LogSettings,
        rng: Box<dyn Rng>,
    ) -> Result<Opened<D>, LogError> {
        let failed = |source| LogError::Open { folder: folder.to_owned(), source };
        disk.create_folder(folder).map_err(failed)?;
        let mut found = scan::scan(&mut disk, folder).map_err(failed)?;
        let recovered = recovered(&mut found);
        if let Some(damage) = found.damage.take() {
            return Ok(Opened::Damaged(damage, recovered));
        }
        let log = Self::resume(disk, folder, settings, rng, found, &recovered).map_err(failed)?;
        Ok(Opened::Sound(log, recovered))
    }

    fn resume(
        mut disk: D,
        folder: &str,
        settings: LogSettings,
        mut rng: Box<dyn Rng>,
        mut found: Scan,
        recovered: &Recovered,
    ) -> Result<Self, DiskError> {
        // A name or record that survived a killed process need not survive a power cut yet.
        disk.sync_folder(folder)?;
        let next_sequence = found.segments.last().map_or(1, |last| last.sequence + 1);
        let mut supply = Supply::new(folder, settings.segment_bytes, next_sequence);
        supply.adopt_spares(&mut disk, std::mem::take(&mut found.spares))?;
        let open_at = found.segments.iter().rposition(|one| one.linked).unwrap_or(0);
        let after = found.segments.split_off(open_at.min(found.segments.len()));
        let mut after = after.into_iter();
        let current = match after.next() {
            Some(open) => Current::reopen(&mut disk, open, &settings)?,
            None => {
                let first = supply.first(&mut disk, rng.as_mut(), settings.first_segment_bytes)?;
                Current::fresh(first, settings.first_segment_bytes)
            }
        };
        for empty in after {
            supply.adopt(prepared(&mut disk, empty)?);
        }
        let mut previous = (0, 0);
        let mut sealed = VecDeque::new();
        for one in found.segments {
            previous = (one.end, one.chain);
            let Found { path, sequence, file_len, max_index, .. } = one;
            sealed.push_back(Sealed { path, sequence, file_len, max_index });
        }
        let mut log = Log {
            disk,
            rng,
            settings,
            sealed,
            current,
            previous,
            supply,
            last: recovered.last(),
            hard_state: recovered.hard_state,
            announced: false,
            poisoned: false,
            syncs_unmarked: 0,
            buffer: Vec::new(),
            counters: LogCounters::default(),
        };
        if log.current.linked {
            log.write_again()?;
            log.disk.sync(log.current.file)?;
            log.mark_durable()?;
        }
        Ok(log)
    }

    /// Writes again what no sync vouches for. After a failed sync of a former run the cache may
    /// show records that are not on the platter, and no further sync would bring them there: what
    /// failed once counts as written back.
    fn write_again(&mut self) -> Result<(), DiskError> {
        let current = &self.current;
        let from = current.head.durable_to.clamp(RECORDS_START, current.offset);
        let mut bytes = vec![0; (current.offset - from) as usize];
        self.disk.read_at(current.file, from, &mut bytes)?;
        self.disk.write_at(current.file, from, &bytes)
    }

    /// Appends a group with one write and, if it must be durable, one sync. After an error the
    /// log is poisoned and the node must stop acknowledging.
    ///
    /// # Panics
    ///
    /// If the entries do not follow what is in the log: the node has a bug, and going on would
    /// write it down.
    pub fn append(&mut self, group: &Group) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        self.assert_follows(group);
        // Poisoned until proven otherwise: whatever ends this call early leaves it so.
        self.poisoned = true;
        self.write(group).map_err(|source| {
            let path = self.current.path.clone();
            LogError::Append { path, source }
        })?;
        if group.must_sync {
            self.persist().map_err(|source| {
                let path = self.current.path.clone();
                LogError::Persist { path, source }
            })?;
        }
        self.counters.groups += 1;
        self.poisoned = false;
        Ok(())
    }

    /// Drops segments that hold only entries up to `index` (which a durable snapshot covers).
    /// Returns how many were dropped.
    pub fn compact_to(&mut self, index: u64) -> Result<usize, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let droppable = self.sealed.front().is_some_and(|oldest| oldest.max_index <= index);
        if droppable && self.current.unsynced {
            // The link in the current segment says where the log begins and holds the hard state:
            // it must be durable before anything older goes.
            self.poisoned = true;
            self.persist().map_err(|source| {
                let path = self.current.path.clone();
                LogError::Persist { path, source }
            })?;
            self.poisoned = false;
        }
        let mut dropped = 0;
        while let Some(oldest) = self.sealed.front() {
            if oldest.max_index > index {
                break;
            }
            self.disk.crash_point("log.compact.before").map_err(LogError::Compact)?;
            self.supply
                .give_back(&mut self.disk, &oldest.path, oldest.sequence, oldest.file_len)
                .map_err(LogError::Compact)?;
            self.sealed.pop_front();
            self.disk.crash_point("log.compact.after").map_err(LogError::Compact)?;
            dropped += 1;
        }
        Ok(dropped)
    }

    /// One bounded step of work ahead (at most 1 MiB of zeros, or one sync): call it while no
    /// group waits, until it returns false. An error loses nothing.
    pub fn prepare(&mut self) -> Result<bool, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        self.supply.step(&mut self.disk, self.rng.as_mut()).map_err(LogError::Prepare)
    }

    /// Position of the last entry written.
    pub fn last(&self) -> Mark {
        self.last
    }

    /// Counters since the log was opened.
    pub fn counters(&self) -> LogCounters {
        self.counters
    }

    /// Whether an earlier failure stopped all writing.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn assert_follows(&self, group: &Group) {
        let mut last = group.reset.map_or(self.last.index, |reset| reset.index);
        for (nth, entry) in group.entries.iter().enumerate() {
            let follows = entry.index == last + 1 || (nth == 0 && entry.index <= last);
            assert!(follows, "entry {} cannot follow index {last} in the log", entry.index);
            last = entry.index;
        }
    }

    fn write(&mut self, group: &Group) -> Result<(), DiskError> {
        let payloads: usize = group.entries.iter().map(|entry| entry.payload.len()).sum();
        let headers = (group.entries.len() + 4) * RECORD_HEADER;
        let bytes = payloads + headers + LINK_BYTES + HARD_STATE_BYTES;
        if self.current.linked && self.current.offset + bytes as u64 > self.current.capacity {
            self.roll()?;
        }
        self.encode(group, bytes);
        self.disk.crash_point("log.write.before")?;
        let current = &mut self.current;
        self.disk.write_at(current.file, current.offset, &self.buffer)?;
        current.offset += self.buffer.len() as u64;
        current.file_len = current.file_len.max(current.offset);
        current.unsynced = true;
        self.counters.bytes += self.buffer.len() as u64;
        self.disk.crash_point("log.write.after")
    }

    fn encode(&mut self, group: &Group, bytes: usize) {
        self.buffer.clear();
        self.buffer.reserve(bytes);
        let current = &mut self.current;
        let (generation, chain) = (current.head.generation, current.chain);
        let mut encoder = Encoder { buffer: &mut self.buffer, generation, chain };
        if !current.linked {
            let (previous_end, previous_chain) = self.previous;
            let nonce = self.rng.next_u64();
            let link = Link { previous_end, previous_chain, nonce, hard_state: self.hard_state };
            encoder.record(RecordKind::Link, self.last.index, self.last.term, &link.encode());
            current.linked = true;
        }
        if !self.announced {
            let nonce = self.rng.next_u64().to_le_bytes();
            encoder.record(RecordKind::Opened, self.last.index, self.last.term, &nonce);
            self.announced = true;
        }
        if let Some(mark) = group.reset {
            encoder.record(RecordKind::Reset, mark.index, mark.term, &[]);
            current.max_index = current.max_index.max(mark.index);
            self.last = mark;
        }
        // The hard state goes first: of a torn group, a new term without its entries is harmless.
        if let Some(hard_state) = &group.hard_state {
            encoder.hard_state(hard_state);
            self.hard_state = *hard_state;
        }
        for entry in &group.entries {
            let kind = RecordKind::Entry(entry.kind);
            encoder.record(kind, entry.index, entry.term, &entry.payload);
            current.max_index = current.max_index.max(entry.index);
        }
        self.last = group.entries.last().map_or(self.last, Entry::mark);
        current.chain = encoder.chain;
    }

    fn persist(&mut self) -> Result<(), DiskError> {
        self.disk.crash_point("log.sync.before")?;
        self.disk.sync(self.current.file)?;
        self.current.unsynced = false;
        self.counters.syncs += 1;
        self.disk.crash_point("log.sync.after")?;
        self.syncs_unmarked += 1;
        if self.syncs_unmarked >= self.settings.mark_every {
            self.mark_durable()?;
        }
        Ok(())
    }

    /// Writes into the older head sector how far the segment is durable. The next sync makes it so.
    fn mark_durable(&mut self) -> Result<(), DiskError> {
        let current = &mut self.current;
        current.head.stamp += 1;
        current.head.durable_to = current.offset;
        current.head_slot = 1 - current.head_slot;
        self.syncs_unmarked = 0;
        let offset = HEAD_OFFSETS[current.head_slot];
        self.disk.write_at(current.file, offset, &current.head.encode())
    }

    fn roll(&mut self) -> Result<(), DiskError> {
        if self.current.unsynced {
            self.disk.sync(self.current.file)?;
            self.counters.syncs += 1;
        }
        let next = self.supply.take(&mut self.disk, self.rng.as_mut())?;
        self.previous = (self.current.offset, self.current.chain);
        let next = Current::fresh(next, self.settings.segment_bytes);
        let full = std::mem::replace(&mut self.current, next);
        self.disk.close(full.file);
        let Current { path, sequence, file_len, max_index, .. } = full;
        self.sealed.push_back(Sealed { path, sequence, file_len, max_index });
        self.counters.rolls += 1;
        Ok(())
    }
}

impl Current {
    fn fresh(made: Prepared, capacity: u64) -> Current {
        let Prepared { file, path, sequence, file_len, head, head_slot } = made;
        Current {
            file,
            path,
            sequence,
            head,
            head_slot,
            capacity: capacity.max(file_len),
            file_len,
            offset: RECORDS_START,
            chain: 0,
            max_index: 0,
            linked: false,
            unsynced: false,
        }
    }

    fn reopen<D: Disk>(
        disk: &mut D,
        found: Found,
        settings: &LogSettings,
    ) -> Result<Current, DiskError> {
        let (end, chain, max_index, linked) =
            (found.end, found.chain, found.max_index, found.linked);
        let filled = found.file_len >= settings.first_segment_bytes;
        let capacity = if filled { found.file_len } else { settings.segment_bytes };
        let mut current = Current::fresh(prepared(disk, found)?, capacity);
        (current.offset, current.chain) = (end, chain);
        (current.max_index, current.linked) = (max_index, linked);
        Ok(current)
    }
}

fn prepared<D: Disk>(disk: &mut D, found: Found) -> Result<Prepared, DiskError> {
    let file = disk.open(&found.path, OpenMode::Write)?;
    let Found { path, sequence, file_len, head, head_slot, .. } = found;
    Ok(Prepared { file, path, sequence, file_len, head, head_slot })
}

fn recovered(found: &mut Scan) -> Recovered {
    let replay = std::mem::take(&mut found.replay);
    let last = replay.last().index;
    let mut hard_state = replay.hard_state;
    // Of a torn group the hard state may be there and the entries not.
    hard_state.commit = hard_state.commit.min(last);
    Recovered {
        hard_state,
        floor: replay.floor,
        entries: replay.entries,
        torn_bytes: found.torn_bytes,
    }
}

/// Reads the log in `folder` without changing anything: what is intact, and where damage begins, if
/// there is any. A running node may write to it meanwhile; what it takes away then may show as
/// damage, so a caller who knows that there is one looks again.
pub fn read<D: Disk>(disk: &mut D, folder: &str) -> Result<(Recovered, Option<Damage>), LogError> {
    let mut found = scan::scan(disk, folder)
        .map_err(|source| LogError::Open { folder: folder.to_owned(), source })?;
    let damage = found.damage.take();
    Ok((recovered(&mut found), damage))
}

/// Checks the log in `folder` without changing anything.
pub fn verify<D: Disk>(disk: &mut D, folder: &str) -> Result<Vec<Finding>, LogError> {
    let found = scan::scan(disk, folder)
        .map_err(|source| LogError::Open { folder: folder.to_owned(), source })?;
    Ok(found.findings)
}
