//! The cases of damage: which byte of which file, and what may come of it.
//!
//! Owns where things lie in a data folder, as the formats of log, snapshot and history say it. It
//! damages copies only; [`super::flip`] calls it.

use super::Failure;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where the two heads of a log segment lie, and where its records begin.
const HEADS: [u64; 2] = [0, 4096];
const RECORDS_START: u64 = 8192;
const RECORD_HEADER: u64 = 28;
/// Where a head keeps its stamp, and the end of what was durable.
const STAMP: u64 = 32;
const DURABLE_TO: u64 = 40;

/// One kind of damage.
pub struct Case {
    /// What is damaged, in words.
    pub what: &'static str,
    /// Does it to a data folder.
    pub damage: fn(&Path) -> Result<(), Failure>,
    /// Whether the node may refuse to start: what is damaged is nowhere else.
    pub may_refuse: bool,
    /// Whether `tiebeamd check` must name it: false for what is made again by itself.
    pub check_must_name: bool,
}

const fn case(
    what: &'static str,
    damage: fn(&Path) -> Result<(), Failure>,
    may_refuse: bool,
    check_must_name: bool,
) -> Case {
    Case { what, damage, may_refuse, check_must_name }
}

/// Every case, in the order of the table. Of the open history segment, what was not synced is cut
/// and made again from the log: whether damage there is one depends on the moment. A log without
/// its last segment has no wrong byte: node and check know by the history.
pub const CASES: &[Case] = &[
    case("log: bit in the last record", |data| log_record(data, Which::Last), true, true),
    case("log: bit in a middle record", |data| log_record(data, Which::Middle), true, true),
    case("log: bit in the first record", |data| log_record(data, Which::First), true, true),
    case("log: bit in the newer head", |data| log_head(data, &[0]), true, false),
    case("log: bit in the older head", |data| log_head(data, &[1]), false, false),
    case("log: bits in both heads", |data| log_head(data, &[0, 1]), true, true),
    case("log: newest segment cut in half", log_cut, true, true),
    case("log: a segment in between deleted", log_gap, true, true),
    case("log: newest segment deleted", log_end, true, true),
    case("snapshot: bit in the newest", |data| snapshot(data, 1), false, true),
    case("snapshot: bit in both", |data| snapshot(data, 2), true, true),
    case("snapshot: newest deleted", snapshot_gone, false, false),
    case("history: bit in the last block", |data| history(data, Place::LastBlock), true, false),
    case("history: bit in the middle, open", |data| history(data, Place::Open), true, false),
    case("history: bit in the middle, sealed", |data| history(data, Place::Sealed), true, true),
    case("history: bit in an index file", history_index, false, false),
    case("history: sealed segment deleted", history_gone, true, true),
    case("history: open segment deleted", history_end, true, false),
    case("index/ deleted", index_gone, false, false),
    case("index/: random bytes", index_noise, false, false),
    case("index/: sled's file cut in half", index_cut, false, false),
];

/// Files of a folder whose names begin and end so, in the order of their names.
fn files(folder: &Path, begin: &str, end: &str) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(begin) && name.ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn newest(folder: &Path, begin: &str, end: &str) -> Result<PathBuf, Failure> {
    let found = files(folder, begin, end)?.pop();
    found.ok_or_else(|| format!("{} has no {begin}*{end}", folder.display()).into())
}

/// How many snapshots there are but for the one that `init` made.
///
/// # Errors
/// The folder cannot be read.
pub fn snapshots(data: &Path) -> Result<usize, Failure> {
    let made_later = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.trim_start_matches("snap-").parse::<u64>().is_ok_and(|index| index > 10)
    };
    Ok(files(&data.join("snapshots"), "snap-", "")?.iter().filter(made_later).count())
}

/// Whether the log still has its very first segment.
pub fn has_first_log_segment(data: &Path) -> bool {
    data.join("log/seg-00000000000000000001").exists()
}

/// Whether there are two snapshots behind the first one, several log segments, a sealed history
/// segment and an open one.
///
/// # Errors
/// The folder cannot be read.
pub fn is_complete(data: &Path) -> Result<bool, Failure> {
    let history = data.join("history");
    let (segments, sealed) = (files(&history, "", ".seg")?, files(&history, "", ".idx")?);
    Ok(snapshots(data)? >= 2
        && files(&data.join("log"), "seg-", "")?.len() >= 3
        && !sealed.is_empty()
        && segments.len() > sealed.len()
        && fs::metadata(segments.last().ok_or("no segment")?)?.len() > 1 << 20)
}

fn open(path: &Path) -> Result<File, Failure> {
    Ok(File::options().read(true).write(true).open(path)?)
}

