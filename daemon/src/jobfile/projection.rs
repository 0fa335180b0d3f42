//! The projection: a thread that keeps job files and lines of the chain behind the history.
//!
//! It asks the history what is new, appends the lines of all of it in order, and writes the files
//! newest first, so that a person who looks for what just happened finds it. What it still has to
//! do is a few ranges of numbers, however far behind it is; what falls out of the bounds before it
//! was written is skipped and counted. Nothing is synced file by file: now and then the whole file
//! system is, and then a watermark moves; what lies above it at a start is written again.
//!
//! It runs at nice 10, and takes at most a fifth of a core while jobs wait. It holds no truth, so
//! an error costs a warning and a count, never the node.
//!
//! It has no holes: where the history has a gap it waits, and goes on when the gap is filled. So
//! the lines are one unbroken chain at every moment, and every file has its line. If the cluster
//! cuts what it waits for, what lies before that is cut as well, and it begins anew at the floor.
//!
//! When records of reads are pruned their files go, too; their lines stay. Records leave the
//! history only after that: the line of one that is gone could not name its job any more.

use super::folder::{Folder, Limits, days};
use super::lines::Lines;
use super::render;
use crate::history::{Facts, History, HistoryError, HistoryHandle, JobId, Linked, Subject};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tiebeam_proto::time::Time;

/// Niceness of the thread (ruling 17).
const NICE: i32 = 10;

/// While jobs wait it rests this many times as long as it worked: a twentieth of a core. Ruling 17
/// allows a fifth; of three nodes on one machine that was a third of what the cluster could do.
const REST: u32 = 19;

/// How often it looks for new records when there is nothing to do.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long it rests after an error.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Files that are written between two looks at the clock: about 5 ms.
const FILES_AT_ONCE: usize = 64;

/// Attempts at one file before it is left out.
const ATTEMPTS: u32 = 3;

/// Ranges that it remembers; one more appears only when records arrive while older ones wait.
const RANGES_MAX: usize = 1024;

/// The file system is synced this often while nothing waits, and this often at most otherwise.
const SYNC_EVERY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

const FILES_MARK: &str = "jobfile.files";
const LINES_MARK: &str = "jobfile.lines";
const READS_MARK: &str = "jobfile.reads";

/// How to start a projection.
pub struct Start {
    /// `<data>/jobs`.
    pub folder: PathBuf,
    /// Where records come from.
    pub history: History,
    /// Where watermarks go.
    pub handle: HistoryHandle,
    /// How many jobs wait on this node just now; the caller keeps it true.
    pub jobs_waiting: Arc<AtomicU64>,
    /// How many files there may be.
    pub limits: Limits,
}

/// What the projection counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The newest record that it has seen.
    pub seen: AtomicU64,
    /// Records whose file is still to be written.
    pub lag: AtomicU64,
    /// Records whose line is still to be written.
    pub lines_lag: AtomicU64,
    /// Files written.
    pub written: AtomicU64,
    /// Records that were over a bound before their file was written.
    pub skipped: AtomicU64,
    /// Files removed because they were over a bound, or their records were pruned.
    pub pruned: AtomicU64,
    /// Files and lines that could not be written at an attempt.
    pub failed: AtomicU64,
    /// The record up to which files are durable or skipped.
    pub durable: AtomicU64,
}

/// A running projection.
pub struct Projection {
    /// What it counts.
    pub metrics: Arc<Metrics>,
    ending: Arc<Ending>,
    join: JoinHandle<()>,
}

#[derive(Default)]
struct Ending {
    asked: Mutex<bool>,
    changed: Condvar,
}

