//! Reads the segments of a log folder and tells what is there: entries, a torn tail, or damage.
//!
//! Reads only; [`super::Log::open`] and [`super::verify`] call it. The rule (ruling 18): an invalid
//! record above what the segment's head promises as durable is a torn tail, at or below it is
//! damage. A segment that has a successor was durable to its end before the successor's first
//! record was written, and that record (the link) pins the end and the last checksum.

use super::format::{
    FORMAT, HEAD_BYTES, HEAD_OFFSETS, Head, Link, RECORD_HEADER, RECORDS_START, RecordHeader,
    RecordKind,
};
use super::replay::Replay;
use super::{Damage, DamageReason, Finding, FindingKind};
use crate::entry::Mark;
use crate::seams::{Disk, DiskError, FileId, OpenMode};

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;
/// A tail counts as ended where this many zeros follow. Only the report of a cut depends on it.
const QUIET_BYTES: usize = 64 << 10;

/// A segment that was read.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub sequence: u64,
    pub path: String,
    pub file_len: u64,
    pub head: Head,
    /// Which of the two head sectors holds `head`.
    pub head_slot: usize,
    /// Offset behind the last valid record, and its checksum.
    pub end: u64,
    pub chain: u32,
    pub max_index: u64,
    /// Whether it has records at all; one prepared for later has none.
    pub linked: bool,
}

/// All segments together.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub replay: Replay,
    pub segments: Vec<Found>,
    pub spares: Vec<String>,
    pub damage: Option<Damage>,
    pub torn_bytes: u64,
    pub findings: Vec<Finding>,
}

/// Path of a segment.
pub(crate) fn segment_path(folder: &str, sequence: u64) -> String {
    format!("{folder}/seg-{sequence:020}")
}

/// Reads everything in `folder`.
pub(crate) fn scan<D: Disk>(disk: &mut D, folder: &str) -> Result<Scan, DiskError> {
    let mut scan = Scan::default();
    let mut sequences = Vec::new();
    for name in disk.list(folder)? {
        if let Some(digits) = name.strip_prefix("seg-") {
            match digits.parse::<u64>() {
                Ok(sequence) => sequences.push(sequence),
                Err(_) => scan.note(&format!("{folder}/{name}"), "a name that no segment has"),
            }
        } else if name.starts_with("spare-") {
            scan.spares.push(format!("{folder}/{name}"));
        }
    }
    sequences.sort_unstable();
    for sequence in sequences {
        scan.segment(disk, folder, sequence)?;
        if scan.damage.is_some() {
            break;
        }
    }
    scan.count_torn(disk)?;
    Ok(scan)
}

impl Scan {
    fn note(&mut self, path: &str, what: &str) {
        self.findings.push(Finding {
            kind: FindingKind::Note,
            path: path.to_owned(),
            offset: 0,
            what: what.to_owned(),
        });
    }

    fn damaged(&mut self, path: &str, offset: u64, reason: DamageReason) {
        let damage =
            Damage { path: path.to_owned(), offset, reason, intact_to: self.replay.last() };
        self.findings.push(Finding {
            kind: FindingKind::Damage,
            path: path.to_owned(),
            offset,
            what: damage.to_string(),
        });
        self.damage = Some(damage);
    }

    fn segment<D: Disk>(
        &mut self,
        disk: &mut D,
        folder: &str,
        sequence: u64,
    ) -> Result<(), DiskError> {
        if let Some(before) = self.segments.last()
            && before.sequence + 1 != sequence
        {
            let missing = segment_path(folder, before.sequence + 1);
            self.damaged(&missing, 0, DamageReason::SegmentMissing);
            return Ok(());
        }
        let path = segment_path(folder, sequence);
        let file = disk.open(&path, OpenMode::Read)?;
        let outcome = self.opened_segment(disk, file, &path, sequence);
        disk.close(file);
        outcome
    }

