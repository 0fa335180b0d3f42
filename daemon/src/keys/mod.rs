//! `<data>/keys/`: the keys of this node, and the files that hold them (ruling 21).
//!
//! This module owns the folder: it makes the keys at `init`, reads them at start, and refuses a
//! folder or file that others could read. What the cluster key is used for is in [`cluster`]. No
//! key ever leaves through this module but `cluster.key` on purpose, to a joining node. It is used
//! at start and on the request path, so it reports and never panics.

pub mod cluster;

pub use cluster::{ClusterKeys, one_time_hash};

use crate::{
    durable::{self, DurableError},
    secret::Secret,
};
use arc_swap::ArcSwapOption;
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use tiebeam_core::state::SharedKey;

/// The folder's name below the data folder.
pub const FOLDER: &str = "keys";
/// The node's own private key (PKCS #8, PEM). It is made here and never leaves.
pub const NODE_KEY: &str = "node.key";
/// The key that all members share; see [`ClusterKeys::to_text`].
pub const CLUSTER_KEY: &str = "cluster.key";
/// A cluster key that is not in use yet, in the form of [`CLUSTER_KEY`].
pub const NEXT_CLUSTER_KEY: &str = "cluster.key.next";
/// The private key of the cluster's CA (PKCS #8, PEM); on voters only.
pub const CA_KEY: &str = "ca.key";

