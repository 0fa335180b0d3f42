//! The cluster's own CA: its certificate, and the certificates of nodes and users.
//!
//! This module owns issuing: CA 20 years, node certificates 1 year (ruling 40), and the files
//! beside the keys. What a certificate says is read by [`crate::certificate`]. It reads no clock:
//! the time is an argument. `init`, `join`, renewal and `dev` call it; it reports and never panics.
//! Peers use these certificates always, clients until `cert_update` brings another.

use crate::{
    certificate,
    durable::{self, DurableError},
    identity::{Identity, is_node_name},
    keys,
    secret::Secret,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SubjectPublicKeyInfo, date_time_ymd,
};
use std::{collections::BTreeSet, io, net::IpAddr, path::Path, path::PathBuf, time::Duration};
use tiebeam_proto::time::Time;

/// The CA's certificate, in the keys folder.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// The node's certificate, in the keys folder.
pub const NODE_CERTIFICATE: &str = "node.crt";
/// How long the CA's certificate is valid, in days.
pub const CA_DAYS: u64 = 20 * 365;
/// How long a node's or user's certificate is valid, in days.
pub const LEAF_DAYS: u64 = 365;
/// How far back a certificate's life begins, in days: clocks of machines differ.
const BACKDATED_DAYS: u64 = 1;
const DAY: Duration = Duration::from_secs(86_400);

