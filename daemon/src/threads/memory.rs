//! Which applied entries stay in memory: enough that a member which is a little behind gets
//! entries and no snapshot, and no more.
//!
//! On disk the log goes back to the older of the last two snapshots, whatever is forgotten here.

use std::collections::VecDeque;
use tiebeam_replica::Entry;

/// Applied entries that stay in memory of the only voter: nobody else ever needs one.
const ALONE: u64 = 512;
/// Applied entries that stay in memory while there are other members.
const TOGETHER: u64 = 10_000;
/// Bytes of payload that stay in memory.
const BYTES_MAX: u64 = 16 << 20;

/// Counts what is in memory.
#[derive(Debug)]
pub struct Memory {
    /// Batches by their last index, with the bytes of their payloads.
    batches: VecDeque<(u64, u64)>,
    bytes: u64,
    floor: u64,
    keep: u64,
}

impl Memory {
    /// Memory that begins behind `floor`; `alone` for the only voter.
    pub fn new(floor: u64, alone: bool) -> Memory {
        let mut memory = Memory { batches: VecDeque::new(), bytes: 0, floor, keep: ALONE };
        memory.set_alone(alone);
        memory
    }

    /// Whether this node is the only voter now.
    pub fn set_alone(&mut self, alone: bool) {
        self.keep = if alone { ALONE } else { TOGETHER };
    }

    /// These entries are in memory.
    pub fn committed(&mut self, entries: &[Entry]) {
        let Some(last) = entries.last() else { return };
        let bytes = entries.iter().map(|entry| entry.payload.len() as u64).sum();
        self.bytes += bytes;
        self.batches.push_back((last.index, bytes));
    }

    /// State has applied up to here: up to where entries are to be forgotten, if any are.
    pub fn applied(&mut self, index: u64) -> Option<u64> {
        let mut floor = self.floor;
        while let Some((last, bytes)) = self.batches.front().copied() {
            let many = last + self.keep < index || self.bytes > BYTES_MAX;
            if !many || last > index {
                break;
            }
            self.batches.pop_front();
            self.bytes -= bytes;
            floor = last;
        }
        (floor > self.floor).then(|| {
            self.floor = floor;
            floor
        })
    }

    /// A snapshot took the place of everything.
    pub fn installed(&mut self, index: u64) {
        self.batches.clear();
        (self.bytes, self.floor) = (0, index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tiebeam_replica::EntryKind;

    fn entry(index: u64, bytes: usize) -> Entry {
        let payload = Bytes::from(vec![0; bytes]);
        Entry { index, term: 1, kind: EntryKind::Normal, payload }
    }

    #[test]
    fn what_is_forgotten_is_applied_and_old_or_big() {
        let mut memory = Memory::new(0, false);
        for index in 1..=TOGETHER + 10 {
            memory.committed(&[entry(index, 1)]);
        }
        assert_eq!(memory.applied(100), None);
        assert_eq!(memory.applied(TOGETHER + 10), Some(9));
        memory.set_alone(true);
        assert_eq!(memory.applied(TOGETHER + 10), Some(TOGETHER + 9 - ALONE));
        memory.committed(&[entry(TOGETHER + 11, 20 << 20)]);
        assert_eq!(
            memory.applied(TOGETHER + 10),
            Some(TOGETHER + 10),
            "the big one is not applied"
        );
        assert_eq!(memory.applied(TOGETHER + 11), Some(TOGETHER + 11));
    }
}
