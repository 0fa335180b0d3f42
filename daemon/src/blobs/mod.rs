//! Whole outputs of commands, by their SHA-256, in `<data>/blobs/` (ruling 32).
//!
//! This module owns the folder: names, pieces, what comes from another member, and which jobs a
//! blob belongs to. The host moves an output in (`host/settle.rs`); `spread` copies it to further
//! members, finds it there, and gives it up with its jobs. A record names a blob and its holders;
//! the chain stands without it.
//!
//! Beside each blob lies `<digest>.jobs`, a line per job whose record names it. A blob without one
//! (a backup has none) stays.

pub mod spread;

use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tiebeam_core::job::parse_job_id;
use tiebeam_proto::canonical;

/// Bytes of a piece on its way to another member.
pub const PIECE_BYTES: usize = 1 << 20;
/// Bytes of a blob, at most: what a command may ask to be kept.
pub const BYTES_MAX: u64 = 1 << 30;
/// What the name of the file with a blob's jobs ends with.
const JOBS: &str = ".jobs";

/// Counts files that are being received, for their names.
static RECEIVED: AtomicU64 = AtomicU64::new(0);

/// A blob that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The name is no digest.
    #[error("that is no digest")]
    Name,
    /// What came is not what the name says.
    #[error("what came has another digest: {0}")]
    Other(String),
    /// It is longer than a blob may be.
    #[error("it is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// The disk failed.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError + use<> {
    let path = path.to_owned();
    move |source| BlobError::Io { operation, path, source }
}

/// The blobs of a data folder.
#[derive(Clone, Debug)]
pub struct Blobs {
    folder: PathBuf,
}

/// Whether this is the name of a blob: a SHA-256 in lower case hex.
pub fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Blobs {
    /// Those in `<data>/blobs`.
    pub fn of(data: &Path) -> Blobs {
        Blobs { folder: data.join("blobs") }
    }

    fn path(&self, digest: &str) -> Result<PathBuf, BlobError> {
        is_digest(digest).then(|| self.folder.join(digest)).ok_or(BlobError::Name)
    }

    /// Its bytes, if it is here.
    pub fn bytes(&self, digest: &str) -> Option<u64> {
        let found = fs::metadata(self.path(digest).ok()?).ok()?;
        found.is_file().then_some(found.len())
    }

    /// A piece of a blob from `at` on; shorter than [`PIECE_BYTES`] at its end.
    ///
    /// # Errors
    /// It is not here, or cannot be read.
    pub fn piece(&self, digest: &str, at: u64) -> Result<Vec<u8>, BlobError> {
        let path = self.path(digest)?;
        let file = File::open(&path).map_err(failed("open", &path))?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut read = 0;
        while let Some(rest) = piece.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, at + read as u64).map_err(failed("read", &path))? {
                0 => break,
                more => read += more,
            }
        }
        piece.truncate(read);
        Ok(piece)
    }

    /// The digests of all that are here, in order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<String>, BlobError> {
        let mut names = self.names()?;
        names.retain(|name| is_digest(name));
        names.sort_unstable();
        Ok(names)
    }

    fn names(&self) -> Result<Vec<String>, BlobError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let name = entry.map_err(failed("list", &self.folder))?.file_name();
            names.extend(name.into_string().ok());
        }
        Ok(names)
    }

    /// Removes what a stop left of blobs that were being received.
    ///
    /// # Errors
    /// The disk failed.
    pub fn clear_unfinished(&self) -> Result<(), BlobError> {
        for name in self.names()?.iter().filter(|name| name.starts_with('.')) {
            let path = self.folder.join(name);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(())
    }

    /// Notes durably that the record of this job names the blob.
    ///
    /// # Errors
    /// The disk failed.
    pub fn note_job(&self, digest: &str, job: &str) -> Result<(), BlobError> {
        if self.jobs(digest)?.iter().any(|known| known == job) {
            return Ok(());
        }
        let path = self.path(digest)?.with_extension(&JOBS[1..]);
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(&path);
        let mut file = file.map_err(failed("open", &path))?;
        // A line that a stop tore off is ended by the next one's first byte.
        file.write_all(format!("\n{job}\n").as_bytes()).map_err(failed("write", &path))?;
        file.sync_all().map_err(failed("sync", &path))?;
        self.sync()
    }

    /// The jobs whose records name it, as far as it is known.
    ///
    /// # Errors
    /// The disk failed.
    pub fn jobs(&self, digest: &str) -> Result<Vec<String>, BlobError> {
        let path = self.path(digest)?.with_extension(&JOBS[1..]);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let jobs = text.lines().filter(|line| parse_job_id(line).is_some());
                Ok(jobs.map(str::to_owned).collect())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Removes a blob, and after it what is known of its jobs.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove(&self, digest: &str) -> Result<(), BlobError> {
        let path = self.path(digest)?;
        for path in [path.clone(), path.with_extension(&JOBS[1..])] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        self.sync()
    }

    /// Removes a blob that is not what its name says, so that a sound one can take its place;
    /// gives whether it was.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove_spoilt(&self, digest: &str) -> Result<bool, BlobError> {
        let (path, mut hash, mut at) = (self.path(digest)?, Sha256::new(), 0);
        loop {
            let piece = self.piece(digest, at)?;
            hash.update(&piece);
            at += piece.len() as u64;
            if piece.len() < PIECE_BYTES {
                break;
            }
        }
        if canonical::hex(&hash.finalize()) == digest {
            return Ok(false);
        }
        tracing::error!(digest, "an output is not what its name says: it is removed");
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        self.sync().map(|()| true)
    }

    /// Begins to receive a blob.
    ///
    /// # Errors
    /// The disk failed.
    pub fn receive(&self, digest: &str) -> Result<Incoming, BlobError> {
        let place = self.path(digest)?;
        let number = RECEIVED.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!(".{digest}.{}.{number}", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed("make", &path))?;
        Ok(Incoming { store: self.clone(), file, path, place, bytes: 0, hash: Sha256::new() })
    }

    fn sync(&self) -> Result<(), BlobError> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed("sync", &self.folder))
    }
}

