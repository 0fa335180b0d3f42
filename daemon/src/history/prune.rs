//! Records of reads that are pruned (ruling 36): which are hidden, which may go, how they go.
//!
//! State says below which index no record of a read is kept. From then on readers do not see them.
//! They leave the disk later: a sealed segment that lies below as a whole is written again without
//! them, once a snapshot that says so is durable, and once the lines of the chain are copied to
//! where they outlive the records. What is left of each is its hash, so the chain still verifies.
//!
//! Readers never see half of the exchange: the files change while nobody reads, between two names.
//! A crash leaves the old segment, or the new one without its index file, which is then made again;
//! never a segment with the index file of the other. It runs on the sealing thread.

use super::HistoryError;
use super::append::remove;
use super::block::{Block, Kept, LEVEL, RECORD_OVERHEAD};
use super::facts::Facts;
use super::library::Library;
use super::query::Shared;
use super::queue::Wish;
use super::seal::{self, sync_folder};
use super::sealed::Sealed;
use super::segment::{Extent, Place, Segment, index_path};
use super::{BLOCK_RAW_BYTES, History, HistoryHandle};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLockWriteGuard};
use std::time::Duration;
use tiebeam_proto::chain::{GENESIS, Hash};
use tiebeam_proto::record::Archived;

/// Pause between two attempts to find a moment without a reader: a search takes up to 30 ms.
const PAUSE: Duration = Duration::from_millis(5);

/// Attempts before the segment is left as it is for now.
const ATTEMPTS: u32 = 6_000;

/// Three indices, each of which only rises.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// State's: reads below it are hidden.
    below: AtomicU64,
    /// The same in a snapshot that is durable.
    durable_below: AtomicU64,
    /// The lines of the records up to this one are kept elsewhere.
    released: AtomicU64,
}

impl Reads {
    /// Reads below this record are hidden.
    pub(super) fn below(&self) -> u64 {
        self.below.load(Relaxed)
    }

    /// Reads below this record may leave the disk.
    pub(super) fn removable_below(&self) -> u64 {
        let released = self.released.load(Relaxed);
        self.durable_below.load(Relaxed).min(released.saturating_add(1)).min(self.below())
    }

    /// Whether this record is hidden.
    pub(super) fn hide(&self, record: &Archived) -> bool {
        record.link.index < self.below() && Facts::of(&record.canonical).is_read()
    }
}

impl HistoryHandle {
    /// Tells State's index below which reads are pruned: from now on readers do not see them. It
    /// never goes down.
    pub fn set_reads_below(&self, index: u64) {
        self.shared.reads.below.fetch_max(index, Relaxed);
    }

    /// Takes reads below this record out of sealed segments, later. To be called when a snapshot
    /// that has this index is durable.
    pub fn prune_below(&self, index: u64) {
        self.set_reads_below(index);
        if self.shared.reads.durable_below.fetch_max(index, Relaxed) < index {
            look(&self.shared);
        }
    }

    /// Tells that the lines of all records up to this one are kept elsewhere, durably, so that the
    /// record of a read may go. Without it nothing is pruned.
    pub fn release_to(&self, index: u64) {
        if self.shared.reads.released.fetch_max(index, Relaxed) < index {
            look(&self.shared);
        }
    }
}

/// Has the history's thread look for work. One that has stopped finds it after the next start.
fn look(shared: &Shared) {
    let _ = shared.queue.wish(Wish::Look);
}

impl History {
    /// Records of reads below this one are hidden.
    pub fn reads_below(&self) -> u64 {
        self.shared.reads.below()
    }
}

/// Whether the segment lies below this record and holds records of reads, or may.
pub(super) fn is_due(segment: &Segment, below: u64) -> bool {
    segment.last() < below && segment.sealed().is_some_and(|sealed| sealed.footer.reads != Some(0))
}

/// Writes a sealed segment again without its records of reads, and puts it in its place.
///
/// # Errors
/// Damage, what the operating system said, `Interrupted` once `stop` is set, or `WouldBlock` if
/// there was no moment without a reader; then the segment is what it was. If only the index file
/// could not be put in place the segment is an unsealed one, and is sealed again.
pub(super) fn prune(
    library: &Library,
    segment: &Segment,
    stop: &AtomicBool,
) -> Result<(), HistoryError> {
    let drafts = Drafts::beside(segment);
    let pruned = drafts.write(segment, stop)?;
    let Some(_changing) = moment(library, stop) else {
        drafts.discard();
        let busy = std::io::ErrorKind::WouldBlock.into();
        return Err(HistoryError::io("exchange", &segment.path)(busy));
    };
    let before = segment.extent().bytes;
    let bytes = pruned.extent().bytes;
    drafts.exchange(library, pruned)?;
    tracing::info!(
        first = segment.first,
        last = segment.last(),
        before,
        bytes,
        "records of reads were taken out of a segment"
    );
    Ok(())
}

