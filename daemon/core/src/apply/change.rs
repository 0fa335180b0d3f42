//! Applying what a plan decided: its reads are compared, its writes make the next revision.

use crate::diff;
use crate::member::JoinToken;
use crate::notice::ClockNote;
use crate::path::Path;
use crate::proposal::{Read, Write};
use crate::schema::{self, Violation};
use crate::state::{Credential, State};
use crate::tree::{Node, Tree};
use imbl::OrdMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use tiebeam_proto::record::{Change, ChangeOp};

/// A plan's writes, tried out on State but not yet kept.
pub(crate) struct Tried {
    pub config: Tree,
    pub credentials: OrdMap<Arc<str>, Credential>,
    pub changes: Vec<Change>,
    pub released: Vec<u64>,
    pub join_tokens: OrdMap<Arc<str>, JoinToken>,
    pub clocks: OrdMap<u32, ClockNote>,
}

impl Tried {
    /// Whether there is a new revision in it.
    pub(crate) fn makes_revision(&self) -> bool {
        !self.changes.is_empty()
    }
}

impl State {
    /// Whether everything that the plan looked at is as it saw it.
    pub fn reads_hold(&self, reads: &[Read]) -> bool {
        reads.iter().all(|read| {
            // A path that is none was never read: the plan is to be made again.
            Path::parse(&read.path).is_ok_and(|path| self.config.revision_at(&path) == read.seen)
        })
    }

    /// Tries a plan's writes on the newest configuration, under the next revision.
    pub(crate) fn try_writes(&self, writes: &[Write]) -> Result<Tried, Violation> {
        let next = self.revision + 1;
        let mut tried = Tried {
            config: self.config.clone(),
            credentials: self.credentials.clone(),
            changes: Vec::new(),
            released: Vec::new(),
            join_tokens: self.join_tokens.clone(),
            clocks: self.clocks.clone(),
        };
        let mut touched = BTreeSet::new();
        for write in writes {
            self.try_write(write, next, &mut tried, &mut touched)?;
        }
        let mut covered: Option<Path> = None;
        for path in touched {
            if covered.as_ref().is_some_and(|above| above.covers(&path)) {
                continue;
            }
            tried.changes.extend(diff::between(&self.config, &tried.config, &path));
            covered = Some(path);
        }
        forget_removed_users(&mut tried);
        let level = self.feature_level;
        schema::check(&tried.config, &tried.changes, &tried.credentials, level)?;
        Ok(tried)
    }

    fn try_write(
        &self,
        write: &Write,
        revision: u64,
        tried: &mut Tried,
        touched: &mut BTreeSet<Path>,
    ) -> Result<(), Violation> {
        let refused = |at: &str, why: String| Violation { at: at.to_owned(), why };
        let parsed = |text: &str| Path::parse(text).map_err(|e| refused(text, e.to_string()));
        match write {
            Write::Set { path, value } => {
                let at = parsed(path)?;
                tried.config = tried
                    .config
                    .set(&at, value, revision)
                    .map_err(|error| refused(path, error.to_string()))?;
                touched.insert(shows_at(&self.config, &at));
            }
            Write::Remove { path } => {
                let at = parsed(path)?;
                tried.config = tried
                    .config
                    .remove(&at, revision)
                    .map_err(|error| refused(path, error.to_string()))?;
                touched.insert(at);
            }
            Write::Credential { user, hash, one_time } => {
                let one_time = one_time
                    .as_ref()
                    .map(|(hash, lasts)| (hash.clone(), self.clock_us.saturating_add(*lasts)));
                let credential = Credential { hash: hash.clone(), one_time };
                tried.credentials.insert(Arc::from(user.as_str()), credential);
            }
            Write::CredentialRemove { user } => {
                tried.credentials.remove(user.as_str());
            }
            Write::JoinToken { id, token } => {
                let expires_us = self.clock_us.saturating_add(token.expires_us);
                let token = JoinToken { expires_us, ..token.clone() };
                tried.join_tokens.insert(Arc::from(id.as_str()), token);
            }
            Write::JoinTokenUsed { id, key_hash } => {
                let token = tried.join_tokens.get_mut(id.as_str());
                let fits = |token: &&mut JoinToken| {
                    token.used_by.as_ref().is_none_or(|user| user == key_hash)
                        && token.expires_us > self.clock_us
                };
                let Some(token) = token.filter(fits) else {
                    return Err(refused("", "the join token was used or has expired".to_owned()));
                };
                token.used_by = Some(key_hash.clone());
            }
            Write::LockRelease { job } => {
                let found = self.doubts.iter().find(|(_, doubt)| doubt.job == *job);
                let Some((sequence, _)) = found else {
                    return Err(refused("", format!("{job} holds no locks in doubt")));
                };
                tried.released.push(*sequence);
            }
            Write::ClockAccept { node, .. } if !self.members.contains_key(node) => {
                return Err(refused("", format!("node {node} is no member of the cluster")));
            }
            Write::ClockAccept { node, off_us } => {
                tried.clocks.entry(*node).or_default().accepted_us = Some(*off_us);
            }
        }
        Ok(())
    }

