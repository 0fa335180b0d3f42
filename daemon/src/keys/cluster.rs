//! The key that all members share, and the three keys made from it (rulings 4, 21, 26).
//!
//! `cluster.key` holds 32 random bytes with a number; a rotation adds a line, and older keys stay
//! to open what they sealed. HKDF-SHA256 makes from each: `seal` (secret values at rest), `commit`
//! (salts of the commitments in records) and `token` (bearer tokens, one-time secrets). This
//! module does no I/O; it reports and never panics.
//!
//! A sealed value is `sealed1.<key number>.<base64url of salt ‖ ciphertext ‖ tag>`. Each value has
//! a 32-byte random salt and so an AES-256-GCM key of its own; that is why the nonce can be zero:
//! no key is ever used twice. The part before the last dot is authenticated too.

use super::{CLUSTER_KEY, KeyError};
use crate::secret::Secret;
use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::{aead, digest, hkdf, hmac, rand::SecureRandom};
use std::collections::BTreeMap;
use std::sync::Arc;

/// First line of `cluster.key`.
const HEADER: &str = "tiebeam cluster key 1";
/// Bytes of a key, of a salt and of a SHA-256 digest.
const KEY_BYTES: usize = 32;
/// Cluster keys that are kept; rotations are rare (a node was removed).
const KEYS_MAX: usize = 1000;
const TOO_MANY: KeyError =
    KeyError::Malformed { file: CLUSTER_KEY, reason: "there are too many keys" };
/// Largest plain value, in bytes: all parameters of a call, whose body has 1 MiB.
pub const SEALED_BYTES_MAX: usize = 2 << 20;

/// One cluster key and what is derived from it.
struct ClusterKey {
    root: Secret<[u8; KEY_BYTES]>,
    seal: hkdf::Prk,
    commit: hmac::Key,
    token: hmac::Key,
    print: String,
}

/// The cluster keys that this node has; the newest is used for everything new. More of them may
/// come while others use it.
pub struct ClusterKeys(ArcSwap<Ring>);

/// One consistent set of them.
struct Ring {
    newest: u32,
    keys: BTreeMap<u32, Arc<ClusterKey>>,
}

impl Ring {
    fn key(&self, number: u32) -> Result<&ClusterKey, KeyError> {
        self.keys.get(&number).map(AsRef::as_ref).ok_or(KeyError::UnknownKey(number))
    }
}

impl ClusterKeys {
    fn of(keys: BTreeMap<u32, Arc<ClusterKey>>) -> Option<ClusterKeys> {
        let (newest, _) = keys.last_key_value().filter(|_| keys.len() <= KEYS_MAX)?;
        Some(ClusterKeys(ArcSwap::from_pointee(Ring { newest: *newest, keys })))
    }

    fn made(number: u32) -> Result<ClusterKeys, KeyError> {
        let key = ClusterKey::new(Secret::new(random::<KEY_BYTES>()?))?;
        ClusterKeys::of(BTreeMap::from([(number, Arc::new(key))])).ok_or(TOO_MANY)
    }

