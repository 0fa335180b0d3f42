//! What a sequence of valid records means: the log as it stood after the last of them.
//!
//! Pure; `scan` feeds it. An entry inside the log replaces everything from its index on, as raft
//! does when a new leader overrules an old one; nothing is ever erased on disk for that.

use super::format::{Link, RecordKind, decode_hard_state};
use crate::entry::{Entry, HardState, Mark};
use bytes::Bytes;

/// The log being rebuilt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replay {
    /// Position before the first entry.
    pub floor: Mark,
    pub entries: Vec<Entry>,
    pub hard_state: HardState,
    /// Whether a link was seen: the first one says where the log begins.
    started: bool,
}

impl Replay {
    /// Position of the last entry.
    pub(crate) fn last(&self) -> Mark {
        self.entries.last().map_or(self.floor, Entry::mark)
    }

    /// Takes one valid record. False if it cannot follow what came before.
    pub(crate) fn take(&mut self, kind: RecordKind, mark: Mark, payload: &[u8]) -> bool {
        match kind {
            RecordKind::Opened => true,
            RecordKind::HardState => match decode_hard_state(payload) {
                Some(hard_state) => {
                    self.hard_state = hard_state;
                    true
                }
                None => false,
            },
            RecordKind::Link => match Link::decode(payload) {
                Some(link) => {
                    self.link(&link, mark);
                    true
                }
                None => false,
            },
            RecordKind::Reset => {
                self.floor = mark;
                self.entries.clear();
                true
            }
            RecordKind::Entry(kind) => {
                let payload = Bytes::copy_from_slice(payload);
                self.entry(Entry { index: mark.index, term: mark.term, kind, payload })
            }
        }
    }

    fn link(&mut self, link: &Link, mark: Mark) {
        self.hard_state = link.hard_state;
        if !self.started {
            self.floor = mark;
            self.started = true;
        }
    }

    fn entry(&mut self, entry: Entry) -> bool {
        if entry.index <= self.floor.index {
            // An override of entries whose segment is gone, so this one is covered by a snapshot
            // too: the log begins behind it.
            self.floor = entry.mark();
            self.entries.clear();
            return entry.index > 0;
        }
        let kept = (entry.index - self.floor.index - 1) as usize;
        if kept > self.entries.len() {
            return false;
        }
        self.entries.truncate(kept);
        self.entries.push(entry);
        true
    }
}
