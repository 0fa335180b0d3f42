//! What this node proves itself with to peers, and what it trusts; replaceable while running.
//!
//! Always the node certificate of the cluster's CA, never the one that clients see (ruling 27). TLS
//! 1.3 only: both ends are of this program. Sessions are never resumed: a resumed one would not be
//! verified again, and a removed member could come back with it. Reads no file.

use super::verify::Verifier;
use crate::certificate::{self, CertError};
use crate::front::tls::ALPN_PEER;
use crate::secret::Secret;
use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// Why there is no TLS for peers.
#[derive(Debug, thiserror::Error)]
pub enum PeerTlsError {
    /// The node certificate or its key cannot be used.
    #[error("the node's certificate and key cannot be used")]
    Certificate(#[source] CertError),
    /// The CA's certificate cannot be read.
    #[error("the cluster's CA certificate cannot be read")]
    Authority(#[source] CertError),
    /// The CA's certificate cannot be trusted.
    #[error("the cluster's CA certificate cannot be trusted")]
    Trust(#[source] rustls::Error),
}

/// Node certificate, key and CA in force for new connections to and from peers.
#[derive(Debug)]
pub struct PeerTls(ArcSwap<Material>);

/// One consistent set of them.
#[derive(Debug)]
pub struct Material {
    key: Arc<SingleCertAndKey>,
    /// The cluster's CA.
    pub roots: RootCertStore,
    /// The cryptography.
    pub provider: Arc<CryptoProvider>,
}

impl PeerTls {
    /// Takes the node's certificate and key and the CA's certificate, all PEM.
    ///
    /// # Errors
    /// [`PeerTlsError`] if one cannot be used or certificate and key do not belong together.
    pub fn new(
        certificate: &str,
        key: &Secret<String>,
        authority: &str,
    ) -> Result<PeerTls, PeerTlsError> {
        Ok(PeerTls(ArcSwap::from_pointee(Material::new(certificate, key, authority)?)))
    }

    /// Replaces all of it for connections from now on, for example after a renewal.
    ///
    /// # Errors
    /// As [`PeerTls::new`]; what was in force then stays.
    pub fn replace(
        &self,
        certificate: &str,
        key: &Secret<String>,
        authority: &str,
    ) -> Result<(), PeerTlsError> {
        self.0.store(Arc::new(Material::new(certificate, key, authority)?));
        Ok(())
    }

    /// What the next connection uses.
    pub(super) fn current(&self) -> Arc<Material> {
        self.0.load_full()
    }
}

impl Material {
    fn new(
        certificate: &str,
        key: &Secret<String>,
        authority: &str,
    ) -> Result<Material, PeerTlsError> {
        let chain = certificate::chain_from_pem(certificate, "cert");
        let chain = chain.map_err(PeerTlsError::Certificate)?;
        let key = certificate::certified_key(key, chain).map_err(PeerTlsError::Certificate)?;
        let mut roots = RootCertStore::empty();
        let authority = certificate::chain_from_pem(authority, "ca");
        for certificate in authority.map_err(PeerTlsError::Authority)? {
            roots.add(certificate).map_err(PeerTlsError::Trust)?;
        }
        let mut provider = certificate::provider();
        // The cheapest cipher of the machines that this runs on first; its strength is enough.
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        Ok(Material { key: Arc::new(key.into()), roots, provider: Arc::new(provider) })
    }

    /// For one connection that this node dials, verified by `verifier`.
    ///
    /// # Errors
    /// Never with the provider that is used.
    pub fn dialer(&self, verifier: Arc<Verifier>) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::clone(&self.key) as _);
        config.alpn_protocols = vec![ALPN_PEER.to_vec()];
        config.resumption = Resumption::disabled();
        // Members are told apart by their certificate, not by a name.
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    /// For one connection that this node accepts, verified by `verifier`.
    ///
    /// # Errors
    /// Never with the provider that is used.
    pub fn acceptor(&self, verifier: Arc<Verifier>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&self.key) as _);
        config.alpn_protocols = vec![ALPN_PEER.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}