/// A moment without a reader; `None` if none comes, or there is no more time for it.
fn moment<'a>(library: &'a Library, stop: &AtomicBool) -> Option<RwLockWriteGuard<'a, ()>> {
    for _ in 0..ATTEMPTS {
        if stop.load(Relaxed) {
            return None;
        }
        if let Some(changing) = library.try_changing() {
            return Some(changing);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

/// The new files while they are made.
struct Drafts {
    segment: Segment,
    index: PathBuf,
}

impl Drafts {
    fn beside(segment: &Segment) -> Drafts {
        let extent = segment.extent().clone();
        let extent = Extent { places: Vec::new(), sealed: None, bytes: 0, ..extent };
        let draft = Segment::at(segment.path.with_extension("seg.tmp"), segment.first, extent);
        Drafts { segment: draft, index: segment.path.with_extension("pruned.tmp") }
    }

    fn discard(&self) {
        // A draft that stays goes at the next start.
        let _ = fs::remove_file(&self.segment.path);
        let _ = fs::remove_file(&self.index);
    }

    /// Writes both files, durable under their temporary names; gives the segment as it is to be.
    fn write(&self, old: &Segment, stop: &AtomicBool) -> Result<Segment, HistoryError> {
        let since_us = old.sealed().map_or(0, |sealed| sealed.footer.times.0);
        let written = rewrite(old, &self.segment, stop).and_then(|()| {
            let places = self.segment.places()?;
            seal::write(&self.segment, &places, &self.index, since_us, stop)
        });
        if let Err(error) = written {
            self.discard();
            return Err(error);
        }
        let folder = old.path.parent().unwrap_or(Path::new("."));
        Ok(Segment::new(folder, old.first, self.segment.extent().clone()))
    }

    /// Puts the new files in the place of the old ones. Whatever a crash leaves of this: an index
    /// file stands beside the segment that it is of, or there is none.
    fn exchange(self, library: &Library, pruned: Segment) -> Result<(), HistoryError> {
        let index = index_path(&library.folder, pruned.first);
        let aside = index.with_extension("old.tmp");
        rename(&index, &aside)?;
        let replaced =
            sync_folder(&library.folder).and_then(|()| rename(&self.segment.path, &pruned.path));
        if let Err(error) = replaced {
            self.discard();
            // Without it the segment is sealed again at the next start.
            let _ = fs::rename(&aside, &index);
            return Err(error);
        }
        sync_folder(&library.folder)?;
        let placed = rename(&self.index, &index)
            .and_then(|()| remove(&aside))
            .and_then(|()| sync_folder(&library.folder))
            .and_then(|()| Sealed::open(&index, pruned.extent().bytes))
            .map(|sealed| sealed.map(Arc::new));
        if let Ok(Some(sealed)) = &placed {
            pruned.update(|extent| {
                extent.sealed = Some(Arc::clone(sealed));
                extent.places = Vec::new();
            });
        }
        let pruned = Arc::new(pruned);
        library.update(
            |list| {
                let at = list.iter().position(|segment| segment.first == pruned.first);
                if let Some(place) = at.and_then(|at| list.get_mut(at)) {
                    *place = pruned;
                }
            },
            true,
        );
        placed.map(drop)
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), HistoryError> {
    fs::rename(from, to).map_err(HistoryError::io("rename", from))
}

/// Records of a block to be, with their bytes.
#[derive(Default)]
struct Gathered {
    first: u64,
    previous: Hash,
    records: Vec<(Hash, Option<Vec<u8>>)>,
    bytes: usize,
}

impl Gathered {
    fn add(&mut self, kept: &Kept<'_>) {
        if self.records.is_empty() {
            (self.first, self.previous) = (kept.index, kept.previous);
        }
        let stays = kept.canonical.filter(|canonical| !Facts::of(canonical).is_read());
        self.bytes += RECORD_OVERHEAD + stays.map_or(0, <[u8]>::len);
        self.records.push((kept.this, stays.map(<[u8]>::to_vec)));
    }

    /// Appends what was gathered as one block.
    fn flush(
        &mut self,
        out: &mut BufWriter<File>,
        draft: &Segment,
        compressor: &mut zstd::bulk::Compressor<'_>,
    ) -> Result<(), HistoryError> {
        if self.records.is_empty() {
            return Ok(());
        }
        let records = self.records.iter().map(|(this, canonical)| (*this, canonical.as_deref()));
        let block = Block::of(self.first, self.previous, records);
        let offset = draft.extent().bytes;
        // The file gets its name when all of it is durable: every block before this one is.
        let bytes = block
            .encode(offset, compressor)
            .map_err(HistoryError::io("compress for", &draft.path))?;
        out.write_all(&bytes).map_err(HistoryError::io("write", &draft.path))?;
        draft.update(|extent| {
            extent.places.push(Place { first: self.first, offset });
            extent.bytes = offset + bytes.len() as u64;
        });
        *self = Gathered::default();
        Ok(())
    }
}

/// Writes the segment's records to the draft's file, reads as their hashes only, and syncs it.
fn rewrite(old: &Segment, draft: &Segment, stop: &AtomicBool) -> Result<(), HistoryError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft.path)
        .map_err(HistoryError::io("create", &draft.path))?;
    let mut out = BufWriter::new(file);
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)
        .map_err(HistoryError::io("compress for", &draft.path))?;
    let (source, mut gathered) = (old.open()?, Gathered::default());
    let mut head = (old.first.saturating_sub(1), GENESIS);
    for place in old.places()? {
        if stop.load(Relaxed) {
            let source = std::io::ErrorKind::Interrupted.into();
            return Err(HistoryError::io("prune", &old.path)(source));
        }
        let block = old.block(&source, place)?;
        for kept in block.records() {
            head = (kept.index, kept.this);
            gathered.add(&kept);
            if gathered.bytes >= BLOCK_RAW_BYTES {
                gathered.flush(&mut out, draft, &mut compressor)?;
            }
        }
    }
    gathered.flush(&mut out, draft, &mut compressor)?;
    let (last, hash) = (draft.extent().last, draft.extent().head);
    if head != (last, hash) {
        return Err(HistoryError::damaged(&old.path, 0, "it does not end with its last record"));
    }
    let file = out.into_inner().map_err(|error| error.into_error());
    file.and_then(|file| file.sync_all()).map_err(HistoryError::io("sync", &draft.path))
}
