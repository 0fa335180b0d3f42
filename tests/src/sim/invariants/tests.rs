//! Each invariant has a planted State or history that violates it, and one beside it that does not.

use super::super::ledger::{Acknowledged, Ledger, Print};
use super::super::linear::{Act, Observed, Seen, Written};
use super::entries::{Applied, after_entry};
use super::*;
use serde_json::json;
use std::sync::Arc;
use tiebeam_core::effect::{Answer, Effect, Event, What};
use tiebeam_core::fixture::{self, state};
use tiebeam_core::job::Command;
use tiebeam_core::path::path;
use tiebeam_core::proposal::{
    Body, Cancel, Header, Needs, Plan, Proposal, RunOnce, Submission, Write,
};
use tiebeam_proto::chain::{self, Head};
use tiebeam_proto::record::{Archived, CommandRecord, RequestFacts, Stages};
use tiebeam_proto::{Stage, time::Time};
use tiebeam_replica::membership::Membership;
use tiebeam_replica::node::Halt;
use tiebeam_replica::prefix::Held;
use tiebeam_replica::seams::mem::MemDisk;
use tiebeam_replica::{Entry, EntryKind};

fn submission(state: &State, name: &str) -> Submission {
    let request =
        Arc::new(RequestFacts { request_id: Some("r1".into()), ..RequestFacts::default() });
    Submission { name: name.into(), request, ..fixture::submission(state) }
}

/// A job that writes `value` to `app/x`, which is no register.
fn change(state: &State, name: &str, value: u64) -> Body {
    let write = Write::Set { path: "app/x".into(), value: json!(value) };
    let ended = Plan::ended(state.revision, Outcome::Ok, "");
    let plan = Plan { error: None, writes: vec![write], ..ended };
    let submission = submission(state, name);
    Body::RunOnce(Box::new(RunOnce { submission, plan, times: Stages::default() }))
}

/// What applying a body gives, to be spoilt before it is looked at.
struct Step {
    entry: Entry,
    proposal: Proposal,
    before: State,
    after: State,
    answer: Answer,
    effects: Vec<Effect>,
}

fn step(before: &State, body: Body) -> Step {
    let header = Header { wall: Time(7), elapsed_us: 1, proposer: 11 };
    let proposal = Proposal { header, body };
    let mut after = before.clone();
    let (answer, effects) = after.apply(before.applied + 1, 1, Some(&proposal));
    let entry = Entry {
        index: after.applied,
        term: 1,
        kind: EntryKind::Normal,
        payload: proposal.encode().into(),
    };
    Step { entry, proposal, before: before.clone(), after, answer, effects }
}

impl Step {
    fn look(&self, ledger: &mut Ledger) -> Checked {
        let applied = Applied {
            entry: &self.entry,
            proposal: Some(&self.proposal),
            before: &self.before,
            after: &self.after,
            answer: &self.answer,
            effects: &self.effects,
        };
        after_entry(ledger, &applied)
    }
}

/// A ledger with one change in it, and the State behind it.
fn begun() -> (Ledger, State) {
    let first = step(&state(), change(&state(), "config_set", 1));
    let mut ledger = Ledger::new(state());
    first.look(&mut ledger).unwrap();
    (ledger, first.after)
}

fn number(checked: Checked) -> u32 {
    checked.map_or_else(|violation| violation.number, |()| 0)
}

fn record(job: &str, outcome: Outcome) -> JobRecord {
    let made = step(&state(), change(&state(), "config_set", 1));
    let Answer::Job { record: Some(record), .. } = made.answer else { panic!("it ended") };
    JobRecord { job: job.into(), outcome: Some(outcome), ..(*record).clone() }
}

#[test]
fn invariant_1_an_acknowledged_change_that_is_gone_is_found() {
    let (mut ledger, state) = begun();
    ledger.acknowledged_index = 2;
    assert_eq!(number(acknowledged_entries_are_there(&ledger, 2)), 0);
    assert_eq!(number(acknowledged_entries_are_there(&ledger, 1)), 1);
    assert_eq!(number(what_was_promised_is_there(7, 7)), 0);
    assert_eq!(number(what_was_promised_is_there(7, 6)), 1);
    let lost = Halt::LogLost { acknowledged: 9, last: 3 };
    assert_eq!((number(no_log_is_lost(&lost, true)), number(no_log_is_lost(&lost, false))), (0, 1));
    let hash = ledger.revisions.get(&2).copied();
    let told = Acknowledged { job: "11.1".into(), outcome: Outcome::Ok, revision: Some(2), hash };
    ledger.acknowledged.push(told);
    let kept = record("11.1", Outcome::Ok);
    let survive = |ledger: &Ledger, records: &[JobRecord]| {
        number(ends::acknowledged_changes_survive(ledger, records, &state))
    };
    assert_eq!(survive(&ledger, std::slice::from_ref(&kept)), 0);
    assert_eq!(survive(&ledger, &[]), 1, "no record");
    assert_eq!(survive(&ledger, &[record("11.1", Outcome::Failed)]), 1, "another end");
    ledger.acknowledged[0].hash = Some([9; 32]);
    assert_eq!(survive(&ledger, &[kept]), 1, "another content");
}

