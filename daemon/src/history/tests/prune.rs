//! Pruned reads: hidden at once, gone later, and what a crash at each step of that leaves.

use super::*;

/// Every third record of the fixture is a change; all others are reads.
fn is_read(index: u64) -> bool {
    !index.is_multiple_of(3)
}

/// All but reads below `below` are there, and nothing else is.
fn reads_are_hidden(history: &History, records: &[Archived], below: u64) {
    let (gone, kept): (Vec<_>, Vec<_>) =
        records.iter().cloned().partition(|r| r.link.index < below && is_read(r.link.index));
    all_here(history, &kept);
    for record in &gone {
        let index = record.link.index;
        assert_eq!(history.record(index).unwrap(), None, "{index}");
        assert_eq!(history.job(&format!("11.{index}")).unwrap(), None, "{index}");
    }
    assert_eq!(found(history, &Filter::default()), newest_first(&kept));
    let alice = Filter { user: Some("alice".into()), ..Filter::default() };
    let odd: Vec<_> = kept.iter().filter(|r| r.link.index % 2 == 1).cloned().collect();
    assert_eq!(found(history, &alice), newest_first(&odd));
    let (mut links, mut from) = (Vec::new(), 1);
    while from <= records.len() as u64 {
        links.extend(history.links(from, u64::MAX).unwrap().into_iter().map(|linked| linked.link));
        from = links.last().map_or(u64::MAX, |link| link.index + 1);
    }
    assert!(links.iter().eq(records.iter().map(|record| &record.link)));
}

fn newest_first(records: &[Archived]) -> Vec<u64> {
    records.iter().rev().map(|record| record.link.index).collect()
}

fn found(history: &History, filter: &Filter) -> Vec<u64> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = history.search(filter, None, cursor.as_deref(), 100).unwrap();
        found.extend(indices(&page));
        cursor = page.cursor;
        if cursor.is_none() {
            return found;
        }
    }
}

/// The sealed segments that lie below a record as a whole.
fn below(thread: &HistoryThread, index: u64) -> u64 {
    let segments = thread.history.shared.library.segments();
    segments.iter().filter(|s| s.sealed().is_some() && s.last() < index).count() as u64
}

