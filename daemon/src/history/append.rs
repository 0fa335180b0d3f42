//! The writing side of the segments: opening the folder, appending blocks, making them durable.
//!
//! One thread owns it. [`Segments::append`] hands a block to the operating system and returns;
//! [`Segments::sync`] makes everything appended durable. A write or sync that failed is never
//! tried again on the same pages: the caller stops. Opening cuts a torn tail, refuses damage, and
//! brings the history to the head that State names (ruling 16): what lies beyond it is cut, and
//! what is missing below it becomes a gap.

use super::HistoryError;
use super::block::{Block, LEVEL};
use super::library::Library;
use super::recover;
use super::retain;
use super::seal::sync_folder;
use super::sealed::Sealed;
use super::segment::{Extent, Place, Segment, index_path, segment_path};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tiebeam_proto::chain::{self, GENESIS, Hash, Head};
use tiebeam_proto::record::Archived;

/// What was found when the history was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The newest record's index; 0 if there is none.
    pub last: u64,
    /// Bytes of a torn tail that were cut; their records come again with the replay.
    pub torn_bytes: u64,
    /// Records beyond State's head that were cut.
    pub cut_records: u64,
    /// Records below State's head that are not here, from and to: they must come from a peer.
    pub missing: Option<(u64, u64)>,
    /// Segments whose index file was missing or did not fit, and is made again.
    pub unindexed: usize,
    /// Whether the hot index was made again, and why.
    pub index_rebuilt: Option<String>,
}

/// A record that is to be appended, its link checked.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) index: u64,
    pub(super) previous: Hash,
    pub(super) this: Hash,
    pub(super) canonical: Arc<[u8]>,
}

impl Entry {
    /// Reads the hashes of a record's link.
    pub(super) fn of(record: &Archived) -> Result<Entry, HistoryError> {
        let link = &record.link;
        let hashes = chain::from_text(&link.previous).zip(chain::from_text(&link.this));
        let (previous, this) = hashes.ok_or(HistoryError::NoLink { index: link.index })?;
        Ok(Entry { index: link.index, previous, this, canonical: Arc::clone(&record.canonical) })
    }
}

/// The segments as their writer sees them.
pub(super) struct Segments {
    pub(super) library: Arc<Library>,
    /// The segment that grows; none until the first append after a full one or a gap.
    pub(super) open: Option<(Arc<Segment>, File)>,
    /// The newest record, or State's head if that is further; `None` in an empty folder.
    pub(super) head: Option<Head>,
    /// Offset in the open segment below which everything is synced.
    durable_to: u64,
    pub(super) segment_bytes: u64,
    compressor: zstd::bulk::Compressor<'static>,
}

impl Segments {
    /// Opens the folder, or makes it. `expected` is State's chain head, if it is to be enforced:
    /// records beyond it are cut, unless `keep_beyond`. A segment is full at `segment_bytes`.
    ///
    /// # Errors
    /// [`HistoryError::Damaged`] for damage that is no torn tail, [`HistoryError::Forked`] if the
    /// record at State's head has another hash, or what the operating system said.
    pub(super) fn open(
        folder: &Path,
        (expected, keep_beyond): (Option<Head>, bool),
        segment_bytes: u64,
    ) -> Result<(Segments, Opened), HistoryError> {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(HistoryError::io("make", folder))?;
        // A segment that was filled has its name before that is durable.
        sync_folder(folder)?;
        let mut opened = Opened::default();
        let segments = load(folder, &mut opened)?;
        let library = Arc::new(Library::new(folder.to_owned(), segments));
        let compressor =
            zstd::bulk::Compressor::new(LEVEL).map_err(HistoryError::io("compress for", folder))?;
        let mut writer =
            Segments { library, open: None, head: None, durable_to: 0, segment_bytes, compressor };
        writer.head = writer.newest();
        if let Some(expected) = expected {
            writer.meet(expected, keep_beyond, &mut opened)?;
        }
        writer.reopen()?;
        opened.last = writer.newest().map_or(0, |head| head.index);
        Ok((writer, opened))
    }

