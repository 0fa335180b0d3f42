//! Records that were handed over and are not written yet, and the wishes to the history thread.
//!
//! It is queue and memory in one: the thread takes records from it in order, and readers find them
//! in it until they can be found in the segments and the index. It is bounded; who hands over more
//! than the disk takes waits here. Locks are held for a few map operations, never across I/O.

use super::HistoryError;
use super::facts::{Facts, JobId, Subject};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tiebeam_proto::chain::Head;
use tiebeam_proto::record::Archived;

/// Records that may wait: half a second's worth at 20,000 a second.
pub(super) const PENDING_RECORDS_MAX: usize = 8192;

/// Bytes of records that may wait; one record always may.
const PENDING_BYTES_MAX: usize = 32 << 20;

/// How long a small block waits for company. Readers see its records meanwhile, and nobody who
/// waits for a sync waits for this.
const LINGER: Duration = Duration::from_millis(20);

/// What a waiter for a sync is told: up to where the history is durable.
pub(super) type Synced = Box<dyn FnOnce(Result<u64, HistoryError>) + Send>;

/// A wish to the history thread.
pub(super) enum Wish {
    /// Answer when everything up to this record is durable.
    SyncTo(u64, Synced),
    /// Keep a watermark.
    Mark(String, u64),
    /// Go on behind this head, and answer when that is so.
    SkipTo(Head, Synced),
    /// Remove whole segments below this record.
    DropBelow(u64),
    /// The sealing thread has ended.
    Look,
}

/// A record that waits to be written.
#[derive(Clone)]
pub(super) struct Pending {
    pub(super) record: Archived,
    pub(super) facts: Arc<Facts>,
}

#[derive(Default)]
struct Inner {
    pending: BTreeMap<u64, Pending>,
    jobs: BTreeMap<JobId, u64>,
    addenda: BTreeSet<(JobId, u64)>,
    revisions: BTreeMap<u64, u64>,
    bytes: usize,
    /// The newest record that the thread has taken to write.
    taken: u64,
    untaken_bytes: usize,
    wishes: Vec<Wish>,
    /// Whether the thread waits for a first record, rather than for company to it.
    idle: bool,
    stopping: bool,
    failed: Option<Arc<str>>,
}

/// What the thread has to do next.
pub(super) struct Taken {
    pub(super) records: Vec<Pending>,
    pub(super) wishes: Vec<Wish>,
    /// Nothing will come any more, and nothing is left.
    pub(super) ended: bool,
}

