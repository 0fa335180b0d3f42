//! The invariants that a cluster of one can hold, each a function with a name. Numbers are those
//! of the blueprint's list, and the rulings' additions to it.
//!
//! `after_entry` looks at every entry that is applied, `whole` at everything. They read the
//! observer's notes and the simulated disk; they change nothing but the notes.

use super::archive;
use super::ledger::{Ledger, Print};
use super::linear;
use std::collections::BTreeSet;
use std::fmt;
use tiebeam_core::effect::{Answer, Effect, What};
use tiebeam_core::path::path;
use tiebeam_core::proposal::{Body, Proposal, Submission};
use tiebeam_core::{Path, State, snapshot as state_bytes};
use tiebeam_proto::chain::{self, Head};
use tiebeam_proto::record::{Archived, JobRecord};
use tiebeam_proto::{Outcome, Stage};
use tiebeam_replica::seams::mem::MemDisk;
use tiebeam_replica::{Entry, EntryKind};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "invariant {} ({}): {}", self.number, self.invariant, self.detail)
    }
}

type Checked = Result<(), Violation>;

fn hold(
    holds: bool,
    (number, invariant): (u32, &'static str),
    detail: impl FnOnce() -> String,
) -> Checked {
    if holds { Ok(()) } else { Err(Violation { number, invariant, detail: detail() }) }
}

/// An entry and what it did.
pub(super) struct Applied<'a> {
    pub(super) entry: &'a Entry,
    pub(super) proposal: Option<&'a Proposal>,
    pub(super) before: &'a State,
    pub(super) after: &'a State,
    pub(super) answer: &'a Answer,
    pub(super) effects: &'a [Effect],
}

impl Applied<'_> {
    fn archived(&self) -> impl Iterator<Item = &Archived> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Archive(archived, _) => Some(archived),
            _ => None,
        })
    }

    fn submission(&self) -> Option<&Submission> {
        match &self.proposal?.body {
            Body::Submit(submission) => Some(submission),
            Body::RunOnce(run) => Some(&run.submission),
            _ => None,
        }
    }
}

/// Looks at one applied entry: one that is new, or one that is replayed.
pub(super) fn after_entry(ledger: &mut Ledger, applied: &Applied) -> Checked {
    let place = Ledger::place(applied.entry.index);
    if place < ledger.entries.len() {
        return replay_is_deterministic(ledger, applied);
    }
    hold(place == ledger.entries.len(), (18, "replay_is_deterministic"), || {
        format!("entry {} was applied before the ones below it", applied.entry.index)
    })?;
    revisions_increase_and_keep_their_hash(ledger, applied)?;
    job_ids_are_unique(ledger, applied)?;
    stages_never_go_back(ledger, applied)?;
    effects_happen_once(ledger, applied)?;
    records_follow_each_other(ledger, applied)?;
    rollbacks_bring_no_login_back(applied)?;
    ledger.entries.push(applied.entry.clone());
    ledger.prints.push(Print::of(applied.after));
    Ok(())
}

/// 1, at a start: the log reaches at least as far as somebody was told.
pub(super) fn acknowledged_entries_are_there(ledger: &Ledger, last: u64) -> Checked {
    let told = ledger.acknowledged_index;
    hold(last >= told, (1, "acknowledged_changes_survive"), || {
        format!("entry {told} was acknowledged, the log ends at {last}")
    })
}

/// 1: what a caller was told of a change is in the history: same job, same revision, same hash.
fn acknowledged_changes_survive(ledger: &Ledger, records: &[JobRecord], state: &State) -> Checked {
    let name = (1, "acknowledged_changes_survive");
    for told in &ledger.acknowledged {
        let record = records.iter().find(|record| record.job == told.job);
        let same = record.is_some_and(|record| {
            record.outcome == Some(told.outcome) && record.result.result_revision == told.revision
        });
        hold(same, name, || format!("told {told:?}, kept {record:?}"))?;
        let Some(revision) = told.revision else { continue };
        let kept = ledger.revisions.get(&revision).copied();
        hold(told.hash == kept && revision <= state.revision, name, || {
            format!("revision {revision} of {} is not what was acknowledged", told.job)
        })?;
    }
    Ok(())
}

