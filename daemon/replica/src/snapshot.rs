//! Snapshot files: the applied state at an index, whole and checksummed, the last two kept.
//!
//! Owns the format and the rule that a file with its final name is complete: it is written under a
//! temporary name, synced, renamed, and the folder is synced. The body is opaque. The shell that
//! takes snapshots calls [`SnapshotWriter`]; recovery calls [`load`]. It must not decide when a
//! snapshot is due, nor drop the log: that is the caller's, after [`SnapshotWriter::finish`].
//!
//! ```text
//! 0     head    magic 8 | format 4 | head bytes 4 | index 8 | term 8 | body bytes 8 |
//!               voters 4 | learners 4 | raft ids 8 each | crc32c 4
//! 4096  chunks  of 1 MiB (the last one shorter): crc32c 4 | bytes
//! ```
//!
//! A chunk's checksum starts from its number, so swapped chunks do not pass.

use crate::entry::Mark;
use crate::log::{Finding, FindingKind};
use crate::membership::Membership;
use crate::seams::{Disk, DiskError, FileId, OpenMode};
use std::collections::BTreeSet;

/// Bytes of a chunk; also the unit in which a snapshot travels (ruling 33).
pub const CHUNK_BYTES: usize = 1 << 20;
/// Snapshots kept: a damaged newest one must not be the only one.
pub const SNAPSHOTS_KEPT: usize = 2;

const MAGIC: &[u8; 8] = b"TBSNAPSH";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 4096;
const HEAD_FIXED: usize = 48;

/// What a snapshot is of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Index and term of the last applied entry.
    pub mark: Mark,
    /// The members at that index.
    pub membership: Membership,
}

/// A snapshot in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is of.
    pub meta: SnapshotMeta,
    /// The state, opaque to this crate.
    pub body: Vec<u8>,
}

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It could not be written; the older ones are untouched.
    #[error("snapshot {path} could not be written")]
    Write {
        /// Path of the file.
        path: String,
        /// What failed.
        #[source]
        source: DiskError,
    },
    /// The folder or a file could not be read.
    #[error("snapshot {path} could not be read")]
    Read {
        /// Path of the file.
        path: String,
        /// What failed.
        #[source]
        source: DiskError,
    },
    /// The file's content is not what was written.
    #[error("snapshot {path} is damaged: {what}")]
    Damaged {
        /// Path of the file.
        path: String,
        /// The part that does not pass.
        what: &'static str,
    },
    /// A later version wrote it. The one before it is not looked at: that could be older than what
    /// the log still has.
    #[error("snapshot {path} has format {found}; this version reads format {FORMAT}")]
    Format {
        /// Path of the file.
        path: String,
        /// Its format.
        found: u32,
    },
}

/// Path of the snapshot at an index.
pub fn snapshot_path(folder: &str, index: u64) -> String {
    format!("{folder}/snap-{index:020}")
}

/// Writes one snapshot piece by piece, so that a large state needs no second copy.
#[derive(Debug)]
pub struct SnapshotWriter<D> {
    disk: D,
    folder: String,
    temporary: String,
    file: FileId,
    meta: SnapshotMeta,
    body_bytes: u64,
    offset: u64,
    chunk: Vec<u8>,
    chunks: u32,
}

impl<D: Disk> SnapshotWriter<D> {
    /// Begins a snapshot in `folder`, which is made if need be.
    pub fn begin(mut disk: D, folder: &str, meta: SnapshotMeta) -> Result<Self, SnapshotError> {
        let temporary = format!("{folder}/writing-{:020}", meta.mark.index);
        let failed = |source| SnapshotError::Write { path: temporary.clone(), source };
        disk.create_folder(folder).map_err(failed)?;
        let file = disk.open(&temporary, OpenMode::Create).map_err(failed)?;
        Ok(SnapshotWriter {
            disk,
            folder: folder.to_owned(),
            temporary,
            file,
            meta,
            body_bytes: 0,
            offset: HEAD_BYTES as u64,
            chunk: Vec::with_capacity(CHUNK_BYTES + 4),
            chunks: 0,
        })
    }

