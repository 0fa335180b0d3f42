//! What of the history is kept, and what is put into it so that old revisions can be read: the
//! floor of the chain, and a full tree every [`TREE_EVERY`] revisions.
//!
//! A full tree is a record of its own. It is archived right behind the record of the job that made
//! the revision, so whoever finds that record finds the tree at the next index, without an index of
//! its own. Until then State holds the tree like the base of a live job.

use super::Entry;
use crate::effect::Answer;
use crate::proposal::Cut;
use crate::state::State;
use tiebeam_proto::chain;
use tiebeam_proto::record::{FORMAT, FullTree, JobRecord, TreeRecord};
use tiebeam_proto::time::Time;

/// Revisions from one full tree to the next. With 4 MiB at most for a tree, it bounds both what
/// the trees add to the history and how many diffs a look back undoes.
pub const TREE_EVERY: u64 = 1_000;

fn has_full_tree(revision: u64) -> bool {
    revision.is_multiple_of(TREE_EVERY)
}

impl State {
    /// Raises the floor. The entry carries the hash before it: where a chain that is verified
    /// from its floor begins is the same on all nodes, and State cannot compute it.
    pub(super) fn apply_cut(&mut self, cut: &Cut) -> Answer {
        if cut.floor_index > self.chain.floor_index && cut.floor_index <= self.chain.index {
            self.chain.floor_index = cut.floor_index;
            self.chain.floor_previous = cut.floor_previous;
            self.forget_doubts();
        }
        self.prune_reads(cut.reads_below);
        Answer::Done
    }

    /// Holds the newest configuration until its job is archived, if it is to have a full tree.
    pub(super) fn keep_full_tree(&mut self, revision: u64) {
        if has_full_tree(revision) {
            self.hold_base(revision);
        }
    }

    /// Archives the configuration that this job, just archived, made, if it is to have a full tree.
    pub(super) fn archive_full_tree(&mut self, entry: &mut Entry, job: &JobRecord, time: Time) {
        let revision = job.result.result_revision.filter(|revision| has_full_tree(*revision));
        let Some(revision) = revision else { return };
        let (_, tree) = self.bases.get(&revision).expect("it is held since it was made");
        let tree = FullTree {
            revision,
            root: chain::to_text(&tree.hash()),
            config: tree.root().to_value(),
        };
        self.archive(entry, &TreeRecord { format: FORMAT, tree, time }, None);
        self.release_base(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, state};
    use crate::path::path;
    use crate::proposal::{Body, Committed, Header, Plan, Proposal, RunOnce, Write};
    use serde_json::{Value, json};
    use tiebeam_proto::Outcome;
    use tiebeam_proto::record::{Archived, Stages};

    fn apply(state: &mut State, body: Body) -> Vec<Archived> {
        fixture::archived(fixture::apply(state, body).1)
    }

    /// A job that writes the next revision's number to `app/n`.
    fn change(state: &State) -> Body {
        let submission = fixture::submission(state);
        let value = json!(state.revision + 1);
        let write = Write::Set { path: "app/n".into(), value };
        let ended = Plan::ended(state.revision, Outcome::Ok, "");
        let plan = Plan { error: None, writes: vec![write], ..ended };
        Body::RunOnce(Box::new(RunOnce { submission, plan, times: Stages::default() }))
    }

    fn committed(jobs: Vec<u64>) -> Body {
        Body::Committed(Committed { jobs, time: Time(7), applied: vec![11], pending: Vec::new() })
    }

    #[test]
    fn every_thousandth_revision_is_followed_by_its_full_tree() {
        let mut one = state();
        let secret = crate::tree::sealed("sealed text", "sha256:ab");
        one.config = one.config.set(&path(&["app", "key"]), &secret, 1).unwrap();
        one.revision = 2 * TREE_EVERY - 2;
        let mut two = one.clone();
        let run = |state: &mut State| {
            for _ in 0..3 {
                let made = change(state);
                assert!(apply(state, made).is_empty(), "not before it is committed");
            }
            // The newest is beyond the full tree already: it is the one of its own revision.
            apply(state, committed(vec![1, 2, 3]))
        };
        let (records, again) = (run(&mut one), run(&mut two));
        assert_eq!((&records, one.digest()), (&again, two.digest()));
        let values: Vec<Value> =
            records.iter().map(|r| serde_json::from_slice(&r.canonical).unwrap()).collect();
        let made: Vec<_> = values.iter().map(|v| v["result"]["result_revision"].as_u64()).collect();
        assert_eq!(made, [Some(1_999), Some(2_000), None, Some(2_001)]);
        let record: TreeRecord = serde_json::from_value(values[2].clone()).unwrap();
        assert_eq!((record.tree.revision, record.time), (2_000, Time(7)));
        assert_eq!(record.tree.config["app"], json!({"key": {"secret": "sha256:ab"}, "n": 2_000}));
        assert!(one.bases.is_empty(), "nothing is held any more");
        assert_eq!((one.chain.index, records[3].link.index), (4, 4));
    }

    #[test]
    fn the_floor_only_rises_and_takes_its_hash_along() {
        let mut state = state();
        let made = change(&state);
        apply(&mut state, made);
        let records = apply(&mut state, committed(vec![1]));
        let cut = |floor_index, nth: u8| {
            Body::Cut(Cut { floor_index, floor_previous: [nth; 32], reads_below: 0 })
        };
        for (floor, nth, kept) in [(2, 1, (0, [0; 32])), (1, 2, (1, [2; 32])), (1, 3, (1, [2; 32]))]
        {
            apply(&mut state, cut(floor, nth));
            let chain = state.chain;
            assert_eq!((chain.floor_index, chain.floor_previous), kept, "floor {floor}");
        }
        assert_eq!(records.len(), 1);
        let old = Proposal::decode(&older_cut()).unwrap();
        assert_eq!(
            old.body,
            Body::Cut(Cut { floor_index: 9, floor_previous: [0; 32], reads_below: 0 })
        );
    }

    /// An entry of before the hash was in it.
    fn older_cut() -> Vec<u8> {
        let header = Header { wall: Time(0), elapsed_us: 1, proposer: 11 };
        let body = Body::Cut(Cut { floor_index: 9, floor_previous: [0; 32], reads_below: 0 });
        let mut bytes = Proposal { header, body }.encode();
        let json = bytes.iter().position(|byte| *byte == b'{').unwrap();
        bytes.truncate(json);
        bytes.extend_from_slice(br#"{"floor_index":9}"#);
        bytes
    }
}
