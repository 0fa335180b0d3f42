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
    let file = File::open(path).map_err(HistoryError::io("open", path))?;
    let length = file.metadata().map_err(HistoryError::io("read", path))?.len();
    let mut scan = Scan {
        places: Vec::new(),
        previous: GENESIS,
        last: first.saturating_sub(1),
        head: GENESIS,
        bytes: 0,
        torn: 0,
    };
    let (mut newest, mut kept, mut stored) = (None, Vec::new(), Vec::new());
    while scan.bytes < length {
        let Some(header) = valid(&file, path, scan.bytes, length, &mut stored)? else {
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
        std::mem::swap(&mut kept, &mut stored);
        newest = Some(header);
    }
    if let Some(header) = &newest {
        let at = scan.bytes - header.file_bytes();
        let block = Block::decode(header, &kept);
        scan.head = block.map_err(|what| HistoryError::damaged(path, at, what))?.head();
    }
    scan.torn = length - scan.bytes;
    if scan.torn > 0 {
        judge_tail(&file, path, scan.bytes, length, tail)?;
    }
    Ok(scan)
}

/// The header at this offset, if a valid block begins there; its stored bytes go to `stored`.
fn valid(
    file: &File,
    path: &Path,
    offset: u64,
    length: u64,
    stored: &mut Vec<u8>,
) -> Result<Option<Header>, HistoryError> {
    let mut bytes = [0; HEADER_BYTES];
    if length - offset < HEADER_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, offset).map_err(HistoryError::io("read", path))?;
    let Some(header) = Header::read(&bytes) else {
        return Ok(None);
    };
    if header.file_bytes() > length - offset {
        return Ok(None);
    }
    stored.resize(header.stored_bytes as usize, 0);
    file.read_exact_at(stored, offset + HEADER_BYTES as u64)
        .map_err(HistoryError::io("read", path))?;
    Ok(header.holds(stored).then_some(header))
}

/// Decides about what lies behind the last valid block: an error if it is damage.
fn judge_tail(
    file: &File,
    path: &Path,
    from: u64,
    length: u64,
    tail: bool,
) -> Result<(), HistoryError> {
    let damage = |what: &str| Err(HistoryError::damaged(path, from, what));
    if let Some(format) = other_format(file, from) {
        let what = format!("a block has format {format}, which this version does not read");
        return Err(HistoryError::damaged(path, from, what));
    }
    if !tail {
        return damage("a block in a finished segment is not what was written");
    }
    let mut rest = vec![0; (length - from) as usize];
    file.read_exact_at(&mut rest, from).map_err(HistoryError::io("read", path))?;
    let mut stored = Vec::new();
    let mut at = 1;
    while let Some(found) = rest.get(at..).and_then(next_magic) {
        at += found;
        if let Some(header) = valid(file, path, from + at as u64, length, &mut stored)? {
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