/// 2: what callers saw of every register has an order that explains it.
fn registers_are_linearizable(ledger: &Ledger) -> Checked {
    for (path, calls) in &ledger.registers {
        hold(linear::is_linearizable(calls), (2, "registers_are_linearizable"), || {
            let lines: Vec<String> = calls.iter().map(|call| format!("{call:?}")).collect();
            format!("{path} has no order:\n  {}", lines.join("\n  "))
        })?;
    }
    Ok(())
}

/// 3: a revision is the one before and one, and has one hash for ever.
fn revisions_increase_and_keep_their_hash(ledger: &mut Ledger, applied: &Applied) -> Checked {
    let (before, after) = (applied.before, applied.after);
    let name = (3, "revisions_increase_and_keep_their_hash");
    let hash = after.config.hash();
    let changed = hash != before.config.hash();
    let step = after.revision - before.revision;
    hold(step == u64::from(step == 1) && (step == 1 || !changed), name, || {
        format!("entry {} went from {} to {}", after.applied, before.revision, after.revision)
    })?;
    let known = *ledger.revisions.entry(after.revision).or_insert(hash);
    hold(known == hash, name, || format!("revision {} has two hashes", after.revision))
}

/// 4: no job id is given twice.
fn job_ids_are_unique(ledger: &mut Ledger, applied: &Applied) -> Checked {
    let (Some(_), Answer::Job { id, .. }) = (applied.submission(), applied.answer) else {
        return Ok(());
    };
    let new = ledger.jobs.insert(id.clone());
    hold(new, (4, "job_ids_are_unique"), || format!("{id} was given twice"))
}

/// 5: a job's stages go up, and nothing follows its last one.
fn stages_never_go_back(ledger: &mut Ledger, applied: &Applied) -> Checked {
    for effect in applied.effects {
        let Effect::Event(event) = effect else { continue };
        let What::Stage { job, stage, .. } = &event.what else { continue };
        let known = ledger.stages.insert(job.to_string(), *stage);
        hold(known.is_none_or(|known| known < *stage), (5, "stages_never_go_back"), || {
            format!("{job} went from {known:?} to {stage:?}")
        })?;
    }
    Ok(())
}

/// 6: one call, repeated under its request id or not, makes one job.
fn effects_happen_once(ledger: &mut Ledger, applied: &Applied) -> Checked {
    let (Some(submission), Answer::Job { id, .. }) = (applied.submission(), applied.answer) else {
        return Ok(());
    };
    let Some(request) = &submission.request.request_id else { return Ok(()) };
    let first = ledger.requests.insert(request.clone(), id.clone());
    hold(first.is_none(), (6, "effects_happen_once"), || {
        format!("request {request} made {id} after {first:?}")
    })
}

/// 6: a job that did not end well changed nothing, and no job without commands is in doubt.
fn failures_change_nothing(records: &[JobRecord]) -> Checked {
    for record in records {
        let known = record.outcome != Some(Outcome::Indeterminate);
        hold(known, (6, "effects_happen_once"), || format!("{} is in doubt", record.job))?;
        let quiet = record.outcome == Some(Outcome::Ok) || record.result.result_revision.is_none();
        hold(quiet, (6, "effects_happen_once"), || format!("{} failed and changed", record.job))?;
    }
    Ok(())
}

/// 7: after everything was healed, no job is left.
pub(super) fn jobs_end_in_time(state: &State, waited_us: u64) -> Checked {
    hold(state.jobs.is_empty(), (7, "jobs_end_in_time"), || {
        let left: Vec<&str> = state.jobs.values().map(|job| job.record.job.as_str()).collect();
        format!("{left:?} did not end within {waited_us} µs of cluster time")
    })
}

/// 9: a read sees at least every revision that was acknowledged before it was asked for.
pub(super) fn reads_see_what_was_committed(state: &State, floor: u64) -> Checked {
    hold(state.revision >= floor, (9, "reads_see_what_was_committed"), || {
        format!("a read saw revision {}, {floor} had been acknowledged", state.revision)
    })
}

