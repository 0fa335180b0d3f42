//! Tests of the history as a whole: what a crash, a flipped bit or a lost folder leaves.

mod gaps;
mod prune;
mod retain;
mod search;
mod speed;

use super::fixture::{Folder, Maker};
use super::*;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tiebeam_proto::chain::Head;
use tiebeam_proto::record::Archived;

/// Small segments, so that a few hundred records fill several.
fn start(folder: &Folder, expected: Option<Head>) -> Start {
    Start { segment_bytes: 9_000, ..Start::at(folder.path(), expected) }
}

fn spawn(folder: &Folder) -> HistoryThread {
    HistoryThread::spawn(&start(folder, None)).unwrap()
}

/// Archives in groups, each made durable, so that there are many blocks.
fn archive(thread: &HistoryThread, records: &[Archived]) {
    for group in records.chunks(25) {
        group.iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
        thread.handle.sync_to(group[group.len() - 1].link.index).unwrap();
    }
}

fn settle(thread: &HistoryThread) {
    let library = &thread.history.shared.library;
    let behind = || library.segments().iter().rev().skip(1).any(|s| s.sealed().is_none());
    while behind() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A history of several sealed segments and a growing one.
fn written(count: usize) -> (Folder, Vec<Archived>) {
    written_in(count, 9_000)
}

/// A history of one growing segment.
fn growing(count: usize) -> (Folder, Vec<Archived>) {
    written_in(count, 1 << 20)
}

fn written_in(count: usize, segment_bytes: u64) -> (Folder, Vec<Archived>) {
    let folder = Folder::new();
    let records = Maker::new().jobs(count);
    let thread = Start { segment_bytes, ..start(&folder, None) };
    let thread = HistoryThread::spawn(&thread).unwrap();
    archive(&thread, &records);
    settle(&thread);
    thread.stop().unwrap();
    (folder, records)
}

fn segment_files(folder: &Folder, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.path().join("history")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|own| own == extension));
    paths.sort();
    paths
}