/// A key cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file could not be written.
    #[error("cannot write a key file")]
    Write(#[source] DurableError),
    /// A key file or the folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others could read or change a key.
    #[error("{} has mode {found:04o}; it must be {wanted:04o} (chmod {wanted:o})", path.display())]
    Mode {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        found: u32,
        /// The mode that it must have.
        wanted: u32,
    },
    /// A key belongs to another user of the machine.
    #[error("{} belongs to uid {found}, but the daemon runs as uid {wanted}", path.display())]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// The daemon's user.
        wanted: u32,
    },
    /// A key file does not hold what its name says.
    #[error("{file} is damaged: {reason}")]
    Malformed {
        /// The file's name.
        file: &'static str,
        /// What is wrong; never the content.
        reason: &'static str,
    },
    /// A key pair could not be made.
    #[error("cannot make a key pair")]
    Generate(#[source] rcgen::Error),
    /// The system gave no random bytes, or refused a cryptographic operation.
    #[error("the system's cryptography refused to {0}")]
    Crypto(&'static str),
    /// A value names a cluster key that this node does not have.
    #[error("cluster key {0} is not on this node")]
    UnknownKey(u32),
    /// A sealed value is not one, was changed, or was sealed by another cluster.
    #[error("a sealed value cannot be opened: {0}")]
    Sealed(&'static str),
}

/// The keys of this node.
pub struct Keys {
    /// PKCS #8 PEM of the node's private key.
    pub node_key: Secret<String>,
    /// PKCS #8 PEM of the CA's private key, if this node was a voter at the start.
    pub ca_key: Option<Secret<String>>,
    /// The same, if it became one since.
    late_ca_key: OnceLock<Secret<String>>,
    /// The keys that all members share.
    pub cluster: Arc<ClusterKeys>,
    /// A key that members are given and nobody uses yet (ruling 21).
    next: ArcSwapOption<ClusterKeys>,
}

impl Keys {
    /// Makes the keys of a new cluster's first node, in `<data>/keys/`.
    ///
    /// # Errors
    /// A key is there already, or one cannot be made or written.
    pub fn create(data: &Path) -> Result<Keys, KeyError> {
        Keys::adopt(data, ClusterKeys::generate()?, None)
    }

    fn write_new(&self, data: &Path) -> Result<(), KeyError> {
        let folder = data.join(FOLDER);
        durable::make_folder(&folder, 0o700).map_err(KeyError::Write)?;
        let write = |name: &str, text: &Secret<String>| {
            let path = folder.join(name);
            durable::write_new(&path, text.expose().as_bytes(), 0o600).map_err(KeyError::Write)
        };
        write(NODE_KEY, &self.node_key)?;
        write(CLUSTER_KEY, &self.cluster.to_text())?;
        if let Some(key) = &self.ca_key {
            write(CA_KEY, key)?;
        }
        Ok(())
    }

    /// Makes the keys of a new node in a folder: its own, and those that it was given (a restored
    /// backup). Without the CA's key it makes a new one.
    ///
    /// # Errors
    /// A key is there already, or one cannot be made or written.
    pub fn adopt(
        data: &Path,
        cluster: ClusterKeys,
        ca_key: Option<Secret<String>>,
    ) -> Result<Keys, KeyError> {
        let ca_key = match ca_key {
            Some(key) => key,
            None => private_key()?,
        };
        let keys = Keys {
            node_key: private_key()?,
            ca_key: Some(ca_key),
            late_ca_key: OnceLock::new(),
            cluster: cluster.into(),
            next: ArcSwapOption::empty(),
        };
        keys.write_new(data)?;
        Ok(keys)
    }

    /// Puts a new CA key in the place of the one that is there, or of none.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn renew_authority(&mut self, data: &Path) -> Result<(), KeyError> {
        let key = private_key()?;
        let path = data.join(FOLDER).join(CA_KEY);
        durable::replace(&path, key.expose().as_bytes(), 0o600).map_err(KeyError::Write)?;
        self.ca_key = Some(key);
        Ok(())
    }

    /// Adds a cluster key for everything new; what older ones sealed still opens (ruling 21).
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn rotate_cluster_key(&mut self, data: &Path) -> Result<(), KeyError> {
        let rotated = self.cluster.rotated()?;
        let path = data.join(FOLDER).join(CLUSTER_KEY);
        let text = rotated.to_text();
        durable::replace(&path, text.expose().as_bytes(), 0o600).map_err(KeyError::Write)?;
        self.cluster = rotated.into();
        Ok(())
    }

    /// The private key of a node that is joining, in `<data>/keys/`: made once, and read again if
    /// the join was begun before.
    ///
    /// # Errors
    /// It cannot be made, written or read.
    pub fn joining(data: &Path) -> Result<Secret<String>, KeyError> {
        let folder = data.join(FOLDER);
        durable::make_folder(&folder, 0o700).map_err(KeyError::Write)?;
        let path = folder.join(NODE_KEY);
        if path.exists() {
            return read_pem(&path, NODE_KEY);
        }
        let key = private_key()?;
        durable::write_new(&path, key.expose().as_bytes(), 0o600).map_err(KeyError::Write)?;
        Ok(key)
    }

    /// Keeps the cluster's keys that a joining node was given.
    ///
    /// # Errors
    /// They are none, or cannot be written.
    pub fn keep_cluster(data: &Path, text: &Secret<String>) -> Result<(), KeyError> {
        ClusterKeys::from_text(text)?;
        let path = data.join(FOLDER).join(CLUSTER_KEY);
        durable::replace(&path, text.expose().as_bytes(), 0o600).map_err(KeyError::Write)
    }

    /// Reads the keys of a data folder.
    ///
    /// # Errors
    /// A key is missing (but for the CA's), damaged, or open to others.
    pub fn load(data: &Path) -> Result<Keys, KeyError> {
        let folder = data.join(FOLDER);
        check_mode(&folder, 0o700)?;
        let ca_path = folder.join(CA_KEY);
        let next_path = folder.join(NEXT_CLUSTER_KEY);
        let next = match next_path.exists() {
            true => Some(Arc::new(ClusterKeys::from_text(&read_private(&next_path)?)?)),
            false => None,
        };
        Ok(Keys {
            next: ArcSwapOption::new(next),
            node_key: read_pem(&folder.join(NODE_KEY), NODE_KEY)?,
            cluster: ClusterKeys::from_text(&read_private(&folder.join(CLUSTER_KEY))?)?.into(),
            ca_key: if ca_path.exists() { Some(read_pem(&ca_path, CA_KEY)?) } else { None },
            late_ca_key: OnceLock::new(),
        })
    }

    /// The number of the cluster key that State names, if that very key is here; else 0.
    pub fn held(&self, named: &SharedKey) -> u32 {
        let is_it = |keys: &ClusterKeys| {
            keys.fingerprint(named.number).is_some_and(|print| print == named.print)
        };
        let is_here = is_it(&self.cluster) || self.next.load().as_deref().is_some_and(is_it);
        if is_here { named.number } else { 0 }
    }

    /// The key of this number alone, whether it is in use or not.
    pub fn one(&self, number: u32) -> Option<ClusterKeys> {
        let next = self.next.load();
        let next = next.as_deref().and_then(|next| next.only(number));
        next.or_else(|| self.cluster.only(number))
    }

    /// Keeps a key that is not in use yet.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_next(&self, data: &Path, next: ClusterKeys) -> Result<(), KeyError> {
        let path = data.join(FOLDER).join(NEXT_CLUSTER_KEY);
        durable::replace(&path, next.to_text().expose().as_bytes(), 0o600)
            .map_err(KeyError::Write)?;
        self.next.store(Some(Arc::new(next)));
        Ok(())
    }

    /// Uses the key that State names from now on, if it is here and waits for that. Says whether
    /// it does.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn use_next(&self, data: &Path, named: &SharedKey) -> Result<bool, KeyError> {
        let next = self.next.load_full();
        let Some(next) = next.filter(|next| {
            next.fingerprint(named.number).is_some_and(|print| print == named.print)
        }) else {
            return Ok(false);
        };
        let all = self.cluster.with(&next)?;
        let path = data.join(FOLDER).join(CLUSTER_KEY);
        durable::replace(&path, all.to_text().expose().as_bytes(), 0o600)
            .map_err(KeyError::Write)?;
        self.cluster.put(&all);
        self.next.store(None);
        // A copy of what is in the other file: the next rotation overwrites it at the latest.
        let _ = fs::remove_file(data.join(FOLDER).join(NEXT_CLUSTER_KEY));
        Ok(true)
    }

    /// The CA's private key, if this node has it.
    pub fn authority_key(&self) -> Option<&Secret<String>> {
        self.ca_key.as_ref().or_else(|| self.late_ca_key.get())
    }

    /// Keeps the CA's private key on a node that became a voter.
    ///
    /// # Errors
    /// It is no key, or cannot be written.
    pub fn keep_authority(&self, data: &Path, key: Secret<String>) -> Result<(), KeyError> {
        rcgen::KeyPair::from_pem(key.expose()).map_err(|_| KeyError::Malformed {
            file: CA_KEY,
            reason: "no private key in PKCS #8 PEM",
        })?;
        let path = data.join(FOLDER).join(CA_KEY);
        durable::write_new(&path, key.expose().as_bytes(), 0o600).map_err(KeyError::Write)?;
        // Nobody else writes it: this node has one task that fetches it.
        let _ = self.late_ca_key.set(key);
        Ok(())
    }
}

