//! Invariants of everything: at times while a run goes on, and at its end on every node.

use super::super::archive::{self, Kept};
use super::super::carry::carry_out;
use super::super::ledger::Ledger;
use super::super::linear::Observed;
use super::{Checked, hold, job_records};
use memchr::memmem;
use std::collections::{BTreeMap, BTreeSet};
use tiebeam_core::{State, snapshot as state_bytes};
use tiebeam_proto::chain::Head;
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{Outcome, Stage};
use tiebeam_replica::seams::mem::MemDisk;

/// What can be looked at while the nodes run.
pub(in super::super) fn standing<'a>(
    ledger: &mut Ledger,
    disks: impl Iterator<Item = &'a MemDisk>,
) -> Checked {
    for disk in disks {
        secrets_are_nowhere(ledger, disk)?;
    }
    the_chain_holds(ledger)
}

/// Everything of one node, at the end: it is healed, has applied all, and its history is synced.
pub(in super::super) fn whole(ledger: &mut Ledger, disk: &MemDisk, state: &State) -> Checked {
    secrets_are_nowhere(ledger, disk)?;
    let (kept, head) = archive::read_all(disk);
    records_are_archived_once(ledger, &kept, head, state)?;
    let digest = state.digest();
    let first = *ledger.digest.get_or_insert(digest);
    hold(first == digest, (18, "nodes_are_the_same"), || {
        format!("two nodes differ at entry {}", state.applied)
    })
}

/// Everything of the run, at the end. All nodes were found equal.
pub(in super::super) fn everything_at_the_end(ledger: &mut Ledger, state: &State) -> Checked {
    standing(ledger, std::iter::empty())?;
    for (path, history) in &mut ledger.registers {
        in_order(path, history.judge())?;
    }
    let records = job_records(ledger.records.iter().map(|record| &*record.canonical));
    every_job_has_one_record(ledger, &records)?;
    acknowledged_changes_survive(ledger, &records, state)?;
    failures_change_nothing(ledger, &records)?;
    cancels_come_true(ledger, &records)?;
    genesis_leads_here(ledger, state)?;
    let unfinished = ledger.stages.iter().find(|(_, stage)| **stage < Stage::Finished);
    hold(unfinished.is_none(), (7, "jobs_end_in_time"), || format!("{unfinished:?}"))
}

