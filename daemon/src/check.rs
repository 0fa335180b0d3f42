//! `tiebeamd check`: verifies a stopped node's log, snapshots, history and chain, offline, and
//! says in words what is wrong. It changes nothing.

use crate::disk::DataDisk;
use crate::history::{HistoryError, Report, verify_behind, verify_segments};
use crate::hygiene::{self, HygieneError};
use crate::identity::{Identity, IdentityError};
use crate::kept::{Kept, KeptError, Replayed};
use std::path::Path;
use tiebeam_core::State;
use tiebeam_core::state::Chain;
use tiebeam_proto::chain::Head;
use tiebeam_proto::{canonical::hex, chain};
use tiebeam_replica::log::{self, FindingKind, LogError};
use tiebeam_replica::recovery::{LOG_FOLDER, SNAPSHOT_FOLDER};
use tiebeam_replica::seams::Disk;
use tiebeam_replica::snapshot::{self, SnapshotError, SnapshotMeta};

/// Why a folder cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A daemon runs on it, or it is not the caller's.
    #[error("the folder cannot be checked now")]
    Folder(#[source] HygieneError),
    /// It is no node's.
    #[error("this is no node's data folder")]
    Identity(#[source] IdentityError),
    /// A file could not be read.
    #[error("the snapshots cannot be read")]
    Snapshots(#[source] SnapshotError),
    /// A file could not be read.
    #[error("the log cannot be read")]
    Log(#[source] LogError),
    /// A file could not be read.
    #[error("the history cannot be read")]
    History(#[source] HistoryError),
    /// Snapshot and log, each sound, do not make a State.
    #[error("snapshot and log do not lead to a State")]
    Replay(#[source] KeptError),
    /// State cannot be had at the index.
    #[error("there is no digest of this node's State")]
    Digest(#[source] KeptError),
}

/// Prints what must be equal on all nodes at the same index: State, configuration, chain. Without
/// an index it is the newest one that this node can prove to be committed.
///
/// # Errors
/// The index is not kept, not known to be committed, or the folder is in use or damaged.
pub fn digest(data: &Path, at: Option<u64>) -> Result<(), CheckError> {
    let identity = Identity::read(data).map_err(CheckError::Identity)?;
    let _lock = hygiene::take_folder(data).map_err(CheckError::Folder)?;
    let own = identity.raft_id();
    let replayed = Kept::read(data).and_then(|kept| match at {
        Some(index) => kept.committed_at(index, own),
        None => kept.newest_committed(own),
    });
    print!("{}", lines(&replayed.map_err(CheckError::Digest)?.state));
    Ok(())
}

/// One line for each thing, without a word about the node: lines of several nodes can be compared.
fn lines(state: &State) -> String {
    format!(
        "applied {}\nstate {}\nrevision {} {}\nchain {} {}\n",
        state.applied,
        chain::to_text(&state.digest()),
        state.revision,
        chain::to_text(&state.config.hash()),
        state.chain.index,
        chain::to_text(&state.chain.head),
    )
}

/// Prints what was checked and what is wrong; true if nothing is.
///
/// # Errors
/// Something cannot be read at all.
pub fn check(data: &Path) -> Result<bool, CheckError> {
    let identity = Identity::read(data).map_err(CheckError::Identity)?;
    let _lock = hygiene::take_folder(data).map_err(CheckError::Folder)?;
    println!("node {} ({}) of cluster {}", identity.node_id, identity.name, identity.cluster_id);
    let (snapshots, newest) = check_snapshots(data)?;
    let log = check_log(data)?;
    let alone = newest.as_ref().is_none_or(|newest| newest.is_alone(&identity));
    let chain = newest.as_ref().map(|newest| newest.chain);
    let (history, report) = check_history(data, chain, alone)?;
    let mut sound = snapshots && log && history;
    if sound {
        sound = check_ends(data, &identity, newest.as_ref(), report.as_ref())?;
    }
    let gaps = report.is_some_and(|report| !report.gaps.is_empty());
    let verdict = match (sound, gaps) {
        (false, _) => "something is wrong: see above",
        (true, true) => "nothing is wrong; the history is not complete: see above",
        (true, false) => "everything is sound",
    };
    println!("{verdict}");
    Ok(sound)
}

/// The newest whole snapshot.
struct Newest {
    meta: SnapshotMeta,
    /// The chain as it has it.
    chain: Chain,
}

impl Newest {
    /// Whether this node is the only voter.
    fn is_alone(&self, identity: &Identity) -> bool {
        self.meta.membership.is_only_voter(identity.raft_id())
    }
}

/// Whether the snapshots are sound, and the newest whole one.
fn check_snapshots(data: &Path) -> Result<(bool, Option<Newest>), CheckError> {
    let mut disk = DataDisk::new(data);
    let mut sound = true;
    let names = disk.list(SNAPSHOT_FOLDER).unwrap_or_default();
    let mut newest: Option<Newest> = None;
    for name in names.iter().filter(|name| !name.ends_with(".tmp")) {
        let path = format!("{SNAPSHOT_FOLDER}/{name}");
        match snapshot::read(&mut disk, &path) {
            Ok(snapshot) => match tiebeam_core::snapshot::decode(&snapshot.body) {
                Ok(state) => {
                    let mark = snapshot.meta.mark;
                    newest = newest
                        .filter(|other| other.meta.mark.index > mark.index)
                        .or(Some(Newest { meta: snapshot.meta, chain: state.chain }));
                    println!(
                        "snapshot {path}: sound; index {}, revision {}, root sha256:{}, chain {} \
                         {}",
                        state.applied,
                        state.revision,
                        hex(&state.config.hash()),
                        state.chain.index,
                        chain::to_text(&state.chain.head),
                    );
                }
                Err(error) => {
                    sound = false;
                    println!("snapshot {path}: WRONG: {}", crate::report::chain(&error));
                }
            },
            Err(SnapshotError::Damaged { path, what }) => {
                sound = false;
                println!("snapshot {path}: WRONG: {what}");
            }
            Err(error) => return Err(CheckError::Snapshots(error)),
        }
    }
    if newest.is_none() {
        sound = false;
        println!("snapshots: WRONG: there is no readable one");
    }
    Ok((sound, newest))
}

/// Whether nothing is in a folder, or there is none.
fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

fn check_log(data: &Path) -> Result<bool, CheckError> {
    let mut disk = DataDisk::new(data);
    let findings = log::verify(&mut disk, LOG_FOLDER).map_err(CheckError::Log)?;
    // `init` makes the first segment, and compaction never drops the last one.
    let mut sound = !is_empty(&data.join(LOG_FOLDER));
    if !sound {
        println!("log: WRONG: it is gone; what this node acknowledged cannot be known");
    }
    for finding in &findings {
        let harmless = finding.kind < FindingKind::SnapshotUnreadable;
        sound &= harmless;
        let word = if harmless { "note" } else { "WRONG" };
        println!("log {} at byte {}: {word}: {}", finding.path, finding.offset, finding.what);
    }
    if sound {
        println!("log: sound");
    }
    Ok(sound)
}

/// A snapshot is written only when the history is durable up to it: `chain` says what must be
/// there, and what stood before a cut. A gap of a member of several is no damage: the other members
/// have its records, and the hashes on both sides of it pin them.
fn check_history(
    data: &Path,
    chain: Option<Chain>,
    alone: bool,
) -> Result<(bool, Option<Report>), CheckError> {
    let folder = data.join("history");
    if !folder.exists() && chain.is_some_and(|chain| chain.index == 0) {
        // `init` makes no history; the first start does.
        println!("history: no records yet");
        return Ok((true, None));
    }
    let Chain { floor_index, floor_previous, index, .. } = chain.unwrap_or_default();
    let begin = Head { index: floor_index.max(1) - 1, hash: floor_previous };
    let report = match chain {
        Some(_) => verify_behind(&folder, begin),
        None => verify_segments(&folder, None),
    };
    let mut report = report.map_err(CheckError::History)?;
    if chain.is_some() {
        report.require(floor_index, index.max(report.to));
    }
    for problem in &report.problems {
        println!("history {}: WRONG: {}", problem.path.display(), problem.what);
    }
    let sound = report.problem_count == 0 && (report.gaps.is_empty() || !alone);
    for (from, to) in &report.gaps {
        let word = if alone { "WRONG" } else { "gap" };
        println!("history: {word}: {}", crate::facts::missing(*from, *to, alone));
    }
    if report.pruned > 0 {
        println!("history: {} records of reads are pruned: their hashes are here", report.pruned);
    }
    println!(
        "history: {} records in {} segments, {} to {}, head {}{}",
        report.records,
        report.segments,
        report.from,
        report.to,
        report.head,
        match (sound, report.gaps.is_empty()) {
            (false, _) => "",
            (true, true) => ": the chain is unbroken",
            (true, false) => ": the chain is unbroken but for the gaps",
        }
    );
    Ok((sound, Some(report)))
}

/// Whether log and history, each sound in itself, reach as far as they must. A part that is gone as
/// a whole leaves no wrong byte behind, so one is measured by the other.
fn check_ends(
    data: &Path,
    identity: &Identity,
    newest: Option<&Newest>,
    history: Option<&Report>,
) -> Result<bool, CheckError> {
    let (log, _) = log::read(&mut DataDisk::new(data), LOG_FOLDER).map_err(CheckError::Log)?;
    let (last, mark) = (log.last().index, newest.map_or(0, |newest| newest.meta.mark.index));
    let alone = newest.is_some_and(|newest| newest.is_alone(identity));
    if last < mark && alone {
        println!(
            "log: WRONG: it ends at index {last}, before the snapshot at {mark}: its end is lost"
        );
        return Ok(false);
    }
    if last < mark {
        println!("log: note: it begins anew behind the snapshot at {mark}, which the master sent");
    }
    let replayed = Kept::read(data).and_then(|kept| kept.everything());
    let replayed = replayed.map_err(CheckError::Replay)?;
    let wrong = history.and_then(|history| beyond(&replayed, history));
    if let Some(what) = &wrong {
        println!("{what}");
    }
    Ok(wrong.is_none())
}

/// What the history has that snapshot and log do not lead to.
fn beyond(replayed: &Replayed, history: &Report) -> Option<String> {
    let chain = replayed.head().index;
    if history.to > chain {
        return Some(format!(
            "log: WRONG: it has lost its end: the history has records up to {}, snapshot and log \
             only up to {chain}",
            history.to
        ));
    }
    let made = replayed.records.iter().find(|record| record.link.index == history.to);
    let made = made.map(|record| record.link.this.clone());
    let kept = (history.to == replayed.from.index).then(|| chain::to_text(&replayed.from.head));
    let expected = made.or(kept)?;
    (expected != history.head).then(|| {
        format!(
            "history: WRONG: record {} is {}, snapshot and log make it {expected}",
            history.to, history.head
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{Init, init};

    #[tokio::test]
    async fn a_log_that_is_gone_is_not_sound() {
        let data = std::env::temp_dir().join(format!("tiebeam-check-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data);
        let asked = Init {
            data: data.clone(),
            node_id: 11,
            name: "n11".to_owned(),
            listen: "127.0.0.1:20003".parse().unwrap(),
            advertise: None,
            cluster: "check".to_owned(),
            admin_password_file: None,
        };
        init(&asked).await.unwrap();
        assert!(check(&data).unwrap());
        std::fs::remove_dir_all(data.join(LOG_FOLDER)).unwrap();
        std::fs::create_dir(data.join(LOG_FOLDER)).unwrap();
        assert!(!check(&data).unwrap());
        std::fs::remove_dir_all(&data).unwrap();
    }

    #[test]
    fn a_gap_is_no_damage_where_another_voter_can_fill_it() {
        use crate::history::fixture::{Folder, Maker};
        use crate::history::{HistoryThread, Start};
        let (folder, mut maker) = (Folder::new(), Maker::new());
        let records = maker.jobs(30);
        let write = |start: &Start, of: std::ops::Range<usize>| {
            let thread = HistoryThread::spawn(start).unwrap();
            of.clone().for_each(|at| thread.handle.archive(records[at].clone()).unwrap());
            thread.handle.sync_to(of.end as u64).unwrap();
            thread.stop().unwrap();
        };
        let head = |index: usize| Head {
            index: index as u64,
            hash: chain::from_text(&records[index - 1].link.this).unwrap(),
        };
        write(&Start::at(folder.path(), None), 0..10);
        write(&Start::behind(folder.path(), head(20)), 20..30);
        let chain = Chain { index: 30, head: head(30).hash, ..Chain::default() };
        let looked = |alone: bool| check_history(folder.path(), Some(chain), alone).unwrap();
        let (sound, report) = looked(false);
        assert_eq!((sound, report.unwrap().gaps), (true, vec![(11, 20)]));
        assert!(!looked(true).0, "nobody else has them");
        let segment = std::fs::read_dir(folder.path().join("history")).unwrap();
        let mut segments: Vec<_> = segment.map(|entry| entry.unwrap().path()).collect();
        segments.retain(|path| path.extension().is_some_and(|end| end == "seg"));
        segments.sort();
        let mut bytes = std::fs::read(&segments[0]).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&segments[0], bytes).unwrap();
        assert!(!looked(false).0, "a wrong byte is wrong all the same");
    }
}