impl Ending {
    /// Waits, and gives whether the thread is to end.
    fn wait(&self, time: Duration) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(asked, time, |asked| !*asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Projection {
    /// Starts the thread; it looks at the folder first.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn spawn(start: Start) -> io::Result<Projection> {
        let (metrics, ending) = (Arc::new(Metrics::default()), Arc::new(Ending::default()));
        let mine = (Arc::clone(&metrics), Arc::clone(&ending));
        let join = std::thread::Builder::new()
            .name("job-files".to_owned())
            .spawn(move || run(start, &mine.0, &mine.1))?;
        Ok(Projection { metrics, ending, join })
    }

    /// Ends the thread after the files that it is at. What is left is done after the next start.
    pub fn stop(self) {
        *self.ending.asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ending.changed.notify_all();
        // A panic there was printed there, and costs nothing here.
        let _ = self.join.join();
    }
}

/// What is still to be written: ranges of records, oldest first; the newest is written first.
#[derive(Debug, Default, PartialEq, Eq)]
struct Due {
    ranges: VecDeque<(u64, u64)>,
}

impl Due {
    /// Adds records from `from` to `to`, which are newer than all others; gives how many old
    /// ones fall out because more than `most` would wait.
    fn add(&mut self, from: u64, to: u64, most: u64) -> u64 {
        match self.ranges.back_mut() {
            Some(newest) if newest.1 + 1 == from => newest.1 = to,
            _ if from <= to => self.ranges.push_back((from, to)),
            _ => {}
        }
        let mut dropped = 0;
        while self.ranges.len() > RANGES_MAX {
            dropped += self.ranges.pop_front().map_or(0, |(from, to)| to + 1 - from);
        }
        while let Some(over) = self.count().checked_sub(most).filter(|over| *over > 0) {
            let Some(oldest) = self.ranges.front_mut() else {
                break;
            };
            let cut = over.min(oldest.1 + 1 - oldest.0);
            (oldest.0, dropped) = (oldest.0 + cut, dropped + cut);
            if oldest.0 > oldest.1 {
                self.ranges.pop_front();
            }
        }
        dropped
    }

    fn count(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| to + 1 - from).sum()
    }

    /// The newest record that is due.
    fn take(&mut self) -> Option<u64> {
        let newest = self.ranges.back_mut()?;
        let index = newest.1;
        if newest.0 == newest.1 {
            self.ranges.pop_back();
        } else {
            newest.1 -= 1;
        }
        Some(index)
    }

    /// The record below which nothing is due, if nothing above `known` is known.
    fn below(&self, known: u64) -> u64 {
        self.ranges.front().map_or(known, |(from, _)| from - 1)
    }
}

struct Worker<'a> {
    start: Start,
    metrics: &'a Metrics,
    folder: Folder,
    lines: Lines,
    due: Due,
    /// The newest record that was looked at.
    known: u64,
    /// Up to this record, files of pruned reads are removed.
    without_reads: u64,
    /// Attempts at the file that failed last.
    attempts: u32,
    synced: Instant,
    dirty: bool,
}

fn run(start: Start, metrics: &Metrics, ending: &Ending) {
    // Refused only where the system knows no niceness; then it runs as it is.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
    let mut start = Some(start);
    let mut worker = None;
    loop {
        if worker.is_none() {
            let Some(taken) = start.take() else {
                return;
            };
            match Worker::open(taken, metrics) {
                Ok(opened) => worker = Some(opened),
                Err((back, error)) => {
                    tracing::warn!(%error, "the folder of job files cannot be used");
                    metrics.failed.fetch_add(1, Relaxed);
                    start = Some(*back);
                }
            }
        }
        let rest = worker.as_mut().map_or(AFTER_ERROR, Worker::round);
        if ending.wait(rest) {
            return;
        }
    }
}

impl<'a> Worker<'a> {
    fn open(start: Start, metrics: &'a Metrics) -> Result<Worker<'a>, (Box<Start>, io::Error)> {
        let read = |name| start.history.mark(name).unwrap_or_default();
        let (files_mark, lines_mark) = (read(FILES_MARK), read(LINES_MARK));
        let reads_mark = read(READS_MARK);
        let opened = Folder::open(&start.folder, start.limits).and_then(|folder| {
            let days = days(&start.folder)?;
            let this = |index| {
                let links = start.history.links(index, index).ok()?;
                links.into_iter().next().map(|linked| linked.link.this)
            };
            let newest = start.history.newest();
            let lines = Lines::open(&start.folder, &days, lines_mark, newest, this)?;
            Ok((folder, lines, days.is_empty()))
        });
        let (folder, mut lines, empty) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err((Box::new(start), error)),
        };
        // The floor may not have been told yet; a gap at the bottom is waited for.
        let oldest = start.history.oldest().unwrap_or(1);
        let gaps = start.history.gaps(start.history.floor());
        let before = gaps.first().map_or(oldest, |(from, _)| oldest.min(*from)) - 1;
        // A folder that was emptied is filled again, whatever the watermark says.
        let known = if empty { before } else { files_mark.unwrap_or(before).max(before) };
        let known = known.min(start.history.newest());
        lines.upto = lines.upto.max(before);
        let without_reads = reads_mark.unwrap_or(before).max(before);
        if lines_mark.is_some() {
            start.handle.release_to(lines.upto.min(without_reads));
        }
        Ok(Worker {
            start,
            metrics,
            folder,
            lines,
            due: Due::default(),
            known,
            without_reads,
            attempts: 0,
            synced: Instant::now(),
            // Without marks there are none on disk either.
            dirty: lines_mark.is_none() || reads_mark.is_none(),
        })
    }

