//! How long records of reads are kept (ruling 36): by age and by number, whichever ends first.
//!
//! Whoever proposes the pruning must know which index was the newest some days, or some number of
//! reads, ago. State knows: it marks a moment once an hour and after every sixteenth of the number
//! that is kept, so that a change of the master loses nothing and all nodes have the same marks.
//! What is kept is never less than the settings promise, and one mark's distance more at most.
//! Apply takes the index that the entry carries; it reads no setting to prune.

use crate::proposal::Cut;
use crate::settings::integer;
use crate::state::{ReadMark, State};

/// Cluster time from one mark to the next while reads are few.
const MARK_EVERY_US: u64 = 3_600_000_000;

/// The number that is kept has this many marks while reads are many.
const MARKS_OF_COUNT: u64 = 16;

/// Reads between two marks at least: how often the settings are looked at.
const MARK_READS_MIN: u64 = 64;

/// Marks that State holds at most: a year of hours, and some. Without its oldest mark, what lies
/// below is pruned with the next one.
const MARKS_MAX: usize = 10_000;

const DAY_US: u64 = 24 * MARK_EVERY_US;

/// A read younger than this many deadlines is kept however many there are: its caller may still
/// ask for the result.
const DEADLINES_KEPT: u64 = 5;

impl State {
    /// The entry that prunes what is due at this cluster time; `None` if nothing is.
    pub fn reads_due(&self, clock_us: u64) -> Option<Cut> {
        let setting = |section, key| integer(&self.config, section, key);
        let age_us = setting("history", "reads_keep_days").saturating_mul(DAY_US);
        let count = setting("history", "reads_keep_count");
        let young_us = setting("jobs", "deadline_s").saturating_mul(DEADLINES_KEPT * 1_000_000);
        let is_due = |mark: &ReadMark| {
            let old_us = clock_us.saturating_sub(mark.clock_us);
            let above = self.chain.reads.saturating_sub(mark.reads);
            old_us >= age_us || (above >= count && old_us >= young_us)
        };
        // Age and number both fall from mark to mark.
        let due = self.read_marks.iter().take_while(|(_, mark)| is_due(mark)).last();
        due.map(|(index, _)| Cut { reads_below: index + 1, ..Cut::default() })
    }

    /// Prunes the records of reads below this index, and forgets the marks of what is gone.
    pub(super) fn prune_reads(&mut self, below: u64) {
        if below > self.chain.reads_below && below <= self.chain.index + 1 {
            self.chain.reads_below = below;
        }
        let gone = self.chain.reads_below.max(self.chain.floor_index);
        while let Some((index, _)) = self.read_marks.get_min().filter(|(index, _)| *index < gone) {
            let index = *index;
            self.read_marks.remove(&index);
        }
    }

    /// Marks this moment, if it is time to.
    pub(super) fn mark_reads(&mut self) {
        let chain = &self.chain;
        let due = match self.read_marks.get_max() {
            // What was archived by a version that did not count is older than this.
            None => chain.index > 0 && chain.index >= chain.reads_below,
            Some((_, mark)) => {
                let reads = chain.reads.saturating_sub(mark.reads);
                let late = self.clock_us >= mark.clock_us.saturating_add(MARK_EVERY_US);
                let look = chain.reads.is_multiple_of(MARK_READS_MIN) && reads >= MARK_READS_MIN;
                reads > 0 && (late || look && reads >= self.reads_a_mark())
            }
        };
        if due {
            let mark = ReadMark { clock_us: self.clock_us, reads: self.chain.reads };
            self.read_marks.insert(self.chain.index, mark);
            let oldest = self.read_marks.get_min().map(|(index, _)| *index);
            if let Some(oldest) = oldest.filter(|_| self.read_marks.len() > MARKS_MAX) {
                self.read_marks.remove(&oldest);
            }
        }
    }

