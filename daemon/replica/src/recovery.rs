//! From the files of a data folder to what a node starts with; and the very first files.
//!
//! Owns the rules for combining the newest whole snapshot with the log. Called once at start, by
//! the daemon, by a simulation, and by `tiebeamd check` ([`verify`]). It never guesses: what does
//! not fit together is an error that names the files, and the node does not vote.

use crate::entry::{Entry, Group, HardState, Mark};
use crate::log::{
    self, Damage, Finding, FindingKind, Log, LogError, LogSettings, Opened, Recovered,
};
use crate::membership::Membership;
use crate::seams::{Disk, Rng};
use crate::snapshot::{self, SnapshotError, SnapshotMeta};

/// Folder of the log's segments, inside the data folder.
pub const LOG_FOLDER: &str = "log";
/// Folder of the snapshots, inside the data folder.
pub const SNAPSHOT_FOLDER: &str = "snapshots";
/// Position of the snapshot that a new cluster begins with. Not zero: a member that joins an
/// empty log would replay changes of membership without knowing any member, and raft panics.
pub const FIRST_MARK: Mark = Mark { index: 1, term: 1 };

/// Entries of a group when a log is written again.
const REWRITTEN_AT_ONCE: usize = 256;

/// What [`crate::Node::new`] starts from.
#[derive(Debug, Clone)]
pub struct Start {
    /// The snapshot that the state was restored from.
    pub snapshot: SnapshotMeta,
    /// Position before the log's first entry.
    pub floor: Mark,
    /// The log.
    pub entries: Vec<Entry>,
    /// The hard state.
    pub hard_state: HardState,
}