    /// Keeps what was tried. Returns the revision, if there is a new one.
    pub(crate) fn keep(&mut self, tried: &Tried) -> Option<u64> {
        for sequence in &tried.released {
            let doubt = self.doubts.remove(sequence).expect("it was there when it was tried");
            self.locks_held.release(&doubt.locks);
        }
        self.credentials = tried.credentials.clone();
        self.join_tokens = tried.join_tokens.clone();
        self.clocks = tried.clocks.clone();
        if !tried.makes_revision() {
            return None;
        }
        self.revision += 1;
        self.config = tried.config.clone();
        Some(self.revision)
    }
}

/// The topmost path at which setting `at` shows: maps that are made on the way are a part of the
/// change, or undoing it would leave them behind.
fn shows_at(config: &Tree, at: &Path) -> Path {
    let is_map = |path: &Path| config.get(path).is_some_and(|node| matches!(**node, Node::Map(_)));
    let mut top = Path::root();
    for name in at.names() {
        if !is_map(&top) {
            break;
        }
        top = top.child(&name);
    }
    top
}

/// A user who goes takes the password along, whichever job it was (invariant 22): one who comes
/// back by a rollback has none.
fn forget_removed_users(tried: &mut Tried) {
    let touches_users = |change: &Change| {
        change.op != ChangeOp::Add && (change.path.is_empty() || change.path.starts_with("users"))
    };
    if !tried.changes.iter().any(touches_users) {
        return;
    }
    let exists =
        |user: &str| State::user_path(user).is_some_and(|path| tried.config.get(&path).is_some());
    let gone: Vec<_> = tried.credentials.keys().filter(|user| !exists(user)).cloned().collect();
    for user in gone {
        tried.credentials.remove(&user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use serde_json::json;

    #[test]
    fn a_change_leads_back_to_the_tree_before_it() {
        let state = fixture::state();
        let set = |path: &str| Write::Set { path: path.to_owned(), value: json!(1) };
        for paths in [&["app/a"][..], &["app/a/b/c"], &["app/a/b", "app/a/c/d"]] {
            let writes: Vec<Write> = paths.iter().map(|path| set(path)).collect();
            let tried = state.try_writes(&writes).unwrap();
            let back = diff::undo(&tried.config, &tried.changes, 3).unwrap();
            assert_eq!(back.hash(), state.config.hash(), "{paths:?}: {:?}", tried.changes);
            assert_eq!(tried.changes[0].path, "app/a");
        }
    }

    #[test]
    fn a_join_token_is_for_one_node() {
        let mut state = fixture::state();
        let token = JoinToken {
            hash: "aa".into(),
            issuer: "admin".into(),
            role: None,
            node: None,
            expires_us: 100,
            used_by: None,
        };
        state.clock_us = 7;
        let write = Write::JoinToken { id: "t".into(), token };
        let tried = state.try_writes(&[write]).unwrap();
        assert!(state.keep(&tried).is_none(), "a token makes no revision");
        assert_eq!(state.join_tokens["t"].expires_us, 107);
        let used = |key: &str| Write::JoinTokenUsed { id: "t".into(), key_hash: key.into() };
        let tried = state.try_writes(&[used("n12")]).unwrap();
        state.keep(&tried);
        assert!(state.try_writes(&[used("n12")]).is_ok(), "its answer may have been lost");
        assert!(state.try_writes(&[used("n13")]).is_err());
        state.clock_us = 107;
        assert!(state.try_writes(&[used("n12")]).is_err());
    }
}
