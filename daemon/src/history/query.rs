//! The history as its readers see it: by job, by number, by revision, by range.
//!
//! Any thread may read while the writer appends. A look-up goes from left to right through
//! memory, hot index and index files; a record is in the next place before it leaves the one
//! before, so it is never missed. What a caller may see is the caller's to decide, but for
//! searches ([`super::search`]), where hidden records must not even cost a place on the page.
//! Request side: it returns errors, it never panics.

use super::HistoryError;
use super::facts::{Facts, JobId};
use super::fill::Filler;
use super::hot::Hot;
use super::index::{
    HotIndex, IndexError, Shared as SharedRow, addendum_key, last_number, mark_key, revision_of,
    shared_row,
};
use super::library::Library;
use super::prune::Reads;
use super::queue::{Pending, Queue};
use super::sealed::Section;
use super::segment::Segment;
use super::thread::Metrics;
use super::verify::{Report, Walk, verify_while};
use serde::Deserialize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tiebeam_proto::chain::Head;
use tiebeam_proto::record::{Archived, ChainLink};
use tiebeam_proto::time::Time;

/// Bytes that one call of [`History::range`] gives at most, but for a single larger record.
const RANGE_BYTES_MAX: usize = 1 << 20;

/// What a record counts in [`History::links`] beside its own bytes.
const LINK_BYTES: usize = 100;

/// Records that one page of [`History::revisions`] looks at: each costs a block.
const REVISIONS_LOOKED_AT_MAX: usize = 2_000;

/// What writer and readers share.
pub(super) struct Shared {
    pub(super) library: Arc<Library>,
    pub(super) hot: RwLock<Option<Hot>>,
    pub(super) queue: Queue,
    pub(super) metrics: Metrics,
    /// State's floor: readers see nothing below it, whether it was removed yet or not.
    pub(super) floor: AtomicU64,
    /// Which records of reads are pruned, and how far that may go on disk.
    pub(super) reads: Reads,
    /// The head that State jumped to last; what lies below it may be missing.
    pub(super) skipped: Mutex<Option<Head>>,
    /// What was collected for a gap.
    pub(super) filler: Mutex<Filler>,
}

/// A record, or what is left of a pruned one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    /// Its place in the chain.
    pub link: ChainLink,
    /// Its canonical JSON; `None` if it was pruned.
    pub canonical: Option<Arc<[u8]>>,
    /// Of a pruned one: a time that it did not end before; microseconds since 1970.
    pub since_us: i64,
}

impl Linked {
    /// The facts of the record, as far as they are known.
    pub fn facts(&self) -> Facts {
        self.canonical.as_ref().map_or_else(|| Facts::pruned(self.since_us), |c| Facts::of(c))
    }
}

/// Reads the history; cheap to clone.
#[derive(Clone)]
pub struct History {
    pub(super) shared: Arc<Shared>,
}

/// A page of records that made revisions, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Revisions {
    /// The records, each with the revision it made.
    pub records: Vec<(u64, Archived)>,
    /// The revision to go on with; `None` at the end.
    pub next: Option<u64>,
}

#[derive(Deserialize)]
struct SeenChange {
    #[serde(default)]
    change: Vec<SeenPath>,
}

#[derive(Deserialize)]
struct SeenPath {
    path: String,
}

impl History {
    pub(super) fn new(shared: Arc<Shared>) -> History {
        History { shared }
    }

    pub(super) fn on_index<T>(
        &self,
        read: impl FnOnce(&dyn HotIndex) -> Result<T, IndexError>,
    ) -> Result<T, HistoryError> {
        let slot = self.shared.hot.read().unwrap_or_else(PoisonError::into_inner);
        let hot = slot.as_ref().ok_or(IndexError::OutOfUse);
        hot.and_then(|hot| read(&*hot.index)).map_err(HistoryError::Index)
    }

    /// The record with this number; `None` if it is not here or was pruned.
    ///
    /// # Errors
    /// Damage, or what the operating system said.
    pub fn record(&self, index: u64) -> Result<Option<Archived>, HistoryError> {
        if index < self.shared.floor() {
            return Ok(None);
        }
        let record = match self.shared.queue.record(index) {
            Some(pending) => Some(pending.record),
            None => self.shared.library.record(index)?,
        };
        Ok(record.filter(|record| !self.shared.reads.hide(record)))
    }

    /// The record of a job; `None` if the job is not archived, or there is none with this id.
    ///
    /// # Errors
    /// Damage, or what the operating system or the index said.
    pub fn job(&self, id: &str) -> Result<Option<Archived>, HistoryError> {
        let Some(id) = JobId::parse(id) else {
            return Ok(None);
        };
        if let Some(record) = self.shared.queue.job(id) {
            return Ok(Some(record).filter(|record| !self.shared.reads.hide(record)));
        }
        match self.job_index(id)? {
            Some(index) => self.record(index),
            None => Ok(None),
        }
    }

