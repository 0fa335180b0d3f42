//! Gaps: which records between the floor and the head are not here, and what ends a gap.
//!
//! Nothing of it is stored: a gap is what lies between two segments, or between the newest segment
//! and the chain head that State jumped to. After a restart the segments say the same again, and
//! the snapshot says where State stands. Readers and the filling use it.

use super::HistoryError;
use super::append::Segments;
use super::query::{History, Shared};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use tiebeam_proto::chain::{Hash, Head};

impl Shared {
    /// The head that State jumped to last.
    fn skipped(&self) -> Option<Head> {
        *self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which records from `floor` on are not here, as ranges from and to, oldest first.
    pub(super) fn gaps(&self, floor: u64) -> Vec<(u64, u64)> {
        // Before the segments: one that is filled in meanwhile must not look like a gap.
        let end = self.skipped().map_or(0, |head| head.index);
        let (mut gaps, mut next) = (Vec::new(), floor);
        for segment in self.segments() {
            if segment.first > next {
                gaps.push((next, segment.first - 1));
            }
            next = next.max(segment.last() + 1);
        }
        if next <= end {
            gaps.push((next, end));
        }
        gaps
    }

    /// The hash that the record at the end of a gap must have.
    pub(super) fn anchor(&self, to: u64) -> Option<Hash> {
        if let Some(head) = self.skipped().filter(|head| head.index == to) {
            return Some(head.hash);
        }
        let next = self.library.segment(to + 1).filter(|segment| segment.first == to + 1)?;
        let previous = next.extent().previous;
        Some(previous)
    }
}

impl Segments {
    /// Goes on behind `head`, if it lies beyond the newest record; gives whether it does. What was
    /// appended is durable already: the caller has synced it.
    pub(super) fn skip_to(&mut self, head: Head) -> Result<bool, HistoryError> {
        if head.index <= self.head.map_or(0, |head| head.index) {
            self.same(head.index, &head.hash)?;
            return Ok(false);
        }
        self.open = None;
        self.head = Some(head);
        Ok(true)
    }
}

impl History {
    /// The lowest index at or above `floor` from which on nothing is missing, down from the
    /// newest record.
    pub fn whole_above(&self, floor: u64) -> u64 {
        self.shared.gaps(floor).last().map_or(floor, |(_, to)| to + 1)
    }

    /// The lowest index from which on every record up to the newest is here, down to the floor.
    /// It is one above the newest if none is. What was collected for a gap and is no segment yet
    /// does not count.
    pub fn whole_from(&self) -> u64 {
        match self.shared.gaps(self.floor()).last() {
            Some((_, to)) => to + 1,
            None => self.oldest().unwrap_or(self.newest() + 1),
        }
    }

    /// The newest record up to which none above `above` is missing.
    pub fn whole_to(&self, above: u64) -> u64 {
        // Before the gaps: who skips tells of the gap first.
        let newest = self.newest();
        let gaps = self.shared.gaps(self.floor());
        let gap = gaps.iter().find(|(_, to)| *to > above);
        gap.map_or(newest, |(from, _)| above.max(from - 1))
    }

    /// The oldest record that the cluster keeps, as far as it was told here; 1 or higher.
    pub fn floor(&self) -> u64 {
        self.shared.floor().max(1)
    }

    /// How many records from State's floor on are not here and were not collected yet.
    pub fn gap_records(&self) -> u64 {
        let gaps = self.shared.gaps(self.floor());
        let missing: u64 = gaps.iter().map(|(from, to)| to + 1 - from).sum();
        missing.saturating_sub(self.shared.metrics.collected.load(Relaxed))
    }
}