/// A new private key (ECDSA P-256, PKCS #8, PEM).
fn private_key() -> Result<Secret<String>, KeyError> {
    let pair = rcgen::KeyPair::generate().map_err(KeyError::Generate)?;
    Ok(Secret::new(pair.serialize_pem()))
}

fn read_pem(path: &Path, file: &'static str) -> Result<Secret<String>, KeyError> {
    let text = read_private(path)?;
    rcgen::KeyPair::from_pem(text.expose())
        .map_err(|_| KeyError::Malformed { file, reason: "no private key in PKCS #8 PEM" })?;
    Ok(text)
}

fn read_private(path: &Path) -> Result<Secret<String>, KeyError> {
    check_mode(path, 0o600)?;
    fs::read_to_string(path)
        .map(Secret::new)
        .map_err(|source| KeyError::Read { path: path.to_owned(), source })
}

fn check_mode(path: &Path, wanted: u32) -> Result<(), KeyError> {
    let path_buf = || path.to_owned();
    let found =
        fs::symlink_metadata(path).map_err(|source| KeyError::Read { path: path_buf(), source })?;
    let mode = found.permissions().mode() & 0o7777;
    if mode != wanted {
        return Err(KeyError::Mode { path: path_buf(), found: mode, wanted });
    }
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user {
        return Err(KeyError::Owner { path: path_buf(), found: found.uid(), wanted: user });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::scratch::Folder;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    #[test]
    fn keys_are_made_once_and_read_back() {
        let data = Folder::new();
        let made = Keys::create(data.path()).unwrap_or_else(|e| panic!("{e}"));
        let read = Keys::load(data.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(made.node_key.expose(), read.node_key.expose());
        assert_eq!(made.cluster.to_text().expose(), read.cluster.to_text().expose());
        assert_ne!(read.node_key.expose(), read.ca_key.expect("a CA key").expose());
        let again = Keys::create(data.path()).err().expect("no second set of keys");
        assert!(matches!(again, KeyError::Write(e) if e.is_already_there()));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_by_name_and_mode() {
        for (name, mode, wanted) in [
            (NODE_KEY, 0o640, "0600"),
            (CLUSTER_KEY, 0o604, "0600"),
            (CA_KEY, 0o400, "0600"),
            ("", 0o750, "0700"),
        ] {
            let data = Folder::new();
            Keys::create(data.path()).unwrap_or_else(|e| panic!("{e}"));
            let path = data.path().join(FOLDER).join(name);
            chmod(&path, mode);
            let error = Keys::load(data.path()).err().expect("refused").to_string();
            assert!(error.contains(name) && error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_key_seals_nothing_before_state_says_so_and_lives_through_a_restart() {
        let data = Folder::new();
        let keys = Keys::create(data.path()).unwrap_or_else(|e| panic!("{e}"));
        let shared = keys.cluster.clone();
        let next = keys.cluster.successor(0).unwrap_or_else(|e| panic!("{e}"));
        let print = next.fingerprint(2).expect("its number is 2");
        let named = SharedKey { number: 2, print, used: true, due: false };
        let other = SharedKey { print: "another".into(), ..named.clone() };
        assert_eq!(keys.held(&named), 0);
        keys.keep_next(data.path(), next).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((keys.held(&named), keys.held(&other)), (2, 0));
        drop(keys);
        let keys = Keys::load(data.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((keys.held(&named), keys.cluster.newest()), (2, 1));
        assert!(keys.one(1).is_some() && keys.one(2).is_some() && keys.one(3).is_none());
        assert!(!keys.use_next(data.path(), &other).unwrap_or_else(|e| panic!("{e}")));
        let sealed = shared.seal(b"before").unwrap_or_else(|e| panic!("{e}"));
        let in_use = keys.cluster.clone();
        assert!(keys.use_next(data.path(), &named).unwrap_or_else(|e| panic!("{e}")));
        assert_eq!((in_use.newest(), keys.held(&named)), (2, 2), "whoever holds them has it");
        assert!(in_use.open(&sealed).is_ok());
        assert!(!data.path().join(FOLDER).join(NEXT_CLUSTER_KEY).exists());
        assert_eq!(Keys::load(data.path()).map_or(0, |keys| keys.cluster.newest()), 2);
    }

    #[test]
    fn a_learner_has_no_ca_key_but_must_have_the_others() {
        let data = Folder::new();
        Keys::create(data.path()).unwrap_or_else(|e| panic!("{e}"));
        let folder = data.path().join(FOLDER);
        fs::remove_file(folder.join(CA_KEY)).expect("removed");
        assert!(Keys::load(data.path()).is_ok_and(|keys| keys.ca_key.is_none()));
        fs::write(folder.join(NODE_KEY), "-----BEGIN PRIVATE KEY-----").expect("written");
        let error = Keys::load(data.path()).err().expect("damaged");
        assert!(matches!(error, KeyError::Malformed { file: NODE_KEY, .. }), "{error}");
        fs::remove_file(folder.join(NODE_KEY)).expect("removed");
        let error = Keys::load(data.path()).err().expect("missing");
        assert!(matches!(error, KeyError::Read { .. }), "{error}");
    }
}
