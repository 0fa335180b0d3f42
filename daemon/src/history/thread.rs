//! The history thread: the one writer of segments and hot index, and the handle to it.
//!
//! It drains what was archived into blocks, appends each, puts its rows into the hot index, and
//! only then lets go of the records in memory; so a reader finds a record at every moment. It
//! syncs when someone waits for it, and each second. When a segment is full a second thread seals
//! it, and this one removes the rows that its index file replaces, a few blocks at a time. What it
//! cannot write ends it: from then on everything that would need it is refused, with the reason.

use super::append::{Entry, Opened, Segments};
use super::facts::Facts;
use super::fill::Filler;
use super::hot::{self, Hot};
use super::index::{Batch, IndexError, discard, mark_key};
use super::prune::{self, Reads};
use super::query::{History, Shared};
use super::queue::{Queue, Synced, Taken, Wish};
use super::segment::Segment;
use super::{HistoryError, SEGMENT_BYTES, chain_of};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tiebeam_proto::chain::Head;
use tiebeam_proto::record::{Archived, JobRecord};

/// The segments are synced this often without being asked, so that the log prefix may be dropped.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The hot index is synced this often: it only saves work at the next start.
const INDEX_SYNC_EVERY: Duration = Duration::from_secs(10);

/// How often an index that is out of use is tried to be made again.
const INDEX_AGAIN: Duration =
    if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(10) };

/// Blocks whose rows are removed in one go: about 10 ms of work, with records waiting.
const RETIRE_BLOCKS: usize = 8;

/// How to open a history.
#[derive(Clone, Debug)]
pub struct Start {
    /// `<data>/history`.
    pub folder: PathBuf,
    /// `<data>/index`.
    pub index_folder: PathBuf,
    /// State's chain head, if records beyond it are to be cut and missing ones to be known; else
    /// whatever is here stays, and replayed records are compared with it.
    pub expected: Option<Head>,
    /// Records beyond `expected` stay, and are compared with what is replayed.
    pub keep_beyond: bool,
    /// Bytes at which a segment is full.
    pub segment_bytes: u64,
}

impl Start {
    /// A history in `<data>/history` and `<data>/index` with the usual sizes.
    pub fn at(data_folder: &std::path::Path, expected: Option<Head>) -> Start {
        Start {
            folder: data_folder.join("history"),
            index_folder: data_folder.join("index"),
            expected,
            keep_beyond: false,
            segment_bytes: SEGMENT_BYTES,
        }
    }

    /// The history of a node that recovers from a snapshot with this chain head. What is missing
    /// below the head is a gap, for the snapshot may be a peer's; what lies beyond it stays.
    pub fn behind(data_folder: &std::path::Path, head: Head) -> Start {
        Start { keep_beyond: true, ..Start::at(data_folder, Some(head)) }
    }
}

/// What the history counts. Everything is since the start, but for the positions.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Index of the newest record in a segment.
    pub written: AtomicU64,
    /// Index of the newest record that is durable.
    pub durable: AtomicU64,
    /// Records appended.
    pub records: AtomicU64,
    /// Bytes of canonical JSON appended.
    pub record_bytes: AtomicU64,
    /// Bytes of blocks appended.
    pub stored_bytes: AtomicU64,
    /// Blocks appended.
    pub blocks: AtomicU64,
    /// Records that were delivered again and are here already.
    pub repeated: AtomicU64,
    /// Syncs of segments.
    pub syncs: AtomicU64,
    /// Segments sealed.
    pub sealed: AtomicU64,
    /// Segments out of which records of reads were taken.
    pub pruned: AtomicU64,
    /// Records that came from a peer into a gap.
    pub filled: AtomicU64,
    /// Of those, the ones that no segment has yet: readers do not see them.
    pub collected: AtomicU64,
    /// Parcels from a peer that were not what belongs there.
    pub misfits: AtomicU64,
    /// Segments removed because they lay below the floor.
    pub dropped: AtomicU64,
    /// Times that the hot index was made again.
    pub index_rebuilds: AtomicU64,
    /// Whether the hot index is out of use: there was no room for it, say. Then the newest records
    /// are not found by job, revision or filter until it is made again; nothing is lost.
    pub index_out_of_use: AtomicBool,
}

