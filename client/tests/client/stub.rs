//! A cluster member made of one closure: TLS from a CA of its own, HTTP/1.1, answers as told.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// What a stub does with a request.
pub enum Reply {
    /// JSON-RPC `result`.
    Result(Value),
    /// JSON-RPC `error`.
    Error(Value),
    /// 302 to this location.
    Redirect(String),
    /// A bare status.
    Status(u16),
    /// Closes the connection: the answer is lost.
    Vanish,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub verb: String,
    pub version: hyper::Version,
    pub authorization: Option<String>,
    pub call: Value,
}

impl Seen {
    pub fn method(&self) -> &str {
        self.call["method"].as_str().unwrap_or_default()
    }

    pub fn params(&self) -> &Value {
        &self.call["params"]
    }
}

type Behaviour = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A running stub; it stops with the test's runtime.
#[derive(Clone)]
pub struct Stub {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Stub {
    /// The RPC calls so far.
    pub fn calls(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.verb == "POST").cloned().collect()
    }
}

/// A CA, and the file a client is given.
pub struct Ca {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub file: PathBuf,
}

impl Ca {
    pub fn new(name: &str) -> Ca {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let file = folder(name).join("ca.pem");
        std::fs::write(&file, certificate.pem()).unwrap();
        Ca { issuer: rcgen::Issuer::new(params, key), file }
    }

    fn acceptor(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Starts a stub whose certificate is of this CA.
    pub async fn start(&self, behaviour: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Stub {
        self.start_with(&[b"http/1.1"], behaviour).await
    }

    /// Starts a stub that offers these protocols.
    pub async fn start_with(
        &self,
        protocols: &[&[u8]],
        behaviour: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Stub {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let stub = Stub { url, seen: Arc::default() };
        let (seen, acceptor) = (stub.seen.clone(), self.acceptor(protocols));
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                let behaviour = behaviour.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, behaviour, seen).await;
                    }
                });
            }
        });
        stub
    }
}

/// Starts a stub on a unix socket.
pub fn start_unix(
    path: &std::path::Path,
    behaviour: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> Stub {
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    let stub = Stub { url: String::new(), seen: Arc::default() };
    let seen = stub.seen.clone();
    let behaviour: Arc<Behaviour> = Arc::new(behaviour);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, behaviour.clone(), seen.clone()));
        }
    });
    stub
}

/// A fresh folder below the system's temporary one.
pub fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tiebeam-client-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    behaviour: Arc<Behaviour>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let service = service_fn(|request| answer(request, behaviour.clone(), seen.clone()));
    let _ = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    behaviour: Arc<Behaviour>,
    all: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (verb, version) = (request.method().to_string(), request.version());
    let authorization = request
        .headers()
        .get("authorization")
        .map(|value| value.to_str().unwrap_or_default().to_owned());
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let call = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let seen = Seen { verb, version, authorization, call };
    all.lock().unwrap().push(seen.clone());
    // A time far from this machine's, so that a test sees whose time a key carries.
    let head = Response::builder().header("date", "Fri, 20 Nov 2099 04:05:06 GMT");
    if seen.verb == "GET" {
        return Ok(head.body(Full::default()).unwrap());
    }
    let json = |member: &str, value: Value| {
        let text = json!({"jsonrpc": "2.0", "id": seen.call["id"], member: value}).to_string();
        Full::from(text)
    };
    let response = match behaviour(&seen) {
        Reply::Result(value) => head.body(json("result", value)),
        Reply::Error(value) => head.body(json("error", value)),
        Reply::Redirect(location) => {
            head.status(302).header("location", location).body(Full::default())
        }
        Reply::Status(status) => {
            head.status(status).header("retry-after", "0").body(Full::default())
        }
        Reply::Vanish => return Err(std::io::Error::other("as the test wants")),
    };
    Ok(response.unwrap())
}
