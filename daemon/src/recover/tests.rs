//! A folder of a node of three whose two others are gone, and what becomes of it.

use super::fixture::{append, node, proposal};
use super::skip::{SkipEntry, SkipError, Skipped, skip_entry};
use super::*;
use crate::durable::scratch::Folder;
use crate::kept::Kept;
use serde_json::Value;
use tiebeam_core::apply::incarnate::GAP;
use tiebeam_core::state::Member;
use tiebeam_replica::recovery::{FIRST_MARK, LOG_FOLDER};

/// Entries of the log that are known to be committed, and those that are not.
const COMMITTED: u64 = 6;
const LAST: u64 = 9;

/// Node 11 of 11, 12 and 13, with entries up to [`LAST`] in its log.
async fn of_three() -> Folder {
    let folder = node().await;
    let data = folder.path().to_owned();
    let mut state = Kept::read(&data).unwrap().everything().unwrap().state;
    for node in [12_u32, 13] {
        let raft_id = u64::from(node) << 16 | 1;
        let key_hash = format!("sha256:{node}");
        let member = Member { raft_id, key_hash, voter: true, joining: false, since: 1 };
        state.members.insert(node, member);
        let entry = json!({"id": node, "name": format!("n{node}"), "role": "voter"});
        state.config = state.config.set(&State::node_path(node), &entry, 1).unwrap();
    }
    for name in [LOG_FOLDER, SNAPSHOT_FOLDER] {
        std::fs::remove_dir_all(data.join(name)).unwrap();
    }
    let members = state.members.values().map(|member| member.raft_id);
    let meta = SnapshotMeta { mark: FIRST_MARK, membership: Membership::of_voters(members) };
    let body = tiebeam_core::snapshot::encode(&state);
    let disk = DataDisk::new(&data);
    recovery::bootstrap(disk, LogSettings::default(), Box::new(SystemRng), meta, &body).unwrap();
    let entries = (2..=LAST).map(|index| proposal(&state, index).encode()).collect();
    append(&data, entries, COMMITTED);
    folder
}

fn asked(folder: &Folder) -> OnlyVoter {
    let data = folder.path().to_owned();
    OnlyVoter { data, cluster: Some("prod".to_owned()), new_ca: false }
}

/// What must hold of a folder that was recovered, however often it took.
fn assert_recovered(folder: &Folder, steps: &str) {
    let data = folder.path();
    let identity = Identity::read(data).unwrap();
    assert_eq!((identity.incarnation, identity.node_id), (2, 11), "{steps}");
    let kept = Kept::read(data).unwrap();
    let state = kept.newest_committed(identity.raft_id()).unwrap().state;
    assert_eq!(state.applied, LAST + 1, "{steps}");
    assert_eq!(state.members.keys().copied().collect::<Vec<_>>(), [11]);
    assert_eq!((state.cluster.incarnation, state.revision, state.last_job), (2, GAP, GAP));
    for index in 2..=LAST {
        let at = tiebeam_core::Path::parse(&format!("app/n{index}")).unwrap();
        assert_eq!(state.config.value(&at), Some(json!(index)), "{steps}: entry {index}");
    }
    let mut report = verify_segments(&data.join("history"), None).unwrap();
    report.require(1, state.chain.index);
    assert_eq!((report.problem_count, &report.gaps), (0, &Vec::new()), "{steps}: {report:?}");
    assert_eq!(report.head, chain::to_text(&state.chain.head), "{steps}");
    let certificate = ca::read_certificate(data, ca::NODE_CERTIFICATE).unwrap();
    let summary = crate::certificate::summaries_from_pem(&certificate).unwrap().remove(0);
    assert!(summary.sans.iter().any(|san| san.ends_with("/node/11/2")), "{:?}", summary.sans);
    assert!(Keys::load(data).unwrap().cluster.newest() > 1, "the others have the old key");
    assert!(matches!(only_voter(&asked(folder)), Err(RecoverError::OnlyVoter)));
}

