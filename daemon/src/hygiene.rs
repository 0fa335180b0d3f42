//! What the daemon makes of its own process and demands of its data folder (ruling 48).
//!
//! Owns the umask, the core and dump limits, the lock that keeps a second daemon off a data
//! folder, and the check of that folder's owner and mode. Called by `main` before anything is
//! opened or started; every error ends the start with a sentence that says what to do.

use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        stat::{Mode, umask},
    },
    unistd::Uid,
};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Bits that a data folder must not have: nothing for others, no list and no write for the
/// group. The group may pass through: the unix socket in it is the group's.
const MODE_REFUSED: u32 = 0o067;

/// Why the daemon does not start here.
#[derive(Debug, thiserror::Error)]
pub enum HygieneError {
    /// The kernel refused to protect this process.
    #[error("cannot {operation} for this process")]
    Process {
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
    /// The data folder cannot be looked at.
    #[error("cannot read the data folder {}", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// What the settings name as data folder is something else.
    #[error("{} is not a folder", path.display())]
    NoFolder {
        /// What was named.
        path: PathBuf,
    },
    /// The data folder belongs to another user.
    #[error(
        "the data folder {} belongs to uid {owner}, and the daemon runs as uid {own}: \
         start it as the owner, or chown the folder",
        path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The daemon's user.
        own: u32,
    },
    /// Others may read or write the data folder.
    #[error(
        "the data folder {} has mode {mode:04o}: others could read keys in it; \
         chmod it to 0700, or 0710 to let the socket's group through",
        path.display()
    )]
    OpenToOthers {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The lock file cannot be used.
    #[error("cannot lock the data folder by {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Another daemon has the data folder.
    #[error("another daemon{holder} uses the data folder {}", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// ` (process 123)`, or nothing if it is not known.
        holder: String,
    },
}

/// Protects this process: umask 077, no core dumps, memory and environment closed to other
/// processes of the same user. To be called before the first file is made.
pub fn harden() -> Result<(), HygieneError> {
    let failed = |operation| move |source| HygieneError::Process { operation, source };
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("set the core limit"))?;
    // Huge pages make a small daemon a large one: 20 MB of use become 70 MB of memory.
    rustix::thread::disable_transparent_huge_pages(true).map_err(|error| {
        HygieneError::Process {
            operation: "turn huge pages off",
            source: nix::errno::Errno::from_raw(error.raw_os_error()),
        }
    })?;
    prctl::set_dumpable(false).map_err(failed("forbid dumps"))
}

/// The right to use a data folder; given back when dropped, and by the kernel if the daemon dies.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Checks that the data folder is the daemon's own and closed to others, and locks it.
///
/// The shims do not hold the lock: it is close-on-exec, so a daemon can start again while they
/// watch over their commands.
pub fn take_folder(folder: &Path) -> Result<DataLock, HygieneError> {
    check_folder(folder, Uid::effective().as_raw())?;
    let path = folder.join("lock");
    let failed = |source| HygieneError::Lock { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let path = folder.to_path_buf();
            return Err(HygieneError::InUse { path, holder: holder(&mut file) });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    note_holder(&mut file).map_err(failed)?;
    Ok(DataLock { _file: file })
}

fn check_folder(folder: &Path, own: u32) -> Result<(), HygieneError> {
    let path = folder.to_path_buf();
    let found = match fs::metadata(folder) {
        Ok(found) => found,
        Err(source) => return Err(HygieneError::Unreadable { path, source }),
    };
    if !found.is_dir() {
        return Err(HygieneError::NoFolder { path });
    }
    if found.uid() != own {
        return Err(HygieneError::Owner { path, owner: found.uid(), own });
    }
    let mode = found.mode() & 0o7777;
    if mode & MODE_REFUSED != 0 {
        return Err(HygieneError::OpenToOthers { path, mode });
    }
    Ok(())
}

/// Writes this process's id into the lock file, for the message that the next one gets.
fn note_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(16).read_to_string(&mut text).map(|_| text.trim().parse::<u32>()) {
        Ok(Ok(process)) => format!(" (process {process})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder(name: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tiebeam-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_folder_has_one_daemon() {
        let path = folder("lock", 0o700);
        let lock = take_folder(&path).unwrap();
        let second = take_folder(&path).unwrap_err();
        assert!(matches!(second, HygieneError::InUse { .. }), "{second}");
        assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
        drop(lock);
        drop(take_folder(&path).unwrap());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_ours_alone_is_refused() {
        let own = Uid::effective().as_raw();
        for (mode, fits) in [(0o700, true), (0o710, true), (0o750, false), (0o701, false)] {
            let path = folder("mode", mode);
            assert_eq!(check_folder(&path, own).is_ok(), fits, "{mode:o}");
            fs::remove_dir_all(&path).unwrap();
        }
        let path = folder("owner", 0o700);
        assert!(matches!(check_folder(&path, own + 1), Err(HygieneError::Owner { .. })));
        assert!(matches!(
            check_folder(&path.join("no"), own),
            Err(HygieneError::Unreadable { .. })
        ));
        fs::write(path.join("file"), "").unwrap();
        assert!(matches!(
            check_folder(&path.join("file"), own),
            Err(HygieneError::NoFolder { .. })
        ));
        fs::remove_dir_all(&path).unwrap();
    }
}