    /// Does a part of the work; gives how long to rest.
    fn round(&mut self) -> Duration {
        let begun = Instant::now();
        if let Err(error) = self.pass_over_cut() {
            return self.failed(&error);
        }
        let newest = self.start.history.whole_to(self.lines.upto);
        if newest > self.known {
            let dropped = self.due.add(self.known + 1, newest, self.start.limits.files as u64);
            self.metrics.skipped.fetch_add(dropped, Relaxed);
            self.known = newest;
        }
        self.count();
        self.metrics.seen.store(newest, Relaxed);
        let done = self
            .write_lines()
            .and_then(|()| self.write_files())
            .and_then(|()| self.remove_pruned());
        self.count();
        if let Err(error) = done.and_then(|()| self.sync()) {
            return self.failed(&error);
        }
        let idle = self.due.ranges.is_empty()
            && self.lines.upto >= newest
            && self.without_reads >= self.pruned_to();
        match (idle, self.start.jobs_waiting.load(Relaxed)) {
            (true, _) => LOOK_EVERY,
            (false, 0) => Duration::ZERO,
            (false, _) => begun.elapsed() * REST,
        }
    }

    fn failed(&self, error: &io::Error) -> Duration {
        self.metrics.failed.fetch_add(1, Relaxed);
        tracing::warn!(%error, "a job file cannot be written");
        AFTER_ERROR
    }

    /// What was cut needs neither file nor line any more. If some of it never had its line, the
    /// lines before it are no part of the chain that follows: their days go.
    fn pass_over_cut(&mut self) -> io::Result<()> {
        let cut = self.start.history.floor() - 1;
        if cut > self.lines.upto && self.lines.upto > 0 {
            let upto = self.lines.upto;
            tracing::info!(upto, cut, "days before the floor are removed: records in between went");
            for day in days(&self.start.folder)? {
                std::fs::remove_dir_all(day)?;
            }
            self.folder = Folder::open(&self.start.folder, self.start.limits)?;
            self.due = Due::default();
        }
        self.known = self.known.max(cut);
        self.lines.upto = self.lines.upto.max(cut);
        self.without_reads = self.without_reads.max(cut);
        Ok(())
    }

    fn count(&self) {
        let newest = self.start.history.newest();
        self.metrics.lag.store(self.due.count(), Relaxed);
        self.metrics.lines_lag.store(newest.saturating_sub(self.lines.upto), Relaxed);
    }

    fn write_lines(&mut self) -> io::Result<()> {
        let newest = self.known;
        if self.lines.upto >= newest {
            return Ok(());
        }
        let links = self.start.history.links(self.lines.upto + 1, newest).map_err(io_error)?;
        self.dirty |= !links.is_empty();
        if links.is_empty() {
            self.lines.upto = newest;
        }
        self.lines.append(&links)
    }

    /// The newest record of which the file goes if it is a read.
    fn pruned_to(&self) -> u64 {
        self.start.history.reads_below().saturating_sub(1).min(self.known)
    }

    /// Removes files of reads that were pruned; some of them at a time.
    fn remove_pruned(&mut self) -> io::Result<()> {
        let to = self.pruned_to();
        if self.without_reads >= to {
            return Ok(());
        }
        let links = self.start.history.links(self.without_reads + 1, to).map_err(io_error)?;
        let mut removed = 0;
        for facts in links.iter().map(Linked::facts).filter(Facts::is_read) {
            let Some(id) = facts.job() else { continue };
            removed += u64::from(self.folder.remove(id, Time(facts.begun).date())?);
        }
        self.metrics.pruned.fetch_add(removed, Relaxed);
        self.without_reads = links.last().map_or(to, |last| last.link.index);
        self.dirty = true;
        Ok(())
    }

