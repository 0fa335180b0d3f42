//! The jobs that `dev` runs as `admin` to set its cluster up.

use crate::join::dial::{self, DialError, Post};
use crate::join::token::Pin;
use crate::secret::Secret;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How long a master is looked for.
const MASTER_WAIT: Duration = Duration::from_secs(30);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a job did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// A file cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// The authority's file holds no certificate.
    #[error("{} holds no certificate", .0.display())]
    Authority(PathBuf),
    /// The runtime cannot be made.
    #[error("the runtime cannot start")]
    Runtime(#[source] std::io::Error),
    /// No node answered.
    #[error("no node answers")]
    Dial(#[source] DialError),
    /// No node is the master.
    #[error("there is no master")]
    NoMaster,
    /// The job did not succeed.
    #[error("{job}: {text}")]
    Job {
        /// Its name.
        job: String,
        /// What it said.
        text: String,
    },
}

/// A way to run jobs.
pub struct Calls {
    addresses: Vec<String>,
    pin: Pin,
    login: Secret<String>,
    runtime: tokio::runtime::Runtime,
}

impl Calls {
    /// Calls to whichever of these nodes is the master.
    pub fn new(addresses: Vec<String>, ca: &Path, password: &Path) -> Result<Calls, CallError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| CallError::Read(path.to_owned(), error))
        };
        let authority = || CallError::Authority(ca.to_owned());
        let summaries = crate::certificate::summaries_from_pem(&read(ca)?);
        let summaries = summaries.map_err(|_| authority())?;
        let pin = summaries.first().and_then(|one| Pin::of_fingerprint(&one.fingerprint));
        let password = Secret::new(read(password)?);
        let line = password.expose().lines().next().unwrap_or_default();
        let login = format!("Basic {}", STANDARD.encode(format!("admin:{line}")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Calls {
            addresses,
            pin: pin.ok_or_else(authority)?,
            login: Secret::new(login),
            runtime: runtime.map_err(CallError::Runtime)?,
        })
    }

    /// Runs a job to its end: its output.
    pub fn exec(&self, job: &str, params: Value) -> Result<Value, CallError> {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec",
            "params": [job, {"params": params}]});
        let answer = self.runtime.block_on(self.ask(&call))?;
        let failed = |text: &Value| {
            let text = text.as_str().unwrap_or("the answer cannot be read").to_owned();
            Err(CallError::Job { job: job.to_owned(), text })
        };
        match &answer["result"] {
            Value::Null => failed(&answer["error"]["message"]),
            result if result["result_code"] == 0 => Ok(result["result_output"].clone()),
            result => failed(&result["result_desc"]),
        }
    }

    /// The answer of the master: each node is asked in turn while there is none.
    async fn ask(&self, call: &Value) -> Result<Value, CallError> {
        let until = Instant::now() + MASTER_WAIT;
        let mut last = None;
        while Instant::now() < until {
            for address in &self.addresses {
                let post = Post {
                    address,
                    pin: &self.pin,
                    path: "/",
                    authorization: Some(self.login.expose().clone()),
                    body: call.to_string().into(),
                };
                match dial::post(post).await {
                    // Another node is asked next, and one of them is the master.
                    Ok(reply) if [302, 503].contains(&reply.status) => {}
                    Ok(reply) => return Ok(serde_json::from_slice(&reply.body).unwrap_or_default()),
                    Err(error) => last = Some(error),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(last.map_or(CallError::NoMaster, CallError::Dial))
    }
}
