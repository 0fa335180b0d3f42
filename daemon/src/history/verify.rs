//! Checks the segments: every checksum, every index file, every link of the chain.
//!
//! It reads files only, so it serves the running daemon (up to what is written) and the offline
//! check alike. It reports all damage that it finds, each with file and place, and goes on with
//! the next segment; what it could not read is not counted as checked.

use super::block::Block;
use super::recover;
use super::sealed::Sealed;
use super::segment::{Extent, Segment, index_path, segment_path};
use super::{HistoryError, append, chain_of};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tiebeam_proto::chain::{self, Head};

/// Problems that a report lists; it counts them all.
const PROBLEMS_MAX: usize = 100;

/// Something that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and where in it.
    pub what: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Segments that were read.
    pub segments: u64,
    /// Records whose hash was computed and is right.
    pub records: u64,
    /// Records of which only the hash is left.
    pub pruned: u64,
    /// The newest of them; 0 if there is none.
    pub pruned_to: u64,
    /// The first record.
    pub from: u64,
    /// The last record.
    pub to: u64,
    /// The hash of the last record, in text form.
    pub head: String,
    /// Records in between that are not here, from and to.
    pub gaps: Vec<(u64, u64)>,
    /// Bytes of a torn tail: never acknowledged, cut at the next start.
    pub torn_bytes: u64,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first of them.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Adds what is missing at the ends: the records from `floor` to `newest` are to be here.
    /// Where there is damage, the ends are not known, and the damage is reported already.
    pub fn require(&mut self, floor: u64, newest: u64) {
        let floor = floor.max(1);
        self.gaps.retain(|(_, to)| *to >= floor);
        if self.problem_count > 0 || newest < floor {
            return;
        }
        if self.to == 0 {
            self.gaps.push((floor, newest));
            return;
        }
        if self.from > floor {
            self.gaps.insert(0, (floor, self.from - 1));
        }
        if self.to < newest {
            self.gaps.push((self.to + 1, newest));
        }
    }

    /// Checks that nothing was pruned but what State lets go: records of reads below this index.
    pub fn require_reads(&mut self, folder: &Path, reads_below: u64) {
        if self.pruned_to >= reads_below.max(1) {
            let what = format!(
                "record {} was pruned, but all are kept from {reads_below} on",
                self.pruned_to
            );
            self.problem(folder, what);
        }
    }

    fn problem(&mut self, path: &Path, what: impl Into<String>) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { path: path.to_owned(), what: what.into() });
        }
    }
}

/// Checks the history in a folder; up to the record `upto`, if that is given.
///
/// # Errors
/// What the operating system said about the folder; everything else is in the report.
pub fn verify_segments(folder: &Path, upto: Option<u64>) -> Result<Report, HistoryError> {
    verify_while(folder, Walk::to(upto), || ())
}

/// As [`verify_segments`], and the record behind `begin` must follow it: where the history was cut,
/// State knows the hash.
///
/// # Errors
/// As [`verify_segments`].
pub fn verify_behind(folder: &Path, begin: Head) -> Result<Report, HistoryError> {
    verify_while(folder, Walk { begin: Some(begin), ..Walk::default() }, || ())
}

/// How far a check goes, and where it is.
#[derive(Default)]
pub(super) struct Walk {
    /// The last record to look at.
    upto: Option<u64>,
    /// What stood before the oldest record that is kept.
    begin: Option<Head>,
    /// The last record that was seen; none behind damage.
    head: Option<Head>,
}

impl Walk {
    /// Through everything, or up to this record.
    pub(super) fn to(upto: Option<u64>) -> Walk {
        Walk { upto, ..Walk::default() }
    }
}

