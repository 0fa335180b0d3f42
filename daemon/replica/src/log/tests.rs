//! Tables for recovery, and the property that no acknowledged group is ever lost or invented.

use super::*;
use crate::entry::EntryKind;
use crate::seams::mem::{MemDisk, SeededRng, Stop};
use bytes::Bytes;

const SEGMENT: &str = "log/seg-00000000000000000001";

fn settings() -> LogSettings {
    LogSettings { segment_bytes: 16 << 10, first_segment_bytes: 16 << 10, mark_every: 1 }
}

fn entry(index: u64, term: u64, payload: &[u8]) -> Entry {
    let payload = Bytes::copy_from_slice(payload);
    Entry { index, term, kind: EntryKind::Normal, payload }
}

fn group(entries: Vec<Entry>) -> Group {
    Group { entries, must_sync: true, ..Group::default() }
}

fn open_seeded<D: Disk>(disk: D, seed: u64) -> (Log<D>, Recovered) {
    match Log::open(disk, "log", settings(), Box::new(SeededRng::new(seed))).unwrap() {
        Opened::Sound(log, recovered) => (log, recovered),
        Opened::Damaged(damage, _) => panic!("unexpected damage: {damage}"),
    }
}

fn open(disk: &MemDisk) -> (Log<MemDisk>, Recovered) {
    open_seeded(disk.clone(), 1)
}

fn damage(disk: &MemDisk) -> Damage {
    let rng = Box::new(SeededRng::new(1));
    match Log::open(disk.clone(), "log", settings(), rng).unwrap() {
        Opened::Sound(_, recovered) => panic!("no damage seen, last {:?}", recovered.last()),
        Opened::Damaged(damage, _) => damage,
    }
}

/// Three synced groups of one entry each; returns the offset behind every record.
fn three_entries(disk: &MemDisk) -> Vec<u64> {
    let (mut log, _) = open(disk);
    (1..=3)
        .map(|index| {
            log.append(&group(vec![entry(index, 1, &[index as u8; 100])])).unwrap();
            log.current.offset
        })
        .collect()
}

#[test]
fn a_group_costs_one_write_one_sync_and_a_mark() {
    let disk = MemDisk::new();
    let (mut log, _) = open(&disk);
    log.append(&group(vec![entry(1, 1, b"first")])).unwrap();
    let before = disk.calls();
    log.append(&group((2..=33).map(|index| entry(index, 1, &[7; 64])).collect())).unwrap();
    let after = disk.calls();
    assert_eq!(after.syncs - before.syncs, 1);
    assert_eq!(after.writes - before.writes, 2, "the group and the head's mark");
    let unsynced =
        Group { hard_state: Some(HardState { term: 1, vote: 1, commit: 33 }), ..Group::default() };
    log.append(&unsynced).unwrap();
    assert_eq!(disk.calls().syncs, after.syncs, "a commit index alone is not synced");
}

#[test]
fn everything_synced_comes_back() {
    let disk = MemDisk::new();
    let (mut log, empty) = open(&disk);
    assert_eq!((empty.last(), empty.entries.len()), (Mark::default(), 0));
    let hard_state = HardState { term: 3, vote: 65_537, commit: 9 };
    let reset = Some(Mark { index: 7, term: 2 });
    let entries = vec![entry(8, 2, b"a"), entry(9, 3, b"")];
    let written =
        Group { number: 1, reset, hard_state: Some(hard_state), entries, must_sync: true };
    log.append(&written).unwrap();
    disk.restart(Stop::LoseAll);
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.entries, written.entries);
    assert_eq!(recovered.hard_state, hard_state);
    assert_eq!(recovered.floor, Mark { index: 7, term: 2 });
    assert_eq!((log.last(), recovered.torn_bytes), (Mark { index: 9, term: 3 }, 0));
    assert!(verify(&mut disk.clone(), "log").unwrap().is_empty());
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_writing_goes_on() {
    let disk = MemDisk::new();
    let ends = three_entries(&disk);
    let whole = disk.content(SEGMENT).unwrap();
    for cut in ends[1]..ends[2] {
        let torn = MemDisk::new();
        let mut content = whole.clone();
        content[cut as usize..].fill(0);
        // The mark of the third group was not durable: both heads say "two groups".
        let head = Head::decode(content[..512].try_into().unwrap()).unwrap();
        let older = Head { durable_to: ends[1], ..head };
        content[..512].copy_from_slice(&older.encode());
        content[4096..4608].copy_from_slice(&older.encode());
        torn.plant(SEGMENT, &content);
        let (mut log, recovered) = open(&torn);
        assert_eq!(recovered.last().index, 2, "cut at {cut}");
        // The bytes of an index below 256 end in zeros, so a cut may hide behind them.
        assert!(recovered.torn_bytes <= cut - ends[1]);
        log.append(&group(vec![entry(3, 2, b"other")])).unwrap();
        torn.restart(Stop::LoseAll);
        let (_, recovered) = open(&torn);
        assert_eq!(recovered.entries[2], entry(3, 2, b"other"));
        assert_eq!(recovered.entries.len(), 3);
    }
}