#[tokio::test]
async fn the_last_of_three_goes_on_alone_with_all_that_its_log_holds() {
    let folder = of_three().await;
    let wrong = OnlyVoter { cluster: Some("test".to_owned()), ..asked(&folder) };
    assert!(matches!(only_voter(&wrong), Err(RecoverError::Confirm(_))));
    assert!(Identity::read(folder.path()).is_ok(), "nothing was begun");
    let outcome = only_voter(&asked(&folder)).unwrap();
    assert_eq!(outcome.identity.incarnation, 2);
    assert_recovered(&folder, "at once");
    let history = HistoryThread::spawn(&Start::at(folder.path(), None)).unwrap();
    let record = history.history.job(&format!("11.{GAP}")).unwrap().expect("the record of it");
    let record: Value = serde_json::from_slice(&record.canonical).unwrap();
    let parameters = &record["parameters"];
    assert_eq!(parameters["dropped"], json!([12, 13]));
    assert_eq!(parameters["uncertain_entries"], json!(LAST - COMMITTED));
    assert_eq!(parameters["by"], json!(os_user()));
    history.stop().unwrap();
}

#[tokio::test]
async fn interrupted_after_any_step_it_is_run_again_to_its_end() {
    let steps = [
        "recover.mark.after",
        "recover.history.after",
        "recover.keys.after",
        "recover.snapshot.after",
        "recover.log.after",
        "recover.identity.after",
    ];
    for step in steps {
        let folder = of_three().await;
        for _ in 0..2 {
            // Also twice at the same place, if it gets there again.
            let stopped = carry_out(&asked(&folder), &mut |at| match at == step {
                true => Err(RecoverError::Stopped(at)),
                false => Ok(()),
            });
            match stopped {
                Err(RecoverError::Stopped(_)) => {
                    let unfinished = Identity::read(folder.path());
                    assert!(matches!(unfinished, Err(IdentityError::Unfinished(_))), "{step}");
                }
                Ok(_) => break,
                Err(other) => panic!("{step}: {other}"),
            }
        }
        if folder.path().join(identity::UNFINISHED).exists() {
            only_voter(&asked(&folder)).unwrap();
        }
        assert_recovered(&folder, step);
    }
}

#[tokio::test]
async fn a_learner_without_the_key_of_the_authority_makes_a_new_one() {
    let folder = of_three().await;
    std::fs::remove_file(folder.path().join("keys/ca.key")).unwrap();
    assert!(matches!(only_voter(&asked(&folder)), Err(RecoverError::NoAuthority)));
    let old = ca::read_certificate(folder.path(), ca::CA_CERTIFICATE).unwrap();
    only_voter(&OnlyVoter { new_ca: true, ..asked(&folder) }).unwrap();
    assert_ne!(ca::read_certificate(folder.path(), ca::CA_CERTIFICATE).unwrap(), old);
    assert_recovered(&folder, "new CA");
}

#[tokio::test]
async fn an_entry_that_nobody_can_apply_is_passed_over_with_a_record() {
    let folder = of_three().await;
    let data = folder.path().to_owned();
    append(&data, vec![b"\x09no proposal".to_vec(), b"\x01more".to_vec()], LAST + 2);
    let ask = |index| {
        let asked = SkipEntry { data: data.clone(), index, cluster: Some("prod".to_owned()) };
        skip_entry(&asked)
    };
    assert!(matches!(Kept::read(&data).unwrap().everything(), Err(KeptError::Entry { .. })));
    assert!(matches!(ask(1), Err(SkipError::Applied { snapshot: 1, .. })));
    assert!(matches!(ask(50), Err(SkipError::NoEntry { last, .. }) if last == LAST + 2));
    let Skipped::Now { digest, kept } = ask(LAST + 1).unwrap() else { panic!("skipped before") };
    assert!(data.join(kept).is_dir(), "the old log is kept");
    assert_eq!(ask(LAST + 1).unwrap(), Skipped::Before { digest: digest.clone() });
    ask(LAST + 2).unwrap();
    let replayed = Kept::read(&data).unwrap().everything().unwrap();
    assert_eq!(replayed.state.applied, LAST + 2);
    let records: Vec<Value> = replayed
        .records
        .iter()
        .map(|record| serde_json::from_slice(&record.canonical).unwrap())
        .filter(|record: &Value| record["audit"] == "entry_skipped")
        .collect();
    assert_eq!(records.len(), 2);
    assert!(records[0]["object"].as_str().unwrap().contains(&digest), "{records:?}");
}
