//! The history as the simulation keeps it: records in chain order, each with its hash, in files of
//! the simulated disk. It stands for the daemon's history store: the same promises, none of its
//! index and search.
//!
//! One file is one **extent**: records without a gap, named after the first one. A node has one
//! extent until it installs a leader's snapshot; then it has a gap, which is filled from below the
//! newest extent downwards, each piece verified against the hash that follows it (ruling 16).
//! Records wait in memory, are written and synced behind, and in any case before a snapshot. At a
//! start the newest extent is cut back to what the snapshot says: what followed is made again by
//! replaying the log.

use super::manifest::{RECORDS_MAX, Range, RangeWish};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tiebeam_core::tree::Hash;
use tiebeam_proto::chain::{self, Head};
use tiebeam_proto::record::{Archived, JobRecord};
use tiebeam_replica::prefix::Held;
use tiebeam_replica::seams::mem::MemDisk;
use tiebeam_replica::seams::{Disk, DiskError, FileId, OpenMode};

/// The folder of all extents.
pub(super) const FOLDER: &str = "history";
/// A piece of a gap while it is written: it is nobody's until it has its name.
const DRAFT: &str = "history/filling";
/// Bytes before a record: its length and its hash.
const HEAD_BYTES: usize = 4 + 32;
/// Bytes before the first record: the hash that it follows.
const FILE_HEAD_BYTES: usize = 32;

/// Why the history cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The disk failed.
    Disk(DiskError),
    /// It does not reach the snapshot's head, or has another head there.
    Damaged {
        /// The newest record that is whole.
        whole: u64,
        /// The record that the snapshot was taken after.
        needed: u64,
    },
}

/// A record and its hash.
pub(super) type Kept = (Hash, Arc<[u8]>);

/// Records that were read once, by hash: all nodes keep the same ones.
#[derive(Clone, Default)]
pub(super) struct Library {
    records: Arc<Mutex<BTreeMap<Hash, Arc<JobRecord>>>>,
}

impl Library {
    fn read(&self, (hash, canonical): &Kept) -> Option<Arc<JobRecord>> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = records.get(hash) {
            return Some(known.clone());
        }
        let record: Arc<JobRecord> = serde_json::from_slice(canonical).ok().map(Arc::new)?;
        records.insert(*hash, record.clone());
        Some(record)
    }
}

/// Records without a gap.
#[derive(Clone, Debug)]
struct Extent {
    /// The place before its first record.
    before: Head,
    /// Its records, each with its hash.
    records: Vec<Kept>,
    /// The place of its last record.
    end: Head,
    /// Bytes of its file that are written.
    file_end: u64,
}

impl Extent {
    fn empty(before: Head) -> Extent {
        Extent { before, records: Vec::new(), end: before, file_end: FILE_HEAD_BYTES as u64 }
    }

    /// Reads a file as far as it is whole, but not beyond `most`.
    fn read(bytes: &[u8], index_before: u64, most: u64) -> Option<Extent> {
        let (previous, mut rest) = bytes.split_first_chunk::<FILE_HEAD_BYTES>()?;
        let mut extent = Extent::empty(Head { index: index_before, hash: *previous });
        while extent.end.index < most
            && let Some(canonical) = next_record(rest, &mut extent.end)
        {
            rest = &rest[HEAD_BYTES + canonical.len()..];
            extent.file_end += (HEAD_BYTES + canonical.len()) as u64;
            extent.records.push((extent.end.hash, canonical.into()));
        }
        Some(extent)
    }

    fn hash_before(&self, index: u64) -> Option<Hash> {
        match index.checked_sub(self.before.index + 1)? {
            0 => Some(self.before.hash),
            nth => self.records.get(nth as usize - 1).map(|(hash, _)| *hash),
        }
    }
}

