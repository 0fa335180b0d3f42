//! Reads a segment file that has no index file, and tells a torn tail from damage.
//!
//! A block is valid or it is not; only the last segment may end in an invalid one. Behind it there
//! may still be valid blocks: the disk writes in any order. If one of them says that the invalid
//! place was synced before, that place is damage, and is reported; else everything from there on
//! was never acknowledged as durable, and is cut. Called when the history is opened.

use super::HistoryError;
use super::block::{Block, HEADER_BYTES, Header, MAGIC};
use super::segment::Place;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tiebeam_proto::chain::{GENESIS, Hash};

/// What a segment file holds.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) places: Vec<Place>,
    /// The hash that the first record follows.
    pub(super) previous: Hash,
    /// Index of the last record; one less than the first if there is none.
    pub(super) last: u64,
    pub(super) head: Hash,
    /// Bytes of valid blocks from the start.
    pub(super) bytes: u64,
    /// Bytes behind them, which are to be cut.
    pub(super) torn: u64,
}

/// Reads every block of the file. `tail` says whether the file may end in a torn tail.
pub(super) fn scan(path: &Path, first: u64, tail: bool) -> Result<Scan, HistoryError> {
    let mut window = Window::open(path)?;
    let length = window.length;
    let mut scan = Scan {
        places: Vec::new(),
        previous: GENESIS,
        last: first.saturating_sub(1),
        head: GENESIS,
        bytes: 0,
        torn: 0,
    };
    let mut newest = None;
    while scan.bytes < length {
        let Some((header, _)) = window.valid(scan.bytes)? else {
            break;
        };
        if header.first != scan.last + 1 {
            let what = format!("record {} follows {}", header.first, scan.last);
            return Err(HistoryError::damaged(path, scan.bytes, what));
        }
        if scan.places.is_empty() {
            scan.previous = header.previous;
        }
        scan.places.push(Place { first: header.first, offset: scan.bytes });
        scan.last = header.last();
        scan.bytes += header.file_bytes();
        newest = Some(header);
    }
    if let Some(newest) = &newest {
        let at = scan.bytes - newest.file_bytes();
        let Some((header, stored)) = window.valid(at)? else {
            return Err(HistoryError::damaged(path, at, "the block is another one now"));
        };
        let block = Block::decode(&header, stored);
        scan.head = block.map_err(|what| HistoryError::damaged(path, at, what))?.head();
    }
    scan.torn = length - scan.bytes;
    if scan.torn > 0 {
        judge_tail(&mut window, scan.bytes, tail)?;
    }
    Ok(scan)
}

/// Bytes that are read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A file, read in large pieces: blocks can be as small as a record.
struct Window<'a> {
    file: File,
    path: &'a Path,
    length: u64,
    /// Where `bytes` begin in the file.
    begin: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn open(path: &'a Path) -> Result<Window<'a>, HistoryError> {
        let file = File::open(path).map_err(HistoryError::io("open", path))?;
        let length = file.metadata().map_err(HistoryError::io("read", path))?.len();
        Ok(Window { file, path, length, begin: 0, bytes: Vec::new() })
    }

    /// So many bytes from here; `None` if the file ends before.
    fn read(&mut self, offset: u64, count: usize) -> Result<Option<&[u8]>, HistoryError> {
        if self.length.saturating_sub(offset) < count as u64 {
            return Ok(None);
        }
        let inside = |window: &Self| {
            let from = usize::try_from(offset.checked_sub(window.begin)?).ok()?;
            let to = from.checked_add(count)?;
            (to <= window.bytes.len()).then_some(from..to)
        };
        if inside(self).is_none() {
            let left = self.length - offset;
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(count.max(WINDOW_BYTES));
            self.bytes.resize(size, 0);
            self.begin = offset;
            let read = self.file.read_exact_at(&mut self.bytes, offset);
            read.map_err(HistoryError::io("read", self.path))?;
        }
        Ok(inside(self).and_then(|range| self.bytes.get(range)))
    }

    /// Header and stored bytes at this offset, if a valid block begins there.
    fn valid(&mut self, offset: u64) -> Result<Option<(Header, &[u8])>, HistoryError> {
        let head = self.read(offset, HEADER_BYTES)?.and_then(|bytes| bytes.first_chunk());
        let Some(header) = head.and_then(Header::read) else {
            return Ok(None);
        };
        let stored = self.read(offset + HEADER_BYTES as u64, header.stored_bytes as usize)?;
        Ok(stored.filter(|stored| header.holds(stored)).map(|stored| (header, stored)))
    }
}

/// Decides about what lies behind the last valid block: an error if it is damage.
fn judge_tail(window: &mut Window, from: u64, tail: bool) -> Result<(), HistoryError> {
    let path = window.path;
    let damage = |what: &str| Err(HistoryError::damaged(path, from, what));
    if let Some(format) = other_format(&window.file, from) {
        let what = format!("a block has format {format}, which this version does not read");
        return Err(HistoryError::damaged(path, from, what));
    }
    if !tail {
        return damage("a block in a finished segment is not what was written");
    }
    let mut rest = vec![0; (window.length - from) as usize];
    window.file.read_exact_at(&mut rest, from).map_err(HistoryError::io("read", path))?;
    let mut at = 1;
    while let Some(found) = rest.get(at..).and_then(next_magic) {
        at += found;
        if let Some((header, _)) = window.valid(from + at as u64)? {
            if header.durable_to > from {
                return damage("a block that had been synced is not what was written");
            }
            at += header.file_bytes() as usize;
        } else {
            at += 1;
        }
    }
    Ok(())
}

/// The format of the block at this offset, if it begins as one of another version.
fn other_format(file: &File, offset: u64) -> Option<char> {
    let mut begin = [0; MAGIC.len()];
    file.read_exact_at(&mut begin, offset).ok()?;
    let (name, format) = begin.split_at(MAGIC.len() - 1);
    let format = format.first().filter(|byte| byte.is_ascii_alphanumeric())?;
    // A single flipped bit makes no other format of this one: that is damage, judged as such.
    let is_other = (format ^ MAGIC[MAGIC.len() - 1]).count_ones() > 1;
    (name == &MAGIC[..name.len()] && is_other).then(|| char::from(*format))
}

fn next_magic(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MAGIC.len()).position(|window| window == MAGIC)
}
