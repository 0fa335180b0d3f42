//! A State with three nodes and a history, to run jobs against: admission, plan, one entry.

use super::world::FakeWorld;
use crate::{Job, Run, find, needs};
use serde_json::{Value, json};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tiebeam_core::admit::check_params;
use tiebeam_core::genesis::Genesis;
use tiebeam_core::proposal::{Body, Header, Plan, Proposal, RunOnce, Submission};
use tiebeam_core::{Answer, Path, State, Tree};
use tiebeam_proto::record::{Change, CommandRecord, JobRecord, RequestFacts, Stages};
use tiebeam_proto::{Outcome, RpcError, time::Time};

pub(super) struct Cluster {
    pub state: State,
    pub world: Arc<FakeWorld>,
}

/// How a job ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub outcome: Outcome,
    pub text: String,
    pub output: Value,
    pub warnings: Vec<String>,
    pub change: Vec<Change>,
    pub revision: Option<u64>,
}

/// A plan that was made and not yet applied.
pub(super) struct Pending(pub RunOnce);

pub(super) fn p(text: &str) -> Path {
    Path::parse(text).unwrap()
}

/// A command's record.
pub(super) fn record(key: &str, node: u32, result: &str, output: &str) -> CommandRecord {
    let status = match result {
        "ok" => Some(0),
        "failed" => Some(3),
        _ => None,
    };
    CommandRecord {
        name: key.to_owned(),
        node,
        result: result.to_owned(),
        output: output.to_owned(),
        output_bytes: output.len() as u64,
        status,
        ..CommandRecord::default()
    }
}

/// The record of a part that has ended.
pub(super) fn part(id: &str, outcome: Outcome) -> JobRecord {
    let bad = outcome != Outcome::Ok;
    let result = json!({
        "result_code": outcome.code(),
        "result_desc": bad.then_some("not that one"),
        "result_output": (!bad).then_some(json!({"voters": 2})),
    });
    serde_json::from_value(json!({
        "format": 1, "job": id, "kind": "act", "mode": "immediate", "name": "part", "user": "root",
        "outcome": outcome, "parameters": {}, "request": RequestFacts::default(), "result": result,
        "scheduling": {"master": 11, "term": 1, "locks": [], "base_revision": 1, "waited_us": 0},
        "stages": {},
    }))
    .unwrap()
}

/// The fake world answers at once, so a job function never has to wait.
pub(super) fn run_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("the job waits for something that the world does not do");
}

impl Cluster {
    /// Nodes 11, 12 and 13 in racks a, a and b; users root and admin.
    pub fn new() -> Cluster {
        let genesis = Genesis {
            cluster_id: "c1".to_owned(),
            cluster_name: "test".to_owned(),
            node: (11, "n11".to_owned(), "127.0.0.11:20003".to_owned()),
            raft_id: 11 << 16,
            key_hash: "00".to_owned(),
            admin_hash: "$argon2id$admin".to_owned(),
            wall: Time(1_700_000_000_000_000),
        };
        let mut state = State::genesis(&genesis).unwrap();
        for (id, rack) in [(11, "a"), (12, "a"), (13, "b")] {
            let entry = json!({"id": id, "name": format!("n{id}"), "role": "voter",
                "address": format!("127.0.0.{id}:20003"), "labels": {"rack": rack},
                "affinity": 1, "added": genesis.wall});
            state.config = state.config.set(&State::node_path(id), &entry, 1).unwrap();
        }
        let cluster = Cluster { state, world: Arc::new(FakeWorld::default()) };
        cluster.keep(None);
        cluster
    }

    /// The same with users, a group and values, as the examples of the jobs name them.
    pub fn furnished() -> Cluster {
        let mut cluster = Cluster::new();
        for (job, params) in [
            ("group_create", json!({"groupname": "operators", "groupid": 2001})),
            ("user_create", json!({"username": "alice", "userid": 1001, "group": "exausers"})),
            ("config_set", json!({"path": "app/web", "value": {"port": 80, "debug": true}})),
        ] {
            cluster.exec("root", job, params).ok();
        }
        for revision in 5..=20 {
            let params = json!({"path": "app/count", "value": revision});
            cluster.exec("root", "config_set", params).ok();
        }
        cluster
    }