/// The history of one run of a node.
pub(super) struct Archive {
    disk: MemDisk,
    /// In the order of the chain; the last one ends at the head.
    extents: Vec<Extent>,
    file: FileId,
    unwritten: Vec<Archived>,
    /// A write or sync failed: like the log, it takes nothing more.
    failed: bool,
    library: Library,
    /// Records by job, for who waits for an end.
    pub(super) jobs: BTreeMap<String, Arc<JobRecord>>,
    /// Records of jobs that made a revision, by revision.
    pub(super) revisions: Arc<BTreeMap<u64, Arc<JobRecord>>>,
}

fn path_of(before: Head) -> String {
    format!("{FOLDER}/{:020}", before.index + 1)
}

/// Chain index before the first record of each file, in order.
fn files(disk: &MemDisk) -> Vec<u64> {
    let first = |path: &String| path.strip_prefix(FOLDER)?.strip_prefix('/')?.parse::<u64>().ok();
    let mut files: Vec<u64> = disk.paths().iter().filter_map(first).map(|at| at - 1).collect();
    files.sort_unstable();
    files
}

impl Archive {
    /// Opens the history and cuts it back to `head`, which a durable snapshot vouches for.
    pub(super) fn open(
        mut disk: MemDisk,
        head: Head,
        library: Library,
    ) -> Result<Archive, OpenError> {
        let mut extents = Vec::new();
        // Names that a former life gave without coming to their sync.
        disk.create_folder(FOLDER).map_err(OpenError::Disk)?;
        disk.sync_folder(FOLDER).map_err(OpenError::Disk)?;
        for index_before in files(&disk) {
            let path = path_of(Head { index: index_before, ..Head::EMPTY });
            let bytes = disk.content(&path).unwrap_or_default();
            // What begins behind the head was made by an install that did not come to its end.
            let extent = (index_before <= head.index)
                .then(|| Extent::read(&bytes, index_before, head.index))
                .flatten();
            match extent {
                Some(extent) => extents.push(extent),
                // Durably: if its name came back behind newer records, they would seem lost.
                None => {
                    disk.remove(&path).map_err(OpenError::Disk)?;
                    disk.sync_folder(FOLDER).map_err(OpenError::Disk)?;
                }
            }
        }
        if extents.is_empty() && head == Head::EMPTY {
            extents.push(begin(&mut disk, Head::EMPTY).map_err(OpenError::Disk)?);
        }
        let end = extents.last().map_or(Head::EMPTY, |newest: &Extent| newest.end);
        let Some(newest) = extents.last().filter(|newest| newest.end == head) else {
            return Err(OpenError::Damaged { whole: end.index, needed: head.index });
        };
        let file = reopen(&mut disk, newest).map_err(OpenError::Disk)?;
        let mut archive = Archive {
            disk,
            extents,
            file,
            unwritten: Vec::new(),
            failed: false,
            library,
            jobs: BTreeMap::new(),
            revisions: Arc::default(),
        };
        archive.merge();
        archive.records().iter().for_each(|record| archive.note_kept(record));
        Ok(archive)
    }

    fn note_kept(&mut self, kept: &Kept) {
        if let Some(record) = self.library.read(kept) {
            self.note(&record);
        }
    }

    fn note(&mut self, record: &Arc<JobRecord>) {
        self.jobs.insert(record.job.to_string(), record.clone());
        if let Some(revision) = record.result.result_revision {
            Arc::make_mut(&mut self.revisions).insert(revision, record.clone());
        }
    }

    /// Extents that meet become one, in memory; their files stay as they are.
    fn merge(&mut self) {
        let mut merged: Vec<Extent> = Vec::new();
        for extent in self.extents.drain(..) {
            match merged.last_mut().filter(|below| below.end == extent.before) {
                Some(below) => {
                    below.records.extend(extent.records);
                    below.end = extent.end;
                    below.file_end = extent.file_end;
                }
                None => merged.push(extent),
            }
        }
        self.extents = merged;
    }

    /// Whether a record between the first one and the head is missing.
    pub(super) fn has_gap(&self) -> bool {
        self.gap().is_some()
    }