/// The queue between those who archive, the thread, and those who read.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    work: Condvar,
    room: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record over; waits while there is no room.
    pub(super) fn archive(&self, record: Archived, facts: Facts) -> Result<(), HistoryError> {
        let facts = Arc::new(facts);
        let mut inner = self.lock();
        while inner.failed.is_none() && !inner.stopping && inner.is_full() {
            inner = self.room.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.refuse_if_over()?;
        inner.insert(Pending { record, facts });
        if inner.idle || inner.untaken_bytes >= super::BLOCK_RAW_BYTES {
            inner.idle = false;
            self.work.notify_one();
        }
        Ok(())
    }

    /// Leaves a wish; one that can no longer be fulfilled is given back.
    pub(super) fn wish(&self, wish: Wish) -> Result<(), (Wish, HistoryError)> {
        let mut inner = self.lock();
        if let Err(error) = inner.refuse_if_over() {
            return Err((wish, error));
        }
        inner.wishes.push(wish);
        inner.idle = false;
        self.work.notify_one();
        Ok(())
    }

    /// Waits for something to do, `wait` at most, and takes a block's worth of it. `urgent`: a
    /// small block is not to wait for company.
    pub(super) fn take(&self, wait: Option<Duration>, urgent: bool) -> Taken {
        let mut inner = self.lock();
        if !inner.has_work() {
            inner.idle = true;
            inner = match wait {
                None => self.work.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(time) => {
                    let waited = self.work.wait_timeout(inner, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            inner.idle = false;
        }
        let until = Instant::now() + LINGER;
        while !urgent && inner.wants_company() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.work.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.take()
    }

    /// Forgets records that can be found elsewhere now.
    pub(super) fn written(&self, upto: u64) {
        let mut inner = self.lock();
        while let Some(entry) = inner.pending.first_entry().filter(|entry| *entry.key() <= upto) {
            let gone = entry.remove();
            inner.bytes -= gone.record.canonical.len();
            let index = gone.record.link.index;
            match gone.facts.subject {
                Subject::Job(id) => drop(inner.jobs.remove(&id)),
                Subject::Addendum(id) => drop(inner.addenda.remove(&(id, index))),
                Subject::Audit | Subject::Tree | Subject::Other => {}
            }
            if let Some(revision) = gone.facts.revision {
                inner.revisions.remove(&revision);
            }
        }
        drop(inner);
        self.room.notify_all();
    }

    /// Takes no more records; the thread ends when it has written what is here.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.work.notify_one();
        self.room.notify_all();
    }

    /// Notes that the thread has ended, and why; gives the wishes that nobody will fulfil.
    pub(super) fn fail(&self, reason: Arc<str>) -> Vec<Wish> {
        let mut inner = self.lock();
        inner.failed = Some(reason);
        self.room.notify_all();
        std::mem::take(&mut inner.wishes)
    }

    /// The record with this index, if it waits here.
    pub(super) fn record(&self, index: u64) -> Option<Pending> {
        self.lock().pending.get(&index).cloned()
    }

    /// The record of this job, if it waits here.
    pub(super) fn job(&self, id: JobId) -> Option<Archived> {
        let inner = self.lock();
        inner.pending.get(inner.jobs.get(&id)?).map(|pending| pending.record.clone())
    }

    /// The addenda to this job that wait here, oldest first.
    pub(super) fn addenda(&self, id: JobId) -> Vec<Archived> {
        let inner = self.lock();
        let indices = inner.addenda.range((id, 0)..=(id, u64::MAX));
        indices.filter_map(|(_, index)| Some(inner.pending.get(index)?.record.clone())).collect()
    }

    /// The highest revision up to this one that waits here, with its record.
    pub(super) fn revision_to(&self, revision: u64) -> Option<(u64, u64)> {
        let inner = self.lock();
        inner.revisions.range(..=revision).next_back().map(|(revision, index)| (*revision, *index))
    }

    /// The facts of all records up to `last` that wait here, newest first.
    pub(super) fn facts_to(&self, last: u64) -> Vec<(u64, Arc<Facts>)> {
        let inner = self.lock();
        let range = inner.pending.range(..=last).rev();
        range.map(|(index, pending)| (*index, Arc::clone(&pending.facts))).collect()
    }

    /// The newest record that waits here.
    pub(super) fn newest(&self) -> Option<u64> {
        self.lock().pending.last_key_value().map(|(index, _)| *index)
    }

    /// The oldest record from this one on that waits here.
    pub(super) fn oldest_from(&self, index: u64) -> Option<u64> {
        self.lock().pending.range(index..).next().map(|(index, _)| *index)
    }

    /// How many records wait, and their bytes.
    pub(super) fn load(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.pending.len(), inner.bytes)
    }
}

impl Inner {
    fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_RECORDS_MAX || self.bytes >= PENDING_BYTES_MAX
    }

    fn refuse_if_over(&self) -> Result<(), HistoryError> {
        match &self.failed {
            Some(reason) => Err(HistoryError::Stopped(Arc::clone(reason))),
            None if self.stopping => Err(HistoryError::Stopped(Arc::from("the daemon ends"))),
            None => Ok(()),
        }
    }

    fn insert(&mut self, pending: Pending) {
        let (index, bytes) = (pending.record.link.index, pending.record.canonical.len());
        match pending.facts.subject {
            Subject::Job(id) => drop(self.jobs.insert(id, index)),
            Subject::Addendum(id) => drop(self.addenda.insert((id, index))),
            Subject::Audit | Subject::Tree | Subject::Other => {}
        }
        if let Some(revision) = pending.facts.revision {
            self.revisions.insert(revision, index);
        }
        let before = self.pending.insert(index, pending);
        self.bytes = self.bytes + bytes - before.map_or(0, |old| old.record.canonical.len());
        self.untaken_bytes += bytes;
        // A record that comes again, below what was taken, is taken again.
        self.taken = self.taken.min(index.saturating_sub(1));
    }

    fn has_work(&self) -> bool {
        self.untaken_bytes > 0 || !self.wishes.is_empty() || self.stopping
    }

    fn wants_company(&self) -> bool {
        let small = self.untaken_bytes > 0 && self.untaken_bytes < super::BLOCK_RAW_BYTES;
        small && self.wishes.is_empty() && !self.stopping
    }

    fn take(&mut self) -> Taken {
        let (mut records, mut bytes, mut all) = (Vec::new(), 0, true);
        for (index, pending) in self.pending.range(self.taken + 1..) {
            if bytes >= super::BLOCK_RAW_BYTES {
                all = false;
                break;
            }
            bytes += pending.record.canonical.len();
            self.taken = *index;
            records.push(pending.clone());
        }
        self.untaken_bytes = if all { 0 } else { self.untaken_bytes.saturating_sub(bytes).max(1) };
        let ended = self.stopping && records.is_empty() && self.wishes.is_empty();
        Taken { records, wishes: std::mem::take(&mut self.wishes), ended }
    }
}
