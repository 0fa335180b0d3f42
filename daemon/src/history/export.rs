//! The segments as files, for a backup: which there are, and how much of each belongs to it.
//!
//! It reads only, and works beside a running daemon: segments are only appended to, and each is
//! held open, so that one which is dropped or replaced meanwhile is still read as it was.

use super::segment::{index_path, segment_path};
use super::{HistoryError, append, recover};
use std::fs::File;
use std::path::Path;

/// A file of the history.
#[derive(Debug)]
pub struct Piece {
    /// Its name in the folder.
    pub name: String,
    /// The file, at its beginning.
    pub file: File,
    /// How many of its bytes belong to the backup.
    pub bytes: u64,
}

/// The files that hold the records up to `upto`, which must be durable. The last one may hold a few
/// more, to the end of a block; whoever opens them says where the chain ends.
///
/// # Errors
/// What the operating system said: a segment may have been dropped below the floor meanwhile.
pub fn pieces(folder: &Path, upto: u64) -> Result<Vec<Piece>, HistoryError> {
    if upto == 0 {
        return Ok(Vec::new());
    }
    let mut firsts = append::firsts(folder)?;
    let growing = firsts.last().copied();
    firsts.retain(|first| *first <= upto);
    let mut pieces = Vec::new();
    for (nth, first) in firsts.iter().enumerate() {
        let path = segment_path(folder, *first);
        let mut piece = piece(&path)?;
        let last = nth + 1 == firsts.len();
        if last {
            let scan = recover::scan(&path, *first, Some(*first) == growing)?;
            let next = scan.places.iter().find(|place| place.first > upto);
            piece.bytes = next.map_or(scan.bytes, |place| place.offset);
        }
        pieces.push(piece);
        let index = index_path(folder, *first);
        if !last && index.exists() {
            pieces.push(self::piece(&index)?);
        }
    }
    Ok(pieces)
}

fn piece(path: &Path) -> Result<Piece, HistoryError> {
    let file = File::open(path).map_err(HistoryError::io("open", path))?;
    let bytes = file.metadata().map_err(HistoryError::io("read", path))?.len();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Piece { name, file, bytes })
}
