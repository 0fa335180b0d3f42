//! Whole outputs of commands, by their SHA-256, in `<data>/blobs/` (ruling 32).
//!
//! This module owns the folder: names, pieces, what comes from another member, and the order in
//! which blobs and their jobs come and go. The host moves an output in (`host/settle.rs`);
//! `spread` copies it to further members and finds it there, `tend` makes up for lost copies and
//! gives it up with its jobs. A record names a blob and its holders; the chain stands without it.
//!
//! Beside each blob lies `<digest>.jobs` (`marks`). It is durable before the blob has its name, and
//! one lock is held while either changes: so no stop leaves a blob that belongs to nobody, and none
//! is removed for its old jobs while a new one gets it. A blob without such a file (a backup has
//! none) stays.

pub mod marks;
pub mod spread;
pub mod tend;
mod turns;

use crate::durable::{self, DurableError};
use marks::Marks;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tiebeam_proto::canonical;
use turns::Turns;

/// Bytes of a piece on its way to another member.
pub const PIECE_BYTES: usize = 1 << 20;
/// Bytes of a blob, at most: what a command may ask to be kept.
pub const BYTES_MAX: u64 = 1 << 30;
/// What the name of the file with a blob's jobs ends with.
const JOBS: &str = ".jobs";

/// Counts unfinished files, for their names.
static UNFINISHED: AtomicU64 = AtomicU64::new(0);

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

