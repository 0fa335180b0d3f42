//! What every verifier of node certificates has in common: the chain without its dates, TLS 1.3 and
//! its signatures.
//!
//! Who the certificate must be of is not decided here: `peer::verify` looks it up among the
//! members, `join::dial` knows a fingerprint only.

use crate::certificate::Summary;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::time::Duration;

/// Checks that one of the roots signed the certificate, at a time at which it was valid: dates do
/// not count (ruling 22). The cluster's CA signs nodes itself, so nothing stands between.
///
/// # Errors
/// It did not, or the certificate cannot be read.
pub fn check_chain(
    leaf: &CertificateDer<'_>,
    summary: &Summary,
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    let begin = u64::try_from(summary.not_before.0 / 1_000_000).unwrap_or(0);
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(leaf)?,
        roots,
        &[],
        UnixTime::since_unix_epoch(Duration::from_secs(begin)),
        provider.signature_verification_algorithms.all,
    )
}

/// The answer to a signature of TLS 1.2: it is not spoken between nodes.
///
/// # Errors
/// Always.
pub fn refuse_old_tls() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("nodes speak TLS 1.3".to_owned()))
}

/// Checks a signature of TLS 1.3.
///
/// # Errors
/// It is not by the certificate's key.
pub fn check_signature(
    provider: &CryptoProvider,
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider.signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms)
}

/// The schemes of signatures that are offered.
pub fn schemes(provider: &CryptoProvider) -> Vec<SignatureScheme> {
    provider.signature_verification_algorithms.supported_schemes()
}
