//! The TLS of a client that trusts one authority: the one piece that [`crate::wire`] and
//! [`crate::door`] connect with.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A certificate and its key, for a client that has one.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// The chain, in PEM.
    pub chain: &'a str,
    /// The key, in PEM.
    pub key: &'a str,
}

/// What a client is that trusts the authorities in `ca_file` alone: `alpn` is the protocol that it
/// asks for, usually `http/1.1`; `own` its certificate.
///
/// # Errors
/// A certificate cannot be read or used.
pub fn config(
    ca_file: &Path,
    alpn: &str,
    own: Option<Certificate>,
) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca_file).map_err(io::Error::other)? {
        roots.add(root.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(Certificate { chain, key }) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(io::Error::other)?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(io::Error::other)?;
            builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?
        }
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Ok(Arc::new(config))
}
