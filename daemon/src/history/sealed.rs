//! The index file of a sealed segment, read: who, what, when, in sorted tables.
//!
//! It is written once by [`super::seal`] and never changes. Only its footer stays in memory, about
//! 300 bytes a segment; tables are searched where they lie. It holds no truth: one that is
//! missing or damaged is made again from the segment.
//!
//! ```text
//! outlines | runs | places | terms | jobs | addenda | revisions | footer
//! ```
//! Table rows have a fixed size and begin with their key in big-endian, so that bytes sort as
//! numbers do. `terms` leads from a name, user, node or outcome to the runs that have it; a run is
//! one outline of about 512 records.

use super::HistoryError;
use super::facts::JobId;
use super::outline::Reader;
use super::segment::Place;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tiebeam_proto::chain::Hash;

/// The last bytes of the file; the digit is the format.
const MAGIC: &[u8; 4] = b"TBX1";

/// Bytes of the footer.
pub(super) const FOOTER_BYTES: usize = 4 + 4 + 10 * 8 + 64 + SECTIONS * 20;

/// The sections of the file.
pub(super) const SECTIONS: usize = 7;

/// A section, by its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// The outlines, one after the other.
    Outlines,
    /// Per outline: first record, offset, length, count.
    Runs,
    /// Per block of the segment: first record, offset.
    Places,
    /// Per term: the numbers of the runs that have it.
    Terms,
    /// Node, sequence, record of each job.
    Jobs,
    /// Node, sequence, record of each addendum.
    Addenda,
    /// Revision, record.
    Revisions,
}

impl Section {
    /// Bytes of a row; 1 where there are none.
    pub(super) const fn row_bytes(self) -> usize {
        match self {
            Section::Outlines | Section::Terms => 1,
            Section::Runs => 24,
            Section::Places | Section::Revisions => 16,
            Section::Jobs | Section::Addenda => 20,
        }
    }
}

/// Where a section lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) crc: u32,
}

/// What an index file says of its segment; the part that stays in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) segment_bytes: u64,
    /// Earliest and latest end of a record.
    pub(super) times: (i64, i64),
    /// Lowest and highest revision; (MAX, 0) if there is none.
    pub(super) revisions: (u64, u64),
    /// Lowest and highest sequence of a job or addendum.
    pub(super) sequences: (u64, u64),
    /// Records of reads that are not pruned; `None` if they were not counted.
    pub(super) reads: Option<u64>,
    pub(super) previous: Hash,
    pub(super) head: Hash,
    pub(super) spans: [Span; SECTIONS],
}

impl Footer {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        let numbers = [
            self.first,
            self.last,
            self.segment_bytes,
            self.times.0 as u64,
            self.times.1 as u64,
            self.revisions.0,
            self.revisions.1,
            self.sequences.0,
            self.sequences.1,
            self.reads.map_or(0, |reads| reads + 1),
        ];
        numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_be_bytes()));
        bytes.extend_from_slice(&self.previous);
        bytes.extend_from_slice(&self.head);
        for span in &self.spans {
            bytes.extend_from_slice(&span.offset.to_be_bytes());
            bytes.extend_from_slice(&span.bytes.to_be_bytes());
            bytes.extend_from_slice(&span.crc.to_be_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes
    }

    fn read(bytes: &[u8; FOOTER_BYTES]) -> Option<Footer> {
        let long = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let body = FOOTER_BYTES - 8;
        if !bytes.ends_with(MAGIC) || word(body) != crc32c::crc32c(&bytes[..body]) {
            return None;
        }
        Some(Footer {
            first: long(0),
            last: long(8),
            segment_bytes: long(16),
            times: (long(24) as i64, long(32) as i64),
            revisions: (long(40), long(48)),
            sequences: (long(56), long(64)),
            reads: long(72).checked_sub(1),
            previous: std::array::from_fn(|i| bytes[80 + i]),
            head: std::array::from_fn(|i| bytes[112 + i]),
            spans: std::array::from_fn(|nth| {
                let at = 144 + nth * 20;
                Span { offset: long(at), bytes: long(at + 8), crc: word(at + 16) }
            }),
        })
    }
}