    fn keep(&self, record: Option<Arc<JobRecord>>) {
        let shown = self.state.config.root().to_value();
        let tree = Tree::new().set(&Path::root(), &shown, self.state.revision).unwrap();
        self.world.history.lock().unwrap().insert(self.state.revision, (record, tree));
    }

    /// Runs the job function alone. Panics if the parameters are refused.
    pub fn plan(&self, user: &str, job: &Job, params: Value, dry_run: bool) -> Plan {
        let params = check_params(&job.declaration, params.as_object().unwrap()).unwrap();
        let state = Arc::new(self.state.clone());
        *self.world.newest.lock().unwrap() = state.clone();
        let run = Run::new(user.to_owned(), params, state, self.world.clone());
        let result = run_now((job.run)(run.clone()));
        run.into_plan(result, dry_run)
    }

    /// Makes everything for one entry.
    pub fn prepare(&self, user: &str, job: &Job, params: Value) -> Result<Pending, RpcError> {
        let d = &job.declaration;
        let checked = check_params(d, params.as_object().unwrap())?;
        let submission: Submission = serde_json::from_value(json!({
            "name": d.name,
            "kind": d.kind,
            "user": user,
            "credential_revision": self.state.credential_revision(user).unwrap_or(0),
            "parameters": {},
            "request": {"protocol": "internal", "path": "", "peer": ""},
            "needs": needs(d, &checked),
            "locks": (d.locks)(&checked),
            "master": 11,
            "term": 1,
            "deadline_us": 60_000_000,
            "submitted": Time(1_750_000_000_000_000),
        }))
        .unwrap();
        let plan = self.plan(user, job, params, false);
        let at = Some(Time(1_750_000_000_000_000 + self.state.applied as i64));
        let times =
            Stages { submitted: at, scheduled: at, executed: at, finished: at, committed: None };
        Ok(Pending(RunOnce { submission, plan, times }))
    }

    /// Applies what was prepared; `None` if it was stale.
    pub fn apply(&mut self, pending: Pending) -> Option<Ended> {
        let header = Header { wall: Time(1), elapsed_us: 1000, proposer: 11 };
        let proposal = Proposal { header, body: Body::RunOnce(Box::new(pending.0)) };
        let proposal = Proposal::decode(&proposal.encode()).unwrap();
        let index = self.state.applied + 1;
        let (answer, _) = self.state.apply(index, 1, Some(&proposal));
        let record = match answer {
            Answer::Job { record: Some(record), .. } => record,
            Answer::Stale => return None,
            other => panic!("{other:?}"),
        };
        if record.result.result_revision.is_some() {
            self.keep(Some(record.clone()));
        }
        Some(Ended {
            outcome: record.outcome.unwrap(),
            text: record.result.result_desc.clone().unwrap_or_default(),
            output: record.result.result_output.as_deref().cloned().unwrap_or(Value::Null),
            warnings: record.result.result_warnings.clone(),
            change: record.change.to_vec(),
            revision: record.result.result_revision,
        })
    }

    pub fn exec_job(&mut self, user: &str, job: &Job, params: Value) -> Ended {
        let pending = self.prepare(user, job, params).unwrap();
        self.apply(pending).expect("nothing changed meanwhile")
    }

    pub fn exec(&mut self, user: &str, name: &str, params: Value) -> Ended {
        self.exec_job(user, find(name).unwrap(), params)
    }

    /// The refusal of a call that makes no job.
    pub fn refusal(&self, name: &str, params: Value) -> RpcError {
        match self.prepare("root", find(name).unwrap(), params) {
            Err(error) => error,
            Ok(_) => panic!("{name} was taken"),
        }
    }

    pub fn value(&self, path: &str) -> Option<Value> {
        self.state.config.value(&p(path))
    }
}

impl Ended {
    #[track_caller]
    pub fn ok(self) -> Ended {
        assert_eq!(self.outcome, Outcome::Ok, "{}", self.text);
        self
    }

    #[track_caller]
    pub fn ended(self, outcome: Outcome, text: &str) -> Ended {
        assert_eq!(self.outcome, outcome, "{}", self.text);
        assert!(self.text.contains(text), "{} does not say {text:?}", self.text);
        assert!(self.change.is_empty());
        self
    }
}
