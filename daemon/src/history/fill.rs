//! Fills gaps: takes parcels of records from a peer, newest first, verifies them, makes segments.
//!
//! A parcel must end where the gap ends, with the hash that the record behind it follows, and each
//! of its records must have its own hash; so what is taken is what the chain's head vouches for,
//! and the next parcel is verified against this one. (Below a pruned record, of which nothing but
//! the hash is left, the order of hashes is the peer's word; peers are members, and a segment that
//! was always here proves no more.) Each parcel becomes a **part**: a file of blocks that no reader
//! looks at. When the parts have a segment's bytes, or reach the end of the gap, they are copied in
//! order into one file, which is synced, renamed to a segment, indexed, and shown to readers.
//!
//! Parts are not synced: what a crash takes of them is asked for again. At a start those that are
//! whole and follow each other down from the gap's end are gone on with. A crash between rename and
//! index leaves a segment that is sealed at the start, and parts of no gap, which are removed.
//!
//! It runs on the thread that calls [`HistoryHandle::fill`], beside the history thread, which
//! appends elsewhere. Side: persist, but a failure here stops nothing: it is reported, and the gap
//! stays.

use super::append::{listed, remove};
use super::block::{Block, HEADER_BYTES, Header, Kept, LEVEL};
use super::library::Library;
use super::query::Shared;
use super::queue::Wish;
use super::seal::sync_folder;
use super::segment::{Extent, Place, Segment, segment_path};
use super::thread::HistoryHandle;
use super::transfer::Parcel;
use super::{BLOCK_RAW_BYTES, HistoryError, hot, recover};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};
use tiebeam_proto::chain::{self, GENESIS, Hash};

/// Why a parcel is not what belongs into the gap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The record at its end has not the hash that the record behind it follows.
    #[error("record {0} is not the one that the next record follows")]
    End(u64),
    /// A record in it has not its hash.
    #[error("record {0} has not its hash")]
    Hash(u64),
    /// A record is pruned that is to be here.
    #[error("of record {0} there is only the hash")]
    Pruned(u64),
    /// Record 1 follows something.
    #[error("record 1 does not begin a chain")]
    Start,
}

/// What became of a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It was taken.
    Taken {
        /// How many records it has.
        records: u64,
    },
    /// It is not what is wanted now: a newer gap has opened, or the floor has risen.
    NotWanted,
}

/// What is to be asked for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    from: u64,
    to: u64,
    /// The hash of the record `to`.
    anchor: Hash,
}

/// A parcel that was written.
#[derive(Debug)]
struct Part {
    first: u64,
    last: u64,
    previous: Hash,
    head: Hash,
    bytes: u64,
}

/// The parts of one gap, oldest records first; each follows the one before it.
pub(super) struct Filler {
    library: Arc<Library>,
    segment_bytes: u64,
    parts: VecDeque<Part>,
    compressor: zstd::bulk::Compressor<'static>,
}

impl HistoryHandle {
    fn filler(&self) -> MutexGuard<'_, Filler> {
        // Files are the truth of it; a panic leaves the list as it was or as it will be.
        self.shared.filler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records to ask for next, from and to: the rest of the newest gap. A parcel that ends at
    /// `to` is what [`HistoryHandle::fill`] takes. `None` if nothing is missing. Blocks, for a
    /// second at most: it finishes what a crash or a new floor left.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn wanted(&self) -> Result<Option<(u64, u64)>, HistoryError> {
        let mut filler = self.filler();
        let wanted = filler.wanted(&self.shared);
        self.shared.metrics.collected.store(filler.collected(), Relaxed);
        Ok(wanted?.map(|wanted| (wanted.from, wanted.to)))
    }

    /// Verifies a parcel and keeps its records. Blocks, for a second when a segment is made.
    ///
    /// # Errors
    /// [`HistoryError::Misfit`] if it is not what belongs there; else what the operating system
    /// said. Both leave the gap as it is.
    pub fn fill(&self, parcel: &Parcel) -> Result<Filled, HistoryError> {
        let metrics = &self.shared.metrics;
        let mut filler = self.filler();
        let filled = filler.fill(&self.shared, parcel);
        metrics.collected.store(filler.collected(), Relaxed);
        drop(filler);
        match &filled {
            Ok(Filled::Taken { records }) => drop(metrics.filled.fetch_add(*records, Relaxed)),
            Err(HistoryError::Misfit(_)) => drop(metrics.misfits.fetch_add(1, Relaxed)),
            Ok(Filled::NotWanted) | Err(_) => {}
        }
        filled
    }
}

