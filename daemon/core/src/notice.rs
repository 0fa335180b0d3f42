//! What a node tells of itself without a job: a wall clock that cannot be believed (ruling 22), a
//! published file that was edited by hand (ruling 28).
//!
//! A node may tell of no other one. What State keeps of it is only what keeps the same thing from
//! being told twice, and what an administrator has accepted.

use serde::{Deserialize, Serialize};

/// Something that a node tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "snake_case")]
pub enum Notice {
    /// Its wall clock became suspect, or agrees again.
    Clock {
        /// The node.
        node: u32,
        /// By how many seconds it is off; `None` if it agrees again.
        off_s: Option<i64>,
        /// Whether it is right by itself: what `clock_accept` took as right ends with that.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        right: bool,
    },
    /// The published configuration was edited by hand.
    HandEdit {
        /// The node.
        node: u32,
        /// The revision that was published there.
        revision: u64,
        /// The name under which the edit is kept; `None` if the file was gone.
        kept: Option<String>,
    },
}

/// Bytes of the name of a kept file.
const NAME_BYTES_MAX: usize = 255;

impl Notice {
    /// Whether it holds no more than such a notice has to: it goes into the log.
    pub fn is_short(&self) -> bool {
        match self {
            Notice::Clock { .. } => true,
            Notice::HandEdit { kept, .. } => {
                kept.as_ref().is_none_or(|name| name.len() <= NAME_BYTES_MAX)
            }
        }
    }

    /// The node that it is about.
    pub fn node(&self) -> u32 {
        match self {
            Notice::Clock { node, .. } | Notice::HandEdit { node, .. } => *node,
        }
    }
}

/// What is kept of a node's wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockNote {
    /// By how many seconds the node told that it is off, while it is suspect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect_s: Option<i64>,
    /// By how many microseconds it was off when `clock_accept` took it as right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_us: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_as_long_as_no_file_has_it_is_too_long() {
        let edit = |kept| Notice::HandEdit { node: 11, revision: 4, kept };
        assert!(edit(None).is_short() && edit(Some("e".repeat(255))).is_short());
        assert!(!edit(Some("e".repeat(256))).is_short());
        assert!(Notice::Clock { node: 11, off_s: Some(i64::MAX), right: false }.is_short());
    }
}
