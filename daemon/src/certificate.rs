//! What a certificate says: names, times, key hash, and who its holder is in this cluster.
//!
//! This module owns reading and checking. It issues nothing (that is [`crate::ca`]), opens no file
//! and reads no clock: the time is an argument. The listener asks it who a verified peer is
//! (ruling 27), `cert_info` shows its summary, `cert_update` asks it before switching (ruling 40).
//! It works on input from outside, so it reports and never panics.

use crate::{keys::cluster::sha256_text, secret::Secret};
use rustls::{
    RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use serde::Serialize;
use std::{net::IpAddr, time::Duration};
use tiebeam_proto::time::Time;
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

/// Certificates of a chain; public CAs send 2 to 4.
pub const CHAIN_MAX: usize = 10;
/// The scheme of the URIs that name nodes and users.
const SCHEME: &str = "tiebeam://";

/// What is wrong with a certificate, its key or its CA; `field` names the `cert_update` parameter.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The key is not a private key in PEM.
    #[error("`key` is not a private key in PEM that can be used")]
    Key,
    /// The certificate (or the CA's) is not a certificate in PEM.
    #[error("`{field}` is not a certificate in PEM: {reason}")]
    Malformed {
        /// `cert` or `ca`.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("`key` does not belong to the first certificate of `cert`")]
    KeyMismatch,
    /// A certificate's time is over.
    #[error("{subject} expired at {at}")]
    Expired {
        /// Whose.
        subject: String,
        /// When.
        at: Time,
    },
    /// A certificate's time has not come.
    #[error("{subject} is not valid before {at}")]
    NotYetValid {
        /// Whose.
        subject: String,
        /// When it will be.
        at: Time,
    },
    /// Some members' addresses or names are not in the certificate.
    #[error("the certificate does not cover {}", names.join(", "))]
    Names {
        /// Those that are missing.
        names: Vec<String>,
    },
    /// The certificates do not lead to the CA.
    #[error("the chain does not lead to `{anchor}`: {reason}")]
    Chain {
        /// `ca`, or `cert` if the chain itself is broken.
        anchor: &'static str,
        /// What the verifier said.
        reason: String,
    },
}

impl CertError {
    /// The parameter that is meant.
    pub fn field(&self) -> &'static str {
        match self {
            CertError::Key | CertError::KeyMismatch => "key",
            CertError::Malformed { field, .. } => field,
            CertError::Chain { anchor, .. } => anchor,
            CertError::Expired { .. } | CertError::NotYetValid { .. } | CertError::Names { .. } => {
                "cert"
            }
        }
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The subject's distinguished name.
    pub subject: String,
    /// The subject's common name, if it has exactly one.
    pub common_name: Option<String>,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// Alternative names, each as `DNS:…`, `IP:…` or `URI:…`.
    pub sans: Vec<String>,
    /// Not valid before.
    pub not_before: Time,
    /// Not valid after.
    pub not_after: Time,
    /// `sha256:<hex>` of the certificate.
    pub fingerprint: String,
    /// `sha256:<hex>` of its public key (SubjectPublicKeyInfo): what State keeps of a member.
    pub key_hash: String,
}

/// Who the holder of a verified certificate is in this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A member (or one that was: State knows).
    Node {
        /// Its node id.
        node_id: u32,
        /// Its incarnation.
        incarnation: u32,
    },
    /// A user; State knows whether there is one.
    User(String),
    /// Nobody here: another cluster's, several at once, or no usable name.
    Nobody,
}

/// The URI that names a node in its certificate.
pub fn node_uri(cluster_id: &str, node_id: u32, incarnation: u32) -> String {
    format!("{SCHEME}{cluster_id}/node/{node_id}/{incarnation}")
}

/// The URI that names a user in a certificate.
pub fn user_uri(cluster_id: &str, user: &str) -> String {
    format!("{SCHEME}{cluster_id}/user/{user}")
}

/// Whether a text can be a user's or group's name (wire.md section 4).
pub fn is_user_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| matches!(b, b'a'..=b'z' | b'_'))
        && name.len() <= 32
        && bytes.all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

