//! Gaps: a history that is filled from another one, through crashes, lies and replays.

use super::*;
use tiebeam_proto::chain;

fn head(records: &[Archived], index: usize) -> Head {
    match index.checked_sub(1) {
        None => Head::EMPTY,
        Some(at) => {
            let hash = chain::from_text(&records[at].link.this).unwrap();
            Head { index: index as u64, hash }
        }
    }
}

/// A node that recovers from a snapshot after this record.
fn behind(folder: &Folder, head: Head) -> HistoryThread {
    let start = Start { segment_bytes: 60_000, ..Start::behind(folder.path(), head) };
    HistoryThread::spawn(&start).unwrap()
}

fn parcel(source: &History, (from, to): (u64, u64)) -> Parcel {
    Parcel::decode(&source.parcel(from, to).unwrap()).unwrap()
}

/// Fills everything that is missing, in steps of this many records.
fn fill_all(thread: &HistoryThread, source: &History, step: u64) {
    while let Some((from, to)) = thread.handle.wanted().unwrap() {
        let from = from.max((to + 1).saturating_sub(step));
        let filled = thread.handle.fill(&parcel(source, (from, to))).unwrap();
        assert_eq!(filled, Filled::Taken { records: to + 1 - from });
    }
}

fn is_whole(thread: &HistoryThread, records: &[Archived]) {
    let history = &thread.history;
    assert!(history.gaps(1).is_empty(), "{:?}", history.gaps(1));
    assert_eq!((history.whole_from(), history.gap_records()), (1, 0));
    all_here(history, records);
    let (mut found, mut cursor) = (Vec::new(), None);
    while found.len() < records.len() {
        let page = history.search(&Filter::default(), None, cursor.as_deref(), 1000).unwrap();
        found.extend(indices(&page));
        cursor = page.cursor;
    }
    assert_eq!(found, (1..=records.len() as u64).rev().collect::<Vec<_>>());
    let report = history.verify().unwrap();
    assert_eq!((report.problem_count, report.gaps.len()), (0, 0), "{:?}", report.problems);
    assert_eq!((report.records, report.to), (records.len() as u64, records.len() as u64));
}

/// What a crash may leave beside a segment that was just made of parts.
fn crash(folder: &Folder, round: u64, parts: &[(PathBuf, Vec<u8>)], made: &[PathBuf]) {
    match round % 5 {
        // The part is not what was written: it was never synced.
        0 => {
            if let Some(part) = segment_files(folder, "part").first() {
                let bytes = std::fs::read(part).unwrap();
                std::fs::write(part, &bytes[..bytes.len() - 7]).unwrap();
            }
        }
        1 => {
            if let Some(part) = segment_files(folder, "part").pop() {
                flip(&part, 100);
            }
        }
        // Between the rename and the index file; the parts are still there.
        2 => {
            for path in made {
                let _ = std::fs::remove_file(path.with_extension("idx"));
                parts.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
            }
        }
        // In the middle of the copy.
        3 => std::fs::write(folder.path().join("history/00000000000000000001.fill.tmp"), "x")
            .unwrap(),
        _ => {}
    }
}

#[test]
fn a_history_is_copied_through_any_number_of_crashes() {
    let (source_folder, records) = written(5_000);
    let source = spawn(&source_folder);
    let (folder, mut random, mut round) = (Folder::new(), 7_u64, 0);
    let mut next = |most: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % most
    };
    loop {
        let thread = behind(&folder, head(&records, 5_000));
        assert_eq!(thread.history.newest(), 5_000);
        let (mut parts, mut made) = (Vec::new(), Vec::new());
        for _ in 0..1 + next(25) {
            let Some((from, to)) = thread.handle.wanted().unwrap() else { break };
            let read = |path| (std::fs::read(&path).unwrap(), path);
            parts = segment_files(&folder, "part").into_iter().map(read).collect();
            let before = segment_files(&folder, "seg");
            let from = from.max((to + 1).saturating_sub(1 + next(60)));
            thread.handle.fill(&parcel(&source.history, (from, to))).unwrap();
            made = segment_files(&folder, "seg");
            made.retain(|path| !before.contains(path));
        }
        let whole = thread.handle.wanted().unwrap().is_none();
        thread.stop().unwrap();
        if whole {
            break;
        }
        let parts: Vec<_> = parts.into_iter().map(|(bytes, path)| (path, bytes)).collect();
        crash(&folder, round, &parts, &made);
        round += 1;
    }
    assert!(round > 10, "{round}");
    let thread = behind(&folder, head(&records, 5_000));
    is_whole(&thread, &records);
    assert!(segment_files(&folder, "part").is_empty() && segment_files(&folder, "tmp").is_empty());
    // About 1.5 MB of blocks in segments of 60 KB: as few as that, not one per step.
    let bytes = thread.history.bytes() / 60_000;
    assert!((segment_files(&folder, "seg").len() as u64) < bytes + 5 * round);
    thread.stop().unwrap();
    source.stop().unwrap();
}