    /// Adds a piece of the body, of any size.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), SnapshotError> {
        self.body_bytes += piece.len() as u64;
        while !piece.is_empty() {
            let room = CHUNK_BYTES - self.chunk.len().saturating_sub(4);
            let (now, later) = piece.split_at(room.min(piece.len()));
            if self.chunk.is_empty() {
                self.chunk.extend_from_slice(&[0; 4]);
            }
            self.chunk.extend_from_slice(now);
            piece = later;
            if self.chunk.len() == CHUNK_BYTES + 4 {
                self.write_chunk()?;
            }
        }
        Ok(())
    }

    /// Makes the snapshot durable under its name and removes all but the newest
    /// [`SNAPSHOTS_KEPT`]. Only now may a log prefix be dropped, and only up to the older one's
    /// index ([`oldest_kept`]).
    pub fn finish(mut self) -> Result<SnapshotMeta, SnapshotError> {
        if !self.chunk.is_empty() {
            self.write_chunk()?;
        }
        let path = snapshot_path(&self.folder, self.meta.mark.index);
        self.publish(&path).map_err(|source| SnapshotError::Write { path, source })?;
        Ok(self.meta)
    }

    fn publish(&mut self, path: &str) -> Result<(), DiskError> {
        let head = encode_head(&self.meta, self.body_bytes);
        self.disk.write_at(self.file, 0, &head)?;
        self.disk.crash_point("snapshot.sync.before")?;
        self.disk.sync(self.file)?;
        self.disk.close(self.file);
        self.disk.crash_point("snapshot.rename.before")?;
        self.disk.rename(&self.temporary, path)?;
        self.disk.sync_folder(&self.folder)?;
        self.disk.crash_point("snapshot.rename.after")?;
        prune(&mut self.disk, &self.folder)
    }

    fn write_chunk(&mut self) -> Result<(), SnapshotError> {
        let crc = chunk_crc(self.chunks, &self.chunk[4..]);
        self.chunk[..4].copy_from_slice(&crc.to_le_bytes());
        self.disk
            .write_at(self.file, self.offset, &self.chunk)
            .map_err(|source| SnapshotError::Write { path: self.temporary.clone(), source })?;
        self.offset += self.chunk.len() as u64;
        self.chunks += 1;
        self.chunk.clear();
        Ok(())
    }
}

/// Writes a snapshot whose body is in memory.
pub fn save<D: Disk>(
    disk: D,
    folder: &str,
    meta: SnapshotMeta,
    body: &[u8],
) -> Result<SnapshotMeta, SnapshotError> {
    let mut writer = SnapshotWriter::begin(disk, folder, meta)?;
    writer.push(body)?;
    writer.finish()
}

/// What [`load`] found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest snapshot that is whole.
    pub snapshot: Option<Snapshot>,
    /// Newer ones that are not, to be reported.
    pub findings: Vec<Finding>,
}

/// Loads the newest whole snapshot in `folder`.
pub fn load<D: Disk>(disk: &mut D, folder: &str) -> Result<Loaded, SnapshotError> {
    let mut loaded = Loaded::default();
    for index in indices(disk, folder)?.into_iter().rev() {
        let path = snapshot_path(folder, index);
        match read(disk, &path) {
            Ok(snapshot) => {
                loaded.snapshot = Some(snapshot);
                break;
            }
            Err(SnapshotError::Damaged { path, what }) => {
                let kind = FindingKind::SnapshotUnreadable;
                let what = format!("the snapshot is damaged: {what}");
                loaded.findings.push(Finding { kind, path, offset: 0, what });
            }
            Err(other) => return Err(other),
        }
    }
    Ok(loaded)
}

/// Index up to which the log is not needed to start from any snapshot that is kept.
pub fn oldest_kept<D: Disk>(disk: &mut D, folder: &str) -> Result<Option<u64>, SnapshotError> {
    Ok(indices(disk, folder)?.first().copied())
}

/// Reads one snapshot file and checks all of it.
pub fn read<D: Disk>(disk: &mut D, path: &str) -> Result<Snapshot, SnapshotError> {
    let failed = |source| SnapshotError::Read { path: path.to_owned(), source };
    let unusable = |why| match why {
        Unusable::Damaged(what) => SnapshotError::Damaged { path: path.to_owned(), what },
        Unusable::Format(found) => SnapshotError::Format { path: path.to_owned(), found },
    };
    let file = disk.open(path, OpenMode::Read).map_err(failed)?;
    let content = read_content(disk, file);
    disk.close(file);
    content.map_err(failed)?.map_err(unusable)
}