/// 1: what a caller was told of a change is in the history: same job, same revision, same hash.
pub(super) fn acknowledged_changes_survive(
    ledger: &Ledger,
    records: &[JobRecord],
    state: &State,
) -> Checked {
    let name = (1, "acknowledged_changes_survive");
    let by_job: BTreeMap<&str, &JobRecord> =
        records.iter().map(|record| (&*record.job, record)).collect();
    for told in &ledger.acknowledged {
        let record = by_job.get(told.job.as_str());
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

/// 2: what callers saw of a register has an order that explains it: looked at whenever a call on it
/// ends and none is under way.
pub(in super::super) fn registers_are_linearizable(
    ledger: &mut Ledger,
    path: &'static str,
    ended: Option<Observed>,
) -> Checked {
    in_order(path, ledger.registers.entry(path).or_default().ends(ended))
}

fn in_order(path: &str, judged: Result<(), String>) -> Checked {
    let name = (2, "registers_are_linearizable");
    judged.or_else(|why| hold(false, name, || format!("{path}: {why}")))
}

/// 6: a job that did not end well changed nothing, and one is in doubt only with evidence: it
/// ran commands, and the end of one was not known.
pub(super) fn failures_change_nothing(ledger: &Ledger, records: &[JobRecord]) -> Checked {
    let name = (6, "effects_happen_once");
    for record in records {
        let doubt = record.outcome == Some(Outcome::Indeterminate);
        // The last command may have ended between the decision and its entry.
        let evidence = record.commands.iter().any(|command| command.name != "config_change");
        hold(!doubt || evidence, name, || format!("{} is in doubt", record.job))?;
        let quiet = record.outcome == Some(Outcome::Ok) || record.result.result_revision.is_none();
        hold(quiet, name, || format!("{} failed and changed", record.job))?;
        for command in record.commands.iter().filter(|command| command.result == "ok") {
            let sequence = tiebeam_core::job::parse_job_id(&record.job).map_or(0, |(_, at)| at);
            let key = (sequence, command.name.clone(), command.node);
            let ran = command.name == "config_change" || ledger.started.contains(&key);
            hold(ran, name, || format!("{key:?} is said to have run and has not"))?;
        }
        for command in record.commands.iter().filter(|command| command.is_definite()) {
            let sequence = tiebeam_core::job::parse_job_id(&record.job).map_or(0, |(_, at)| at);
            let key = (sequence, command.name.clone(), command.node);
            let known = ledger.ended.get(&key).copied();
            let so = !ledger.started.contains(&key) || known == Some(command.result.as_str());
            hold(so, name, || {
                format!("{key:?} is said to be {}, it ended {known:?}", command.result)
            })?;
        }
    }
    Ok(())
}

/// 10: a job that was told to be cancelled ended so and did nothing; one that was told to stop has
/// an end; and none is cancelled that nobody asked for.
pub(super) fn cancels_come_true(ledger: &Ledger, records: &[JobRecord]) -> Checked {
    let name = (10, "cancels_are_definite");
    let sequence = |record: &JobRecord| tiebeam_core::job::parse_job_id(&record.job).map(|id| id.1);
    let ended: BTreeMap<u64, &JobRecord> =
        records.iter().filter_map(|record| Some((sequence(record)?, record))).collect();
    for (job, told) in &ledger.cancels {
        let record = ended.get(job);
        let cancelled = |record: &&&JobRecord| record.outcome == Some(Outcome::Cancelled);
        let right = match *told {
            "cancelled" => {
                record.filter(cancelled).is_some_and(|record| record.commands.is_empty())
            }
            "stopping" => record.is_some_and(|record| record.outcome.is_some()),
            _ => true,
        };
        hold(right, name, || format!("job {job} was told {told:?} and ended as {record:?}"))?;
    }
    for (job, record) in &ended {
        let asked = record.outcome != Some(Outcome::Cancelled) || ledger.cancels.contains_key(job);
        let known = record.outcome != Some(Outcome::Cancelled)
            || record.commands.iter().all(|command| command.result != "indeterminate");
        hold(asked && known, name, || format!("{} ended as {record:?}", record.job))?;
    }
    Ok(())
}

/// 11: the records that apply made follow each other. Looks at what is new since the last look.
fn the_chain_holds(ledger: &mut Ledger) -> Checked {
    for record in &ledger.records[ledger.verified.index as usize..] {
        let follows = ledger.verified.extend(&record.canonical) == record.link;
        hold(follows, (11, "records_are_archived_once"), || "the chain is broken".to_owned())?;
    }
    Ok(())
}

/// 11: the history on a disk is the chain that apply made.
fn records_are_archived_once(ledger: &Ledger, kept: &[Kept], head: Head, state: &State) -> Checked {
    let name = (11, "records_are_archived_once");
    hold(head.index == state.chain.index && head.hash == state.chain.head, name, || {
        format!("the history ends at {}, State says {}", head.index, state.chain.index)
    })?;
    let made = ledger.records.iter().map(|record| &*record.canonical);
    let same = made.eq(kept.iter().map(|(_, record)| &**record));
    hold(same, name, || "the history is not what apply archived".to_owned())
}

/// 11: every job that somebody was told of is in the history once.
fn every_job_has_one_record(ledger: &Ledger, records: &[JobRecord]) -> Checked {
    let name = (11, "records_are_archived_once");
    let ids: BTreeSet<&str> = records.iter().map(|record| &*record.job).collect();
    let jobs = records.iter().filter(|record| !record.job.is_empty()).count();
    hold(ids.len() == jobs, name, || "a job has two records".to_owned())?;
    let lost = ledger.jobs.iter().find(|job| !ids.contains(job.as_str()));
    hold(lost.is_none(), name, || format!("{lost:?} has no record"))
}

/// 16: no secret is anywhere on the disk.
fn secrets_are_nowhere(ledger: &Ledger, disk: &MemDisk) -> Checked {
    if ledger.secrets.is_empty() {
        return Ok(());
    }
    // All secrets of the simulation begin like this.
    let found = disk.find(|bytes| memmem::find(bytes, b"canary").is_some());
    hold(found.is_none(), (16, "secrets_are_nowhere"), || format!("a secret is in {found:?}"))
}

/// 18: all entries from the first one lead to the same State, byte for byte.
fn genesis_leads_here(ledger: &Ledger, state: &State) -> Checked {
    let mut again = ledger.genesis.clone();
    for entry in &ledger.entries {
        carry_out(&mut again, entry).map_err(super::no_assertion_fails)?;
    }
    let name = (18, "nodes_are_the_same");
    hold(again.digest() == state.digest(), name, || "the whole log leads elsewhere".to_owned())?;
    let bytes = state_bytes::encode(state);
    let read = state_bytes::decode(&bytes).map(|read| state_bytes::encode(&read));
    hold(read.is_ok_and(|read| read == bytes), name, || "a snapshot is not its State".to_owned())
}