/// A running history.
pub struct HistoryThread {
    /// Hands records over; cheap to clone.
    pub handle: HistoryHandle,
    /// Reads; cheap to clone.
    pub history: History,
    /// What was found at the opening.
    pub opened: Opened,
    join: JoinHandle<()>,
}

/// Hands records to the history thread.
#[derive(Clone)]
pub struct HistoryHandle {
    pub(super) shared: Arc<Shared>,
}

impl HistoryThread {
    /// Opens the history on the calling thread, then starts the writer. Blocks while it repairs.
    ///
    /// # Errors
    /// [`HistoryError::Damaged`] for damage that is no torn tail, [`HistoryError::Forked`] if
    /// State's head is not in this history, or what the operating system said.
    pub fn spawn(start: &Start) -> Result<HistoryThread, HistoryError> {
        let (segments, mut opened) = Segments::open(
            &start.folder,
            (start.expected, start.keep_beyond),
            start.segment_bytes,
        )?;
        let hot = opened_index(hot::open(&start.index_folder, &segments))?;
        opened.index_rebuilt = hot.as_ref().and_then(|hot| hot.rebuilt.clone());
        let index_tried = hot.is_none().then(Instant::now);
        let skipped = segments.head.filter(|_| opened.missing.is_some());
        let shared = Arc::new(Shared {
            filler: Mutex::new(Filler::open(&segments.library, start.segment_bytes)?),
            skipped: Mutex::new(skipped),
            library: Arc::clone(&segments.library),
            hot: RwLock::new(hot),
            queue: Queue::default(),
            metrics: Metrics::default(),
            floor: AtomicU64::new(0),
            reads: Reads::default(),
        });
        shared.metrics.index_out_of_use.store(index_tried.is_some(), Relaxed);
        let end = skipped.map_or(opened.last, |head| head.index);
        shared.metrics.written.store(end, Relaxed);
        let writer = Writer {
            shared: Arc::clone(&shared),
            segments,
            index_folder: start.index_folder.clone(),
            waiters: Vec::new(),
            sealing: None,
            sealing_failed: false,
            pruned: (0, 0),
            stop_sealing: Arc::new(AtomicBool::new(false)),
            synced: Instant::now(),
            index_synced: Instant::now(),
            index_dirty: false,
            index_tried,
            drop_below: 0,
        };
        let join = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || writer.run())
            .map_err(HistoryError::io("start the thread of", &start.folder))?;
        let handle = HistoryHandle { shared: Arc::clone(&shared) };
        Ok(HistoryThread { handle, history: History::new(shared), opened, join })
    }

    /// Writes and syncs what was handed over, then ends the thread.
    ///
    /// # Errors
    /// [`HistoryError::Stopped`] with the reason, if it had to end before.
    pub fn stop(self) -> Result<(), HistoryError> {
        let last = self.handle.shared.newest().unwrap_or(0);
        self.handle.shared.queue.stop();
        if self.join.join().is_err() {
            return Err(HistoryError::Stopped(Arc::from("the history thread panicked")));
        }
        match self.handle.shared.metrics.durable.load(Relaxed) >= last {
            true => Ok(()),
            false => Err(HistoryError::Stopped(Arc::from("a record could not be written"))),
        }
    }
}

impl HistoryHandle {
    /// Takes a record over; from now on readers see it. Waits while more than 8,192 records or
    /// 32 MiB are unwritten.
    ///
    /// # Errors
    /// [`HistoryError::Stopped`] if the thread has ended.
    pub fn archive(&self, record: Archived) -> Result<(), HistoryError> {
        let facts = Facts::of(&record.canonical);
        self.shared.queue.archive(record, facts)
    }

    /// As [`HistoryHandle::archive`], for the record of a job that is at hand: its canonical form
    /// need not be read for what it is found by.
    ///
    /// # Errors
    /// [`HistoryError::Stopped`] if the thread has ended.
    pub fn archive_job(&self, record: Archived, job: &JobRecord) -> Result<(), HistoryError> {
        self.shared.queue.archive(record, Facts::of_job(job))
    }

