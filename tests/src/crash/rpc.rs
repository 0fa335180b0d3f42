//! JSON-RPC over one keep-alive TLS connection, as bare as the rounds need it.
//!
//! Owns the difference that every round is about: an answer came, or none did. It never retries
//! and never follows a redirect; what to do about a missing answer is the ledger's to decide.

use super::Failure;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Calls of a batch at most: the daemon's own limit.
pub const BATCH_MAX: usize = 100;
/// The longest time that any call of a round may take.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

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

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Unanswered(why) => write!(f, "no answer: {why}"),
            CallError::Refused { code, message } => write!(f, "error {code}: {message}"),
        }
    }
}

impl std::error::Error for CallError {}

/// One client with its own connection.
#[derive(Clone)]
pub struct Rpc {
    http: reqwest::Client,
    url: String,
    login: Login,
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
    /// A client that trusts this CA file alone.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(ca: &Path, address: SocketAddr, login: Login) -> Result<Rpc, Failure> {
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
            .timeout(ANSWER_WAIT)
            .build()?;
        Ok(Rpc { http, url: format!("https://{address}/"), login })
    }

    /// Sends a body, gives the JSON that came back.
    async fn post(&self, body: &Value) -> Result<Value, CallError> {
        let call = self.http.post(&self.url).body(body.to_string());
        let call = match &self.login {
            Login::Basic(user, password) => call.basic_auth(user, Some(password)),
            Login::Bearer(token) => call.bearer_auth(token),
        };
        let unanswered = |error: reqwest::Error| CallError::Unanswered(format!("{error:?}"));
        let answer = call.send().await.map_err(unanswered)?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(unanswered)?;
        if status != 200 {
            return Err(CallError::Refused { code: i64::from(status), message: text });
        }
        serde_json::from_str(&text).map_err(|error| CallError::Unanswered(error.to_string()))
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
