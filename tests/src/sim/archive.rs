//! The history as the simulation keeps it: records in chain order in one file of the simulated
//! disk, each with its hash. It stands for the daemon's history store: the same promises, none of
//! its index and search.
//!
//! Records wait in memory, are written and synced behind, and in any case before a snapshot
//! (ruling 16). At a start the file is cut back to what the snapshot says: what followed is made
//! again by replaying the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use tiebeam_proto::chain::{self, Head};
use tiebeam_proto::record::{Archived, JobRecord};
use tiebeam_replica::seams::mem::MemDisk;
use tiebeam_replica::seams::{Disk, DiskError, FileId, OpenMode};

/// The file of all records.
pub(super) const FILE: &str = "history/records";
/// Bytes before a record: its length and its hash.
const HEAD_BYTES: usize = 4 + 32;

/// Why the history cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The disk failed.
    Disk(DiskError),
    /// It ends before the snapshot's head, or has another head there.
    Damaged {
        /// Records that are whole.
        whole: u64,
        /// Records that the snapshot was taken after.
        needed: u64,
    },
}

/// The history of one run of the node.
pub(super) struct Archive {
    disk: MemDisk,
    file: FileId,
    end: u64,
    unwritten: Vec<Archived>,
    /// A write or sync failed: like the log, it takes nothing more.
    failed: bool,
    /// Records by job, for who waits for an end.
    pub(super) jobs: BTreeMap<String, Arc<JobRecord>>,
    /// Records of jobs that made a revision, by revision.
    pub(super) revisions: Arc<BTreeMap<u64, Arc<JobRecord>>>,
}

impl Archive {
    /// Opens the history and cuts it back to `head`, which a durable snapshot vouches for.
    pub(super) fn open(mut disk: MemDisk, head: Head) -> Result<Archive, OpenError> {
        let bytes = disk.content(FILE).unwrap_or_default();
        let mut archive = Archive {
            file: FileId(0),
            disk: disk.clone(),
            end: 0,
            unwritten: Vec::new(),
            failed: false,
            jobs: BTreeMap::new(),
            revisions: Arc::default(),
        };
        let mut at = Head::EMPTY;
        while at.index < head.index {
            let Some(canonical) = next_record(&bytes[archive.end as usize..], &mut at) else {
                return Err(OpenError::Damaged { whole: at.index, needed: head.index });
            };
            archive.end += (HEAD_BYTES + canonical.len()) as u64;
            if let Ok(record) = serde_json::from_slice(canonical) {
                archive.note(&Arc::new(record));
            }
        }
        if at.hash != head.hash {
            return Err(OpenError::Damaged { whole: at.index, needed: head.index });
        }
        archive.file = reopen(&mut disk, archive.end).map_err(OpenError::Disk)?;
        Ok(archive)
    }

    fn note(&mut self, record: &Arc<JobRecord>) {
        self.jobs.insert(record.job.clone(), record.clone());
        if let Some(revision) = record.result.result_revision {
            Arc::make_mut(&mut self.revisions).insert(revision, record.clone());
        }
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
            return Err(DiskError::Io { operation: "sync", path: FILE.to_owned(), source });
        }
        if self.unwritten.is_empty() {
            return Ok(());
        }
        self.failed = true;
        let mut bytes = Vec::new();
        for archived in self.unwritten.drain(..) {
            let hash = chain::from_text(&archived.link.this).unwrap_or(chain::GENESIS);
            bytes.extend_from_slice(&(archived.canonical.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&hash);
            bytes.extend_from_slice(&archived.canonical);
        }
        self.disk.write_at(self.file, self.end, &bytes)?;
        self.disk.sync(self.file)?;
        self.end += bytes.len() as u64;
        self.failed = false;
        Ok(())
    }
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

fn reopen(disk: &mut MemDisk, end: u64) -> Result<FileId, DiskError> {
    disk.create_folder("history")?;
    let file = match disk.open(FILE, OpenMode::Write) {
        Err(DiskError::NotFound { .. }) => {
            let made = disk.open(FILE, OpenMode::Create)?;
            disk.sync_folder("history")?;
            made
        }
        opened => opened?,
    };
    disk.set_len(file, end)?;
    disk.sync(file)?;
    Ok(file)
}

/// All records of the file, checked against each other; the hash of the last.
pub(super) fn read_all(disk: &MemDisk) -> (Vec<Vec<u8>>, Head) {
    let bytes = disk.content(FILE).unwrap_or_default();
    let (mut records, mut at, mut from) = (Vec::new(), Head::EMPTY, 0);
    while let Some(canonical) = next_record(&bytes[from..], &mut at) {
        from += HEAD_BYTES + canonical.len();
        records.push(canonical.to_vec());
    }
    (records, at)
}