    fn newest(&self) -> Option<Head> {
        let segment = self.library.segments().pop()?;
        let extent = segment.extent();
        Some(Head { index: extent.last, hash: extent.head })
    }

    /// Brings the history to State's head.
    fn meet(
        &mut self,
        expected: Head,
        keep_beyond: bool,
        opened: &mut Opened,
    ) -> Result<(), HistoryError> {
        let here = self.newest().unwrap_or(Head::EMPTY);
        if here.index >= expected.index {
            if self.library.segment(expected.index).is_some() {
                self.same(expected.index, &expected.hash)?;
            }
            if keep_beyond && here.index > expected.index {
                return Ok(());
            }
            opened.cut_records = self.cut(expected.index)?;
        } else {
            opened.missing = Some((here.index + 1, expected.index));
        }
        self.head = Some(expected);
        Ok(())
    }

    /// Checks that a record which is here has this hash.
    pub(super) fn same(&self, index: u64, hash: &Hash) -> Result<(), HistoryError> {
        let block = self.library.block(index)?;
        match block.as_ref().and_then(|block| block.kept(index)) {
            Some(kept) if kept.this != *hash => Err(HistoryError::Forked { index }),
            Some(_) | None => Ok(()),
        }
    }

    /// Removes every record above `index`; gives how many there were.
    fn cut(&mut self, index: u64) -> Result<u64, HistoryError> {
        let mut removed = 0;
        let mut segments = self.library.segments();
        while let Some(segment) = segments.pop_if(|segment| segment.first > index) {
            removed += segment.last() + 1 - segment.first;
            remove(&index_path(&self.library.folder, segment.first))?;
            remove(&segment.path)?;
        }
        if let Some(segment) = segments.last().filter(|segment| segment.last() > index) {
            removed += segment.last() - index;
            self.cut_inside(segment, index)?;
        }
        if removed > 0 {
            self.library.update(|list| *list = segments, true);
            sync_folder(&self.library.folder)?;
        }
        Ok(removed)
    }

    fn cut_inside(&mut self, segment: &Segment, index: u64) -> Result<(), HistoryError> {
        let file = writable(&segment.path)?;
        segment.unseal()?;
        remove(&index_path(&self.library.folder, segment.first))?;
        let Some(place) = segment.place(index)? else {
            return Ok(());
        };
        let block = segment.block(&file, place)?;
        let kept: Vec<_> = block.records().take_while(|kept| kept.index <= index).collect();
        let head = kept.last().map_or(GENESIS, |kept| kept.this);
        let previous = kept.first().map_or(GENESIS, |kept| kept.previous);
        let records = kept.iter().map(|kept| (kept.this, kept.canonical));
        let bytes = Block::of(place.first, previous, records)
            .encode(place.offset, &mut self.compressor)
            .map_err(HistoryError::io("compress for", &segment.path))?;
        file.write_all_at(&bytes, place.offset)
            .map_err(HistoryError::io("write", &segment.path))?;
        let end = place.offset + bytes.len() as u64;
        file.set_len(end)
            .and_then(|()| file.sync_all())
            .map_err(HistoryError::io("cut", &segment.path))?;
        segment.update(|extent| {
            extent.places.retain(|other| other.offset <= place.offset);
            (extent.last, extent.head, extent.bytes) = (index, head, end);
        });
        Ok(())
    }

    /// Goes on with the newest segment, if it is not sealed and nothing is missing behind it.
    fn reopen(&mut self) -> Result<(), HistoryError> {
        let newest = self.library.segments().pop();
        let Some(segment) = newest.filter(|segment| segment.sealed().is_none()) else {
            return Ok(());
        };
        let (last, bytes) = (segment.last(), segment.extent().bytes);
        if self.head.is_some_and(|head| head.index == last) && bytes < self.segment_bytes {
            let file = writable(&segment.path)?;
            // What a crash left unsynced is made durable before anything is put behind it.
            file.sync_data().map_err(HistoryError::io("sync", &segment.path))?;
            self.durable_to = bytes;
            self.open = Some((segment, file));
        }
        Ok(())
    }