    fn job_index(&self, id: JobId) -> Result<Option<u64>, HistoryError> {
        let place = SharedRow::job(id);
        let row = self.on_index(|index| index.get(&place.key))?;
        if let Some(index) = row.and_then(|row| shared_row(&row).get(&place.low).copied()) {
            return Ok(Some(index));
        }
        let _reading = self.shared.library.reading();
        for segment in self.shared.segments().iter().rev() {
            if let Some(sealed) = segment.index()?
                && let Some(index) = sealed.of_job(Section::Jobs, id)?.pop()
            {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// What became known of a job after its record was final, oldest first.
    ///
    /// # Errors
    /// Damage, or what the operating system or the index said.
    pub fn addenda(&self, id: &str) -> Result<Vec<Archived>, HistoryError> {
        let Some(id) = JobId::parse(id) else {
            return Ok(Vec::new());
        };
        let pending = self.shared.queue.addenda(id);
        let keys = (addendum_key(id, 0), addendum_key(id, u64::MAX));
        let rows = self.on_index(|index| index.scan(&keys.0, &keys.1, false, 1000))?;
        let mut found = self.sealed_addenda(id)?;
        for (key, _) in &rows {
            found.push(last_number(key).map_err(HistoryError::Index)?);
        }
        found.sort_unstable();
        found.dedup();
        let waits = |index: &u64| !pending.iter().any(|record| record.link.index == *index);
        let mut records = Vec::new();
        for index in found.into_iter().filter(waits) {
            records.extend(self.record(index)?);
        }
        records.extend(pending);
        Ok(records)
    }

    fn sealed_addenda(&self, id: JobId) -> Result<Vec<u64>, HistoryError> {
        let _reading = self.shared.library.reading();
        let mut found = Vec::new();
        for segment in self.shared.segments() {
            if let Some(sealed) = segment.index()? {
                found.extend(sealed.of_job(Section::Addenda, id)?);
            }
        }
        Ok(found)
    }

    /// The record of the job that made a revision; `None` if it is not archived yet, or is not
    /// here.
    ///
    /// # Errors
    /// Damage, or what the operating system or the index said.
    pub fn revision(&self, revision: u64) -> Result<Option<Archived>, HistoryError> {
        match self.revision_to(revision)? {
            Some((found, index)) if found == revision => self.record(index),
            Some(_) | None => Ok(None),
        }
    }

    /// The highest revision up to this one whose record is here, with the record's number.
    fn revision_to(&self, revision: u64) -> Result<Option<(u64, u64)>, HistoryError> {
        let mut best = self.shared.queue.revision_to(revision);
        let (first, place) = (SharedRow::revision(0), SharedRow::revision(revision));
        // The row of the revision may hold higher ones only; then it is the row before.
        let rows = self.on_index(|index| index.scan(&first.key, &place.key, true, 2))?;
        for (key, row) in &rows {
            let top = if *key == place.key { place.low } else { u8::MAX };
            if let Some((low, index)) = shared_row(row).range(..=top).next_back() {
                let made = revision_of(key, *low).map_err(HistoryError::Index)?;
                best = best.max(Some((made, *index)));
            }
        }
        let _reading = self.shared.library.reading();
        for segment in self.shared.segments().iter().rev() {
            let worth =
                |low: u64, high: u64| low <= revision && best.is_none_or(|(made, _)| high > made);
            let worth = segment.sealed().is_some_and(|sealed| {
                let (low, high) = sealed.footer.revisions;
                worth(low, high)
            });
            if worth && let Some(sealed) = segment.index()? {
                best = best.max(sealed.revision_to(revision)?);
            }
        }
        Ok(best)
    }

    /// A page of the records that made revisions up to `upto`, newest first. `path` keeps those
    /// that changed that path, something below it, or something that it lies in; `since` those
    /// that ended then or later. A page may be short and still have a `next`.
    ///
    /// # Errors
    /// Damage, or what the operating system or the index said.
    pub fn revisions(
        &self,
        upto: u64,
        path: Option<&str>,
        since: Option<Time>,
        limit: usize,
    ) -> Result<Revisions, HistoryError> {
        let mut page = Revisions { records: Vec::new(), next: None };
        let mut below = Some(upto);
        for _ in 0..REVISIONS_LOOKED_AT_MAX {
            let Some(upto) = below else {
                return Ok(page);
            };
            let Some((made, index)) = self.revision_to(upto)? else {
                return Ok(page);
            };
            if page.records.len() >= limit {
                page.next = Some(made);
                return Ok(page);
            }
            below = made.checked_sub(1);
            if let Some(record) = self.record(index)? {
                let late = since.is_none_or(|since| Facts::of(&record.canonical).ended >= since.0);
                if late && path.is_none_or(|path| touches(&record.canonical, path)) {
                    page.records.push((made, record));
                }
            }
        }
        page.next = below;
        Ok(page)
    }

    /// Records from `from` to `to`, oldest first, as far as they fit into 1 MiB; at least one, if
    /// there is one. Pruned and missing ones are left out: the indices tell.
    ///
    /// # Errors
    /// Damage, or what the operating system said.
    pub fn range(&self, from: u64, to: u64) -> Result<Vec<Archived>, HistoryError> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let to = to.min(self.shared.newest().unwrap_or(0));
        let mut index = self.skip_gap(from.max(self.shared.floor()));
        while index <= to && bytes < RANGE_BYTES_MAX {
            if let Some(record) = self.record(index)? {
                bytes += record.canonical.len();
                records.push(record);
            }
            index = self.skip_gap(index + 1);
        }
        Ok(records)
    }

    /// The links of all records from `from` to `to`, oldest first, pruned ones included, about a
    /// MiB of records at a time. Records that are only hidden come whole.
    ///
    /// # Errors
    /// Damage, or what the operating system said.
    pub fn links(&self, from: u64, to: u64) -> Result<Vec<Linked>, HistoryError> {
        let (mut links, mut bytes) = (Vec::new(), 0);
        let to = to.min(self.shared.newest().unwrap_or(0));
        let mut index = self.skip_gap(from.max(self.shared.floor()));
        while index <= to && bytes < RANGE_BYTES_MAX {
            if let Some(linked) = self.linked(index)? {
                bytes += LINK_BYTES + linked.canonical.as_ref().map_or(0, |bytes| bytes.len());
                links.push(linked);
            }
            index = self.skip_gap(index + 1);
        }
        Ok(links)
    }

    fn linked(&self, index: u64) -> Result<Option<Linked>, HistoryError> {
        let since = |segment: Arc<Segment>| segment.sealed().map(|sealed| sealed.footer.times.0);
        let since_us = || self.shared.library.segment(index).and_then(since).unwrap_or(0);
        if let Some(Pending { record, .. }) = self.shared.queue.record(index) {
            let (link, canonical) = (record.link, Some(record.canonical));
            return Ok(Some(Linked { link, canonical, since_us: 0 }));
        }
        let block = self.shared.library.block(index)?;
        Ok(block.as_ref().and_then(|block| block.kept(index)).map(|kept| Linked {
            link: kept.link(),
            canonical: kept.canonical.map(Arc::from),
            since_us: if kept.canonical.is_none() { since_us() } else { 0 },
        }))
    }

    /// This index, or the next one that a segment or the memory may have.
    fn skip_gap(&self, index: u64) -> u64 {
        let inside = self.shared.library.segment(index).is_some_and(|s| index <= s.last());
        if inside || self.shared.queue.record(index).is_some() {
            return index;
        }
        let segments = self.shared.segments();
        let next = segments.iter().map(|segment| segment.first).find(|first| *first >= index);
        let pending = self.shared.queue.oldest_from(index);
        next.into_iter().chain(pending).min().unwrap_or(u64::MAX)
    }

    /// Where the segments are.
    pub fn folder(&self) -> &Path {
        &self.shared.library.folder
    }

    /// The newest record that was handed over; 0 if there is none.
    pub fn newest(&self) -> u64 {
        self.shared.newest().unwrap_or(0)
    }

    /// The oldest record that is here; `None` in an empty history.
    pub fn oldest(&self) -> Option<u64> {
        let floor = self.shared.floor();
        let segment = self.shared.segments().first().map(|segment| segment.first.max(floor));
        segment.or_else(|| self.shared.queue.oldest_from(0))
    }

    /// Which records between `floor` and the newest are not here, as ranges from and to.
    pub fn gaps(&self, floor: u64) -> Vec<(u64, u64)> {
        self.shared.gaps(floor)
    }

    /// A watermark that [`super::HistoryHandle::keep_mark`] kept.
    ///
    /// # Errors
    /// What the index said.
    pub fn mark(&self, name: &str) -> Result<Option<u64>, HistoryError> {
        let value = self.on_index(|index| index.get(&mark_key(name)))?;
        value.map(|value| last_number(&value).map_err(HistoryError::Index)).transpose()
    }

    /// Checks every record that is written now: checksums, order, hashes.
    ///
    /// # Errors
    /// What the operating system said; damage is in the report.
    pub fn verify(&self) -> Result<Report, HistoryError> {
        let upto = self.shared.metrics.written.load(Ordering::Relaxed);
        let library = &self.shared.library;
        verify_while(&library.folder, Walk::to(Some(upto)), || library.reading())
    }
}

/// Whether the record's change has to do with this path.
fn touches(canonical: &[u8], path: &str) -> bool {
    let inside = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || outer.is_empty())
    };
    let seen = serde_json::from_slice::<SeenChange>(canonical);
    seen.is_ok_and(|seen| {
        seen.change.iter().any(|line| inside(&line.path, path) || inside(path, &line.path))
    })
}
