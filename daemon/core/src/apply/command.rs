//! Commands of running jobs: intent before, result after; late evidence; recorded inputs.

use super::Entry;
use crate::effect::Answer;
use crate::job::{Command, Job};
use crate::proposal::{CommandEnded, Intent, Recorded};
use crate::state::State;
use std::sync::Arc;
use tiebeam_proto::outcome::Move;
use tiebeam_proto::record::{AddendumRecord, CommandRecord, FORMAT};
use tiebeam_proto::{ErrorCode, RpcError, Stage};

/// Bytes of output that all commands of a job may keep in its record (ruling 32).
const OUTPUT_BYTES_OF_JOB: usize = 1 << 20;

impl State {
    fn running_job(&mut self, sequence: u64) -> Option<&mut Job> {
        if !self.running.contains(&sequence) {
            return None;
        }
        self.jobs.get_mut(&sequence).map(Arc::make_mut)
    }

    pub(super) fn apply_intent(&mut self, entry: &mut Entry, intent: &Intent) -> Answer {
        let (clock, epoch) = (self.clock_us, entry.term);
        let is_member = self.members.contains_key(&intent.node);
        let Some(job) = self.running_job(intent.job) else {
            return refused(ErrorCode::Conflict, "the job does not run any more");
        };
        if let Some(known) = job.command(&intent.key) {
            if known.digest == intent.digest {
                return Answer::Done;
            }
            return refused(
                ErrorCode::Conflict,
                "the job's code changed: another command had this key",
            );
        }
        if job.cancel.is_some() {
            return refused(ErrorCode::Conflict, "the job was cancelled");
        }
        if clock >= job.deadline_us {
            return refused(ErrorCode::Conflict, "the job's deadline passed");
        }
        if job.stage == Stage::Scheduled {
            job.advance(Move::Begin, intent.time).expect("a scheduled job begins");
            entry.stage(&job.record, Stage::Executed, intent.time);
        }
        job.commands.push(Command {
            key: intent.key.clone(),
            node: intent.node,
            digest: intent.digest.clone(),
            spec: intent.spec.clone(),
            deadline_us: clock.saturating_add(intent.deadline_us),
            epoch,
            ended: !is_member,
            lost: false,
        });
        // Nobody would ever say how a command on a node that was removed meanwhile ended.
        let result = if is_member { "open" } else { "refused" };
        let evidence = "its node was no member any more when it was to begin".to_owned();
        job.record_mut().commands.push(Arc::new(CommandRecord {
            name: intent.key.clone(),
            node: intent.node,
            result: result.to_owned(),
            evidence: (!is_member).then_some(evidence),
            ..CommandRecord::default()
        }));
        entry.command(job, &intent.key, intent.node, result);
        entry.due();
        Answer::Done
    }

    pub(super) fn apply_command_ended(
        &mut self,
        entry: &mut Entry,
        ended: &CommandEnded,
    ) -> Answer {
        if self.doubts.contains_key(&ended.job) {
            return self.late_evidence(entry, ended);
        }
        let Some(job) = self.running_job(ended.job) else { return Answer::Done };
        let Some(at) = job.commands.iter().position(|c| c.key == ended.key && !c.ended) else {
            return Answer::Done;
        };
        job.commands[at].ended = true;
        let kept: usize = job.record.commands.iter().map(|c| c.output.len()).sum();
        let mut record = ended.record.clone();
        if kept + record.output.len() > OUTPUT_BYTES_OF_JOB {
            record.output = "… (the job's room for output is used up)".to_owned();
            record.truncated = true;
        }
        entry.command(job, &ended.key, record.node, &record.result);
        job.record_mut().commands[at] = Arc::new(record);
        entry.due();
        Answer::Done
    }