impl Summary {
    /// Reads one certificate.
    ///
    /// # Errors
    /// It is not an X.509 certificate; the error names `cert`.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Summary, CertError> {
        read(certificate, "cert")
    }

    /// Who the holder is; the certificate must have been verified before.
    ///
    /// A `tiebeam:` URI decides; more than one of them is nobody, so that a node certificate never
    /// logs a user in (ruling 27). Without one the common name is the user (wire.md section 1).
    pub fn holder(&self, cluster_id: &str) -> Holder {
        let mut ours = self
            .sans
            .iter()
            .filter_map(|san| san.strip_prefix("URI:").and_then(|uri| uri.strip_prefix(SCHEME)));
        let Some(path) = ours.next() else {
            let name = self.common_name.as_deref().filter(|name| is_user_name(name));
            return name.map_or(Holder::Nobody, |name| Holder::User(name.to_owned()));
        };
        if ours.next().is_some() {
            return Holder::Nobody;
        }
        let parts: Vec<&str> = path.split('/').collect();
        let number = crate::keys::cluster::parse_number;
        match parts.as_slice() {
            [cluster, "user", name] if *cluster == cluster_id && is_user_name(name) => {
                Holder::User((*name).to_owned())
            }
            [cluster, "node", node, incarnation] if *cluster == cluster_id => {
                match (number(node), number(incarnation)) {
                    (Some(node_id), Some(incarnation)) => Holder::Node { node_id, incarnation },
                    _ => Holder::Nobody,
                }
            }
            _ => Holder::Nobody,
        }
    }
}

/// The certificates of a PEM text, the holder's first.
///
/// # Errors
/// There is none, more than [`CHAIN_MAX`], or the text is not PEM; the error names `field`.
pub fn chain_from_pem(
    pem: &str,
    field: &'static str,
) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let malformed = |reason: String| CertError::Malformed { field, reason };
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| malformed(e.to_string()))?;
    match chain.len() {
        0 => Err(malformed("there is no certificate in it".to_owned())),
        1..=CHAIN_MAX => Ok(chain),
        more => Err(malformed(format!("{more} certificates; at most {CHAIN_MAX} are taken"))),
    }
}

/// Summaries of all certificates of a PEM text, the holder's first.
///
/// # Errors
/// The text is not a chain of certificates.
pub fn summaries_from_pem(pem: &str) -> Result<Vec<Summary>, CertError> {
    chain_from_pem(pem, "cert")?.iter().map(Summary::of).collect()
}

/// Key and certificate for TLS, if they belong together.
///
/// # Errors
/// One of them cannot be read, or they do not match.
pub fn certified_key(
    key_pem: &Secret<String>,
    chain: Vec<CertificateDer<'static>>,
) -> Result<CertifiedKey, CertError> {
    let key =
        PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes()).map_err(|_| CertError::Key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => CertError::KeyMismatch,
        rustls::Error::InvalidCertificate(_) => {
            CertError::Malformed { field: "cert", reason: e.to_string() }
        }
        _ => CertError::Key,
    })
}

/// Checks a certificate before clients are given it: match of the key, times, chain, names.
///
/// `names` are the addresses or names of all members; `force` skips only them (ruling 40). With
/// `ca_pem` the chain must lead to one of its certificates; without, each certificate must be
/// signed by the next, and a single one is fine.
///
/// # Errors
/// The first check that fails; [`CertError::field`] names the parameter.
pub fn check_server_certificate(
    key_pem: &Secret<String>,
    cert_pem: &str,
    ca_pem: Option<&str>,
    names: &[String],
    force: bool,
    now: Time,
) -> Result<Summary, CertError> {
    let chain = chain_from_pem(cert_pem, "cert")?;
    let key = certified_key(key_pem, chain)?;
    for certificate in &key.cert {
        check_times(&Summary::of(certificate)?, now)?;
    }
    let (leaf, intermediates) = match key.cert.split_first() {
        Some((leaf, intermediates)) => (leaf, intermediates),
        None => return Err(CertError::KeyMismatch),
    };
    check_chain(leaf, intermediates, ca_pem, now)?;
    if !force {
        check_names(leaf, names)?;
    }
    Summary::of(leaf)
}

