//! The TLS settings of a client: roots from one CA file, nothing else.
//!
//! Owns the pinned root store. Every connection of a client, the first as well as the target of a
//! redirect, is made with it; that is how credentials stay within the cluster.

use crate::error::Error;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// A client certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub(crate) struct ClientCertificate {
    pub(crate) certificate: std::path::PathBuf,
    pub(crate) key: std::path::PathBuf,
}

/// TLS 1.2 and 1.3 with the CA file's certificates as the only roots; HTTP/2 and HTTP/1.1.
pub(crate) fn config(
    ca_file: &Path,
    certificate: Option<&ClientCertificate>,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls { source: error.into() })?
        .with_root_certificates(roots(ca_file)?);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = certificates("client certificate", &pair.certificate)?;
            let key = PrivateKeyDer::from_pem_file(&pair.key)
                .map_err(|error| unreadable("client key", &pair.key, error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Error::Tls { source: error.into() })?
        }
    };
    // A preconfigured rustls configuration gets no ALPN from reqwest.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca_file: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA file", ca_file)? {
        roots.add(certificate).map_err(|error| unreadable("CA file", ca_file, error))?;
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_file_iter(path)
        .map_err(|error| unreadable(what, path, error))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(what, path, error))?;
    if found.is_empty() {
        return Err(Error::File { what, path: path.into(), source: "no certificate in it".into() });
    }
    Ok(found)
}

fn unreadable(
    what: &'static str,
    path: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::File { what, path: path.into(), source: Box::new(error) }
}