    /// A command of a job in doubt ended after all: an addendum, and its locks go with the last.
    /// A report that it is still not known how the command ended says nothing new, so it leaves
    /// the doubt as it is and no record.
    fn late_evidence(&mut self, entry: &mut Entry, ended: &CommandEnded) -> Answer {
        if !ended.record.is_definite() {
            return Answer::Done;
        }
        let mut doubt = self.doubts.get(&ended.job).cloned().expect("the caller looked");
        let known = |(key, node): &(String, u32)| *key == ended.key && *node == ended.record.node;
        // A node of the same id that joined since has no journal of it.
        let lost = doubt.gone.contains(&ended.record.node);
        if lost || !doubt.commands.iter().any(known) {
            return Answer::Done;
        }
        doubt.commands.retain(|command| !known(command));
        let addendum = AddendumRecord {
            format: FORMAT,
            addendum: doubt.job.clone(),
            time: entry.header.wall,
            command: Some(ended.record.clone()),
            note: None,
        };
        self.archive(entry, &addendum, None);
        if doubt.commands.is_empty() {
            self.locks_held.release(&doubt.locks);
            self.doubts.remove(&ended.job);
        } else {
            self.doubts.insert(ended.job, doubt);
        }
        entry.due();
        Answer::Done
    }

    pub(super) fn apply_recorded(&mut self, recorded: &Recorded) -> Answer {
        let Some(job) = self.running_job(recorded.job) else {
            return refused(ErrorCode::Conflict, "the job does not run any more");
        };
        job.recorded.entry(recorded.key.clone()).or_insert_with(|| recorded.value.clone());
        Answer::Done
    }
}

