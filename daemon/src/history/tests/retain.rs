//! The floor: what is hidden at once, what goes later, what a crash in between leaves.

use super::*;
use serde_json::json;

/// A history with a floor for half of its bytes.
fn with_floor() -> (Folder, Vec<Archived>, u64) {
    let (folder, records) = written(800);
    let thread = spawn(&folder);
    let bytes = thread.history.bytes();
    let files = ["seg", "idx"].iter().flat_map(|kind| segment_files(&folder, kind));
    let on_disk: u64 = files.map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert_eq!(bytes, on_disk);
    assert_eq!(thread.history.floor_for(bytes), None);
    let (floor, previous) = thread.history.floor_for(bytes / 2).unwrap();
    assert!((200..700).contains(&floor), "{floor}");
    let link = &records[floor as usize - 1].link;
    assert_eq!(tiebeam_proto::chain::to_text(&previous), link.previous);
    thread.stop().unwrap();
    (folder, records, floor)
}

fn nothing_below(history: &History, records: &[Archived], floor: u64) {
    all_here(history, &records[floor as usize - 1..]);
    for index in [1, 3, floor / 3 * 3 - 3, floor - 1] {
        assert!(history.record(index).unwrap().is_none(), "{index}");
        assert!(history.job(&format!("11.{index}")).unwrap().is_none(), "{index}");
        assert!(history.revision(index / 3).unwrap().is_none(), "{index}");
    }
    assert_eq!(history.oldest(), Some(floor));
    assert!(history.gaps(floor).is_empty());
    assert_eq!(history.range(1, floor + 1).unwrap().first(), records.get(floor as usize - 1));
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = history.search(&Filter::default(), None, cursor.as_deref(), 300).unwrap();
        found.extend(indices(&page));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, (floor..=800).rev().collect::<Vec<_>>());
}

fn wait_for_drop(thread: &HistoryThread) {
    while thread.handle.metrics().dropped.load(Relaxed) == 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_lies_below_the_floor_is_hidden_at_once_and_removed_later() {
    let (folder, records, floor) = with_floor();
    let before = segment_files(&folder, "seg").len();
    let thread = spawn(&folder);
    thread.handle.set_floor(floor);
    nothing_below(&thread.history, &records, floor);
    assert_eq!(segment_files(&folder, "seg").len(), before, "the files are still needed");
    thread.handle.drop_below(floor);
    wait_for_drop(&thread);
    nothing_below(&thread.history, &records, floor);
    let left = segment_files(&folder, "seg");
    assert!(left.len() < before && left.len() >= segment_files(&folder, "idx").len());
    let mut report = thread.history.verify().unwrap();
    report.require(floor, 800);
    assert_eq!((report.from, report.to, report.problem_count), (floor, 800, 0));
    assert!(report.gaps.is_empty());

    // Offline too: what is left begins behind the hash that the cut left in State.
    let hash = tiebeam_proto::chain::from_text(&records[floor as usize - 1].link.previous);
    let cut = Head { index: floor - 1, hash: hash.unwrap() };
    let files = folder.path().join("history");
    assert_eq!(verify_behind(&files, cut).unwrap().problem_count, 0);
    let forged = verify_behind(&files, Head { hash: [7; 32], ..cut }).unwrap();
    assert!(forged.problems[0].what.contains("does not follow what was cut"), "{forged:?}");

    // The chain goes on, and a floor beyond everything leaves the newest segment.
    let mut maker = Maker(Head {
        index: 800,
        hash: tiebeam_proto::chain::from_text(&records[799].link.this).unwrap(),
    });
    let more = maker.jobs(50);
    archive(&thread, &more);
    thread.handle.drop_below(850);
    thread.handle.sync_to(850).unwrap();
    all_here(&thread.history, &more[49..]);
    thread.stop().unwrap();
    let thread = spawn(&folder);
    assert_eq!((thread.opened.last, thread.opened.missing), (850, None));
    thread.stop().unwrap();
}

#[test]
fn a_crash_between_cut_and_removal_loses_nothing_of_either() {
    let (folder, records, floor) = with_floor();
    // In the middle of the removal: an index file without its segment, and the reverse.
    let (segments, index_files) = (segment_files(&folder, "seg"), segment_files(&folder, "idx"));
    std::fs::remove_file(&segments[0]).unwrap();
    std::fs::remove_file(&index_files[1]).unwrap();
    let thread = spawn(&folder);
    assert!(!index_files[0].exists(), "an orphan");
    // The snapshot has an older floor: the log is replayed from the first record on.
    records.iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
    thread.handle.sync_to(800).unwrap();
    while thread.handle.metrics().repeated.load(Relaxed) < 800 {
        std::thread::sleep(Duration::from_millis(2));
    }
    // Then the entry of the cut comes again, and the snapshot.
    thread.handle.drop_below(floor);
    wait_for_drop(&thread);
    nothing_below(&thread.history, &records, floor);
    thread.stop().unwrap();
    let thread = spawn(&folder);
    assert!(thread.opened.index_rebuilt.is_none() && thread.opened.last == 800);
    thread.handle.drop_below(floor);
    nothing_below(&thread.history, &records, floor);
    thread.stop().unwrap();
}

#[test]
fn a_full_tree_is_found_behind_the_record_of_its_revision() {
    let folder = Folder::new();
    let mut maker = Maker::new();
    let mut records = maker.jobs(300);
    let tree = |revision: u64| {
        let config = json!({"app": {"n": revision}});
        let tree = json!({"revision": revision, "root": "sha256:00", "config": config});
        json!({"format": 1, "time": "2026-11-20T04:05:06Z", "tree": tree})
    };
    records.push(maker.link(&tree(100)));
    records.extend(maker.jobs(299));
    records.push(maker.link(&tree(200)));
    records.extend(maker.jobs(10));
    let thread = spawn(&folder);
    let trees = |history: &History| {
        for (revision, there) in [(100, true), (99, false), (200, true), (101, false), (999, false)]
        {
            let found = history.full_tree(revision).unwrap();
            assert_eq!(found.is_some(), there, "{revision}");
            let config = found.map(|record| record.tree.config["app"]["n"].clone());
            assert_eq!(config, there.then(|| json!(revision)));
        }
    };
    records.iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
    trees(&thread.history);
    thread.handle.sync_to(611).unwrap();
    settle(&thread);
    trees(&thread.history);
    let all = Filter { revision: Some(100), ..Filter::default() };
    assert_eq!(indices(&thread.history.search(&all, None, None, 9).unwrap()), [300]);
    let page = thread.history.search(&Filter::default(), None, Some("h301"), 1).unwrap();
    assert_eq!(page.records[0]["kind"], "tree");
    assert_eq!(page.records[0]["note"], "the configuration at revision 100");
    let own = thread.history.search(&Filter::default(), Some("alice"), Some("h301"), 1).unwrap();
    assert_eq!(indices(&own), [299]);
    thread.stop().unwrap();
}