impl From<DurableError> for BlobError {
    fn from(DurableError { operation, path, source }: DurableError) -> BlobError {
        BlobError::Io { operation, path, source }
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError + use<> {
    let path = path.to_owned();
    move |source| BlobError::Io { operation, path, source }
}

/// The blobs of a data folder. A clone is the same.
#[derive(Clone, Debug)]
pub struct Blobs {
    folder: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Held while a blob gets or loses its name, or its jobs change. Files say the truth: a panic
    /// leaves them as a stop would.
    order: Mutex<()>,
    turns: Turns,
    /// Blobs of commands that ended here with fewer copies than they should have.
    short: Mutex<BTreeSet<String>>,
}

/// Whether this is the name of a blob: a SHA-256 in lower case hex.
pub fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Blobs {
    /// Those in `<data>/blobs`. Who shares a folder shares a clone of this.
    pub fn of(data: &Path) -> Blobs {
        Blobs { folder: data.join("blobs"), shared: Arc::default() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn in_order(&self) -> MutexGuard<'_, ()> {
        self.shared.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn short(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.shared.short.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a blob lacks copies: they are made up for soon.
    pub fn note_short(&self, digest: &str) {
        self.short().insert(digest.to_owned());
    }

    /// Those that were noted since it was last asked.
    fn take_short(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.short())
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
        names.retain(|name| self.bytes(name).is_some());
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

    fn marks_path(&self, digest: &str) -> Result<PathBuf, BlobError> {
        Ok(self.path(digest)?.with_extension(&JOBS[1..]))
    }

    /// The digests of which only the jobs are here: a stop came before the blob had its name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn without_blob(&self) -> Result<Vec<String>, BlobError> {
        let names = self.names()?;
        let marked = names.iter().filter_map(|name| name.strip_suffix(JOBS));
        let alone = marked.filter(|digest| is_digest(digest) && self.bytes(digest).is_none());
        Ok(alone.map(str::to_owned).collect())
    }

    /// The jobs whose records name it, as far as it is known.
    ///
    /// # Errors
    /// The disk failed.
    pub fn marks(&self, digest: &str) -> Result<Marks, BlobError> {
        let path = self.marks_path(digest)?;
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Marks::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Marks::default()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Notes durably that the records of these jobs name the blob; gives all that do.
    ///
    /// # Errors
    /// The disk failed.
    pub fn note(&self, digest: &str, marks: &Marks) -> Result<Marks, BlobError> {
        let _order = self.in_order();
        self.add(digest, marks)
    }

    /// The same, for who holds the order.
    fn add(&self, digest: &str, marks: &Marks) -> Result<Marks, BlobError> {
        let (path, mut all) = (self.marks_path(digest)?, self.marks(digest)?);
        let new = all.lacking(marks);
        if new.is_empty() {
            return Ok(all);
        }
        let is_first = all.is_empty();
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(&path);
        let mut file = file.map_err(failed("open", &path))?;
        // A line that a stop tore off is ended by the next one's first byte.
        let text = format!("\n{}", new.text());
        file.write_all(text.as_bytes()).map_err(failed("write", &path))?;
        file.sync_all().map_err(failed("sync", &path))?;
        if is_first {
            self.sync()?;
        }
        all.take(new);
        Ok(all)
    }

    /// Puts one line in place of the jobs that are archived at `head` or below.
    ///
    /// # Errors
    /// The disk failed.
    pub fn fold(
        &self,
        digest: &str,
        is_archived: impl Fn(&str) -> bool,
        head: u64,
    ) -> Result<(), BlobError> {
        let _order = self.in_order();
        let (path, marks) = (self.marks_path(digest)?, self.marks(digest)?);
        let folded = marks.clone().folded(is_archived, head);
        if folded == marks {
            return Ok(());
        }
        Ok(durable::replace(&path, folded.text().as_bytes(), 0o600)?)
    }

    /// Notes the jobs if the blob is here; gives all that name it, or `None` if it is not.
    ///
    /// # Errors
    /// The disk failed.
    pub fn claim(&self, digest: &str, marks: &Marks) -> Result<Option<Marks>, BlobError> {
        let _order = self.in_order();
        self.bytes(digest).map(|_| self.add(digest, marks)).transpose()
    }

    /// Moves the output of a job's command in, if it is not here yet; gives whether it is here.
    /// Whoever wrote it has synced it.
    ///
    /// # Errors
    /// The disk failed.
    pub fn move_in(&self, digest: &str, job: &str, own: &Path) -> Result<bool, BlobError> {
        let _order = self.in_order();
        if fs::metadata(own).is_ok_and(|found| found.is_file()) {
            self.add(digest, &Marks::of(job))?;
            let place = self.path(digest)?;
            fs::rename(own, &place).map_err(failed("move to the blobs", own))?;
            self.sync()?;
        }
        Ok(self.bytes(digest).is_some())
    }

    /// Removes a blob, and after it what is known of its jobs, if these are still all of them;
    /// gives whether it did.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove_of(&self, digest: &str, marks: &Marks) -> Result<bool, BlobError> {
        let _order = self.in_order();
        if self.marks(digest)? != *marks {
            return Ok(false);
        }
        for path in [self.path(digest)?, self.marks_path(digest)?] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        self.sync().map(|()| true)
    }

    /// Removes a blob that is not what its name says, so that a sound one can take its place;
    /// gives whether it was.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove_spoilt(&self, digest: &str) -> Result<bool, BlobError> {
        let path = self.path(digest)?;
        let mut file = File::open(&path).map_err(failed("open", &path))?;
        let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
        loop {
            match file.read(&mut piece).map_err(failed("read", &path))? {
                0 => break,
                read => hash.update(piece.get(..read).unwrap_or_default()),
            }
        }
        if canonical::hex(&hash.finalize()) == digest {
            return Ok(false);
        }
        let _order = self.in_order();
        let same = |one: &fs::Metadata, other: &fs::Metadata| {
            (one.dev(), one.ino()) == (other.dev(), other.ino())
        };
        let looked_at = file.metadata().map_err(failed("look at", &path))?;
        // A sound one may have taken its place meanwhile.
        if !fs::metadata(&path).is_ok_and(|now| same(&now, &looked_at)) {
            return Ok(false);
        }
        tracing::error!(digest, "an output is not what its name says: it is removed");
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        self.sync().map(|()| true)
    }

    /// A name of its own for a file that is not finished.
    fn unfinished(&self, digest: &str) -> PathBuf {
        let number = UNFINISHED.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!(".{digest}.{}.{number}", std::process::id()))
    }

    /// Begins to receive a blob.
    ///
    /// # Errors
    /// The disk failed.
    pub fn receive(&self, digest: &str) -> Result<Incoming, BlobError> {
        let place = self.path(digest)?;
        let path = self.unfinished(digest);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed("make", &path))?;
        let (store, digest) = (self.clone(), digest.to_owned());
        Ok(Incoming { store, file, path, place, digest, bytes: 0, hash: Sha256::new() })
    }

    fn sync(&self) -> Result<(), BlobError> {
        Ok(durable::sync_folder(&self.folder)?)
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
    digest: String,
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

    /// Verifies it and gives it its jobs and then its name.
    ///
    /// # Errors
    /// It is not what its name says, or the disk failed.
    pub fn finish(self, marks: &Marks) -> Result<(), BlobError> {
        let found = canonical::hex(&self.hash.clone().finalize());
        if found != self.digest {
            return Err(BlobError::Other(found));
        }
        self.file.sync_all().map_err(failed("sync", &self.path))?;
        let _order = self.store.in_order();
        self.store.add(&self.digest, marks)?;
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
        assert!(matches!(spoilt.finish(&Marks::default()), Err(BlobError::Other(_))));
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
        one.finish(&Marks::default()).unwrap();
        other.finish(&Marks::default()).unwrap();
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

    fn store() -> (Folder, Blobs) {
        let folder = Folder::new();
        fs::create_dir(folder.path().join("blobs")).unwrap();
        let blobs = Blobs::of(folder.path());
        (folder, blobs)
    }

    fn receive(blobs: &Blobs, bytes: &[u8], marks: &Marks) -> String {
        let digest = digest_of(bytes);
        let mut incoming = blobs.receive(&digest).unwrap();
        incoming.push(bytes).unwrap();
        incoming.finish(marks).unwrap();
        digest
    }

    #[test]
    fn a_blob_knows_its_jobs_and_goes_with_them() {
        let (folder, blobs) = store();
        let digest = receive(&blobs, b"x", &Marks::default());
        assert!(blobs.marks(&digest).unwrap().is_empty());
        for job in ["11.1", "12.9", "11.1"] {
            blobs.note(&digest, &Marks::of(job)).unwrap();
        }
        let path = folder.path().join(format!("blobs/{digest}.jobs"));
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"13.").unwrap();
        let all = blobs.note(&digest, &Marks::of("13.4")).unwrap();
        assert_eq!(all.jobs(), ["11.1", "12.9", "13.4"]);
        assert_eq!(blobs.marks(&digest).unwrap(), all);
        assert_eq!(blobs.list().unwrap().len(), 1, "the jobs are no blob");
        blobs.fold(&digest, |job| job != "13.4", 77).unwrap();
        let folded = blobs.marks(&digest).unwrap();
        assert_eq!(folded, Marks::parse("13.4\nrecords 77"));
        fs::write(folder.path().join("blobs/.unfinished"), "").unwrap();
        blobs.clear_unfinished().unwrap();
        assert!(blobs.remove_of(&digest, &folded).unwrap());
        assert!(blobs.names().unwrap().is_empty());
        assert!(blobs.remove_of(&digest, &Marks::default()).is_ok(), "it had gone");
    }

    #[test]
    fn a_blob_that_a_new_job_got_is_not_removed_for_its_old_ones() {
        let (_folder, blobs) = store();
        let digest = receive(&blobs, b"x", &Marks::of("11.1"));
        let old = blobs.marks(&digest).unwrap();
        // The old job's record is gone; before that is acted on another job prints the same.
        assert!(blobs.claim(&digest, &Marks::of("11.8")).unwrap().is_some());
        assert!(!blobs.remove_of(&digest, &old).unwrap());
        assert!(blobs.bytes(&digest).is_some());
        assert!(blobs.remove_of(&digest, &blobs.marks(&digest).unwrap()).unwrap());
        let gone = blobs.claim(&digest, &Marks::of("11.9")).unwrap();
        assert_eq!(gone, None, "it is to be fetched");
        assert!(blobs.names().unwrap().is_empty(), "nothing is noted of what is not here");
    }

    #[test]
    fn a_blob_has_its_jobs_before_it_has_its_name() {
        let (folder, blobs) = store();
        let own = folder.path().join("output");
        fs::write(&own, "x").unwrap();
        let digest = digest_of(b"x");
        // Nothing can take the name: what a stop would leave just before.
        fs::create_dir_all(folder.path().join(format!("blobs/{digest}/taken"))).unwrap();
        assert!(blobs.move_in(&digest, "11.3", &own).is_err());
        let mut incoming = blobs.receive(&digest).unwrap();
        incoming.push(b"x").unwrap();
        assert!(incoming.finish(&Marks::of("11.4")).is_err());
        let marks = Marks::parse("11.3\n11.4");
        assert_eq!(blobs.marks(&digest).unwrap(), marks);
        assert_eq!(blobs.without_blob().unwrap(), std::slice::from_ref(&digest));
        fs::remove_dir_all(folder.path().join(format!("blobs/{digest}"))).unwrap();
        assert!(blobs.move_in(&digest, "11.3", &own).unwrap() && !own.exists());
        assert!(blobs.move_in(&digest, "11.3", &own).unwrap(), "it was moved before");
        assert_eq!((blobs.without_blob().unwrap().len(), blobs.bytes(&digest)), (0, Some(1)));
        assert_eq!(blobs.marks(&digest).unwrap(), marks);
    }

    #[test]
    fn a_name_that_is_no_digest_leads_nowhere() {
        let folder = Folder::new();
        let blobs = Blobs::of(folder.path());
        let upper = "AB".repeat(32);
        for name in ["", "..", "../identity", "/etc/passwd", "ab", upper.as_str()] {
            assert!(matches!(blobs.piece(name, 0), Err(BlobError::Name)), "{name}");
            assert!(matches!(blobs.receive(name), Err(BlobError::Name)), "{name}");
            assert!(blobs.bytes(name).is_none() && blobs.marks(name).is_err(), "{name}");
        }
    }
}