    /// Waits until everything up to this record is durable, and gives up to where that is true.
    /// Waits for a record that was not handed over yet, too.
    ///
    /// # Errors
    /// [`HistoryError::Stopped`] if the thread ends before.
    pub fn sync_to(&self, index: u64) -> Result<u64, HistoryError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.on_synced(index, Box::new(move |result| drop(answer.send(result))));
        let ended = || Err(HistoryError::Stopped(Arc::from("the history thread ended")));
        answered.recv().unwrap_or_else(|_| ended())
    }

    /// State has jumped to a snapshot with this chain head: what is not here up to it is missing
    /// from now on, and the next record is the one behind it. Waits until everything that was
    /// handed over is durable. To be called when the snapshot is durable, by whoever archives: the
    /// snapshot is what tells of the gap after a restart, see [`Start::behind`].
    ///
    /// # Errors
    /// [`HistoryError::Forked`] if the record at the head is here with another hash, or
    /// [`HistoryError::Stopped`].
    pub fn skip_to(&self, head: Head) -> Result<(), HistoryError> {
        self.sync_to(self.shared.newest().unwrap_or(0))?;
        let (answer, answered) = mpsc::sync_channel(1);
        let then: Synced = Box::new(move |result| drop(answer.send(result)));
        if let Err((_, error)) = self.shared.queue.wish(Wish::SkipTo(head, then)) {
            return Err(error);
        }
        let ended = || Err(HistoryError::Stopped(Arc::from("the history thread ended")));
        answered.recv().unwrap_or_else(|_| ended()).map(drop)
    }

    /// Calls `then`, on the history thread, when everything up to this record is durable.
    pub fn on_synced(&self, index: u64, then: Synced) {
        if let Err((Wish::SyncTo(_, then), error)) =
            self.shared.queue.wish(Wish::SyncTo(index, then))
        {
            then(Err(error));
        }
    }

    /// Tells State's floor: from now on readers see nothing below this record. It never goes down.
    pub fn set_floor(&self, index: u64) {
        self.shared.floor.fetch_max(index, Relaxed);
    }

    /// Removes whole segments below this record, later, on the history thread. To be called when
    /// a snapshot whose floor it is is durable: what is replayed on it is never missed.
    pub fn drop_below(&self, index: u64) {
        self.set_floor(index);
        // A history that has stopped drops them after the next start.
        let _ = self.shared.queue.wish(Wish::DropBelow(index));
    }

    /// Keeps a watermark of this node under a name. It may be lost with the hot index; then
    /// [`History::mark`] gives none.
    pub fn keep_mark(&self, name: &str, value: u64) {
        // A watermark that is lost costs work at the next start, nothing else.
        let _ = self.shared.queue.wish(Wish::Mark(name.to_owned(), value));
    }

    /// What the history counts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Records that were handed over and are not written yet, and their bytes.
    pub fn lag(&self) -> (usize, usize) {
        self.shared.queue.load()
    }
}

/// What the other thread does with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Seal,
    Prune,
}

/// Who waits until this record is durable.
type Waiter = (u64, Synced);

struct Writer {
    shared: Arc<Shared>,
    segments: Segments,
    index_folder: PathBuf,
    waiters: Vec<Waiter>,
    /// The thread that seals or prunes a segment: one at a time.
    sealing: Option<JoinHandle<(Work, Result<(), HistoryError>)>>,
    /// A segment could not be sealed; it is tried again at the next full one.
    sealing_failed: bool,
    /// Reads below this record are out of this many segments, or could not be taken out.
    pruned: (u64, usize),
    stop_sealing: Arc<AtomicBool>,
    synced: Instant,
    index_synced: Instant,
    index_dirty: bool,
    /// When an index that is out of use was last tried to be made again.
    index_tried: Option<Instant>,
    /// Segments that end below this record are to go; 0 when there is nothing to look for.
    drop_below: u64,
}

impl Writer {
    fn run(mut self) {
        let result = self.work();
        self.stop_sealing.store(true, Relaxed);
        if let Some(sealing) = self.sealing.take() {
            // What it leaves undone is done at the next start.
            let _ = sealing.join();
        }
        let reason: Arc<str> = match result {
            Ok(()) => Arc::from("the daemon ends"),
            Err(error) => {
                let text = chain_of(&error);
                tracing::error!(reason = %text, "the history stops");
                Arc::from(text)
            }
        };
        self.waiters.extend(sorted(self.shared.queue.fail(Arc::clone(&reason))).waiters());
        for (_, then) in self.waiters.drain(..) {
            then(Err(HistoryError::Stopped(Arc::clone(&reason))));
        }
    }

