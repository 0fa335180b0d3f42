//! A disk in memory that loses what a real one may lose, and a seeded random source.
//!
//! [`MemDisk`] owns the model of durability that simulations and tests rely on: bytes count only
//! after `sync`, names only after `sync_folder`, a power cut keeps all, none, or a seeded subset of
//! the 512-byte sectors written since; a failed sync drops the dirty sectors for good, as Linux
//! does. It is public because the simulation lives outside this crate. It must stay deterministic:
//! the same calls and seeds give the same bytes.

use super::{Disk, DiskError, FileId, OpenMode, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that a disk writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// SplitMix64: small, good enough for schedules, the same on every platform.
#[derive(Debug, Clone)]
pub struct SeededRng(u64);

impl SeededRng {
    /// A source whose numbers depend on `seed` only.
    pub fn new(seed: u64) -> Self {
        SeededRng(seed)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// True once in `odds` calls on average.
    pub fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

impl Rng for SeededRng {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// What becomes of writes and names that were not synced when the node stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The process died, the machine lives: everything written is still visible, and still not
    /// durable.
    Kill,
    /// The power failed and nothing unsynced reached the platter.
    LoseAll,
    /// The power failed after everything had reached the platter.
    KeepAll,
    /// The power failed in between: a subset of sectors and a prefix of the name changes, drawn
    /// from this seed, reached the platter.
    Random(u64),
}

/// Calls that reached the disk, to prove costs ("one write, one sync per group").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls of `write_at`.
    pub writes: u64,
    /// Calls of `sync`.
    pub syncs: u64,
    /// Calls of `sync_folder`.
    pub folder_syncs: u64,
}

#[derive(Debug, Clone, Default)]
struct MemFile {
    bytes: Vec<u8>,
    synced_len: usize,
    /// Durable content of every sector that was written since it was last synced.
    undo: BTreeMap<usize, [u8; SECTOR_BYTES]>,
    /// Sectors whose write-back failed: no later sync brings them back, only a new write does.
    lost: BTreeSet<usize>,
}

impl MemFile {
    fn remember(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            self.lost.remove(&sector);
            if self.undo.contains_key(&sector) {
                continue;
            }
            let mut old = [0; SECTOR_BYTES];
            let start = (sector * SECTOR_BYTES).min(self.bytes.len());
            let end = (start + SECTOR_BYTES).min(self.bytes.len());
            old[..end - start].copy_from_slice(&self.bytes[start..end]);
            self.undo.insert(sector, old);
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.remember(offset, end);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    fn set_len(&mut self, len: usize) {
        if len < self.bytes.len() {
            self.remember(len, self.bytes.len());
        }
        self.bytes.resize(len, 0);
    }

    fn synced(&mut self) {
        let lost = &self.lost;
        self.undo.retain(|sector, _| lost.contains(sector));
        self.synced_len = self.bytes.len();
    }

    fn cut(&mut self, mut keeps: impl FnMut() -> bool) {
        let kept_len = if self.bytes.len() != self.synced_len && !keeps() {
            self.synced_len
        } else {
            self.bytes.len()
        };
        for (sector, old) in std::mem::take(&mut self.undo) {
            if self.lost.contains(&sector) || !keeps() {
                let start = sector * SECTOR_BYTES;
                let needed = (start + SECTOR_BYTES).min(kept_len);
                if self.bytes.len() < needed {
                    self.bytes.resize(needed, 0);
                }
                let end = (start + SECTOR_BYTES).min(self.bytes.len());
                if start < end {
                    self.bytes[start..end].copy_from_slice(&old[..end - start]);
                }
            }
        }
        self.lost.clear();
        self.bytes.resize(kept_len, 0);
        self.synced_len = kept_len;
    }
}

#[derive(Debug, Clone)]
enum NameChange {
    Set { path: String, inode: u64 },
    Move { from: String, to: String, inode: u64 },
    Unset { path: String },
}

impl NameChange {
    fn folder(&self) -> &str {
        let (NameChange::Set { path, .. }
        | NameChange::Move { to: path, .. }
        | NameChange::Unset { path }) = self;
        folder_of(path)
    }

    fn carry_out(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Set { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Move { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameChange::Unset { path } => {
                names.remove(path);
            }
        }
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[derive(Debug, Clone, Default)]
struct Machine {
    files: BTreeMap<u64, MemFile>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    handles: BTreeMap<u64, (u64, String)>,
    next_number: u64,
    calls: Calls,
    armed: Option<(String, u64)>,
    calls_left: Option<u64>,
    sync_failures: Option<u64>,
    bytes_max: Option<u64>,
    lies: bool,
    crashed: Option<String>,
}

/// A disk in memory. Clones share the disk; [`MemDisk::image`] copies it.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    machine: Arc<Mutex<Machine>>,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the disk as it is now, unsynced writes included, that shares nothing with it.
    pub fn image(&self) -> MemDisk {
        let machine = self.lock().clone();
        MemDisk { machine: Arc::new(Mutex::new(machine)) }
    }

    /// Stops the node and starts it again: handles are gone, faults are disarmed, and unsynced
    /// writes are treated as `stop` says.
    pub fn restart(&self, stop: Stop) {
        let mut machine = self.lock();
        machine.handles.clear();
        machine.armed = None;
        machine.calls_left = None;
        machine.sync_failures = None;
        machine.bytes_max = None;
        machine.crashed = None;
        let mut random = SeededRng::new(match stop {
            Stop::Random(seed) => seed,
            _ => 0,
        });
        let mut keeps = move || match stop {
            Stop::LoseAll => false,
            Stop::KeepAll | Stop::Kill => true,
            Stop::Random(_) => random.one_in(2),
        };
        if stop == Stop::Kill {
            return;
        }
        for change in std::mem::take(&mut machine.unsynced_names) {
            if !keeps() {
                break;
            }
            change.carry_out(&mut machine.durable_names);
        }
        machine.names = machine.durable_names.clone();
        let reachable: BTreeSet<u64> = machine.names.values().copied().collect();
        machine.files.retain(|inode, _| reachable.contains(inode));
        for file in machine.files.values_mut() {
            file.cut(&mut keeps);
        }
    }

    /// Stops the node when `point` is reached for the `nth` time (0: the next time).
    pub fn arm(&self, point: &str, nth: u64) {
        self.lock().armed = Some((point.to_owned(), nth));
    }

    /// Stops the node after `calls` more calls that change the disk.
    pub fn crash_after(&self, calls: u64) {
        self.lock().calls_left = Some(calls);
    }

    /// Lets the sync after `successes` more successful ones fail with an I/O error, and all later.
    pub fn fail_sync_after(&self, successes: u64) {
        self.lock().sync_failures = Some(successes);
    }

    /// Lets writes fail with [`DiskError::NoSpace`] that would make all files together longer.
    pub fn limit_bytes(&self, bytes_max: Option<u64>) {
        self.lock().bytes_max = bytes_max;
    }

    /// Turns one bit of a file over, durably: rot. False if there is no such byte.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        let mut machine = self.lock();
        let Some(&inode) = machine.names.get(path) else { return false };
        let Some(file) = machine.files.get_mut(&inode) else { return false };
        let offset = offset as usize;
        let Some(byte) = file.bytes.get_mut(offset) else { return false };
        *byte ^= 1 << (bit % 8);
        if let Some(old) = file.undo.get_mut(&(offset / SECTOR_BYTES)) {
            old[offset % SECTOR_BYTES] ^= 1 << (bit % 8);
        }
        true
    }

    /// Lets every sync succeed without doing anything: a disk that lies, to prove that a test
    /// would notice.
    pub fn lie_about_syncs(&self) {
        self.lock().lies = true;
    }

    /// Calls so far.
    pub fn calls(&self) -> Calls {
        self.lock().calls
    }

    /// The content of a file as a reader sees it now.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let machine = self.lock();
        let inode = machine.names.get(path)?;
        machine.files.get(inode).map(|file| file.bytes.clone())
    }

    /// The first file whose content, as a reader sees it now, is such. Copies nothing.
    pub fn find(&self, is_such: impl Fn(&[u8]) -> bool) -> Option<String> {
        let machine = self.lock();
        let such = |inode: &u64| machine.files.get(inode).is_some_and(|file| is_such(&file.bytes));
        machine.names.iter().find(|(_, inode)| such(inode)).map(|(path, _)| path.clone())
    }

    /// Replaces the content of a file, or makes it, durably: what a test plants.
    pub fn plant(&self, path: &str, bytes: &[u8]) {
        let mut machine = self.lock();
        let inode = match machine.names.get(path) {
            Some(&inode) => inode,
            None => machine.create(path),
        };
        let file = MemFile { bytes: bytes.to_vec(), synced_len: bytes.len(), ..MemFile::default() };
        machine.files.insert(inode, file);
        machine.durable_names.insert(path.to_owned(), inode);
    }

    /// Paths of all files.
    pub fn paths(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// The crash point at which the node was stopped, if it was.
    pub fn crashed(&self) -> Option<String> {
        self.lock().crashed.clone()
    }
}

impl Machine {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn create(&mut self, path: &str) -> u64 {
        let inode = self.number();
        self.files.insert(inode, MemFile::default());
        self.names.insert(path.to_owned(), inode);
        self.unsynced_names.push(NameChange::Set { path: path.to_owned(), inode });
        inode
    }

    fn alive(&self) -> Result<(), DiskError> {
        match &self.crashed {
            Some(point) => Err(DiskError::Crashed { point: point.clone() }),
            None => Ok(()),
        }
    }

    /// Counts a call that changes the disk, and dies when its number is up.
    fn change(&mut self) -> Result<(), DiskError> {
        self.alive()?;
        if let Some(left) = &mut self.calls_left {
            if *left == 0 {
                self.crashed = Some("disk call".to_owned());
                return self.alive();
            }
            *left -= 1;
        }
        Ok(())
    }

    fn file(&mut self, file: FileId) -> Result<(&mut MemFile, &str), DiskError> {
        let closed = || DiskError::NotFound { path: format!("handle {}", file.0) };
        let (inode, path) = self.handles.get(&file.0).ok_or_else(closed)?;
        let body = self.files.get_mut(inode).ok_or_else(closed)?;
        Ok((body, path))
    }

    fn room_for(&mut self, file: FileId, end: u64) -> Result<(), DiskError> {
        let Some(bytes_max) = self.bytes_max else { return Ok(()) };
        let used: u64 = self.files.values().map(|body| body.bytes.len() as u64).sum();
        let (body, path) = self.file(file)?;
        let growth = end.saturating_sub(body.bytes.len() as u64);
        if growth > 0 && used + growth > bytes_max {
            return Err(DiskError::NoSpace { path: path.to_owned() });
        }
        Ok(())
    }
}

impl Disk for MemDisk {
    fn list(&mut self, folder: &str) -> Result<Vec<String>, DiskError> {
        let machine = self.lock();
        machine.alive()?;
        let inside = |path: &&String| folder_of(path) == folder;
        let name = |path: &String| path.rsplit('/').next().unwrap_or(path).to_owned();
        Ok(machine.names.keys().filter(inside).map(name).collect())
    }

    fn create_folder(&mut self, _folder: &str) -> Result<(), DiskError> {
        self.lock().change()
    }

    fn open(&mut self, path: &str, mode: OpenMode) -> Result<FileId, DiskError> {
        let mut machine = self.lock();
        machine.alive()?;
        let inode = match (machine.names.get(path).copied(), mode) {
            (Some(inode), OpenMode::Read | OpenMode::Write) => inode,
            (None, OpenMode::Read | OpenMode::Write) => {
                return Err(DiskError::NotFound { path: path.to_owned() });
            }
            (_, OpenMode::Create) => {
                machine.change()?;
                machine.create(path)
            }
        };
        let handle = machine.number();
        machine.handles.insert(handle, (inode, path.to_owned()));
        Ok(FileId(handle))
    }

    fn close(&mut self, file: FileId) {
        self.lock().handles.remove(&file.0);
    }

    fn file_len(&mut self, file: FileId) -> Result<u64, DiskError> {
        let mut machine = self.lock();
        machine.alive()?;
        Ok(machine.file(file)?.0.bytes.len() as u64)
    }

    fn read_at(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, DiskError> {
        let mut machine = self.lock();
        machine.alive()?;
        let bytes = &machine.file(file)?.0.bytes;
        let start = (offset as usize).min(bytes.len());
        let end = (start + buffer.len()).min(bytes.len());
        buffer[..end - start].copy_from_slice(&bytes[start..end]);
        Ok(end - start)
    }

    fn write_at(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut machine = self.lock();
        machine.change()?;
        machine.room_for(file, offset + bytes.len() as u64)?;
        machine.calls.writes += 1;
        machine.file(file)?.0.write(offset as usize, bytes);
        Ok(())
    }

    fn set_len(&mut self, file: FileId, len: u64) -> Result<(), DiskError> {
        let mut machine = self.lock();
        machine.change()?;
        machine.room_for(file, len)?;
        machine.file(file)?.0.set_len(len as usize);
        Ok(())
    }

    fn sync(&mut self, file: FileId) -> Result<(), DiskError> {
        let mut machine = self.lock();
        machine.change()?;
        machine.calls.syncs += 1;
        let fails = match &mut machine.sync_failures {
            Some(0) => true,
            Some(successes) => {
                *successes -= 1;
                false
            }
            None => false,
        };
        let lies = machine.lies;
        let (body, path) = machine.file(file)?;
        if lies {
            return Ok(());
        }
        if fails {
            body.lost.extend(body.undo.keys().copied());
            let source = std::io::Error::other("simulated I/O error");
            return Err(DiskError::Io { operation: "sync", path: path.to_owned(), source });
        }
        body.synced();
        Ok(())
    }

    fn sync_folder(&mut self, folder: &str) -> Result<(), DiskError> {
        let mut machine = self.lock();
        machine.change()?;
        machine.calls.folder_syncs += 1;
        let (durable, waiting) = std::mem::take(&mut machine.unsynced_names)
            .into_iter()
            .partition(|change: &NameChange| change.folder() == folder);
        machine.unsynced_names = waiting;
        let durable: Vec<NameChange> = durable;
        for change in durable {
            change.carry_out(&mut machine.durable_names);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut machine = self.lock();
        machine.change()?;
        let Some(inode) = machine.names.remove(from) else {
            return Err(DiskError::NotFound { path: from.to_owned() });
        };
        machine.names.insert(to.to_owned(), inode);
        let (from, to) = (from.to_owned(), to.to_owned());
        machine.unsynced_names.push(NameChange::Move { from, to, inode });
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<(), DiskError> {
        let mut machine = self.lock();
        machine.change()?;
        if machine.names.remove(path).is_none() {
            return Err(DiskError::NotFound { path: path.to_owned() });
        }
        machine.unsynced_names.push(NameChange::Unset { path: path.to_owned() });
        Ok(())
    }

    fn crash_point(&mut self, point: &'static str) -> Result<(), DiskError> {
        let mut machine = self.lock();
        machine.alive()?;
        if let Some((armed, left)) = &mut machine.armed
            && armed == point
        {
            if *left == 0 {
                machine.crashed = Some(point.to_owned());
                return machine.alive();
            }
            *left -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &mut MemDisk) -> FileId {
        let file = disk.open("f/a", OpenMode::Create).unwrap();
        disk.write_at(file, 0, &[1; 1024]).unwrap();
        disk.sync(file).unwrap();
        disk.sync_folder("f").unwrap();
        disk.write_at(file, 0, &[2; 1536]).unwrap();
        file
    }

    #[test]
    fn a_power_cut_loses_what_was_not_synced_and_a_kill_does_not() {
        let mut disk = MemDisk::new();
        written(&mut disk);
        let cut = disk.image();
        cut.restart(Stop::LoseAll);
        assert_eq!(cut.content("f/a"), Some(vec![1; 1024]));
        disk.restart(Stop::Kill);
        assert_eq!(disk.content("f/a"), Some(vec![2; 1536]));
        disk.restart(Stop::LoseAll);
        assert_eq!(disk.content("f/a"), Some(vec![1; 1024]), "still not durable after a kill");
    }

    #[test]
    fn a_torn_write_is_a_subset_of_sectors() {
        let mut seen = BTreeSet::new();
        for seed in 0..64 {
            let mut disk = MemDisk::new();
            written(&mut disk);
            disk.restart(Stop::Random(seed));
            let content = disk.content("f/a").unwrap();
            assert!(content.chunks(SECTOR_BYTES).all(|s| s.iter().all(|b| *b == s[0])));
            seen.insert((content.len(), content[0], content[512]));
        }
        assert!(seen.contains(&(1536, 1, 2)) && seen.contains(&(1536, 2, 1)), "{seen:?}");
    }

    #[test]
    fn a_file_without_a_synced_name_is_gone_and_a_failed_sync_cannot_be_repeated() {
        let mut disk = MemDisk::new();
        let file = disk.open("f/b", OpenMode::Create).unwrap();
        disk.write_at(file, 0, b"x").unwrap();
        disk.sync(file).unwrap();
        let unnamed = disk.image();
        unnamed.restart(Stop::LoseAll);
        assert_eq!(unnamed.content("f/b"), None);
        disk.sync_folder("f").unwrap();
        disk.write_at(file, 0, b"y").unwrap();
        disk.fail_sync_after(0);
        assert!(disk.sync(file).is_err());
        disk.lock().sync_failures = None;
        disk.sync(file).unwrap();
        disk.restart(Stop::KeepAll);
        assert_eq!(disk.content("f/b"), Some(b"x".to_vec()));
    }
}
