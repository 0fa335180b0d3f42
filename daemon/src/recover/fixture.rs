//! Data folders for the tests of the offline commands, made without a daemon.

use crate::disk::{DataDisk, SystemRng};
use crate::durable::scratch::Folder;
use crate::history::{HistoryThread, Start};
use crate::init::{Init, init};
use crate::kept::Kept;
use serde_json::json;
use std::path::Path;
use tiebeam_core::proposal::{Body, Header, Plan, Proposal, RunOnce, Submission, Write};
use tiebeam_core::{State, fixture};
use tiebeam_proto::chain::Head;
use tiebeam_proto::record::Stages;
use tiebeam_proto::{Outcome, time::Time};
use tiebeam_replica::log::LogSettings;
use tiebeam_replica::membership::Membership;
use tiebeam_replica::recovery::{self, SNAPSHOT_FOLDER};
use tiebeam_replica::snapshot::{self, SnapshotMeta};
use tiebeam_replica::{Entry, EntryKind, Group, HardState, Mark};

/// Node 11, alone in cluster `prod`, as `init` makes it.
pub(crate) async fn node() -> Folder {
    let folder = Folder::new();
    let asked = Init {
        data: folder.path().to_owned(),
        node_id: 11,
        name: "n11".to_owned(),
        listen: "127.0.0.1:20003".parse().unwrap(),
        advertise: None,
        cluster: "prod".to_owned(),
        admin_password_file: None,
    };
    init(&asked).await.unwrap();
    folder
}

/// A change of `app/n<index>` by admin.
pub(crate) fn proposal(state: &State, index: u64) -> Proposal {
    let submission = Submission { master: 12, term: 3, ..fixture::submission(state) };
    let write = Write::Set { path: format!("app/n{index}"), value: json!(index) };
    let plan = Plan { error: None, writes: vec![write], ..Plan::ended(1, Outcome::Ok, "") };
    let run = RunOnce { submission, plan, times: Stages::default() };
    let header = Header { wall: Time(5), elapsed_us: 1, proposer: 12 };
    Proposal { header, body: Body::RunOnce(Box::new(run)) }
}

/// Appends entries of term 3 to the log, and says up to where they are committed.
pub(crate) fn append(data: &Path, payloads: Vec<Vec<u8>>, commit: u64) {
    let disk = DataDisk::new(data);
    let mut log = recovery::recover(disk, LogSettings::default(), Box::new(SystemRng)).unwrap().log;
    let next = log.last().index + 1;
    let entries = payloads.into_iter().zip(next..).map(|(payload, index)| Entry {
        index,
        term: 3,
        kind: EntryKind::Normal,
        payload: payload.into(),
    });
    let group = Group {
        hard_state: Some(HardState { term: 3, vote: 0, commit }),
        entries: entries.collect(),
        must_sync: true,
        ..Group::default()
    };
    log.append(&group).unwrap();
}

/// What a daemon does now and then: the history up to here, then a snapshot.
pub(crate) fn take_snapshot(data: &Path) {
    let replayed = Kept::read(data).unwrap().everything().unwrap();
    let from = Head { index: replayed.from.index, hash: replayed.from.head };
    let history = HistoryThread::spawn(&Start::at(data, Some(from))).unwrap();
    for record in &replayed.records {
        history.handle.archive(record.clone()).unwrap();
    }
    history.stop().unwrap();
    let state = &replayed.state;
    let membership = Membership::of_voters(state.voters().map(|(_, member)| member.raft_id));
    let mark = Mark { index: state.applied, term: state.term };
    let body = tiebeam_core::snapshot::encode(state);
    let meta = SnapshotMeta { mark, membership };
    snapshot::save(DataDisk::new(data), SNAPSHOT_FOLDER, meta, &body).unwrap();
}
