//! What can be wrong with a log, and how it is told: damage, findings of a check, errors.
//!
//! Values only. Wording here is read by operators: a path, a place, what it means.

use crate::entry::Mark;
use crate::seams::DiskError;

/// Why a log is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageReason {
    /// A record that had been durable is invalid.
    RecordInvalid,
    /// Neither head sector can be read.
    HeadsUnreadable,
    /// The segment has another format: nothing is wrong with it, but a later version wrote it.
    Format,
    /// A segment between two others is gone.
    SegmentMissing,
    /// Valid records in an order that no writer makes.
    OutOfOrder,
}

/// Damage: bytes that had been durable and are not what they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Path of the segment.
    pub path: String,
    /// Offset of the first byte in doubt.
    pub offset: u64,
    /// What is wrong there.
    pub reason: DamageReason,
    /// The log is intact up to here.
    pub intact_to: Mark,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.reason {
            DamageReason::RecordInvalid => "a record that had been durable is invalid",
            DamageReason::HeadsUnreadable => "both head sectors are unreadable",
            DamageReason::Format => {
                "a later version wrote it, in a format that this one cannot read"
            }
            DamageReason::SegmentMissing => "the segment is missing",
            DamageReason::OutOfOrder => "records are out of order",
        };
        let Damage { path, offset, intact_to, .. } = self;
        write!(out, "{path} at byte {offset}: {what}; intact up to index {}", intact_to.index)
    }
}

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingKind {
    /// Worth knowing, harmless.
    Note,
    /// The end of a write that was never acknowledged; the next start cuts it.
    TornTail,
    /// One of two head sectors is unreadable; the next groups write it again.
    HeadUnreadable,
    /// A snapshot is unreadable, an older one may serve.
    SnapshotUnreadable,
    /// Acknowledged bytes are lost: the node must not vote.
    Damage,
}

/// Something that an offline check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub kind: FindingKind,
    /// File.
    pub path: String,
    /// Offset in the file.
    pub offset: u64,
    /// A sentence for the operator.
    pub what: String,
}

/// Why the log could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Reading or preparing the folder at start failed.
    #[error("the log in {folder} could not be opened")]
    Open {
        /// The log's folder.
        folder: String,
        /// What failed.
        #[source]
        source: DiskError,
    },
    /// A group could not be written. The log is poisoned.
    #[error("a group could not be written to {path}")]
    Append {
        /// The segment.
        path: String,
        /// What failed.
        #[source]
        source: DiskError,
    },
    /// A group could not be made durable. The log is poisoned.
    #[error("{path} could not be synced")]
    Persist {
        /// The segment.
        path: String,
        /// What failed.
        #[source]
        source: DiskError,
    },
    /// An earlier write or sync failed; nothing more is written until the process ends.
    #[error("the log is poisoned by an earlier failure")]
    Poisoned,
    /// A prefix could not be dropped. Nothing is lost.
    #[error("old segments could not be dropped")]
    Compact(#[source] DiskError),
    /// The next segment could not be prepared. Nothing is lost.
    #[error("the next segment could not be prepared")]
    Prepare(#[source] DiskError),
}
