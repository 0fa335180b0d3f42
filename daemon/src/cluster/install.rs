//! Fetching the snapshot that a leader offered: whole file, piece by piece, verified, then put in
//! its place by a rename (ruling 33).
//!
//! The newest order wins. A fetch that fails is tried again, with any member that answers, for as
//! long as the order stands; pieces that are here are not fetched again.

use super::remote::{self, RemoteError};
use super::{Cluster, lock};
use crate::disk::DataDisk;
use crate::threads::raft::ToRaft;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiebeam_replica::Mark;
use tiebeam_replica::recovery::SNAPSHOT_FOLDER;
use tiebeam_replica::snapshot::{self, CHUNK_BYTES};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Pause after a fetch that failed.
const AGAIN: Duration = Duration::from_millis(300);
/// Pause between two pieces: at most some 100 MiB/s, so that the sender's clients are not starved.
const BETWEEN_PIECES: Duration = Duration::from_millis(5);

/// The order that stands.
#[derive(Default)]
pub struct Orders {
    wanted: Mutex<Option<Mark>>,
    told: Notify,
}

impl Orders {
    /// Replaces the order.
    pub fn put(&self, mark: Mark) {
        *lock(&self.wanted) = Some(mark);
        self.told.notify_one();
    }

    fn current(&self) -> Option<Mark> {
        *lock(&self.wanted)
    }

    fn done(&self, mark: Mark) {
        let mut wanted = lock(&self.wanted);
        if *wanted == Some(mark) {
            *wanted = None;
        }
    }
}

/// Why a snapshot is not here yet.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("no member has it")]
    Remote(#[source] RemoteError),
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
    #[error("what was fetched is no whole snapshot")]
    Damaged(#[source] snapshot::SnapshotError),
    #[error("what was fetched is no State")]
    State(#[source] tiebeam_core::snapshot::SnapshotError),
    #[error("another snapshot was offered meanwhile")]
    Overtaken,
}

/// Fetches what is ordered until the node stops.
pub async fn fetch_snapshots(
    cluster: Arc<Cluster>,
    data: PathBuf,
    raft: Sender<ToRaft>,
    stop: CancellationToken,
) {
    loop {
        let Some(mark) = cluster.orders.current() else {
            tokio::select! {
                () = cluster.orders.told.notified() => continue,
                () = stop.cancelled() => return,
            }
        };
        match fetch(&cluster, &data, mark).await {
            Ok(state) => {
                tracing::info!(index = mark.index, "a snapshot is here");
                cluster.orders.done(mark);
                // The raft thread has gone only if the node stops.
                let _ = raft.send(ToRaft::Installed { mark, state: Box::new(state) });
            }
            Err(InstallError::Overtaken) => {}
            Err(error) => {
                let why = crate::report::chain(&error);
                tracing::warn!(index = mark.index, why, "the snapshot is not here yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn fetch(
    cluster: &Arc<Cluster>,
    data: &Path,
    mark: Mark,
) -> Result<tiebeam_core::State, InstallError> {
    let folder = data.join(SNAPSHOT_FOLDER);
    let part = folder.join(format!("fetched-{:020}", mark.index));
    let written = |error| InstallError::Write(part.clone(), error);
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&part)
        .map_err(written)?;
    let mut at = file.seek(SeekFrom::End(0)).map_err(written)?;
    loop {
        if cluster.orders.current() != Some(mark) {
            // A newer offer makes this one useless.
            let _ = std::fs::remove_file(&part);
            return Err(InstallError::Overtaken);
        }
        let piece = remote::snapshot_piece(cluster, mark, at).await;
        let piece = piece.map_err(InstallError::Remote)?;
        file.write_all(&piece).map_err(written)?;
        at += piece.len() as u64;
        if piece.len() < CHUNK_BYTES {
            break;
        }
        tokio::time::sleep(BETWEEN_PIECES).await;
    }
    file.sync_all().map_err(written)?;
    drop(file);
    let (data, name) = (data.to_owned(), format!("{SNAPSHOT_FOLDER}/fetched-{:020}", mark.index));
    let put = tokio::task::spawn_blocking(move || put_in_place(&data, &name, mark)).await;
    put.unwrap_or(Err(InstallError::Overtaken))
}

/// Verifies what was fetched and gives it its name; what does not pass is fetched again.
fn put_in_place(data: &Path, name: &str, mark: Mark) -> Result<tiebeam_core::State, InstallError> {
    let mut disk = DataDisk::new(data);
    let read = snapshot::read(&mut disk, name);
    let whole = read.and_then(|read| match read.meta.mark == mark {
        true => Ok(read),
        false => Err(snapshot::SnapshotError::Damaged {
            path: name.to_owned(),
            what: "it is of another index",
        }),
    });
    let whole = whole.map_err(|error| {
        // It is of no use: the next try begins anew.
        let _ = std::fs::remove_file(data.join(name));
        InstallError::Damaged(error)
    })?;
    let state = tiebeam_core::snapshot::decode(&whole.body).map_err(InstallError::State)?;
    let path = snapshot::snapshot_path(SNAPSHOT_FOLDER, mark.index);
    let moved = std::fs::rename(data.join(name), data.join(&path))
        .and_then(|()| std::fs::File::open(data.join(SNAPSHOT_FOLDER))?.sync_all());
    moved.map_err(|error| InstallError::Write(data.join(path), error))?;
    Ok(state)
}