fn flip(path: &Path, at: i64) {
    let mut bytes = std::fs::read(path).unwrap();
    let length = bytes.len() as i64;
    bytes[((at + length) % length) as usize] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn all_here(history: &History, records: &[Archived]) {
    for record in records {
        let index = record.link.index;
        assert_eq!(history.record(index).unwrap().as_ref(), Some(record), "{index}");
        assert_eq!(history.job(&format!("11.{index}")).unwrap().as_ref(), Some(record), "{index}");
        if index.is_multiple_of(3) {
            assert_eq!(history.revision(index / 3).unwrap().as_ref(), Some(record), "{index}");
        }
    }
}

fn indices(page: &Page) -> Vec<u64> {
    page.records.iter().map(|record| record["index"].as_u64().unwrap()).collect()
}

#[test]
fn an_index_for_which_there_is_no_room_is_done_without_until_there_is() {
    let (folder, mut maker) = (Folder::new(), Maker::new());
    let records = maker.jobs(40);
    // Where its folder is to be there is something that it cannot remove.
    let place = folder.path().join("index");
    std::fs::write(&place, "in the way").unwrap();
    let thread = HistoryThread::spawn(&Start::at(folder.path(), None)).unwrap();
    records[..20].iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
    thread.handle.sync_to(20).unwrap();
    let out_of_use = || thread.handle.metrics().index_out_of_use.load(Relaxed);
    assert!(out_of_use(), "it says so");
    assert_eq!(thread.history.record(7).unwrap().as_ref(), Some(&records[6]), "nothing is lost");
    std::fs::remove_file(&place).unwrap();
    records[20..].iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
    thread.handle.sync_to(40).unwrap();
    while out_of_use() {
        std::thread::yield_now();
    }
    all_here(&thread.history, &records);
    thread.stop().unwrap();
}

#[test]
fn a_record_is_found_from_the_moment_it_is_handed_over() {
    let folder = Folder::new();
    let (records, thread) = (Maker::new().jobs(800), spawn(&folder));
    std::thread::scope(|scope| {
        let (history, expected) = (&thread.history, &records);
        for reader in 0..3 {
            scope.spawn(move || {
                for round in 0..400 {
                    let newest = history.newest();
                    let index = 1 + (newest * (reader * 7 + round) / 401) % newest.max(1);
                    if newest > 0 {
                        all_here(history, &expected[index as usize - 1..index as usize]);
                        let page = history.search(&Filter::default(), None, None, 40).unwrap();
                        let found = indices(&page);
                        assert!(found.windows(2).all(|two| two[0] == two[1] + 1), "{found:?}");
                        assert!(found[0] >= newest);
                    }
                }
            });
        }
        records.iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
        all_here(history, &records[790..]);
    });
    assert_eq!(thread.handle.sync_to(800).unwrap(), 800);
    all_here(&thread.history, &records);
    settle(&thread);
    all_here(&thread.history, &records);
    thread.stop().unwrap();
    let thread = spawn(&folder);
    assert_eq!(thread.opened, Opened { last: 800, ..Opened::default() });
    all_here(&thread.history, &records);
    let report = thread.history.verify().unwrap();
    assert_eq!((report.records, report.to, report.problem_count), (800, 800, 0));
    // Rows of sealed segments leave the hot index.
    let boundary = thread.history.shared.library.segments().last().unwrap().first;
    let oldest = || {
        let (from, to) = (index::outline_key(0), index::outline_key(u64::MAX));
        let row = thread.history.on_index(|index| index.scan(&from, &to, false, 1)).unwrap().pop();
        row.map_or(u64::MAX, |(key, _)| index::last_number(&key).unwrap())
    };
    while oldest() < boundary {
        std::thread::sleep(Duration::from_millis(2));
    }
    all_here(&thread.history, &records);
    assert!(thread.history.record(801).unwrap().is_none());
    assert!(
        thread.history.job("11.801").unwrap().is_none()
            && thread.history.job("x").unwrap().is_none()
    );
    let range = thread.history.range(10, 30).unwrap();
    assert_eq!(range, records[9..30]);
    thread.stop().unwrap();
}

#[test]
fn a_torn_tail_is_cut_and_comes_again_with_the_replay() {
    for damage in [-1i64, -60, -400] {
        let (folder, records) = growing(110);
        let last = segment_files(&folder, "seg").pop().unwrap();
        let length = std::fs::metadata(&last).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(&last).unwrap();
        file.set_len(length.wrapping_add_signed(damage)).unwrap();
        let thread = spawn(&folder);
        assert!(thread.opened.torn_bytes > 0 && thread.opened.last < 110);
        // The hot index knew the records that were cut.
        assert!(thread.opened.index_rebuilt.is_some());
        let lost = thread.opened.last;
        records[50..].iter().for_each(|r| thread.handle.archive(r.clone()).unwrap());
        thread.handle.sync_to(110).unwrap();
        assert_eq!(thread.handle.metrics().repeated.load(Relaxed), lost - 50);
        all_here(&thread.history, &records);
        assert_eq!(thread.history.verify().unwrap().problem_count, 0);
        thread.stop().unwrap();
    }
}

#[test]
fn a_flipped_bit_is_never_silently_dropped() {
    // In the last block: a torn tail, by all that the file can tell; State's head tells more.
    let (folder, records) = growing(140);
    let last = segment_files(&folder, "seg").pop().unwrap();
    flip(&last, -20);
    let head = Head {
        index: 140,
        hash: tiebeam_proto::chain::from_text(&records[139].link.this).unwrap(),
    };
    let thread = HistoryThread::spawn(&start(&folder, Some(head))).unwrap();
    let missing = thread.opened.missing.unwrap();
    assert_eq!((missing.1, thread.opened.torn_bytes > 0), (140, true));
    drop(thread);

    // In a block of the growing segment that was synced: damage, and the history does not open.
    let (folder, _) = growing(140);
    let last = segment_files(&folder, "seg").pop().unwrap();
    flip(&last, 100);
    match HistoryThread::spawn(&start(&folder, None)) {
        Err(HistoryError::Damaged { path, offset, .. }) => assert_eq!((path, offset), (last, 0)),
        other => panic!("{:?}", other.map(|thread| thread.opened)),
    }

    // In a sealed segment: it opens, the record answers with an error, the check names the file.
    let (folder, records) = written(400);
    let first = segment_files(&folder, "seg").remove(0);
    flip(&first, 100);
    let thread = spawn(&folder);
    assert!(matches!(thread.history.job("11.2"), Err(HistoryError::Damaged { .. })));
    all_here(&thread.history, &records[390..]);
    let report = thread.history.verify().unwrap();
    assert!(report.problem_count > 0 && report.problems[0].path == first, "{report:?}");
    thread.stop().unwrap();
}

#[test]
fn blocks_that_were_never_synced_may_be_lost_in_any_order() {
    let (folder, _) = written(0);
    let mut maker = Maker::new();
    let (mut segments, _) =
        append::Segments::open(&folder.path().join("history"), (None, false), 1 << 20).unwrap();
    let mut places = Vec::new();
    for synced in [true, false, false, false] {
        let entries: Vec<_> =
            maker.jobs(5).iter().map(|record| append::Entry::of(record).unwrap()).collect();
        places.push(segments.open_bytes());
        segments.append(&entries).unwrap();
        if synced {
            segments.sync().unwrap();
        }
    }
    drop(segments);
    flip(&segment_files(&folder, "seg")[0], places[1] as i64 + 200);
    let thread = spawn(&folder);
    assert_eq!(thread.opened.last, 5);
    thread.stop().unwrap();
}

#[test]
fn a_lost_or_broken_hot_index_is_made_again() {
    let (folder, records) = written(400);
    let index = folder.path().join("index");
    std::fs::remove_dir_all(&index).unwrap();
    let thread = spawn(&folder);
    assert!(thread.opened.index_rebuilt.is_some());
    all_here(&thread.history, &records);
    thread.stop().unwrap();

    for entry in std::fs::read_dir(&index).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let length = std::fs::metadata(&path).unwrap().len() as usize;
            std::fs::write(&path, vec![0xa5; length]).unwrap();
        }
    }
    let thread = spawn(&folder);
    assert!(thread.opened.index_rebuilt.is_some());
    all_here(&thread.history, &records);
    thread.stop().unwrap();

    // Ahead of the chain: the segments were set back to an older copy.
    for path in
        segment_files(&folder, "seg").into_iter().chain(segment_files(&folder, "idx")).skip(1)
    {
        std::fs::remove_file(path).unwrap();
    }
    let thread = spawn(&folder);
    assert!(thread.opened.index_rebuilt.as_deref().is_some_and(|reason| reason.contains("400")));
    assert!(thread.history.job("11.400").unwrap().is_none());
    archive(&thread, &records);
    all_here(&thread.history, &records);
    thread.stop().unwrap();
}