    /// Of records that were delivered, gives those that are new. One that is here already must
    /// have the same hash (ruling 16).
    pub(super) fn unwritten(&self, entries: Vec<Entry>) -> Result<Vec<Entry>, HistoryError> {
        let newest = self.head.map_or(0, |head| head.index);
        if entries.first().is_none_or(|entry| entry.index > newest) {
            return Ok(entries);
        }
        let (old, new): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.index <= newest);
        for entry in &old {
            self.same(entry.index, &entry.this)?;
        }
        Ok(new)
    }

    /// Appends records as one block and gives it.
    ///
    /// # Errors
    /// [`HistoryError::OutOfOrder`] or [`HistoryError::Forked`] if they do not follow the newest
    /// record, or what the operating system said; then nothing may be appended any more.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<Arc<Block>, HistoryError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(HistoryError::OutOfOrder { index: 0, expected: 1 });
        };
        self.follows(entries)?;
        if self.open.is_none() {
            self.begin(first)?;
        }
        let records = entries.iter().map(|entry| (entry.this, Some(&*entry.canonical)));
        let block = Block::of(first.index, first.previous, records);
        let Some((segment, file)) = &self.open else {
            return Err(HistoryError::OutOfOrder { index: first.index, expected: 0 });
        };
        let bytes = block
            .encode(self.durable_to, &mut self.compressor)
            .map_err(HistoryError::io("compress for", &segment.path))?;
        let offset = segment.extent().bytes;
        file.write_all_at(&bytes, offset).map_err(HistoryError::io("write", &segment.path))?;
        segment.update(|extent| {
            extent.places.push(Place { first: first.index, offset });
            extent.bytes = offset + bytes.len() as u64;
            (extent.last, extent.head) = (last.index, last.this);
        });
        self.head = Some(Head { index: last.index, hash: last.this });
        let block = Arc::new(block);
        self.library.remember(Arc::clone(&block));
        Ok(block)
    }

    fn follows(&self, entries: &[Entry]) -> Result<(), HistoryError> {
        let mut head = self.head;
        for entry in entries {
            if let Some(head) = head {
                let expected = head.index + 1;
                if entry.index != expected {
                    return Err(HistoryError::OutOfOrder { index: entry.index, expected });
                }
                if entry.previous != head.hash {
                    return Err(HistoryError::Forked { index: head.index });
                }
            }
            head = Some(Head { index: entry.index, hash: entry.this });
        }
        Ok(())
    }

    fn begin(&mut self, entry: &Entry) -> Result<(), HistoryError> {
        let folder = self.library.folder.clone();
        let path = segment_path(&folder, entry.index);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(HistoryError::io("create", &path))?;
        sync_folder(&folder)?;
        let extent = Extent {
            previous: entry.previous,
            last: entry.index - 1,
            head: entry.previous,
            bytes: 0,
            places: Vec::new(),
            sealed: None,
        };
        let segment = Arc::new(Segment::new(&folder, entry.index, extent));
        self.library.update(|list| list.push(Arc::clone(&segment)), false);
        self.durable_to = 0;
        self.open = Some((segment, file));
        Ok(())
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// What the operating system said; then nothing of this segment may be called durable.
    pub(super) fn sync(&mut self) -> Result<(), HistoryError> {
        if let Some((segment, file)) = &self.open {
            let bytes = segment.extent().bytes;
            if self.durable_to < bytes {
                file.sync_data().map_err(HistoryError::io("sync", &segment.path))?;
                self.durable_to = bytes;
            }
        }
        Ok(())
    }

    /// Ends the open segment if it is full, after making it durable; it is then to be sealed.
    pub(super) fn close_full(&mut self) -> Result<bool, HistoryError> {
        let full =
            |(segment, _): &(Arc<Segment>, File)| segment.extent().bytes >= self.segment_bytes;
        if !self.open.as_ref().is_some_and(full) {
            return Ok(false);
        }
        self.sync()?;
        self.open = None;
        Ok(true)
    }

    /// Bytes of the segment that grows.
    pub(super) fn open_bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |(segment, _)| segment.extent().bytes)
    }

    /// The first record that no index file answers for.
    pub(super) fn unsealed_from(&self) -> u64 {
        let segments = self.library.segments();
        let unsealed = segments.iter().find(|segment| segment.sealed().is_none());
        let next = || segments.last().map_or(0, |segment| segment.last() + 1);
        unsealed.map_or_else(next, |segment| segment.first)
    }

    /// The oldest segment that no longer grows and is not sealed.
    pub(super) fn unsealed(&self) -> Option<Arc<Segment>> {
        let open = self.open.as_ref().map(|(segment, _)| segment.first);
        let done =
            |segment: &Arc<Segment>| Some(segment.first) != open && segment.sealed().is_none();
        self.library.segments().into_iter().find(done)
    }
}