#[test]
fn invariant_2_a_stale_read_is_found() {
    let (mut ledger, _) = begun();
    let act = Act::Set { value: 1, expect: None };
    let write = Observed { client: 0, called: 1, returned: 4, act, seen: Seen::Done(Some(2)) };
    let read = |value| Observed { act: Act::Read, seen: Seen::Value(value), ..write.clone() };
    let history = ledger.registers.entry("app/a").or_default();
    history.begins();
    history.writes(Written { value: Some(1), revision: 2, moment: 3 });
    let look = |ledger: &mut Ledger, call: Observed| {
        number(registers_are_linearizable(ledger, "app/a", Some(call)))
    };
    assert_eq!(look(&mut ledger, write.clone()), 0);
    assert_eq!(look(&mut ledger, Observed { called: 5, returned: 6, ..read(Some(1)) }), 0);
    assert_eq!(look(&mut ledger, Observed { called: 7, returned: 8, ..read(None) }), 2);
    let history = ledger.registers.entry("app/b").or_default();
    history.writes(Written { value: Some(9), revision: 3, moment: 3 });
    assert_eq!(number(everything_at_the_end(&mut ledger, &begun().1)), 2, "nobody wrote it");
}

#[test]
fn invariant_3_a_revision_used_twice_and_a_second_leader_are_found() {
    let (mut ledger, state) = begun();
    let mut next = step(&state, change(&state, "config_get", 2));
    next.after.revision = state.revision;
    assert_eq!(number(next.look(&mut ledger)), 3, "a change without a revision");
    let mut ledger = begun().0;
    assert_eq!(number(one_leads_in_a_term(&mut ledger, 4, 11)), 0);
    assert_eq!(number(one_leads_in_a_term(&mut ledger, 4, 11)), 0);
    assert_eq!(number(one_leads_in_a_term(&mut ledger, 4, 12)), 3);
}

#[test]
fn invariants_4_5_and_6_a_job_that_comes_twice_is_found() {
    let (ledger, state) = begun();
    let sound = step(&state, change(&state, "config_set", 2));
    let spoilt = |spoil: fn(&mut Step, &mut Ledger)| {
        let (mut ledger, mut next) = (begun().0, step(&state, change(&state, "config_set", 2)));
        spoil(&mut next, &mut ledger);
        number(next.look(&mut ledger))
    };
    assert_eq!(ledger.requests.len(), 1);
    assert_eq!(number(sound.look(&mut begun().0)), 6, "one request id, two jobs");
    let again = spoilt(|next, _| {
        if let Answer::Job { id, .. } = &mut next.answer {
            *id = "11.1".into();
        }
    });
    assert_eq!(again, 4);
    let back = spoilt(|next, ledger| {
        ledger.requests.clear();
        let what = What::Stage {
            job: Arc::from("11.1"),
            name: Arc::from("config_set"),
            user: Arc::from("admin"),
            stage: Stage::Submitted,
            outcome: None,
            time: Time(0),
        };
        next.effects.push(Effect::Event(Event { cursor: (1, 1), what }));
    });
    assert_eq!(back, 5);
}

#[test]
fn invariant_6_a_failure_with_a_revision_and_a_doubt_without_evidence_are_found() {
    let mut ledger = begun().0;
    let check = |ledger: &Ledger, record: JobRecord| {
        number(ends::failures_change_nothing(ledger, &[record]))
    };
    assert_eq!(check(&ledger, record("11.1", Outcome::Ok)), 0);
    assert_eq!(check(&ledger, record("11.1", Outcome::Failed)), 6);
    let mut doubt = record("11.1", Outcome::Indeterminate);
    doubt.result.result_revision = None;
    assert_eq!(check(&ledger, doubt), 6);
    let mut ran = record("11.1", Outcome::Ok);
    let command = CommandRecord { name: "run".into(), node: 11, ..CommandRecord::default() };
    ran.commands.push(CommandRecord { result: "ok".into(), ..command }.into());
    assert_eq!(check(&ledger, ran.clone()), 6, "it is said to have run");
    ledger.started.insert((1, "run".into(), 11));
    assert_eq!(check(&ledger, ran.clone()), 6, "nobody knows how it ended");
    ledger.ended.insert((1, "run".into(), 11), "cancelled");
    assert_eq!(check(&ledger, ran.clone()), 6, "it ended otherwise");
    ledger.ended.insert((1, "run".into(), 11), "ok");
    assert_eq!(check(&ledger, ran), 0);
}