/// An index whose engine has given up.
struct Broken;

impl HotIndex for Broken {
    fn write(&self, _: Batch) -> Result<(), IndexError> {
        Err(IndexError::Panicked)
    }

    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Err(IndexError::Panicked)
    }

    fn scan(&self, _: &[u8], _: &[u8], _: bool, _: usize) -> Result<Vec<index::Row>, IndexError> {
        Err(IndexError::Panicked)
    }

    fn sync(&self) -> Result<(), IndexError> {
        Err(IndexError::Panicked)
    }
}

#[test]
fn a_hot_index_that_fails_at_work_is_made_again() {
    let (folder, mut maker) = (Folder::new(), Maker::new());
    // Nothing is sealed here: moving rows to an index file would find the broken one first.
    let start = Start { segment_bytes: 1 << 20, ..start(&folder, None) };
    let (thread, mut records) = (HistoryThread::spawn(&start).unwrap(), maker.jobs(60));
    archive(&thread, &records);
    let broken = hot::Hot { index: Box::new(Broken), from: 1, rebuilt: None };
    *thread.history.shared.hot.write().unwrap() = Some(broken);
    assert!(matches!(thread.history.job("11.7"), Err(HistoryError::Index(_))));
    records.extend(maker.jobs(60));
    archive(&thread, &records[60..]);
    assert_eq!(thread.handle.metrics().index_rebuilds.load(Relaxed), 1);
    all_here(&thread.history, &records);
    thread.stop().unwrap();
}

#[test]
fn an_index_that_lags_catches_up_and_index_files_are_made_again() {
    let (folder, records) = written(400);
    let kept = folder.path().join("kept");
    std::fs::rename(folder.path().join("index"), &kept).unwrap();
    let thread = spawn(&folder);
    let mut maker = Maker(Head {
        index: 400,
        hash: tiebeam_proto::chain::from_text(&records[399].link.this).unwrap(),
    });
    let more = maker.jobs(300);
    archive(&thread, &more);
    settle(&thread);
    thread.stop().unwrap();
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    std::fs::rename(&kept, folder.path().join("index")).unwrap();
    let files = segment_files(&folder, "idx");
    std::fs::remove_file(&files[0]).unwrap();
    flip(&files[1], 10);
    flip(&files[2], -10);
    let thread = spawn(&folder);
    assert_eq!((thread.opened.unindexed, thread.opened.index_rebuilt.as_ref()), (2, None));
    all_here(&thread.history, &records);
    all_here(&thread.history, &more);
    assert_eq!(thread.history.verify().unwrap().problem_count, 0);
    thread.stop().unwrap();
}