    fn work(&mut self) -> Result<(), HistoryError> {
        self.sync()?;
        let mut more = true;
        loop {
            let wait = if more { Some(Duration::from_millis(1)) } else { self.wait() };
            let taken = self.shared.queue.take(wait, !self.waiters.is_empty());
            let ended = taken.ended;
            self.write(taken)?;
            if ended || self.synced.elapsed() >= SYNC_EVERY || self.someone_waits() {
                self.sync()?;
            }
            self.seal();
            self.drop_segments()?;
            more = self.tidy_index()?;
            if ended {
                return self.end();
            }
        }
    }

    /// How long nothing need happen by itself.
    fn wait(&self) -> Option<Duration> {
        let metrics = &self.shared.metrics;
        if self.sealing.is_some() {
            return Some(Duration::from_millis(100));
        }
        if self.index_tried.is_some() {
            return Some(INDEX_AGAIN.min(SYNC_EVERY));
        }
        let dirty = metrics.written.load(Relaxed) > metrics.durable.load(Relaxed);
        if dirty { Some(SYNC_EVERY) } else { self.index_dirty.then_some(INDEX_SYNC_EVERY) }
    }

    fn someone_waits(&self) -> bool {
        let written = self.shared.metrics.written.load(Relaxed);
        self.waiters.iter().any(|(index, _)| *index <= written)
    }

    fn write(&mut self, taken: Taken) -> Result<(), HistoryError> {
        // Wishes first: if a record ends us, those who wait are told.
        let wishes = sorted(taken.wishes);
        self.drop_below = self.drop_below.max(wishes.drop_below);
        self.waiters.extend(wishes.waiters);
        self.mark(wishes.marks)?;
        for (head, then) in wishes.skips {
            then(self.skip_to(head)?);
        }
        if let Some(last) = taken.records.last().map(|pending| pending.record.link.index) {
            let entries = taken.records.iter().map(|pending| Entry::of(&pending.record));
            let entries = self.segments.unwritten(entries.collect::<Result<_, _>>()?)?;
            let repeated = taken.records.len() - entries.len();
            self.shared.metrics.repeated.fetch_add(repeated as u64, Relaxed);
            if !entries.is_empty() {
                let facts: Vec<_> =
                    taken.records.iter().skip(repeated).map(|p| Arc::clone(&p.facts)).collect();
                self.append(&entries, &facts)?;
            }
            self.shared.queue.written(last);
        }
        Ok(())
    }

    /// Goes on behind this head. The outer error ends the thread, the inner one is the caller's.
    fn skip_to(&mut self, head: Head) -> Result<Result<u64, HistoryError>, HistoryError> {
        self.sync()?;
        let skipped = match self.segments.skip_to(head) {
            Ok(skipped) => skipped,
            Err(error) => return Ok(Err(error)),
        };
        if skipped {
            *self.shared.skipped.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
            self.shared.metrics.written.store(head.index, Relaxed);
            self.shared.metrics.durable.store(head.index, Relaxed);
        }
        Ok(Ok(head.index))
    }

    fn append(
        &mut self,
        entries: &[Entry],
        facts: &[Arc<super::Facts>],
    ) -> Result<(), HistoryError> {
        let before = self.segments.open_bytes();
        let block = self.segments.append(entries)?;
        self.on_index(|hot| hot.put(&block, facts))?;
        let metrics = &self.shared.metrics;
        let bytes: usize = entries.iter().map(|entry| entry.canonical.len()).sum();
        metrics.records.fetch_add(entries.len() as u64, Relaxed);
        metrics.record_bytes.fetch_add(bytes as u64, Relaxed);
        metrics.stored_bytes.fetch_add(self.segments.open_bytes() - before, Relaxed);
        metrics.blocks.fetch_add(1, Relaxed);
        metrics.written.store(block.last(), Relaxed);
        if self.segments.close_full()? {
            self.sealing_failed = false;
        }
        Ok(())
    }