/// An index file.
#[derive(Debug)]
pub(super) struct Sealed {
    path: PathBuf,
    pub(super) footer: Footer,
    /// Whether every section was found to be what was written.
    checked: AtomicBool,
}

/// The place of one outline in the file.
pub(super) struct Run {
    pub(super) first: u64,
    offset: u64,
    bytes: u32,
}

impl Sealed {
    /// Opens an index file; `None` if there is none, or none that fits the segment.
    pub(super) fn open(path: &Path, segment_bytes: u64) -> Result<Option<Sealed>, HistoryError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HistoryError::io("open", path)(error)),
        };
        let length = file.metadata().map_err(HistoryError::io("read", path))?.len();
        let Some(at) = length.checked_sub(FOOTER_BYTES as u64) else {
            return Ok(None);
        };
        let mut bytes = [0; FOOTER_BYTES];
        file.read_exact_at(&mut bytes, at).map_err(HistoryError::io("read", path))?;
        let footer = Footer::read(&bytes).filter(|footer| footer.segment_bytes == segment_bytes);
        let checked = AtomicBool::new(false);
        Ok(footer.map(|footer| Sealed { path: path.to_owned(), footer, checked }))
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.footer.spans.iter().map(|span| span.bytes).sum::<u64>() + FOOTER_BYTES as u64
    }

    fn file(&self) -> Result<File, HistoryError> {
        File::open(&self.path).map_err(HistoryError::io("open", &self.path))
    }

    /// Compares every section with its checksum, the first time it is called.
    pub(super) fn check(&self) -> Result<(), HistoryError> {
        if self.checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let file = self.file()?;
        let mut buffer = vec![0; 64 << 10];
        for span in &self.footer.spans {
            let (mut at, mut crc) = (span.offset, 0);
            let end = span.offset.saturating_add(span.bytes);
            while at < end {
                let part = buffer.len().min((end - at) as usize);
                file.read_exact_at(&mut buffer[..part], at)
                    .map_err(HistoryError::io("read", &self.path))?;
                crc = crc32c::crc32c_append(crc, &buffer[..part]);
                at += part as u64;
            }
            if crc != span.crc {
                return Err(self.damaged(span.offset));
            }
        }
        self.checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn damaged(&self, offset: u64) -> HistoryError {
        HistoryError::damaged(&self.path, offset, "the index file is not what was written")
    }

    fn span(&self, section: Section) -> Span {
        self.footer.spans.get(section as usize).copied().unwrap_or_default()
    }

    fn rows(&self, section: Section) -> u64 {
        self.span(section).bytes / section.row_bytes() as u64
    }

    fn row<const N: usize>(
        &self,
        file: &File,
        section: Section,
        nth: u64,
    ) -> Result<[u8; N], HistoryError> {
        let mut row = [0; N];
        let at = self.span(section).offset + nth * section.row_bytes() as u64;
        file.read_exact_at(&mut row, at).map_err(HistoryError::io("read", &self.path))?;
        Ok(row)
    }

    /// The number of rows whose front is at most `key`.
    fn up_to<const N: usize>(
        &self,
        file: &File,
        section: Section,
        key: &[u8],
    ) -> Result<u64, HistoryError> {
        let (mut low, mut high) = (0, self.rows(section));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.row::<N>(file, section, middle)?[..key.len()] <= *key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn whole(&self, section: Section) -> Result<Vec<u8>, HistoryError> {
        let span = self.span(section);
        let mut bytes = vec![0; span.bytes as usize];
        self.file()?
            .read_exact_at(&mut bytes, span.offset)
            .map_err(HistoryError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// Where the block with this record begins in the segment.
    pub(super) fn place(&self, index: u64) -> Result<Option<Place>, HistoryError> {
        let file = self.file()?;
        let after = self.up_to::<16>(&file, Section::Places, &index.to_be_bytes())?;
        let row = after.checked_sub(1).map(|nth| self.row::<16>(&file, Section::Places, nth));
        Ok(row.transpose()?.map(|row| Place { first: number(&row, 0), offset: number(&row, 8) }))
    }

    /// Every block's place, oldest first.
    pub(super) fn places(&self) -> Result<Vec<Place>, HistoryError> {
        let bytes = self.whole(Section::Places)?;
        let place = |row: &[u8]| Place { first: number(row, 0), offset: number(row, 8) };
        Ok(bytes.chunks_exact(16).map(place).collect())
    }

    /// The records of this job in a table of jobs or of addenda, oldest first.
    pub(super) fn of_job(&self, section: Section, id: JobId) -> Result<Vec<u64>, HistoryError> {
        let (low, high) = self.footer.sequences;
        if id.sequence < low || id.sequence > high {
            return Ok(Vec::new());
        }
        let file = self.file()?;
        let mut key = id.node.to_be_bytes().to_vec();
        key.extend_from_slice(&id.sequence.to_be_bytes());
        let mut nth = self.up_to::<20>(&file, section, &key)?;
        let mut found = Vec::new();
        while let Some(before) = nth.checked_sub(1) {
            let row = self.row::<20>(&file, section, before)?;
            if !row.starts_with(&key) {
                break;
            }
            found.push(number(&row, 12));
            nth = before;
        }
        found.reverse();
        Ok(found)
    }

    /// The highest revision that is at most this one, with its record.
    pub(super) fn revision_to(&self, revision: u64) -> Result<Option<(u64, u64)>, HistoryError> {
        if revision < self.footer.revisions.0 {
            return Ok(None);
        }
        let file = self.file()?;
        let after = self.up_to::<16>(&file, Section::Revisions, &revision.to_be_bytes())?;
        let row = after.checked_sub(1).map(|nth| self.row::<16>(&file, Section::Revisions, nth));
        Ok(row.transpose()?.map(|row| (number(&row, 0), number(&row, 8))))
    }

    /// The terms of this index, to look several of them up.
    pub(super) fn terms(&self) -> Result<Vec<u8>, HistoryError> {
        self.whole(Section::Terms)
    }

    /// The runs that begin at or before this record, oldest first.
    pub(super) fn runs(&self) -> Result<Vec<Run>, HistoryError> {
        let bytes = self.whole(Section::Runs)?;
        let run = |row: &[u8]| Run {
            first: number(row, 0),
            offset: number(row, 8),
            bytes: (number(row, 16) >> 32) as u32,
        };
        Ok(bytes.chunks_exact(24).map(run).collect())
    }

    /// The outline of a run.
    pub(super) fn outline(&self, file: &File, run: &Run) -> Result<Vec<u8>, HistoryError> {
        let mut bytes = vec![0; run.bytes as usize];
        file.read_exact_at(&mut bytes, self.span(Section::Outlines).offset + run.offset)
            .map_err(HistoryError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// A handle for [`Sealed::outline`].
    pub(super) fn reader(&self) -> Result<File, HistoryError> {
        self.file()
    }
}

/// The big-endian number at this place of a row.
fn number(row: &[u8], at: usize) -> u64 {
    let bytes = row.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

/// The runs that have a term, as numbers into [`Sealed::runs`], oldest first.
pub(super) fn runs_with(terms: &[u8], term: &[u8]) -> Vec<usize> {
    let mut reader = Reader(terms);
    while let (Some(key), Some(packed)) = (reader.bytes(), reader.bytes()) {
        if key == term {
            return deltas(packed);
        }
    }
    Vec::new()
}

fn deltas(packed: &[u8]) -> Vec<usize> {
    let mut reader = Reader(packed);
    let (mut runs, mut at) = (Vec::new(), 0);
    while let Some(step) = reader.int() {
        at += step as usize;
        runs.push(at);
    }
    runs
}
