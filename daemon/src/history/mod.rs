//! The history: every final record, in chain order, kept for good and found again.
//!
//! It owns `<data>/history/` (segments of compressed blocks, and for each sealed segment an index
//! file) and `<data>/index/` (the hot index). Apply's effects reach it as [`Archived`] records
//! through [`HistoryHandle`]; one thread writes; any thread reads through [`History`], and sees a
//! record from the moment it was handed over. It decides nothing about records: their order, hashes
//! and the floor are State's (rulings 15 and 16).
//!
//! ```text
//! archive() ─► pending (memory, bounded) ─► segment block ─► hot index ─► sealed segment's index
//!                  └───────────── readers look here, left to right ──────────────┘
//! ```
//!
//! What is truth: the segments alone. The hot index and the index files are made again from them
//! when they are missing, damaged or ahead. What is durable: everything up to
//! [`Metrics::durable`]; what lies above is delivered again by the replay of the raft log.
//!
//! **Extents.** A segment is named by its first record, and each block says what its records
//! follow, so a history may have gaps: a node that was given a snapshot appends behind State's
//! head while older records are still missing. [`History::gaps`] names them. They are filled from a
//! peer with [`HistoryHandle::fill`], newest first, each parcel verified against the hash that
//! follows it, and become segments like all others.
//!
//! **The floor** is State's: from the moment a cut is applied, readers see nothing below it. The
//! files go later, when a snapshot that holds the floor is durable, in whole sealed segments.
//!
//! **Records of reads** are pruned below another index of State: hidden at once, taken out of
//! sealed segments later (`prune`). What is left of each is its hash.
//!
//! Caveats. Rot in the last group that was written, together with a power cut, looks like a torn
//! tail and is cut; the replay delivers it again. A search passes over a bounded number of records
//! per page, so a page may be short, or empty, and still have a cursor.
//!
//! Side: persist. What cannot be written stops the thread, and with it every acknowledgement that
//! waits for it; what cannot be read is an error with the file and the place.
//!
//! [`Archived`]: tiebeam_proto::record::Archived

mod append;
mod block;
pub mod export;
mod facts;
mod fill;
mod gap;
mod hot;
mod index;
mod library;
mod outline;
mod prune;
mod query;
mod queue;
mod recover;
mod retain;
mod seal;
mod sealed;
mod search;
mod segment;
mod thread;
mod transfer;
mod verify;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use append::Opened;
pub use facts::{Facts, JobId, Subject};
pub use fill::{Filled, Misfit};
pub use index::{Batch, HotIndex, IndexError, Row, SledIndex};
pub use query::{History, Linked, Revisions};
pub use search::{Filter, PAGE_RECORDS_MAX, Page, Request};
pub use thread::{HistoryHandle, HistoryThread, Metrics, Start};
pub use transfer::{PARCEL_BYTES, Parcel, ParcelError};
pub use verify::{Problem, Report, verify_behind, verify_segments};

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A segment is sealed when it has this many bytes: a few seconds' work to check or to index, and
/// a few hundred files at the history's bound of 20 GiB.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Bytes of records in one block: enough for zstd to see what records share, little enough that
/// a look-up decompresses for about 0.1 ms.
pub const BLOCK_RAW_BYTES: usize = 128 << 10;

/// Why the history could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The operating system refused something.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what was written to it.
    #[error("{} is damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A record that is here already has another hash: two histories, or damage in State.
    #[error("record {index} is in the history with another hash")]
    Forked {
        /// The record.
        index: u64,
    },
    /// A record does not follow the newest one.
    #[error("record {index} was delivered where {expected} is next")]
    OutOfOrder {
        /// What came.
        index: u64,
        /// What was due.
        expected: u64,
    },
    /// A record's link is not two hashes in their text form.
    #[error("the link of record {index} holds something that is no hash")]
    NoLink {
        /// The record.
        index: u64,
    },
    /// What a peer sent for a gap is not what belongs there.
    #[error("a parcel of records does not fit")]
    Misfit(#[source] Misfit),
    /// The hot index failed.
    #[error("the hot index failed")]
    Index(#[source] IndexError),
    /// A filter asks for something that cannot be.
    #[error("`{field}` is not valid: {reason}")]
    BadFilter {
        /// The key of the filter.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A filter asks for something that a later version brings (ruling 24).
    #[error("`{0}` is not built yet")]
    NotInThisVersion(&'static str),
    /// The thread has stopped, and why.
    #[error("the history has stopped: {0}")]
    Stopped(Arc<str>),
}

impl HistoryError {
    /// For `map_err` on an operation of the operating system.
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> HistoryError {
        let path = path.to_owned();
        move |source| HistoryError::Io { operation, path, source }
    }

    fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> HistoryError {
        HistoryError::Damaged { path: path.to_owned(), offset, what: what.into() }
    }
}

/// An error and what caused it, in one line, for places that keep only text.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