/// Turns one bit around.
fn flip(path: &Path, at: u64) -> Result<(), Failure> {
    let (file, mut byte) = (open(path)?, [0]);
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)?;
    Ok(())
}

fn cut(path: &Path) -> Result<(), Failure> {
    let file = open(path)?;
    let half = file.metadata()?.len() / 2;
    Ok(file.set_len(half)?)
}

fn number(file: &File, at: u64) -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Which of a segment's two head sectors is the newer one.
fn newer_head(file: &File) -> Result<usize, Failure> {
    Ok(usize::from(number(file, HEADS[1] + STAMP)? > number(file, HEADS[0] + STAMP)?))
}

/// The newest log segment that has records, and where they begin.
fn log_records(data: &Path) -> Result<(PathBuf, Vec<u64>), Failure> {
    for path in files(&data.join("log"), "seg-", "")?.into_iter().rev() {
        let file = open(&path)?;
        let end = number(&file, HEADS[newer_head(&file)?] + DURABLE_TO)?;
        let (mut at, mut records) = (RECORDS_START, Vec::new());
        while at + RECORD_HEADER <= end {
            records.push(at);
            let length = number(&file, at)? >> 32;
            at += RECORD_HEADER + length;
        }
        // The first one only ties the segment to the one before.
        if records.len() > 3 {
            return Ok((path, records));
        }
    }
    Err("the log has no records".into())
}

enum Which {
    First,
    Middle,
    Last,
}

fn log_record(data: &Path, which: Which) -> Result<(), Failure> {
    let (path, records) = log_records(data)?;
    let at = match which {
        Which::First => records[1],
        Which::Middle => records[records.len() / 2],
        Which::Last => records[records.len() - 1],
    };
    // A byte of the record's index: every record has it.
    flip(&path, at + 9)
}

/// Damages the newer (0) or the older (1) head of the newest segment.
fn log_head(data: &Path, which: &[usize]) -> Result<(), Failure> {
    let (path, _) = log_records(data)?;
    let newer = newer_head(&open(&path)?)?;
    which.iter().try_for_each(|older| flip(&path, HEADS[newer ^ older] + 17))
}

fn log_cut(data: &Path) -> Result<(), Failure> {
    let (path, records) = log_records(data)?;
    Ok(open(&path)?.set_len(records[records.len() / 2])?)
}

fn log_gap(data: &Path) -> Result<(), Failure> {
    let all = files(&data.join("log"), "seg-", "")?;
    Ok(fs::remove_file(&all[all.len() / 2])?)
}

fn log_end(data: &Path) -> Result<(), Failure> {
    Ok(fs::remove_file(log_records(data)?.0)?)
}

fn snapshot(data: &Path, count: usize) -> Result<(), Failure> {
    for path in files(&data.join("snapshots"), "snap-", "")?.iter().rev().take(count) {
        flip(path, fs::metadata(path)?.len() / 2)?;
    }
    Ok(())
}

fn snapshot_gone(data: &Path) -> Result<(), Failure> {
    Ok(fs::remove_file(newest(&data.join("snapshots"), "snap-", "")?)?)
}

enum Place {
    LastBlock,
    Open,
    Sealed,
}

fn history(data: &Path, place: Place) -> Result<(), Failure> {
    let folder = data.join("history");
    let path = match place {
        Place::LastBlock | Place::Open => newest(&folder, "", ".seg")?,
        Place::Sealed => newest(&folder, "", ".idx")?.with_extension("seg"),
    };
    let bytes = fs::metadata(&path)?.len();
    let at = match place {
        Place::LastBlock => bytes - 40,
        Place::Open | Place::Sealed => bytes / 2,
    };
    flip(&path, at)
}

fn history_index(data: &Path) -> Result<(), Failure> {
    let path = newest(&data.join("history"), "", ".idx")?;
    flip(&path, fs::metadata(&path)?.len() / 2)
}

fn history_gone(data: &Path) -> Result<(), Failure> {
    let index = newest(&data.join("history"), "", ".idx")?;
    fs::remove_file(index.with_extension("seg"))?;
    Ok(fs::remove_file(index)?)
}

fn history_end(data: &Path) -> Result<(), Failure> {
    Ok(fs::remove_file(newest(&data.join("history"), "", ".seg")?)?)
}

fn index_gone(data: &Path) -> Result<(), Failure> {
    Ok(fs::remove_dir_all(data.join("index"))?)
}

fn index_noise(data: &Path) -> Result<(), Failure> {
    let path = data.join("index/db");
    let bytes = fs::metadata(&path)?.len();
    let noise = super::Dice::new(bytes).text(4096);
    Ok(open(&path)?.write_all_at(noise.as_bytes(), bytes / 3)?)
}

fn index_cut(data: &Path) -> Result<(), Failure> {
    cut(&data.join("index/db"))
}
