//! Seals a segment: reads it once, checking every block, and writes its index file beside it.
//!
//! The file is built under a temporary name, synced, and renamed; so it is there whole or not at
//! all. Building reads the segment only, so the same code serves a full segment, one whose sealing
//! a crash interrupted, and one whose index file was lost. It runs on a thread of its own.

use super::HistoryError;
use super::facts::{Facts, Subject};
use super::outline;
use super::sealed::{Footer, SECTIONS, Sealed, Section, Span};
use super::segment::{Place, Segment, index_path};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Records of one run: its outline has about 12 KiB, which is one read.
const RUN_RECORDS: usize = 512;

/// Builds and writes the index file of a segment that no longer grows.
///
/// # Errors
/// What a file said, a damaged block, or `Interrupted` once `stop` is set.
pub(super) fn build(
    segment: &Segment,
    places: &[Place],
    stop: &AtomicBool,
) -> Result<Sealed, HistoryError> {
    let folder = segment.path.parent().unwrap_or(Path::new("."));
    let path = index_path(folder, segment.first);
    let draft = path.with_extension(format!("{:?}.tmp", std::thread::current().id()));
    write(segment, places, &draft, 0, stop)?;
    fs::rename(&draft, &path).map_err(HistoryError::io("rename", &draft))?;
    sync_folder(folder)?;
    let bytes = segment.extent().bytes;
    Sealed::open(&path, bytes)?
        .ok_or_else(|| HistoryError::damaged(&path, 0, "it does not read back"))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), HistoryError> {
    let opened = File::open(folder).map_err(HistoryError::io("open", folder))?;
    opened.sync_all().map_err(HistoryError::io("sync", folder))
}

/// Writes the index of a segment to a file, whole and durable, or leaves none. A pruned record
/// that no other one stands before ended `since_us`, as far as is known.
pub(super) fn write(
    segment: &Segment,
    places: &[Place],
    draft: &Path,
    since_us: i64,
    stop: &AtomicBool,
) -> Result<(), HistoryError> {
    let result = write_draft(segment, places, draft, since_us, stop);
    if result.is_err() {
        // The error that counts is the first one; a draft that stays goes at the next start.
        let _ = fs::remove_file(draft);
    }
    result
}

fn write_draft(
    segment: &Segment,
    places: &[Place],
    draft: &Path,
    since_us: i64,
    stop: &AtomicBool,
) -> Result<(), HistoryError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(draft)
        .map_err(HistoryError::io("create", draft))?;
    let mut out = Draft { out: BufWriter::new(file), at: 0, span: Span::default() };
    let mut tables = Tables { newest_us: since_us, ..Tables::default() };
    collect(segment, places, stop, &mut tables, &mut |outline| out.put(outline))?;
    let put =
        |out: &mut Draft, bytes: &[u8]| out.put(bytes).map_err(HistoryError::io("write", draft));
    let mut spans = [Span::default(); SECTIONS];
    spans[Section::Outlines as usize] = out.close();
    for (section, bytes) in tables.sections(places) {
        put(&mut out, &bytes)?;
        spans[section as usize] = out.close();
    }
    let footer = tables.footer(segment, spans);
    put(&mut out, &footer.write())?;
    let file = out.out.into_inner().map_err(|error| error.into_error());
    file.and_then(|file| file.sync_all()).map_err(HistoryError::io("sync", draft))
}

/// The file being written, and the section in it.
struct Draft {
    out: BufWriter<File>,
    at: u64,
    span: Span,
}

impl Draft {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.span.crc = crc32c::crc32c_append(self.span.crc, bytes);
        self.at += bytes.len() as u64;
        self.span.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Ends a section.
    fn close(&mut self) -> Span {
        std::mem::replace(&mut self.span, Span { offset: self.at, ..Span::default() })
    }
}

/// Everything but the outlines, while a segment is read.
#[derive(Default)]
struct Tables {
    runs: Vec<u8>,
    run_count: u64,
    outline_bytes: u64,
    /// Per term: the last run that has it, and the packed steps from run to run.
    terms: BTreeMap<Vec<u8>, (Option<u64>, Vec<u8>)>,
    jobs: Vec<(u32, u64, u64)>,
    addenda: Vec<(u32, u64, u64)>,
    revisions: Vec<(u64, u64)>,
    times: Option<(i64, i64)>,
    reads: u64,
    /// When the newest record ended that was looked at.
    newest_us: i64,
}

fn collect(
    segment: &Segment,
    places: &[Place],
    stop: &AtomicBool,
    tables: &mut Tables,
    put: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), HistoryError> {
    let file = segment.open()?;
    let mut run: Vec<Facts> = Vec::with_capacity(RUN_RECORDS);
    let mut first = segment.first;
    for (at, place) in places.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            let source = std::io::ErrorKind::Interrupted.into();
            return Err(HistoryError::io("index", &segment.path)(source));
        }
        let block = segment.block(&file, *place)?;
        run.extend(block.records().map(|kept| tables.facts_of(kept.canonical)));
        if run.len() >= RUN_RECORDS || at + 1 == places.len() {
            let outline = tables.take(first, &run);
            put(&outline).map_err(HistoryError::io("write", &segment.path))?;
            first += run.len() as u64;
            run.clear();
        }
    }
    Ok(())
}

