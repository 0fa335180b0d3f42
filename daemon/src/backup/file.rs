//! The file of a backup: a tar archive whose last member is a manifest with the digest of every
//! other one. So whoever has `tar` and `sha256sum` can look into it, a file that was cut off has
//! no manifest, and nothing is unpacked before all of it was checked.
//!
//! It owns the format. What goes into the parts is [`super`]'s, what becomes of them
//! [`crate::restore`]'s.

use ring::digest;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tiebeam_proto::canonical::hex;
use tiebeam_proto::time::Time;

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
/// State, as a snapshot holds it.
pub const STATE: &str = "state";
/// Records behind the last one in the segments: one line of canonical JSON each.
pub const RECORDS: &str = "records.jsonl";
/// The CA's certificate.
pub const CA: &str = "ca.crt";
/// The keys, under a passphrase.
pub const KEYS: &str = "keys.sealed";
/// Files of the history, by their names there.
pub const HISTORY: &str = "history/";
/// Outputs of commands, by their digests.
pub const BLOBS: &str = "blobs/";
/// The last member.
const MANIFEST: &str = "manifest.json";
/// Largest manifest that is read: 100 bytes a part, and a part for each 64 MiB of history.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// A part of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the archive.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// `sha256:<hex>` of it.
    pub sha256: String,
}

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// When it was made, by the wall clock of its node.
    pub made: Time,
    /// The version of the daemon that made it.
    pub version: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster: String,
    /// Its incarnation.
    pub incarnation: u32,
    /// The node that it was made on.
    pub node: u32,
    /// Index of the last entry that is in State.
    pub index: u64,
    /// The configuration's revision.
    pub revision: u64,
    /// Hash of the configuration.
    pub root: String,
    /// Index of the newest record.
    pub chain_index: u64,
    /// Its hash.
    pub chain_head: String,
    /// The newest record that lies in the segments, and its hash; the rest is in [`RECORDS`].
    pub segments_to: u64,
    /// As above.
    pub segments_head: String,
    /// Whether the keys are in it.
    pub keys: bool,
    /// Every other member of the archive, in order.
    pub parts: Vec<Part>,
}

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is there already.
    #[error("{} is there already: a backup never overwrites anything", .0.display())]
    Exists(PathBuf),
    /// It could not be written.
    #[error("the backup {} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It could not be read.
    #[error("the backup {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file became shorter while it was copied.
    #[error("{0} became shorter while it was copied")]
    Shrunk(String),
    /// It is no backup, or a damaged one.
    #[error("{} is no whole backup: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A later version made it.
    #[error("the backup has format {0}; this version reads format {FORMAT}")]
    Format(u32),
}

/// A reader that counts and digests what passes.
struct Passing<R> {
    inner: R,
    bytes: u64,
    digest: digest::Context,
}

impl<R: Read> Passing<R> {
    fn new(inner: R) -> Passing<R> {
        Passing { inner, bytes: 0, digest: digest::Context::new(&digest::SHA256) }
    }

    fn part(self, name: &str) -> Part {
        let sha256 = format!("sha256:{}", hex(self.digest.finish().as_ref()));
        Part { name: name.to_owned(), bytes: self.bytes, sha256 }
    }
}

impl<R: Read> Read for Passing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(buffer.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        Ok(read)
    }
}

/// A backup being written. Under its name it is there only when it is whole.
pub struct BackupWriter {
    path: PathBuf,
    temporary: PathBuf,
    archive: tar::Builder<File>,
    made: Time,
    parts: Vec<Part>,
}

impl BackupWriter {
    /// Begins a backup, readable by its owner only.
    ///
    /// # Errors
    /// [`FileError::Exists`], or what the system said.
    pub fn create(path: &Path, made: Time) -> Result<BackupWriter, FileError> {
        if path.symlink_metadata().is_ok() {
            return Err(FileError::Exists(path.to_owned()));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|source| FileError::Write { path: path.to_owned(), source })?;
        let archive = tar::Builder::new(file);
        Ok(BackupWriter { path: path.to_owned(), temporary, archive, made, parts: Vec::new() })
    }

    fn failed(&self, source: io::Error) -> FileError {
        FileError::Write { path: self.path.clone(), source }
    }

    /// Adds a part that is in memory.
    ///
    /// # Errors
    /// What the system said.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.read(name, bytes, bytes.len() as u64)
    }

    /// Adds the first `bytes` of what a reader gives.
    ///
    /// # Errors
    /// [`FileError::Shrunk`], or what the system said.
    pub fn read(&mut self, name: &str, from: impl Read, bytes: u64) -> Result<(), FileError> {
        let mut passing = Passing::new(from.take(bytes));
        self.append(name, &mut passing, bytes)?;
        if passing.bytes != bytes {
            return Err(FileError::Shrunk(name.to_owned()));
        }
        self.parts.push(passing.part(name));
        Ok(())
    }

    fn append(&mut self, name: &str, from: impl Read, bytes: u64) -> Result<(), FileError> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.made.0 / 1_000_000).unwrap_or(0));
        let appended = self.archive.append_data(&mut header, name, from);
        appended.map_err(|source| self.failed(source))
    }

    /// Ends the backup with its manifest, makes it durable and gives it its name. Returns the
    /// manifest, its digest (the backup's own) and the size of the file.
    ///
    /// # Errors
    /// What the system said; then there is no backup.
    pub fn finish(mut self, manifest: Manifest) -> Result<(Manifest, String, u64), FileError> {
        let manifest =
            Manifest { parts: std::mem::take(&mut self.parts), made: self.made, ..manifest };
        let text =
            serde_json::to_vec_pretty(&manifest).map_err(|error| self.failed(error.into()))?;
        self.append(MANIFEST, text.as_slice(), text.len() as u64)?;
        let ended = (|| {
            self.archive.finish()?;
            let file = self.archive.get_mut();
            file.flush()?;
            file.sync_all()?;
            let bytes = file.metadata()?.len();
            name_it(&self.temporary, &self.path)?;
            let folder = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(bytes)
        })();
        let bytes = ended.map_err(|source| self.failed(source))?;
        Ok((manifest, digest_of(&text), bytes))
    }
}