    /// The first key of a new cluster; its number is 1.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<ClusterKeys, KeyError> {
        ClusterKeys::made(1)
    }

    /// The same keys and a new one, for new values (ruling 21: a node was removed).
    ///
    /// # Errors
    /// The system gives no random bytes, or there are too many keys.
    pub fn rotated(&self) -> Result<ClusterKeys, KeyError> {
        self.with(&self.successor(0)?)
    }

    /// One new key alone, with a number above `least` and above those that are here.
    ///
    /// # Errors
    /// As [`ClusterKeys::rotated`].
    pub fn successor(&self, least: u32) -> Result<ClusterKeys, KeyError> {
        ClusterKeys::made(self.newest().max(least).checked_add(1).ok_or(TOO_MANY)?)
    }

    /// These keys and others; of two with one number, the other's.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn with(&self, others: &ClusterKeys) -> Result<ClusterKeys, KeyError> {
        let mut keys = self.0.load().keys.clone();
        keys.extend(others.0.load().keys.iter().map(|(number, key)| (*number, key.clone())));
        ClusterKeys::of(keys).ok_or(TOO_MANY)
    }

    /// Uses what `newer` has from now on, everywhere where these keys are used.
    pub(super) fn put(&self, newer: &ClusterKeys) {
        self.0.store(newer.0.load_full());
    }

    /// The key of this number alone, for a member that lacks it.
    pub fn only(&self, number: u32) -> Option<ClusterKeys> {
        let key = self.0.load().keys.get(&number)?.clone();
        ClusterKeys::of(BTreeMap::from([(number, key)]))
    }

    /// Tells a key from others with its number, and nothing of it.
    pub fn fingerprint(&self, number: u32) -> Option<String> {
        self.0.load().keys.get(&number).map(|key| key.print.clone())
    }

    /// The content of `cluster.key`: a header, then `<number> <base64url>` per key, newest last.
    pub fn to_text(&self) -> Secret<String> {
        // Room for all of it, so that no half-written copy is left behind in memory.
        let ring = self.0.load();
        let mut text = String::with_capacity(HEADER.len() + 1 + 56 * ring.keys.len());
        text.push_str(HEADER);
        text.push('\n');
        for (number, key) in &ring.keys {
            text.push_str(&format!("{number} "));
            BASE64.encode_string(key.root.expose(), &mut text);
            text.push('\n');
        }
        Secret::new(text)
    }

    /// Reads the content of `cluster.key`.
    ///
    /// # Errors
    /// It is not the file of this format.
    pub fn from_text(text: &Secret<String>) -> Result<ClusterKeys, KeyError> {
        let malformed = |reason| KeyError::Malformed { file: CLUSTER_KEY, reason };
        let mut lines = text.expose().lines();
        if lines.next() != Some(HEADER) {
            return Err(malformed("its first line is not `tiebeam cluster key 1`"));
        }
        let mut keys = BTreeMap::new();
        for line in lines {
            let (number, root) = line.split_once(' ').ok_or(malformed("a line without a key"))?;
            let number = parse_number(number).ok_or(malformed("a key without a number"))?;
            let mut bytes = Secret::new([0; KEY_BYTES]);
            let length = BASE64
                .decode_slice(root, bytes.expose_mut())
                .map_err(|_| malformed("a key that is not 32 bytes in base64url"))?;
            if length != KEY_BYTES {
                return Err(malformed("a key that is not 32 bytes in base64url"));
            }
            if keys.insert(number, Arc::new(ClusterKey::new(bytes)?)).is_some() {
                return Err(malformed("two keys with one number"));
            }
        }
        ClusterKeys::of(keys).ok_or(malformed("no key in it, or too many"))
    }

    /// The number of the key that new values get.
    pub fn newest(&self) -> u32 {
        self.0.load().newest
    }

    /// Seals a secret value, to be kept in State, log and history.
    ///
    /// # Errors
    /// It has more than [`SEALED_BYTES_MAX`] bytes, or the system gives no random bytes.
    pub fn seal(&self, plain: &[u8]) -> Result<String, KeyError> {
        if plain.len() > SEALED_BYTES_MAX {
            return Err(KeyError::Sealed("the value is too large"));
        }
        let ring = self.0.load();
        let prefix = format!("sealed1.{}", ring.newest);
        let salt = random::<KEY_BYTES>()?;
        let key = ring.key(ring.newest)?.value_key(&salt)?;
        // Room for the tag, so that the plain text is never left behind by a reallocation.
        let mut value = Secret::new(Vec::with_capacity(plain.len() + aead::MAX_TAG_LEN));
        value.expose_mut().extend_from_slice(plain);
        key.seal_in_place_append_tag(zero_nonce(), aead::Aad::from(&prefix), value.expose_mut())
            .map_err(|_| KeyError::Crypto("seal a value"))?;
        let sealed = [&salt[..], value.expose()].concat();
        Ok(format!("{prefix}.{}", BASE64.encode(sealed)))
    }

    /// Opens a sealed value.
    ///
    /// # Errors
    /// It is not a sealed value, was changed, or its key is not here.
    pub fn open(&self, sealed: &str) -> Result<Secret<Vec<u8>>, KeyError> {
        let malformed = KeyError::Sealed("it is not of the form sealed1.<number>.<text>");
        let Some((prefix, text)) = sealed.rsplit_once('.') else { return Err(malformed) };
        let Some(number) = prefix.strip_prefix("sealed1.").and_then(parse_number) else {
            return Err(malformed);
        };
        let mut bytes = BASE64.decode(text).map_err(|_| malformed)?;
        let Some((salt, value)) = bytes.split_first_chunk_mut::<KEY_BYTES>() else {
            return Err(KeyError::Sealed("it is too short"));
        };
        let key = self.0.load().key(number)?.value_key(salt)?;
        let plain = key
            .open_in_place(zero_nonce(), aead::Aad::from(prefix), value)
            .map_err(|_| KeyError::Sealed("it was changed, or sealed by another cluster"))?;
        let opened = Secret::new(plain.to_vec());
        zeroize::Zeroize::zeroize(&mut bytes);
        Ok(opened)
    }

    /// The salt of a commitment: HMAC(`commit`, job id ‖ 0 ‖ path). Publishing it proves one value.
    ///
    /// # Errors
    /// None in practice: the newest key is always here.
    pub fn commitment_salt(&self, job_id: &str, path: &str) -> Result<[u8; KEY_BYTES], KeyError> {
        let ring = self.0.load();
        let mut salt = hmac::Context::with_key(&ring.key(ring.newest)?.commit);
        salt.update(job_id.as_bytes());
        salt.update(&[0]);
        salt.update(path.as_bytes());
        digest_bytes(salt.sign().as_ref())
    }

    /// What stands for a secret value in records: `sha256:<hex>` of salt ‖ canonical JSON.
    ///
    /// # Errors
    /// As [`ClusterKeys::commitment_salt`].
    pub fn commitment(&self, job: &str, path: &str, value: &[u8]) -> Result<String, KeyError> {
        let salt = self.commitment_salt(job, path)?;
        Ok(sha256_text(&[&salt, value]))
    }

    /// A nonce for [`ClusterKeys::derive`]: `<key number>.<random>`. It is no secret.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn fresh_nonce(&self) -> Result<String, KeyError> {
        Ok(format!("{}.{}", self.newest(), BASE64.encode(random::<16>()?)))
    }

    /// A one-time secret (join token, first password): derived, never stored (ruling 26).
    ///
    /// The nonce comes from [`ClusterKeys::fresh_nonce`] and names the key, so that a rotation
    /// does not change a secret that was already handed out.
    ///
    /// # Errors
    /// The nonce is not one, or its key is not here.
    pub fn derive(&self, purpose: &str, id: &str, nonce: &str) -> Result<Secret<String>, KeyError> {
        let number = nonce.split_once('.').and_then(|(number, _)| parse_number(number));
        let number = number.ok_or(KeyError::Sealed("its nonce names no key"))?;
        let mut mac = hmac::Context::with_key(&self.0.load().key(number)?.token);
        // A token's text begins with `tb1.`; this does not, so neither can pass for the other.
        for part in ["one-time secret", purpose, id, nonce] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        Ok(Secret::new(BASE64.encode(mac.sign())))
    }

    /// The mac of a bearer token's text.
    ///
    /// # Errors
    /// The key is not here.
    pub fn token_mac(&self, number: u32, text: &str) -> Result<[u8; KEY_BYTES], KeyError> {
        digest_bytes(hmac::sign(&self.0.load().key(number)?.token, text.as_bytes()).as_ref())
    }

    /// Whether a mac belongs to a bearer token's text; compared in constant time.
    pub fn token_mac_fits(&self, number: u32, text: &str, mac: &[u8]) -> bool {
        let ring = self.0.load();
        ring.key(number).is_ok_and(|key| hmac::verify(&key.token, text.as_bytes(), mac).is_ok())
    }
}