    /// Writes some of the files that are due, when every record has its line: no file is without.
    fn write_files(&mut self) -> io::Result<()> {
        if self.lines.upto < self.known {
            return Ok(());
        }
        for _ in 0..FILES_AT_ONCE {
            let Some(index) = self.due.take() else {
                break;
            };
            let written = self.write_file(index);
            self.attempts = if written.is_err() { self.attempts + 1 } else { 0 };
            if self.attempts >= ATTEMPTS {
                self.attempts = 0;
                self.metrics.skipped.fetch_add(1, Relaxed);
            } else if written.is_err() {
                self.due.ranges.push_back((index, index));
            }
            written?;
        }
        if self.folder.is_over() {
            let removed = self.folder.prune()?;
            self.metrics.pruned.fetch_add(removed, Relaxed);
        }
        Ok(())
    }

    fn write_file(&mut self, index: u64) -> io::Result<()> {
        let history = self.start.history.clone();
        let record = match history.record(index) {
            Ok(Some(record)) => record,
            // A damaged record has no file; the check names it.
            Ok(None) | Err(HistoryError::Damaged { .. }) => return Ok(()),
            Err(error) => return Err(io_error(error)),
        };
        let facts = Facts::of(&record.canonical);
        match facts.subject {
            Subject::Job(id) => self.write_job(id, &record, &facts),
            Subject::Addendum(id) => self.write_again(&history, id),
            Subject::Audit | Subject::Tree | Subject::Other => Ok(()),
        }
    }