fn refused(code: ErrorCode, text: &str) -> Answer {
    Answer::Refused(RpcError::new(code, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{apply, archived, command_ended, intent, state, submission};
    use crate::lock::Lock;
    use crate::proposal::{Body, Cancel, Finish, Plan, Schedule};
    use tiebeam_proto::Outcome;
    use tiebeam_proto::record::Archived;
    use tiebeam_proto::time::Time;

    fn ended(state: &mut State, result: &str) -> Vec<Archived> {
        archived(apply(state, command_ended(result)).1)
    }

    /// A job that holds `locks` and runs a command on `node`.
    fn runs_on(node: u32, locks: Vec<Lock>) -> State {
        let mut state = state();
        let mut call = submission(&state);
        (call.locks, call.inputs) = (locks.into(), Some("sealed".into()));
        apply(&mut state, Body::Submit(Box::new(call)));
        apply(&mut state, Body::Schedule(Schedule { job: 1, time: Time(1) }));
        apply(&mut state, intent(node));
        state
    }

    /// A job that holds `locks` and ended without knowing of its command.
    fn in_doubt(locks: Vec<Lock>) -> State {
        let mut state = runs_on(11, locks);
        let plan = Plan::ended(state.revision, Outcome::Indeterminate, "nobody knows");
        let plan = Plan { open: vec!["run-n11".into()], ..plan };
        let finish = Finish { job: 1, plan, executed: None, finished: Time(3) };
        apply(&mut state, Body::Finish(Box::new(finish)));
        assert!(state.jobs.is_empty() && state.doubts.contains_key(&1));
        state
    }

    #[test]
    fn a_job_that_nobody_cancelled_is_not_said_to_be() {
        let ends_as = |cancels: bool| {
            let mut state = runs_on(11, Vec::new());
            if cancels {
                let cancel = Cancel { job: 1, user: "admin".into(), time: Time(3) };
                apply(&mut state, Body::Cancel(cancel));
            }
            ended(&mut state, "cancelled");
            let plan = Plan::ended(state.revision, Outcome::Cancelled, "run-n11: cancelled");
            let finish = Finish { job: 1, plan, executed: None, finished: Time(4) };
            let (answer, _) = apply(&mut state, Body::Finish(Box::new(finish)));
            let Answer::Job { record: Some(record), .. } = answer else { panic!("it ended") };
            record.outcome
        };
        assert_eq!(ends_as(true), Some(Outcome::Cancelled));
        assert_eq!(ends_as(false), Some(Outcome::Timeout), "a node's deadline came first");
    }

    /// How a job without a cancel, whose only command ended well, ends if its plan says `outcome`.
    fn finished(state: &mut State, outcome: Outcome) -> (Option<Outcome>, String) {
        let plan = Plan::ended(state.revision, outcome, "node 13: its job was cancelled");
        let finish = Finish { job: 1, plan, executed: None, finished: Time(4) };
        let (answer, _) = apply(state, Body::Finish(Box::new(finish)));
        let Answer::Job { record: Some(record), .. } = answer else { panic!("it ended") };
        (record.outcome, record.result.result_desc.clone().unwrap_or_default())
    }

    #[test]
    fn only_the_clock_says_that_a_job_is_late() {
        let mut early = runs_on(11, Vec::new());
        ended(&mut early, "ok");
        let mut late = early.clone();
        late.clock_us = late.jobs[&1].deadline_us;
        let (outcome, why) = finished(&mut early, Outcome::Cancelled);
        assert_eq!(outcome, Some(Outcome::Failed), "nobody cancelled it, and it has time left");
        assert!(why.ends_with("node 13: its job was cancelled"), "{why}");
        assert_eq!(finished(&mut late, Outcome::Cancelled).0, Some(Outcome::Timeout));
    }

    #[test]
    fn no_outcome_but_ok_hides_a_command_of_which_the_end_is_not_known() {
        use Outcome::{Cancelled, Conflict, Declined, Failed, Timeout};
        for outcome in [Timeout, Failed, Cancelled, Conflict, Declined] {
            for unknown in ["open", "indeterminate"] {
                let mut state = runs_on(11, vec![Lock::write("services/web")]);
                if unknown == "indeterminate" {
                    ended(&mut state, unknown);
                }
                let (ends, why) = finished(&mut state, outcome);
                assert_eq!(ends, Some(Outcome::Indeterminate), "{outcome:?} with one {unknown}");
                assert!(why.ends_with("a command's end is not known"), "{why}");
                assert!(state.locks_held.conflicts(&[Lock::read("services/web")]));
                assert_eq!(state.locks_in_doubt().count(), 1, "{outcome:?} with one {unknown}");
                assert_eq!(ended(&mut state, "ok").len(), 1, "late evidence");
                assert!(state.locks_held.is_empty() && state.doubts.is_empty());
            }
        }
    }

    #[test]
    fn no_command_begins_after_its_job_s_deadline_or_end() {
        let mut state = runs_on(11, Vec::new());
        state.clock_us = state.jobs[&1].deadline_us;
        assert_eq!(apply(&mut state, intent(11)).0, Answer::Done, "it has its intent already");
        let other = |state: &mut State| match intent(12) {
            Body::Intent(other) => apply(state, Body::Intent(Intent { node: 11, ..other })).0,
            _ => panic!("an intent"),
        };
        let Answer::Refused(why) = other(&mut state) else { panic!("the deadline passed") };
        assert!(why.message.contains("deadline"), "{why:?}");
        assert_eq!(state.jobs[&1].commands.len(), 1);
        ended(&mut state, "ok");
        finished(&mut state, Outcome::Failed);
        assert!(matches!(other(&mut state), Answer::Refused(_)), "the job has ended");
    }

    #[test]
    fn a_stale_job_is_planned_again_on_a_base_that_every_master_knows() {
        let mut state = runs_on(11, Vec::new());
        ended(&mut state, "ok");
        let set = crate::proposal::Write::Set { path: "app/a".into(), value: 1.into() };
        let tried = state.try_writes(&[set]).expect("it may be set");
        state.keep(&tried);
        let read = crate::proposal::Read { path: "app/a".into(), seen: None };
        let plan = Plan { reads: vec![read], error: None, ..Plan::ended(1, Outcome::Ok, "") };
        let finish = Finish { job: 1, plan, executed: None, finished: Time(4) };
        assert_eq!(state.jobs[&1].record.scheduling.base_revision, 1);
        let stale = apply(&mut state, Body::Finish(Box::new(finish.clone()))).0;
        assert_eq!(stale, Answer::Stale);
        assert_eq!(state.jobs[&1].record.scheduling.base_revision, 2);
        assert_eq!(state.bases.keys().copied().collect::<Vec<_>>(), [2], "the old one is let go");
        assert_eq!(state.bases[&2].1.hash(), state.config.hash());
        let plan = Plan { reads: Vec::new(), ..finish.plan.clone() };
        apply(&mut state, Body::Finish(Box::new(Finish { plan, ..finish })));
        assert!(state.bases.is_empty() && state.jobs.is_empty());
    }

    #[test]
    fn a_command_on_a_node_that_is_no_member_never_begins() {
        let state = runs_on(12, Vec::new());
        let job = &state.jobs[&1];
        assert_eq!(job.open_commands().count(), 0, "nobody would end it");
        let told = &job.record.commands[0];
        assert_eq!((told.result.as_str(), told.is_definite()), ("refused", true));
        assert!(told.evidence.is_some());
        assert_eq!(runs_on(11, Vec::new()).jobs[&1].open_commands().count(), 1);
    }

    #[test]
    fn a_doubt_ends_with_a_definite_report_only() {
        let mut state = in_doubt(vec![Lock::write("services/web")]);
        let before = state.clone();
        for nothing_new in ["indeterminate", "open"] {
            assert_eq!(ended(&mut state, nothing_new), [], "{nothing_new}");
            assert_eq!(state.doubts, before.doubts, "{nothing_new}");
            assert_eq!((&state.locks_held, state.chain), (&before.locks_held, before.chain));
        }
        let records = ended(&mut state, "failed");
        let addendum: AddendumRecord = serde_json::from_slice(&records[0].canonical).unwrap();
        assert_eq!((addendum.addendum.as_str(), records.len()), ("11.1", 1));
        assert!(state.doubts.is_empty() && state.locks_held.is_empty());
        assert_eq!(ended(&mut state, "failed"), [], "once");
    }

    #[test]
    fn a_doubt_without_locks_holds_none() {
        let mut state = in_doubt(Vec::new());
        assert_eq!((state.doubts.len(), state.locks_in_doubt().count()), (1, 0));
        assert_eq!(ended(&mut state, "ok").len(), 1, "its late evidence is kept all the same");
        let held = in_doubt(vec![Lock::write("a")]);
        assert_eq!(held.locks_in_doubt().count(), 1);
    }

    #[test]
    fn an_end_in_doubt_that_meets_the_last_commands_end_is_decided_again() {
        let finish = |open: &[&str]| {
            let plan = Plan::ended(1, Outcome::Indeterminate, "a command's end is not known");
            let open = open.iter().map(|key| (*key).to_owned()).collect();
            let plan = Plan { open, ..plan };
            Body::Finish(Box::new(Finish { job: 1, plan, executed: None, finished: Time(9) }))
        };
        let mut state = runs_on(11, vec![Lock::write("services/web")]);
        ended(&mut state, "ok");
        let answer = apply(&mut state.clone(), finish(&["run-n11"])).0;
        assert_eq!(answer, Answer::Stale, "the master did not know of the end");
        let mut other = state.clone();
        apply(&mut other, finish(&[]));
        assert!(other.jobs.is_empty() && other.doubts.is_empty(), "it rests on something else");
        let mut unknown = runs_on(11, vec![Lock::write("services/web")]);
        ended(&mut unknown, "indeterminate");
        apply(&mut unknown, finish(&["run-n11"]));
        assert_eq!(unknown.doubts.len(), 1, "that end says nothing");
    }

    #[test]
    fn doubts_without_locks_go_with_their_records_or_when_there_are_too_many() {
        let mut state = in_doubt(Vec::new());
        let without = state.doubts[&1].clone();
        let from = without.record_from;
        assert!(from > 0, "its place in the history is known");
        let held = crate::state::Doubt { locks: vec![Lock::write("a")], ..without.clone() };
        state.doubts.insert(2, held);
        let cut = |floor_index: u64| {
            Body::Cut(crate::proposal::Cut { floor_index, floor_previous: [1; 32], reads_below: 0 })
        };
        state.chain.index = from + 9;
        apply(&mut state, cut(from));
        assert_eq!(state.doubts.len(), 2, "the record is kept");
        apply(&mut state, cut(from + 1));
        assert_eq!(state.doubts.keys().copied().collect::<Vec<_>>(), [2], "locks are never let go");
        for sequence in 10..1_020 {
            state.doubts.insert(sequence, without.clone());
        }
        state.chain.floor_index = 0;
        state.forget_doubts();
        assert_eq!((state.doubts.len(), state.doubts.keys().nth(1)), (1_001, Some(&20)));
    }
}