impl Filler {
    fn fill(&mut self, shared: &Shared, parcel: &Parcel) -> Result<Filled, HistoryError> {
        let Some(wanted) = self.wanted(shared)? else {
            return Ok(Filled::NotWanted);
        };
        if parcel.last() != wanted.to || parcel.first() < wanted.from {
            return Ok(Filled::NotWanted);
        }
        verify(&parcel.0, &wanted.anchor, shared.reads.below()).map_err(HistoryError::Misfit)?;
        self.take(&parcel.0)?;
        if parcel.first() == wanted.from || self.bytes() >= self.segment_bytes {
            self.install()?;
            // Reads in it may be pruned already.
            let _ = shared.queue.wish(Wish::Look);
        }
        Ok(Filled::Taken { records: parcel.last() + 1 - parcel.first() })
    }
}

/// Checks that the last record has this hash, and every record its own. Only below `reads_below`
/// there may be pruned ones.
fn verify(block: &Block, anchor: &Hash, reads_below: u64) -> Result<(), Misfit> {
    if block.head() != *anchor {
        return Err(Misfit::End(block.last()));
    }
    for kept in block.records() {
        if kept.index == 1 && kept.previous != GENESIS {
            return Err(Misfit::Start);
        }
        match kept.canonical {
            Some(bytes) if chain::hash(&kept.previous, bytes) != kept.this => {
                return Err(Misfit::Hash(kept.index));
            }
            None if kept.index >= reads_below => return Err(Misfit::Pruned(kept.index)),
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn part_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.part"))
}

impl Filler {
    /// Looks for parts that an earlier run left, and removes those that are of no use.
    pub(super) fn open(library: &Arc<Library>, segment_bytes: u64) -> Result<Filler, HistoryError> {
        let folder = &library.folder;
        let compressor =
            zstd::bulk::Compressor::new(LEVEL).map_err(HistoryError::io("compress for", folder))?;
        let mut parts: VecDeque<Part> = VecDeque::new();
        let mut paths = listed(folder)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "part"));
        paths.sort_unstable_by(|one, other| other.cmp(one));
        for path in paths {
            let part = read(&path).filter(|part| {
                let below = |above: &Part| part.last + 1 == above.first;
                parts.front().is_none_or(|a| below(a) && part.head == a.previous)
            });
            match part {
                Some(part) => parts.push_front(part),
                None => remove(&path)?,
            }
        }
        Ok(Filler { library: Arc::clone(library), segment_bytes, parts, compressor })
    }

    /// Records in parts.
    pub(super) fn collected(&self) -> u64 {
        self.parts.iter().map(|part| part.last + 1 - part.first).sum()
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The rest of the newest gap. Parts that are all of their gap become a segment, and parts of
    /// no gap are removed.
    fn wanted(&mut self, shared: &Shared) -> Result<Option<Wanted>, HistoryError> {
        loop {
            let gaps = shared.gaps(shared.floor().max(1));
            if let Some((oldest, newest)) = self.parts.front().zip(self.parts.back()) {
                let own = gaps.iter().find(|(_, to)| *to == newest.last);
                match own.filter(|_| shared.anchor(newest.last) == Some(newest.head)) {
                    None => self.discard()?,
                    Some(gap) if oldest.first > gap.0 && gaps.last() == Some(gap) => {
                        let (to, anchor) = (oldest.first - 1, oldest.previous);
                        return Ok(Some(Wanted { from: gap.0, to, anchor }));
                    }
                    // They reach the end of their gap, or a newer gap comes first.
                    Some(_) => self.install()?,
                }
                continue;
            }
            let newest = gaps.last().and_then(|(from, to)| {
                shared.anchor(*to).map(|anchor| Wanted { from: *from, to: *to, anchor })
            });
            return Ok(newest);
        }
    }

    /// Removes all parts.
    fn discard(&mut self) -> Result<(), HistoryError> {
        while let Some(part) = self.parts.pop_front() {
            remove(&part_path(&self.library.folder, part.first))?;
        }
        Ok(())
    }

    /// Writes a parcel as a part, in blocks of the usual size.
    fn take(&mut self, parcel: &Block) -> Result<(), HistoryError> {
        let path = part_path(&self.library.folder, parcel.first);
        let compress = HistoryError::io("compress for", &path);
        let bytes = self.in_blocks(parcel).map_err(compress)?;
        let draft = path.with_extension("part.tmp");
        create(&draft)?.write_all(&bytes).map_err(HistoryError::io("write", &draft))?;
        fs::rename(&draft, &path).map_err(HistoryError::io("rename", &draft))?;
        let previous = parcel.kept(parcel.first).map_or(GENESIS, |kept| kept.previous);
        self.parts.push_front(Part {
            first: parcel.first,
            last: parcel.last(),
            previous,
            head: parcel.head(),
            bytes: bytes.len() as u64,
        });
        Ok(())
    }

    fn in_blocks(&mut self, parcel: &Block) -> std::io::Result<Vec<u8>> {
        let (mut bytes, mut group, mut raw) = (Vec::new(), Vec::<Kept<'_>>::new(), 0);
        for kept in parcel.records() {
            raw += kept.canonical.map_or(0, <[u8]>::len);
            let last = kept.index == parcel.last();
            group.push(kept);
            if raw >= BLOCK_RAW_BYTES || last {
                let first =
                    group.first().map_or((parcel.first, GENESIS), |k| (k.index, k.previous));
                let records = group.iter().map(|kept| (kept.this, kept.canonical));
                let block = Block::of(first.0, first.1, records);
                bytes.extend(block.encode(bytes.len() as u64, &mut self.compressor)?);
                (raw, group) = (0, Vec::new());
            }
        }
        Ok(bytes)
    }

    /// Makes one segment of all parts and shows it to readers.
    fn install(&mut self) -> Result<(), HistoryError> {
        let Some((oldest, newest)) = self.parts.front().zip(self.parts.back()) else {
            return Ok(());
        };
        let folder = &self.library.folder;
        let path = segment_path(folder, oldest.first);
        let draft = path.with_extension("fill.tmp");
        let Some((places, bytes)) = self.join(&draft)? else {
            tracing::warn!(path = %path.display(), "collected records are not what was written");
            remove(&draft)?;
            return self.discard();
        };
        fs::rename(&draft, &path).map_err(HistoryError::io("rename", &draft))?;
        sync_folder(folder)?;
        let extent = Extent {
            previous: oldest.previous,
            last: newest.last,
            head: newest.head,
            bytes,
            places,
            sealed: None,
        };
        let segment = Arc::new(Segment::new(folder, oldest.first, extent));
        hot::seal_now(&segment)?;
        tracing::info!(from = oldest.first, to = newest.last, "missing history is here now");
        let insert = |list: &mut Vec<Arc<Segment>>| {
            let at = list.partition_point(|other| other.first < segment.first);
            list.insert(at, Arc::clone(&segment));
        };
        self.library.update(insert, false);
        self.discard()
    }

    /// Copies the blocks of all parts into one file and syncs it; `None` if one of them is broken.
    fn join(&self, draft: &Path) -> Result<Option<(Vec<Place>, u64)>, HistoryError> {
        let mut out = BufWriter::new(create(draft)?);
        let (mut places, mut offset) = (Vec::new(), 0);
        for part in &self.parts {
            let path = part_path(&self.library.folder, part.first);
            let bytes = fs::read(&path).map_err(HistoryError::io("read", &path))?;
            let mut rest = bytes.as_slice();
            while let Some((header, stored)) = next_block(&mut rest) {
                places.push(Place { first: header.first, offset });
                out.write_all(&header.moved(offset, stored))
                    .and_then(|()| out.write_all(stored))
                    .map_err(HistoryError::io("write", draft))?;
                offset += header.file_bytes();
            }
            if !rest.is_empty() || bytes.len() as u64 != part.bytes {
                return Ok(None);
            }
        }
        let file = out.into_inner().map_err(|error| error.into_error());
        file.and_then(|file| file.sync_all()).map_err(HistoryError::io("sync", draft))?;
        Ok(Some((places, offset)))
    }
}

/// Takes a valid block from the front.
fn next_block<'a>(bytes: &mut &'a [u8]) -> Option<(Header, &'a [u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let header = Header::read(head)?;
    let (stored, rest) = rest.split_at_checked(header.stored_bytes as usize)?;
    *bytes = rest;
    header.holds(stored).then_some((header, stored))
}

/// What a part holds, if it is whole.
fn read(path: &Path) -> Option<Part> {
    let first = path.file_stem()?.to_str()?.parse().ok()?;
    let scan = recover::scan(path, first, true).ok()?;
    (scan.torn == 0 && scan.last >= first).then_some(Part {
        first,
        last: scan.last,
        previous: scan.previous,
        head: scan.head,
        bytes: scan.bytes,
    })
}

fn create(path: &Path) -> Result<File, HistoryError> {
    let mut options = OpenOptions::new();
    let made = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    made.map_err(HistoryError::io("create", path))
}