#[test]
fn invariant_7_a_job_that_does_not_end_is_found() {
    let before = state();
    let submitted = step(&before, Body::Submit(Box::new(submission(&before, "config_set"))));
    assert_eq!(number(jobs_end_in_time(std::iter::once(&before), 1)), 0);
    assert_eq!(number(jobs_end_in_time(std::iter::once(&submitted.after), 1)), 7);
    assert_eq!(number(the_cluster_comes_back(&[], 1)), 7, "nobody leads");
}

#[test]
fn invariant_8_a_second_start_and_one_after_the_fence_are_found() {
    let name = (1, "run".to_owned());
    let command = |epoch| Command {
        key: "run".into(),
        node: 11,
        digest: String::new(),
        spec: String::new(),
        deadline_us: 0,
        epoch,
        ended: false,
        lost: false,
    };
    let ledger = || {
        let mut ledger = begun().0;
        ledger.intents.insert((1, "run".into(), 11), 4);
        ledger
    };
    let mut sound = ledger();
    assert_eq!(number(commands_start_once(&mut sound, &name, 11, &command(4))), 0);
    assert_eq!(number(commands_start_once(&mut sound, &name, 11, &command(4))), 8, "twice");
    assert_eq!(number(commands_are_fenced(&mut sound, &name, 11)), 8, "fenced after its start");
    let mut fenced = ledger();
    assert_eq!(number(commands_are_fenced(&mut fenced, &name, 11)), 0);
    assert_eq!(number(commands_start_once(&mut fenced, &name, 11, &command(4))), 8);
    assert_eq!(number(commands_start_once(&mut ledger(), &name, 11, &command(3))), 8, "old epoch");
}

#[test]
fn invariants_8_and_10_a_cancel_that_a_node_forgets_is_found() {
    let name = (1, "run".to_owned());
    let command = Command {
        key: "run".into(),
        node: 11,
        digest: String::new(),
        spec: String::new(),
        deadline_us: 0,
        epoch: 4,
        ended: false,
        lost: false,
    };
    let mut ledger = begun().0;
    ledger.intents.insert((1, "run".into(), 11), 4);
    (ledger.stopped, ledger.applied) = ([(1, 9)].into(), [(11, 8)].into());
    assert_eq!(number(commands_start_once(&mut ledger, &name, 11, &command)), 0, "not known yet");
    ledger.started.clear();
    ledger.applied.insert(11, 9);
    assert_eq!(number(commands_start_once(&mut ledger, &name, 11, &command)), 10);
    let told = |told: &'static str, outcome: Outcome| {
        let mut ledger = begun().0;
        ledger.cancels.insert(1, told);
        let ended = JobRecord { commands: Vec::new(), ..record("11.1", outcome) };
        number(ends::cancels_come_true(&ledger, &[ended]))
    };
    assert_eq!((told("cancelled", Outcome::Cancelled), told("cancelled", Outcome::Ok)), (0, 10));
    assert_eq!((told("stopping", Outcome::Ok), told("too_late", Outcome::Ok)), (0, 0));
    let ledger = begun().0;
    let unasked = record("11.1", Outcome::Cancelled);
    assert_eq!(number(ends::cancels_come_true(&ledger, &[unasked])), 10);
}

#[test]
fn invariants_9_and_10_an_old_read_and_a_false_cancel_are_found() {
    let (mut ledger, state) = begun();
    assert_eq!(number(reads_see_what_was_committed(&state, 2)), 0);
    assert_eq!(number(reads_see_what_was_committed(&state, 3)), 9);
    let cancel = Cancel { job: 1, user: "admin".into(), time: Time(0) };
    let mut told = step(&state, Body::Cancel(cancel));
    assert_eq!(number(told.look(&mut begun().0)), 0, "too late, and said so");
    told.answer = Answer::Cancel("cancelled");
    assert_eq!(number(told.look(&mut ledger)), 10);
}

