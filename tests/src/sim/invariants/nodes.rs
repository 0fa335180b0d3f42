//! Invariants of what single nodes do: lead, answer, start commands, come back.

use super::super::agent::Name;
use super::super::ledger::{Ledger, Print};
use super::super::machine::Machine;
use super::super::process::Process;
use super::{Checked, Violation, hold};
use std::collections::BTreeSet;
use tiebeam_core::State;
use tiebeam_core::job::Command;
use tiebeam_replica::membership::Membership;
use tiebeam_replica::node::Halt;

/// Entries that a learner may lack when its seat as a voter takes effect: what came since its
/// operator looked.
const LACKS_MAX: u64 = 500;

/// 1, at the start of a node that is alone: the log reaches at least as far as somebody was told.
pub(in super::super) fn acknowledged_entries_are_there(ledger: &Ledger, last: u64) -> Checked {
    let told = ledger.acknowledged_index;
    hold(last >= told, (1, "acknowledged_changes_survive"), || {
        format!("entry {told} was acknowledged, the log ends at {last}")
    })
}

/// 1, at the start of any node: the log still has what the node had promised to keep. Every answer
/// rests on a majority of such promises.
pub(in super::super) fn what_was_promised_is_there(promised: u64, last: u64) -> Checked {
    hold(last >= promised, (1, "acknowledged_changes_survive"), || {
        format!("entry {promised} was durable on this node, its log ends at {last}")
    })
}

/// 1: no leader finds that a member has forgotten what it acknowledged, unless its disk was lost.
pub(in super::super) fn no_log_is_lost(why: &Halt, lost: bool) -> Checked {
    hold(lost, (1, "acknowledged_changes_survive"), || format!("a sound node halted: {why:?}"))
}

/// 3: one node leads in a term.
pub(in super::super) fn one_leads_in_a_term(ledger: &mut Ledger, term: u64, node: u32) -> Checked {
    let leader = *ledger.leaders.entry(term).or_insert(node);
    hold(leader == node, (3, "one_leads_in_a_term"), || {
        format!("nodes {leader} and {node} lead in term {term}")
    })
}

/// 7: after everything was healed, no job is left.
pub(in super::super) fn jobs_end_in_time<'a>(
    boards: impl Iterator<Item = &'a State>,
    waited_us: u64,
) -> Checked {
    for state in boards {
        hold(state.jobs.is_empty(), (7, "jobs_end_in_time"), || {
            let left: Vec<&str> = state.jobs.values().map(|job| &*job.record.job).collect();
            format!("{left:?} did not end within {waited_us} µs")
        })?;
    }
    Ok(())
}

/// 7: after everything was healed, there is a master and every node has what it has.
pub(in super::super) fn the_cluster_comes_back(machines: &[&Machine], waited_us: u64) -> Checked {
    let name = (7, "the_cluster_comes_back");
    let applied: Vec<Option<u64>> =
        machines.iter().map(|machine| machine.board().map(|board| board.applied)).collect();
    let running = machines.iter().filter_map(|machine| machine.process.as_ref());
    let masters = running.clone().filter(|process| process.is_master()).count();
    let gaps = running.filter(|process| process.archive.has_gap()).count();
    let equal = applied.windows(2).all(|two| two[0] == two[1]);
    hold(masters == 1 && gaps == 0 && equal, name, || {
        format!("{waited_us} µs later: {masters} masters, {gaps} gaps, applied {applied:?}")
    })
}

/// 8: a command starts once, under an intent that the log holds, and not after its fence.
pub(in super::super) fn commands_start_once(
    ledger: &mut Ledger,
    name: &Name,
    node: u32,
    command: &Command,
) -> Checked {
    let rule = (8, "commands_start_once");
    let key = (name.0, name.1.clone(), node);
    let intent = ledger.intents.get(&key).copied();
    hold(intent == Some(command.epoch), rule, || {
        format!("{name:?} starts under epoch {}, its intent is of {intent:?}", command.epoch)
    })?;
    hold(!ledger.fenced.contains(&key), rule, || format!("{name:?} starts after its fence"))?;
    let applied = ledger.applied.get(&node).copied().unwrap_or(0);
    let stopped = ledger.stopped.get(&name.0).filter(|index| **index <= applied);
    hold(stopped.is_none(), (10, "cancels_are_definite"), || {
        format!("{name:?} starts on node {node}, which knows that it was cancelled at {stopped:?}")
    })?;
    let new = ledger.started.insert(key);
    hold(new, rule, || format!("{name:?} starts twice on node {node}"))
}

/// 8: only a command that has not started is fenced.
pub(in super::super) fn commands_are_fenced(
    ledger: &mut Ledger,
    name: &Name,
    node: u32,
) -> Checked {
    let key = (name.0, name.1.clone(), node);
    let started = ledger.started.contains(&key);
    ledger.fenced.insert(key);
    hold(!started, (8, "commands_start_once"), || format!("{name:?} is fenced after its start"))
}

/// 9: a read sees at least every revision that was acknowledged before it was asked for.
pub(in super::super) fn reads_see_what_was_committed(state: &State, floor: u64) -> Checked {
    hold(state.revision >= floor, (9, "reads_see_what_was_committed"), || {
        format!("a read saw revision {}, {floor} had been acknowledged", state.revision)
    })
}

/// 12: after the log failed nothing new is acknowledged.
pub(in super::super) fn a_failed_disk_is_silent(may: bool, index: u64) -> Checked {
    hold(may, (12, "a_failed_disk_is_silent"), || {
        format!("entry {index} was acknowledged after the log had failed")
    })
}

