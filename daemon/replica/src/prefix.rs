//! Which prefix of the log may be dropped (ruling 16): one that an older snapshot covers, and whose
//! records a majority of voters has durably in its history.
//!
//! Pure bookkeeping; a shell tells of its snapshots and of what members said, and asks. Nothing
//! here touches a log. A member that is away does not hold the others up as long as a majority is
//! there; without one nothing is committed, so nothing grows either.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Snapshots that wait at once, at most: of more, some in the middle are not dropped up to.
const PLACES_MAX: usize = 64;

/// Where a snapshot stands in the log and in the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its last entry.
    pub index: u64,
    /// The newest record that entries up to there archived.
    pub record: u64,
}

/// The newest piece of the history without a gap that is durable on a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its first record.
    pub from: u64,
    /// Its last record; below `from` if there is none.
    pub to: u64,
}

/// What a node knows of the prefix that it would like to drop.
#[derive(Clone, Debug)]
pub struct Prefix {
    own: u64,
    /// Snapshots that the log was not dropped up to, oldest first. The log reaches back to the
    /// older of the last two.
    places: VecDeque<Place>,
    dropped: u64,
    held: BTreeMap<u64, Held>,
}

impl Prefix {
    /// Of a node with this raft id, whose log begins behind `floor` and that has this snapshot.
    /// The snapshot of the start counts: else a node that is often started again would keep its
    /// whole log.
    pub fn new(own: u64, floor: u64, snapshot: Place) -> Prefix {
        Prefix { own, places: VecDeque::from([snapshot]), dropped: floor, held: BTreeMap::new() }
    }

    /// A snapshot was taken: all that it covers is durable in this node's history.
    pub fn snapshotted(&mut self, place: Place) {
        self.places.push_back(place);
        if self.places.len() > PLACES_MAX {
            self.places.remove(PLACES_MAX / 2);
        }
    }

    /// A leader's snapshot took the place of the log.
    pub fn installed(&mut self, place: Place) {
        self.places = VecDeque::from([place]);
        self.dropped = place.index;
    }

    /// What the members hold, by raft id.
    pub fn told(&mut self, held: BTreeMap<u64, Held>) {
        self.held = held;
    }

    /// The place up to which the log is to be dropped now, if there is something new to drop.
    pub fn drop_to(&mut self, voters: &BTreeSet<u64>) -> Option<Place> {
        let older = self.places.len().saturating_sub(1);
        let nth = (0..older)
            .rev()
            .find(|nth| self.places.get(*nth).is_some_and(|place| self.is_held(place, voters)))?;
        let place = self.places.drain(..=nth).next_back()?;
        self.dropped = self.dropped.max(place.index);
        Some(place)
    }

    /// Entries that only a majority without their records holds back.
    pub fn held_back(&self) -> u64 {
        let older = self.places.len().checked_sub(2).and_then(|nth| self.places.get(nth));
        older.map_or(0, |place| place.index.saturating_sub(self.dropped))
    }

    /// Whether a majority of voters has the records up to this place. All of this node's own gaps
    /// lie below its log's first entry (only an install leaves one), so what another member lacks
    /// below this node's newest whole piece is nothing that the prefix could give it.
    fn is_held(&self, place: &Place, voters: &BTreeSet<u64>) -> bool {
        let own_from = self.held.get(&self.own).map(|held| held.from);
        let has = |voter: &&u64| {
            let held = self.held.get(voter).copied().unwrap_or_default();
            **voter == self.own
                || (held.to >= place.record && own_from.is_some_and(|from| held.from <= from))
        };
        voters.iter().filter(has).count() > voters.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(index: u64, record: u64) -> Place {
        Place { index, record }
    }

    fn told(prefix: &mut Prefix, held: [(u64, u64, u64); 3]) {
        prefix.told(held.into_iter().map(|(id, from, to)| (id, Held { from, to })).collect());
    }

    fn dropped(prefix: &mut Prefix, voters: &BTreeSet<u64>) -> Option<u64> {
        prefix.drop_to(voters).map(|place| place.index)
    }

    #[test]
    fn a_prefix_is_dropped_when_a_majority_has_its_records() {
        let voters = BTreeSet::from([1, 2, 3]);
        let mut prefix = Prefix::new(1, 5, place(10, 4));
        assert_eq!((dropped(&mut prefix, &voters), prefix.held_back()), (None, 0), "two are kept");
        prefix.snapshotted(place(20, 8));
        assert_eq!(
            (dropped(&mut prefix, &voters), prefix.held_back()),
            (None, 5),
            "nobody said a word"
        );
        told(&mut prefix, [(1, 1, 8), (2, 1, 3), (3, 0, 0)]);
        assert_eq!(
            (dropped(&mut prefix, &voters), prefix.held_back()),
            (None, 5),
            "3 of 4 records"
        );
        prefix.snapshotted(place(30, 9));
        assert_eq!(prefix.held_back(), 15);
        told(&mut prefix, [(1, 1, 9), (2, 1, 4), (3, 0, 0)]);
        assert_eq!((dropped(&mut prefix, &voters), prefix.held_back()), (Some(10), 10));
        told(&mut prefix, [(1, 1, 9), (2, 1, 8), (3, 1, 9)]);
        assert_eq!((dropped(&mut prefix, &voters), prefix.held_back()), (Some(20), 0));
        assert_eq!(dropped(&mut prefix, &voters), None, "once");
    }

    #[test]
    fn a_member_with_a_gap_counts_when_it_has_what_this_node_has() {
        let voters = BTreeSet::from([1, 2, 3]);
        let mut prefix = Prefix::new(1, 0, place(10, 4));
        prefix.snapshotted(place(20, 8));
        told(&mut prefix, [(1, 1, 8), (2, 3, 8), (3, 5, 8)]);
        assert_eq!(
            dropped(&mut prefix, &voters),
            None,
            "both could still lack records of the prefix"
        );
        told(&mut prefix, [(1, 1, 8), (2, 1, 8), (3, 5, 8)]);
        assert_eq!(dropped(&mut prefix, &voters), Some(10));
        // This node jumped to record 50 itself: its log has nothing from below.
        prefix.installed(place(90, 50));
        prefix.snapshotted(place(99, 52));
        told(&mut prefix, [(1, 51, 52), (2, 40, 52), (3, 1, 7)]);
        assert_eq!(dropped(&mut prefix, &voters), Some(90));
    }

    #[test]
    fn the_only_voter_asks_nobody_and_others_are_no_voters() {
        let mut prefix = Prefix::new(1, 0, place(10, 4));
        prefix.snapshotted(place(20, 8));
        told(&mut prefix, [(1, 1, 8), (2, 1, 8), (3, 1, 8)]);
        assert_eq!(dropped(&mut prefix, &BTreeSet::from([1, 4, 5])), None, "2 and 3 are learners");
        assert_eq!(dropped(&mut prefix, &BTreeSet::from([1])), Some(10));
    }

    #[test]
    fn a_wait_without_an_end_takes_no_memory() {
        let mut prefix = Prefix::new(1, 0, place(0, 0));
        for index in 1..10_000 {
            prefix.snapshotted(place(index, index));
        }
        assert!(prefix.places.len() <= PLACES_MAX);
        assert_eq!(prefix.held_back(), 9_998);
        assert_eq!(dropped(&mut prefix, &BTreeSet::from([1])), Some(9_998));
    }
}
