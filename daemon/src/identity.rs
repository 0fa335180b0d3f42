//! `<data>/identity`: which node of which cluster this data folder is.
//!
//! This module owns that one file. It is written once, by `init`, `join` or `restore`, and no more
//! changed but by `recover`, which gives the same node another incarnation: a folder cannot become
//! another node. It holds no secret and no address (those can change: node settings and the
//! configuration). Start-up reads it before anything else. While a `recover` is under way a second
//! file says so, and nothing else uses the folder.

use crate::durable;
use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
};

/// The file's name below the data folder.
pub const FILE: &str = "identity";
/// The file that says that `recover` began here and has not ended.
pub const UNFINISHED: &str = "recovering";
/// The format this version writes and reads.
pub const FORMAT: u32 = 1;
/// Largest incarnation: a raft id has 16 bits for it (ruling 19).
pub const INCARNATION_MAX: u32 = 0xffff;

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// [`FORMAT`].
    pub format: u32,
    /// The cluster: 1 to 64 of `a-z 0-9 -`, made at `init`, for ever.
    pub cluster_id: String,
    /// The node's id; users see only this one.
    pub node_id: u32,
    /// How often a node with this id has joined; the first is 1.
    pub incarnation: u32,
    /// The node's name.
    pub name: String,
}

/// The identity cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be written, or is there already.
    #[error("cannot write this node's identity")]
    Write(#[source] durable::DurableError),
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A `recover` began and did not end.
    #[error(
        "`tiebeamd recover --only-voter` was interrupted in {}: run it again to its end",
        .0.display()
    )]
    Unfinished(PathBuf),
    /// The file is not an identity.
    #[error("{} is not the identity of a node: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Identity {
    /// The member's id in raft: node id × 2^16 + incarnation (ruling 19).
    pub fn raft_id(&self) -> u64 {
        (u64::from(self.node_id) << 16) | u64::from(self.incarnation)
    }

    /// Writes the file into a new data folder and makes it durable.
    ///
    /// # Errors
    /// The identity is not valid, there is one already, or it cannot be written.
    pub fn write_once(&self, data: &Path) -> Result<(), IdentityError> {
        let path = data.join(FILE);
        durable::write_new(&path, self.text(&path)?.as_bytes(), 0o600).map_err(IdentityError::Write)
    }

    /// Writes the file again, for the same node with another incarnation.
    ///
    /// # Errors
    /// The identity is not valid, or it cannot be written; the old one is then still there.
    pub fn rewrite(&self, data: &Path) -> Result<(), IdentityError> {
        let path = data.join(FILE);
        durable::replace(&path, self.text(&path)?.as_bytes(), 0o600).map_err(IdentityError::Write)
    }

    fn text(&self, path: &Path) -> Result<String, IdentityError> {
        let malformed = |reason| IdentityError::Malformed { path: path.to_owned(), reason };
        self.check().map_err(malformed)?;
        let Identity { format, cluster_id, node_id, incarnation, name } = self;
        Ok(format!(
            "# Which node of which cluster this folder is. Written once; do not change.\n\
             format: {format}\ncluster_id: \"{cluster_id}\"\nnode_id: {node_id}\n\
             incarnation: {incarnation}\nname: \"{name}\"\n"
        ))
    }

    /// Reads the file of a data folder.
    ///
    /// # Errors
    /// It cannot be read, or is not an identity of [`FORMAT`], or a `recover` is to be ended first.
    pub fn read(data: &Path) -> Result<Identity, IdentityError> {
        if data.join(UNFINISHED).exists() {
            return Err(IdentityError::Unfinished(data.to_owned()));
        }
        Identity::read_unfinished(data)
    }

    /// Reads the file of a data folder in which a `recover` may be to be ended.
    ///
    /// # Errors
    /// It cannot be read, or is not an identity of [`FORMAT`].
    pub fn read_unfinished(data: &Path) -> Result<Identity, IdentityError> {
        let path = data.join(FILE);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| IdentityError::Read { path: path.clone(), source })?;
        let malformed = |reason: String| IdentityError::Malformed { path: path.clone(), reason };
        let identity: Identity = serde_saphyr::from_str(&text)
            .map_err(|e| malformed(e.without_snippet().to_string()))?;
        identity.check().map_err(malformed)?;
        Ok(identity)
    }

    fn check(&self) -> Result<(), String> {
        let cluster_fits = !self.cluster_id.is_empty()
            && self.cluster_id.len() <= 64
            && self.cluster_id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if self.format != FORMAT {
            Err(format!("format {} is not read by this version", self.format))
        } else if !cluster_fits {
            Err("cluster_id must have 1 to 64 of a-z, 0-9 and -".to_owned())
        } else if self.node_id == 0 {
            Err("node_id must be at least 1".to_owned())
        } else if !(1..=INCARNATION_MAX).contains(&self.incarnation) {
            Err(format!("incarnation must be 1 to {INCARNATION_MAX}"))
        } else if !is_node_name(&self.name) {
            Err("name must have 1 to 63 of a-z, A-Z, 0-9, - and .".to_owned())
        } else {
            Ok(())
        }
    }
}

/// Whether a text can be a node's name: it goes into certificates as a DNS name.
pub fn is_node_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    (1..=63).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::scratch::Folder;

    fn identity() -> Identity {
        Identity {
            format: FORMAT,
            cluster_id: "0192f1c4-7d11".to_owned(),
            node_id: 11,
            incarnation: 1,
            name: "n11".to_owned(),
        }
    }

    #[test]
    fn an_identity_is_written_once_and_read_back() {
        let folder = Folder::new();
        identity().write_once(folder.path()).expect("written");
        assert_eq!(Identity::read(folder.path()).expect("read"), identity());
        assert!(matches!(
            Identity { node_id: 12, ..identity() }.write_once(folder.path()),
            Err(IdentityError::Write(e)) if e.is_already_there()
        ));
        assert_eq!(identity().raft_id(), 11 * 65536 + 1);
    }

    #[test]
    fn what_is_no_identity_is_refused_with_its_reason() {
        let wrong = [
            (Identity { format: 2, ..identity() }, "format 2"),
            (Identity { cluster_id: "A/b".to_owned(), ..identity() }, "cluster_id"),
            (Identity { node_id: 0, ..identity() }, "node_id"),
            (Identity { incarnation: 65536, ..identity() }, "incarnation"),
            (Identity { name: "a\"b".to_owned(), ..identity() }, "name"),
        ];
        for (identity, word) in wrong {
            let folder = Folder::new();
            let error = identity.write_once(folder.path()).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
        let folder = Folder::new();
        std::fs::write(folder.path().join(FILE), "format: 1\nnode: 3\n").expect("written");
        let error = Identity::read(folder.path()).expect_err("an unknown key");
        assert!(error.to_string().contains("node"), "{error}");
    }
}