/// A blob that is being received. It gets its name when all of it is here, durable and verified;
/// dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    store: Blobs,
    file: File,
    path: PathBuf,
    place: PathBuf,
    bytes: u64,
    hash: Sha256,
}

impl Incoming {
    /// Takes the next piece.
    ///
    /// # Errors
    /// It is too long, or the disk failed.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        self.bytes += piece.len() as u64;
        if self.bytes > BYTES_MAX {
            return Err(BlobError::TooLong);
        }
        self.hash.update(piece);
        self.file.write_all(piece).map_err(failed("write", &self.path))
    }

    /// Bytes that were taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Verifies it and gives it its name.
    ///
    /// # Errors
    /// It is not what its name says, or the disk failed.
    pub fn finish(self) -> Result<(), BlobError> {
        let found = canonical::hex(&self.hash.clone().finalize());
        if !self.place.ends_with(&found) {
            return Err(BlobError::Other(found));
        }
        self.file.sync_all().map_err(failed("sync", &self.path))?;
        fs::rename(&self.path, &self.place).map_err(failed("rename", &self.path))?;
        self.store.sync()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // It has gone if it got its name.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::scratch::Folder;

    fn digest_of(bytes: &[u8]) -> String {
        canonical::hex(&Sha256::digest(bytes))
    }

    #[test]
    fn a_blob_gets_its_name_when_it_is_what_the_name_says() {
        let folder = Folder::new();
        fs::create_dir(folder.path().join("blobs")).unwrap();
        let blobs = Blobs::of(folder.path());
        let whole = vec![7; PIECE_BYTES + 5];
        let digest = digest_of(&whole);
        let mut spoilt = blobs.receive(&digest).unwrap();
        spoilt.push(&whole[1..]).unwrap();
        assert!(matches!(spoilt.finish(), Err(BlobError::Other(_))));
        let mut cut = blobs.receive(&digest).unwrap();
        cut.push(&whole[..9]).unwrap();
        drop(cut);
        assert_eq!(blobs.names().unwrap(), Vec::<String>::new(), "nothing is left of either");

        let (mut one, mut other) =
            (blobs.receive(&digest).unwrap(), blobs.receive(&digest).unwrap());
        for piece in whole.chunks(1_000) {
            one.push(piece).unwrap();
            other.push(piece).unwrap();
        }
        one.finish().unwrap();
        other.finish().unwrap();
        assert_eq!(blobs.list().unwrap(), std::slice::from_ref(&digest));
        assert_eq!(blobs.bytes(&digest), Some(whole.len() as u64));
        let first = blobs.piece(&digest, 0).unwrap();
        let second = blobs.piece(&digest, first.len() as u64).unwrap();
        assert_eq!((first.len(), second.len()), (PIECE_BYTES, 5));
        assert!(blobs.piece(&digest, whole.len() as u64).unwrap().is_empty());
        assert!(!blobs.remove_spoilt(&digest).unwrap());
        fs::write(folder.path().join("blobs").join(&digest), &whole[1..]).unwrap();
        assert!(blobs.remove_spoilt(&digest).unwrap() && blobs.bytes(&digest).is_none());
    }

    #[test]
    fn a_blob_knows_its_jobs_and_goes_with_them() {
        let folder = Folder::new();
        fs::create_dir(folder.path().join("blobs")).unwrap();
        let (blobs, digest) = (Blobs::of(folder.path()), digest_of(b"x"));
        let mut incoming = blobs.receive(&digest).unwrap();
        incoming.push(b"x").unwrap();
        incoming.finish().unwrap();
        assert!(blobs.jobs(&digest).unwrap().is_empty());
        for job in ["11.1", "12.9", "11.1"] {
            blobs.note_job(&digest, job).unwrap();
        }
        let marks = folder.path().join(format!("blobs/{digest}.jobs"));
        let mut torn = OpenOptions::new().append(true).open(&marks).unwrap();
        torn.write_all(b"13.").unwrap();
        blobs.note_job(&digest, "13.4").unwrap();
        assert_eq!(blobs.jobs(&digest).unwrap(), ["11.1", "12.9", "13.4"]);
        assert_eq!(blobs.list().unwrap().len(), 1, "the jobs are no blob");
        fs::write(folder.path().join("blobs/.unfinished"), "").unwrap();
        blobs.clear_unfinished().unwrap();
        blobs.remove(&digest).unwrap();
        assert!(blobs.names().unwrap().is_empty() && blobs.remove(&digest).is_ok());
    }

    #[test]
    fn a_name_that_is_no_digest_leads_nowhere() {
        let folder = Folder::new();
        let blobs = Blobs::of(folder.path());
        let upper = "AB".repeat(32);
        for name in ["", "..", "../identity", "/etc/passwd", "ab", upper.as_str()] {
            assert!(matches!(blobs.piece(name, 0), Err(BlobError::Name)), "{name}");
            assert!(matches!(blobs.receive(name), Err(BlobError::Name)), "{name}");
            assert!(blobs.bytes(name).is_none() && blobs.remove(name).is_err(), "{name}");
        }
    }
}