impl ClusterKey {
    fn new(root: Secret<[u8; KEY_BYTES]>) -> Result<ClusterKey, KeyError> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, HEADER.as_bytes());
        let prk = salt.extract(root.expose());
        let derived = |name: &'static str| -> Result<Secret<[u8; KEY_BYTES]>, KeyError> {
            let mut bytes = Secret::new([0; KEY_BYTES]);
            prk.expand(&[name.as_bytes()], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(bytes.expose_mut()))
                .map_err(|_| KeyError::Crypto("derive a key"))?;
            Ok(bytes)
        };
        Ok(ClusterKey {
            seal: hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, derived("seal")?.expose()),
            commit: hmac::Key::new(hmac::HMAC_SHA256, derived("commit")?.expose()),
            token: hmac::Key::new(hmac::HMAC_SHA256, derived("token")?.expose()),
            print: sha256_text(&[derived("fingerprint")?.expose()]),
            root,
        })
    }

    /// The key of one sealed value.
    fn value_key(&self, salt: &[u8; KEY_BYTES]) -> Result<aead::LessSafeKey, KeyError> {
        self.seal
            .expand(&[b"sealed value 1", salt], &aead::AES_256_GCM)
            .map(|okm| aead::LessSafeKey::new(aead::UnboundKey::from(okm)))
            .map_err(|_| KeyError::Crypto("derive a key"))
    }
}