fn check_times(summary: &Summary, now: Time) -> Result<(), CertError> {
    let subject = summary.subject.clone();
    if now > summary.not_after {
        Err(CertError::Expired { subject, at: summary.not_after })
    } else if now < summary.not_before {
        Err(CertError::NotYetValid { subject, at: summary.not_before })
    } else {
        Ok(())
    }
}

fn check_chain(
    leaf: &CertificateDer<'static>,
    intermediates: &[CertificateDer<'static>],
    ca_pem: Option<&str>,
    now: Time,
) -> Result<(), CertError> {
    let (anchor, anchors) = match ca_pem {
        Some(pem) => ("ca", chain_from_pem(pem, "ca")?),
        None => ("cert", intermediates.last().cloned().into_iter().collect()),
    };
    if anchors.is_empty() || anchors.contains(leaf) {
        // A single certificate is its own anchor: whoever connects pins or trusts it.
        return Ok(());
    }
    let broken = |e: rustls::Error| CertError::Chain { anchor, reason: e.to_string() };
    let mut roots = RootCertStore::empty();
    for certificate in anchors {
        check_times(&read(&certificate, anchor)?, now)?;
        roots.add(certificate).map_err(broken)?;
    }
    let seconds = u64::try_from(now.0 / 1_000_000).unwrap_or(0);
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(leaf).map_err(broken)?,
        &roots,
        intermediates,
        UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
        provider().signature_verification_algorithms.all,
    )
    .map_err(broken)
}

fn check_names(leaf: &CertificateDer<'_>, names: &[String]) -> Result<(), CertError> {
    let parsed = ParsedCertificate::try_from(leaf)
        .map_err(|e| CertError::Malformed { field: "cert", reason: e.to_string() })?;
    let covered = |name: &String| {
        ServerName::try_from(name.as_str())
            .is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
    };
    let missing: Vec<String> = names.iter().filter(|name| !covered(name)).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(CertError::Names { names: missing }) }
}

fn read(certificate: &CertificateDer<'_>, field: &'static str) -> Result<Summary, CertError> {
    let malformed = |reason: String| CertError::Malformed { field, reason };
    let (rest, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|e| malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed("bytes behind the certificate".to_owned()));
    }
    let mut names = parsed.subject().iter_common_name();
    let common_name = match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().map(str::to_owned),
        _ => None,
    };
    let micros = |seconds: i64| Time(seconds.saturating_mul(1_000_000));
    Ok(Summary {
        subject: parsed.subject().to_string(),
        common_name,
        issuer: parsed.issuer().to_string(),
        sans: alternative_names(&parsed).map_err(malformed)?,
        not_before: micros(parsed.validity().not_before.timestamp()),
        not_after: micros(parsed.validity().not_after.timestamp()),
        fingerprint: sha256_text(&[certificate]),
        key_hash: sha256_text(&[parsed.public_key().raw]),
    })
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let extension = certificate.subject_alternative_name().map_err(|e| e.to_string())?;
    let names = extension.map(|found| found.value.general_names.as_slice()).unwrap_or_default();
    Ok(names.iter().filter_map(shown).collect())
}

/// One alternative name as text; kinds that nothing here looks at are left out.
fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::URI(uri) => Some(format!("URI:{uri}")),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| format!("IP:{address}"))
        }
        _ => None,
    }
}