/// A certificate cannot be issued, written or read.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A key is not a private or public key in PEM.
    #[error("the {0} cannot be used")]
    Key(&'static str, #[source] rcgen::Error),
    /// The CA's certificate cannot be used.
    #[error("the CA's certificate cannot be used")]
    Authority(#[source] rcgen::Error),
    /// A name cannot stand in a certificate.
    #[error("{0:?} cannot stand in a certificate")]
    Name(String),
    /// The certificate could not be signed.
    #[error("cannot sign a certificate")]
    Sign(#[source] rcgen::Error),
    /// A certificate file could not be written.
    #[error("cannot write a certificate")]
    Write(#[source] DurableError),
    /// A certificate file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A new cluster's CA certificate (PEM), signed by its own key.
///
/// # Errors
/// The key cannot be used.
pub fn create_authority(
    cluster_id: &str,
    ca_key: &Secret<String>,
    now: Time,
) -> Result<String, CaError> {
    let key = key_pair(ca_key, "CA's key")?;
    let mut params = params(&format!("Tiebeam CA {cluster_id}"), Vec::new(), CA_DAYS, now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.self_signed(&key).map(|certificate| certificate.pem()).map_err(CaError::Sign)
}

/// The CA, ready to sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// Whether this key (PEM) is the one of the certificate (PEM).
pub fn is_key_of(key: &Secret<String>, certificate: &str) -> bool {
    let summaries = certificate::summaries_from_pem(certificate).unwrap_or_default();
    let of_it = summaries.first().map(|summary| &summary.key_hash);
    key_hash(key).is_ok_and(|hash| Some(&hash) == of_it)
}

impl Authority {
    /// Takes the CA's certificate and key (both PEM).
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn new(ca_certificate: &str, ca_key: &Secret<String>) -> Result<Authority, CaError> {
        let key = key_pair(ca_key, "CA's key")?;
        let issuer = Issuer::from_ca_cert_pem(ca_certificate, key).map_err(CaError::Authority)?;
        Ok(Authority { issuer })
    }

    /// A node's certificate (PEM) for its public key (PEM), valid for its name and its hosts.
    ///
    /// `hosts` are addresses or names without port, as clients and peers dial them; addresses
    /// that mean "all" are left out. It is for servers and clients: peers are both.
    ///
    /// # Errors
    /// The key or a name cannot be used.
    pub fn issue_node(
        &self,
        public_key: &str,
        node: &Identity,
        hosts: &[String],
        now: Time,
    ) -> Result<String, CaError> {
        let uri = certificate::node_uri(&node.cluster_id, node.node_id, node.incarnation);
        let mut sans = vec![uri_name(uri)?];
        // A set, because listen, advertise and name are often the same.
        let hosts: BTreeSet<&str> =
            hosts.iter().map(String::as_str).chain([node.name.as_str()]).collect();
        for host in hosts {
            sans.extend(host_name(host)?);
        }
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(public_key, &node.name, sans, usages, now)
    }

    /// A user's certificate (PEM) for the user's public key (PEM), to log in with.
    ///
    /// # Errors
    /// The key or the name cannot be used.
    pub fn issue_user(
        &self,
        public_key: &str,
        cluster_id: &str,
        user: &str,
        now: Time,
    ) -> Result<String, CaError> {
        if !certificate::is_user_name(user) {
            return Err(CaError::Name(user.to_owned()));
        }
        let sans = vec![uri_name(certificate::user_uri(cluster_id, user))?];
        self.issue(public_key, user, sans, vec![ExtendedKeyUsagePurpose::ClientAuth], now)
    }

    fn issue(
        &self,
        public_key: &str,
        common_name: &str,
        sans: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        now: Time,
    ) -> Result<String, CaError> {
        let public_key = SubjectPublicKeyInfo::from_pem(public_key)
            .map_err(|e| CaError::Key("holder's public key", e))?;
        let mut params = params(common_name, sans, LEAF_DAYS, now);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        params
            .signed_by(&public_key, &self.issuer)
            .map(|certificate| certificate.pem())
            .map_err(CaError::Sign)
    }
}

/// The public key (PEM) of a private one: all that a node sends to have a certificate issued.
///
/// # Errors
/// It is not a private key.
pub fn public_key(key: &Secret<String>) -> Result<String, CaError> {
    Ok(key_pair(key, "private key")?.public_key_pem())
}

/// `sha256:<hex>` of the public key (SubjectPublicKeyInfo) of a private one: what State keeps of a
/// member (ruling 27).
///
/// # Errors
/// It is not a private key.
pub fn key_hash(key: &Secret<String>) -> Result<String, CaError> {
    let pair = key_pair(key, "private key")?;
    Ok(keys::cluster::sha256_text(&[&pair.subject_public_key_info()]))
}

/// A request for a certificate (PEM), signed by the key that it is for.
///
/// # Errors
/// It is not a private key.
pub fn certificate_request(key: &Secret<String>) -> Result<String, CaError> {
    let pair = key_pair(key, "private key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&pair).map_err(CaError::Sign)?;
    request.pem().map_err(CaError::Sign)
}

/// The public key (PEM) of a request that was signed by that key, and its hash as State keeps it.
/// Nothing else of the request counts.
///
/// # Errors
/// It is no such request.
pub fn requested_key(request: &str) -> Result<(String, String), CaError> {
    let read = CertificateSigningRequestParams::from_pem(request);
    let read = read.map_err(|error| CaError::Key("certificate request", error))?;
    let public = read.public_key.subject_public_key_info();
    let hash = keys::cluster::sha256_text(&[&public]);
    Ok((pem("PUBLIC KEY", &public), hash))
}

/// DER as PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut lines = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        lines.push_str(line);
        lines.push('\n');
        rest = more;
    }
    lines.push_str(&format!("-----END {label}-----\n"));
    lines
}

/// Writes a certificate (PEM) into the keys folder, in place of an older one, mode 0600.
///
/// # Errors
/// It cannot be written; the older one is then still there.
pub fn write_certificate(data: &Path, name: &str, pem: &str) -> Result<(), CaError> {
    let path = data.join(keys::FOLDER).join(name);
    durable::replace(&path, pem.as_bytes(), 0o600).map_err(CaError::Write)
}

/// Reads a certificate (PEM) from the keys folder.
///
/// # Errors
/// It cannot be read.
pub fn read_certificate(data: &Path, name: &str) -> Result<String, CaError> {
    let path = data.join(keys::FOLDER).join(name);
    std::fs::read_to_string(&path).map_err(|source| CaError::Read { path, source })
}

/// Whether a certificate is due for renewal: two thirds of its life are over (ruling 40).
pub fn is_renewal_due(certificate: &certificate::Summary, now: Time) -> bool {
    let life = certificate.not_after.0.saturating_sub(certificate.not_before.0);
    now.0 >= certificate.not_before.0.saturating_add(life / 3 * 2)
}

fn key_pair(pem: &Secret<String>, what: &'static str) -> Result<KeyPair, CaError> {
    KeyPair::from_pem(pem.expose()).map_err(|e| CaError::Key(what, e))
}

fn params(common_name: &str, sans: Vec<SanType>, days: u64, now: Time) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    let seconds = Duration::from_secs(u64::try_from(now.0 / 1_000_000).unwrap_or(0));
    let day = |count: u64| DAY.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1) + seconds.saturating_sub(day(BACKDATED_DAYS));
    params.not_after = date_time_ymd(1970, 1, 1) + seconds.saturating_add(day(days));
    params.distinguished_name = name;
    params.subject_alt_names = sans;
    params
}

fn uri_name(uri: String) -> Result<SanType, CaError> {
    uri.as_str().try_into().map(SanType::URI).map_err(|_| CaError::Name(uri))
}

/// The alternative name of a host; `None` for an address that means "all".
fn host_name(host: &str) -> Result<Option<SanType>, CaError> {
    let wrong = || CaError::Name(host.to_owned());
    match host.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Ok(None),
        Ok(address) => Ok(Some(SanType::IpAddress(address))),
        Err(_) if is_node_name(host) || is_dns_name(host) => {
            host.try_into().map(|name| Some(SanType::DnsName(name))).map_err(|_| wrong())
        }
        Err(_) => Err(wrong()),
    }
}

fn is_dns_name(host: &str) -> bool {
    host.len() <= 253 && host.split('.').all(is_node_name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{certificate::summaries_from_pem, durable::scratch::Folder, keys::Keys};

    /// A time in November 2026.
    pub const NOW: Time = Time(1_795_147_506_000_000);
    /// The cluster id of the tests.
    pub const CLUSTER: &str = "c1";

    /// A CA and one node's key.
    pub struct Pki {
        pub ca: String,
        pub ca_key: Secret<String>,
        pub node_key: Secret<String>,
    }

    impl Pki {
        pub fn new() -> Pki {
            let data = Folder::new();
            let keys = Keys::create(data.path()).unwrap_or_else(|e| panic!("{e}"));
            let ca_key = keys.ca_key.expect("a CA key");
            let ca = create_authority(CLUSTER, &ca_key, NOW).expect("a CA");
            Pki { ca, ca_key, node_key: keys.node_key }
        }

        pub fn authority(&self) -> Authority {
            Authority::new(&self.ca, &self.ca_key).unwrap_or_else(|e| panic!("{e}"))
        }

        pub fn node_certificate(&self) -> String {
            let hosts = ["127.0.0.11", "0.0.0.0", "::1", "n11.example"].map(str::to_owned);
            self.authority()
                .issue_node(&public_key(&self.node_key).expect("public"), &node(), &hosts, NOW)
                .expect("a certificate")
        }
    }

    fn node() -> Identity {
        Identity {
            format: 1,
            cluster_id: CLUSTER.to_owned(),
            node_id: 11,
            incarnation: 1,
            name: "n11".to_owned(),
        }
    }

    #[test]
    fn a_node_certificate_names_the_node_its_hosts_and_its_life() {
        let certificate =
            summaries_from_pem(&Pki::new().node_certificate()).expect("read").remove(0);
        let mut sans = certificate.sans.clone();
        sans.sort();
        assert_eq!(
            sans,
            ["DNS:n11", "DNS:n11.example", "IP:127.0.0.11", "IP:::1", "URI:tiebeam://c1/node/11/1"]
        );
        let days = |time: Time| (time.0 - NOW.0) / 86_400_000_000;
        assert_eq!((days(certificate.not_before), days(certificate.not_after)), (-1, 365));
        assert!(!is_renewal_due(&certificate, Time(NOW.0 + 240 * 86_400_000_000)));
        assert!(is_renewal_due(&certificate, Time(NOW.0 + 244 * 86_400_000_000)));
    }

    #[test]
    fn a_renewed_certificate_keeps_the_key_and_changes_the_rest() {
        let pki = Pki::new();
        let [old, new] = [pki.node_certificate(), pki.node_certificate()]
            .map(|pem| summaries_from_pem(&pem).expect("read").remove(0));
        assert_eq!(old.key_hash, new.key_hash);
        assert_ne!(old.fingerprint, new.fingerprint);
    }

    #[test]
    fn a_user_certificate_logs_that_user_in_and_serves_nobody() {
        let pki = Pki::new();
        let public = public_key(&pki.node_key).expect("public");
        let pem = pki.authority().issue_user(&public, CLUSTER, "alice", NOW).expect("issued");
        let certificate = summaries_from_pem(&pem).expect("read").remove(0);
        let alice = certificate::Holder::User("alice".to_owned());
        assert_eq!(certificate.holder(CLUSTER), alice);
        assert_eq!(certificate.holder("c2"), certificate::Holder::Nobody);
        let server = certificate::check_server_certificate(
            &pki.node_key,
            &pem,
            Some(&pki.ca),
            &[],
            false,
            NOW,
        );
        assert_eq!(server.expect_err("not for servers").field(), "ca");
        assert!(pki.authority().issue_user(&public, CLUSTER, "a/b", NOW).is_err());
    }

    #[test]
    fn a_request_proves_the_key_and_says_nothing_else() {
        let pki = Pki::new();
        let request = certificate_request(&pki.node_key).expect("a request");
        let (public, hash) = requested_key(&request).expect("its key");
        assert_eq!(hash, key_hash(&pki.node_key).expect("the key's hash"));
        let issued = pki.authority().issue_node(&public, &node(), &[], NOW).expect("issued");
        let issued = summaries_from_pem(&issued).expect("read").remove(0);
        assert_eq!(issued.key_hash, hash);
        let mut forged = request.into_bytes();
        let at = forged.len() - 60;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        assert!(requested_key(&String::from_utf8_lossy(&forged)).is_err());
        assert!(requested_key(&public).is_err());
    }

    #[test]
    fn names_that_cannot_stand_in_a_certificate_are_refused_by_name() {
        let pki = Pki::new();
        let public = public_key(&pki.node_key).expect("public");
        for bad in ["a b", "x_y", "host:20003", "", "ä.example"] {
            let hosts = [bad.to_owned()];
            let error = pki.authority().issue_node(&public, &node(), &hosts, NOW);
            assert!(matches!(error, Err(CaError::Name(name)) if name == bad), "{bad}");
        }
    }

    #[test]
    fn certificates_are_kept_beside_the_keys() {
        let data = Folder::new();
        Keys::create(data.path()).unwrap_or_else(|e| panic!("{e}"));
        let pki = Pki::new();
        for pem in [pki.ca.clone(), pki.node_certificate()] {
            write_certificate(data.path(), NODE_CERTIFICATE, &pem).expect("written");
            assert_eq!(read_certificate(data.path(), NODE_CERTIFICATE).expect("read"), pem);
        }
        assert!(Keys::load(data.path()).is_ok());
    }
}