/// What State keeps of a one-time secret: hex SHA-256, as the job `user_init` makes it too. The
/// secret has 256 random bits, so a slow hash would add nothing.
pub fn one_time_hash(secret: &str) -> String {
    tiebeam_proto::canonical::hex(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref())
}

/// Random bytes of the system.
///
/// # Errors
/// The system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KeyError::Crypto("give random bytes"))?;
    Ok(bytes)
}

/// `sha256:<hex>` of the parts, one after another.
pub(crate) fn sha256_text(parts: &[&[u8]]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(part);
    }
    let hex: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A number in its one canonical form: no sign, no leading zero.
pub(crate) fn parse_number(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|number| number.to_string() == text)
}

fn digest_bytes(digest: &[u8]) -> Result<[u8; KEY_BYTES], KeyError> {
    digest.try_into().map_err(|_| KeyError::Crypto("make a digest of 32 bytes"))
}

fn zero_nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys that every run of these tests shares.
    fn fixed() -> ClusterKeys {
        let line = |n: u32, byte: u8| format!("{n} {}\n", BASE64.encode([byte; 32]));
        let text = format!("{HEADER}\n{}{}", line(1, 1), line(2, 2));
        ClusterKeys::from_text(&Secret::new(text)).unwrap_or_else(|e| panic!("{e}"))
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_again(plain in proptest::collection::vec(any::<u8>(), 0..300)) {
            let keys = fixed();
            let sealed = keys.seal(&plain).unwrap_or_else(|e| panic!("{e}"));
            prop_assert!(sealed.starts_with("sealed1.2."));
            let opened = keys.open(&sealed).unwrap_or_else(|e| panic!("{e}"));
            prop_assert_eq!(opened.expose(), &plain);
        }

        #[test]
        fn no_text_makes_open_panic(text in ".{0,200}", tail in "[A-Za-z0-9_-]{0,90}") {
            let keys = fixed();
            prop_assert!(keys.open(&text).is_err());
            let close = format!("sealed1.1.{tail}");
            prop_assert!(keys.open(&close).is_err());
        }
    }

    #[test]
    fn a_sealed_value_changed_in_any_byte_does_not_open() {
        let keys = fixed();
        let sealed = keys.seal(b"bmc password").unwrap_or_else(|e| panic!("{e}"));
        for position in 0..sealed.len() {
            for byte in [b'A', b'B', b'1', b'9', b'.', b'_'] {
                let mut bytes = sealed.clone().into_bytes();
                if bytes[position] == byte {
                    continue;
                }
                bytes[position] = byte;
                let text = String::from_utf8(bytes).expect("ascii");
                assert!(keys.open(&text).is_err(), "byte {position} as {}", byte as char);
            }
        }
        for cut in 0..sealed.len() {
            assert!(keys.open(&sealed[..cut]).is_err());
        }
        assert!(keys.open(&format!("{sealed}A")).is_err());
        assert!(keys.open(&sealed.replace("sealed1.2.", "sealed1.02.")).is_err());
    }

    #[test]
    fn equal_values_are_sealed_to_different_texts() {
        let keys = fixed();
        assert_ne!(keys.seal(b"x").ok(), keys.seal(b"x").ok());
        assert!(keys.seal(&vec![0; SEALED_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn after_a_rotation_old_values_open_and_new_ones_use_the_new_key() {
        let old = fixed();
        let sealed = old.seal(b"x").unwrap_or_else(|e| panic!("{e}"));
        let nonce = old.fresh_nonce().unwrap_or_else(|e| panic!("{e}"));
        let new = old.rotated().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(new.newest(), 3);
        assert!(new.open(&sealed).is_ok());
        let newer = new.seal(b"x").unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(old.open(&newer), Err(KeyError::UnknownKey(3))));
        assert_eq!(new.fingerprint(2), old.fingerprint(2));
        assert_ne!(new.fingerprint(3), old.successor(0).ok().and_then(|one| one.fingerprint(3)));
        let derive =
            |keys: &ClusterKeys| keys.derive("join", "12", &nonce).map(|s| s.expose().clone()).ok();
        assert!(derive(&old).is_some());
        assert_eq!(derive(&old), derive(&new));
    }

    #[test]
    fn a_commitment_is_bound_to_job_path_and_value() {
        let keys = fixed();
        let one = |job, path, value: &str| keys.commitment(job, path, value.as_bytes()).ok();
        let base = one("11.1", "users/a", "\"x\"");
        assert!(base.as_deref().is_some_and(|t| t.starts_with("sha256:") && t.len() == 71));
        assert_eq!(base, one("11.1", "users/a", "\"x\""));
        for other in [
            one("11.2", "users/a", "\"x\""),
            one("11.1", "users/b", "\"x\""),
            one("11.1", "users/a", "\"y\""),
        ] {
            assert_ne!(base, other);
        }
        // Whoever gets the salt can check one value, with nothing but SHA-256.
        let salt = keys.commitment_salt("11.1", "users/a").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(base, Some(sha256_text(&[&salt, b"\"x\""])));
    }

    #[test]
    fn one_time_secrets_differ_by_purpose_id_and_nonce() {
        let keys = fixed();
        let get = |p, i, n| keys.derive(p, i, n).map(|s| s.expose().clone()).ok();
        let all = [
            get("join", "12", "1.a"),
            get("join", "12", "2.a"),
            get("join", "1", "1.a"),
            get("join1", "2", "1.a"),
            get("user_init", "12", "1.a"),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().flatten().collect();
        assert_eq!(different.len(), all.len());
        assert!(get("join", "12", "7.a").is_none() && get("join", "12", "x").is_none());
        // Plain SHA-256, as the job `user_init` compares it.
        let of_a = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
        assert_eq!(one_time_hash("a"), of_a);
    }

    #[test]
    fn a_damaged_cluster_key_is_refused() {
        let good = fixed().to_text();
        let good = good.expose().as_str();
        let line = good.lines().nth(1).expect("a key").to_owned();
        for bad in [
            String::new(),
            HEADER.to_owned(),
            good.replace("key 1\n", "key 2\n"),
            good.replace("1 ", "x "),
            good.replace("1 ", "01 "),
            format!("{good}{line}\n"),
            format!("{good}3 AAAA\n"),
            format!("{good}3\n"),
        ] {
            assert!(ClusterKeys::from_text(&Secret::new(bad.clone())).is_err(), "{bad}");
        }
    }
}