    fn opened_segment<D: Disk>(
        &mut self,
        disk: &mut D,
        file: FileId,
        path: &str,
        sequence: u64,
    ) -> Result<(), DiskError> {
        let heads = read_heads(disk, file, sequence)?;
        let newest = heads.iter().enumerate().filter_map(|(slot, head)| Some((slot, (*head)?)));
        let Some((head_slot, head)) = newest.max_by_key(|(_, head)| head.stamp) else {
            let reason = match has_other_format(disk, file)? {
                true => DamageReason::Format,
                false => DamageReason::HeadsUnreadable,
            };
            self.damaged(path, 0, reason);
            return Ok(());
        };
        for (slot, head) in heads.iter().enumerate() {
            if head.is_none() {
                self.findings.push(Finding {
                    kind: FindingKind::HeadUnreadable,
                    path: path.to_owned(),
                    offset: HEAD_OFFSETS[slot],
                    what: "one of two head sectors is unreadable; the other one serves".to_owned(),
                });
            }
        }
        let file_len = disk.file_len(file)?;
        let mut found = Found {
            sequence,
            path: path.to_owned(),
            file_len,
            head,
            head_slot,
            end: RECORDS_START,
            chain: 0,
            max_index: 0,
            linked: false,
        };
        let sound = self.records(disk, file, &mut found)?;
        let promised = found.head.durable_to > found.end;
        let end = found.end;
        self.segments.push(found);
        match sound {
            Err((path, offset, reason)) => self.damaged(&path, offset, reason),
            Ok(()) if promised => self.damaged(path, end, DamageReason::RecordInvalid),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Replays the segment's records up to the first invalid one. The inner error is damage that
    /// the records themselves show.
    #[allow(clippy::type_complexity)]
    fn records<D: Disk>(
        &mut self,
        disk: &mut D,
        file: FileId,
        found: &mut Found,
    ) -> Result<Result<(), (String, u64, DamageReason)>, DiskError> {
        let mut window = Window::new(file, found.file_len);
        while let Some(header) = window.fetch(disk, found.end, RECORD_HEADER)? {
            let header = RecordHeader::decode(header);
            let record_bytes = header.record_bytes();
            let Some(record) = window.fetch(disk, found.end, record_bytes as usize)? else {
                break;
            };
            let Some(kind) = header.check(found.head.generation, found.chain, record) else {
                break;
            };
            let payload = &record[RECORD_HEADER..];
            if found.linked == (kind == RecordKind::Link) {
                let reason = DamageReason::OutOfOrder;
                return Ok(Err((found.path.clone(), found.end, reason)));
            }
            if kind == RecordKind::Link
                && let Err(damage) = self.follows(Link::decode(payload))
            {
                return Ok(Err(damage));
            }
            let mark = Mark { index: header.index, term: header.term };
            if !self.replay.take(kind, mark, payload) {
                let reason = DamageReason::OutOfOrder;
                return Ok(Err((found.path.clone(), found.end, reason)));
            }
            if let RecordKind::Entry(_) | RecordKind::Reset = kind {
                found.max_index = found.max_index.max(header.index);
            }
            found.linked = true;
            found.end += record_bytes;
            found.chain = header.crc;
        }
        Ok(Ok(()))
    }

    /// Whether a segment with this link may follow the one read before.
    fn follows(&self, link: Option<Link>) -> Result<(), (String, u64, DamageReason)> {
        let Some(before) = self.segments.last() else { return Ok(()) };
        let fits = link.is_some_and(|link| {
            before.linked && link.previous_end == before.end && link.previous_chain == before.chain
        });
        if fits {
            return Ok(());
        }
        Err((before.path.clone(), before.end, DamageReason::RecordInvalid))
    }

    /// Counts what lies behind the last valid record, for the report.
    fn count_torn<D: Disk>(&mut self, disk: &mut D) -> Result<(), DiskError> {
        if self.damage.is_some() {
            return Ok(());
        }
        let last = self.segments.iter().rposition(|found| found.linked).unwrap_or(0);
        for found in self.segments.iter().skip(last) {
            // Behind the records of a recycled segment lie those of its former life.
            if found.head.recycled {
                continue;
            }
            let file = disk.open(&found.path, OpenMode::Read)?;
            let mut window = Window::new(file, found.file_len);
            let torn = window.until_quiet(disk, found.end);
            disk.close(file);
            let torn = torn?;
            if torn > 0 {
                self.torn_bytes += torn;
                self.findings.push(Finding {
                    kind: FindingKind::TornTail,
                    path: found.path.clone(),
                    offset: found.end,
                    what: format!("{torn} bytes of a write that was never acknowledged"),
                });
            }
        }
        Ok(())
    }
}

fn read_heads<D: Disk>(
    disk: &mut D,
    file: FileId,
    sequence: u64,
) -> Result<[Option<Head>; 2], DiskError> {
    let mut heads = [None, None];
    for (offset, head) in HEAD_OFFSETS.iter().zip(&mut heads) {
        let mut sector = [0; HEAD_BYTES];
        if disk.read_at(file, *offset, &mut sector)? == HEAD_BYTES {
            *head = Head::decode(&sector).filter(|head| head.sequence == sequence);
        }
    }
    Ok(heads)
}

/// Whether a head of the segment is whole, and of a format that is not read here.
fn has_other_format<D: Disk>(disk: &mut D, file: FileId) -> Result<bool, DiskError> {
    for offset in HEAD_OFFSETS {
        let mut sector = [0; HEAD_BYTES];
        if disk.read_at(file, offset, &mut sector)? == HEAD_BYTES
            && Head::format_of(&sector).is_some_and(|format| format != FORMAT)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A part of a file in memory.
struct Window {
    file: FileId,
    file_len: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl Window {
    fn new(file: FileId, file_len: u64) -> Window {
        Window { file, file_len, start: 0, buffer: Vec::new() }
    }

    /// `length` bytes from `offset`, or nothing if the file is shorter.
    fn fetch<D: Disk>(
        &mut self,
        disk: &mut D,
        offset: u64,
        length: usize,
    ) -> Result<Option<&[u8]>, DiskError> {
        let end = offset + length as u64;
        if end > self.file_len {
            return Ok(None);
        }
        if offset < self.start || end > self.start + self.buffer.len() as u64 {
            let left = usize::try_from(self.file_len - offset).unwrap_or(WINDOW_BYTES);
            self.buffer.resize(length.max(WINDOW_BYTES.min(left)), 0);
            let read = disk.read_at(self.file, offset, &mut self.buffer)?;
            self.buffer.truncate(read);
            self.start = offset;
            if read < length {
                return Ok(None);
            }
        }
        let from = (offset - self.start) as usize;
        Ok(Some(&self.buffer[from..from + length]))
    }

    /// Bytes from `offset` to the last byte that is not zero before a long run of zeros.
    fn until_quiet<D: Disk>(&mut self, disk: &mut D, offset: u64) -> Result<u64, DiskError> {
        let mut torn = 0;
        let mut at = offset;
        while at < self.file_len {
            let length = (self.file_len - at).min(QUIET_BYTES as u64) as usize;
            let Some(part) = self.fetch(disk, at, length)? else { break };
            let Some(last) = part.iter().rposition(|byte| *byte != 0) else { break };
            torn = at + last as u64 + 1 - offset;
            at += length as u64;
        }
        Ok(torn)
    }
}