#[test]
fn a_flipped_bit_below_the_mark_is_damage_and_names_the_place() {
    let disk = MemDisk::new();
    let ends = three_entries(&disk);
    for (offset, intact_to, at) in [
        (ends[0] + 40, 1, ends[0]),
        (ends[0] + 4, 1, ends[0]),
        (ends[2] - 1, 2, ends[1]),
        (ends[1], 2, ends[1]),
        (RECORDS_START + 2, 0, RECORDS_START),
    ] {
        let rotten = disk.image();
        assert!(rotten.flip_bit(SEGMENT, offset, 3));
        let damage = damage(&rotten);
        assert_eq!((damage.offset, damage.intact_to.index), (at, intact_to));
        assert_eq!(damage.reason, DamageReason::RecordInvalid);
        let findings = verify(&mut rotten.clone(), "log").unwrap();
        assert_eq!(findings[0].kind, FindingKind::Damage);
        // Whatever the operator tries, looking changes nothing.
        assert_eq!(rotten.content(SEGMENT).map(|c| c.len()), Some(16 << 10));
    }
}

#[test]
fn one_rotten_head_is_borne_and_two_are_damage() {
    let disk = MemDisk::new();
    three_entries(&disk);
    for slot in HEAD_OFFSETS {
        let rotten = disk.image();
        rotten.flip_bit(SEGMENT, slot + 40, 0);
        let findings = verify(&mut rotten.clone(), "log").unwrap();
        assert_eq!(findings[0].kind, FindingKind::HeadUnreadable);
        let (mut log, recovered) = open(&rotten);
        assert_eq!(recovered.last().index, 3);
        log.append(&group(vec![entry(4, 1, b"heals")])).unwrap();
        log.append(&group(vec![entry(5, 1, b"both")])).unwrap();
        assert!(verify(&mut rotten.clone(), "log").unwrap().is_empty(), "written anew");
    }
    disk.flip_bit(SEGMENT, 0, 0);
    disk.flip_bit(SEGMENT, 4096, 0);
    assert_eq!(damage(&disk).reason, DamageReason::HeadsUnreadable);
}

/// A log over many small segments, compacted so that segments were recycled.
fn recycled(disk: &MemDisk) -> Log<MemDisk> {
    let (mut log, _) = open(disk);
    for index in 1..=400 {
        log.append(&group(vec![entry(index, 1, &[index as u8; 200])])).unwrap();
        if index % 40 == 0 {
            log.compact_to(index - 30).unwrap();
            while log.prepare().unwrap() {}
        }
    }
    log
}

