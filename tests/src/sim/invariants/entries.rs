//! Invariants of single entries: looked at when an entry is applied for the first time, on
//! whichever node is first, and again on every other node and replay.

use super::super::clients::REGISTERS;
use super::super::ledger::{Ledger, Print};
use super::super::linear::Written;
use super::{Checked, hold};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use tiebeam_core::effect::{Answer, Effect, What};
use tiebeam_core::path::path;
use tiebeam_core::proposal::{Body, Proposal, Submission};
use tiebeam_core::{Path, State};
use tiebeam_proto::Outcome;
use tiebeam_proto::chain;
use tiebeam_proto::record::Archived;
use tiebeam_replica::Entry;

/// The registers, and where they are.
static REGISTER_PATHS: LazyLock<Vec<(&str, Path)>> = LazyLock::new(|| {
    let at = |name: &&'static str| Some((*name, Path::parse(name).ok()?));
    REGISTERS.iter().filter_map(at).collect()
});

/// An entry and what it did.
pub(in super::super) struct Applied<'a> {
    pub(in super::super) entry: &'a Entry,
    pub(in super::super) proposal: Option<&'a Proposal>,
    pub(in super::super) before: &'a State,
    pub(in super::super) after: &'a State,
    pub(in super::super) answer: &'a Answer,
    pub(in super::super) effects: &'a [Effect],
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

/// Looks at one applied entry: one that is new, or one that another node, or a former life of this
/// one, has applied already.
pub(in super::super) fn after_entry(ledger: &mut Ledger, applied: &Applied) -> Checked {
    let place = Ledger::place(applied.entry.index);
    if place < ledger.entries.len() {
        return nodes_are_the_same(ledger, applied);
    }
    hold(place == ledger.entries.len(), (18, "nodes_are_the_same"), || {
        format!("entry {} was applied before the ones below it", applied.entry.index)
    })?;
    revisions_increase_and_keep_their_hash(ledger, applied)?;
    job_ids_are_unique(ledger, applied)?;
    stages_never_go_back(ledger, applied)?;
    effects_happen_once(ledger, applied)?;
    cancels_are_definite(ledger, applied)?;
    records_follow_each_other(ledger, applied)?;
    nobody_does_what_they_may_not(applied)?;
    rollbacks_bring_no_login_back(applied)?;
    members_change_one_by_one(ledger, applied)?;
    nothing_waits_for_who_is_gone(applied)?;
    note_intent(ledger, applied);
    note_writes(ledger, applied);
    ledger.entries.push(applied.entry.clone());
    ledger.prints.push(Print::of(applied.after));
    Ok(())
}

/// Notes a command that may start from now on.
fn note_intent(ledger: &mut Ledger, applied: &Applied) {
    if let Some(Body::Intent(intent)) = applied.proposal.map(|proposal| &proposal.body)
        && matches!(applied.answer, Answer::Done)
    {
        let name = (intent.job, intent.key.clone(), intent.node);
        ledger.intents.entry(name).or_insert(applied.entry.term);
    }
}

