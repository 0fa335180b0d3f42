//! The client without `async`: each call runs on a small runtime of the client's own.
//!
//! Must not be used inside an async runtime (it would block it, and panics there as tokio says);
//! use [`crate::Client`] then.

use crate::client::{Cancelled, Health, Login};
use crate::description::JobDescription;
use crate::error::Error;
use crate::events::{Event, EventFilter, EventStream};
use crate::history::{HistoryPage, HistoryPages};
use crate::secret::Secret;
use crate::start::StartOptions;
use serde_json::{Map, Value};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_proto::ResultObject;
use tokio::runtime::Runtime;

/// A blocking client of one cluster. Each method is the one of the same name of
/// [`crate::Client`], with the same errors.
#[derive(Clone, Debug)]
pub struct Client {
    inner: crate::Client,
    runtime: Arc<Runtime>,
}

/// Events, one after the other: an iterator that never ends of itself.
#[derive(Debug)]
pub struct Events {
    stream: EventStream,
    runtime: Arc<Runtime>,
}

/// Pages of the history.
#[derive(Debug)]
pub struct Pages {
    pages: HistoryPages,
    runtime: Arc<Runtime>,
}

impl Client {
    /// Wraps an async client.
    ///
    /// # Errors
    /// The runtime cannot be made (no file descriptors left).
    pub fn new(inner: crate::Client) -> std::io::Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Client { inner, runtime: Arc::new(runtime) })
    }

    /// The async client inside.
    pub fn inner(&self) -> &crate::Client {
        &self.inner
    }

    fn on<F: Future>(&self, call: F) -> F::Output {
        self.runtime.block_on(call)
    }

    /// See [`crate::Client::call`].
    pub fn call(&self, method: &str, params: Value, repeatable: bool) -> Result<Value, Error> {
        self.on(self.inner.call(method, params, repeatable))
    }

    /// See [`crate::Client::batch`].
    pub fn batch(&self, calls: &[(&str, Value)]) -> Result<Vec<Result<Value, Error>>, Error> {
        self.on(self.inner.batch(calls))
    }

    /// See [`crate::Client::job_list`].
    pub fn job_list(&self) -> Result<Vec<String>, Error> {
        self.on(self.inner.job_list())
    }

    /// See [`crate::Client::job_help`].
    pub fn job_help(&self, name: &str) -> Result<String, Error> {
        self.on(self.inner.job_help(name))
    }

    /// See [`crate::Client::job_desc`].
    pub fn job_desc(&self, name: &str) -> Result<JobDescription, Error> {
        self.on(self.inner.job_desc(name))
    }

    /// See [`crate::Client::job_descs`].
    pub fn job_descs(&self, names: &[String]) -> Result<Vec<JobDescription>, Error> {
        self.on(self.inner.job_descs(names))
    }

    /// See [`crate::Client::start`].
    pub fn start(
        &self,
        name: &str,
        params: Value,
        options: &StartOptions,
    ) -> Result<String, Error> {
        self.on(self.inner.start(name, params, options))
    }

    /// See [`crate::Client::exec`].
    pub fn exec(
        &self,
        name: &str,
        params: Value,
        options: &StartOptions,
    ) -> Result<ResultObject, Error> {
        self.on(self.inner.exec(name, params, options))
    }

    /// See [`crate::Client::exec_within`].
    pub fn exec_within(
        &self,
        name: &str,
        params: Value,
        options: &StartOptions,
        wait: Duration,
    ) -> Result<ResultObject, Error> {
        self.on(self.inner.exec_within(name, params, options, wait))
    }

    /// See [`crate::Client::run`].
    pub fn run(
        &self,
        name: &str,
        params: Value,
        options: &StartOptions,
    ) -> Result<ResultObject, Error> {
        self.on(self.inner.run(name, params, options))
    }

    /// See [`crate::Client::wait`].
    pub fn wait(&self, job: &str, within: Option<Duration>) -> Result<bool, Error> {
        self.on(self.inner.wait(job, within))
    }

    /// See [`crate::Client::finished`].
    pub fn finished(&self, job: &str) -> Result<bool, Error> {
        self.on(self.inner.finished(job))
    }

    /// See [`crate::Client::result`].
    pub fn result(&self, job: &str) -> Result<ResultObject, Error> {
        self.on(self.inner.result(job))
    }

    /// See [`crate::Client::info`].
    pub fn info(&self, job: &str) -> Result<Value, Error> {
        self.on(self.inner.info(job))
    }

    /// See [`crate::Client::file`].
    pub fn file(&self, job: &str) -> Result<String, Error> {
        self.on(self.inner.file(job))
    }

    /// See [`crate::Client::command_output`].
    pub fn command_output(&self, job: &str, command: &str) -> Result<String, Error> {
        self.on(self.inner.command_output(job, command))
    }

    /// See [`crate::Client::cancel`].
    pub fn cancel(&self, job: &str) -> Result<Cancelled, Error> {
        self.on(self.inner.cancel(job))
    }

    /// See [`crate::Client::history`].
    pub fn history(&self, filter: &Map<String, Value>) -> Result<HistoryPage, Error> {
        self.on(self.inner.history(filter))
    }

    /// See [`crate::Client::history_pages`].
    pub fn history_pages(&self, filter: Map<String, Value>) -> Pages {
        Pages { pages: self.inner.history_pages(filter), runtime: self.runtime.clone() }
    }

    /// See [`crate::Client::events`].
    pub fn events(&self, filter: EventFilter) -> Events {
        Events { stream: self.inner.events(filter), runtime: self.runtime.clone() }
    }

    /// See [`crate::Client::login`].
    pub fn login(
        &self,
        user: &str,
        password: &Secret,
        lifetime: Option<Duration>,
    ) -> Result<Login, Error> {
        self.on(self.inner.login(user, password, lifetime))
    }

    /// See [`crate::Client::logout`].
    pub fn logout(&self, token: &Secret) -> Result<(), Error> {
        self.on(self.inner.logout(token))
    }

    /// See [`crate::Client::state`].
    pub fn state(&self) -> Result<Value, Error> {
        self.on(self.inner.state())
    }

    /// See [`crate::Client::health`].
    pub fn health(&self) -> Vec<(String, Result<Health, Error>)> {
        self.on(self.inner.health())
    }
}

impl Iterator for Events {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.runtime.block_on(self.stream.next()))
    }
}

impl Iterator for Pages {
    type Item = Result<HistoryPage, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.pages.next()).transpose()
    }
}
