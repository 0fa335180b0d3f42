//! The front's TLS: certificate, client certificates, ALPN, and their change while running.
//!
//! [`TlsState`] holds one complete rustls configuration behind an atomic pointer. A handshake takes
//! the one that is current; a replacement therefore never touches a connection that is open, and
//! session tickets of an older configuration end with it. This module reads no file and asks no
//! State: the daemon hands it certificates, keys and the mode.

use super::seam::ClientCertificate;
use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// ALPN of node-to-node traffic (ruling 27).
pub const ALPN_PEER: &[u8] = b"tiebeam-peer/1";
/// ALPN of HTTP/2.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of a node that joins: HTTP/1.1 under the node's own certificate, whatever clients see, so
/// that a token's fingerprint of the cluster's authority can be checked.
pub const ALPN_JOIN: &[u8] = b"tiebeam-join/1";
/// ALPN of HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// `ssl.cert_verify`: what is asked of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// No certificate is asked for.
    #[default]
    None,
    /// One may be given, and is then verified.
    Optional,
    /// One must be given.
    Required,
}

/// Why a TLS configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate authority for clients is no certificate that can be trusted.
    #[error("a client certificate authority cannot be used")]
    Authority(#[source] rustls::Error),
    /// The verifier for client certificates cannot be made, for example without an authority.
    #[error("client certificates cannot be verified")]
    Verifier(#[source] VerifierBuilderError),
    /// The certificate chain and the key do not go together, or one of them is unusable.
    #[error("the certificate chain and its key cannot be used")]
    Certificate(#[source] rustls::Error),
    /// The crypto provider lacks a protocol version.
    #[error("the TLS versions cannot be set")]
    Versions(#[source] rustls::Error),
}

/// The current TLS configuration of client connections.
#[derive(Debug)]
pub struct TlsState {
    config: ArcSwap<ServerConfig>,
    joining: ArcSwapOption<ServerConfig>,
}

impl TlsState {
    /// A state that serves this chain (leaf first), and asks clients for certificates of
    /// `client_ca` as `mode` says.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if the parts do not make a configuration.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_ca: &[CertificateDer<'static>],
        mode: ClientCertificates,
    ) -> Result<TlsState, TlsError> {
        let config = build(chain, key, client_ca, mode)?;
        Ok(TlsState { config: ArcSwap::from_pointee(config), joining: ArcSwapOption::empty() })
    }

    /// Replaces everything for handshakes from now on; connections that are open stay as they are.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; the former configuration then stays.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_ca: &[CertificateDer<'static>],
        mode: ClientCertificates,
    ) -> Result<(), TlsError> {
        let config = build(chain, key, client_ca, mode)?;
        self.config.store(Arc::new(config));
        Ok(())
    }

    /// Serves this chain, which ends in the cluster's authority, to nodes that join.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; the former one then stays.
    pub fn serve_joining(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        let mut config = build(chain, key, &[], ClientCertificates::None)?;
        config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        self.joining.store(Some(Arc::new(config)));
        Ok(())
    }

    /// The configuration for the next handshake, of a node that joins or of a client.
    pub fn current(&self, joins: bool) -> Arc<ServerConfig> {
        let joining = joins.then(|| self.joining.load_full()).flatten();
        joining.unwrap_or_else(|| self.config.load_full())
    }
}

fn build(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_ca: &[CertificateDer<'static>],
    mode: ClientCertificates,
) -> Result<ServerConfig, TlsError> {
    // Named, not found by itself: two providers in one process make the search panic.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Versions)?;
    let verified = if mode == ClientCertificates::None {
        versions.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for authority in client_ca {
            roots.add(authority.clone()).map_err(TlsError::Authority)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = match mode {
            ClientCertificates::Optional => verifier.allow_unauthenticated(),
            ClientCertificates::None | ClientCertificates::Required => verifier,
        };
        versions.with_client_cert_verifier(verifier.build().map_err(TlsError::Verifier)?)
    };
    let mut config = verified.with_single_cert(chain, key).map_err(TlsError::Certificate)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    Ok(config)
}

/// Reads what the front and the login need from a verified leaf; `None` if it is no X.509
/// certificate after all.
pub fn read_certificate(leaf: &CertificateDer<'_>) -> Option<ClientCertificate> {
    let (_rest, certificate) = X509Certificate::from_der(leaf.as_ref()).ok()?;
    let subject = certificate.subject();
    let mut read = ClientCertificate {
        subject: subject.to_string(),
        common_name: subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned),
        ..ClientCertificate::default()
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => read.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => read.dns_names.push((*dns).to_owned()),
            GeneralName::RFC822Name(mail) => read.emails.push((*mail).to_owned()),
            _ => {}
        }
    }
    Some(read)
}
