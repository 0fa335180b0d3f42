//! What a command prints: kept up to a limit, counted beyond, hashed, and shown in part.
//!
//! Owns the output file while the shim writes it, the replacement of secrets before a byte of
//! them reaches a file, and the excerpt that records carry (ruling 32). Called by the shim
//! (writing) and the host (reading). It stops no program: a full disk ends the keeping, not the
//! command.

use sha2::{Digest, Sha256};
use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Bytes of the beginning and of the end that an excerpt shows, each (ruling 32).
pub const EXCERPT_BYTES: usize = 32 << 10;
/// What stands for a secret in an output.
const WITHHELD: &[u8] = b"[secret]";
/// Shorter values are not replaced: they would turn up in any text.
const SECRET_BYTES_MIN: usize = 4;

/// Replaces secrets in a stream, also where one arrives in pieces.
pub(crate) struct Redactor {
    secrets: Vec<Zeroizing<Vec<u8>>>,
    held: Zeroizing<Vec<u8>>,
}

impl Redactor {
    /// Replaces these values; longer ones win over shorter ones that they contain.
    pub fn new(secrets: Vec<String>) -> Redactor {
        let mut secrets: Vec<_> = secrets
            .into_iter()
            .filter(|secret| secret.len() >= SECRET_BYTES_MIN)
            .map(|secret| Zeroizing::new(secret.into_bytes()))
            .collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Redactor { secrets, held: Zeroizing::default() }
    }

    /// Takes bytes and returns those that are decided; what may be the beginning of a secret is
    /// held back until more comes.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.secrets.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        self.decide(false)
    }

    /// The bytes that are still held back.
    pub fn finish(&mut self) -> Vec<u8> {
        self.decide(true)
    }

    fn decide(&mut self, last: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len());
        let mut rest = self.held.as_slice();
        while let Some(&first) = rest.first() {
            let starts = |secret: &&Zeroizing<Vec<u8>>| secret.first() == Some(&first);
            if !last && self.secrets.iter().filter(starts).any(|s| longer(s, rest)) {
                break;
            }
            let found = self.secrets.iter().filter(starts).find(|s| rest.starts_with(s));
            let taken = match found {
                Some(secret) => {
                    out.extend_from_slice(WITHHELD);
                    secret.len()
                }
                None => {
                    out.push(first);
                    1
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        let held = Zeroizing::new(rest.to_vec());
        self.held = held;
        out
    }
}

/// Whether `secret` begins with all of `bytes` and goes on.
fn longer(secret: &[u8], bytes: &[u8]) -> bool {
    secret.len() > bytes.len() && secret.starts_with(bytes)
}

/// The output of one command while it is written.
pub(crate) struct Capture {
    file: File,
    end_path: PathBuf,
    redactor: Redactor,
    digest: Sha256,
    limit: u64,
    kept: u64,
    total: u64,
    end: VecDeque<u8>,
    trouble: Option<String>,
}

/// What was captured.
pub(crate) struct Captured {
    pub output_bytes: u64,
    pub kept_bytes: u64,
    pub sha256: Option<String>,
    pub trouble: Option<String>,
}

impl Capture {
    /// Begins an output file of at most `limit` bytes; the end of what lies beyond goes to
    /// `end_path`.
    pub fn create(
        path: &Path,
        end_path: PathBuf,
        limit: u64,
        secrets: Vec<String>,
    ) -> io::Result<Capture> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Capture {
            file,
            end_path,
            redactor: Redactor::new(secrets),
            digest: Sha256::new(),
            limit,
            kept: 0,
            total: 0,
            end: VecDeque::new(),
            trouble: None,
        })
    }

    /// Takes what the program printed.
    pub fn take(&mut self, bytes: &[u8]) {
        let decided = self.redactor.pass(bytes);
        self.keep(&decided);
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = usize::try_from(self.limit - self.kept).unwrap_or(usize::MAX);
        let (kept, beyond) = bytes.split_at(room.min(bytes.len()));
        match self.file.write_all(kept) {
            Ok(()) => {
                self.kept += kept.len() as u64;
                self.digest.update(kept);
            }
            Err(error) => {
                // What was written of this piece is cut again: the digest covers `kept` exactly.
                let _ = self.file.set_len(self.kept);
                self.limit = self.kept;
                self.trouble.get_or_insert(format!("the output could not be kept: {error}"));
                self.remember(kept);
            }
        }
        self.remember(beyond);
    }

    fn remember(&mut self, bytes: &[u8]) {
        let last = bytes.get(bytes.len().saturating_sub(EXCERPT_BYTES)..).unwrap_or_default();
        let excess = (self.end.len() + last.len()).saturating_sub(EXCERPT_BYTES);
        self.end.drain(..excess);
        self.end.extend(last);
    }

    /// Ends and syncs the output.
    pub fn finish(mut self) -> Captured {
        let held = self.redactor.finish();
        self.keep(&held);
        let written = if self.end.is_empty() { Ok(()) } else { self.write_end() };
        if let Err(error) = written.and_then(|()| self.file.sync_all()) {
            self.trouble.get_or_insert(format!("the output could not be kept: {error}"));
        }
        Captured {
            output_bytes: self.total,
            kept_bytes: self.kept,
            sha256: (self.kept > 0).then(|| hex(&self.digest.finalize())),
            trouble: self.trouble,
        }
    }

    fn write_end(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.end_path)?;
        file.write_all(self.end.make_contiguous())?;
        file.sync_all()
    }
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text of an output for a record: all of it up to 64 KiB, else both ends and how much lies
/// between. Second value: whether something is missing.
pub(crate) fn excerpt(
    output: &Path,
    output_end: &Path,
    kept: u64,
    total: u64,
) -> io::Result<(String, bool)> {
    if kept == total && kept <= 2 * EXCERPT_BYTES as u64 {
        let whole = read_part(output, 0, 2 * EXCERPT_BYTES)?;
        let (text, cut) = clip(&String::from_utf8_lossy(&whole), 2 * EXCERPT_BYTES, Side::First);
        return Ok((text, cut));
    }
    let first = read_part(output, 0, EXCERPT_BYTES)?;
    let last = if kept == total {
        read_part(output, kept - EXCERPT_BYTES as u64, EXCERPT_BYTES)?
    } else {
        read_part(output_end, 0, EXCERPT_BYTES)?
    };
    let between = total.saturating_sub((first.len() + last.len()) as u64);
    let (first, _) = clip(&String::from_utf8_lossy(&first), EXCERPT_BYTES, Side::First);
    let (last, _) = clip(&String::from_utf8_lossy(&last), EXCERPT_BYTES, Side::Last);
    Ok((format!("{first}\n[{between} bytes not shown]\n{last}"), true))
}