#[test]
fn segments_are_recycled_and_their_old_records_never_come_back() {
    let disk = MemDisk::new();
    let log = recycled(&disk);
    assert!(log.counters().rolls > 8);
    assert!(log.current.head.recycled, "the last segment was used before");
    assert!(disk.paths().len() <= 7, "{:?}", disk.paths());
    let end = log.current.offset;
    let path = log.current.path.clone();
    disk.restart(Stop::LoseAll);
    let (_, recovered) = open(&disk);
    assert_eq!(recovered.last(), Mark { index: 400, term: 1 });
    assert!(recovered.floor.index > 300 && recovered.floor.index <= 370);
    let content = disk.content(&path).unwrap();
    assert!(content[end as usize..].iter().any(|byte| *byte != 0), "leftovers lie there");
    let findings = verify(&mut disk.clone(), "log").unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn a_lost_or_rotten_segment_in_the_middle_is_damage() {
    let disk = MemDisk::new();
    let (mut log, _) = open(&disk);
    for index in 1..=150 {
        log.append(&group(vec![entry(index, 1, &[index as u8; 200])])).unwrap();
    }
    assert!(log.sealed.len() > 2);
    let middle = log.sealed[1].path.clone();
    let mut missing = disk.image();
    missing.remove(&middle).unwrap();
    assert_eq!(damage(&missing).reason, DamageReason::SegmentMissing);
    // The mark in a sealed segment may be old; the next segment's link pins its end.
    let mut content = disk.content(&middle).unwrap();
    for slot in HEAD_OFFSETS {
        let slot = slot as usize;
        let head = Head::decode(content[slot..slot + 512].try_into().unwrap()).unwrap();
        let head = Head { durable_to: RECORDS_START, ..head };
        content[slot..slot + 512].copy_from_slice(&head.encode());
    }
    content[12 << 10] ^= 1;
    disk.plant(&middle, &content);
    assert_eq!(damage(&disk).path, middle);
}

#[test]
fn a_new_leader_replaces_a_suffix_also_after_a_crash() {
    let disk = MemDisk::new();
    let (mut log, _) = open(&disk);
    log.append(&group((1..=5).map(|index| entry(index, 1, b"old")).collect())).unwrap();
    log.append(&group(vec![entry(3, 2, b"new"), entry(4, 2, b"new")])).unwrap();
    disk.restart(Stop::LoseAll);
    let (_, recovered) = open(&disk);
    let marks: Vec<_> = recovered.entries.iter().map(|one| (one.index, one.term)).collect();
    assert_eq!(marks, [(1, 1), (2, 1), (3, 2), (4, 2)]);
}

#[test]
#[should_panic(expected = "entry 7 cannot follow index 5")]
fn a_gap_is_never_written() {
    let (mut log, _) = open(&MemDisk::new());
    log.append(&group((1..=5).map(|index| entry(index, 1, b"x")).collect())).unwrap();
    let _ = log.append(&group(vec![entry(7, 1, b"x")]));
}

#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again_before_it_is_believed() {
    let disk = MemDisk::new();
    three_entries(&disk);
    let (mut log, _) = open(&disk);
    disk.fail_sync_after(0);
    assert!(log.append(&group(vec![entry(4, 1, &[4; 1500])])).is_err());
    disk.restart(Stop::Kill);
    let (mut log, recovered) = open(&disk);
    assert_eq!(recovered.last().index, 4, "the cache still shows it");
    log.append(&group(vec![entry(5, 1, b"acknowledged")])).unwrap();
    disk.restart(Stop::LoseAll);
    assert_eq!(open(&disk).1.last().index, 5);
}

#[test]
fn a_failed_sync_poisons_the_log_for_ever_and_a_full_disk_too() {
    let disk = MemDisk::new();
    let (mut log, _) = open(&disk);
    log.append(&group(vec![entry(1, 1, b"kept")])).unwrap();
    disk.fail_sync_after(0);
    let failed = log.append(&group(vec![entry(2, 1, b"doubtful")]));
    assert!(matches!(failed, Err(LogError::Persist { .. })), "{failed:?}");
    disk.restart(Stop::Kill);
    assert!(matches!(log.append(&group(vec![entry(3, 1, b"x")])), Err(LogError::Poisoned)));
    assert!(matches!(log.prepare(), Err(LogError::Poisoned)));
    disk.restart(Stop::KeepAll);
    assert_eq!(open(&disk).1.last().index, 1);

    let full = MemDisk::new();
    let (mut log, _) = open(&full);
    full.limit_bytes(Some(16 << 10));
    let failed = log.append(&group(vec![entry(1, 1, &vec![1; 20 << 10])]));
    assert!(matches!(failed, Err(LogError::Append { .. })), "{failed:?}");
    assert!(log.is_poisoned());
}

