//! One request to one address: HTTPS by reqwest, or HTTP over a unix socket by hyper.
//!
//! Owns connections and the limits of an answer. It must not retry, follow a redirect or look
//! into a body: that is `call`'s. What it does tell is whether a failed request may have arrived.

use crate::address::Address;
use crate::error::Source;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue, LOCATION, RETRY_AFTER};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::time::Duration;

/// Largest answer in bytes: a whole configuration is 4 MiB, a page of records a few times that.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Time for a connection and its TLS handshake: members are near.
const CONNECT: Duration = Duration::from_secs(5);
/// What the daemon records as user agent.
const USER_AGENT: &str = concat!("tiebeam/", env!("CARGO_PKG_VERSION"));

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) date: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request did not leave: sending it elsewhere is safe.
    NotSent(Source),
    /// It may have arrived.
    Unanswered(Source),
}

/// What is sent.
pub(crate) struct Request<'a> {
    /// The path; `/` for RPC.
    pub(crate) path: &'a str,
    /// `None` sends a GET.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) authorization: Option<HeaderValue>,
    /// How long the answer may take, the connection included.
    pub(crate) within: Duration,
}

/// The connections of a client.
#[derive(Debug)]
pub(crate) struct Transport {
    https: Option<reqwest::Client>,
}

impl Transport {
    /// `tls` is absent for a client that only knows a unix socket.
    pub(crate) fn new(tls: Option<rustls::ClientConfig>) -> Result<Transport, Source> {
        let https = match tls {
            None => None,
            Some(tls) => Some(
                reqwest::Client::builder()
                    .tls_backend_preconfigured(tls)
                    .https_only(true)
                    .redirect(reqwest::redirect::Policy::none())
                    .no_proxy()
                    .user_agent(USER_AGENT)
                    .connect_timeout(CONNECT)
                    .build()?,
            ),
        };
        Ok(Transport { https })
    }

    /// Sends one request to one address.
    pub(crate) async fn send(
        &self,
        address: &Address,
        request: Request<'_>,
    ) -> Result<Answer, Failure> {
        match address {
            Address::Https(url) => self.send_https(url, request).await,
            Address::Unix(path) => {
                let within = request.within;
                match tokio::time::timeout(within, send_unix(path, request)).await {
                    Ok(answer) => answer,
                    Err(late) => Err(Failure::Unanswered(late.into())),
                }
            }
        }
    }

    async fn send_https(
        &self,
        url: &reqwest::Url,
        request: Request<'_>,
    ) -> Result<Answer, Failure> {
        let https = self.https.as_ref().ok_or_else(|| {
            Failure::NotSent("this client has no CA file, so it cannot use TLS".into())
        })?;
        let mut url = url.clone();
        url.set_path(request.path);
        let mut call = match request.body {
            None => https.get(url),
            Some(body) => https.post(url).header(CONTENT_TYPE, "application/json").body(body),
        };
        if let Some(value) = request.authorization {
            call = call.header(AUTHORIZATION, value);
        }
        let answer = call.timeout(request.within).send().await.map_err(failure)?;
        let head = head(answer.status().as_u16(), answer.headers());
        let body = Limited::new(reqwest::Body::from(answer), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(Failure::Unanswered)?;
        Ok(Answer { body: body.to_bytes().into(), ..head })
    }
}

fn failure(error: reqwest::Error) -> Failure {
    // The URL in reqwest's text says nothing new, and the address is named by our own error.
    let error = error.without_url();
    if error.is_connect() || error.is_builder() {
        Failure::NotSent(error.into())
    } else {
        Failure::Unanswered(error.into())
    }
}

async fn send_unix(path: &Path, request: Request<'_>) -> Result<Answer, Failure> {
    let stream = tokio::net::UnixStream::connect(path)
        .await
        .map_err(|error| Failure::NotSent(error.into()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::NotSent(error.into()))?;
    let driver = tokio::spawn(connection);
    let method = if request.body.is_some() { http::Method::POST } else { http::Method::GET };
    let mut call = http::Request::builder()
        .method(method)
        .uri(request.path)
        .header(HOST, "localhost")
        .header(http::header::USER_AGENT, USER_AGENT)
        .header(CONTENT_TYPE, "application/json");
    if let Some(value) = request.authorization {
        call = call.header(AUTHORIZATION, value);
    }
    let call = call
        .body(Full::new(Bytes::from(request.body.unwrap_or_default())))
        .map_err(|error| Failure::NotSent(error.into()))?;
    let answer =
        sender.send_request(call).await.map_err(|error| Failure::Unanswered(error.into()))?;
    let head = head(answer.status().as_u16(), answer.headers());
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(Failure::Unanswered)?;
    driver.abort();
    Ok(Answer { body: body.to_bytes().into(), ..head })
}

fn head(status: u16, headers: &HeaderMap) -> Answer {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    Answer {
        status,
        location: text(LOCATION).map(str::to_owned),
        retry_after: text(RETRY_AFTER).and_then(|s| s.parse().ok()).map(Duration::from_secs),
        date: text(DATE).map(str::to_owned),
        body: Vec::new(),
    }
}
