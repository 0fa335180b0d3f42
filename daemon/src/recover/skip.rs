//! `tiebeamd recover --skip-entry`: an entry that no member can apply is taken out by hand.
//!
//! In its place stands another one, made from it alone, whose effect is a record that says so. So
//! all members on which this is done hold the same log, and whoever catches up later gets it from
//! them. The log is written again beside the old one and put in its place in one step; the old one
//! is kept, for whoever looks into why the entry could not be applied.

use super::confirm::{ConfirmError, confirm};
use crate::disk::{DataDisk, SystemRng};
use crate::durable::{self, DurableError};
use crate::hygiene::{self, HygieneError};
use crate::identity::{Identity, IdentityError};
use crate::kept::{Kept, KeptError};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::path::{Path, PathBuf};
use tiebeam_core::proposal::{Body, DecodeError, Proposal};
use tiebeam_proto::canonical::hex;
use tiebeam_replica::EntryKind;
use tiebeam_replica::log::LogSettings;
use tiebeam_replica::recovery::{self, LOG_FOLDER, RecoveryError};

/// What `recover --skip-entry` was asked for.
#[derive(Clone, Debug)]
pub struct SkipEntry {
    /// The data folder.
    pub data: PathBuf,
    /// Log index of the entry.
    pub index: u64,
    /// The cluster's name; without it the terminal is asked.
    pub cluster: Option<String>,
}

/// Why the entry is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SkipError {
    /// A daemon runs on the folder, or it is not the caller's.
    #[error("the folder cannot be used now")]
    Folder(#[source] HygieneError),
    /// It is no node's.
    #[error("this is no node's data folder")]
    Identity(#[source] IdentityError),
    /// Snapshot or log cannot be read.
    #[error("snapshot and log cannot be read")]
    Kept(#[source] KeptError),
    /// The entry was applied.
    #[error("entry {index} is applied: the snapshot at index {snapshot} covers it")]
    Applied {
        /// The entry.
        index: u64,
        /// The snapshot.
        snapshot: u64,
    },
    /// There is no such entry.
    #[error("the log has no entry {index}: it ends at {last}")]
    NoEntry {
        /// The entry.
        index: u64,
        /// Where the log ends.
        last: u64,
    },
    /// The entry is none of the cluster's users.
    #[error("entry {0} changes the members or is empty: it cannot be skipped")]
    NotSkippable(u64),
    /// The operator did not agree.
    #[error("nothing was changed")]
    Confirm(#[source] ConfirmError),
    /// The new log cannot be written.
    #[error("the log cannot be written again")]
    Write(#[source] RecoveryError),
    /// A leftover cannot be removed.
    #[error("{} cannot be removed", .0.display())]
    Remove(PathBuf, #[source] std::io::Error),
    /// The logs cannot be exchanged.
    #[error("the new log cannot be put in the place of the old one")]
    Exchange(#[source] std::io::Error),
    /// The folder cannot be made durable.
    #[error("the folder cannot be synced")]
    Sync(#[source] DurableError),
}

/// What became of the entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Skipped {
    /// It is skipped from now on.
    Now {
        /// SHA-256 of the entry that stood there, hex: equal on all members.
        digest: String,
        /// The log as it was, below the data folder.
        kept: String,
    },
    /// It was skipped by an earlier run.
    Before {
        /// As above.
        digest: String,
    },
}

/// Lets the daemon pass over an entry.
///
/// # Errors
/// See [`SkipError`].
pub fn skip_entry(asked: &SkipEntry) -> Result<Skipped, SkipError> {
    let (data, index) = (&asked.data, asked.index);
    let identity = Identity::read(data).map_err(SkipError::Identity)?;
    let _lock = hygiene::take_folder(data).map_err(SkipError::Folder)?;
    let kept = Kept::read(data).map_err(SkipError::Kept)?;
    let snapshot = kept.newest_snapshot();
    if index <= snapshot {
        return Err(SkipError::Applied { index, snapshot });
    }
    let mut log = kept.log().clone();
    let last = log.last().index;
    let entry = log.entries.iter_mut().find(|entry| entry.index == index);
    let entry = entry.ok_or(SkipError::NoEntry { index, last })?;
    if entry.kind != EntryKind::Normal {
        return Err(SkipError::NotSkippable(index));
    }
    let decoded = Proposal::decode(&entry.payload);
    if let Ok(Proposal { body: Body::Skipped(skipped), .. }) = &decoded {
        return Ok(Skipped::Before { digest: skipped.digest.clone() });
    }
    let place = Proposal::in_place_of(&entry.payload);
    let digest = hex(&{
        use sha2::Digest;
        sha2::Sha256::digest(&entry.payload)
    });
    let name = kept.cluster_name().map_err(SkipError::Kept)?;
    confirm(&name, asked.cluster.as_deref(), || {
        format!(
            "node {} passes over entry {index} of term {}: {}\nsha256:{digest}\n\
             Do the same on all members before one of them starts, or their States differ.\n",
            identity.node_id,
            entry.term,
            describe(&decoded),
        )
    })
    .map_err(SkipError::Confirm)?;
    entry.payload = place.encode().into();
    let beside = format!("log-before-skip-{index}");
    replace_log(data, &beside, &log)?;
    Ok(Skipped::Now { digest, kept: beside })
}

/// What the entry is, in a few words; parameters are not shown.
fn describe(entry: &Result<Proposal, DecodeError>) -> String {
    match entry {
        Ok(Proposal { body: Body::Submit(submission), .. }) => {
            format!("{} by {}, submitted", submission.name, submission.user)
        }
        Ok(Proposal { body: Body::RunOnce(run), .. }) => {
            format!("{} by {}", run.submission.name, run.submission.user)
        }
        Ok(proposal) => format!("proposal number {}", proposal.body.number()),
        Err(error) => error.to_string(),
    }
}

/// Writes the log beside the old one, then exchanges the two names in one step.
fn replace_log(
    data: &Path,
    beside: &str,
    content: &tiebeam_replica::log::Recovered,
) -> Result<(), SkipError> {
    let (log, new) = (data.join(LOG_FOLDER), data.join(beside));
    match std::fs::remove_dir_all(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(SkipError::Remove(new, error));
        }
        Ok(()) | Err(_) => {}
    }
    let (disk, rng) = (DataDisk::new(data), Box::new(SystemRng));
    recovery::write_log(disk, beside, LogSettings::default(), rng, content)
        .map_err(SkipError::Write)?;
    crate::host::crash_point("skip.exchange.before");
    renameat_with(CWD, &new, CWD, &log, RenameFlags::EXCHANGE)
        .map_err(|error| SkipError::Exchange(error.into()))?;
    durable::sync_folder(data).map_err(SkipError::Sync)
}
