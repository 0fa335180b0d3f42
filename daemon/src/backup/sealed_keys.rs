//! The keys of a cluster in a backup, under a passphrase (ruling 49).
//!
//! argon2id makes a key from the passphrase and a random salt, AES-256-GCM seals with it. Each
//! backup has a salt and so a key of its own; that is why the nonce can be zero. The cost and the
//! salt are authenticated with the rest. It does no I/O but for the passphrase's file.

use crate::keys::{ClusterKeys, KeyError, cluster::random};
use crate::secret::Secret;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::aead;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// argon2id: memory in KiB, passes, lanes. A backup is opened once, by somebody who waits for it,
/// and stolen for good: it costs much more than a login.
const COST: (u32, u32, u32) = (256 * 1024, 4, 1);
/// Most that a backup may ask for: 1 GiB, 16 passes, 8 lanes.
const COST_MAX: (u32, u32, u32) = (1024 * 1024, 16, 8);
/// The shortest passphrase in bytes: it is all that stands before the keys.
const PASSPHRASE_BYTES_MIN: usize = 12;

/// What stands between the cluster's keys and the CA's in what is sealed: neither has it.
const BETWEEN: u8 = 0;

/// Why keys cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealedKeysError {
    /// The passphrase's file cannot be read.
    #[error("cannot read the passphrase file {}", .0.display())]
    PassphraseFile(PathBuf, #[source] std::io::Error),
    /// The passphrase is too short.
    #[error("the first line of {} must be a passphrase of 12 bytes or more", .0.display())]
    Passphrase(PathBuf),
    /// The part is not what a backup has.
    #[error("the keys in the backup cannot be read: {0}")]
    Form(&'static str),
    /// The passphrase is another one.
    #[error("the passphrase does not open the keys in the backup")]
    Wrong,
    /// A key that was sealed is none.
    #[error("a key in the backup cannot be used")]
    Key(#[source] KeyError),
    /// The cryptography refused.
    #[error("the system's cryptography refused to {0}")]
    Crypto(&'static str),
}

/// The form in the backup.
#[derive(Serialize, Deserialize)]
struct Sealed {
    format: u32,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    sealed: String,
}

/// Keys that were opened.
pub struct OpenedKeys {
    /// What all members share.
    pub cluster: ClusterKeys,
    /// The CA's private key (PEM), if the backup's node had it.
    pub ca_key: Option<Secret<String>>,
}

/// Reads a passphrase: the first line of a file.
///
/// # Errors
/// The file cannot be read, or the line is too short.
pub fn passphrase(file: &Path) -> Result<Secret<String>, SealedKeysError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| SealedKeysError::PassphraseFile(file.to_owned(), error))?;
    let text = Zeroizing::new(text);
    let line = text.lines().next().unwrap_or_default();
    if line.len() < PASSPHRASE_BYTES_MIN {
        return Err(SealedKeysError::Passphrase(file.to_owned()));
    }
    Ok(Secret::new(line.to_owned()))
}

/// Seals the keys: the bytes of the part.
///
/// # Errors
/// The system gives no random bytes, or refuses the operation.
pub fn seal(
    cluster: &ClusterKeys,
    ca_key: Option<&Secret<String>>,
    passphrase: &Secret<String>,
) -> Result<Vec<u8>, SealedKeysError> {
    let (memory_kib, passes, lanes) = COST;
    let salt = BASE64.encode(random::<32>().map_err(SealedKeysError::Key)?);
    let mut sealed = Sealed { format: 1, memory_kib, passes, lanes, salt, sealed: String::new() };
    let (cluster, ca_key) = (cluster.to_text(), ca_key.map(|key| key.expose().as_str()));
    // Room for all of it and the tag, so that no copy is left behind by a reallocation.
    let length = cluster.expose().len() + ca_key.map_or(0, str::len) + 1 + aead::MAX_TAG_LEN;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    bytes.extend_from_slice(cluster.expose().as_bytes());
    bytes.push(BETWEEN);
    bytes.extend_from_slice(ca_key.unwrap_or_default().as_bytes());
    let key = sealed.key(passphrase)?;
    let aad = aead::Aad::from(sealed.authenticated());
    key.seal_in_place_append_tag(zero_nonce(), aad, &mut *bytes)
        .map_err(|_| SealedKeysError::Crypto("seal the keys"))?;
    sealed.sealed = BASE64.encode(&*bytes);
    serde_json::to_vec_pretty(&sealed).map_err(|_| SealedKeysError::Crypto("write the keys"))
}

/// Opens the keys of a backup.
///
/// # Errors
/// It is another passphrase, or the part was changed.
pub fn open(part: &[u8], passphrase: &Secret<String>) -> Result<OpenedKeys, SealedKeysError> {
    let sealed: Sealed =
        serde_json::from_slice(part).map_err(|_| SealedKeysError::Form("it is not their form"))?;
    if sealed.format != 1 {
        return Err(SealedKeysError::Form("a later version sealed them"));
    }
    let (memory, passes, lanes) = COST_MAX;
    if sealed.memory_kib > memory || sealed.passes > passes || sealed.lanes > lanes {
        return Err(SealedKeysError::Form("they ask for more work than is allowed"));
    }
    let mut bytes = Zeroizing::new(
        BASE64.decode(&sealed.sealed).map_err(|_| SealedKeysError::Form("it is no base64url"))?,
    );
    let key = sealed.key(passphrase)?;
    let aad = aead::Aad::from(sealed.authenticated());
    let plain =
        key.open_in_place(zero_nonce(), aad, &mut bytes).map_err(|_| SealedKeysError::Wrong)?;
    let malformed = || SealedKeysError::Form("they are not keys");
    let plain = std::str::from_utf8(plain).map_err(|_| malformed())?;
    let (cluster, ca_key) = plain.split_once(char::from(BETWEEN)).ok_or_else(malformed)?;
    let cluster = Secret::new(cluster.to_owned());
    Ok(OpenedKeys {
        cluster: ClusterKeys::from_text(&cluster).map_err(SealedKeysError::Key)?,
        ca_key: (!ca_key.is_empty()).then(|| Secret::new(ca_key.to_owned())),
    })
}

impl Sealed {
    /// What the seal covers beside the keys.
    fn authenticated(&self) -> String {
        let Sealed { format, memory_kib, passes, lanes, salt, .. } = self;
        format!("tiebeam backup keys {format} argon2id {memory_kib} {passes} {lanes} {salt}")
    }

    fn key(&self, passphrase: &Secret<String>) -> Result<aead::LessSafeKey, SealedKeysError> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .map_err(|_| SealedKeysError::Form("their cost cannot be"))?;
        let salt = BASE64
            .decode(&self.salt)
            .map_err(|_| SealedKeysError::Form("their salt is no base64url"))?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.expose().as_bytes(), &salt, &mut *key)
            .map_err(|_| SealedKeysError::Crypto("derive a key from the passphrase"))?;
        aead::UnboundKey::new(&aead::AES_256_GCM, &*key)
            .map(aead::LessSafeKey::new)
            .map_err(|_| SealedKeysError::Crypto("take a key"))
    }
}

fn zero_nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_open_with_their_passphrase_only_and_nothing_of_them_shows() {
        let cluster = ClusterKeys::generate().unwrap();
        let ca_key = Secret::new("-----BEGIN PRIVATE KEY-----".to_owned());
        let right = Secret::new("correct horse battery".to_owned());
        let part = seal(&cluster, Some(&ca_key), &right).unwrap();
        let text = String::from_utf8(part.clone()).unwrap();
        assert!(!text.contains("PRIVATE") && !text.contains("cluster"), "{text}");
        let opened = open(&part, &right).unwrap();
        assert_eq!(opened.cluster.to_text().expose(), cluster.to_text().expose());
        assert_eq!(opened.ca_key.unwrap().expose(), ca_key.expose());
        let wrong = Secret::new("correct horse battery!".to_owned());
        assert!(matches!(open(&part, &wrong), Err(SealedKeysError::Wrong)));
        for (from, to) in [("\"passes\": 4", "\"passes\": 3"), ("\"lanes\": 1", "\"lanes\": 9")] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            assert!(open(changed.as_bytes(), &right).is_err(), "{to}");
        }
    }
}