/// Why a file that was read is no snapshot for this version.
enum Unusable {
    Damaged(&'static str),
    Format(u32),
}

type Content = Result<Snapshot, Unusable>;

fn read_content<D: Disk>(disk: &mut D, file: FileId) -> Result<Content, DiskError> {
    let file_len = disk.file_len(file)?;
    let mut head = vec![0; HEAD_BYTES];
    if disk.read_at(file, 0, &mut head)? < HEAD_BYTES {
        return Ok(Err(Unusable::Damaged("it is shorter than a head")));
    }
    let Some((meta, body_bytes)) = decode_head(&head) else {
        return Ok(Err(match format_of(&head) {
            Some(found) if found != FORMAT => Unusable::Format(found),
            _ => Unusable::Damaged("its head does not pass"),
        }));
    };
    let chunks = body_bytes.div_ceil(CHUNK_BYTES as u64);
    if file_len != HEAD_BYTES as u64 + body_bytes + 4 * chunks {
        return Ok(Err(Unusable::Damaged("its length is wrong")));
    }
    let mut body = Vec::with_capacity(body_bytes as usize);
    let mut chunk = Vec::new();
    for number in 0..chunks {
        let left = body_bytes - number * CHUNK_BYTES as u64;
        chunk.resize(left.min(CHUNK_BYTES as u64) as usize + 4, 0);
        let offset = HEAD_BYTES as u64 + number * (CHUNK_BYTES as u64 + 4);
        let read = disk.read_at(file, offset, &mut chunk)?;
        let crc = chunk_crc(number as u32, &chunk[4..]);
        if read < chunk.len() || chunk[..4] != crc.to_le_bytes() {
            return Ok(Err(Unusable::Damaged("a chunk does not pass")));
        }
        body.extend_from_slice(&chunk[4..]);
    }
    Ok(Ok(Snapshot { meta, body }))
}

fn chunk_crc(number: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), bytes)
}

/// The indices of the snapshots in `folder`, oldest first; whether they are whole is not looked at.
pub fn indices<D: Disk>(disk: &mut D, folder: &str) -> Result<Vec<u64>, SnapshotError> {
    let names = disk
        .list(folder)
        .map_err(|source| SnapshotError::Read { path: folder.to_owned(), source })?;
    let index = |name: &String| name.strip_prefix("snap-")?.parse().ok();
    let indices: BTreeSet<u64> = names.iter().filter_map(index).collect();
    Ok(indices.into_iter().collect())
}

fn prune<D: Disk>(disk: &mut D, folder: &str) -> Result<(), DiskError> {
    let names = disk.list(folder)?;
    let snapshots = names.iter().filter(|name| name.starts_with("snap-")).count();
    let spare = snapshots.saturating_sub(SNAPSHOTS_KEPT);
    let old = names.iter().filter(|name| name.starts_with("snap-")).take(spare);
    let left_over = names.iter().filter(|name| name.starts_with("writing-"));
    let mut removed = false;
    for name in old.chain(left_over) {
        disk.remove(&format!("{folder}/{name}"))?;
        removed = true;
    }
    if removed { disk.sync_folder(folder) } else { Ok(()) }
}

fn encode_head(meta: &SnapshotMeta, body_bytes: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let ids = meta.membership.voters.iter().chain(&meta.membership.learners);
    let head_bytes = HEAD_FIXED + 8 * ids.clone().count() + 4;
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&(head_bytes as u32).to_le_bytes());
    head.extend_from_slice(&meta.mark.index.to_le_bytes());
    head.extend_from_slice(&meta.mark.term.to_le_bytes());
    head.extend_from_slice(&body_bytes.to_le_bytes());
    head.extend_from_slice(&(meta.membership.voters.len() as u32).to_le_bytes());
    head.extend_from_slice(&(meta.membership.learners.len() as u32).to_le_bytes());
    for id in ids {
        head.extend_from_slice(&id.to_le_bytes());
    }
    head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
    assert!(head.len() <= HEAD_BYTES, "7 voters and 64 learners fit into the head");
    head.resize(HEAD_BYTES, 0);
    head
}

/// The format of a whole head. Every format begins like this one: magic, format, bytes of the head,
/// and the sum over them at their end.
fn format_of(head: &[u8]) -> Option<u32> {
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let crc_at = (word(12)? as usize).checked_sub(4)?;
    let whole = head.get(..8)? == MAGIC && word(crc_at)? == crc32c::crc32c(head.get(..crc_at)?);
    if whole { word(8) } else { None }
}