    fn write_job(
        &mut self,
        id: JobId,
        record: &tiebeam_proto::record::Archived,
        facts: &Facts,
    ) -> io::Result<()> {
        let addenda = self.start.history.addenda(&id.to_string()).map_err(io_error)?;
        let path = self.folder.file(id, Time(facts.begun).date());
        self.folder.write(&path, &render::of_record(record, &addenda))?;
        self.dirty = true;
        self.metrics.written.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Writes a job's file again because something became known, if it has one.
    fn write_again(&mut self, history: &History, id: JobId) -> io::Result<()> {
        let Some(record) = history.job(&id.to_string()).map_err(io_error)? else {
            return Ok(());
        };
        let facts = Facts::of(&record.canonical);
        if self.folder.file(id, Time(facts.begun).date()).exists() {
            self.write_job(id, &record, &facts)?;
        }
        Ok(())
    }

    /// Makes what was written durable, now and then, and moves the watermarks.
    fn sync(&mut self) -> io::Result<()> {
        let quiet = self.start.jobs_waiting.load(Relaxed) == 0;
        let every = if quiet { SYNC_EVERY.0 } else { SYNC_EVERY.1 };
        if !self.dirty || self.synced.elapsed() < every {
            return Ok(());
        }
        sync_system(&self.start.folder)?;
        let files = self.due.below(self.known);
        self.start.handle.keep_mark(FILES_MARK, files);
        self.start.handle.keep_mark(LINES_MARK, self.lines.upto);
        self.start.handle.keep_mark(READS_MARK, self.without_reads);
        self.start.handle.release_to(self.lines.upto.min(self.without_reads));
        self.metrics.durable.store(files, Relaxed);
        (self.synced, self.dirty) = (Instant::now(), false);
        Ok(())
    }
}

/// Makes everything on the folder's file system durable.
fn sync_system(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

fn io_error(error: HistoryError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;
    use crate::history::fixture::{Folder as Scratch, Maker};
    use crate::history::{self, HistoryThread};
    use std::os::unix::fs::PermissionsExt;
    use tiebeam::verify::verify_folder;

    fn limits(files: usize) -> Limits {
        Limits { files, ..Limits::default() }
    }

    fn spawn(scratch: &Scratch, thread: &HistoryThread, limits: Limits) -> Projection {
        let start = Start {
            folder: scratch.path().join("jobs"),
            history: thread.history.clone(),
            handle: thread.handle.clone(),
            jobs_waiting: Arc::default(),
            limits,
        };
        Projection::spawn(start).unwrap()
    }

    fn settle(projection: &Projection, thread: &HistoryThread) {
        let newest = thread.history.newest();
        let metrics = &projection.metrics;
        let behind = || {
            let late = metrics.lag.load(Relaxed) + metrics.lines_lag.load(Relaxed) > 0;
            metrics.seen.load(Relaxed) < newest || late
        };
        while behind() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn projection_folder(thread: &HistoryThread) -> PathBuf {
        thread.history.folder().parent().unwrap().join("jobs")
    }

    fn open(scratch: &Scratch) -> HistoryThread {
        HistoryThread::spawn(&history::Start::at(scratch.path(), None)).unwrap()
    }

    #[test]
    fn every_record_has_its_line_and_every_job_its_file() {
        let scratch = Scratch::new();
        let (mut maker, thread) = (Maker::new(), open(&scratch));
        let projection = spawn(&scratch, &thread, limits(1000));
        let mut records = maker.jobs(100);
        records.extend([maker.audit(), maker.addendum("11.7"), maker.job()]);
        records.iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
        settle(&projection, &thread);
        projection.stop();
        let folder = projection_folder(&thread);
        let report = verify_folder(&folder).unwrap();
        assert_eq!((report.lines, report.files, report.pruned), (103, 101, 0));
        assert_eq!((report.from, report.to, report.problem_count), (1, 103, 0), "{report:?}");
        assert_eq!(report.head, records[102].link.this);
        let path = folder.join("2026/11/20/11.7.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("addenda:\n- format: 1\n"), "{text}");
        assert_eq!(render::of_job(&thread.history, "11.7").unwrap(), Some(text));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        thread.stop().unwrap();
    }

    #[test]
    fn the_newest_are_kept_and_the_chain_is_whole() {
        let scratch = Scratch::new();
        let (mut maker, thread) = (Maker::new(), open(&scratch));
        maker.jobs(300).into_iter().for_each(|record| thread.handle.archive(record).unwrap());
        let projection = spawn(&scratch, &thread, limits(100));
        settle(&projection, &thread);
        assert_eq!(projection.metrics.skipped.load(Relaxed), 200);
        maker.jobs(60).into_iter().for_each(|record| thread.handle.archive(record).unwrap());
        settle(&projection, &thread);
        projection.stop();
        let report = verify_folder(&projection_folder(&thread)).unwrap();
        assert_eq!((report.lines, report.problem_count), (360, 0));
        assert!(report.files <= 101 && report.pruned >= 259, "{report:?}");
        let day = projection_folder(&thread).join("2026/11/20");
        assert!(day.join("11.360.yaml").exists() && !day.join("11.250.yaml").exists());
        thread.stop().unwrap();
    }

    #[test]
    fn files_of_pruned_reads_go_and_their_lines_stay() {
        let scratch = Scratch::new();
        let (mut maker, thread) = (Maker::new(), open(&scratch));
        maker.jobs(300).into_iter().for_each(|record| thread.handle.archive(record).unwrap());
        let projection = spawn(&scratch, &thread, limits(1000));
        settle(&projection, &thread);
        thread.handle.set_reads_below(201);
        // Two of three up to 200.
        while projection.metrics.pruned.load(Relaxed) < 134 {
            std::thread::sleep(Duration::from_millis(5));
        }
        projection.stop();
        let folder = projection_folder(&thread);
        let report = verify_folder(&folder).unwrap();
        assert_eq!((report.lines, report.files, report.pruned), (300, 166, 134));
        assert_eq!((report.problem_count, report.to), (0, 300), "{report:?}");
        let day = folder.join("2026/11/20");
        let there = |job: u64| day.join(format!("11.{job}.yaml")).exists();
        assert!(!there(200) && there(198) && there(202));
        thread.stop().unwrap();

        // What is left of a pruned record makes a line, too, without its job.
        let line = |day: &Path| {
            let text = std::fs::read_to_string(day.join("chain.jsonl")).unwrap();
            text.lines().nth(99).unwrap().to_owned()
        };
        assert!(line(&day).contains("\"kind\":\"read\",\"job\":\"11.100\""), "{}", line(&day));
        std::fs::remove_dir_all(&folder).unwrap();
        let start = history::Start { segment_bytes: 1, ..history::Start::at(scratch.path(), None) };
        let thread = HistoryThread::spawn(&start).unwrap();
        maker.jobs(1).into_iter().for_each(|record| thread.handle.archive(record).unwrap());
        thread.handle.prune_below(301);
        thread.handle.release_to(301);
        while thread.handle.metrics().pruned.load(Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let projection = spawn(&scratch, &thread, limits(1000));
        settle(&projection, &thread);
        projection.stop();
        let report = verify_folder(&folder).unwrap();
        assert_eq!((report.lines, report.files, report.pruned), (301, 101, 200), "{report:?}");
        assert_eq!(report.problem_count, 0, "{report:?}");
        assert!(line(&day).contains("\"kind\":\"read\",\"job\":null"), "{}", line(&day));
        thread.stop().unwrap();
    }

    /// A history of 50 jobs whose files and lines are written: their folder, and that of their day.
    fn of_fifty_jobs(scratch: &Scratch) -> (HistoryThread, PathBuf, PathBuf) {
        let thread = open(scratch);
        let records = Maker::new().jobs(50);
        records.into_iter().for_each(|record| thread.handle.archive(record).unwrap());
        let projection = spawn(scratch, &thread, limits(1000));
        settle(&projection, &thread);
        projection.stop();
        let folder = projection_folder(&thread);
        let day = folder.join("2026/11/20");
        (thread, folder, day)
    }

    #[test]
    fn what_a_crash_left_above_the_watermark_is_written_again() {
        let scratch = Scratch::new();
        let (thread, folder, day) = of_fifty_jobs(&scratch);
        for mark in [Some(20), None] {
            // Half a line, a file that did not reach the disk, and one half written.
            let path = day.join("chain.jsonl");
            let lines = std::fs::read(&path).unwrap();
            std::fs::write(&path, &lines[..lines.len() - 30]).unwrap();
            std::fs::write(day.join("11.40.yaml"), "").unwrap();
            std::fs::write(day.join(".11.41.tmp"), "half").unwrap();
            // A history that does not have them: nothing above the mark is believed.
            let opened = |newest, this: fn(u64) -> Option<String>| {
                let days = std::slice::from_ref(&day);
                lines::Lines::open(&folder, days, mark, newest, this).unwrap().upto
            };
            assert_eq!(opened(mark.unwrap_or(49), |_| None), mark.unwrap_or(49));
            let projection = spawn(&scratch, &thread, limits(1000));
            settle(&projection, &thread);
            projection.stop();
            let report = verify_folder(&folder).unwrap();
            assert_eq!((report.lines, report.files, report.problem_count), (50, 50, 0));
            assert!(!day.join(".11.41.tmp").exists());
        }
        std::fs::remove_dir_all(&folder).unwrap();
        thread.handle.keep_mark(FILES_MARK, 50);
        let projection = spawn(&scratch, &thread, limits(1000));
        settle(&projection, &thread);
        projection.stop();
        assert_eq!(verify_folder(&folder).unwrap().files, 50);
        thread.stop().unwrap();
    }

    /// Only what a loss of power took is written again: a line that does not follow, and all
    /// behind it. So there is no moment at which files are there and their lines are not.
    #[test]
    fn lines_above_the_watermark_that_are_sound_stay() {
        let scratch = Scratch::new();
        let (thread, folder, day) = of_fifty_jobs(&scratch);
        let this = |index| {
            let link = thread.history.links(index, index).unwrap().pop();
            link.map(|linked| linked.link.this)
        };
        let opened = |newest| {
            let days = std::slice::from_ref(&day);
            lines::Lines::open(&folder, days, Some(20), newest, this).unwrap().upto
        };
        assert_eq!(opened(50), 50);
        assert_eq!(verify_folder(&folder).unwrap().problem_count, 0);
        // The history lost its newest records: their lines go.
        assert_eq!(opened(45), 45);
        // A block in the middle never reached the disk.
        let path = day.join("chain.jsonl");
        let mut bytes = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
        bytes[ends[29] + 1..ends[34]].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(opened(45), 30);
        assert_eq!(std::fs::metadata(&path).unwrap().len() as usize, ends[29] + 1);
        thread.stop().unwrap();
    }

    #[test]
    fn a_gap_is_waited_for_and_written_when_it_is_filled() {
        let scratches = [Scratch::new(), Scratch::new()];
        let (mut maker, source) = (Maker::new(), open(&scratches[0]));
        let records = maker.jobs(300);
        records.iter().for_each(|record| source.handle.archive(record.clone()).unwrap());
        source.handle.sync_to(300).unwrap();
        let head = |at: usize| {
            let hash = tiebeam_proto::chain::from_text(&records[at - 1].link.this).unwrap();
            tiebeam_proto::chain::Head { index: at as u64, hash }
        };
        // It was there up to 50, then joined again twice, and stops in between.
        let folder = scratches[1].path().join("jobs");
        let verified = || {
            let report = verify_folder(&folder).unwrap();
            assert_eq!(report.problem_count, 0, "{report:?}");
            (report.from, report.to, report.files)
        };
        let start = history::Start::behind(scratches[1].path(), tiebeam_proto::chain::Head::EMPTY);
        let thread = HistoryThread::spawn(&start).unwrap();
        let archive = |thread: &HistoryThread, range: std::ops::Range<usize>| {
            for record in &records[range] {
                thread.handle.archive(record.clone()).unwrap();
            }
            thread.handle.sync_to(thread.history.newest()).unwrap();
        };
        archive(&thread, 0..50);
        let projection = spawn(&scratches[1], &thread, limits(1000));
        settle(&projection, &thread);
        thread.handle.skip_to(head(200)).unwrap();
        archive(&thread, 200..250);
        while projection.metrics.lines_lag.load(Relaxed) < 200 {
            std::thread::sleep(Duration::from_millis(5));
        }
        projection.stop();
        thread.stop().unwrap();
        assert_eq!(verified(), (1, 50, 50));

        let start = history::Start::behind(scratches[1].path(), head(250));
        let thread = HistoryThread::spawn(&start).unwrap();
        let projection = spawn(&scratches[1], &thread, limits(120));
        archive(&thread, 250..300);
        assert_eq!(thread.history.whole_to(50), 50);
        assert_eq!(verified(), (1, 50, 50));
        let bytes = source.history.parcel(51, 200).unwrap();
        thread.handle.fill(&history::Parcel::decode(&bytes).unwrap()).unwrap();
        settle(&projection, &thread);
        let newest_first = verified();
        assert_eq!((newest_first.0, newest_first.1), (1, 300));
        assert!((119..=121).contains(&newest_first.2), "{newest_first:?}");
        projection.stop();
        thread.stop().unwrap();
        source.stop().unwrap();
    }

    #[test]
    fn a_gap_that_is_cut_takes_the_days_before_it() {
        let scratch = Scratch::new();
        let records = Maker::new().jobs(300);
        let thread = open(&scratch);
        records[..50].iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
        let projection = spawn(&scratch, &thread, limits(1000));
        settle(&projection, &thread);
        let hash = tiebeam_proto::chain::from_text(&records[199].link.this).unwrap();
        thread.handle.skip_to(tiebeam_proto::chain::Head { index: 200, hash }).unwrap();
        records[200..].iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
        thread.handle.set_floor(211);
        settle(&projection, &thread);
        projection.stop();
        let report = verify_folder(&projection_folder(&thread)).unwrap();
        assert_eq!((report.from, report.to, report.files), (211, 300, 90), "{report:?}");
        assert_eq!(report.problem_count, 0, "{report:?}");
        thread.stop().unwrap();
    }

    #[test]
    fn what_is_due_is_a_few_ranges_newest_first() {
        let mut due = Due::default();
        assert_eq!(due.add(1, 10, 100), 0);
        assert_eq!((due.take(), due.take()), (Some(10), Some(9)));
        assert_eq!(due.add(11, 12, 100), 0);
        assert_eq!(due.below(12), 0);
        assert_eq!(due.add(13, 14, 8), 4);
        assert_eq!(due.ranges, [(5, 8), (11, 14)]);
        assert_eq!(due.below(14), 4);
        let order: Vec<_> = std::iter::from_fn(|| due.take()).collect();
        assert_eq!((order, due.below(14)), (vec![14, 13, 12, 11, 8, 7, 6, 5], 14));
        for at in 0..5000 {
            due.add(20 + at * 3, 21 + at * 3, u64::MAX);
        }
        assert_eq!(due.ranges.len(), RANGES_MAX);
    }

    /// `cargo test --release -- --ignored --nocapture job_file_speed`.
    #[test]
    #[ignore = "a measurement"]
    fn job_file_speed() {
        let records = Maker::new().jobs(20_000);
        let begun = Instant::now();
        let bytes: usize = records.iter().map(|r| render::of_record(r, &[]).len()).sum();
        let rate = records.len() as f64 / begun.elapsed().as_secs_f64();
        println!("rendered {rate:.0}/s, {} bytes each", bytes / records.len());
        let scratch = Scratch::new();
        let thread = open(&scratch);
        records.into_iter().for_each(|record| thread.handle.archive(record).unwrap());
        thread.handle.sync_to(20_000).unwrap();
        let projection = spawn(&scratch, &thread, Limits::default());
        let begun = Instant::now();
        while projection.metrics.written.load(Relaxed) < 20_000 {
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("wrote {:.0} files/s", 20_000.0 / begun.elapsed().as_secs_f64());
        projection.stop();
        thread.stop().unwrap();
    }
}
