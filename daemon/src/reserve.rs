//! The reserve (ruling 36): a file of nothing that holds room on the disk, `<data>/reserve`.
//!
//! This module makes the file and removes it; [`crate::space`] says when. The room is asked of the
//! file system, not written, so it costs no time and no wear; a copy of the file may have holes,
//! and then holds nothing and is made again. Where the file system has no such promise there is no
//! reserve. Nothing is ever read from it.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file's name below the data folder.
pub const FILE: &str = "reserve";

/// Bytes of a block of `st_blocks`, whatever the file system's own are.
const BLOCK: u64 = 512;

/// The reserve of a data folder.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    held: u64,
}

impl Reserve {
    /// The reserve as it is there.
    pub fn of(data: &Path) -> Reserve {
        let path = data.join(FILE);
        let held = held(&path);
        Reserve { path, held }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.held
    }

    /// Makes it hold this many bytes; 0 gives all of them back.
    ///
    /// # Errors
    /// What the system said; then it holds nothing, or what it held if it could not be removed.
    pub fn hold(&mut self, bytes: u64) -> io::Result<()> {
        if bytes == self.held {
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => self.held = 0,
        }
        if bytes == 0 {
            return Ok(());
        }
        let made = allocate(&self.path, bytes);
        self.held = held(&self.path);
        if self.held < bytes {
            let _ = fs::remove_file(&self.path);
            self.held = 0;
        }
        made
    }
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
}

/// Bytes of a file that are really there; 0 if there are holes in it, or no file.
fn held(path: &Path) -> u64 {
    let facts = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file);
    facts.filter(|facts| facts.blocks() * BLOCK >= facts.len()).map_or(0, |facts| facts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::scratch::Folder;

    #[test]
    fn it_holds_what_it_says_and_is_made_again_with_holes() {
        let folder = Folder::new();
        let path = folder.path().join(FILE);
        let mut reserve = Reserve::of(folder.path());
        assert_eq!(reserve.bytes(), 0);
        for bytes in [1 << 20, 3 << 20, 2 << 20] {
            reserve.hold(bytes).unwrap();
            let facts = fs::metadata(&path).unwrap();
            assert_eq!((reserve.bytes(), facts.len()), (bytes, bytes));
            assert!(facts.blocks() * BLOCK >= bytes);
            assert_eq!(facts.mode() & 0o7777, 0o600);
        }
        assert_eq!(Reserve::of(folder.path()).bytes(), 2 << 20);
        // As a copy that leaves out what is zero.
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap().set_len(2 << 20).unwrap();
        let mut reserve = Reserve::of(folder.path());
        assert_eq!(reserve.bytes(), 0);
        reserve.hold(1 << 20).unwrap();
        assert_eq!(Reserve::of(folder.path()).bytes(), 1 << 20);
        reserve.hold(0).unwrap();
        assert!(!path.exists());
    }
}