fn decode_head(head: &[u8]) -> Option<(SnapshotMeta, u64)> {
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let head_bytes = word(12)? as usize;
    if format_of(head)? != FORMAT {
        return None;
    }
    let (voters, learners) = (word(40)? as usize, word(44)? as usize);
    if HEAD_FIXED + 8 * (voters + learners) + 4 != head_bytes {
        return None;
    }
    let ids = |from: usize, count: usize| -> Option<BTreeSet<u64>> {
        (from..from + count).map(|nth| long(HEAD_FIXED + 8 * nth)).collect()
    };
    let membership = Membership { voters: ids(0, voters)?, learners: ids(voters, learners)? };
    let mark = Mark { index: long(16)?, term: long(24)? };
    Some((SnapshotMeta { mark, membership }, long(32)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::mem::{MemDisk, Stop};

    fn meta(index: u64) -> SnapshotMeta {
        let membership = Membership {
            voters: BTreeSet::from([65_537, 131_073]),
            learners: BTreeSet::from([196_609]),
        };
        SnapshotMeta { mark: Mark { index, term: 3 }, membership }
    }

    fn body(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|nth| (nth * 7 + nth / 1000) as u8).collect()
    }

    #[test]
    fn a_snapshot_survives_a_power_cut_and_two_are_kept() {
        let disk = MemDisk::new();
        for (index, bytes) in [(5, 0), (9, CHUNK_BYTES), (12, 2 * CHUNK_BYTES + 17)] {
            save(disk.clone(), "snapshots", meta(index), &body(bytes)).unwrap();
        }
        disk.restart(Stop::LoseAll);
        let loaded = load(&mut disk.clone(), "snapshots").unwrap();
        let snapshot = loaded.snapshot.unwrap();
        assert_eq!(snapshot, Snapshot { meta: meta(12), body: body(2 * CHUNK_BYTES + 17) });
        assert_eq!(oldest_kept(&mut disk.clone(), "snapshots").unwrap(), Some(9));
    }

    #[test]
    fn a_damaged_newest_gives_way_to_the_older_and_is_reported() {
        for offset in [0, 20, 4096, 4096 + 77, 4096 + 4 + CHUNK_BYTES as u64 + 1] {
            let disk = MemDisk::new();
            save(disk.clone(), "snapshots", meta(5), &body(100)).unwrap();
            save(disk.clone(), "snapshots", meta(9), &body(CHUNK_BYTES + 100)).unwrap();
            assert!(disk.flip_bit(&snapshot_path("snapshots", 9), offset, 6));
            let loaded = load(&mut disk.clone(), "snapshots").unwrap();
            assert_eq!(loaded.snapshot.map(|one| one.meta.mark.index), Some(5));
            assert_eq!(loaded.findings.len(), 1);
            assert_eq!(loaded.findings[0].kind, FindingKind::SnapshotUnreadable);
        }
    }

    #[test]
    fn a_snapshot_of_a_later_format_is_named_and_no_older_one_serves() {
        let disk = MemDisk::new();
        save(disk.clone(), "snapshots", meta(5), &body(100)).unwrap();
        save(disk.clone(), "snapshots", meta(9), &body(100)).unwrap();
        let mut head = encode_head(&meta(9), 100);
        head[8] = 2;
        let crc_at = HEAD_FIXED + 8 * 3;
        let crc = crc32c::crc32c(&head[..crc_at]).to_le_bytes();
        head[crc_at..crc_at + 4].copy_from_slice(&crc);
        let path = snapshot_path("snapshots", 9);
        let rest = disk.content(&path).unwrap().split_off(HEAD_BYTES);
        disk.plant(&path, &[head, rest].concat());
        let error = load(&mut disk.clone(), "snapshots").unwrap_err().to_string();
        assert!(error.ends_with("has format 2; this version reads format 1"), "{error}");
    }

    #[test]
    fn a_crash_at_any_call_leaves_the_old_or_the_new_one_whole() {
        for calls in 0..12 {
            for stop in [Stop::LoseAll, Stop::KeepAll, Stop::Random(calls)] {
                let disk = MemDisk::new();
                save(disk.clone(), "snapshots", meta(5), &body(100)).unwrap();
                disk.crash_after(calls);
                let saved = save(disk.clone(), "snapshots", meta(9), &body(3000)).is_ok();
                disk.restart(stop);
                let loaded = load(&mut disk.clone(), "snapshots").unwrap();
                assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
                let index = loaded.snapshot.map(|one| one.meta.mark.index);
                assert!(index == Some(9) || (index == Some(5) && !saved), "{index:?}");
            }
        }
    }
}