    /// The newest piece without a gap. What is in an extent is durable.
    pub(super) fn held(&self) -> Held {
        let newest = self.extents.last();
        newest.map_or(Held::default(), |newest| Held {
            from: newest.before.index + 1,
            to: newest.end.index,
        })
    }

    /// The newest gap, piece by piece from above: what to ask a peer for.
    pub(super) fn gap(&self) -> Option<RangeWish> {
        let newest = self.extents.last()?;
        let below = self.extents.iter().rev().nth(1).map_or(0, |extent| extent.end.index);
        let last = newest.before.index;
        let first = (below + 1).max(last.saturating_sub(RECORDS_MAX as u64 - 1));
        (last > below).then_some(RangeWish { first, last })
    }

    /// The records that a peer asks for, as far as this node has them without a gap up to `last`.
    pub(super) fn range(&self, wish: &RangeWish) -> Range {
        let none = Range { last: wish.last, previous: chain::GENESIS, records: Vec::new() };
        let holds =
            |extent: &&Extent| extent.before.index < wish.last && wish.last <= extent.end.index;
        let Some(extent) = self.extents.iter().find(holds) else { return none };
        let first = wish.first.max(extent.before.index + 1);
        let Some(previous) = extent.hash_before(first) else { return none };
        let place = |index: u64| (index - extent.before.index) as usize;
        let records = &extent.records[place(first) - 1..place(wish.last)];
        let records = records.iter().map(|(_, record)| record.to_vec()).collect();
        Range { last: wish.last, previous, records }
    }

    /// Takes records that a peer gave, if they are what belongs below the newest extent, and makes
    /// them durable. True if they were taken. `unchecked` is a planted fault.
    pub(super) fn fill(&mut self, range: &Range, unchecked: bool) -> Result<bool, DiskError> {
        let Some(newest) = self.extents.last() else { return Ok(false) };
        let verified = unchecked || newest.before.hash == range.head();
        let fits = newest.before.index == range.last && verified;
        if !fits || range.records.is_empty() || self.failed {
            return Ok(false);
        }
        let before = Head { index: range.last - range.records.len() as u64, hash: range.previous };
        let mut extent = Extent::empty(before);
        let mut bytes = before.hash.to_vec();
        for record in &range.records {
            let link = extent.end.extend(record);
            push_record(&mut bytes, &link.this, record);
            extent.records.push((extent.end.hash, record.as_slice().into()));
        }
        let file = self.disk.open(DRAFT, OpenMode::Create)?;
        self.disk.write_at(file, 0, &bytes)?;
        self.disk.crash_point("history.fill.written")?;
        self.disk.sync(file)?;
        self.disk.close(file);
        self.disk.rename(DRAFT, &path_of(before))?;
        self.disk.sync_folder(FOLDER)?;
        extent.file_end = bytes.len() as u64;
        extent.records.iter().for_each(|record| self.note_kept(record));
        let at = self.extents.len() - 1;
        self.extents.insert(at, extent);
        self.merge();
        Ok(true)
    }

    /// Begins a new extent behind `head`: a leader's snapshot takes the place of the log. What
    /// waited is written first.
    pub(super) fn leap(&mut self, head: Head) -> Result<(), DiskError> {
        self.sync()?;
        if self.extents.last().is_some_and(|newest| newest.end == head) {
            return Ok(());
        }
        let extent = begin(&mut self.disk, head)?;
        self.extents.push(extent);
        self.reopen_newest()
    }

    fn reopen_newest(&mut self) -> Result<(), DiskError> {
        self.disk.close(self.file);
        let Some(newest) = self.extents.last() else { return Ok(()) };
        self.file = reopen(&mut self.disk, newest)?;
        Ok(())
    }

    /// Takes a record. It is durable after the next [`Archive::sync`].
    pub(super) fn push(&mut self, archived: Archived, record: Option<Arc<JobRecord>>) {
        if let Some(record) = record {
            self.note(&record);
        }
        self.unwritten.push(archived);
    }

