//! The hot index: what makes the newest records found before their segments are sealed.
//!
//! It is a sorted map behind a small trait; `sled` is today's engine, used as its limits demand:
//! one tree, so that a batch is atomic; no flusher of its own; `flush` followed by our own
//! fdatasync, because flush alone makes nothing durable; every call behind a catch of panics.
//! It holds no truth: whatever is wrong with it, it is dropped and made again from the segments.
//! The history thread writes it, any thread reads.
//!
//! | key | value |
//! |---|---|
//! | `b`, first record of a block | the block's outline |
//! | `j`, node, sequence / 64 | of up to 64 jobs: the last 6 bits of the sequence, the record |
//! | `a`, node, sequence, record | |
//! | `r`, revision / 64 | likewise of up to 64 revisions |
//! | `m`, name | a watermark of this node |
//!
//! Jobs and revisions share rows because a row of their own costs sled ten times as much, in time
//! and in memory, as the 9 bytes that it would hold.

use super::facts::JobId;
use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Bytes that sled may keep in memory: an idle daemon is to stay small.
const CACHE_BYTES: u64 = 4 << 20;

/// Why the hot index could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The engine refused.
    #[error("the engine refused")]
    Engine(#[source] sled::Error),
    /// The engine panicked; its files are not to be trusted any more.
    #[error("the engine panicked")]
    Panicked,
    /// Its folder could not be made, or its file not be synced.
    #[error("cannot make or sync {}", .0.display())]
    Sync(PathBuf, #[source] std::io::Error),
    /// A row is not what was written.
    #[error("a row is not what was written")]
    Row,
    /// It could not be made again and is out of use.
    #[error("it is out of use")]
    OutOfUse,
}

/// Rows to put and to remove, all of them or none.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Keys and values to put.
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys to remove.
    pub removes: Vec<Vec<u8>>,
}

/// A row: its key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// A sorted map of small rows that survives a restart.
pub trait HotIndex: Send + Sync {
    /// Writes a batch whole; it is durable after the next [`HotIndex::sync`].
    ///
    /// # Errors
    /// The engine's.
    fn write(&self, batch: Batch) -> Result<(), IndexError>;

    /// The value of a key.
    ///
    /// # Errors
    /// The engine's.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// Up to `limit` rows with `from <= key <= to`, by key, or from the last one down.
    ///
    /// # Errors
    /// The engine's.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        down: bool,
        limit: usize,
    ) -> Result<Vec<Row>, IndexError>;

    /// Makes everything written durable.
    ///
    /// # Errors
    /// The engine's or the operating system's.
    fn sync(&self) -> Result<(), IndexError>;
}

/// The hot index in sled 0.34.
pub struct SledIndex {
    db: sled::Db,
    file: PathBuf,
}

impl SledIndex {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// [`IndexError::Panicked`] if sled cannot live with its files, else sled's or the operating
    /// system's error.
    pub fn open(folder: &Path) -> Result<SledIndex, IndexError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| IndexError::Sync(folder.to_owned(), error))?;
        let db = shield(|| {
            sled::Config::default()
                .path(folder)
                .cache_capacity(CACHE_BYTES)
                .mode(sled::Mode::LowSpace)
                .flush_every_ms(None)
                .open()
        })?;
        let index = SledIndex { db, file: folder.join("db") };
        for path in [folder, folder.parent().unwrap_or(folder)] {
            sync_path(path)?;
        }
        Ok(index)
    }
}

/// Calls the engine and turns a panic of it into an error.
fn shield<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(IndexError::Engine),
        Err(_) => Err(IndexError::Panicked),
    }
}

/// Closes an index that failed; a panic of the engine in its last breath stays here.
pub(super) fn discard(index: Box<dyn HotIndex>) {
    if catch_unwind(AssertUnwindSafe(|| drop(index))).is_err() {
        tracing::warn!("the hot index panicked when it was closed");
    }
}