/// As [`verify_segments`]; what `hold` gives is kept while one segment is read, so that its files
/// stay what they are.
pub(super) fn verify_while<T>(
    folder: &Path,
    mut walk: Walk,
    hold: impl Fn() -> T,
) -> Result<Report, HistoryError> {
    let mut report = Report::default();
    let firsts = append::firsts(folder)?;
    for (nth, first) in firsts.iter().enumerate() {
        if walk.upto.is_some_and(|upto| *first > upto) {
            break;
        }
        let path = segment_path(folder, *first);
        let _held = hold();
        match recover::scan(&path, *first, nth + 1 == firsts.len()) {
            Ok(scan) => {
                report.torn_bytes += if walk.upto.is_none() { scan.torn } else { 0 };
                check_index(folder, *first, &scan, &mut report);
                check_blocks(folder, *first, scan, &mut walk, &mut report);
            }
            // It lay below the floor and was dropped while we looked.
            Err(_) if report.from == 0 && !path.exists() => {}
            Err(error) => {
                report.problem(&path, chain_of(&error));
                walk.head = None;
            }
        }
    }
    let last = walk.head.unwrap_or(Head::EMPTY);
    (report.to, report.head) = (last.index, chain::to_text(&last.hash));
    Ok(report)
}

fn check_index(folder: &Path, first: u64, scan: &recover::Scan, report: &mut Report) {
    let path = index_path(folder, first);
    let sealed = match Sealed::open(&path, scan.bytes) {
        Ok(Some(sealed)) => sealed,
        Ok(None) if path.exists() => {
            return report.problem(&path, "the index file does not fit its segment");
        }
        Ok(None) => return,
        Err(error) => return report.problem(&path, chain_of(&error)),
    };
    if let Err(error) = sealed.check() {
        return report.problem(&path, chain_of(&error));
    }
    let footer = &sealed.footer;
    let says = (footer.first, footer.last, footer.previous, footer.head);
    let is = (first, scan.last, scan.previous, scan.head);
    if says != is || !sealed.places().is_ok_and(|places| places == scan.places) {
        report.problem(&path, "the index file says something else than its segment");
    }
}

fn check_blocks(
    folder: &Path,
    first: u64,
    scan: recover::Scan,
    walk: &mut Walk,
    report: &mut Report,
) {
    report.segments += 1;
    let extent = Extent {
        previous: scan.previous,
        last: scan.last,
        head: scan.head,
        bytes: scan.bytes,
        places: Vec::new(),
        sealed: None,
    };
    let segment = Segment::new(folder, first, extent);
    let file = match segment.open() {
        Ok(file) => file,
        Err(error) => return report.problem(&segment.path, chain_of(&error)),
    };
    for place in scan.places {
        match segment.block(&file, place) {
            Ok(block) => check_block(&segment.path, &block, walk, report),
            Err(error) => {
                report.problem(&segment.path, chain_of(&error));
                walk.head = None;
            }
        }
    }
}

fn check_block(path: &Path, block: &Block, walk: &mut Walk, report: &mut Report) {
    let upto = walk.upto;
    for kept in block.records().filter(|kept| upto.is_none_or(|upto| kept.index <= upto)) {
        let begins = walk.begin.is_some_and(|begin| begin.index + 1 == kept.index);
        if begins && walk.begin.is_some_and(|begin| begin.hash != kept.previous) {
            report.problem(path, format!("record {} does not follow what was cut", kept.index));
        }
        match walk.head {
            None if report.from == 0 => report.from = kept.index,
            Some(before) if before.index + 1 < kept.index => {
                report.gaps.push((before.index + 1, kept.index - 1));
            }
            Some(before) if before.hash != kept.previous => {
                let what = format!("record {} does not follow record {}", kept.index, before.index);
                report.problem(path, what);
            }
            None | Some(_) => {}
        }
        match kept.canonical {
            None => (report.pruned, report.pruned_to) = (report.pruned + 1, kept.index),
            Some(bytes) if chain::hash(&kept.previous, bytes) == kept.this => report.records += 1,
            Some(_) => {
                report.problem(path, format!("record {} has not its hash", kept.index));
            }
        }
        walk.head = Some(Head { index: kept.index, hash: kept.this });
    }
}
