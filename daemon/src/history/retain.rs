//! What the history keeps: its bytes, the floor that a bound asks for, dropping what lies below.
//!
//! Only whole sealed segments go, from the oldest on, and never the newest: its last record is what
//! the next one follows. A segment leaves the list before its files go, and its index file goes
//! before it; so a crash in between leaves a segment that is sealed and dropped again, or nothing.
//! The replay delivers records below the floor only to be passed over: they are older than the
//! newest one here. Which floor there is is State's to say; this module proposes one.

use super::HistoryError;
use super::append::{Segments, remove};
use super::library::Library;
use super::query::{History, Shared};
use super::seal::sync_folder;
use super::segment::{Segment, index_path};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tiebeam_proto::chain::Hash;
use tiebeam_proto::record::TreeRecord;

impl Segment {
    /// Bytes of the segment and its index file.
    fn all_bytes(&self) -> u64 {
        let extent = self.extent();
        extent.bytes + extent.sealed.as_ref().map_or(0, |sealed| sealed.bytes())
    }
}

impl Library {
    fn bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.all_bytes()).sum()
    }
}

impl Segments {
    /// Removes the sealed segments that end below `floor`; gives how many there were.
    ///
    /// # Errors
    /// What the operating system said; what is left is dropped after the next start.
    pub(super) fn drop_below(&mut self, floor: u64) -> Result<u64, HistoryError> {
        let segments = self.library.segments();
        let old = |segment: &&Arc<Segment>| segment.last() < floor && segment.sealed().is_some();
        let count = segments.iter().take_while(old).count().min(segments.len().saturating_sub(1));
        let Some(dropped) = segments.get(..count).filter(|dropped| !dropped.is_empty()) else {
            return Ok(0);
        };
        // By name: a filled gap may put a segment before them meanwhile.
        let goes = |own: &Arc<Segment>| dropped.iter().any(|other| Arc::ptr_eq(other, own));
        self.library.update(|list| list.retain(|own| !goes(own)), true);
        for segment in dropped {
            remove(&index_path(&self.library.folder, segment.first))?;
            remove(&segment.path)?;
        }
        sync_folder(&self.library.folder)?;
        tracing::info!(segments = count, floor, "history below the floor was removed");
        Ok(count as u64)
    }
}

/// Removes index files without a segment: one that was made again while its segment was dropped.
pub(super) fn remove_orphans(
    folder: &Path,
    files: &[PathBuf],
    firsts: &[u64],
) -> Result<(), HistoryError> {
    let index = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "idx");
    let owned: Vec<PathBuf> = firsts.iter().map(|first| index_path(folder, *first)).collect();
    files
        .iter()
        .filter(index)
        .filter(|path| !owned.contains(path))
        .try_for_each(|path| remove(path))
}

impl Shared {
    /// State's floor.
    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Relaxed)
    }

    /// The segments that readers see, oldest first.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        let (floor, mut segments) = (self.floor(), self.library.segments());
        segments.retain(|segment| segment.last() >= floor);
        segments
    }
}

impl History {
    /// Bytes of all segments and their index files on this node.
    pub fn bytes(&self) -> u64 {
        self.shared.library.bytes()
    }

    /// The floor with which the history would have at most `bytes_max`, as far as sealed segments
    /// go, and the hash that the record there follows; `None` if it is within its bound.
    pub fn floor_for(&self, bytes_max: u64) -> Option<(u64, Hash)> {
        let segments = self.shared.library.segments();
        let mut bytes: u64 = segments.iter().map(|segment| segment.all_bytes()).sum();
        let mut floor = None;
        for (oldest, next) in segments.iter().zip(segments.iter().skip(1)) {
            if bytes <= bytes_max || oldest.sealed().is_none() {
                break;
            }
            bytes -= oldest.all_bytes();
            floor = Some((next.first, next.extent().previous));
        }
        floor
    }

    /// The full tree of a revision: it follows the record of the job that made it. `None` if
    /// there is none, or it is not here.
    ///
    /// # Errors
    /// Damage, or what the operating system or the index said.
    pub fn full_tree(&self, revision: u64) -> Result<Option<TreeRecord>, HistoryError> {
        let Some(made) = self.revision(revision)? else {
            return Ok(None);
        };
        let next = self.record(made.link.index + 1)?;
        let tree = next.and_then(|next| serde_json::from_slice(&next.canonical).ok());
        Ok(tree.filter(|record: &TreeRecord| record.tree.revision == revision))
    }
}
