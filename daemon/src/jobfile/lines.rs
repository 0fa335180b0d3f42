//! The days' `chain.jsonl`: one line for every record, in the order of the chain.
//!
//! A record's line lies in the folder of the UTC day on which it was archived, by the record's own
//! time. Lines are appended and never changed. Lines above the watermark may have been torn by a
//! loss of power: at the start they are believed as far as each follows from the one before it and
//! the history has the last one; the rest is cut and written again. So no record has two lines and
//! none is missing, and where only the process ended nothing is written twice.

use super::folder::{day_path, make_folder};
use crate::history::{Facts, Linked};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tiebeam_proto::chain::{ChainLine, LINES_NAME};
use tiebeam_proto::record::ChainLink;
use tiebeam_proto::time::Time;

/// Longest line that is believed: two hashes, a number, a job's id.
const LINE_BYTES_MAX: usize = 1024;

/// The lines of all days.
pub(super) struct Lines {
    folder: PathBuf,
    /// The newest record that has its line.
    pub(super) upto: u64,
    /// When the record ended whose line was appended last; a pruned one has no time of its own.
    ended: i64,
}

impl Lines {
    /// Finds out how far the lines go, given the day folders in their order and the watermark, and
    /// cuts what lies above. Above the watermark, or the newest line if there is none, lines are
    /// believed up to the record `newest` if they link, and the last one has the hash that
    /// `in_history` gives for its record. Without lines all are due again.
    pub(super) fn open(
        folder: &Path,
        days: &[PathBuf],
        mark: Option<u64>,
        newest: u64,
        in_history: impl Fn(u64) -> Option<String>,
    ) -> io::Result<Lines> {
        let (mut last, mut files) = (0, Vec::new());
        for day in days {
            let path = day.join(LINES_NAME);
            if path.exists() {
                let file = OpenOptions::new().read(true).write(true).open(&path)?;
                last = cut_torn(&file)?.max(last);
                files.push(file);
            }
        }
        let mark = mark.unwrap_or(last).min(last);
        let linked = linked_above(&files, mark, newest)?;
        let believed = linked.filter(|(index, this)| in_history(*index).as_ref() == Some(this));
        let upto = believed.map_or(mark, |(index, _)| index);
        for file in files {
            let length = file.metadata()?.len();
            let end = end_of(&file, length, upto)?;
            if end < length {
                file.set_len(end)?;
            }
        }
        Ok(Lines { folder: folder.to_owned(), upto, ended: 0 })
    }

    /// Appends the lines of records that follow, oldest first.
    pub(super) fn append(&mut self, records: &[Linked]) -> io::Result<()> {
        let mut dated = Vec::with_capacity(records.len());
        for record in records {
            let facts = record.facts();
            if record.canonical.is_some() || self.ended == 0 {
                self.ended = facts.ended;
            }
            dated.push((Time(self.ended).date(), record, facts));
        }
        for group in dated.chunk_by(|one, other| one.0 == other.0) {
            let Some((day, ..)) = group.first() else { continue };
            let lines = group.iter().map(|(_, record, facts)| line(&record.link, facts));
            self.append_to(&day_path(&self.folder, *day), &lines.collect::<String>())?;
            self.upto = group.last().map_or(self.upto, |(_, record, _)| record.link.index);
        }
        Ok(())
    }

    fn append_to(&self, day: &Path, text: &str) -> io::Result<()> {
        make_folder(day)?;
        let path = day.join(LINES_NAME);
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let before = file.metadata()?.len();
        file.write_all(text.as_bytes()).inspect_err(|_| {
            // Part of a line must not stand before the same line written again.
            let _ = file.set_len(before);
        })
    }
}

/// The last of the lines above `mark`, up to `newest`, that follow one from the other: its record
/// and hash.
fn linked_above(files: &[File], mark: u64, newest: u64) -> io::Result<Option<(u64, String)>> {
    let mut last: Option<(u64, String)> = None;
    for file in files {
        let mut from = file;
        from.seek(SeekFrom::Start(end_of(file, file.metadata()?.len(), mark)?))?;
        let mut lines = BufReader::new(from);
        let mut line = Vec::new();
        while lines.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)? > 0 {
            let Some(read) = ChainLine::parse(line.trim_ascii_end()) else { return Ok(last) };
            let follows = match &last {
                None => read.index == mark + 1,
                Some((index, this)) => read.index == index + 1 && read.previous == *this,
            };
            if !follows || read.index > newest {
                return Ok(last);
            }
            last = Some((read.index, read.this));
            line.clear();
        }
    }
    Ok(last)
}

/// The line of a record; of a pruned read the job is not known any more.
fn line(link: &ChainLink, facts: &Facts) -> String {
    let line = ChainLine {
        index: link.index,
        kind: facts.line_kind().to_owned(),
        job: facts.about().map(|id| id.to_string()),
        previous: link.previous.clone(),
        this: link.this.clone(),
    };
    line.to_line()
}

/// Cuts a line without an end; gives the record of the last line, 0 if there is none.
fn cut_torn(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * LINE_BYTES_MAX as u64);
    let mut tail = vec![0; (length - from) as usize];
    file.read_exact_at(&mut tail, from)?;
    let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if end < tail.len() {
        file.set_len(from + end as u64)?;
        tail.truncate(end);
    }
    let last = tail.strip_suffix(b"\n").and_then(|lines| lines.rsplit(|b| *b == b'\n').next());
    Ok(last.and_then(ChainLine::parse).map_or(0, |line| line.index))
}

/// Where the lines of records up to `upto` end. Lines are sorted, so this is a binary search.
fn end_of(file: &File, length: u64, upto: u64) -> io::Result<u64> {
    let (mut low, mut high) = (0, length);
    while low < high {
        let middle = low + (high - low) / 2;
        let start = if middle == low { Some(low) } else { after_newline(file, middle - 1, high)? };
        let Some(start) = start.filter(|start| *start < high) else {
            high = middle;
            continue;
        };
        let end = after_newline(file, start, length)?.unwrap_or(length);
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start)?;
        let index = ChainLine::parse(bytes.trim_ascii_end()).map_or(u64::MAX, |line| line.index);
        if index > upto {
            high = start;
        } else {
            low = end;
        }
    }
    Ok(low)
}

/// The place behind the first newline at or after `from`, if there is one before `end`.
fn after_newline(file: &File, from: u64, end: u64) -> io::Result<Option<u64>> {
    let mut at = from;
    let mut buffer = [0; LINE_BYTES_MAX];
    while at < end {
        let part = buffer.len().min((end - at) as usize);
        file.read_exact_at(&mut buffer[..part], at)?;
        if let Some(found) = buffer[..part].iter().position(|byte| *byte == b'\n') {
            return Ok(Some(at + found as u64 + 1));
        }
        at += part as u64;
    }
    Ok(None)
}
