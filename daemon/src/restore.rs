//! `tiebeamd restore`: a new cluster of one node from a backup (rulings 35 and 49).
//!
//! The node is a new one, with keys and a certificate of its own; State and history are those of
//! the backup; the incarnation is the next one, so that no id or revision that was given away after
//! the backup is given away again. Others join it afterwards like any node. What the backup holds
//! is checked before anything is written, and the history once more when it lies in its place. As
//! with `init`, the identity comes last: a folder without one is no node.

use crate::backup::file::{self, CheckedBackup, FileError};
use crate::backup::sealed_keys::{self, OpenedKeys, SealedKeysError};
use crate::ca::{self, CaError};
use crate::disk::{DataDisk, SystemRng};
use crate::durable::{self, DurableError};
use crate::history::{HistoryError, HistoryThread, Start, verify_segments};
use crate::identity::{self, Identity, IdentityError};
use crate::init::{Init, InitError, check_empty, check_names};
use crate::keys::{ClusterKeys, KeyError, Keys};
use crate::proposer::wall_now;
use crate::recover::confirm::os_user;
use crate::recover::write_certificates;
use crate::settings::{self, Settings};
use crate::space::Space;
use serde_json::{Map, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tiebeam_core::State;
use tiebeam_core::apply::incarnate::{Cause, Incarnation};
use tiebeam_core::member::incarnation;
use tiebeam_core::snapshot::SnapshotError as StateError;
use tiebeam_core::tree::TreeError;
use tiebeam_proto::chain::{self, Head};
use tiebeam_proto::record::Archived;
use tiebeam_replica::Mark;
use tiebeam_replica::log::LogSettings;
use tiebeam_replica::membership::Membership;
use tiebeam_replica::recovery::{self, RecoveryError};
use tiebeam_replica::snapshot::SnapshotMeta;

/// What `restore` was asked for.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The backup.
    pub from: PathBuf,
    /// The data folder; must be empty or not exist.
    pub data: PathBuf,
    /// The new node's id.
    pub node_id: u32,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What others are told, if it is not that.
    pub advertise: Option<String>,
    /// A file with the backup's passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Whether to go on without the cluster's keys.
    pub without_secrets: bool,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something in the folder.
    #[error("{} is not empty: restore makes a new node and destroys nothing", .0.display())]
    NotEmpty(PathBuf),
    /// A name does not fit, or the folder cannot be used.
    #[error("the node cannot be made")]
    Node(#[source] InitError),
    /// The backup cannot be read.
    #[error("the backup cannot be used")]
    File(#[source] FileError),
    /// The backup has no keys.
    #[error(
        "there are no keys in this backup: it was made without a passphrase. The secrets in its \
         configuration cannot be opened; --without-secrets takes them out, and makes a new CA"
    )]
    NoKeys,
    /// There is no passphrase.
    #[error(
        "the keys in this backup need their passphrase: give --passphrase-file, or \
         --without-secrets to go on without the secrets and with a new CA"
    )]
    NoPassphrase,
    /// The keys cannot be opened.
    #[error("the keys cannot be opened")]
    Open(#[source] SealedKeysError),
    /// The keys cannot be written.
    #[error("the keys cannot be written")]
    Keys(#[source] KeyError),
    /// Certificates cannot be made.
    #[error("the certificates cannot be made")]
    Certificates(#[source] CaError),
    /// A part that must be there is not.
    #[error("the backup has no part {0}")]
    NoPart(&'static str),
    /// State cannot be read.
    #[error("the State in the backup cannot be read")]
    State(#[source] StateError),
    /// The parts are not of one index.
    #[error("the parts of the backup do not fit each other: {0}")]
    Unfit(&'static str),
    /// The node id was used up.
    #[error("node id {0} has joined 65535 times: take another one")]
    UsedUp(u32),
    /// The configuration does not take the new node.
    #[error("the configuration cannot be changed")]
    Config(#[source] TreeError),
    /// A file cannot be unpacked.
    #[error("cannot write {}", .0.display())]
    Unpack(PathBuf, #[source] io::Error),
    /// The history cannot be written.
    #[error("the history cannot be written")]
    History(#[source] HistoryError),
    /// The history is not what it was.
    #[error("the history does not verify after it was unpacked: {0}")]
    Broken(String),
    /// A file cannot be written.
    #[error("a file cannot be written")]
    Write(#[source] DurableError),
    /// The first snapshot or log cannot be written.
    #[error("the first snapshot and log cannot be written")]
    Replica(#[source] RecoveryError),
    /// The identity cannot be written.
    #[error("the identity cannot be written")]
    Identity(#[source] IdentityError),
}

impl From<FileError> for RestoreError {
    fn from(error: FileError) -> RestoreError {
        RestoreError::File(error)
    }
}

/// What was made.
#[derive(Debug)]
pub struct Restored {
    /// What the backup was of.
    pub manifest: file::Manifest,
    /// Its digest.
    pub digest: String,
    /// The first State of the new incarnation.
    pub state: State,
    /// Whether there is a new CA, whose certificate clients need.
    pub new_ca: bool,
    /// The CA's certificate file.
    pub ca_file: PathBuf,
}

/// Makes a new node from a backup.
///
/// # Errors
/// See [`RestoreError`]; what was begun is left in the folder, which a second run refuses.
pub fn restore(asked: &Restore) -> Result<Restored, RestoreError> {
    let backup = CheckedBackup::open(&asked.from)?;
    check_node(asked, &backup)?;
    let opened = open_keys(asked, &backup)?;
    let body = backup.part(file::STATE)?.ok_or(RestoreError::NoPart(file::STATE))?;
    let mut state = tiebeam_core::snapshot::decode(&body).map_err(RestoreError::State)?;
    drop(body);
    let records = check_parts(&backup, &state)?;
    let raft_id = state.next_raft_id(asked.node_id);
    if incarnation(raft_id) == u16::MAX {
        return Err(RestoreError::UsedUp(asked.node_id));
    }
    let data = &asked.data;
    durable::make_folder(data, 0o700).map_err(RestoreError::Write)?;
    let identity = Identity {
        format: identity::FORMAT,
        cluster_id: state.cluster.id.clone(),
        node_id: asked.node_id,
        incarnation: u32::from(incarnation(raft_id)),
        name: asked.name.clone(),
    };
    let settings = Settings {
        listen: asked.listen,
        advertise: asked.advertise.clone(),
        ..Settings::default()
    };
    let (keys, new_ca) = make_keys(data, &backup, opened, (&identity, &settings))?;
    unpack(data, &backup)?;
    let new = incarnation_of(asked, &backup, &state, (&keys, &settings))?;
    let from = head(&backup.manifest.segments_head, backup.manifest.segments_to)?;
    let made = state.begin_incarnation(&new).map_err(RestoreError::Config)?;
    write_history(data, from, records.into_iter().chain(made), &state)?;
    let mark = Mark { index: state.applied, term: state.term };
    let meta = SnapshotMeta { mark, membership: Membership::of_voters([identity.raft_id()]) };
    let body = tiebeam_core::snapshot::encode(&state);
    let (disk, rng) = (DataDisk::new(data), Box::new(SystemRng));
    recovery::bootstrap(disk, LogSettings::default(), rng, meta, &body)
        .map_err(RestoreError::Replica)?;
    let text = settings::text::file_text(&settings);
    durable::write_new(&data.join(settings::FILE), text.as_bytes(), 0o600)
        .map_err(RestoreError::Write)?;
    // As with `init`: if there is no room to set aside, the node says so when it runs.
    Space::new(data).measure(&settings.disk);
    identity.write_once(data).map_err(RestoreError::Identity)?;
    let ca_file = data.join(crate::keys::FOLDER).join(ca::CA_CERTIFICATE);
    let CheckedBackup { manifest, digest, .. } = backup;
    Ok(Restored { manifest, digest, state, new_ca, ca_file })
}

fn check_node(asked: &Restore, backup: &CheckedBackup) -> Result<(), RestoreError> {
    let as_init = Init {
        data: asked.data.clone(),
        node_id: asked.node_id,
        name: asked.name.clone(),
        listen: asked.listen,
        advertise: asked.advertise.clone(),
        cluster: backup.manifest.cluster.clone(),
        admin_password_file: None,
    };
    let checked = check_names(&as_init).and_then(|()| check_empty(&asked.data));
    checked.map_err(|error| match error {
        InitError::NotEmpty(folder) => RestoreError::NotEmpty(folder),
        other => RestoreError::Node(other),
    })
}

/// The cluster's keys; `None` if it goes on without.
fn open_keys(asked: &Restore, backup: &CheckedBackup) -> Result<Option<OpenedKeys>, RestoreError> {
    if asked.without_secrets {
        return Ok(None);
    }
    let sealed = backup.part(file::KEYS)?.ok_or(RestoreError::NoKeys)?;
    let file = asked.passphrase_file.as_ref().ok_or(RestoreError::NoPassphrase)?;
    let passphrase = sealed_keys::passphrase(file).map_err(RestoreError::Open)?;
    sealed_keys::open(&sealed, &passphrase).map(Some).map_err(RestoreError::Open)
}

/// Compares State with the manifest, and gives the records behind the segments, linked to the
/// newest one there: they lead to State's own head, or the backup is not of one index.
fn check_parts(backup: &CheckedBackup, state: &State) -> Result<Vec<Archived>, RestoreError> {
    let manifest = &backup.manifest;
    let says = (manifest.index, manifest.revision, manifest.chain_index);
    if says != (state.applied, state.revision, state.chain.index) {
        return Err(RestoreError::Unfit("State is of another index than the manifest"));
    }
    let mut at = head(&manifest.segments_head, manifest.segments_to)?;
    let lines = backup.part(file::RECORDS)?.ok_or(RestoreError::NoPart(file::RECORDS))?;
    let records: Vec<Archived> = lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| Archived { link: at.extend(line), canonical: line.into() })
        .collect();
    if at != (Head { index: state.chain.index, hash: state.chain.head }) {
        return Err(RestoreError::Unfit("the history does not lead to State's newest record"));
    }
    Ok(records)
}

fn head(hash: &str, index: u64) -> Result<Head, RestoreError> {
    let hash = chain::from_text(hash).ok_or(RestoreError::Unfit("a hash is none"))?;
    Ok(Head { index, hash })
}

/// Writes keys and certificates; says whether the CA is a new one.
fn make_keys(
    data: &Path,
    backup: &CheckedBackup,
    opened: Option<OpenedKeys>,
    node: (&Identity, &Settings),
) -> Result<(Keys, bool), RestoreError> {
    let (cluster, ca_key) = match opened {
        Some(opened) => (opened.cluster, opened.ca_key),
        None => (ClusterKeys::generate().map_err(RestoreError::Keys)?, None),
    };
    let certificate = backup.part(file::CA)?.ok_or(RestoreError::NoPart(file::CA))?;
    let certificate = String::from_utf8_lossy(&certificate).into_owned();
    let ca_key = ca_key.filter(|key| ca::is_key_of(key, &certificate));
    let new_ca = ca_key.is_none();
    let keys = Keys::adopt(data, cluster, ca_key).map_err(RestoreError::Keys)?;
    if !new_ca {
        ca::write_certificate(data, ca::CA_CERTIFICATE, &certificate)
            .map_err(RestoreError::Certificates)?;
    }
    let ca_key = keys.authority_key().ok_or(RestoreError::NoKeys)?;
    write_certificates(data, &keys, ca_key, node, new_ca).map_err(RestoreError::Certificates)?;
    Ok((keys, new_ca))
}

/// Puts the files of the history and the outputs of commands into their places.
fn unpack(data: &Path, backup: &CheckedBackup) -> Result<(), RestoreError> {
    for folder in ["history", "blobs"] {
        durable::make_folder(&data.join(folder), 0o700).map_err(RestoreError::Write)?;
    }
    backup.each(&mut |name, reader| {
        if !name.starts_with(file::HISTORY) && !name.starts_with(file::BLOBS) {
            return Ok(());
        }
        // A name that a backup has is a plain one below its folder: the check saw to that.
        let path = data.join(name);
        write_file(&path, reader).map_err(|error| RestoreError::Unpack(path, error))
    })?;
    for folder in ["history", "blobs"] {
        durable::sync_folder(&data.join(folder)).map_err(RestoreError::Write)?;
    }
    Ok(())
}

fn write_file(path: &Path, reader: &mut dyn Read) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file: File = options.write(true).create_new(true).mode(0o600).open(path)?;
    io::copy(reader, &mut file)?;
    file.sync_all()
}

fn incarnation_of(
    asked: &Restore,
    backup: &CheckedBackup,
    state: &State,
    (keys, settings): (&Keys, &Settings),
) -> Result<Incarnation, RestoreError> {
    let manifest = &backup.manifest;
    let made = manifest.made.to_rfc3339();
    let mut facts = Map::new();
    facts.insert("backup".into(), json!(backup.digest));
    facts.insert("backup_index".into(), json!(manifest.index));
    facts.insert("backup_made".into(), json!(made));
    facts.insert("backup_node".into(), json!(manifest.node));
    facts.insert("without_secrets".into(), json!(asked.without_secrets));
    Ok(Incarnation {
        cause: Cause::Restored,
        term: state.term + 1,
        node: asked.node_id,
        name: asked.name.clone(),
        address: settings.advertised(),
        key_hash: ca::key_hash(&keys.node_key).map_err(RestoreError::Certificates)?,
        by: os_user(),
        wall: wall_now(),
        reason: format!("restored from the backup of {made}"),
        facts,
        floor: None,
        forget_secrets: asked.without_secrets,
    })
}

/// Appends the records behind the segments and those of the new incarnation, then checks all of
/// it across the seam.
fn write_history(
    data: &Path,
    from: Head,
    records: impl Iterator<Item = Archived>,
    state: &State,
) -> Result<(), RestoreError> {
    let failed = RestoreError::History;
    let thread = HistoryThread::spawn(&Start::at(data, Some(from))).map_err(failed)?;
    let missing = thread.opened.missing;
    let written = (|| {
        for record in records {
            thread.handle.archive(record)?;
        }
        thread.handle.sync_to(state.chain.index)
    })();
    let stopped = thread.stop();
    written.map_err(failed)?;
    stopped.map_err(failed)?;
    if let Some((from, to)) = missing {
        return Err(RestoreError::Broken(format!("records {from} to {to} are missing")));
    }
    let mut report = verify_segments(&data.join("history"), None).map_err(failed)?;
    report.require(state.chain.floor_index, state.chain.index);
    if let Some(problem) = report.problems.first() {
        let what = format!("{}: {}", problem.path.display(), problem.what);
        return Err(RestoreError::Broken(what));
    }
    if let Some((from, to)) = report.gaps.first() {
        return Err(RestoreError::Broken(format!("records {from} to {to} are missing")));
    }
    if report.head != chain::to_text(&state.chain.head) {
        return Err(RestoreError::Broken("it ends in another record than State's".to_owned()));
    }
    Ok(())
}
