//! The calls of the protocol, one method each (wire.md section 4).
//!
//! Owns what each call means for safety: whether it is repeatable, how long it waits at the
//! daemon. How a call reaches the master is `call`'s.

use crate::builder::ClientBuilder;
use crate::call::{Call, Caller, Credentials};
use crate::description::JobDescription;
use crate::error::Error;
use crate::events::{EventFilter, EventStream};
use crate::history::{HistoryPage, HistoryPages};
use crate::request_id;
use crate::secret::Secret;
use crate::start::StartOptions;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiebeam_proto::outcome::UNFINISHED;
use tiebeam_proto::{ErrorCode, ResultObject, RpcError};

/// Longest time that one `job_wait` or `job_exec` stays open: a loop of them notices a lost
/// master, one long call does not.
const WAIT_ONE: Duration = Duration::from_secs(30);

/// A client of one cluster. Cloning is cheap, clones share connections and login.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Arc<Caller>,
}

/// What `job_cancel` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It had done nothing, and will not.
    Cancelled,
    /// It runs, and is being stopped.
    Stopping,
    /// It took effect before.
    TooLate,
}

/// What a member says of its own health.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// It has applied everything committed when it started, and knows a master.
    pub ready: bool,
    /// The rest of its answer; null if there is none.
    pub detail: Value,
}

/// What `user_login` answers.
#[derive(Clone, Debug)]
pub struct Login {
    /// For [`ClientBuilder::token`].
    pub token: Secret,
    /// RFC 3339 time of its end.
    pub expires: String,
}

