//! Who is at the other end: the check of a peer's certificate, inside the TLS handshake.
//!
//! Four things have to be right (rulings 22 and 27): the chain to the cluster's CA, the URI that
//! names a node of this cluster, that node with that incarnation among the members, and the hash of
//! its key. A dialer also insists on the member that it meant. Dates are not among them: a clock
//! that is years off must not take a node out of the cluster for good; wrong ones are reported. A
//! verifier serves one handshake and keeps its verdict for the log.

use super::link::is_same_key;
use super::tls::Material;
use super::{Directory, Shared};
use crate::certificate::{CertError, Holder, Summary};
use crate::node_chain;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use std::sync::{Arc, OnceLock};
use tiebeam_proto::time::Time;

/// Why a peer is not let in, or not spoken to.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is no certificate.
    #[error("its certificate cannot be read")]
    Malformed(#[source] CertError),
    /// Another CA's, or not one of a node.
    #[error("its certificate is no node certificate of this cluster's CA")]
    Chain(#[source] rustls::Error),
    /// It names no node of this cluster.
    #[error("its certificate names no node of cluster {cluster}, but {names}")]
    Stranger {
        /// This cluster.
        cluster: String,
        /// The names in the certificate.
        names: String,
    },
    /// The node is not a member, or not with this incarnation.
    #[error("node {node} with incarnation {incarnation} is not a member; {known}")]
    NoMember {
        /// Its node id.
        node: u32,
        /// Its incarnation.
        incarnation: u32,
        /// What is known of that node id.
        known: String,
    },
    /// The key is not the one that it joined with.
    #[error("node {node} has another key than the one it joined with")]
    Key {
        /// Its node id.
        node: u32,
    },
    /// Another member than the one that was dialled.
    #[error("node {found} answers where node {wanted} was dialled")]
    Other {
        /// The node that was meant.
        wanted: u32,
        /// The node that answered.
        found: u32,
    },
}

/// A peer that was let in.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its raft id.
    pub raft_id: u64,
    /// What is wrong with its certificate's dates.
    pub dates_wrong: Option<String>,
}

/// The check of one handshake.
pub struct Verifier {
    material: Arc<Material>,
    directory: Arc<dyn Directory>,
    /// The member that was dialled; `None` for who dials us.
    wanted: Option<u64>,
    verdict: OnceLock<Result<Verified, Arc<Refusal>>>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Verifier")
            .field("wanted", &self.wanted)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// For a handshake with `wanted`, or with any member.
    pub fn new(shared: &Shared, material: Arc<Material>, wanted: Option<u64>) -> Arc<Verifier> {
        let directory = Arc::clone(&shared.directory);
        Arc::new(Verifier { material, directory, wanted, verdict: OnceLock::new() })
    }

    /// What was found; `None` if the handshake did not come that far.
    pub fn verdict(&self) -> Option<Result<Verified, Arc<Refusal>>> {
        self.verdict.get().cloned()
    }

    fn check(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
        let found = self.identify(leaf, now);
        let answer = match &found {
            Ok(_) => Ok(()),
            Err(Refusal::Malformed(_)) => Err(CertificateError::BadEncoding.into()),
            Err(Refusal::Chain(error)) => Err(error.clone()),
            // The other side gets the alert `access_denied`.
            Err(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        };
        // A handshake has one certificate of the other side; a second one would change nothing.
        let _kept = self.verdict.set(found.map_err(Arc::new));
        answer
    }

    fn identify(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<Verified, Refusal> {
        let summary = Summary::of(leaf).map_err(Refusal::Malformed)?;
        self.check_chain(leaf, &summary)?;
        let cluster = self.directory.cluster_id();
        let Holder::Node { node_id, incarnation } = summary.holder(&cluster) else {
            return Err(Refusal::Stranger { cluster, names: summary.sans.join(", ") });
        };
        let raft_id = raft_id(node_id, incarnation);
        let members = self.directory.members();
        let Some(member) = members.iter().find(|member| Some(member.raft_id) == raft_id) else {
            let same = members.iter().find(|member| member.raft_id >> 16 == u64::from(node_id));
            let known = match same {
                Some(member) => format!("that node has incarnation {}", member.raft_id & 0xffff),
                None => "there is no such node".to_owned(),
            };
            return Err(Refusal::NoMember { node: node_id, incarnation, known });
        };
        if !is_same_key(&member.key_hash, &summary.key_hash) {
            return Err(Refusal::Key { node: node_id });
        }
        if let Some(wanted) = self.wanted.filter(|wanted| *wanted != member.raft_id) {
            let wanted = super::PeerId::of(wanted).node;
            return Err(Refusal::Other { wanted, found: node_id });
        }
        Ok(Verified { raft_id: member.raft_id, dates_wrong: wrong_dates(&summary, now) })
    }

    /// Whoever may not serve (a user) has no node certificate.
    fn check_chain(&self, leaf: &CertificateDer<'_>, summary: &Summary) -> Result<(), Refusal> {
        let Material { roots, provider, .. } = &*self.material;
        node_chain::check_chain(leaf, summary, roots, provider).map_err(Refusal::Chain)
    }
}

/// The raft id of a node; `None` for an incarnation that does not fit.
fn raft_id(node: u32, incarnation: u32) -> Option<u64> {
    (incarnation <= 0xffff).then(|| u64::from(node) << 16 | u64::from(incarnation))
}

fn wrong_dates(summary: &Summary, now: UnixTime) -> Option<String> {
    let now = Time(i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_mul(1_000_000));
    if now > summary.not_after {
        Some(format!("it ended at {}", summary.not_after))
    } else if now < summary.not_before {
        Some(format!("it begins at {}", summary.not_before))
    } else {
        None
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(leaf, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        node_chain::refuse_old_tls()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        node_chain::check_signature(&self.material.provider, message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        node_chain::schemes(&self.material.provider)
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A peer has one certificate only: there is nothing to choose by.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(leaf, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        node_chain::refuse_old_tls()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        node_chain::check_signature(&self.material.provider, message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        node_chain::schemes(&self.material.provider)
    }
}