/// The one cryptography provider of the daemon, also before it is installed process-wide.
pub fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::tests::{CLUSTER, NOW, Pki};

    const DAY: i64 = 86_400_000_000;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_fitting_certificate_passes_and_each_fault_names_its_field() {
        let pki = Pki::new();
        let other = Pki::new();
        let (ca, cert) = (pki.ca.as_str(), pki.node_certificate());
        let all = names(&["127.0.0.11", "n11.example", "n11"]);
        let check = |key: &Secret<String>, cert: &str, ca, names: &[String], force, now| {
            check_server_certificate(key, cert, ca, names, force, now)
        };
        let good = check(&pki.node_key, &cert, Some(ca), &all, false, NOW).expect("good");
        assert!(good.sans.contains(&"IP:127.0.0.11".to_owned()), "{:?}", good.sans);
        assert!(check(&pki.node_key, &cert, None, &all, false, NOW).is_ok());
        assert!(check(&pki.node_key, &format!("{cert}{ca}"), None, &all, false, NOW).is_ok());

        let more = names(&["127.0.0.11", "127.0.0.12"]);
        let late = Time(NOW.0 + 366 * DAY);
        let early = Time(NOW.0 - 30 * DAY);
        let foreign = format!("{cert}{}", other.ca);
        let junk = Secret::new("junk".to_owned());
        let key = &pki.node_key;
        let table = [
            (check(&other.node_key, &cert, None, &all, false, NOW), "key", "belong"),
            (check(&junk, &cert, None, &all, false, NOW), "key", "private key"),
            (check(key, "junk", None, &all, false, NOW), "cert", "no certificate"),
            (check(key, &cert, Some("junk"), &all, false, NOW), "ca", "no certificate"),
            (check(key, &cert, Some(ca), &all, false, late), "cert", "expired"),
            (check(key, &cert, Some(ca), &all, false, early), "cert", "not valid before"),
            (check(key, &cert, Some(ca), &more, false, NOW), "cert", "cover 127.0.0.12"),
            (check(key, &cert, Some(&other.ca), &all, true, NOW), "ca", "chain"),
            (check(key, &foreign, None, &all, true, NOW), "cert", "chain"),
        ];
        for (result, field, word) in table {
            let error = result.expect_err(word);
            assert!(error.field() == field && error.to_string().contains(word), "{error}");
        }
        assert!(check(key, &cert, Some(ca), &more, true, NOW).is_ok(), "force skips the names");
    }

    #[test]
    fn the_holder_is_found_by_the_uri_then_by_the_common_name() {
        let with = |sans: &[&str], common_name: Option<&str>| Summary {
            sans: sans.iter().map(|san| (*san).to_owned()).collect(),
            common_name: common_name.map(str::to_owned),
            ..summaries_from_pem(&Pki::new().ca).expect("a summary").remove(0)
        };
        let user = |name: &str| Holder::User(name.to_owned());
        let node = Holder::Node { node_id: 11, incarnation: 1 };
        let node_san = "URI:tiebeam://c1/node/11/1";
        let table = [
            (with(&["URI:tiebeam://c1/user/alice"], None), user("alice")),
            (with(&["URI:tiebeam://c1/user/alice"], Some("bob")), user("alice")),
            (with(&["URI:tiebeam://c2/user/alice"], Some("alice")), Holder::Nobody),
            (with(&["URI:tiebeam://c1/user/Alice"], Some("alice")), Holder::Nobody),
            (with(&["URI:tiebeam://c1/user/alice/x"], None), Holder::Nobody),
            (with(&[node_san], Some("admin")), node),
            (with(&[node_san, "URI:tiebeam://c1/user/admin"], None), Holder::Nobody),
            (with(&["URI:tiebeam://c1/node/011/1"], Some("admin")), Holder::Nobody),
            (with(&["DNS:x", "URI:https://x"], Some("alice")), user("alice")),
            (with(&[], Some("Alice Smith")), Holder::Nobody),
            (with(&[], None), Holder::Nobody),
        ];
        for (summary, holder) in table {
            assert_eq!(summary.holder("c1"), holder, "{summary:?}");
        }
    }

    #[test]
    fn a_summary_shows_what_was_issued() {
        let pki = Pki::new();
        let all = summaries_from_pem(&format!("{}{}", pki.node_certificate(), pki.ca));
        let all = all.expect("two certificates");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].issuer, all[1].subject);
        assert_eq!(all[0].common_name.as_deref(), Some("n11"));
        assert_eq!(all[0].holder(CLUSTER), Holder::Node { node_id: 11, incarnation: 1 });
        assert_eq!(all[0].key_hash, crate::ca::key_hash(&pki.node_key).expect("a key"));
        assert_ne!(all[0].fingerprint, all[1].fingerprint);
    }

    #[test]
    fn user_names_follow_the_wire() {
        for good in ["root", "_x", "a-b_9", &"a".repeat(32)] {
            assert!(is_user_name(good), "{good}");
        }
        for bad in ["", "9a", "-a", "Root", "a b", "ä", "a\0", &"a".repeat(33)] {
            assert!(!is_user_name(bad), "{bad}");
        }
    }
}