    /// Writes what waits and makes it durable.
    pub(super) fn sync(&mut self) -> Result<(), DiskError> {
        if self.failed {
            let source = std::io::Error::other("an earlier write failed");
            return Err(DiskError::Io { operation: "sync", path: FOLDER.to_owned(), source });
        }
        let Some(newest) = self.extents.last_mut() else { return Ok(()) };
        if self.unwritten.is_empty() {
            return Ok(());
        }
        self.failed = true;
        self.disk.crash_point("history.write.before")?;
        let mut bytes = Vec::new();
        for archived in self.unwritten.drain(..) {
            push_record(&mut bytes, &archived.link.this, &archived.canonical);
            let index = archived.link.index;
            newest.end = Head {
                index,
                hash: chain::from_text(&archived.link.this).unwrap_or(chain::GENESIS),
            };
            newest.records.push((newest.end.hash, archived.canonical.to_vec().into()));
        }
        self.disk.write_at(self.file, newest.file_end, &bytes)?;
        self.disk.crash_point("history.write.after")?;
        self.disk.sync(self.file)?;
        self.disk.crash_point("history.sync.after")?;
        newest.file_end += bytes.len() as u64;
        self.failed = false;
        Ok(())
    }

    /// Everything in order, if there is no gap.
    pub(super) fn records(&self) -> Vec<Kept> {
        self.extents.iter().flat_map(|extent| extent.records.iter().cloned()).collect()
    }
}

fn push_record(bytes: &mut Vec<u8>, this: &str, canonical: &[u8]) {
    bytes.extend_from_slice(&(canonical.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&chain::from_text(this).unwrap_or(chain::GENESIS));
    bytes.extend_from_slice(canonical);
}

/// The next record's bytes, if it is whole and follows `at`, which moves on.
fn next_record<'a>(bytes: &'a [u8], at: &mut Head) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (hash, rest) = rest.split_first_chunk::<32>()?;
    let canonical = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if chain::hash(&at.hash, canonical) != *hash {
        return None;
    }
    *at = Head { index: at.index + 1, hash: *hash };
    Some(canonical)
}

/// Makes the file of an extent behind `before`, durably.
fn begin(disk: &mut MemDisk, before: Head) -> Result<Extent, DiskError> {
    disk.create_folder(FOLDER)?;
    let file = disk.open(&path_of(before), OpenMode::Create)?;
    disk.write_at(file, 0, &before.hash)?;
    disk.sync(file)?;
    disk.close(file);
    disk.sync_folder(FOLDER)?;
    Ok(Extent::empty(before))
}

/// Makes the history of a node that joins behind `head`.
pub(super) fn begin_at(disk: &MemDisk, head: Head) -> Result<(), DiskError> {
    begin(&mut disk.clone(), head).map(drop)
}

/// Opens the file of the newest extent, whose last file may be a later one after a merge.
fn reopen(disk: &mut MemDisk, newest: &Extent) -> Result<FileId, DiskError> {
    let last = files(disk).into_iter().rfind(|before| *before <= newest.end.index);
    let path = path_of(Head { index: last.unwrap_or(newest.before.index), ..Head::EMPTY });
    let file = disk.open(&path, OpenMode::Write)?;
    disk.set_len(file, newest.file_end)?;
    disk.sync(file)?;
    Ok(file)
}

/// All records on a disk that follow each other from the first one, and the hash of the last.
pub(super) fn read_all(disk: &MemDisk) -> (Vec<Kept>, Head) {
    let (mut records, mut at) = (Vec::new(), Head::EMPTY);
    for index_before in files(disk) {
        let path = path_of(Head { index: index_before, ..Head::EMPTY });
        let bytes = disk.content(&path).unwrap_or_default();
        match Extent::read(&bytes, index_before, u64::MAX) {
            Some(extent) if extent.before == at => {
                at = extent.end;
                records.extend(extent.records);
            }
            _ => break,
        }
    }
    (records, at)
}
