//! The clients: each makes one call after the other, retries what may be retried, and remembers
//! what it was told. What they saw of registers goes into the observer's notes.

use super::ledger::Acknowledged;
use super::linear::{Act, Observed, Seen};
use super::plant::Plant;
use super::simulation::{Event, Simulation};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{ErrorCode, Outcome, RpcError};

/// How long a client waits for an answer, in microseconds.
const PATIENCE_US: u64 = 400_000;
/// Times that a client sends the same call.
const ATTEMPTS_MAX: u32 = 12;
/// The registers: leaves below `app` that clients read and write.
pub(super) const REGISTERS: [&str; 4] = ["app/a", "app/b", "app/deep/c", "app/deep/d"];
/// Names of users that come and go.
const USERS: [&str; 4] = ["u0", "u1", "u2", "u3"];

/// A call as a client sends it.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) job: &'static str,
    pub(super) params: Map<String, Value>,
    pub(super) user: String,
    pub(super) request_id: Option<String>,
    pub(super) volatile: bool,
}

/// What a client is told.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// The job ended.
    Done(Arc<JobRecord>),
    /// A volatile read found this.
    Read(Option<Value>),
    /// There is no job.
    Error(RpcError),
    /// The connection broke, or nothing came in time.
    Lost,
}

/// A call that is under way.
#[derive(Clone, Debug)]
struct Operation {
    request: Arc<Request>,
    register: Option<(&'static str, Act)>,
    called: u64,
    attempt: u64,
    attempts: u32,
    /// An attempt may have taken effect without an answer.
    unknown: bool,
}

/// A client.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    operation: Option<Operation>,
    /// Calls that it still makes.
    left: u32,
    /// Registers that it still reads once, at the end.
    pub(super) last_reads: Vec<&'static str>,
}

impl Client {
    /// One that makes this many calls.
    pub(super) fn new(left: u32) -> Client {
        Client { left, ..Client::default() }
    }

