//! The unix socket (ruling 3): the same API without TLS, for processes of this machine.
//!
//! The kernel says who is at the other end; what that means is for the login. This module makes
//! the socket file with its mode, takes it away again, and accepts.

use super::Shared;
use super::connection::{Connection, Peer, Role, Version, serve};
use super::listen::ACCEPT_PAUSE;
use nix::unistd::{Group, chown};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// The group whose members may connect, if the machine has it.
const GROUP: &str = "tiebeam";
/// Owner and group may connect.
const MODE: u32 = 0o660;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something that is no socket is in the way.
    #[error("{0} exists and is no socket")]
    InTheWay(PathBuf),
    /// A process is serving on it.
    #[error("another process serves {0}")]
    Taken(PathBuf),
    /// The socket of an earlier run cannot be removed.
    #[error("the old socket {0} cannot be removed")]
    Remove(PathBuf, #[source] io::Error),
    /// It cannot be made.
    #[error("the socket {0} cannot be made")]
    Bind(PathBuf, #[source] io::Error),
    /// Its mode cannot be set.
    #[error("the mode of the socket {0} cannot be set")]
    Mode(PathBuf, #[source] io::Error),
}

/// Makes the socket at `path`, in place of one that an earlier run left behind.
///
/// # Errors
///
/// [`SocketError`] with the path.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(|e| SocketError::Bind(path.into(), e))?;
    std::fs::set_permissions(path, Permissions::from_mode(MODE))
        .map_err(|e| SocketError::Mode(path.into(), e))?;
    if let Ok(Some(group)) = Group::from_name(GROUP)
        && let Err(error) = chown(path, None, Some(group.gid))
    {
        // Not root and not in the group: the socket is then the owner's alone.
        tracing::info!(%error, "the socket's group stays as it is");
    }
    Ok(listener)
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::InTheWay(path.into()));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(SocketError::Taken(path.into()));
    }
    std::fs::remove_file(path).map_err(|e| SocketError::Remove(path.into(), e))
}

/// Accepts until `close`, then removes the socket file.
pub(super) async fn accept(
    listener: UnixListener,
    path: PathBuf,
    shared: Arc<Shared>,
    close: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = close.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _unnamed)) => admit(stream, &shared),
            Err(error) => {
                tracing::warn!(%error, "accepting on the unix socket fails");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!(%error, "the socket file is already gone");
    }
}

fn admit(stream: UnixStream, shared: &Arc<Shared>) {
    let Some(permit) = shared.admission.connection() else {
        tracing::warn!("too many connections: closed");
        return;
    };
    let peer = match stream.peer_cred() {
        Ok(credentials) => {
            Peer::Unix { uid: credentials.uid(), pid: credentials.pid().unwrap_or_default() }
        }
        Err(error) => {
            tracing::warn!(%error, "the peer of the unix socket is unknown: closed");
            return;
        }
    };
    let connection = Connection { shared: Arc::clone(shared), peer, role: Role::Rpc, permit };
    shared.drain.spawn_connection(serve(stream, Version::Http1, Arc::new(connection)));
}