#[test]
fn a_replay_with_another_hash_stops_the_history() {
    let (folder, records) = written(30);
    let thread = spawn(&folder);
    let mut other = Maker::new();
    other.audit();
    let forged = other.jobs(29).pop().unwrap();
    thread.handle.archive(records[3].clone()).unwrap();
    thread.handle.archive(forged).unwrap();
    let error = thread.handle.sync_to(31).unwrap_err();
    assert!(error.to_string().contains("record 30 is in the history with another hash"), "{error}");
    assert!(thread.handle.archive(records[29].clone()).is_err());
    // Neither does a record that leaves one out.
    let thread = spawn(&folder);
    let later = Maker::new().jobs(32).pop().unwrap();
    thread.handle.archive(later).unwrap();
    assert!(thread.handle.sync_to(32).unwrap_err().to_string().contains("where 31 is next"));
}

#[test]
fn the_history_is_brought_to_state_s_head() {
    let (folder, records) = written(400);
    let head = |index: usize| Head {
        index: index as u64,
        hash: tiebeam_proto::chain::from_text(&records[index - 1].link.this).unwrap(),
    };
    for keep in [397, 130, 20] {
        let thread = HistoryThread::spawn(&start(&folder, Some(head(keep)))).unwrap();
        assert_eq!(thread.opened.last, keep as u64);
        assert!(thread.opened.cut_records > 0);
        assert!(thread.history.record(keep as u64 + 1).unwrap().is_none());
        all_here(&thread.history, &records[..keep]);
        assert_eq!(thread.history.verify().unwrap().problem_count, 0);
        thread.stop().unwrap();
    }
    // Another history: State's head is not in it.
    let wrong = Head { index: 10, hash: [7; 32] };
    let error = HistoryThread::spawn(&start(&folder, Some(wrong))).err();
    assert!(matches!(error, Some(HistoryError::Forked { index: 10 })), "{error:?}");
    // State is ahead: a gap, behind which the history goes on.
    let thread = HistoryThread::spawn(&start(&folder, Some(head(300)))).unwrap();
    assert_eq!(thread.opened.missing, Some((21, 300)));
    archive(&thread, &records[300..]);
    settle(&thread);
    assert_eq!(thread.history.gaps(1), [(21, 300)]);
    all_here(&thread.history, &records[300..]);
    all_here(&thread.history, &records[..20]);
    assert!(thread.history.job("11.100").unwrap().is_none());
    let ends = thread.history.range(19, 302).unwrap();
    assert_eq!(ends.iter().map(|r| r.link.index).collect::<Vec<_>>(), [19, 20, 301, 302]);
    thread.stop().unwrap();
    let thread = spawn(&folder);
    let report = thread.history.verify().unwrap();
    assert_eq!((report.gaps, report.problem_count), (vec![(21, 300)], 0));
    thread.stop().unwrap();
}

#[test]
fn a_watermark_survives_a_restart() {
    let folder = Folder::new();
    let thread = spawn(&folder);
    archive(&thread, &Maker::new().jobs(3));
    thread.handle.keep_mark("published", 17);
    thread.stop().unwrap();
    let thread = spawn(&folder);
    assert_eq!(thread.history.mark("published").unwrap(), Some(17));
    assert_eq!(thread.history.mark("other").unwrap(), None);
    thread.stop().unwrap();
}

#[test]
fn a_block_of_a_later_format_is_no_torn_tail() {
    let (folder, _) = growing(1);
    let path = segment_files(&folder, "seg").remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(&bytes[..4], super::block::MAGIC);
    bytes[3] = b'2';
    std::fs::write(&path, &bytes).unwrap();
    let error = HistoryThread::spawn(&start(&folder, None)).err().expect("refused").to_string();
    assert!(error.contains("has format 2, which this version does not read"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was cut");
}