/// 11: records come in the order of the chain.
fn records_follow_each_other(ledger: &mut Ledger, applied: &Applied) -> Checked {
    for archived in applied.archived() {
        let previous = ledger.records.last().map(|last| last.link.this.clone());
        let previous = previous.unwrap_or_else(|| chain::to_text(&chain::GENESIS));
        let follows = archived.link.index == ledger.records.len() as u64 + 1
            && archived.link.previous == previous
            && chain::holds(&archived.link, &archived.canonical);
        hold(follows, (11, "records_are_archived_once"), || {
            format!("record {} does not follow", archived.link.index)
        })?;
        ledger.records.push(archived.clone());
    }
    Ok(())
}

/// 11: the history on the disk is the chain that apply made, and every job that somebody was told
/// of is in it once.
fn records_are_archived_once(
    ledger: &Ledger,
    kept: &[Vec<u8>],
    head: Head,
    state: &State,
    records: &[JobRecord],
) -> Checked {
    let name = (11, "records_are_archived_once");
    hold(head.index == state.chain.index && head.hash == state.chain.head, name, || {
        format!("the history ends at {}, State says {}", head.index, state.chain.index)
    })?;
    let same = ledger.records.iter().map(|record| &*record.canonical).eq(kept.iter().map(|r| &**r));
    hold(same, name, || "the history is not what apply archived".to_owned())?;
    let ids: BTreeSet<&str> = records.iter().map(|record| record.job.as_str()).collect();
    hold(ids.len() == records.len(), name, || "a job has two records".to_owned())?;
    let lost = ledger.jobs.iter().find(|job| !ids.contains(job.as_str()));
    hold(lost.is_none(), name, || format!("{lost:?} has no record"))
}

/// 12: after the log failed nothing new is acknowledged.
pub(super) fn a_failed_disk_is_silent(may: bool, index: u64) -> Checked {
    hold(may, (12, "a_failed_disk_is_silent"), || {
        format!("entry {index} was acknowledged after the log had failed")
    })
}

/// 13: a node that starts from a damaged folder knows everything that it knew.
pub(super) fn damage_is_detected(ledger: &Ledger, state: &State, what: &str) -> Checked {
    let name = (13, "damage_is_detected");
    hold(state.applied >= ledger.acknowledged_index, name, || {
        let told = ledger.acknowledged_index;
        format!("{what}: the node started at entry {}, {told} was acknowledged", state.applied)
    })?;
    let known = ledger.print(state.applied);
    hold(known.is_none_or(|known| known == Print::of(state)), name, || {
        format!("{what}: the node started with another State at entry {}", state.applied)
    })
}

/// 13: a node that was only stopped starts again.
pub(super) fn a_stopped_node_starts<T>(started: Result<T, String>) -> Result<T, Violation> {
    let violation = |detail| Violation { number: 13, invariant: "a_stopped_node_starts", detail };
    started.map_err(violation)
}