#[test]
fn invariant_11_a_record_that_does_not_follow_is_found() {
    let (mut ledger, _) = begun();
    let mut head = Head::EMPTY;
    let canonical: Arc<[u8]> = Arc::from(&b"{}"[..]);
    let link = head.extend(&canonical);
    ledger.records.push(Archived { link, canonical: canonical.clone() });
    assert_eq!(number(standing(&mut ledger, std::iter::empty())), 0);
    let mut link = head.extend(&canonical);
    link.previous = chain::to_text(&[7; 32]);
    ledger.records.push(Archived { link, canonical });
    assert_eq!(number(standing(&mut ledger, std::iter::empty())), 11);
    let mut lost = begun().0;
    assert_eq!(number(everything_at_the_end(&mut lost, &begun().1)), 11, "a job has no record");
    let (mut wrong, state) = begun();
    assert_eq!(number(whole(&mut wrong, &MemDisk::new(), &state)), 0);
    let mut ahead = state.clone();
    ahead.chain.index = 5;
    assert_eq!(number(whole(&mut wrong, &MemDisk::new(), &ahead)), 11);
}

#[test]
fn invariants_12_13_and_17_a_failed_and_a_damaged_disk_are_found() {
    let (ledger, state) = begun();
    assert_eq!(number(a_failed_disk_is_silent(true, 3)), 0);
    assert_eq!(number(a_failed_disk_is_silent(false, 3)), 12);
    assert_eq!(number(damage_is_detected(&ledger, &state, "a bit")), 0);
    let mut other = state.clone();
    other.revision += 1;
    assert_eq!(number(damage_is_detected(&ledger, &other, "a bit")), 13);
    assert_eq!(
        (number(a_damaged_log_is_refused(true)), number(a_damaged_log_is_refused(false))),
        (0, 13)
    );
    let told = Ledger { acknowledged_index: 3, ..ledger };
    assert_eq!(number(damage_hides_nothing(&told, &state, "a bit")), 13);
    assert_eq!(a_stopped_node_starts::<()>(Err("x".into())).unwrap_err().number, 13);
    assert_eq!(no_assertion_fails("a panic".into()).number, 17);
}

#[test]
fn invariants_14_and_16_a_forbidden_job_and_a_secret_are_found() {
    let (mut ledger, state) = begun();
    ledger.requests.clear();
    let mut next = step(&state, change(&state, "config_set", 2));
    let Body::RunOnce(run) = &mut next.proposal.body else { panic!("made above") };
    run.submission.needs = Arc::new(Needs { groups: vec!["root".into()], ..Needs::default() });
    assert_eq!(number(next.look(&mut ledger)), 14);
    let (mut ledger, disk) = (begun().0, MemDisk::new());
    ledger.secrets.insert("canary-1".into());
    disk.plant("log/seg", b"....canary-1....");
    assert_eq!(number(standing(&mut ledger, std::iter::once(&MemDisk::new()))), 0);
    assert_eq!(number(standing(&mut ledger, std::iter::once(&disk))), 16);
}

#[test]
fn invariants_18_and_19_nodes_and_runs_that_differ_are_found() {
    let (mut ledger, state) = begun();
    let before = super::tests::state();
    let again = step(&before, change(&before, "config_set", 1));
    assert_eq!(number(again.look(&mut ledger)), 0, "another node applies it too");
    let mut other = step(&before, change(&before, "config_set", 1));
    other.entry.term = 9;
    assert_eq!(number(other.look(&mut ledger)), 18, "another entry");
    let mut other = step(&before, change(&before, "config_set", 1));
    other.after.clock_us += 1;
    assert_eq!(number(other.look(&mut ledger)), 18, "another State");
    let later = step(&again.after, change(&again.after, "config_set", 2));
    let gap = step(&later.after, change(&later.after, "config_set", 3));
    assert_eq!(number(gap.look(&mut ledger)), 18, "an entry too early");
    assert_eq!(number(installed_states_are_known(&ledger, &state)), 0);
    let mut foreign = state.clone();
    foreign.config = foreign.config.set(&path(&["app", "n"]), &json!(5), 2).unwrap();
    assert_ne!(Print::of(&foreign), Print::of(&state));
    assert_eq!(number(installed_states_are_known(&ledger, &foreign)), 18);
    let (one, mut two) = (Essence::of(&ledger, &state), Essence::of(&ledger, &state));
    assert_eq!(number(wall_clocks_change_nothing(&one, &two)), 0);
    two.clock_us += 1;
    assert_eq!(number(wall_clocks_change_nothing(&one, &two)), 19);
}

