//! Writers: each on a connection of its own, one call after the other, until the daemon is gone.
//!
//! Owns what is called and in which order. What came back goes into the calls that a writer
//! gives back; whether that is right is the ledger's to say.

use super::Dice;
use super::rpc::{CallError, Rpc};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinHandle;

/// Paths that one writer writes in turn: few enough that the tree stays far below its limit.
const PATHS: u64 = 32;
/// One call of so many writes a large value, so that segments and snapshots turn over.
const LARGE_EVERY: u64 = 24;
const LARGE_BYTES: usize = 24 << 10;
/// One call of so many makes or deletes the writer's user.
const USER_EVERY: u64 = 20;
/// One call of so many is a start whose result is asked for later.
const START_EVERY: u64 = 5;
/// One call of so many is a command, in rounds with commands.
const COMMAND_EVERY: u64 = 4;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The job's id.
    pub id: String,
    /// `result_code`.
    pub code: i64,
    /// The revision that it made.
    pub revision: Option<u64>,
}

impl End {
    /// What a result object says; `None` while the job runs.
    pub fn of(result: &Value) -> Option<End> {
        let code = result["result_code"].as_i64().filter(|code| *code != 5)?;
        let id = result["result_jobid"].as_str()?.to_owned();
        Some(End { id, code, revision: result["result_revision"].as_u64() })
    }
}

/// What the writer has seen of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// No answer.
    Nothing,
    /// The job's id, as `job_start` gave it.
    Id(String),
    /// The job's end.
    End(End),
    /// An error: there is no job.
    Refused(String),
}

/// One call with what came of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its idempotency key, never used twice.
    pub key: String,
    /// The job's name.
    pub job: &'static str,
    /// The job's parameters.
    pub params: Value,
    /// What came back.
    pub seen: Seen,
}

impl Seen {
    /// What an answer of `job_start` or `job_exec` says.
    pub fn of(answer: &Value) -> Seen {
        match (answer.as_str(), End::of(answer)) {
            (Some(id), _) => Seen::Id(id.to_owned()),
            (None, Some(end)) => Seen::End(end),
            // A draining daemon says 5 and the id.
            (None, None) => match answer["result_jobid"].as_str() {
                Some(id) => Seen::Id(id.to_owned()),
                None => Seen::Refused(format!("an answer that is no result: {answer}")),
            },
        }
    }
}

impl Call {
    /// The arguments of `job_start` and `job_exec`.
    pub fn arguments(&self) -> Value {
        json!([self.job, {"params": self.params, "request_id": self.key}])
    }
}

/// One writer's part of a round.
pub struct Writer {
    /// Its number: its paths and its user are named after it.
    pub number: u64,
    /// The round: part of every key.
    pub round: String,
    /// Whether its user exists.
    pub user: bool,
    /// Where commands leave their names; no commands without it.
    pub marks: Option<PathBuf>,
    /// Its choices.
    pub dice: Dice,
}

/// What a writer gives back: the calls in their order.
pub type Writing = JoinHandle<Vec<Call>>;

impl Writer {
    /// Starts calling until `stop` is set or an answer does not come.
    pub fn spawn(mut self, rpc: Rpc, stop: Arc<AtomicBool>) -> Writing {
        tokio::spawn(async move {
            let mut calls: Vec<Call> = Vec::new();
            let mut open: Option<usize> = None;
            while !stop.load(Ordering::Relaxed) {
                let key = format!("{}-{}-{}", self.round, self.number, calls.len());
                let mut call = self.next(key);
                let starts = open.is_none() && self.dice.below(START_EVERY) == 0;
                let answered = make(&rpc, &mut call, starts).await;
                calls.push(call);
                if !answered {
                    break;
                }
                if starts {
                    open = Some(calls.len() - 1);
                } else if let Some(at) = open.take()
                    && !collect(&rpc, &mut calls[at]).await
                {
                    break;
                }
            }
            calls
        })
    }

    /// The next call, under this key.
    pub fn next(&mut self, key: String) -> Call {
        let (job, params) = match &self.marks {
            Some(marks) if self.dice.below(COMMAND_EVERY) == 0 => {
                ("command_run", command(&key, marks, &mut self.dice))
            }
            _ if self.dice.below(USER_EVERY) == 0 => self.user_call(),
            _ => ("config_set", self.value(&key)),
        };
        Call { key, job, params, seen: Seen::Nothing }
    }

    fn value(&mut self, key: &str) -> Value {
        let number = self.number;
        if self.dice.below(LARGE_EVERY) == 0 {
            let value = format!("{key} {}", self.dice.text(LARGE_BYTES));
            return json!({"path": format!("app/rounds/w{number}/large"), "value": value});
        }
        let path = format!("app/rounds/w{number}/k{}", self.dice.below(PATHS));
        json!({"path": path, "value": key})
    }

    fn user_call(&mut self) -> (&'static str, Value) {
        let name = format!("writer{}", self.number);
        // Whatever comes of it: the next one of this round tries the opposite.
        self.user = !self.user;
        if self.user {
            let id = 5_000 + self.number;
            let params = json!({"username": name, "userid": id, "group": "exausers"});
            ("user_create", params)
        } else {
            ("user_delete", json!({"username": name}))
        }
    }
}

/// A program that adds its own name to a file, in one write at its end, and lives a little.
fn command(key: &str, marks: &Path, dice: &mut Dice) -> Value {
    let script = "echo \"$1\" >> \"$2\"; sleep \"$3\"";
    let seconds = format!("0.{:03}", dice.below(60));
    json!({"argv": ["/bin/sh", "-c", script, "sh", key, marks, seconds]})
}

/// Makes the call; false if no answer came.
async fn make(rpc: &Rpc, call: &mut Call, starts: bool) -> bool {
    let method = if starts { "job_start" } else { "job_exec" };
    match rpc.call(method, call.arguments()).await {
        Ok(answer) => {
            call.seen = Seen::of(&answer);
            true
        }
        Err(CallError::Refused { code: -32010, .. } | CallError::Unanswered(_)) => false,
        Err(refused) => {
            call.seen = Seen::Refused(refused.to_string());
            true
        }
    }
}

/// Asks for the result of a job that was started; false if no answer came.
async fn collect(rpc: &Rpc, call: &mut Call) -> bool {
    let Seen::Id(id) = &call.seen else { return true };
    let answered = match rpc.call("job_result", json!([id])).await {
        Ok(result) => End::of(&result),
        Err(CallError::Unanswered(_)) => return false,
        Err(refused) => {
            call.seen = Seen::Refused(format!("job_result of {id}: {refused}"));
            None
        }
    };
    if let Some(end) = answered {
        call.seen = Seen::End(end);
    }
    true
}