    /// Does something with the hot index; if that fails, makes the index again and goes on. An
    /// index that cannot be made again is out of use for a while: it holds no truth, and the node
    /// is worth more than it.
    fn on_index<T: Default>(
        &mut self,
        act: impl FnOnce(&mut Hot) -> Result<T, IndexError>,
    ) -> Result<T, HistoryError> {
        self.index_dirty = true;
        if self.index_tried.is_some_and(|at| at.elapsed() < INDEX_AGAIN) {
            return Ok(T::default());
        }
        let mut slot = self.shared.hot.write().unwrap_or_else(PoisonError::into_inner);
        let result = slot.as_mut().ok_or(IndexError::OutOfUse).and_then(act);
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        tracing::warn!(reason = %chain_of(&error), "the hot index is made again");
        // Closed first, for sled locks its folder; removed, for it is not to be trusted.
        if let Some(broken) = slot.take() {
            discard(broken.index);
        }
        let _ = std::fs::remove_dir_all(&self.index_folder);
        *slot = opened_index(hot::open(&self.index_folder, &self.segments))?;
        let metrics = &self.shared.metrics;
        self.index_tried = slot.is_none().then(Instant::now);
        metrics.index_out_of_use.store(slot.is_none(), Relaxed);
        metrics.index_rebuilds.fetch_add(u64::from(slot.is_some()), Relaxed);
        Ok(T::default())
    }

    fn mark(&mut self, marks: Vec<(String, u64)>) -> Result<(), HistoryError> {
        if marks.is_empty() {
            return Ok(());
        }
        let row = |(name, value): (String, u64)| (mark_key(&name), value.to_be_bytes().to_vec());
        let puts = marks.into_iter().map(row).collect();
        self.on_index(|hot| hot.index.write(Batch { puts, removes: Vec::new() }))
    }

    fn sync(&mut self) -> Result<(), HistoryError> {
        self.synced = Instant::now();
        let metrics = &self.shared.metrics;
        let written = metrics.written.load(Relaxed);
        if written > metrics.durable.load(Relaxed) {
            self.segments.sync()?;
            metrics.syncs.fetch_add(1, Relaxed);
            metrics.durable.store(written, Relaxed);
        }
        let waiters = std::mem::take(&mut self.waiters).into_iter();
        let (due, later): (Vec<Waiter>, _) = waiters.partition(|(index, _)| *index <= written);
        self.waiters = later;
        due.into_iter().for_each(|(_, then)| then(Ok(written)));
        Ok(())
    }

    /// Starts the sealing of a full segment, or else the pruning of a sealed one, and looks after
    /// what runs.
    fn seal(&mut self) {
        if let Some(sealing) = self.sealing.take_if(|sealing| sealing.is_finished()) {
            self.end_sealing(sealing.join());
        }
        if self.sealing.is_some() {
            return;
        }
        let unsealed = self.segments.unsealed().filter(|_| !self.sealing_failed);
        let below = self.shared.reads.removable_below();
        let prunable = if unsealed.is_none() { self.prunable(below) } else { None };
        let work = if unsealed.is_some() { Work::Seal } else { Work::Prune };
        let Some(segment) = unsealed.or(prunable) else {
            return;
        };
        let (shared, stop) = (Arc::clone(&self.shared), Arc::clone(&self.stop_sealing));
        let thread = std::thread::Builder::new().name("history-seal".to_owned());
        let started = thread.spawn(move || {
            let result = match work {
                Work::Seal => hot::seal_until(&segment, &stop),
                Work::Prune => prune::prune(&shared.library, &segment, &stop),
            };
            // The writer may have ended; then there is nobody to look.
            let _ = shared.queue.wish(Wish::Look);
            (work, result)
        });
        self.sealing = started.ok();
    }

    fn end_sealing(&mut self, ended: std::thread::Result<(Work, Result<(), HistoryError>)>) {
        let metrics = &self.shared.metrics;
        match ended {
            Ok((Work::Seal, Ok(()))) => {
                metrics.sealed.fetch_add(1, Relaxed);
                self.pruned = (0, 0);
            }
            Ok((Work::Prune, Ok(()))) => drop(metrics.pruned.fetch_add(1, Relaxed)),
            Ok((Work::Seal, Err(error))) => {
                tracing::error!(reason = %chain_of(&error), "a segment cannot be sealed");
                self.sealing_failed = true;
            }
            Ok((Work::Prune, Err(error))) => {
                tracing::warn!(reason = %chain_of(&error), "a segment keeps its reads for now");
                let below = self.shared.reads.removable_below();
                self.pruned = (below, self.shared.segments().len());
            }
            Err(_) => (self.sealing_failed, self.pruned.0) = (true, u64::MAX),
        }
    }

