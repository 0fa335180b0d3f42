//! The clients: each makes one call after the other, retries what may be retried, and remembers
//! what it was told. What they saw of registers goes into the observer's notes.

use super::export::Exported;
use super::invariants;
use super::ledger::Acknowledged;
use super::linear::{Act, Observed, Seen};
use super::plant::Plant;
use super::simulation::{Event, Simulation};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{ErrorCode, Outcome, RpcError};

/// The registers: leaves below `app` that clients read and write. A short run has the first four.
pub(super) const REGISTERS: [&str; 16] = [
    "app/a",
    "app/b",
    "app/deep/c",
    "app/deep/d",
    "app/e",
    "app/f",
    "app/deep/g",
    "app/deep/h",
    "app/i",
    "app/j",
    "app/deep/k",
    "app/deep/l",
    "app/m",
    "app/n",
    "app/deep/o",
    "app/deep/p",
];
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
    /// Whether it waits until the change is committed (`job_exec`), or until it is in the log and
    /// applied (`job_start`).
    pub(super) wait: bool,
    /// Its deadline, if it has one of its own.
    pub(super) deadline_s: Option<u64>,
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
    /// Nothing was proposed: another node is the master, this one if it is known.
    Redirect(Option<u32>),
    /// Nobody knows whether it took effect.
    Unknown,
    /// No connection: nothing was sent.
    Down,
    /// The connection broke, or nothing came in time.
    Lost,
}

/// A call that is under way.
#[derive(Clone, Debug)]
struct Operation {
    request: Arc<Request>,
    register: Option<(&'static str, Act)>,
    called: u64,
    called_us: u64,
    attempt: u64,
    attempts: u32,
    /// The machine that the attempt was sent to, and when.
    sent: (usize, u64),
    /// An attempt may have taken effect without an answer.
    unknown: bool,
}

/// A client.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    operation: Option<Operation>,
    /// Calls that it still makes.
    left: u32,
    /// The machine that it calls.
    target: usize,
    /// What a script's client was told.
    pub(super) told: Option<String>,
    /// Registers that it still reads once, at the end.
    pub(super) last_reads: Vec<&'static str>,
}

impl Client {
    /// One that makes this many calls.
    pub(super) fn new(left: u32) -> Client {
        Client { left, ..Client::default() }
    }

