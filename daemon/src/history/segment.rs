//! One segment file: where its blocks are, and how they are read.
//!
//! A segment grows until it is sealed; then it never changes, and its index file knows its blocks.
//! Reading is by position (`pread`), so it needs no lock against the writer: what is in the block
//! table was written whole. The writer is [`super::append`].

use super::block::{Block, HEADER_BYTES, Header};
use super::sealed::Sealed;
use super::{HistoryError, recover, seal};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tiebeam_proto::chain::Hash;

/// Where a block begins, and with which record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) first: u64,
    pub(super) offset: u64,
}

/// What changes about a segment while it grows.
#[derive(Clone, Debug)]
pub(super) struct Extent {
    /// The hash that the first record follows.
    pub(super) previous: Hash,
    /// Index of the last record; one less than the first while there is none.
    pub(super) last: u64,
    /// The hash of the last record.
    pub(super) head: Hash,
    /// Bytes of whole blocks.
    pub(super) bytes: u64,
    /// Every block, oldest first; empty once the segment is sealed.
    pub(super) places: Vec<Place>,
    /// The index file, once the segment is sealed.
    pub(super) sealed: Option<Arc<Sealed>>,
}

/// A segment of the history.
#[derive(Debug)]
pub(super) struct Segment {
    /// Index of its first record: its name.
    pub(super) first: u64,
    pub(super) path: PathBuf,
    extent: RwLock<Extent>,
}

/// The file of the segment that begins with this record.
pub(super) fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.seg"))
}

/// The index file of the segment that begins with this record.
pub(super) fn index_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.idx"))
}

impl Segment {
    pub(super) fn new(folder: &Path, first: u64, extent: Extent) -> Segment {
        Segment::at(segment_path(folder, first), first, extent)
    }

    /// A segment in a file of another name: one that is being made.
    pub(super) fn at(path: PathBuf, first: u64, extent: Extent) -> Segment {
        Segment { first, path, extent: RwLock::new(extent) }
    }

    /// A look at what changes; held for a few instructions only.
    pub(super) fn extent(&self) -> RwLockReadGuard<'_, Extent> {
        // The lock guards plain fields, which no panic leaves half written.
        self.extent.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what changes.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Extent) -> T) -> T {
        change(&mut self.extent.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Index of the last record.
    pub(super) fn last(&self) -> u64 {
        self.extent().last
    }

    /// The index file, if the segment is sealed.
    pub(super) fn sealed(&self) -> Option<Arc<Sealed>> {
        self.extent().sealed.clone()
    }

    /// Opens the file for reading.
    pub(super) fn open(&self) -> Result<File, HistoryError> {
        File::open(&self.path).map_err(HistoryError::io("open", &self.path))
    }

    /// Where the block with this record begins.
    pub(super) fn place(&self, index: u64) -> Result<Option<Place>, HistoryError> {
        {
            let extent = self.extent();
            if index < self.first || index > extent.last {
                return Ok(None);
            }
            if extent.sealed.is_none() {
                let after = extent.places.partition_point(|place| place.first <= index);
                return Ok(after.checked_sub(1).and_then(|at| extent.places.get(at)).copied());
            }
        }
        self.index()?.map_or(Ok(None), |sealed| sealed.place(index))
    }

    /// Every block's place, oldest first.
    pub(super) fn places(&self) -> Result<Vec<Place>, HistoryError> {
        match self.index()? {
            Some(sealed) => sealed.places(),
            None => Ok(self.extent().places.clone()),
        }
    }

    /// Reads the block at this place.
    pub(super) fn block(&self, file: &File, place: Place) -> Result<Block, HistoryError> {
        let header = self.header(file, place.offset)?;
        if header.first != place.first {
            return Err(HistoryError::damaged(&self.path, place.offset, "another block is here"));
        }
        let mut stored = vec![0; header.stored_bytes as usize];
        file.read_exact_at(&mut stored, place.offset + HEADER_BYTES as u64)
            .map_err(HistoryError::io("read", &self.path))?;
        Block::decode(&header, &stored)
            .map_err(|what| HistoryError::damaged(&self.path, place.offset, what))
    }

    fn header(&self, file: &File, offset: u64) -> Result<Header, HistoryError> {
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, offset).map_err(HistoryError::io("read", &self.path))?;
        let left = self.extent().bytes.saturating_sub(offset);
        Header::read(&bytes)
            .filter(|header| header.file_bytes() <= left)
            .ok_or_else(|| HistoryError::damaged(&self.path, offset, "no block begins here"))
    }

    /// The index file, if the segment is sealed, checked once for every bit of it. A damaged one
    /// is made again from the segment, for it is no truth of its own.
    pub(super) fn index(&self) -> Result<Option<Arc<Sealed>>, HistoryError> {
        let Some(sealed) = self.sealed() else {
            return Ok(None);
        };
        if sealed.check().is_ok() {
            return Ok(Some(sealed));
        }
        tracing::warn!(path = %self.path.display(), "index file damaged; it is made again");
        let scan = recover::scan(&self.path, self.first, false)?;
        let never = std::sync::atomic::AtomicBool::new(false);
        let again = Arc::new(seal::build(self, &scan.places, &never)?);
        self.update(|extent| extent.sealed = Some(Arc::clone(&again)));
        Ok(Some(again))
    }

    /// Makes a sealed segment grow again: its block table comes back into memory.
    pub(super) fn unseal(&self) -> Result<(), HistoryError> {
        if self.sealed().is_some() {
            let scan = recover::scan(&self.path, self.first, false)?;
            self.update(|extent| {
                extent.places = scan.places;
                extent.sealed = None;
            });
        }
        Ok(())
    }
}