fn sync_path(path: &Path) -> Result<(), IndexError> {
    let synced = std::fs::File::open(path).and_then(|file| file.sync_data());
    synced.map_err(|error| IndexError::Sync(path.to_owned(), error))
}

impl HotIndex for SledIndex {
    fn write(&self, batch: Batch) -> Result<(), IndexError> {
        let mut rows = sled::Batch::default();
        batch.removes.into_iter().for_each(|key| rows.remove(key));
        batch.puts.into_iter().for_each(|(key, value)| rows.insert(key, value));
        shield(|| self.db.apply_batch(rows))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        shield(|| Ok(self.db.get(key)?.map(|value| value.to_vec())))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        down: bool,
        limit: usize,
    ) -> Result<Vec<Row>, IndexError> {
        let owned = |row: sled::Result<(sled::IVec, sled::IVec)>| {
            row.map(|(key, value)| (key.to_vec(), value.to_vec()))
        };
        shield(|| {
            let rows = self.db.range(from..=to);
            if down {
                rows.rev().take(limit).map(owned).collect()
            } else {
                rows.take(limit).map(owned).collect()
            }
        })
    }

    fn sync(&self) -> Result<(), IndexError> {
        shield(|| self.db.flush())?;
        sync_path(&self.file)
    }
}

/// The key of the outline of the block that begins with this record.
pub(super) fn outline_key(first: u64) -> Vec<u8> {
    key(b'b', &[&first.to_be_bytes()])
}

/// Numbers that share a row: a block's jobs lie in two or three rows.
const SHARED_BITS: u32 = 6;

/// A number's row, and its place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) key: Vec<u8>,
    pub(super) low: u8,
}

impl Shared {
    /// Where a job's record is noted.
    pub(super) fn job(id: JobId) -> Shared {
        let high = id.sequence >> SHARED_BITS;
        let key = key(b'j', &[&id.node.to_be_bytes(), &high.to_be_bytes()]);
        Shared { key, low: low(id.sequence) }
    }

    /// Where the record that made a revision is noted.
    pub(super) fn revision(revision: u64) -> Shared {
        let high = revision >> SHARED_BITS;
        Shared { key: key(b'r', &[&high.to_be_bytes()]), low: low(revision) }
    }
}

fn low(number: u64) -> u8 {
    (number & ((1 << SHARED_BITS) - 1)) as u8
}

/// The records noted in a shared row, by the low bits of their number.
pub(super) fn shared_row(row: &[u8]) -> BTreeMap<u8, u64> {
    let note = |note: &[u8]| Some((*note.first()?, last_number(note).ok()?));
    row.chunks_exact(9).filter_map(note).collect()
}

/// A shared row with these records.
pub(super) fn to_shared_row(notes: &BTreeMap<u8, u64>) -> Vec<u8> {
    let mut row = Vec::with_capacity(notes.len() * 9);
    for (low, index) in notes {
        row.push(*low);
        row.extend_from_slice(&index.to_be_bytes());
    }
    row
}

/// The revision that a shared row's key and low bits stand for.
pub(super) fn revision_of(key: &[u8], low: u8) -> Result<u64, IndexError> {
    Ok(last_number(key)? << SHARED_BITS | u64::from(low))
}

/// The key of an addendum.
pub(super) fn addendum_key(id: JobId, index: u64) -> Vec<u8> {
    key(b'a', &[&id.node.to_be_bytes(), &id.sequence.to_be_bytes(), &index.to_be_bytes()])
}

/// The key of a watermark.
pub(super) fn mark_key(name: &str) -> Vec<u8> {
    key(b'm', &[name.as_bytes()])
}

fn key(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(21);
    key.push(table);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// The number at the end of a key or value.
pub(super) fn last_number(bytes: &[u8]) -> Result<u64, IndexError> {
    bytes.last_chunk().map(|chunk| u64::from_be_bytes(*chunk)).ok_or(IndexError::Row)
}