fn prune(thread: &HistoryThread, index: u64) {
    thread.handle.prune_below(index);
    thread.handle.release_to(800);
    let segments = || thread.history.shared.library.segments();
    while segments().iter().any(|segment| super::super::prune::is_due(segment, index)) {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn sound(history: &History, reads_below: u64) -> Report {
    let mut report = history.verify().unwrap();
    report.require(1, 800);
    report.require_reads(Path::new("history"), reads_below);
    assert_eq!((report.problem_count, &report.gaps[..]), (0, &[][..]), "{report:?}");
    assert_eq!((report.records + report.pruned, report.to), (800, 800));
    report
}

#[test]
fn reads_are_hidden_at_once_and_leave_the_disk_when_they_may() {
    let (folder, records) = written(800);
    let thread = spawn(&folder);
    thread.handle.set_reads_below(601);
    reads_are_hidden(&thread.history, &records, 601);
    thread.handle.prune_below(601);
    thread.handle.sync_to(800).unwrap();
    assert_eq!(sound(&thread.history, 601).pruned, 0, "the lines are not released");
    settle(&thread);
    let before = thread.history.bytes();
    prune(&thread, 601);
    assert!(below(&thread, 601) > 2);
    reads_are_hidden(&thread.history, &records, 601);
    let mut report = sound(&thread.history, 601);
    assert!(report.pruned > 200 && report.pruned_to < 601, "{report:?}");
    let after = thread.history.bytes();
    println!("{before} bytes, {after} without {} reads", report.pruned);
    assert!(after < before * 3 / 4, "{before} {after}");
    // What State does not let go may not be gone.
    report.require_reads(folder.path(), report.pruned_to);
    assert_eq!(report.problem_count, 1);
    thread.stop().unwrap();

    let thread = spawn(&folder);
    assert_eq!(thread.opened, Opened { last: 800, ..Opened::default() });
    assert_eq!(thread.history.bytes(), after);
    // The replay brings them again: they are the same, and stay away.
    records.iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
    while thread.handle.metrics().repeated.load(Relaxed) < 800 {
        std::thread::sleep(Duration::from_millis(2));
    }
    prune(&thread, 601);
    reads_are_hidden(&thread.history, &records, 601);
    assert_eq!(thread.handle.metrics().pruned.load(Relaxed), 0, "nothing is left to do");
    // Only segments that lie below as a whole go; the newest one never is.
    prune(&thread, 801);
    reads_are_hidden(&thread.history, &records, 801);
    sound(&thread.history, 801);
    thread.stop().unwrap();
}

#[test]
fn nothing_goes_whose_line_is_not_kept() {
    let (folder, _) = written(800);
    let thread = spawn(&folder);
    thread.handle.prune_below(801);
    thread.handle.release_to(300);
    let done = below(&thread, 301);
    while thread.handle.metrics().pruned.load(Relaxed) < done {
        std::thread::sleep(Duration::from_millis(2));
    }
    thread.handle.sync_to(800).unwrap();
    let report = sound(&thread.history, 801);
    assert!(report.pruned > 0 && report.pruned_to <= 300, "{report:?}");
    thread.stop().unwrap();
}

#[test]
fn a_crash_at_any_step_leaves_the_old_segment_or_the_new_one() {
    let (folder, records) = written(800);
    let files = |kind: &str| segment_files(&folder, kind)[0].clone();
    let (segment, index) = (files("seg"), files("idx"));
    let old = [&segment, &index].map(|path| std::fs::read(path).unwrap());
    let thread = spawn(&folder);
    prune(&thread, 601);
    thread.stop().unwrap();
    let new = [&segment, &index].map(|path| std::fs::read(path).unwrap());
    assert!(new[0].len() < old[0].len() && new[1].len() < old[1].len());
    let drafts = ["seg.tmp", "pruned.tmp", "old.tmp"].map(|end| segment.with_extension(end));
    type Step<'a> = (&'a str, &'a [u8], Option<&'a [u8]>);
    let steps: [Step<'_>; 5] = [
        ("while the drafts are written", &old[0], Some(&old[1])),
        ("the old index file is aside", &old[0], None),
        ("the new segment is in place", &new[0], None),
        ("both are in place", &new[0], Some(&new[1])),
        ("what never is: the new segment with the old index file", &new[0], Some(&old[1])),
    ];
    for (step, segment_is, index_is) in steps {
        std::fs::write(&segment, segment_is).unwrap();
        let _ = std::fs::remove_file(&index);
        index_is.inspect(|bytes| std::fs::write(&index, bytes).unwrap());
        drafts.iter().for_each(|path| std::fs::write(path, &new[0][..700]).unwrap());
        let thread = spawn(&folder);
        assert_eq!(thread.opened.last, 800, "{step}");
        assert!(drafts.iter().all(|path| !path.exists()), "{step}");
        sound(&thread.history, 601);
        thread.handle.set_reads_below(601);
        reads_are_hidden(&thread.history, &records, 601);
        prune(&thread, 601);
        reads_are_hidden(&thread.history, &records, 601);
        thread.stop().unwrap();
        assert_eq!(std::fs::read(&segment).unwrap(), new[0], "{step}");
    }
}

#[test]
fn who_reads_meanwhile_sees_no_half_of_it() {
    let (folder, records) = written(800);
    let thread = spawn(&folder);
    thread.handle.set_reads_below(700);
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Relaxed) {
                    reads_are_hidden(&thread.history, &records, 700);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                sound(&thread.history, 700);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        for index in (100..=700).step_by(100) {
            prune(&thread, index);
        }
        ended.store(true, Relaxed);
    });
    assert!(thread.handle.metrics().pruned.load(Relaxed) > 2);
    thread.stop().unwrap();
}
