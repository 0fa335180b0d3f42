//! The feature level (ruling 12): what this version supports, and when a cluster may rise.
//!
//! A version may bring jobs, rules of the configuration and ways to apply an entry that an older
//! one does not know. All of them ask [`State::feature_level`], which the master raises by an entry
//! once every member has reported that it supports more. It must never fall. The schema's rules
//! that are newer than level 1 are here too.

use crate::path::path;
use crate::schema::Violation;
use crate::state::State;
use crate::tree::Tree;

/// The newest feature level that this version supports. The feature `next-level` makes a build that
/// stands for the next version, so that tests can upgrade to it.
pub const SUPPORTED: u32 = if cfg!(feature = "next-level") { 2 } else { 1 };

impl State {
    /// The newest level that a member reported. Of one that never reported more, what is known is
    /// that it follows this cluster.
    pub fn supported_by(&self, raft_id: u64) -> u32 {
        self.supported.get(&raft_id).copied().unwrap_or(self.feature_level)
    }

    /// The level that every member supports, offline ones included, if it is a new one.
    pub fn next_level(&self) -> Option<u32> {
        let levels = self.members.values().map(|member| self.supported_by(member.raft_id));
        levels.min().filter(|level| *level > self.feature_level)
    }
}

/// Checks `app` by the rules that came after level 1.
pub(crate) fn check_app(tree: &Tree, level: u32) -> Result<(), Violation> {
    if !cfg!(feature = "next-level") || level < 2 {
        return Ok(());
    }
    let app = tree.get(&path(&["app"]));
    let names = app.and_then(|node| node.as_map());
    match names.into_iter().flat_map(|names| names.iter()).find(|(name, _)| name.starts_with('_')) {
        None => Ok(()),
        Some((name, _)) => Err(Violation {
            at: path(&["app", name]).as_str().to_owned(),
            why: "from level 2 on no name begins with an underscore".to_owned(),
        }),
    }
}