impl Client {
    /// Begins to put a client together.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn new(caller: Caller) -> Client {
        Client { caller: Arc::new(caller) }
    }

    /// Any method, repeated over members as long as it cannot have arrived. Set `repeatable` only
    /// if doing it twice is the same as doing it once.
    ///
    /// # Errors
    /// Every variant of [`Error`] but `Job` and `EventGap`.
    pub async fn call(
        &self,
        method: &str,
        params: Value,
        repeatable: bool,
    ) -> Result<Value, Error> {
        let waits = Duration::ZERO;
        self.caller.call(&Call { method, params, repeatable, login: true, waits }).await
    }

    /// Several calls in one request; all of them must be repeatable. The outer error is of the
    /// request, the inner ones of each call.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn batch(&self, calls: &[(&str, Value)]) -> Result<Vec<Result<Value, Error>>, Error> {
        self.caller.batch(calls).await
    }

    pub(crate) async fn read(&self, method: &str, params: Value) -> Result<Value, Error> {
        self.call(method, params, true).await
    }

    pub(crate) async fn read_waiting(
        &self,
        method: &str,
        params: Value,
        waits: Duration,
    ) -> Result<Value, Error> {
        self.caller.call(&Call { method, params, repeatable: true, login: true, waits }).await
    }

    /// The names of all jobs, sorted.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn job_list(&self) -> Result<Vec<String>, Error> {
        let reply = self.read("job_list", json!([])).await?;
        typed("job_list", reply)
    }

    /// The help text of a job.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn job_help(&self, name: &str) -> Result<String, Error> {
        let reply = self.read("job_help", json!([name])).await?;
        typed("job_help", reply)
    }

    /// A job's declaration.
    ///
    /// # Errors
    /// `unknown_job`; else as [`call`](Self::call).
    pub async fn job_desc(&self, name: &str) -> Result<JobDescription, Error> {
        described(name, self.read("job_desc", json!([name])).await?)
    }

    /// The declarations of several jobs in one request.
    ///
    /// # Errors
    /// As [`job_desc`](Self::job_desc), for the first that fails.
    pub async fn job_descs(&self, names: &[String]) -> Result<Vec<JobDescription>, Error> {
        let calls: Vec<_> = names.iter().map(|name| ("job_desc", json!([name]))).collect();
        let replies = self.batch(&calls).await?;
        names.iter().zip(replies).map(|(name, reply)| described(name, reply?)).collect()
    }

    /// Starts a job and returns its id. Safe to be called when the network is not: the start
    /// carries a `request_id`, so that sending it again does not run it again.
    ///
    /// # Errors
    /// As [`call`](Self::call). After `AnswerLost` or `outcome_unknown` the same start may be
    /// repeated with the same `request_id` only.
    pub async fn start(
        &self,
        name: &str,
        params: Value,
        options: &StartOptions,
    ) -> Result<String, Error> {
        let key = self.key(options).await;
        let kwargs = options.kwargs(params, &key, None);
        let reply = self.read("job_start", json!([name, kwargs])).await?;
        typed("job_start", reply)
    }

    /// Starts a job, waits for its last stage and returns its result, whatever its outcome.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn exec(
        &self,
        name: &str,
        params: Value,
        options: &StartOptions,
    ) -> Result<ResultObject, Error> {
        let result = self.exec_within(name, params, options, WAIT_ONE).await?;
        if result.result_code != UNFINISHED {
            return Ok(result);
        }
        self.wait(&result.result_jobid, None).await?;
        self.result(&result.result_jobid).await
    }

    /// As [`exec`](Self::exec), but returns after `wait` (whole seconds) at the latest, then with
    /// code 5 and the id.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn exec_within(
        &self,
        name: &str,
        params: Value,
        options: &StartOptions,
        wait: Duration,
    ) -> Result<ResultObject, Error> {
        let key = self.key(options).await;
        let kwargs = options.kwargs(params, &key, Some(wait.as_secs()));
        let reply = self.read_waiting("job_exec", json!([name, kwargs]), wait).await?;
        typed("job_exec", reply)
    }

    /// As [`exec`](Self::exec), but every outcome other than `OK` is an [`Error::Job`].
    ///
    /// # Errors
    /// [`Error::Job`]; else as [`start`](Self::start).
    pub async fn run(
        &self,
        name: &str,
        params: Value,
        options: &StartOptions,
    ) -> Result<ResultObject, Error> {
        let result = self.exec(name, params, options).await?;
        if result.result_code == 0 { Ok(result) } else { Err(Error::Job(Box::new(result))) }
    }

    /// Waits for a job's last stage: `true` once it is reached, `false` after `within`; without
    /// `within` for as long as it takes.
    ///
    /// # Errors
    /// `unknown_job_id`; else as [`call`](Self::call).
    pub async fn wait(&self, job: &str, within: Option<Duration>) -> Result<bool, Error> {
        let started = Instant::now();
        loop {
            let left = within.map(|within| within.saturating_sub(started.elapsed()));
            let wait = left.unwrap_or(WAIT_ONE).min(WAIT_ONE);
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let call = json!([job, seconds]);
            let done: bool = typed("job_wait", self.read_waiting("job_wait", call, wait).await?)?;
            if done || left.is_some_and(|left| left <= WAIT_ONE) {
                return Ok(done);
            }
        }
    }

    /// Whether a job has reached its last stage.
    ///
    /// # Errors
    /// `unknown_job_id`; else as [`call`](Self::call).
    pub async fn finished(&self, job: &str) -> Result<bool, Error> {
        typed("job_finished", self.read("job_finished", json!([job])).await?)
    }

    /// A job's result; while it runs, with code 5.
    ///
    /// # Errors
    /// `unknown_job_id`; else as [`call`](Self::call).
    pub async fn result(&self, job: &str) -> Result<ResultObject, Error> {
        typed("job_result", self.read("job_result", json!([job])).await?)
    }

    /// A job's record so far.
    ///
    /// # Errors
    /// `unknown_job_id`; else as [`call`](Self::call).
    pub async fn info(&self, job: &str) -> Result<Value, Error> {
        self.read("job_info", json!([job])).await
    }

    /// A job's file, YAML text.
    ///
    /// # Errors
    /// `unknown_job_id`; else as [`call`](Self::call).
    pub async fn file(&self, job: &str) -> Result<String, Error> {
        typed("job_file", self.read("job_file", json!([job])).await?)
    }

    /// All that a command of a job printed; `command` is its name in the job's record.
    ///
    /// # Errors
    /// `unknown_job_id`; `invalid_arguments` if the job has no such command; `too_busy` if no
    /// member that has it answers; else as [`call`](Self::call).
    pub async fn command_output(&self, job: &str, command: &str) -> Result<String, Error> {
        typed("job_file", self.read("job_file", json!([job, command])).await?)
    }

    /// Cancels a job. Doing it twice is the same as once.
    ///
    /// # Errors
    /// `unknown_job_id`; else as [`call`](Self::call).
    pub async fn cancel(&self, job: &str) -> Result<Cancelled, Error> {
        let reply = self.read("job_cancel", json!([job])).await?;
        match reply.as_str() {
            Some("cancelled") => Ok(Cancelled::Cancelled),
            Some("stopping") => Ok(Cancelled::Stopping),
            Some("too_late") => Ok(Cancelled::TooLate),
            _ => Err(unclear("job_cancel", "none of its three words")),
        }
    }

    /// One page of the history; the filter's keys are those of `job_history`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn history(&self, filter: &Map<String, Value>) -> Result<HistoryPage, Error> {
        let reply = self.read("job_history", json!([filter])).await?;
        HistoryPage::from_reply(reply).ok_or_else(|| unclear("job_history", "no list of records"))
    }

    /// All pages of the history that match a filter.
    pub fn history_pages(&self, filter: Map<String, Value>) -> HistoryPages {
        HistoryPages::new(self.clone(), filter)
    }

    /// Subscribes to events.
    pub fn events(&self, filter: EventFilter) -> EventStream {
        EventStream::new(self.clone(), filter)
    }

    /// Logs in and uses the token for all further calls of this client and its clones.
    ///
    /// # Errors
    /// [`Error::Login`] for a wrong password; else as [`call`](Self::call).
    pub async fn login(
        &self,
        user: &str,
        password: &Secret,
        lifetime: Option<Duration>,
    ) -> Result<Login, Error> {
        let params = match lifetime {
            None => json!([user, password.expose()]),
            Some(time) => json!([user, password.expose(), time.as_secs()]),
        };
        let waits = Duration::ZERO;
        let call = Call { method: "user_login", params, repeatable: true, login: false, waits };
        let reply = self.caller.call(&call).await?;
        let token = reply["token"].as_str().ok_or_else(|| unclear("user_login", "no token"))?;
        let token = Secret::new(token);
        self.caller.set_credentials(Credentials::Token(token.clone()));
        let expires = reply["expires"].as_str().unwrap_or_default().to_owned();
        Ok(Login { token, expires })
    }

    /// Ends a token.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn logout(&self, token: &Secret) -> Result<(), Error> {
        self.read("user_logout", json!([token.expose()])).await.map(drop)
    }

    /// Who the cluster takes the caller for: `{user, groups, via, expires}`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn state(&self) -> Result<Value, Error> {
        self.read("user_state", json!([])).await
    }

    /// `GET /health/ready` of every member given to the builder: its address, and what it says or
    /// why it does not. Needs no login.
    pub async fn health(&self) -> Vec<(String, Result<Health, Error>)> {
        let mut found = Vec::new();
        for member in self.caller.members() {
            let answer = self.caller.get(member, "/health/ready").await;
            let health = answer.map(|(status, body)| Health {
                ready: status == 200,
                detail: serde_json::from_str(&body).unwrap_or_default(),
            });
            found.push((member.to_string(), health));
        }
        found
    }

    async fn key(&self, options: &StartOptions) -> String {
        match &options.request_id {
            Some(key) => key.clone(),
            None if options.volatile => String::new(),
            None => {
                if !self.caller.clock.known() {
                    self.caller.learn_time().await;
                }
                request_id::fresh(&self.caller.clock)
            }
        }
    }
}

fn described(name: &str, reply: Value) -> Result<JobDescription, Error> {
    match (&reply[0], &reply[1]) {
        (Value::Bool(true), details) => Ok(JobDescription::from_details(name, details)),
        (Value::Bool(false), message) => {
            let message = message.as_str().unwrap_or("there is no such job");
            let error = RpcError::new(ErrorCode::UnknownJob, message);
            Err(error.field("name").hint("`tiebeam jobs` lists them").into())
        }
        _ => Err(unclear("job_desc", "neither [true, …] nor [false, …]")),
    }
}

fn typed<T: serde::de::DeserializeOwned>(method: &str, reply: Value) -> Result<T, Error> {
    serde_json::from_value(reply).map_err(|error| unclear(method, &error.to_string()))
}

fn unclear(method: &str, reason: &str) -> Error {
    Error::Answer {
        address: "the cluster".to_owned(),
        method: method.to_owned(),
        reason: reason.to_owned(),
    }
}