/// Gives the file its name, but never in the place of one that came meanwhile: a second link does
/// that, where there are links.
fn name_it(temporary: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            std::fs::rename(temporary, path)
        }
        linked => linked,
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        // What became of the backup has its own name by now; there is nobody to tell.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(digest::digest(&digest::SHA256, bytes).as_ref()))
}

/// A backup that was read once, from end to end, and is what its manifest says.
pub struct CheckedBackup {
    path: PathBuf,
    /// What it is of.
    pub manifest: Manifest,
    /// Digest of the manifest, which stands for the whole backup.
    pub digest: String,
}

impl CheckedBackup {
    /// Reads all of a backup and compares it with its manifest.
    ///
    /// # Errors
    /// [`FileError::Damaged`], [`FileError::Format`], or what the system said.
    pub fn open(path: &Path) -> Result<CheckedBackup, FileError> {
        let damaged =
            |what: &str| FileError::Damaged { path: path.to_owned(), what: what.to_owned() };
        let mut seen = Vec::new();
        let mut text = None;
        each_member(path, &mut |name, reader| {
            if text.is_some() {
                return Err(damaged("there is something behind its manifest"));
            }
            if name == MANIFEST {
                let mut bytes = Vec::new();
                reader
                    .take(MANIFEST_BYTES_MAX)
                    .read_to_end(&mut bytes)
                    .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
                text = Some(bytes);
                return Ok(());
            }
            if !is_part(name) {
                return Err(damaged("there is something in it that no backup has"));
            }
            let mut passing = Passing::new(reader);
            io::copy(&mut passing, &mut io::sink())
                .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
            seen.push(passing.part(name));
            Ok(())
        })?;
        let text = text.ok_or_else(|| damaged("its manifest, which is its end, is missing"))?;
        let (format, manifest) = read_manifest(&text);
        if format.is_some_and(|format| format != FORMAT) {
            return Err(FileError::Format(format.unwrap_or_default()));
        }
        let manifest = manifest.ok_or_else(|| damaged("its manifest cannot be read"))?;
        let differs = manifest.parts.iter().zip(&seen).find(|(says, is)| says != is);
        if let Some((says, _)) = differs {
            return Err(damaged(&format!("{} is not what was written", says.name)));
        }
        if manifest.parts.len() != seen.len() {
            return Err(damaged("parts are missing or doubled"));
        }
        Ok(CheckedBackup { path: path.to_owned(), manifest, digest: digest_of(&text) })
    }

    /// Goes through the parts once more, in order.
    ///
    /// # Errors
    /// What the system or the visitor said.
    pub fn each<E: From<FileError>>(
        &self,
        visit: &mut dyn FnMut(&str, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        each_member(&self.path, &mut |name, reader| match name {
            MANIFEST => Ok(()),
            name => visit(name, reader),
        })
    }

    /// A part that is small enough for memory; `None` if the backup has none of this name.
    ///
    /// # Errors
    /// What the system said.
    pub fn part(&self, wanted: &str) -> Result<Option<Vec<u8>>, FileError> {
        if !self.manifest.parts.iter().any(|part| part.name == wanted) {
            return Ok(None);
        }
        let mut found = None;
        self.each(&mut |name, reader| {
            if name == wanted {
                let mut bytes = Vec::new();
                let read = reader.read_to_end(&mut bytes);
                read.map_err(|source| FileError::Read { path: self.path.clone(), source })?;
                found = Some(bytes);
            }
            Ok::<(), FileError>(())
        })?;
        Ok(found)
    }
}

fn read_manifest(text: &[u8]) -> (Option<u32>, Option<Manifest>) {
    #[derive(Deserialize)]
    struct OfAnyFormat {
        format: u32,
    }
    let format = serde_json::from_slice::<OfAnyFormat>(text).ok().map(|any| any.format);
    (format, serde_json::from_slice(text).ok())
}

/// Whether a name is one that a backup has: nothing is ever unpacked to another place.
fn is_part(name: &str) -> bool {
    let digits = |text: &str| text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex = |text: &str| {
        text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    if let Some(file) = name.strip_prefix(HISTORY) {
        let stem = file.strip_suffix(".seg").or_else(|| file.strip_suffix(".idx"));
        return stem.is_some_and(digits);
    }
    if let Some(blob) = name.strip_prefix(BLOBS) {
        return is_hex(blob);
    }
    [STATE, RECORDS, CA, KEYS].contains(&name)
}

fn each_member<E: From<FileError>>(
    path: &Path,
    visit: &mut dyn FnMut(&str, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(1 << 20, file));
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !entry.header().entry_type().is_file() {
            let what = format!("{name} is no plain file");
            return Err(FileError::Damaged { path: path.to_owned(), what }.into());
        }
        visit(&name, &mut entry)?;
    }
    Ok(())
}