    /// Whether it makes no more calls.
    pub(super) fn is_done(&self) -> bool {
        self.operation.is_none() && self.left == 0 && self.last_reads.is_empty()
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

impl Simulation {
    /// A client makes its next call, if it has one left.
    pub(super) fn client_calls(&mut self, client: usize) {
        let one = &mut self.clients[client];
        if one.operation.is_some() {
            return;
        }
        let (request, register) = if let Some(path) = one.last_reads.pop() {
            read_of(path, true)
        } else if one.left > 0 {
            one.left -= 1;
            self.draw()
        } else {
            return;
        };
        let operation = Operation {
            request: Arc::new(request),
            register,
            called: self.number(),
            attempt: 0,
            attempts: 0,
            unknown: false,
        };
        self.clients[client].operation = Some(operation);
        self.send(client);
    }

    /// Sends the client's call, for the first time or again.
    fn send(&mut self, client: usize) {
        let attempt = self.number();
        let Some(operation) = &mut self.clients[client].operation else { return };
        operation.attempt = attempt;
        operation.attempts += 1;
        let request = operation.request.clone();
        self.trace(|| format!("client {client} calls {} {:?}", request.job, request.params));
        let delay = 50 + self.rng.below(400);
        self.after(delay, Event::Arrive { client, attempt, request });
        self.after(PATIENCE_US, Event::Impatient { client, attempt });
    }

    /// Tells a client, unless it has given this attempt up.
    pub(super) fn reply(&mut self, client: usize, attempt: u64, reply: Reply) {
        let Some(mut operation) = self.clients[client].operation.take() else { return };
        if operation.attempt != attempt {
            self.clients[client].operation = Some(operation);
            return;
        }
        self.trace(|| format!("client {client} is told {}", shortly(&reply)));
        let again = match &reply {
            Reply::Lost => {
                operation.unknown = true;
                operation.request.request_id.is_some()
            }
            Reply::Error(error) => {
                matches!(error.code, ErrorCode::NoMaster | ErrorCode::TooBusy)
            }
            Reply::Done(_) | Reply::Read(_) => false,
        };
        if again && operation.attempts < ATTEMPTS_MAX {
            self.clients[client].operation = Some(operation);
            let delay = 2_000 + self.rng.below(20_000);
            return self.after(delay, Event::Again { client, attempt });
        }
        self.note(operation, &reply);
        let pause = self.rng.below(4_000);
        self.after(pause, Event::Client(client));
    }

    /// Sends an attempt again, unless it was given up.
    pub(super) fn client_again(&mut self, client: usize, attempt: u64) {
        let operation = self.clients[client].operation.as_ref();
        if operation.is_some_and(|operation| operation.attempt == attempt) {
            self.send(client);
        }
    }

    /// Notes what came of a call.
    fn note(&mut self, operation: Operation, reply: &Reply) {
        if let Reply::Done(record) = reply {
            self.acknowledge(record);
        }
        let Some((path, act)) = operation.register else { return };
        let seen = match reply {
            Reply::Done(record) => seen(record, &act),
            Reply::Read(found) => Some(Seen::Value(found.as_ref().and_then(|v| v["n"].as_u64()))),
            Reply::Error(_) if operation.unknown => Some(Seen::Unknown),
            Reply::Error(_) => None,
            Reply::Lost => Some(Seen::Unknown),
        };
        let Some(seen) = seen else { return };
        let returned = if seen == Seen::Unknown { u64::MAX } else { self.number() };
        if let Seen::Done(Some(revision)) = seen {
            self.revisions.insert(path, revision);
        }
        let observed = Observed { called: operation.called, returned, act, seen };
        self.ledger.registers.entry(path.to_owned()).or_default().push(observed);
    }

    fn acknowledge(&mut self, record: &JobRecord) {
        let revision = record.result.result_revision;
        let ledger = &mut self.ledger;
        ledger.acknowledged.push(Acknowledged {
            job: record.job.clone(),
            outcome: record.outcome.unwrap_or(Outcome::Indeterminate),
            revision,
            hash: revision.and_then(|revision| ledger.revisions.get(&revision).copied()),
        });
        ledger.acknowledged_revision = ledger.acknowledged_revision.max(revision.unwrap_or(0));
    }

    /// Draws a call.
    fn draw(&mut self) -> (Request, Option<(&'static str, Act)>) {
        let number = self.number();
        let path = REGISTERS[self.rng.below(4) as usize];
        let (mut request, register) = match self.rng.below(20) {
            0..=6 => self.draw_set(path, number),
            7 => (call("config_delete", json!({"path": path})), Some((path, Act::Delete))),
            8..=11 => read_of(path, true),
            12 => read_of(path, false),
            13 => (Request { volatile: true, ..call("node_list", json!({})) }, None),
            14 | 15 => (self.draw_user(number), None),
            16 => {
                let user = USERS[self.rng.below(4) as usize];
                (call("user_delete", json!({"username": user})), None)
            }
            17 => {
                let group = format!("g{}", self.rng.below(6));
                let id = 3_000 + self.rng.below(6);
                (call("group_create", json!({"groupname": group, "groupid": id})), None)
            }
            18 => {
                let (wait, deadline) = (self.rng.below(2_000), 1 + self.rng.below(60));
                let changes = json!({"jobs": {"commit_wait_ms": wait, "deadline_s": deadline}});
                (call("general_settings", json!({"changes": changes})), None)
            }
            _ => (self.draw_rollback(), None),
        };
        if self.rng.one_in(8) {
            request.user = USERS[self.rng.below(4) as usize].to_owned();
        }
        if !request.volatile && !self.rng.one_in(3) {
            request.request_id = Some(self.draw_request_id(number));
        }
        (request, register)
    }

    fn draw_request_id(&mut self, number: u64) -> String {
        if self.settings.plant == Some(Plant::ReuseRequestId) {
            return format!("request-{}", self.rng.below(30));
        }
        format!("request-{number}")
    }

    fn draw_set(
        &mut self,
        path: &'static str,
        number: u64,
    ) -> (Request, Option<(&'static str, Act)>) {
        let pad = "x".repeat(self.rng.below(120) as usize);
        let mut params = json!({"path": path, "value": {"n": number, "pad": pad}});
        let expect = if self.rng.one_in(2) {
            Some(self.revisions.get(path).copied().unwrap_or(0))
        } else {
            None
        };
        if let Some(revision) = expect {
            params["expect_revision"] = json!(revision);
        }
        (call("config_set", params), Some((path, Act::Set { value: number, expect })))
    }

    fn draw_user(&mut self, number: u64) -> Request {
        let at = self.rng.below(4);
        let password = format!("canary-{number}");
        self.ledger.secrets.insert(password.clone());
        let params = json!({
            "username": USERS[at as usize],
            "userid": 2_000 + at,
            "group": if self.rng.one_in(2) { "exaadm" } else { "exausers" },
            "password": password,
        });
        call("user_create", params)
    }

    fn draw_rollback(&mut self) -> Request {
        let newest = self.ledger.acknowledged_revision.max(1);
        let revision = 1 + self.rng.below(newest);
        call("config_rollback", json!({"revision": revision, "path": "users"}))
    }
}

fn call(job: &'static str, params: Value) -> Request {
    Request {
        job,
        params: object(params),
        user: "admin".to_owned(),
        request_id: None,
        volatile: false,
    }
}

fn read_of(path: &'static str, volatile: bool) -> (Request, Option<(&'static str, Act)>) {
    let request = Request { volatile, ..call("config_get", json!({"path": path})) };
    (request, Some((path, Act::Read)))
}

/// What a record tells of a register; nothing if the job did not take effect.
fn seen(record: &JobRecord, act: &Act) -> Option<Seen> {
    let output = &record.result.result_output;
    let text = record.result.result_desc.as_deref().unwrap_or_default();
    match (record.outcome?, act) {
        (Outcome::Ok, Act::Read) => {
            Some(Seen::Value(output.as_ref().and_then(|value| value["n"].as_u64())))
        }
        (Outcome::Failed, Act::Read) if text.starts_with("there is nothing") => {
            Some(Seen::Value(None))
        }
        (Outcome::Ok, _) => Some(Seen::Done(record.result.result_revision)),
        (Outcome::Conflict, Act::Set { expect: Some(_), .. })
            if text.starts_with("the last change") =>
        {
            Some(Seen::Conflict)
        }
        _ => None,
    }
}

fn shortly(reply: &Reply) -> String {
    match reply {
        Reply::Done(record) => format!(
            "{} {} revision {:?} {}",
            record.job,
            record.outcome.map_or("none", Outcome::name),
            record.result.result_revision,
            record.result.result_desc.as_deref().unwrap_or_default()
        ),
        Reply::Read(found) => format!("{found:?}"),
        Reply::Error(error) => format!("{:?} {}", error.code, error.message),
        Reply::Lost => "nothing".to_owned(),
    }
}