/// 13: a node that starts from a damaged folder starts with a State that was there.
pub(in super::super) fn damage_is_detected(ledger: &Ledger, state: &State, what: &str) -> Checked {
    let known = ledger.print(state.applied);
    hold(known.is_none_or(|known| known == Print::of(state)), (13, "damage_is_detected"), || {
        format!("{what}: the node started with another State at entry {}", state.applied)
    })
}

/// 13: a node that starts from a damaged folder knows everything that it knew.
pub(in super::super) fn damage_hides_nothing(
    ledger: &Ledger,
    state: &State,
    what: &str,
) -> Checked {
    hold(state.applied >= ledger.acknowledged_index, (13, "damage_is_detected"), || {
        let told = ledger.acknowledged_index;
        format!("{what}: the node started at entry {}, {told} was acknowledged", state.applied)
    })?;
    damage_is_detected(ledger, state, what)
}

/// 13: a node whose log is damaged below what it acknowledged does not start.
pub(in super::super) fn a_damaged_log_is_refused(refused: bool) -> Checked {
    hold(refused, (13, "damage_is_detected"), || "a node started on a damaged log".to_owned())
}

/// 13: a node that was only stopped starts again.
pub(in super::super) fn a_stopped_node_starts<T>(
    started: Result<T, String>,
) -> Result<T, Violation> {
    let violation = |detail| Violation { number: 13, invariant: "a_stopped_node_starts", detail };
    started.map_err(violation)
}

/// 17: no assertion of the product fails.
pub(in super::super) fn no_assertion_fails(text: String) -> Violation {
    Violation { number: 17, invariant: "no_assertion_fails", detail: text }
}

/// 18: a State that came as a leader's snapshot is the one that its entries lead to.
pub(in super::super) fn installed_states_are_known(ledger: &Ledger, state: &State) -> Checked {
    hold(ledger.print(state.applied) == Some(Print::of(state)), (18, "nodes_are_the_same"), || {
        format!("a snapshot at entry {} is not what the entries lead to", state.applied)
    })
}

/// 20: no member that lacks acknowledged history leads.
pub(in super::super) fn who_leads_has_the_history(process: &Process) -> Checked {
    has_the_history(process.identity.node, process.archive.gap().map(|gap| gap.last))
}

/// 20: the same, of a node and the newest record that it lacks.
pub(super) fn has_the_history(node: u32, lacks: Option<u64>) -> Checked {
    hold(lacks.is_none(), (20, "who_leads_has_the_history"), || {
        format!("node {node} leads and lacks record {lacks:?}")
    })
}

/// 20: what no log has any more is in the histories of a majority: the records of a prefix that a
/// node drops, as far down as its own history is whole.
pub(in super::super) fn what_is_dropped_is_in_histories(
    ledger: &Ledger,
    own: u64,
    voters: &BTreeSet<u64>,
    record: u64,
) -> Checked {
    let seen = |member: &u64| ledger.held.get(member).copied().unwrap_or_default();
    let from = seen(&own).from;
    let has = |member: &&u64| seen(member).from <= from && seen(member).to >= record;
    let holders = voters.iter().filter(has).count();
    hold(holders > voters.len() / 2, (20, "what_is_dropped_is_in_histories"), || {
        format!("the log's records up to {record} are dropped, {holders} of {voters:?} have them")
    })
}

/// 21: a request that was read gets one answer.
pub(in super::super) fn requests_are_answered_once(ledger: &mut Ledger, attempt: u64) -> Checked {
    let new = ledger.answered.insert(attempt);
    hold(new, (21, "requests_are_answered_once"), || {
        format!("attempt {attempt} was answered twice")
    })
}

/// 21: a request that was read gets an answer, unless the node crashes.
pub(in super::super) fn requests_are_answered(open: usize, waited_us: u64) -> Checked {
    hold(open == 0, (21, "requests_are_answered_once"), || {
        format!("{open} requests are without an answer after {waited_us} µs")
    })
}

/// 23: who was removed answers no read that was sent after the removal was known.
pub(in super::super) fn who_was_removed_does_not_answer(
    sent_us: u64,
    removed_us: Option<u64>,
) -> Checked {
    hold(removed_us.is_none_or(|removed_us| sent_us < removed_us), (23, "removed_is_out"), || {
        format!(
            "a read that was sent at {sent_us} was answered by a node removed at {removed_us:?}"
        )
    })
}

/// 23: raft counts the voters and learners that State has at the same entry.
pub(in super::super) fn the_group_is_what_state_says(state: &State, group: &Membership) -> Checked {
    let seated = |votes: bool| {
        let members = state.members.values().filter(move |member| member.voter == votes);
        members.map(|member| member.raft_id).collect()
    };
    let said = Membership { voters: seated(true), learners: seated(false) };
    hold(*group == said, (23, "removed_is_out"), || {
        format!("at entry {} raft counts {group:?}, State says {said:?}", state.applied)
    })
}

/// 24: a voter's seat is given to a node that has nearly everything: `held` is what is durable on
/// it, if it has a disk.
pub(in super::super) fn who_is_seated_has_caught_up(
    raft_id: u64,
    index: u64,
    held: Option<u64>,
) -> Checked {
    let near = held.is_some_and(|held| held + LACKS_MAX >= index);
    hold(near, (24, "quorum_is_not_given_away"), || {
        format!("{raft_id:#x} became a voter at entry {index} and has {held:?}")
    })
}
