//! JSON-RPC over keep-alive TLS, as bare as the rounds need it.
//!
//! Owns the difference that every round is about: an answer came, or none did. Alone with one node
//! it never retries; what to do about a missing answer is the ledger's to decide. With a cluster
//! ([`Rpc::of_cluster`]) it knows every node, goes where a redirect points, and asks again for as
//! long as it was told to: then its calls must be such that may be repeated.

use super::Failure;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Calls of a batch at most: the daemon's own limit.
pub const BATCH_MAX: usize = 100;
/// The longest time that any call of a round may take.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Pause before a node is asked again that has no answer now.
const AGAIN: Duration = Duration::from_millis(20);

/// Why a call has no result.
#[derive(Debug)]
pub enum CallError {
    /// No answer came: whether the call took effect is not known.
    Unanswered(String),
    /// The daemon answered with an error.
    Refused {
        /// The code of wire.md section 7.
        code: i64,
        /// Its text.
        message: String,
    },
}

impl CallError {
    /// Whether another try, here or elsewhere, may bring an answer.
    pub fn is_passing(&self) -> bool {
        match self {
            CallError::Unanswered(_) => true,
            // Redirect, no master, draining; no_master, too_busy, outcome_unknown.
            CallError::Refused { code, .. } => {
                matches!(code, 302 | 503 | -32005 | -32006 | -32010)
            }
        }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Unanswered(why) => write!(f, "no answer: {why}"),
            CallError::Refused { code, message } => write!(f, "error {code}: {message}"),
        }
    }
}

impl std::error::Error for CallError {}

/// One client with its own connections.
#[derive(Clone)]
pub struct Rpc {
    http: reqwest::Client,
    urls: Vec<String>,
    /// The place in `urls` of the node to ask; clones agree on it.
    at: Arc<AtomicUsize>,
    login: Login,
    patience: Duration,
}

/// How long a client of a cluster waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For a connection, with its handshake.
    pub connect: Duration,
    /// For an answer.
    pub answer: Duration,
    /// For calls to be asked again, here or elsewhere, until there is an answer.
    pub again: Duration,
}

/// What a client shows of itself.
#[derive(Clone)]
pub enum Login {
    /// User and password.
    Basic(String, String),
    /// A token of `user_login`.
    Bearer(String),
}

impl Rpc {
    /// A client of one node that trusts this CA file alone.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(ca: &Path, address: SocketAddr, login: Login) -> Result<Rpc, Failure> {
        let waits = Waits { connect: ANSWER_WAIT, answer: ANSWER_WAIT, again: Duration::ZERO };
        Rpc::of_cluster(ca, &[address], login, waits)
    }

    /// A client of a cluster whose nodes have these addresses.
    ///
    /// # Errors
    /// The CA file cannot be read.
    pub fn of_cluster(
        ca: &Path,
        addresses: &[SocketAddr],
        login: Login,
        waits: Waits,
    ) -> Result<Rpc, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(waits.connect)
            .timeout(waits.answer)
            .build()?;
        let urls = addresses.iter().map(|address| format!("https://{address}/")).collect();
        Ok(Rpc { http, urls, at: Arc::default(), login, patience: waits.again })
    }

    /// Sends a body until there is an answer, gives the JSON that came back.
    async fn post(&self, body: &Value) -> Result<Value, CallError> {
        let begun = Instant::now();
        loop {
            let at = self.at.load(Ordering::Relaxed);
            let error = match self.post_to(at, body).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let moved = self.turn(at, &error);
            if !error.is_passing() || begun.elapsed() >= self.patience {
                return Err(error);
            }
            if !moved {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// After an error of the node at `at`: asks where it points, else the next one. Whether it
    /// pointed anywhere.
    fn turn(&self, at: usize, error: &CallError) -> bool {
        let pointed = match error {
            CallError::Refused { code: 302, message } => {
                self.urls.iter().position(|url| message == url)
            }
            _ => None,
        };
        let next = pointed.unwrap_or((at + 1) % self.urls.len().max(1));
        if error.is_passing() {
            // Another call that shares this client may have turned already.
            let _ = self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        pointed.is_some()
    }

    async fn post_to(&self, at: usize, body: &Value) -> Result<Value, CallError> {
        let url = self.urls.get(at).map(String::as_str).unwrap_or_default();
        let call = self.http.post(url).body(body.to_string());
        let call = match &self.login {
            Login::Basic(user, password) => call.basic_auth(user, Some(password)),
            Login::Bearer(token) => call.bearer_auth(token),
        };
        let unanswered = |error: reqwest::Error| CallError::Unanswered(format!("{error:?}"));
        let answer = call.send().await.map_err(unanswered)?;
        let status = answer.status().as_u16();
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        let location = location.unwrap_or_default().to_owned();
        let text = answer.text().await.map_err(unanswered)?;
        match status {
            200 => serde_json::from_str(&text).map_err(|e| CallError::Unanswered(e.to_string())),
            302 => Err(CallError::Refused { code: 302, message: location }),
            _ => Err(CallError::Refused { code: i64::from(status), message: text }),
        }
    }

    /// One call.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        outcome(self.post(&request(1, method, &params)).await?)
    }

    /// Calls of one method, as many batches as needed; results in the order of `params`.
    ///
    /// # Errors
    /// A batch had no answer.
    pub async fn all(
        &self,
        method: &str,
        params: Vec<Value>,
    ) -> Result<Vec<Result<Value, CallError>>, CallError> {
        let mut results = Vec::with_capacity(params.len());
        for chunk in params.chunks(BATCH_MAX) {
            let numbered = chunk.iter().enumerate();
            let body = numbered.map(|(id, params)| request(id, method, params)).collect();
            let Value::Array(mut answers) = self.post(&Value::Array(body)).await? else {
                return Err(CallError::Unanswered("the answer to a batch is no list".to_owned()));
            };
            if answers.len() != chunk.len() {
                return Err(CallError::Unanswered(
                    "a batch has a member without answer".to_owned(),
                ));
            }
            answers.sort_by_key(|answer| answer["id"].as_u64());
            results.extend(answers.into_iter().map(outcome));
        }
        Ok(results)
    }

    /// A volatile read: the job's output, no record.
    ///
    /// # Errors
    /// See [`CallError`]; a job that did not end well is one too.
    pub async fn read(&self, job: &str, params: Value) -> Result<Value, CallError> {
        let kwargs = json!({"params": params, "volatile": true});
        let mut result = self.call("job_exec", json!([job, kwargs])).await?;
        match result["result_code"].as_i64() {
            Some(0) => Ok(result["result_output"].take()),
            code => Err(CallError::Refused {
                code: code.unwrap_or_default(),
                message: result["result_desc"].to_string(),
            }),
        }
    }
}

fn request(id: usize, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn outcome(mut answer: Value) -> Result<Value, CallError> {
    match &answer["error"] {
        Value::Null => Ok(answer["result"].take()),
        error => Err(CallError::Refused {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        }),
    }
}