/// A recovered data folder.
#[derive(Debug)]
pub struct Recovery<D> {
    /// The log, open for writing.
    pub log: Log<D>,
    /// For the node.
    pub start: Start,
    /// The snapshot's body: for the state, which is at index `start.snapshot.mark.index`.
    pub body: Vec<u8>,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// What should be reported although the node can start.
    pub findings: Vec<Finding>,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The folder was never bootstrapped: run `init` or `join`.
    #[error("the data folder holds no cluster")]
    Empty,
    /// Something acknowledged is lost. The node must not vote (ruling 18).
    #[error("the log is damaged: {damage}")]
    Damaged {
        /// Where and what.
        damage: Damage,
        /// What is intact.
        intact: Box<Recovered>,
    },
    /// There is a snapshot and no log: what this node acknowledged and voted is lost.
    #[error("the log is gone, the newest snapshot is at index {snapshot}")]
    LogLost {
        /// Index of the newest whole snapshot.
        snapshot: u64,
    },
    /// No snapshot reaches the log.
    #[error("the log begins behind index {floor}, and no whole snapshot reaches it")]
    SnapshotLost {
        /// Index before the log's first entry.
        floor: u64,
        /// Snapshots that could not be read.
        findings: Vec<Finding>,
    },
    /// The log could not be opened or written.
    #[error("the log could not be recovered")]
    Log(#[source] LogError),
    /// A snapshot could not be read or written.
    #[error("the snapshots could not be recovered")]
    Snapshot(#[source] SnapshotError),
}

/// Makes the first files of a node, in an empty folder: a snapshot at `meta`, and a log that begins
/// behind it. `init` uses [`FIRST_MARK`], `join` the snapshot that the cluster gave it.
///
/// The log comes first: so a snapshot without a log always means that the log was lost.
pub fn bootstrap<D: Disk + Clone>(
    disk: D,
    settings: LogSettings,
    rng: Box<dyn Rng>,
    meta: SnapshotMeta,
    body: &[u8],
) -> Result<(), RecoveryError> {
    let opened = Log::open(disk.clone(), LOG_FOLDER, settings, rng).map_err(RecoveryError::Log)?;
    let mut log = match opened {
        Opened::Sound(log, _) => log,
        Opened::Damaged(damage, intact) => {
            return Err(RecoveryError::Damaged { damage, intact: Box::new(intact) });
        }
    };
    let Mark { index, term } = meta.mark;
    let group = Group {
        reset: Some(meta.mark),
        hard_state: Some(HardState { term, vote: 0, commit: index }),
        must_sync: true,
        ..Group::default()
    };
    log.append(&group).map_err(RecoveryError::Log)?;
    snapshot::save(disk, SNAPSHOT_FOLDER, meta, body).map_err(RecoveryError::Snapshot)?;
    Ok(())
}

/// The snapshot of a cluster of one, as `init` makes it.
pub fn first_snapshot(raft_id: u64) -> SnapshotMeta {
    SnapshotMeta { mark: FIRST_MARK, membership: Membership::of_voters([raft_id]) }
}

/// Recovers a data folder.
pub fn recover<D: Disk + Clone>(
    mut disk: D,
    settings: LogSettings,
    rng: Box<dyn Rng>,
) -> Result<Recovery<D>, RecoveryError> {
    let loaded = snapshot::load(&mut disk, SNAPSHOT_FOLDER).map_err(RecoveryError::Snapshot)?;
    let opened = Log::open(disk.clone(), LOG_FOLDER, settings, rng).map_err(RecoveryError::Log)?;
    let (mut log, found) = match opened {
        Opened::Sound(log, found) => (log, found),
        Opened::Damaged(damage, intact) => {
            return Err(RecoveryError::Damaged { damage, intact: Box::new(intact) });
        }
    };
    let findings = loaded.findings;
    let floor = found.floor.index;
    let Some(snapshot) = loaded.snapshot else {
        if found.entries.is_empty() && findings.is_empty() {
            return Err(RecoveryError::Empty);
        }
        return Err(RecoveryError::SnapshotLost { floor, findings });
    };
    let index = snapshot.meta.mark.index;
    if found.hard_state == HardState::default() && found.entries.is_empty() {
        return Err(RecoveryError::LogLost { snapshot: index });
    }
    if floor > index {
        return Err(RecoveryError::SnapshotLost { floor, findings });
    }
    let torn_bytes = found.torn_bytes;
    let start = fit(&mut disk, &mut log, found, snapshot.meta)?;
    Ok(Recovery { log, start, body: snapshot.body, torn_bytes, findings })
}

/// Lets the log follow the snapshot. A snapshot from a leader is made durable before the log is
/// begun anew behind it; if the node stopped in between, that is done now. It may have stopped
/// before the snapshot's name was durable: then that comes first.
fn fit<D: Disk>(
    disk: &mut D,
    log: &mut Log<D>,
    found: Recovered,
    snapshot: SnapshotMeta,
) -> Result<Start, RecoveryError> {
    let mark = snapshot.mark;
    let Recovered { mut hard_state, floor, entries, .. } = found;
    let in_log = match mark.index - floor.index {
        0 => Some(floor),
        nth => entries.get(nth as usize - 1).map(Entry::mark),
    };
    if in_log == Some(mark) {
        return Ok(Start { snapshot, floor, entries, hard_state });
    }
    if hard_state.term < mark.term {
        hard_state = HardState { term: mark.term, vote: 0, commit: mark.index };
    }
    hard_state.commit = mark.index;
    disk.sync_folder(SNAPSHOT_FOLDER).map_err(|source| {
        let path = SNAPSHOT_FOLDER.to_owned();
        RecoveryError::Snapshot(SnapshotError::Write { path, source })
    })?;
    let group = Group {
        reset: Some(mark),
        hard_state: Some(hard_state),
        must_sync: true,
        ..Group::default()
    };
    log.append(&group).map_err(RecoveryError::Log)?;
    Ok(Start { snapshot, floor: mark, entries: Vec::new(), hard_state })
}

/// Writes a log with this content into a folder that has none, and makes it durable: for the
/// offline repair of a single entry. The caller puts it in the place of the old one.
pub fn write_log<D: Disk>(
    disk: D,
    folder: &str,
    settings: LogSettings,
    rng: Box<dyn Rng>,
    content: &Recovered,
) -> Result<(), RecoveryError> {
    let mut log = match Log::open(disk, folder, settings, rng).map_err(RecoveryError::Log)? {
        Opened::Sound(log, _) => log,
        Opened::Damaged(damage, intact) => {
            return Err(RecoveryError::Damaged { damage, intact: Box::new(intact) });
        }
    };
    let begin = Group {
        reset: Some(content.floor),
        hard_state: Some(content.hard_state),
        must_sync: content.entries.is_empty(),
        ..Group::default()
    };
    log.append(&begin).map_err(RecoveryError::Log)?;
    let groups = content.entries.chunks(REWRITTEN_AT_ONCE);
    let last = groups.len();
    for (nth, entries) in groups.enumerate() {
        let must_sync = nth + 1 == last;
        let group = Group { entries: entries.to_vec(), must_sync, ..Group::default() };
        log.append(&group).map_err(RecoveryError::Log)?;
    }
    Ok(())
}

/// Checks the log and all snapshots of a data folder without changing anything. Nothing found, or
/// only notes and a torn tail, means that the node can start.
pub fn verify<D: Disk>(disk: &mut D) -> Result<Vec<Finding>, RecoveryError> {
    let mut findings = log::verify(disk, LOG_FOLDER).map_err(RecoveryError::Log)?;
    let names = disk.list(SNAPSHOT_FOLDER).map_err(|source| {
        let path = SNAPSHOT_FOLDER.to_owned();
        RecoveryError::Snapshot(SnapshotError::Read { path, source })
    })?;
    for name in names.iter().filter(|name| name.starts_with("snap-")) {
        match snapshot::read(disk, &format!("{SNAPSHOT_FOLDER}/{name}")) {
            Ok(_) => {}
            Err(SnapshotError::Damaged { path, what }) => findings.push(Finding {
                kind: FindingKind::SnapshotUnreadable,
                path,
                offset: 0,
                what: format!("the snapshot is damaged: {what}"),
            }),
            Err(other) => return Err(RecoveryError::Snapshot(other)),
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;
    use crate::seams::mem::{MemDisk, SeededRng, Stop};
    use crate::snapshot::{save, snapshot_path};
    use bytes::Bytes;

    fn rng() -> Box<SeededRng> {
        Box::new(SeededRng::new(3))
    }

    fn settings() -> LogSettings {
        LogSettings { segment_bytes: 16 << 10, first_segment_bytes: 16 << 10, mark_every: 1 }
    }

    fn meta(index: u64, term: u64) -> SnapshotMeta {
        SnapshotMeta { mark: Mark { index, term }, ..first_snapshot(65_537) }
    }

    /// A folder with entries 2 to 10 of term 1.
    fn folder() -> MemDisk {
        let disk = MemDisk::new();
        bootstrap(disk.clone(), settings(), rng(), first_snapshot(65_537), b"first").unwrap();
        let mut log = recover(disk.clone(), settings(), rng()).unwrap().log;
        let payload = Bytes::from_static(b"x");
        let entry =
            |index| Entry { index, term: 1, kind: EntryKind::Normal, payload: payload.clone() };
        let entries = (2..=10).map(entry).collect();
        log.append(&Group { entries, must_sync: true, ..Group::default() }).unwrap();
        disk
    }

    #[test]
    fn a_bootstrapped_folder_starts_and_an_empty_one_does_not() {
        let empty = recover(MemDisk::new(), settings(), rng());
        assert!(matches!(empty, Err(RecoveryError::Empty)));
        let found = recover(folder(), settings(), rng()).unwrap();
        assert_eq!((found.start.floor, found.start.entries.len()), (FIRST_MARK, 9));
        assert_eq!((found.start.snapshot, found.body), (first_snapshot(65_537), b"first".to_vec()));
        assert!(verify(&mut folder()).unwrap().is_empty());
    }

    #[test]
    fn a_bootstrap_cut_short_anywhere_can_be_repeated() {
        for calls in 0..30 {
            let disk = MemDisk::new();
            disk.crash_after(calls);
            let first = first_snapshot(65_537);
            let done = bootstrap(disk.clone(), settings(), rng(), first.clone(), b"first").is_ok();
            disk.restart(Stop::Random(calls));
            match recover(disk.clone(), settings(), rng()) {
                Ok(_) => continue,
                Err(RecoveryError::Empty) if !done => {}
                Err(other) => panic!("after {calls} calls: {other}"),
            }
            bootstrap(disk.clone(), settings(), rng(), first, b"first").unwrap();
            recover(disk, settings(), rng()).unwrap();
        }
    }

    #[test]
    fn a_snapshot_that_a_start_rests_on_stays_when_the_power_is_cut_after_it() {
        for calls in 0..30 {
            let disk = folder();
            disk.crash_after(calls);
            let taken = save(disk.clone(), SNAPSHOT_FOLDER, meta(50, 2), b"fifty").is_ok();
            disk.restart(Stop::Kill);
            let first = recover(disk.clone(), settings(), rng()).unwrap().body;
            disk.restart(Stop::LoseAll);
            let again = recover(disk.clone(), settings(), rng());
            let again = again.unwrap_or_else(|error| panic!("after {calls} calls: {error}")).body;
            assert!(first == again || !taken, "after {calls} calls");
        }
    }

    #[test]
    fn a_log_that_is_written_again_holds_the_same() {
        let mut disk = folder();
        let (mut content, damage) = log::read(&mut disk, LOG_FOLDER).unwrap();
        assert_eq!((content.entries.len(), damage), (9, None));
        content.entries[3].payload = Bytes::from_static(b"other");
        write_log(disk.clone(), "log-new", settings(), rng(), &content).unwrap();
        let (again, damage) = log::read(&mut disk, "log-new").unwrap();
        assert_eq!((again.floor, &again.entries, damage), (FIRST_MARK, &content.entries, None));
        assert_eq!(again.hard_state, content.hard_state);
    }

    #[test]
    fn a_damaged_newest_snapshot_gives_way_while_the_log_reaches_back() {
        let disk = folder();
        save(disk.clone(), SNAPSHOT_FOLDER, meta(8, 1), b"eight").unwrap();
        assert_eq!(recover(disk.clone(), settings(), rng()).unwrap().body, b"eight");
        disk.flip_bit(&snapshot_path(SNAPSHOT_FOLDER, 8), 4100, 0);
        let found = recover(disk.clone(), settings(), rng()).unwrap();
        assert_eq!((found.body, found.findings.len()), (b"first".to_vec(), 1));
        assert_eq!(verify(&mut disk.clone()).unwrap()[0].kind, FindingKind::SnapshotUnreadable);
        disk.flip_bit(&snapshot_path(SNAPSHOT_FOLDER, 1), 4100, 0);
        let lost = recover(disk, settings(), rng());
        assert!(matches!(lost, Err(RecoveryError::SnapshotLost { .. })), "{lost:?}");
    }

    #[test]
    fn a_node_that_lost_its_log_does_not_start() {
        let mut disk = folder();
        for path in disk.paths().iter().filter(|path| path.starts_with(LOG_FOLDER)) {
            disk.remove(path).unwrap();
        }
        let lost = recover(disk, settings(), rng());
        assert!(matches!(lost, Err(RecoveryError::LogLost { snapshot: 1 })), "{lost:?}");
    }

    #[test]
    fn a_snapshot_of_a_leader_takes_the_place_of_a_log_that_ends_before_or_differs() {
        for (mark, floor, entries) in [
            (Mark { index: 8, term: 1 }, FIRST_MARK, 9),
            (Mark { index: 8, term: 2 }, Mark { index: 8, term: 2 }, 0),
            (Mark { index: 50, term: 2 }, Mark { index: 50, term: 2 }, 0),
        ] {
            let disk = folder();
            save(disk.clone(), SNAPSHOT_FOLDER, meta(mark.index, mark.term), b"theirs").unwrap();
            for _ in 0..2 {
                let found = recover(disk.clone(), settings(), rng()).unwrap();
                assert_eq!((found.start.floor, found.start.entries.len()), (floor, entries));
                assert!(found.start.hard_state.term >= mark.term);
            }
        }
    }
}