fn writable(path: &Path) -> Result<File, HistoryError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(HistoryError::io("open", path))
}

pub(super) fn remove(path: &Path) -> Result<(), HistoryError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HistoryError::io("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The segments in the folder, oldest first. Cuts a torn tail, removes drafts.
fn load(folder: &Path, opened: &mut Opened) -> Result<Vec<Arc<Segment>>, HistoryError> {
    remove_drafts(folder)?;
    let files = firsts(folder)?;
    retain::remove_orphans(folder, &listed(folder)?, &files)?;
    let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(files.len());
    for (nth, first) in files.iter().enumerate() {
        let tail = nth + 1 == files.len();
        let path = segment_path(folder, *first);
        let bytes = fs::metadata(&path).map_err(HistoryError::io("read", &path))?.len();
        let sealed = Sealed::open(&index_path(folder, *first), bytes)?;
        let extent = match sealed {
            Some(sealed) => Extent {
                previous: sealed.footer.previous,
                last: sealed.footer.last,
                head: sealed.footer.head,
                bytes,
                places: Vec::new(),
                sealed: Some(Arc::new(sealed)),
            },
            None => scanned(&path, *first, tail, opened)?,
        };
        let overlap = segments.last().is_some_and(|before| before.last() >= *first);
        if overlap {
            return Err(HistoryError::damaged(&path, 0, "the segment before it has its records"));
        }
        if extent.last < *first {
            remove(&path)?;
            continue;
        }
        opened.unindexed += usize::from(!tail && extent.sealed.is_none());
        segments.push(Arc::new(Segment::new(folder, *first, extent)));
    }
    Ok(segments)
}

fn scanned(
    path: &Path,
    first: u64,
    tail: bool,
    opened: &mut Opened,
) -> Result<Extent, HistoryError> {
    let scan = recover::scan(path, first, tail)?;
    if scan.torn > 0 {
        opened.torn_bytes = scan.torn;
        let file = writable(path)?;
        file.set_len(scan.bytes)
            .and_then(|()| file.sync_all())
            .map_err(HistoryError::io("cut", path))?;
    }
    Ok(Extent {
        previous: scan.previous,
        last: scan.last,
        head: scan.head,
        bytes: scan.bytes,
        places: scan.places,
        sealed: None,
    })
}

/// The first records of the segment files in a folder, sorted.
pub(super) fn firsts(folder: &Path) -> Result<Vec<u64>, HistoryError> {
    let mut firsts = Vec::new();
    for path in listed(folder)? {
        let first = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if path.extension().is_some_and(|extension| extension == "seg") {
            firsts.extend(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

pub(super) fn listed(folder: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    let entries = fs::read_dir(folder).map_err(HistoryError::io("list", folder))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<Result<_, _>>().map_err(HistoryError::io("list", folder))
}

/// Removes what a crash left of index files in the making.
fn remove_drafts(folder: &Path) -> Result<(), HistoryError> {
    let draft = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "tmp");
    listed(folder)?.iter().filter(|path| draft(path)).try_for_each(|path| remove(path))
}
