//! The segments as readers see them: which there are, and their blocks through a small cache.
//!
//! The list changes only when a segment begins, is sealed, is dropped, or when a
//! tail is cut at the opening.
//! The cache holds a few decompressed blocks: the newest ones, which the writer puts there, and
//! those that were read last. Any thread may read.

use super::HistoryError;
use super::block::Block;
use super::segment::Segment;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use tiebeam_proto::record::Archived;

/// Bytes of decompressed blocks that are kept: an idle daemon is to stay small.
const CACHE_BYTES: usize = 2 << 20;

/// All segments of one history folder.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) folder: PathBuf,
    segments: RwLock<Vec<Arc<Segment>>>,
    /// Most recently used first.
    cache: Mutex<VecDeque<Arc<Block>>>,
    /// Held while files of sealed segments are read, and to put others in their place.
    files: RwLock<()>,
}

impl Library {
    /// The segments, oldest first.
    pub(super) fn new(folder: PathBuf, segments: Vec<Arc<Segment>>) -> Library {
        let (segments, cache) = (RwLock::new(segments), Mutex::default());
        Library { folder, segments, cache, files: RwLock::new(()) }
    }

    /// While it is held, no sealed segment changes its files: to be taken before the list of
    /// segments is looked at, and not twice by one thread.
    pub(super) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to change files of sealed segments, if nobody reads just now. Nobody ever waits
    /// in line for it: readers would have to wait behind.
    pub(super) fn try_changing(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.files.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The segments as they are now, oldest first.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the list. The cache forgets everything if records may have gone.
    pub(super) fn update(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>), forget: bool) {
        change(&mut self.segments.write().unwrap_or_else(PoisonError::into_inner));
        if forget {
            self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// The segment that would hold this record.
    pub(super) fn segment(&self, index: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.first <= index);
        after.checked_sub(1).and_then(|at| segments.get(at)).cloned()
    }

    /// The block with this record; `None` if the record is not here.
    pub(super) fn block(&self, index: u64) -> Result<Option<Arc<Block>>, HistoryError> {
        if let Some(block) = self.cached(index) {
            return Ok(Some(block));
        }
        let _reading = self.reading();
        let Some(segment) = self.segment(index) else {
            return Ok(None);
        };
        match self.read(&segment, index) {
            // It was dropped while we looked: its files go after it has left the list.
            Err(_) if !self.has(&segment) => Ok(None),
            read => read,
        }
    }

    fn read(&self, segment: &Segment, index: u64) -> Result<Option<Arc<Block>>, HistoryError> {
        let Some(place) = segment.place(index)? else {
            return Ok(None);
        };
        let block = Arc::new(segment.block(&segment.open()?, place)?);
        self.remember(Arc::clone(&block));
        Ok(Some(block))
    }

    fn has(&self, segment: &Arc<Segment>) -> bool {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().any(|other| Arc::ptr_eq(other, segment))
    }

    /// The record with this index; `None` if it is not here or was pruned.
    pub(super) fn record(&self, index: u64) -> Result<Option<Archived>, HistoryError> {
        let block = self.block(index)?;
        Ok(block.and_then(|block| block.kept(index)?.archived()))
    }

    fn cached(&self, index: u64) -> Option<Arc<Block>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let at = cache.iter().position(|b| b.first <= index && index <= b.last())?;
        let block = cache.remove(at)?;
        cache.push_front(Arc::clone(&block));
        Some(block)
    }

    /// Puts a block into the cache and drops the least recently used ones over its limit.
    pub(super) fn remember(&self, block: Arc<Block>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if !cache.iter().any(|other| other.first == block.first) {
            cache.push_front(block);
        }
        let mut bytes: usize = cache.iter().map(|block| block.bytes()).sum();
        while bytes > CACHE_BYTES && cache.len() > 1 {
            bytes -= cache.pop_back().map_or(0, |block| block.bytes());
        }
    }
}
