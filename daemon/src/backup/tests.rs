//! From a node to a file and from the file to another node, all of it without a daemon.

use super::*;
use crate::durable::scratch::Folder;
use crate::history::{HistoryThread, Start};
use crate::recover::fixture::{append, node, proposal, take_snapshot};
use crate::restore::{Restore, RestoreError, Restored, restore};
use serde_json::{Value, json};
use tiebeam_core::apply::incarnate::GAP;
use tiebeam_core::proposal::{Body, Committed, Header, Proposal};
use tiebeam_core::tree::sealed;
use tiebeam_core::{Path as ConfigPath, State};
use tiebeam_proto::time::Time;

/// A change and its committed stamp, `count` times.
fn changes(state: &State, first: u64, count: u64) -> Vec<Vec<u8>> {
    let one = |index| {
        let header = Header { wall: Time(9), elapsed_us: 1, proposer: 11 };
        let jobs = vec![state.last_job + 1 + index - first];
        let committed = Committed { jobs, time: Time(10), applied: vec![11], pending: Vec::new() };
        let stamp = Proposal { header, body: Body::Committed(committed) };
        [proposal(state, index).encode(), stamp.encode()]
    };
    (first..first + count).flat_map(one).collect()
}

/// A node whose records lie in a segment (3), and behind it in the log only (2).
async fn busy_node() -> Folder {
    let folder = node().await;
    let data = folder.path();
    let state = Kept::read(data).unwrap().everything().unwrap().state;
    append(data, changes(&state, 100, 3), 7);
    take_snapshot(data);
    let state = Kept::read(data).unwrap().everything().unwrap().state;
    append(data, changes(&state, 103, 2), 7);
    std::fs::create_dir(data.join("blobs")).unwrap();
    let blob = "ab".repeat(32);
    std::fs::write(data.join("blobs").join(blob), "output").unwrap();
    folder
}

fn passphrase(folder: &Folder, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, format!("{text}\n")).unwrap();
    path
}

fn asked(from: &Path, data: &Path) -> Restore {
    Restore {
        from: from.to_owned(),
        data: data.to_owned(),
        node_id: 31,
        name: "n31".to_owned(),
        listen: "127.0.0.1:20031".parse().unwrap(),
        advertise: None,
        passphrase_file: None,
        without_secrets: false,
    }
}

fn state_of(data: &Path) -> State {
    let own = Identity::read(data).unwrap().raft_id();
    Kept::read(data).unwrap().newest_committed(own).unwrap().state
}

/// The restored node's State and history, against the node that was backed up.
fn assert_restored(restored: &Restored, data: &Path, old: &State) {
    let state = state_of(data);
    assert_eq!(state, restored.state);
    assert_eq!((state.revision, state.last_job, state.cluster.incarnation), (GAP, GAP, 2));
    assert_eq!((state.cluster.id.as_str(), state.members.len()), (old.cluster.id.as_str(), 1));
    assert_eq!(state.chain.index, old.chain.index + 2, "the record of it, and a full tree");
    let history = HistoryThread::spawn(&Start::at(data, None)).unwrap();
    for nth in 1..=5_u64 {
        let record = history.history.job(&format!("12.{nth}")).unwrap().expect("an old job");
        assert_eq!(record.link.index, nth);
    }
    let record = history.history.job(&format!("31.{GAP}")).unwrap().expect("the restore");
    let record: Value = serde_json::from_slice(&record.canonical).unwrap();
    assert_eq!(record["parameters"]["backup"], json!(restored.digest));
    let tree = history.history.full_tree(GAP).unwrap().expect("a full tree");
    assert_eq!(tree.tree.config["app"]["n104"], json!(104));
    history.stop().unwrap();
}