    /// The oldest sealed segment that lies below `below` and holds records of reads.
    fn prunable(&mut self, below: u64) -> Option<Arc<Segment>> {
        let segments = self.shared.segments();
        if below <= self.pruned.0 && segments.len() == self.pruned.1 {
            return None;
        }
        let found = segments.iter().find(|segment| prune::is_due(segment, below)).cloned();
        if found.is_none() {
            self.pruned = (below, segments.len());
        }
        found
    }

    /// Removes segments below the floor. One that is not sealed yet goes after it is.
    fn drop_segments(&mut self) -> Result<(), HistoryError> {
        if self.drop_below > 0 && self.sealing.is_none() {
            let dropped = self.segments.drop_below(self.drop_below)?;
            self.shared.metrics.dropped.fetch_add(dropped, Relaxed);
            self.drop_below = 0;
        }
        Ok(())
    }

    /// Removes rows that are not needed any more; gives whether there are more.
    fn tidy_index(&mut self) -> Result<bool, HistoryError> {
        let boundary = self.segments.unsealed_from();
        let due = {
            let slot = self.shared.hot.read().unwrap_or_else(PoisonError::into_inner);
            slot.as_ref().is_some_and(|hot| hot.from > 0 && hot.from < boundary)
        };
        let again = self.index_tried.is_some_and(|at| at.elapsed() >= INDEX_AGAIN);
        let more = (due || again) && self.on_index(|hot| hot.retire(boundary, RETIRE_BLOCKS))?;
        if self.index_synced.elapsed() >= INDEX_SYNC_EVERY && self.index_dirty {
            self.index_synced = Instant::now();
            self.on_index(|hot| hot.index.sync())?;
            self.index_dirty = false;
        }
        Ok(more)
    }

    fn end(&mut self) -> Result<(), HistoryError> {
        self.sync()?;
        self.on_index(|hot| hot.index.sync())
    }
}

/// The index if it could be opened. Damage of segments is told; that there is no room for an index,
/// or that its engine fails, is not worth ending for.
fn opened_index(opened: Result<Hot, HistoryError>) -> Result<Option<Hot>, HistoryError> {
    match opened {
        Ok(hot) => Ok(Some(hot)),
        Err(error @ (HistoryError::Damaged { .. } | HistoryError::Forked { .. })) => Err(error),
        Err(error) => {
            tracing::error!(reason = %chain_of(&error), "the hot index is out of use");
            Ok(None)
        }
    }
}

/// Wishes by what they are for.
#[derive(Default)]
struct Wishes {
    waiters: Vec<Waiter>,
    marks: Vec<(String, u64)>,
    skips: Vec<(Head, Synced)>,
    drop_below: u64,
}

impl Wishes {
    /// Everybody who waits for an answer.
    fn waiters(self) -> impl Iterator<Item = Waiter> {
        let skips = self.skips.into_iter().map(|(head, then)| (head.index, then));
        self.waiters.into_iter().chain(skips)
    }
}

fn sorted(wishes: Vec<Wish>) -> Wishes {
    let mut sorted = Wishes::default();
    for wish in wishes {
        match wish {
            Wish::SyncTo(index, then) => sorted.waiters.push((index, then)),
            Wish::SkipTo(head, then) => sorted.skips.push((head, then)),
            Wish::Mark(name, value) => sorted.marks.push((name, value)),
            Wish::DropBelow(index) => sorted.drop_below = sorted.drop_below.max(index),
            Wish::Look => {}
        }
    }
    sorted
}

impl Shared {
    /// The newest record that was handed over or written.
    pub(super) fn newest(&self) -> Option<u64> {
        let written = self.metrics.written.load(Relaxed);
        self.queue.newest().max(Some(written).filter(|index| *index > 0))
    }
}