    fn reads_a_mark(&self) -> u64 {
        integer(&self.config, "history", "reads_keep_count") / MARKS_OF_COUNT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::path::path;
    use crate::proposal::{Body, Header, Plan, Proposal, RunOnce, Submission};
    use crate::snapshot;
    use serde_json::{Value, json};
    use tiebeam_proto::record::Stages;
    use tiebeam_proto::time::Time;
    use tiebeam_proto::{Kind, Outcome};

    const SECOND: u64 = 1_000_000;

    fn state() -> State {
        let mut state = fixture::state();
        let keep = path(&["settings", "history", "reads_keep_count"]);
        state.config = state.config.set(&keep, &json!(1_600), 1).unwrap();
        state
    }

    fn apply(state: &mut State, body: Body, elapsed_us: u64) {
        let header = Header { wall: Time(0), elapsed_us, proposer: 11 };
        state.apply(state.applied + 1, 1, Some(&Proposal { header, body }));
    }

    fn read(state: &State) -> Body {
        let (name, kind) = ("node_list".into(), Kind::Read);
        let submission = Submission { name, kind, ..fixture::submission(state) };
        let plan = Plan::ended(state.revision, Outcome::Ok, "");
        let plan = Plan { error: None, ..plan };
        Body::RunOnce(Box::new(RunOnce { submission, plan, times: Stages::default() }))
    }

    /// Reads, `apart_us` of cluster time apart.
    fn reads(state: &mut State, count: u64, apart_us: u64) {
        for _ in 0..count {
            let one = read(state);
            apply(state, one, apart_us);
        }
    }

    fn below(state: &State) -> Option<u64> {
        state.reads_due(state.clock_us).map(|cut| cut.reads_below)
    }

    #[test]
    fn more_than_the_number_goes_but_nothing_young_and_never_too_much() {
        let mut state = state();
        reads(&mut state, 4_000, 1_000);
        assert_eq!((state.chain.reads, state.chain.index), (4_000, 4_000));
        assert_eq!(below(&state), None, "their callers may still ask");
        let due = state.reads_due(state.clock_us + 300 * SECOND).unwrap();
        let left = 4_000 - (due.reads_below - 1);
        // 100 reads a mark, at multiples of 64.
        assert!((1_600..1_600 + 128).contains(&left), "{left}");
        let marks = state.read_marks.len();
        let reads_below = due.reads_below;
        apply(&mut state, Body::Cut(due), 1);
        assert_eq!(state.chain.reads_below, reads_below);
        let oldest = state.read_marks.get_min().unwrap().0;
        assert!(state.read_marks.len() < marks && oldest >= reads_below);
        assert_eq!(state.reads_due(state.clock_us + 300 * SECOND), None);
        assert_eq!((state.chain.floor_index, state.chain.index), (0, 4_000));
        // It only rises, and not beyond the chain.
        for wrong in [reads_below - 1, 0, 4_002] {
            apply(&mut state, Body::Cut(Cut { reads_below: wrong, ..Cut::default() }), 1);
            assert_eq!(state.chain.reads_below, reads_below);
        }
    }

    #[test]
    fn a_few_reads_go_by_age_hour_by_hour() {
        let mut state = state();
        reads(&mut state, 240, MARK_EVERY_US / 10);
        assert_eq!(state.read_marks.len(), 24);
        assert_eq!(state.reads_due(state.clock_us + 6 * DAY_US - 1), None);
        let first = state.read_marks.get_min().unwrap().0;
        let made_us = state.read_marks[&first].clock_us;
        let due = state.reads_due(made_us + 7 * DAY_US).unwrap();
        assert_eq!(due.reads_below, first + 1);
        let all = state.reads_due(state.clock_us + 7 * DAY_US).unwrap();
        apply(&mut state, Body::Cut(all), 7 * DAY_US);
        assert!(state.chain.reads_below > 220, "the newest hour has no mark yet");
        // Any later entry makes one, and so the rest goes, too.
        apply(&mut state, Body::Audit(Vec::new()), 1);
        assert_eq!(
            state.reads_due(state.clock_us + 7 * DAY_US).map(|cut| cut.reads_below),
            Some(241)
        );
        assert_eq!(state.read_marks.len(), 1);
    }

    #[test]
    fn all_nodes_have_the_same_marks_and_a_snapshot_keeps_them() {
        let (mut one, mut two) = (state(), state());
        reads(&mut one, 700, SECOND);
        reads(&mut two, 300, SECOND);
        two = snapshot::decode(&snapshot::encode(&two)).unwrap();
        reads(&mut two, 400, SECOND);
        assert!(one.read_marks.len() > 4);
        assert_eq!((one.digest(), &one.read_marks), (two.digest(), &two.read_marks));
    }

    #[test]
    fn a_state_of_before_is_read_and_what_it_has_is_as_old_as_its_first_mark() {
        let mut state = state();
        reads(&mut state, 50, SECOND);
        let bytes = snapshot::encode(&state);
        let line = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let mut json: Value = serde_json::from_slice(&bytes[line..]).unwrap();
        json.as_object_mut().unwrap().remove("read_marks").unwrap();
        for field in ["reads", "reads_below"] {
            json["chain"].as_object_mut().unwrap().remove(field).unwrap();
        }
        let old = [&bytes[..line], json.to_string().as_bytes()].concat();
        let mut state = snapshot::decode(&old).unwrap();
        assert_eq!((state.chain.reads, state.chain.reads_below, state.read_marks.len()), (0, 0, 0));
        apply(&mut state, Body::Audit(Vec::new()), 1);
        assert_eq!(state.reads_due(state.clock_us + 7 * DAY_US).unwrap().reads_below, 51);
    }
}