/// Notes what a new revision did to the registers.
fn note_writes(ledger: &mut Ledger, applied: &Applied) {
    let (before, after) = (&applied.before.config, &applied.after.config);
    if !ledger.watched || before.hash() == after.hash() {
        return;
    }
    for (name, at) in REGISTER_PATHS.iter() {
        if before.revision_at(at) == after.revision_at(at) {
            continue;
        }
        let (revision, moment) = (applied.after.revision, ledger.moment);
        let value = after.value(at).and_then(|value| value["n"].as_u64());
        let written = Written { value, revision, moment };
        ledger.registers.entry(name).or_default().writes(written);
    }
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

/// 10: what a caller was told of a cancel is what became of the job.
fn cancels_are_definite(ledger: &mut Ledger, applied: &Applied) -> Checked {
    let name = (10, "cancels_are_definite");
    if let (Some(Body::Cancel(cancel)), Answer::Cancel(told)) =
        (applied.proposal.map(|proposal| &proposal.body), applied.answer)
    {
        ledger.cancels.entry(cancel.job).or_insert(told);
        let runs = applied.before.running.contains(&cancel.job);
        let waits = applied.before.waiting.contains(&cancel.job);
        let right = match *told {
            "cancelled" => waits,
            "stopping" => runs,
            _ => !runs && !waits,
        };
        hold(right, name, || format!("job {} was told {told}", cancel.job))?;
        if *told == "stopping" {
            ledger.stopped.entry(cancel.job).or_insert(applied.entry.index);
        }
        if *told == "cancelled" {
            let gone = !applied.after.jobs.contains_key(&cancel.job);
            let quiet = applied.after.revision == applied.before.revision;
            hold(gone && quiet, name, || format!("job {} goes on", cancel.job))?;
        }
    }
    Ok(())
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

/// 14: a job that took effect was its user's to do, in the State before it.
fn nobody_does_what_they_may_not(applied: &Applied) -> Checked {
    let Some(submission) = applied.submission() else { return Ok(()) };
    let Answer::Job { record: Some(record), id } = applied.answer else { return Ok(()) };
    let may = applied.before.may(&submission.user, &submission.needs).is_ok();
    let declined = record.outcome == Some(Outcome::Declined);
    hold(may || declined, (14, "nobody_does_what_they_may_not"), || {
        format!("{} did {id} ({})", submission.user, submission.name)
    })
}

/// 18: an entry that is applied on another node, or again, is the same entry, and leads to the same
/// State and records.
fn nodes_are_the_same(ledger: &Ledger, applied: &Applied) -> Checked {
    let index = applied.entry.index;
    let name = (18, "nodes_are_the_same");
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

/// 23, 24: what is proposed is proposed by a member; members change one at a time, and one votes.
fn members_change_one_by_one(ledger: &mut Ledger, applied: &Applied) -> Checked {
    let (before, after) = (applied.before, applied.after);
    if let Some(proposal) = applied.proposal {
        let node = proposal.header.proposer;
        hold(before.members.contains_key(&node), (23, "removed_is_out"), || {
            format!("entry {} was proposed by node {node}, no member", applied.entry.index)
        })?;
    }
    if before.members.ptr_eq(&after.members) {
        return Ok(());
    }
    let seats = |state: &State| -> BTreeSet<(u64, bool)> {
        state.members.values().map(|member| (member.raft_id, member.voter)).collect()
    };
    let (old, new) = (seats(before), seats(after));
    let moved: BTreeSet<u64> = old.symmetric_difference(&new).map(|(raft, _)| *raft).collect();
    let votes = new.iter().any(|(_, votes)| *votes);
    hold(moved.len() <= 1 && votes, (24, "quorum_is_not_given_away"), || {
        format!("entry {} made {old:?} {new:?}", applied.entry.index)
    })?;
    let seated = new.iter().filter(|(raft, votes)| *votes && !old.contains(&(*raft, true)));
    ledger.seated.extend(seated.map(|(raft, _)| (*raft, applied.entry.index)));
    Ok(())
}

/// 8: no job waits for a command on a node that is no member: it ended, if without a known end.
fn nothing_waits_for_who_is_gone(applied: &Applied) -> Checked {
    let after = applied.after;
    for job in after.running.iter().filter_map(|sequence| after.jobs.get(sequence)) {
        let gone = job.open_commands().find(|open| !after.members.contains_key(&open.node));
        hold(gone.is_none(), (8, "commands_start_once"), || {
            let (id, node) = (&job.record.job, gone.map(|open| open.node));
            format!("{id} waits for a command on node {node:?}, which is no member")
        })?;
    }
    Ok(())
}

/// 22: a rollback gives nobody a login or a password back.
fn rollbacks_bring_no_login_back(applied: &Applied) -> Checked {
    let name = (22, "rollbacks_bring_no_login_back");
    if applied.submission().is_none_or(|submission| &*submission.name != "config_rollback") {
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