/// 16: no secret is anywhere on the disk.
pub(super) fn secrets_are_nowhere(ledger: &Ledger, disk: &MemDisk) -> Checked {
    if ledger.secrets.is_empty() {
        return Ok(());
    }
    for file in disk.paths() {
        let bytes = disk.content(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        // All secrets of the simulation begin like this.
        hold(!text.contains("canary"), (16, "secrets_are_nowhere"), || {
            format!("a secret is in {file}")
        })?;
    }
    Ok(())
}

/// 17: no assertion of the product fails.
pub(super) fn no_assertion_fails(text: String) -> Violation {
    Violation { number: 17, invariant: "no_assertion_fails", detail: text }
}

/// 18: an entry that is applied again is the same entry, and leads to the same State and records.
fn replay_is_deterministic(ledger: &Ledger, applied: &Applied) -> Checked {
    let index = applied.entry.index;
    let name = (18, "replay_is_deterministic");
    let first = &ledger.entries[Ledger::place(index)];
    hold(first == applied.entry, name, || format!("entry {index} is another one now"))?;
    hold(ledger.print(index) == Some(Print::of(applied.after)), name, || {
        format!("entry {index} led to another State")
    })?;
    for archived in applied.archived() {
        let first = ledger.records.get(archived.link.index as usize - 1);
        hold(first == Some(archived), name, || {
            format!("record {} is another one now", archived.link.index)
        })?;
    }
    Ok(())
}

/// 18: all entries from the first one lead to the same State, byte for byte.
fn genesis_leads_here(ledger: &Ledger, state: &State) -> Checked {
    let mut again = ledger.genesis.clone();
    for entry in &ledger.entries {
        let proposal = match entry.kind {
            EntryKind::Normal => Proposal::decode(&entry.payload).ok(),
            EntryKind::Empty | EntryKind::Conf => None,
        };
        again.apply(entry.index, entry.term, proposal.as_ref());
    }
    let name = (18, "replay_is_deterministic");
    hold(again.digest() == state.digest(), name, || "the whole log leads elsewhere".to_owned())?;
    let bytes = state_bytes::encode(state);
    let read = state_bytes::decode(&bytes).map(|read| state_bytes::encode(&read));
    hold(read.is_ok_and(|read| read == bytes), name, || "a snapshot is not its State".to_owned())
}

/// A job's id, how it ended, its revision and its warnings.
type End = (String, Option<Outcome>, Option<u64>, Vec<String>);

/// What a run came to, without the times that are displayed.
#[derive(Clone, Debug, PartialEq)]
pub struct Essence {
    revisions: Vec<[u8; 32]>,
    jobs: Vec<End>,
    clock_us: u64,
}

impl Essence {
    pub(super) fn of(ledger: &Ledger, state: &State) -> Essence {
        let records = job_records(ledger.records.iter().map(|record| &*record.canonical));
        let job = |record: JobRecord| {
            let result = record.result;
            (record.job, record.outcome, result.result_revision, result.result_warnings)
        };
        Essence {
            revisions: ledger.revisions.values().copied().collect(),
            jobs: records.into_iter().map(job).collect(),
            clock_us: state.clock_us,
        }
    }
}

/// 19: the same run with and without jumps of the wall clock came to the same.
pub(super) fn wall_clocks_change_nothing(with: &Essence, without: &Essence) -> Checked {
    hold(with == without, (19, "wall_clocks_change_nothing"), || {
        let differ = with.jobs.iter().zip(&without.jobs).find(|(one, other)| one != other);
        format!("first difference in jobs: {differ:?}")
    })
}

/// 22: a rollback gives nobody a login or a password back.
fn rollbacks_bring_no_login_back(applied: &Applied) -> Checked {
    let name = (22, "rollbacks_bring_no_login_back");
    if applied.submission().is_none_or(|submission| submission.name != "config_rollback") {
        return Ok(());
    }
    for user in users(applied.after) {
        let back = applied.after.is_enabled(&user) && !applied.before.is_enabled(&user);
        hold(!back, name, || format!("{user} can log in again"))?;
    }
    for (user, credential) in &applied.after.credentials {
        let same = applied.before.credentials.get(user) == Some(credential);
        hold(same, name, || format!("{user} has another password"))?;
    }
    Ok(())
}

fn users(state: &State) -> Vec<String> {
    let at: Path = path(&["users"]);
    let users = state.config.value(&at);
    let names = users.as_ref().and_then(|users| users.as_object());
    names.into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

fn job_records<'a>(kept: impl Iterator<Item = &'a [u8]>) -> Vec<JobRecord> {
    kept.filter_map(|canonical| serde_json::from_slice(canonical).ok()).collect()
}

/// What can be looked at while the node runs.
pub(super) fn standing(ledger: &Ledger, disk: &MemDisk) -> Checked {
    secrets_are_nowhere(ledger, disk)?;
    let mut head = Head::EMPTY;
    for record in &ledger.records {
        let follows = head.extend(&record.canonical) == record.link;
        hold(follows, (11, "records_are_archived_once"), || "the chain is broken".to_owned())?;
    }
    registers_are_linearizable(ledger)
}

/// Everything, at the end: the node is healed, has applied all, and its history is synced.
pub(super) fn whole(ledger: &Ledger, disk: &MemDisk, state: &State) -> Checked {
    standing(ledger, disk)?;
    let (kept, head) = archive::read_all(disk);
    let records = job_records(kept.iter().map(Vec::as_slice));
    records_are_archived_once(ledger, &kept, head, state, &records)?;
    acknowledged_changes_survive(ledger, &records, state)?;
    failures_change_nothing(&records)?;
    genesis_leads_here(ledger, state)?;
    let unfinished = ledger.stages.iter().find(|(_, stage)| **stage < Stage::Finished);
    hold(unfinished.is_none(), (7, "jobs_end_in_time"), || format!("{unfinished:?}"))
}