#[test]
fn a_gap_in_the_middle_is_filled_while_the_history_goes_on() {
    let (source_folder, records) = written(700);
    let source = spawn(&source_folder);
    let folder = Folder::new();
    let thread = behind(&folder, Head::EMPTY);
    archive(&thread, &records[..120]);
    // A snapshot arrives, and the node ends before the first record behind it.
    thread.handle.skip_to(head(&records, 400)).unwrap();
    assert_eq!((thread.history.newest(), thread.history.gaps(1)), (400, vec![(121, 400)]));
    assert_eq!((thread.handle.sync_to(400).unwrap(), thread.history.whole_from()), (400, 401));
    thread.stop().unwrap();
    let thread = behind(&folder, head(&records, 400));
    assert_eq!(thread.opened.missing, Some((121, 400)));
    archive(&thread, &records[400..420]);
    // Another one, with a gap below it that is still open, and partly collected.
    thread.handle.fill(&parcel(&source.history, (390, 400))).unwrap();
    assert_eq!(thread.history.gap_records(), 269);
    thread.handle.skip_to(head(&records, 600)).unwrap();
    archive(&thread, &records[600..650]);
    assert_eq!(thread.handle.wanted().unwrap(), Some((421, 600)), "the newest first");
    assert_eq!(thread.history.gaps(1), [(121, 389), (421, 600)], "what was collected is kept");
    assert_eq!((thread.history.whole_from(), thread.history.oldest()), (601, Some(1)));
    assert!(thread.history.job("11.500").unwrap().is_none());
    std::thread::scope(|scope| {
        scope.spawn(|| archive(&thread, &records[650..]));
        fill_all(&thread, &source.history, 37);
    });
    is_whole(&thread, &records);
    assert_eq!(thread.handle.fill(&parcel(&source.history, (1, 9))).unwrap(), Filled::NotWanted);
    // What was filled in is served like all else, and a head that is here changes nothing.
    assert_eq!(parcel(&thread.history, (380, 405)).first(), 380);
    thread.handle.skip_to(head(&records, 500)).unwrap();
    assert!(thread.handle.skip_to(Head { index: 500, hash: [7; 32] }).is_err());
    thread.stop().unwrap();

    // The replay, from the snapshot on, and from before it: same hash, not written again.
    let thread = behind(&folder, head(&records, 600));
    assert_eq!((thread.opened.missing, thread.opened.cut_records), (None, 0));
    archive(&thread, &records[100..]);
    assert_eq!(thread.handle.metrics().repeated.load(Relaxed), 600);
    is_whole(&thread, &records);
    let mut other = Maker::new();
    other.audit();
    thread.handle.archive(other.jobs(300).pop().unwrap()).unwrap();
    let error = thread.handle.sync_to(701).unwrap_err();
    assert!(error.to_string().contains("record 301 is in the history with another"), "{error}");
    source.stop().unwrap();
}

#[test]
fn what_does_not_follow_is_refused() {
    let (source_folder, records) = written(300);
    let source = spawn(&source_folder);
    let folder = Folder::new();
    let thread = behind(&folder, head(&records, 300));
    let refused = |parcel: &Parcel| match thread.handle.fill(parcel) {
        Err(HistoryError::Misfit(misfit)) => misfit,
        other => panic!("{other:?}"),
    };
    let entries: Vec<_> = records.iter().map(|r| append::Entry::of(r).unwrap()).collect();
    let made = |change: &dyn Fn(u64) -> Option<&'static [u8]>, pruned: u64| {
        let range = &entries[250..];
        let of = |entry: &append::Entry| {
            let bytes = change(entry.index).map_or_else(|| entry.canonical.to_vec(), Vec::from);
            (entry.this, (entry.index != pruned).then_some(bytes))
        };
        let kept: Vec<_> = range.iter().map(of).collect();
        let kept = kept.iter().map(|(this, bytes)| (*this, bytes.as_deref()));
        Parcel(block::Block::of(251, range[0].previous, kept))
    };
    let edited: &[u8] = b"{}";
    assert_eq!(refused(&made(&|index| (index == 260).then_some(edited), 0)), Misfit::Hash(260));
    assert_eq!(refused(&made(&|_| None, 270)), Misfit::Pruned(270));
    // Another chain that has the same length.
    let mut other = Maker::new();
    other.audit();
    let (other_folder, mut forged) = (Folder::new(), vec![Maker::new().audit()]);
    forged.extend(other.jobs(299));
    let liar = spawn(&other_folder);
    archive(&liar, &forged);
    assert_eq!(refused(&parcel(&liar.history, (280, 300))), Misfit::End(300));
    // What is not wanted, and what nobody has.
    let early = parcel(&source.history, (200, 299));
    assert_eq!(thread.handle.fill(&early).unwrap(), Filled::NotWanted);
    assert!(thread.history.parcel(1, 300).unwrap().is_empty());
    assert!(source.history.parcel(1, 301).unwrap().is_empty());
    assert_eq!(thread.history.gap_records(), 300);

    // A pruned one, once State says so, is a hash and a gap no more.
    thread.handle.set_reads_below(271);
    thread.handle.fill(&made(&|_| None, 270)).unwrap();
    // The floor rises into the gap: what was collected above it is all there is to have.
    thread.handle.set_floor(255);
    assert_eq!(thread.handle.wanted().unwrap(), None);
    assert_eq!((thread.history.whole_from(), thread.history.gap_records()), (255, 0));
    assert!(thread.history.record(270).unwrap().is_none());
    all_here(&thread.history, &records[270..]);
    let report = thread.history.verify().unwrap();
    assert_eq!((report.problem_count, report.pruned), (0, 1), "{report:?}");
    let again = parcel(&thread.history, (255, 300));
    assert!(again.0.kept(270).unwrap().canonical.is_none());
    thread.stop().unwrap();
    liar.stop().unwrap();
    source.stop().unwrap();
}