#[test]
fn invariants_20_21_and_22_are_found() {
    assert_eq!(number(has_the_history(11, None)), 0);
    assert_eq!(number(has_the_history(11, Some(5))), 20);
    let voters = [1, 2, 3].into();
    let held = |of_2: (u64, u64)| {
        let mut ledger = Ledger::new(state());
        let all = [(1, (1, 9)), (2, of_2), (3, (1, 8)), (4, (1, 9))];
        ledger.held = all.map(|(id, (from, to))| (id, Held { from, to })).into();
        number(what_is_dropped_is_in_histories(&ledger, 1, &voters, 9))
    };
    assert_eq!(held((1, 9)), 0);
    assert_eq!(held((1, 8)), 20, "member 4 does not vote");
    assert_eq!(held((2, 9)), 20, "one has a gap");
    let mut ledger = begun().0;
    assert_eq!(number(requests_are_answered_once(&mut ledger, 4)), 0);
    assert_eq!(number(requests_are_answered_once(&mut ledger, 4)), 21, "two answers");
    assert_eq!((number(requests_are_answered(0, 1)), number(requests_are_answered(1, 1))), (0, 21));
    let (mut ledger, state) = begun();
    ledger.requests.clear();
    let mut back = step(&state, change(&state, "config_rollback", 2));
    assert_eq!(number(back.look(&mut begun_without_requests())), 0);
    let root = path(&["users", "ghost"]);
    let entry = tiebeam_core::genesis::user_entry(7, "exausers", &[]);
    back.after.config = back.after.config.set(&root, &entry, back.after.revision).unwrap();
    assert_eq!(number(back.look(&mut ledger)), 22);
}

#[test]
fn invariants_8_23_and_24_members_that_do_not_count_are_found() {
    let (mut ledger, state) = begun();
    ledger.requests.clear();
    let mut stranger = step(&state, change(&state, "config_set", 2));
    stranger.proposal.header.proposer = 12;
    assert_eq!(number(stranger.look(&mut ledger)), 23, "proposed by no member");
    let (mut ledger, state) = begun();
    ledger.requests.clear();
    let mut two = step(&state, change(&state, "config_set", 2));
    two.after.members.remove(&11);
    assert_eq!(number(two.look(&mut ledger)), 24, "nobody votes");
    assert_eq!(number(who_was_removed_does_not_answer(4, None)), 0);
    assert_eq!(number(who_was_removed_does_not_answer(4, Some(5))), 0);
    assert_eq!(number(who_was_removed_does_not_answer(5, Some(5))), 23);
    let group = |raft_id| Membership::of_voters([raft_id]);
    assert_eq!(number(the_group_is_what_state_says(&state, &group(11 << 16 | 1))), 0);
    assert_eq!(number(the_group_is_what_state_says(&state, &group(12 << 16 | 1))), 23);
    assert_eq!(number(who_is_seated_has_caught_up(1, 900, Some(800))), 0);
    assert_eq!(number(who_is_seated_has_caught_up(1, 900, Some(3))), 24);
    assert_eq!(number(who_is_seated_has_caught_up(1, 9, None)), 24, "it has no disk");
}

#[test]
fn invariant_8_a_command_that_nobody_will_end_is_found() {
    let before = state();
    let mut call = submission(&before, "command_run");
    call.inputs = Some("sealed".into());
    let submitted = step(&before, Body::Submit(Box::new(call))).after;
    let schedule = tiebeam_core::proposal::Schedule { job: 1, time: Time(1) };
    let running = step(&submitted, Body::Schedule(schedule)).after;
    let intent = tiebeam_core::proposal::Intent {
        job: 1,
        key: "run".into(),
        node: 11,
        digest: String::new(),
        spec: String::new(),
        deadline_us: 1,
        time: Time(2),
    };
    let mut open = step(&running, Body::Intent(intent));
    let index = open.entry.index;
    let look = |open: &Step| {
        let mut ledger = Ledger::new(running.clone());
        ledger.entries = vec![open.entry.clone(); index as usize - 2];
        ledger.prints = vec![Print::of(&running); index as usize - 2];
        number(open.look(&mut ledger))
    };
    assert_eq!(look(&open), 0);
    let job = open.after.jobs.get_mut(&1).map(Arc::make_mut).unwrap();
    job.commands[0].node = 12;
    assert_eq!(look(&open), 8);
}

fn begun_without_requests() -> Ledger {
    let mut ledger = begun().0;
    ledger.requests.clear();
    ledger
}