#[test]
fn what_a_start_returned_is_durable_although_it_was_only_written() {
    let disk = MemDisk::new();
    let (mut log, _) = open(&disk);
    let lazy = Group { entries: vec![entry(1, 1, b"written")], ..Group::default() };
    log.append(&lazy).unwrap();
    disk.restart(Stop::Kill);
    assert_eq!(open(&disk).1.last().index, 1);
    disk.restart(Stop::LoseAll);
    assert_eq!(open(&disk).1.last().index, 1, "the first start vouched for it");
}

#[test]
fn a_group_larger_than_a_segment_is_written_whole() {
    let disk = MemDisk::new();
    let (mut log, _) = open(&disk);
    log.append(&group(vec![entry(1, 1, b"small")])).unwrap();
    log.append(&group(vec![entry(2, 1, &vec![9; 50 << 10])])).unwrap();
    log.append(&group(vec![entry(3, 1, b"small")])).unwrap();
    disk.restart(Stop::LoseAll);
    let (_, recovered) = open(&disk);
    assert_eq!(recovered.last().index, 3);
    assert_eq!(recovered.entries[1].payload.len(), 50 << 10);
}

#[test]
fn nothing_old_is_dropped_before_the_new_beginning_is_durable() {
    let disk = MemDisk::new();
    let (mut log, _) = open(&disk);
    log.append(&group(vec![entry(1, 1, &[1; 7 << 10])])).unwrap();
    let lazy = Group { entries: vec![entry(2, 1, &[2; 2 << 10])], ..Group::default() };
    log.append(&lazy).unwrap();
    assert_eq!(log.counters().rolls, 1);
    assert_eq!(log.compact_to(1).unwrap(), 1);
    disk.restart(Stop::LoseAll);
    let (_, recovered) = open(&disk);
    assert_eq!((recovered.floor.index, recovered.last().index), (1, 2));
}

/// What the outside was told: the log after the last acknowledged group, and after the group that
/// was under way when the node stopped.
#[derive(Default, Clone)]
struct Model {
    floor: Mark,
    entries: Vec<Entry>,
    hard_state: HardState,
}

impl Model {
    fn take(&mut self, group: &Group) {
        if let Some(reset) = group.reset {
            self.floor = reset;
            self.entries.clear();
        }
        self.hard_state = group.hard_state.unwrap_or(self.hard_state);
        for entry in &group.entries {
            self.entries.truncate((entry.index - self.floor.index - 1) as usize);
            self.entries.push(entry.clone());
        }
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.floor.index, |entry| entry.index)
    }
}

fn random_group(rng: &mut SeededRng, model: &Model, committed: u64, term: u64) -> Group {
    let mut group = Group { must_sync: !rng.one_in(6), ..Group::default() };
    let committed = committed.max(model.floor.index);
    let mut next = model.last() + 1;
    if rng.one_in(40) {
        next += rng.below(5);
        group.reset = Some(Mark { index: next - 1, term });
    } else if rng.one_in(6) && model.last() > committed {
        next -= rng.below(model.last() - committed);
    }
    let count = rng.below(5);
    for index in next..next + count {
        let mut payload = vec![0; rng.below(700) as usize];
        payload.iter_mut().for_each(|byte| *byte = rng.below(256) as u8);
        group.entries.push(entry(index, term, &payload));
    }
    if rng.one_in(3) || group.entries.is_empty() {
        let vote = rng.below(4);
        group.hard_state = Some(HardState { term, vote, commit: 0 });
    }
    group
}

/// The groups since the last acknowledged one, each with the log before it. A recovered log must
/// be one of these, with any number of the leading records of the group that followed.
fn explain(recovered: &Recovered, since: &[(Model, Group)]) -> Result<Model, String> {
    for (before, group) in since.iter().rev() {
        let parts = group.entries.len() + 2;
        for records in (0..=parts).rev() {
            let mut state = before.clone();
            state.take(&Group {
                reset: group.reset.filter(|_| records > 0),
                hard_state: group.hard_state.filter(|_| records > 1),
                entries: group.entries[..records.saturating_sub(2)].to_vec(),
                ..Group::default()
            });
            if same(&state, recovered) {
                return Ok(state);
            }
        }
    }
    let acknowledged = since.first().map(|(model, _)| model.last());
    Err(format!("recovered {:?}, acknowledged {acknowledged:?}", recovered.last()))
}

