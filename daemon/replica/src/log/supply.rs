//! Makes segments before they are needed: filled with zeros, or recycled from the log's old end.
//!
//! A segment is made under the name `spare-…` and renamed to its `seg-…` name only when both its
//! heads are durable; so a file named `seg-…` without a readable head is damage, never an accident.
//! Only the log's writer calls this.

use super::format::{HEAD_BYTES, HEAD_OFFSETS, Head, RECORDS_START};
use super::scan::segment_path;
use crate::seams::{Disk, DiskError, FileId, OpenMode, Rng};
use std::collections::VecDeque;

/// Zeros written and synced per step of preparation: a group that comes meanwhile waits for one
/// step, about a millisecond.
const FILL_BYTES: usize = 1 << 20;
/// Spares kept; more are removed.
const SPARES_MAX: usize = 2;

/// A segment that has heads and no records.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub file: FileId,
    pub path: String,
    pub sequence: u64,
    pub file_len: u64,
    pub head: Head,
    pub head_slot: usize,
}

#[derive(Debug)]
struct Filling {
    file: FileId,
    path: String,
    filled: u64,
}

/// The maker of segments.
#[derive(Debug)]
pub(crate) struct Supply {
    folder: String,
    segment_bytes: u64,
    spares: Vec<String>,
    filling: Option<Filling>,
    /// In order. A start may find two: one prepared, and one before it whose link was torn.
    ready: VecDeque<Prepared>,
    next_sequence: u64,
}

impl Supply {
    pub(crate) fn new(folder: &str, segment_bytes: u64, next_sequence: u64) -> Supply {
        Supply {
            folder: folder.to_owned(),
            segment_bytes,
            spares: Vec::new(),
            filling: None,
            ready: VecDeque::new(),
            next_sequence,
        }
    }

    /// Takes over a segment that was ready before the node started.
    pub(crate) fn adopt(&mut self, prepared: Prepared) {
        self.ready.push_back(prepared);
    }

    /// Takes over the spares that a start found: whole ones are kept, half-filled ones removed.
    pub(crate) fn adopt_spares<D: Disk>(
        &mut self,
        disk: &mut D,
        spares: Vec<String>,
    ) -> Result<(), DiskError> {
        for path in spares {
            let file = disk.open(&path, OpenMode::Read)?;
            let len = disk.file_len(file);
            disk.close(file);
            if len? == self.segment_bytes && self.spares.len() < SPARES_MAX {
                self.spares.push(path);
            } else {
                disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// One bounded step towards the next segment. False when it is ready.
    pub(crate) fn step<D: Disk>(
        &mut self,
        disk: &mut D,
        rng: &mut dyn Rng,
    ) -> Result<bool, DiskError> {
        if !self.ready.is_empty() {
            return Ok(false);
        }
        if let Some(path) = self.spares.pop() {
            let file = disk.open(&path, OpenMode::Write)?;
            self.promote(disk, rng, file, &path, true)?;
            return Ok(false);
        }
        let mut filling = match self.filling.take() {
            Some(filling) => filling,
            None => self.begin(disk)?,
        };
        let left = self.segment_bytes - filling.filled;
        let part = left.min(FILL_BYTES as u64);
        let filled = disk
            .write_at(filling.file, filling.filled, &vec![0; part as usize])
            .and_then(|()| disk.sync(filling.file));
        if let Err(error) = filled {
            // Begun anew with the next step: after a failed sync nothing is known of the file. On a
            // full disk what it took is needed for more than a spare.
            disk.close(filling.file);
            let _ = disk.remove(&filling.path);
            return Err(error);
        }
        filling.filled += part;
        if filling.filled < self.segment_bytes {
            self.filling = Some(filling);
            return Ok(true);
        }
        self.promote(disk, rng, filling.file, &filling.path, false)?;
        Ok(false)
    }

    /// The next segment, made at once if none is ready: not filled then, and slower to write to.
    pub(crate) fn take<D: Disk>(
        &mut self,
        disk: &mut D,
        rng: &mut dyn Rng,
    ) -> Result<Prepared, DiskError> {
        if self.ready.is_empty() {
            if let Some(path) = self.spares.pop() {
                let file = disk.open(&path, OpenMode::Write)?;
                self.promote(disk, rng, file, &path, true)?;
            } else {
                let filling = match self.filling.take() {
                    Some(filling) => filling,
                    None => self.begin(disk)?,
                };
                self.promote(disk, rng, filling.file, &filling.path, false)?;
            }
        }
        let path = segment_path(&self.folder, self.next_sequence);
        self.ready.pop_front().ok_or(DiskError::NotFound { path })
    }

    /// The first segment of a new log, filled at once.
    pub(crate) fn first<D: Disk>(
        &mut self,
        disk: &mut D,
        rng: &mut dyn Rng,
        bytes: u64,
    ) -> Result<Prepared, DiskError> {
        let filling = self.begin(disk)?;
        let mut filled = 0;
        while filled < bytes {
            let part = (bytes - filled).min(FILL_BYTES as u64);
            disk.write_at(filling.file, filled, &vec![0; part as usize])?;
            filled += part;
        }
        self.promote(disk, rng, filling.file, &filling.path, false)?;
        self.take(disk, rng)
    }

    /// Gives a segment back whose entries are no longer needed. One at a time and durably, oldest
    /// first, so that what is left has no gap.
    pub(crate) fn give_back<D: Disk>(
        &mut self,
        disk: &mut D,
        path: &str,
        sequence: u64,
        file_len: u64,
    ) -> Result<(), DiskError> {
        if file_len == self.segment_bytes && self.spares.len() < SPARES_MAX {
            let spare = format!("{}/spare-{sequence:020}", self.folder);
            disk.rename(path, &spare)?;
            disk.sync_folder(&self.folder)?;
            self.spares.push(spare);
        } else {
            disk.remove(path)?;
            disk.sync_folder(&self.folder)?;
        }
        Ok(())
    }

    fn begin<D: Disk>(&mut self, disk: &mut D) -> Result<Filling, DiskError> {
        let path = format!("{}/spare-filling", self.folder);
        let file = disk.open(&path, OpenMode::Create)?;
        Ok(Filling { file, path, filled: 0 })
    }

    fn promote<D: Disk>(
        &mut self,
        disk: &mut D,
        rng: &mut dyn Rng,
        file: FileId,
        path: &str,
        recycled: bool,
    ) -> Result<(), DiskError> {
        let sequence = self.next_sequence;
        let head = Head {
            recycled,
            generation: rng.next_u64(),
            sequence,
            stamp: 1,
            durable_to: RECORDS_START,
        };
        let mut start = vec![0; RECORDS_START as usize];
        for offset in HEAD_OFFSETS {
            start[offset as usize..offset as usize + HEAD_BYTES].copy_from_slice(&head.encode());
        }
        disk.write_at(file, 0, &start)?;
        disk.sync(file)?;
        let segment = segment_path(&self.folder, sequence);
        disk.crash_point("log.segment.before")?;
        disk.rename(path, &segment)?;
        disk.sync_folder(&self.folder)?;
        let file_len = disk.file_len(file)?;
        let path = segment;
        self.ready.push_back(Prepared { file, path, sequence, file_len, head, head_slot: 0 });
        self.next_sequence += 1;
        Ok(())
    }
}