impl Tables {
    /// The facts of a record; a pruned one is given the time of the one before it.
    fn facts_of(&mut self, canonical: Option<&[u8]>) -> Facts {
        let facts = canonical.map_or_else(|| Facts::pruned(self.newest_us), Facts::of);
        if facts.ended > 0 {
            self.newest_us = facts.ended;
        }
        self.reads += u64::from(facts.is_read());
        facts
    }

    /// Adds a run and gives its outline.
    fn take(&mut self, first: u64, run: &[Facts]) -> Vec<u8> {
        for (index, facts) in (first..).zip(run) {
            match facts.subject {
                Subject::Job(id) => self.jobs.push((id.node, id.sequence, index)),
                Subject::Addendum(id) => self.addenda.push((id.node, id.sequence, index)),
                Subject::Audit | Subject::Tree | Subject::Other => {}
            }
            self.revisions.extend(facts.revision.map(|revision| (revision, index)));
            let (low, high) = self.times.unwrap_or((facts.ended, facts.ended));
            self.times = Some((low.min(facts.ended), high.max(facts.ended)));
            for term in terms(facts) {
                self.term(term);
            }
        }
        let outline = outline::pack(first, run.iter());
        self.runs.extend_from_slice(&first.to_be_bytes());
        self.runs.extend_from_slice(&self.outline_bytes.to_be_bytes());
        self.runs.extend_from_slice(&(outline.len() as u32).to_be_bytes());
        self.runs.extend_from_slice(&(run.len() as u32).to_be_bytes());
        self.run_count += 1;
        self.outline_bytes += outline.len() as u64;
        outline
    }

    fn term(&mut self, term: Vec<u8>) {
        let (last, packed) = self.terms.entry(term).or_default();
        if *last != Some(self.run_count) {
            outline::put_int(packed, self.run_count - last.unwrap_or(0));
            *last = Some(self.run_count);
        }
    }

    fn sections(&mut self, places: &[Place]) -> [(Section, Vec<u8>); SECTIONS - 1] {
        let place =
            |place: &Place| [place.first.to_be_bytes(), place.offset.to_be_bytes()].concat();
        let mut terms = Vec::new();
        for (term, (_, packed)) in &self.terms {
            outline::put_bytes(&mut terms, term);
            outline::put_bytes(&mut terms, packed);
        }
        self.revisions.sort_unstable();
        let pair = |(a, b): &(u64, u64)| [a.to_be_bytes(), b.to_be_bytes()].concat();
        [
            (Section::Runs, std::mem::take(&mut self.runs)),
            (Section::Places, places.iter().flat_map(place).collect()),
            (Section::Terms, terms),
            (Section::Jobs, job_rows(&mut self.jobs)),
            (Section::Addenda, job_rows(&mut self.addenda)),
            (Section::Revisions, self.revisions.iter().flat_map(pair).collect()),
        ]
    }

    fn footer(&self, segment: &Segment, spans: [Span; SECTIONS]) -> Footer {
        let extent = segment.extent();
        let numbers = || self.jobs.iter().chain(&self.addenda).map(|(_, sequence, _)| *sequence);
        let (first, last) = (self.revisions.first(), self.revisions.last());
        Footer {
            first: segment.first,
            last: extent.last,
            segment_bytes: extent.bytes,
            times: self.times.unwrap_or_default(),
            revisions: first.zip(last).map_or((u64::MAX, 0), |(low, high)| (low.0, high.0)),
            reads: Some(self.reads),
            sequences: (numbers().min().unwrap_or(u64::MAX), numbers().max().unwrap_or(0)),
            previous: extent.previous,
            head: extent.head,
            spans,
        }
    }
}

fn job_rows(jobs: &mut [(u32, u64, u64)]) -> Vec<u8> {
    jobs.sort_unstable();
    let mut rows = Vec::with_capacity(jobs.len() * Section::Jobs.row_bytes());
    for (node, sequence, index) in jobs.iter() {
        rows.extend_from_slice(&node.to_be_bytes());
        rows.extend_from_slice(&sequence.to_be_bytes());
        rows.extend_from_slice(&index.to_be_bytes());
    }
    rows
}

/// The terms of a record: a letter for the field, and the value.
fn terms(facts: &Facts) -> impl Iterator<Item = Vec<u8>> {
    let text = |field: u8, text: &str| (!text.is_empty()).then(|| term(field, text.as_bytes()));
    let outcome = facts.outcome.map(|outcome| term(b'o', outcome.name().as_bytes()));
    let nodes = facts.nodes.iter().map(|node| term(b'd', &node.to_be_bytes()));
    text(b'n', &facts.name).into_iter().chain(text(b'u', &facts.user)).chain(outcome).chain(nodes)
}

/// One term: `n` name, `u` user, `d` node, `o` outcome.
pub(super) fn term(field: u8, value: &[u8]) -> Vec<u8> {
    let mut term = Vec::with_capacity(1 + value.len());
    term.push(field);
    term.extend_from_slice(value);
    term
}
