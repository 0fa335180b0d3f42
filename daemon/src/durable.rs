//! Small files that must survive a power cut: keys, certificates, identity, settings.
//!
//! This module owns one sequence: write a temporary file beside the target, sync it, rename it,
//! sync the folder. It never follows a half-written file with an acknowledgement, and it knows
//! nothing of what it writes. The start-up commands and the certificate jobs call it; the raft
//! log and the history have writers of their own. It reports every failure and never panics.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A small file or its folder could not be written durably.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct DurableError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl DurableError {
    /// Whether the target was already there.
    pub fn is_already_there(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

fn failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> DurableError + 'a {
    move |source| DurableError { operation, path: path.to_owned(), source }
}

/// Makes a folder with exactly `mode`; an existing one is left as it is.
///
/// # Errors
/// The folder cannot be made, or something else has its name.
pub fn make_folder(path: &Path, mode: u32) -> Result<(), DurableError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            // The umask may have taken bits away; the mode asked for is the one that holds.
            fs::set_permissions(path, Permissions::from_mode(mode))
                .map_err(failed("set the mode of", path))?;
            sync_folder(path.parent().unwrap_or(Path::new(".")))
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(failed("make", path)(e)),
    }
}

/// Writes a file that must not exist yet.
///
/// # Errors
/// It exists ([`DurableError::is_already_there`]), or a step of the sequence failed.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    if path.symlink_metadata().is_ok() {
        return Err(failed("make", path)(io::ErrorKind::AlreadyExists.into()));
    }
    replace(path, bytes, mode)
}

/// Writes a file, in place of an older one if there is one. Readers see the old bytes or the new.
///
/// # Errors
/// A step of the sequence failed; the old file is then still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let temporary = temporary_beside(path);
    let written = write_temporary(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(failed("replace", path)));
    if let Err(error) = written {
        // Best effort: the error that counts is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

fn write_temporary(temporary: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    // A leftover of a crashed process with our pid; nobody else writes this name.
    let _ = fs::remove_file(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(temporary)
        .map_err(failed("make", temporary))?;
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(failed("set the mode of", temporary))?;
    file.write_all(bytes).map_err(failed("write", temporary))?;
    file.sync_all().map_err(failed("sync", temporary))
}

fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.new", std::process::id()))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(path: &Path) -> Result<(), DurableError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|folder| folder.sync_all()).map_err(failed("sync", path))
}

#[cfg(test)]
pub(crate) mod scratch {
    //! Folders for tests: one per test, removed at its end.

    use std::{
        path::{Path, PathBuf},
        sync::atomic::{AtomicU32, Ordering},
    };

    /// A folder (mode 0700) that goes away with the value.
    pub struct Folder(PathBuf);

    impl Folder {
        /// A new, empty folder.
        pub fn new() -> Folder {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path =
                std::env::temp_dir().join(format!("tiebeam-test-{}-{number}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            super::make_folder(&path, 0o700).expect("a test folder");
            Folder(path)
        }

        /// Its path.
        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{scratch::Folder, *};

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder)
            .expect("folder")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_leaves_nothing_beside_it() {
        let folder = Folder::new();
        let path = folder.path().join("file");
        write_new(&path, b"one", 0o600).expect("written");
        assert!(write_new(&path, b"two", 0o600).is_err_and(|e| e.is_already_there()));
        replace(&path, b"two", 0o640).expect("replaced");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_file() {
        let folder = Folder::new();
        let path = folder.path().join("target");
        make_folder(&path, 0o700).expect("a folder in the way");
        fs::write(path.join("x"), b"").expect("not empty");
        let error = replace(&path, b"new", 0o600).expect_err("a folder cannot be replaced");
        assert_eq!((error.operation, error.path.as_path()), ("replace", path.as_path()));
        assert_eq!(names(folder.path()), ["target"]);
    }
}