/// Which side of a text stays.
#[derive(Clone, Copy)]
enum Side {
    First,
    Last,
}

/// Cuts a text to at most `bytes` bytes: bytes that are no UTF-8 have grown to three each.
fn clip(text: &str, bytes: usize, side: Side) -> (String, bool) {
    let part = match side {
        Side::First => text.get(..text.floor_char_boundary(bytes)),
        Side::Last => text.get(text.ceil_char_boundary(text.len().saturating_sub(bytes))..),
    };
    (part.unwrap_or_default().to_owned(), text.len() > bytes)
}

/// At most `bytes` bytes of a file from an offset; nothing if the file does not exist.
pub(crate) fn read_part(path: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut part = Vec::new();
    file.take(bytes as u64).read_to_end(&mut part)?;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(secrets: &[&str], text: &str, size: usize) -> String {
        let mut redactor = Redactor::new(secrets.iter().map(ToString::to_string).collect());
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            out.extend(redactor.pass(piece));
        }
        out.extend(redactor.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_secret_is_withheld_however_it_arrives() {
        let text = "a hunter2 b hunhunter2hunter22 hunter";
        for size in 1..=text.len() {
            let out = pieces(&["hunter2", "hunter22", "abc"], text, size);
            assert_eq!(out, "a [secret] b hun[secret][secret] hunter", "pieces of {size}");
        }
        assert_eq!(pieces(&[], text, 5), text);
    }

    #[test]
    fn the_limit_keeps_the_beginning_and_the_very_end() {
        let folder = std::env::temp_dir().join(format!("tiebeam-capture-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, end) = (folder.join("output"), folder.join("output.end"));
        let mut capture = Capture::create(&path, end.clone(), 10, Vec::new()).unwrap();
        capture.take(b"0123456");
        capture.take(b"789abc");
        capture.take(&vec![b'x'; 100_000]);
        capture.take(b"the end");
        let captured = capture.finish();
        assert_eq!((captured.output_bytes, captured.kept_bytes), (100_020, 10));
        assert_eq!(captured.sha256, Some(hex(&Sha256::digest(b"0123456789"))));
        let (text, truncated) = excerpt(&path, &end, 10, 100_020).unwrap();
        assert!(truncated && text.starts_with("0123456789\n[67242 bytes not shown]\nxxx"));
        assert!(text.ends_with("xthe end") && text.len() < 2 * EXCERPT_BYTES);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn bytes_that_are_no_text_do_not_grow_beyond_the_limit() {
        let folder = std::env::temp_dir().join(format!("tiebeam-excerpt-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("output");
        std::fs::write(&path, vec![0xff; 60_000]).unwrap();
        let (text, truncated) = excerpt(&path, Path::new("/none"), 60_000, 60_000).unwrap();
        assert!(truncated && text.len() <= 2 * EXCERPT_BYTES);
        std::fs::write(&path, vec![b'y'; 200_000]).unwrap();
        let (text, truncated) = excerpt(&path, Path::new("/none"), 200_000, 200_000).unwrap();
        assert!(truncated && text.contains(&format!("[{} bytes", 200_000 - 2 * EXCERPT_BYTES)));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
