//! The real disk behind the replica's seam: files below the data folder.
//!
//! Files are 0600 and folders 0700. Nothing is retried here; an error is the caller's to stop for.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tiebeam_replica::seams::{Disk, DiskError, FileId, OpenMode, Rng};

/// Files below one folder.
pub struct DataDisk {
    root: PathBuf,
    open: BTreeMap<FileId, (String, File)>,
    last: u64,
}

impl Clone for DataDisk {
    /// The same folder with no file open: handles belong to the disk that opened them.
    fn clone(&self) -> DataDisk {
        DataDisk::new(&self.root)
    }
}

impl DataDisk {
    /// The disk below `root`.
    pub fn new(root: &Path) -> DataDisk {
        DataDisk { root: root.to_owned(), open: BTreeMap::new(), last: 0 }
    }

    fn file(&self, id: FileId) -> &(String, File) {
        self.open.get(&id).expect("a file handle is used only while it is open")
    }
}

fn failed(operation: &'static str, path: &str, source: io::Error) -> DiskError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::NoSpace { path },
        _ => DiskError::Io { operation, path, source },
    }
}

impl Disk for DataDisk {
    fn list(&mut self, folder: &str) -> Result<Vec<String>, DiskError> {
        let entries = match std::fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", folder, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", folder, error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_folder(&mut self, folder: &str) -> Result<(), DiskError> {
        let path = self.root.join(folder);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(failed("create", folder, error)),
        }
        let parent = path.parent().unwrap_or(&self.root);
        let synced = File::open(parent).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed("sync", folder, error))
    }

    fn open(&mut self, path: &str, mode: OpenMode) -> Result<FileId, DiskError> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create(true).truncate(true);
            }
        }
        let opened = options.open(self.root.join(path));
        let file = opened.map_err(|error| failed("open", path, error))?;
        self.last += 1;
        let id = FileId(self.last);
        self.open.insert(id, (path.to_owned(), file));
        Ok(id)
    }

    fn close(&mut self, file: FileId) {
        self.open.remove(&file);
    }

    fn file_len(&mut self, file: FileId) -> Result<u64, DiskError> {
        let (path, file) = self.file(file);
        file.metadata().map(|facts| facts.len()).map_err(|error| failed("measure", path, error))
    }

    fn read_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, DiskError> {
        let (path, file) = self.file(file);
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            match file.read_at(&mut buffer[done..], at) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", path, error)),
            }
        }
        Ok(done)
    }

    fn write_at(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let (path, file) = self.file(file);
        file.write_all_at(bytes, offset).map_err(|error| failed("write", path, error))
    }

    fn set_len(&mut self, file: FileId, len: u64) -> Result<(), DiskError> {
        let (path, file) = self.file(file);
        file.set_len(len).map_err(|error| failed("resize", path, error))
    }

    fn sync(&mut self, file: FileId) -> Result<(), DiskError> {
        let (path, file) = self.file(file);
        file.sync_data().map_err(|error| failed("sync", path, error))
    }

    fn sync_folder(&mut self, folder: &str) -> Result<(), DiskError> {
        let opened = File::open(self.root.join(folder));
        let synced = opened.and_then(|file| file.sync_all());
        synced.map_err(|error| failed("sync", folder, error))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let renamed = std::fs::rename(self.root.join(from), self.root.join(to));
        renamed.map_err(|error| failed("rename", from, error))
    }

    fn remove(&mut self, path: &str) -> Result<(), DiskError> {
        std::fs::remove_file(self.root.join(path)).map_err(|error| failed("remove", path, error))
    }

    fn crash_point(&mut self, point: &'static str) -> Result<(), DiskError> {
        crate::host::crash_point(point);
        Ok(())
    }
}

/// The operating system's random numbers.
pub struct SystemRng;

impl Rng for SystemRng {
    fn next_u64(&mut self) -> u64 {
        let bytes = crate::keys::cluster::random::<8>();
        u64::from_le_bytes(bytes.expect("the operating system gives random bytes"))
    }
}
