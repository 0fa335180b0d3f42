//! `tiebeamd backup`: State and history of a node, running or stopped, in one file (ruling 49).
//!
//! It works on the files alone and asks no daemon: it replays snapshot and log in its own memory up
//! to what is certainly committed, takes the segments of the history up to the snapshot, and makes
//! the records behind that itself, by the same replay. So all parts are of one index, whatever the
//! daemon writes meanwhile. A segment or a piece of log that goes away between two looks is no
//! reason to fail: it looks again.
//!
//! The keys are in it only under a passphrase. Everything else is as it lies on the node: the file
//! is its owner's alone, and whoever has it can read the configuration and the history.

pub mod file;
pub mod sealed_keys;
#[cfg(test)]
mod tests;

use crate::ca::{self, CaError};
use crate::history::export::{self, Piece};
use crate::history::{HistoryError, verify_segments};
use crate::hygiene::{self, HygieneError};
use crate::identity::{Identity, IdentityError};
use crate::kept::{Kept, KeptError, Replayed};
use crate::keys::{KeyError, Keys};
use crate::proposer::wall_now;
use file::{BackupWriter, FileError, Manifest};
use sealed_keys::SealedKeysError;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiebeam_proto::chain;

/// How often a running node's folder is looked at, and how long after the last look: what was
/// acknowledged when the command began is noted as committed within a few ticks.
const LOOKS: u32 = 50;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What `backup` was asked for.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The data folder.
    pub data: PathBuf,
    /// The file to make.
    pub to: PathBuf,
    /// A file with the passphrase; without one no key is in the backup.
    pub passphrase_file: Option<PathBuf>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The folder is not the caller's.
    #[error("the folder cannot be used")]
    Folder(#[source] HygieneError),
    /// It is no node's.
    #[error("this is no node's data folder")]
    Identity(#[source] IdentityError),
    /// Snapshot and log give no State.
    #[error("the State of this node cannot be had")]
    Kept(#[source] KeptError),
    /// The history could not be read.
    #[error("the history cannot be read")]
    History(#[source] HistoryError),
    /// The history is not whole.
    #[error("the history of this node is not whole ({0}): see `tiebeamd check`, back another up")]
    NotWhole(String),
    /// The keys cannot be read.
    #[error("the keys cannot be read")]
    Keys(#[source] KeyError),
    /// The keys cannot be sealed.
    #[error("the keys cannot be sealed")]
    Seal(#[source] SealedKeysError),
    /// The CA's certificate cannot be read.
    #[error("the CA's certificate cannot be read")]
    Certificate(#[source] CaError),
    /// An output of a command cannot be read.
    #[error("{} cannot be read", .0.display())]
    Blob(PathBuf, #[source] std::io::Error),
    /// The file cannot be written.
    #[error("there is no backup")]
    File(#[source] FileError),
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// What it is of.
    pub manifest: Manifest,
    /// The backup's digest.
    pub digest: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Entries in the log that are not in it, because they were not known to be committed.
    pub left_out: u64,
}

/// State at an index, and the history that belongs to it.
struct Gathered {
    replayed: Replayed,
    pieces: Vec<Piece>,
    left_out: u64,
}

/// Makes a backup.
///
/// # Errors
/// See [`BackupError`]; then there is no file.
pub fn backup(asked: &Backup) -> Result<Made, BackupError> {
    let data = &asked.data;
    let identity = Identity::read(data).map_err(BackupError::Identity)?;
    let keys = match &asked.passphrase_file {
        Some(file) => Some(sealed(data, file)?),
        None => None,
    };
    let mut writer = BackupWriter::create(&asked.to, wall_now()).map_err(BackupError::File)?;
    // Of a stopped node the lock is held to the end, of a running one the daemon has it.
    let lock = match hygiene::take_folder(data) {
        Ok(lock) => Some(lock),
        Err(HygieneError::InUse { .. }) => None,
        Err(error) => return Err(BackupError::Folder(error)),
    };
    let gathered = gather(data, identity.raft_id(), lock.is_none())?;
    let Gathered { replayed, pieces, left_out } = gathered;
    let state = &replayed.state;
    let add = |result: Result<(), FileError>| result.map_err(BackupError::File);
    add(writer.bytes(file::STATE, &tiebeam_core::snapshot::encode(state)))?;
    for piece in pieces {
        add(writer.read(&format!("{}{}", file::HISTORY, piece.name), piece.file, piece.bytes))?;
    }
    let mut lines = Vec::new();
    for record in &replayed.records {
        lines.extend_from_slice(&record.canonical);
        lines.push(b'\n');
    }
    add(writer.bytes(file::RECORDS, &lines))?;
    add_blobs(data, &mut writer)?;
    let ca = ca::read_certificate(data, ca::CA_CERTIFICATE).map_err(BackupError::Certificate)?;
    add(writer.bytes(file::CA, ca.as_bytes()))?;
    if let Some(sealed) = &keys {
        add(writer.bytes(file::KEYS, sealed))?;
    }
    let manifest = manifest(&identity, &replayed, keys.is_some());
    let (manifest, digest, bytes) = writer.finish(manifest).map_err(BackupError::File)?;
    drop(lock);
    Ok(Made { manifest, digest, bytes, left_out })
}

fn sealed(data: &Path, passphrase_file: &Path) -> Result<Vec<u8>, BackupError> {
    let passphrase = sealed_keys::passphrase(passphrase_file).map_err(BackupError::Seal)?;
    let keys = Keys::load(data).map_err(BackupError::Keys)?;
    sealed_keys::seal(&keys.cluster, keys.authority_key(), &passphrase).map_err(BackupError::Seal)
}

fn manifest(identity: &Identity, replayed: &Replayed, keys: bool) -> Manifest {
    let state = &replayed.state;
    Manifest {
        format: file::FORMAT,
        made: wall_now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: state.cluster.id.clone(),
        cluster: state.cluster.name.clone(),
        incarnation: state.cluster.incarnation,
        node: identity.node_id,
        index: state.applied,
        revision: state.revision,
        root: chain::to_text(&state.config.hash()),
        chain_index: state.chain.index,
        chain_head: chain::to_text(&state.chain.head),
        segments_to: replayed.from.index,
        segments_head: chain::to_text(&replayed.from.head),
        keys,
        parts: Vec::new(),
    }
}

/// Looks until State is there with everything that was in the log at the first look, or until it
/// is clear that this node will not know of it.
fn gather(data: &Path, own: u64, running: bool) -> Result<Gathered, BackupError> {
    let mut wanted = None;
    for nth in 1.. {
        let last_look = !running || nth >= LOOKS;
        match look(data, own) {
            Ok((gathered, last)) => {
                let wanted = *wanted.get_or_insert(last);
                if last_look || gathered.replayed.state.applied >= wanted {
                    return Ok(gathered);
                }
            }
            Err(error) if last_look => return Err(error),
            Err(_) => {}
        }
        std::thread::sleep(LOOK_EVERY);
    }
    unreachable!("the loop ends with the last look")
}

fn look(data: &Path, own: u64) -> Result<(Gathered, u64), BackupError> {
    let kept = Kept::read(data).map_err(BackupError::Kept)?;
    let replayed = kept.newest_committed(own).map_err(BackupError::Kept)?;
    let pieces = history(data, &replayed)?;
    let last = kept.last();
    let left_out = last.saturating_sub(replayed.state.applied);
    Ok((Gathered { replayed, pieces, left_out }, last))
}

/// The files of the history up to the snapshot, which were checked: a backup of damage is none.
fn history(data: &Path, replayed: &Replayed) -> Result<Vec<Piece>, BackupError> {
    let (folder, from) = (data.join("history"), replayed.from);
    if from.index == 0 {
        return Ok(Vec::new());
    }
    let pieces = export::pieces(&folder, from.index).map_err(BackupError::History)?;
    let mut report = verify_segments(&folder, Some(from.index)).map_err(BackupError::History)?;
    report.require(from.floor_index, from.index);
    if let Some(problem) = report.problems.first() {
        return Err(BackupError::NotWhole(format!("{}: {}", problem.path.display(), problem.what)));
    }
    if let Some((from, to)) = report.gaps.first() {
        return Err(BackupError::NotWhole(format!("records {from} to {to} are missing")));
    }
    if report.head != chain::to_text(&from.head) {
        return Err(BackupError::NotWhole("it is another one than State's".to_owned()));
    }
    Ok(pieces)
}

/// Adds the outputs of commands that records name but do not hold.
fn add_blobs(data: &Path, writer: &mut BackupWriter) -> Result<(), BackupError> {
    let folder = data.join("blobs");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| BackupError::Blob(path, error)
    };
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed(&folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed(&folder))?.file_name();
        names.extend(name.into_string().ok().filter(|name| is_digest(name)));
    }
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let file = match File::open(&path) {
            // Its job left the history meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            file => file.map_err(failed(&path))?,
        };
        let bytes = file.metadata().map_err(failed(&path))?.len();
        let part = format!("{}{name}", file::BLOBS);
        writer.read(&part, file, bytes).map_err(BackupError::File)?;
    }
    Ok(())
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