#[tokio::test]
async fn what_is_backed_up_comes_back_on_another_node() {
    let (folder, place) = (busy_node().await, Folder::new());
    let old = state_of(folder.path());
    let words = passphrase(&place, "words", "correct horse battery");
    let (file, data) = (place.path().join("backup.tar"), place.path().join("data"));
    let wish = Backup {
        data: folder.path().to_owned(),
        to: file.clone(),
        passphrase_file: Some(words.clone()),
    };
    let made = backup(&wish).unwrap();
    let names: Vec<&str> = made.manifest.parts.iter().map(|part| part.name.as_str()).collect();
    let blob = format!("blobs/{}", "ab".repeat(32));
    let segment = "history/00000000000000000001.seg";
    let expected = ["state", segment, "records.jsonl", &blob, "ca.crt", "keys.sealed"];
    assert_eq!(names, expected);
    assert_eq!((made.manifest.segments_to, made.manifest.chain_index), (3, 5));
    assert!(matches!(backup(&wish), Err(BackupError::File(FileError::Exists(_)))));
    let wish = asked(&file, &data);
    assert!(matches!(restore(&wish), Err(RestoreError::NoPassphrase)));
    let wrong = Some(passphrase(&place, "wrong", "wrong horse battery"));
    let wrong = Restore { passphrase_file: wrong, ..wish.clone() };
    assert!(matches!(restore(&wrong), Err(RestoreError::Open(_))));
    assert!(!data.exists(), "nothing was begun");
    let wish = Restore { passphrase_file: Some(words), ..wish };
    let restored = restore(&wish).unwrap();
    assert_restored(&restored, &data, &old);
    assert!(!restored.new_ca);
    let text = |data: &Path, name: &str| std::fs::read_to_string(data.join("keys").join(name));
    for (name, same) in [("ca.crt", true), ("cluster.key", true), ("node.key", false)] {
        let is_same = text(&data, name).unwrap() == text(folder.path(), name).unwrap();
        assert_eq!(is_same, same, "{name}");
    }
    assert_eq!(std::fs::read_to_string(data.join(blob)).unwrap(), "output");
    assert!(matches!(restore(&wish), Err(RestoreError::NotEmpty(_))), "never into a used folder");
}

#[tokio::test]
async fn without_the_keys_sealed_secrets_are_taken_out() {
    let (folder, place) = (node().await, Folder::new());
    let data = folder.path();
    let mut state = Kept::read(data).unwrap().everything().unwrap().state;
    let at = ConfigPath::parse("app/password").unwrap();
    state.config = state.config.set(&at, &sealed("sealed1.1.x", "sha256:aa"), 1).unwrap();
    std::fs::remove_dir_all(data.join("snapshots")).unwrap();
    let meta = tiebeam_replica::recovery::first_snapshot(11 << 16 | 1);
    let body = tiebeam_core::snapshot::encode(&state);
    let disk = crate::disk::DataDisk::new(data);
    tiebeam_replica::snapshot::save(disk, "snapshots", meta, &body).unwrap();
    append(data, changes(&state, 100, 5), 2);
    let old = state_of(data);
    let file = place.path().join("backup.tar");
    let wish = Backup { data: data.to_owned(), to: file.clone(), passphrase_file: None };
    let made = backup(&wish).unwrap();
    assert!(!made.manifest.keys);
    let to = place.path().join("data");
    let wish = asked(&file, &to);
    assert!(matches!(restore(&wish), Err(RestoreError::NoKeys)));
    let restored = restore(&Restore { without_secrets: true, ..wish }).unwrap();
    assert!(restored.new_ca && restored.state.config.get(&at).is_none());
    assert_eq!(
        restored.state.config.value(&ConfigPath::parse("app/n103").unwrap()),
        Some(json!(103))
    );
    assert_eq!(restored.state.chain.index, old.chain.index + 2);
}

#[tokio::test]
async fn a_backup_that_is_not_whole_is_refused_before_anything_is_written() {
    let (folder, place) = (busy_node().await, Folder::new());
    let file = place.path().join("backup.tar");
    let wish = Backup { data: folder.path().to_owned(), to: file.clone(), passphrase_file: None };
    backup(&wish).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let data = place.path().join("data");
    let wish = Restore { without_secrets: true, ..asked(&file, &data) };
    // Cut anywhere, or one bit turned anywhere but in the padding.
    for cut in [0, 100, 600, bytes.len() / 2, bytes.len() - 2_000] {
        std::fs::write(&file, &bytes[..cut]).unwrap();
        assert!(matches!(restore(&wish), Err(RestoreError::File(_))), "cut at {cut}");
    }
    let inside = ["tiebeam state", "config_set", "BEGIN CERTIFICATE", "\"sha256\"", "records.j"];
    for word in inside {
        let found = bytes.windows(word.len()).position(|window| window == word.as_bytes());
        let mut turned = bytes.clone();
        turned[found.expect("it is in there")] ^= 1;
        std::fs::write(&file, &turned).unwrap();
        assert!(restore(&wish).is_err(), "{word}");
        assert!(!data.exists(), "{word}");
    }
    std::fs::write(&file, &bytes).unwrap();
    restore(&wish).unwrap();
}

#[tokio::test]
async fn a_node_with_a_gap_in_its_history_is_not_backed_up() {
    let folder = busy_node().await;
    let segments = folder.path().join("history");
    std::fs::remove_file(segments.join("00000000000000000001.seg")).unwrap();
    let to = folder.path().join("backup.tar");
    let wish = Backup { data: folder.path().to_owned(), to: to.clone(), passphrase_file: None };
    let refused = backup(&wish);
    assert!(matches!(refused, Err(BackupError::NotWhole(_))), "{refused:?}");
    assert!(!to.exists());
}