fn same(model: &Model, recovered: &Recovered) -> bool {
    let first = recovered.floor.index.max(model.floor.index);
    let mine = model.entries.iter().filter(|one| one.index > first);
    let theirs = recovered.entries.iter().filter(|one| one.index > first);
    model.last() == recovered.last().index
        && model.hard_state == recovered.hard_state
        && mine.eq(theirs)
}

/// Opens the log, crashing on the way now and then, until it is open.
fn reopen(disk: &MemDisk, rng: &mut SeededRng) -> Result<(Log<MemDisk>, Recovered), String> {
    loop {
        if rng.one_in(3) {
            disk.crash_after(rng.below(8));
        }
        let seed = Box::new(SeededRng::new(rng.next_u64()));
        match Log::open(disk.clone(), "log", settings(), seed) {
            Ok(Opened::Sound(log, recovered)) => return Ok((log, recovered)),
            Ok(Opened::Damaged(damage, _)) => return Err(damage.to_string()),
            Err(_) => disk.restart(Stop::Random(rng.next_u64())),
        }
    }
}

/// A life of random groups, crashes and starts. `early` acknowledges before the sync: the bug that
/// the property must catch.
fn life(seed: u64, early: bool) -> Result<(), String> {
    let mut rng = SeededRng::new(seed);
    let disk = MemDisk::new();
    let mut model = Model::default();
    let mut committed = 0;
    let mut since = vec![(model.clone(), Group::default())];
    for term in 1..=6 {
        let (mut log, recovered) = reopen(&disk, &mut rng)?;
        model = explain(&recovered, &since)?;
        if model.last() < committed {
            return Err(format!("{} was acknowledged and is gone", committed));
        }
        since = vec![(model.clone(), Group::default())];
        disk.crash_after(rng.below(160));
        loop {
            let group = random_group(&mut rng, &model, committed, term);
            since.push((model.clone(), group.clone()));
            let must_sync = group.must_sync && !early;
            if log.append(&Group { must_sync, ..group.clone() }).is_err() {
                break;
            }
            model.take(&group);
            if group.must_sync {
                since = vec![(model.clone(), Group::default())];
                committed = committed.max(model.last().saturating_sub(rng.below(8)));
            }
            if rng.one_in(10) && log.compact_to(committed).is_err()
                || rng.one_in(3) && log.prepare().is_err()
            {
                break;
            }
        }
        let stops = [Stop::Kill, Stop::LoseAll, Stop::KeepAll, Stop::Random(rng.next_u64())];
        disk.restart(stops[rng.below(4) as usize]);
    }
    let (_, recovered) = reopen(&disk, &mut rng)?;
    explain(&recovered, &since).map(|_| ())
}

#[test]
fn no_acknowledged_group_is_lost_and_none_invented_in_any_life() {
    for seed in 0..120 {
        life(seed, false).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
    }
}

#[test]
fn the_property_catches_an_acknowledgement_before_the_sync() {
    let caught = (0..60).filter(|seed| life(*seed, true).is_err()).count();
    assert!(caught > 15, "only {caught} of 60 lives showed the planted bug");
}

#[test]
fn a_segment_of_a_later_format_is_named_as_such() {
    let disk = MemDisk::new();
    three_entries(&disk);
    let mut bytes = disk.content(SEGMENT).unwrap();
    for offset in format::HEAD_OFFSETS {
        let at = offset as usize;
        let head = &mut bytes[at..at + format::HEAD_BYTES];
        head[8] = 2;
        let sum = crc32c::crc32c(&head[..format::HEAD_BYTES - 4]);
        head[format::HEAD_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    }
    disk.plant(SEGMENT, &bytes);
    let found = damage(&disk);
    assert_eq!(found.reason, DamageReason::Format);
    assert!(found.to_string().contains("a later version wrote it"), "{found}");
}