    /// It begins no more calls.
    pub(super) fn stop(&mut self) {
        self.left = 0;
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
            called_us: self.now_us,
            attempt: 0,
            attempts: 0,
            sent: (0, 0),
            unknown: false,
        };
        if let Some((path, _)) = &operation.register {
            self.ledger.registers.entry(path).or_default().begins();
        }
        self.clients[client].operation = Some(operation);
        self.send_call(client);
    }

    /// Sends the client's call, for the first time or again.
    fn send_call(&mut self, client: usize) {
        let attempt = self.number();
        let Some(operation) = &mut self.clients[client].operation else { return };
        operation.attempt = attempt;
        operation.attempts += 1;
        let request = operation.request.clone();
        let at = self.target(client, &request);
        if let Some(operation) = &mut self.clients[client].operation {
            operation.sent = (at, self.now_us);
        }
        let node = self.machines[at].identity.node;
        self.trace(|| {
            format!("client {client} calls n{node} {} {:?}", request.job, request.params)
        });
        let delay = 50 + self.rng.below(400);
        self.after(delay, Event::Arrive { at, client, attempt, request });
        let patience_us = self.settings.pace.patience_us;
        self.after(patience_us, Event::Impatient { client, attempt });
    }

    /// Whom the client calls: the master as it knows it; a volatile read now and then anybody.
    fn target(&mut self, client: usize, request: &Request) -> usize {
        let nodes = self.machines.len() as u64;
        if nodes > 1 && request.volatile && self.rng.one_in(3) {
            return self.rng.below(nodes) as usize;
        }
        self.clients[client].target
    }

    /// Whom the client calls next: whom it was sent to, else anybody.
    fn follow(&mut self, client: usize, to: Option<u32>) {
        let named = to.and_then(|node| self.place(node));
        let nodes = self.machines.len() as u64;
        let target = match named {
            Some(at) if !self.rng.one_in(8) => at,
            _ => self.rng.below(nodes) as usize,
        };
        self.clients[client].target = target;
    }

    /// Tells a client, unless it has given this attempt up.
    pub(super) fn reply(&mut self, client: usize, attempt: u64, reply: Reply) {
        if !matches!(reply, Reply::Lost | Reply::Down)
            && let Err(violation) =
                invariants::requests_are_answered_once(&mut self.ledger, attempt)
        {
            self.broken.get_or_insert(violation);
        }
        if self.settings.scripted {
            return self.note_scripted(client, &reply);
        }
        let Some(mut operation) = self.clients[client].operation.take() else { return };
        if operation.attempt != attempt {
            self.clients[client].operation = Some(operation);
            return;
        }
        self.trace(|| format!("client {client} is told {}", shortly(&reply)));
        let (at, sent_us) = operation.sent;
        let removed_us = self.machines[at].removed_us.filter(|_| matches!(reply, Reply::Read(_)));
        if let Err(violation) = invariants::who_was_removed_does_not_answer(sent_us, removed_us) {
            self.broken.get_or_insert(violation);
        }
        let again = self.tries_again(client, &mut operation, &reply);
        if again && operation.attempts < self.settings.pace.attempts_max {
            self.clients[client].operation = Some(operation);
            let pause_us = self.settings.pace.again_us;
            let delay = pause_us / 10 + self.rng.below(pause_us);
            return self.after(delay, Event::Again { client, attempt });
        }
        self.note(client, operation, &reply);
        // Half of the time a client goes on at once: so calls meet.
        let hurries = self.rng.one_in(2);
        let most_us = self.settings.pace.think_us;
        let pause = self.rng.below(if hurries { most_us.min(2_000) } else { most_us });
        self.after(pause, Event::Client(client));
    }

    /// Whether the client may send its call again, and does.
    fn tries_again(&mut self, client: usize, operation: &mut Operation, reply: &Reply) -> bool {
        match reply {
            Reply::Lost | Reply::Unknown => {
                operation.unknown = true;
                self.follow(client, None);
                operation.request.request_id.is_some() || operation.request.volatile
            }
            Reply::Redirect(to) => {
                self.follow(client, *to);
                true
            }
            Reply::Down => {
                self.follow(client, None);
                true
            }
            Reply::Error(error) => {
                matches!(error.code, ErrorCode::NoMaster | ErrorCode::TooBusy)
            }
            Reply::Done(_) | Reply::Read(_) => false,
        }
    }

    /// Sends an attempt again, unless it was given up.
    pub(super) fn client_again(&mut self, client: usize, attempt: u64) {
        let operation = self.clients[client].operation.as_ref();
        if operation.is_some_and(|operation| operation.attempt == attempt) {
            self.send_call(client);
        }
    }

    /// A script's call is answered: the first answer counts.
    fn note_scripted(&mut self, client: usize, reply: &Reply) {
        if let Reply::Done(record) = reply {
            self.acknowledge(record);
        }
        self.clients[client].told.get_or_insert_with(|| shortly(reply));
    }

    /// Sends a call for a script, whose answer will be in the last client's `told`.
    pub(super) fn script_calls(&mut self, at: usize, request: Request) -> usize {
        let client = self.clients.len();
        self.clients.push(Client::default());
        let attempt = self.number();
        let request = Arc::new(request);
        self.after(100, Event::Arrive { at, client, attempt, request });
        client
    }

    /// Notes what came of a call.
    fn note(&mut self, client: usize, operation: Operation, reply: &Reply) {
        if let Reply::Done(record) = reply {
            self.acknowledge(record);
        }
        let Some((path, act)) = operation.register else { return };
        let seen = match reply {
            Reply::Done(record) => seen(record, &act),
            Reply::Read(found) => Some(Seen::Value(found.as_ref().and_then(|v| v["n"].as_u64()))),
            Reply::Lost | Reply::Unknown => Some(Seen::Unknown),
            Reply::Error(_) | Reply::Redirect(_) | Reply::Down => {
                operation.unknown.then_some(Seen::Unknown)
            }
        };
        let (called, returned) = (operation.called, self.number());
        let observed = seen.map(|seen| Observed { client, called, returned, act, seen });
        if let Some(Observed { act, seen, .. }) = &observed {
            if let Seen::Done(Some(revision)) = seen {
                self.revisions.insert(path, *revision);
            }
            let times_ns = (1_000 * operation.called_us, 1_000 * self.now_us);
            self.ledger.calls.push(Exported::of((client, path), times_ns, act, seen));
        }
        let held = invariants::registers_are_linearizable(&mut self.ledger, path, observed);
        if let Err(violation) = held {
            self.broken.get_or_insert(violation);
        }
    }

    fn acknowledge(&mut self, record: &JobRecord) {
        let revision = record.result.result_revision;
        let ledger = &mut self.ledger;
        ledger.acknowledged.push(Acknowledged {
            job: record.job.to_string(),
            outcome: record.outcome.unwrap_or(Outcome::Indeterminate),
            revision,
            hash: revision.and_then(|revision| ledger.revisions.get(&revision).copied()),
        });
        ledger.acknowledged_revision = ledger.acknowledged_revision.max(revision.unwrap_or(0));
    }

    /// Draws a call.
    fn draw(&mut self) -> (Request, Option<(&'static str, Act)>) {
        let number = self.number();
        let registers = self.settings.registers();
        // One register is wanted by all.
        let hot = self.rng.one_in(3);
        let path = registers[if hot { 0 } else { self.rng.below(registers.len() as u64) as usize }];
        let kinds = if self.machines.len() > 1 { 22 } else { 20 };
        let (mut request, register) = match self.rng.below(kinds) {
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
            19 => (self.draw_rollback(), None),
            _ => (self.draw_command(), None),
        };
        request.wait = self.rng.one_in(2);
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

    /// A program on some nodes, with a deadline that is sometimes too short for it.
    fn draw_command(&mut self) -> Request {
        let ms = match self.rng.below(4) {
            0 => self.rng.below(3_000),
            _ => self.rng.below(150),
        };
        let nodes: Vec<u32> = self
            .machines
            .iter()
            .filter(|machine| !machine.out)
            .map(|machine| machine.identity.node)
            .filter(|_| self.rng.one_in(2))
            .collect();
        let mut params = json!({"argv": ["/bin/work", ms.to_string()], "timeout_s": 2});
        if !nodes.is_empty() {
            params["nodes"] = json!(nodes);
        }
        if self.rng.one_in(2) {
            params["batch"] = json!(1);
        }
        let deadline_s = Some(1 + self.rng.below(8));
        Request { deadline_s, ..call("command_run", params) }
    }

    fn draw_rollback(&mut self) -> Request {
        let newest = self.ledger.acknowledged_revision.max(1);
        let revision = 1 + self.rng.below(newest);
        call("config_rollback", json!({"revision": revision, "path": "users"}))
    }
}

/// A call of `admin` that waits for its end.
pub(super) fn call(job: &'static str, params: Value) -> Request {
    Request {
        job,
        params: object(params),
        user: "admin".to_owned(),
        request_id: None,
        volatile: false,
        wait: true,
        deadline_s: None,
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
        Reply::Redirect(to) => format!("to ask {to:?}"),
        Reply::Unknown => "that nobody knows".to_owned(),
        Reply::Down => "no connection".to_owned(),
        Reply::Lost => "nothing".to_owned(),
    }
}
