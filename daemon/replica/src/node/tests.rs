//! Nodes without disks: one alone, and three over a bus of messages. Each of raft's known traps
//! has its test here or beside the code that avoids it.

use super::bus::{Bus, settings, start};
use super::*;
use crate::entry::{Entry, EntryKind};
use crate::recovery::{FIRST_MARK, Start, first_snapshot};
use crate::snapshot::SnapshotMeta;

fn alone() -> Node {
    Node::new(settings(1), start(Membership::of_voters([1]))).unwrap()
}

/// Everything a shell with a perfect disk and instant apply would answer, until nothing is left.
fn settle(node: &mut Node) -> Vec<Output> {
    let mut seen = Vec::new();
    let mut queue = VecDeque::from(node.ready());
    while let Some(output) = queue.pop_front() {
        match &output {
            Output::Persist(group) => {
                queue.extend(node.step(Input::Persisted { group: group.number }));
            }
            Output::Committed(entries) => apply(node, entries, &mut queue),
            _ => {}
        }
        seen.push(output);
    }
    seen
}

fn apply(node: &mut Node, entries: &[Entry], queue: &mut VecDeque<Output>) {
    for entry in entries {
        if entry.kind == EntryKind::Conf {
            let applied = Input::ConfApplied { index: entry.index, accepted: true };
            queue.extend(node.step(applied));
        }
        queue.extend(node.step(Input::Applied { index: entry.index }));
    }
}

fn payloads(outputs: &[Output]) -> Vec<Bytes> {
    let committed = outputs.iter().filter_map(|output| match output {
        Output::Committed(entries) => Some(entries),
        _ => None,
    });
    committed.flatten().filter(|e| e.kind == EntryKind::Normal).map(|e| e.payload.clone()).collect()
}

fn propose(ticket: u64, payload: &'static str) -> Input {
    Input::Propose { ticket, payload: Bytes::from_static(payload.as_bytes()) }
}

#[test]
fn a_node_alone_leads_at_once_and_commits_only_what_is_persisted() {
    let mut node = alone();
    let outputs = node.ready();
    let leads = |one: &Output| matches!(one, Output::Role(role) if role.role == Role::Leader);
    assert!(outputs.iter().any(leads), "no tick was needed: {outputs:?}");
    settle(&mut node);
    node.receive(Input::Persisted { group: 1 });
    settle(&mut node);
    node.receive(propose(7, "one"));
    node.receive(propose(8, "two"));
    let outputs = node.ready();
    let groups: Vec<_> = outputs
        .iter()
        .filter_map(|one| match one {
            Output::Persist(group) => Some(group.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(groups.len(), 1, "what waited together shares a group");
    assert!(groups[0].must_sync && groups[0].entries.len() == 2);
    assert!(payloads(&outputs).is_empty(), "nothing is committed before it is durable");
    let outputs = node.step(Input::Persisted { group: groups[0].number });
    assert_eq!(payloads(&outputs), ["one", "two"]);
}

#[test]
fn a_commit_index_alone_is_written_with_the_next_tick_and_never_synced() {
    let mut node = alone();
    settle(&mut node);
    node.receive(propose(1, "x"));
    settle(&mut node);
    let commit = node.status().commit;
    let outputs = node.step(Input::Tick);
    let [Output::Persist(group)] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(!group.must_sync && group.entries.is_empty());
    assert_eq!(group.hard_state.map(|state| state.commit), Some(commit));
    assert!(node.step(Input::Tick).is_empty(), "once");
}

#[test]
fn a_stale_commit_index_is_lifted_to_the_snapshot_and_never_above_the_log() {
    for commit in [0, 1, 3, 99] {
        let entry = |index| Entry {
            index,
            term: 1,
            kind: EntryKind::Normal,
            payload: Bytes::from_static(b"x"),
        };
        let begun = Start {
            snapshot: SnapshotMeta { mark: Mark { index: 3, term: 1 }, ..first_snapshot(1) },
            entries: (2..=5).map(entry).collect(),
            hard_state: HardState { term: 1, vote: 1, commit },
            ..start(Membership::of_voters([1]))
        };
        let mut node = Node::new(settings(1), begun).unwrap();
        let outputs = settle(&mut node);
        assert_eq!(payloads(&outputs).len(), 2, "entries 4 and 5 are replayed, 3 is not");
    }
}

#[test]
fn a_log_that_does_not_fit_its_snapshot_is_refused() {
    for (snapshot, floor) in [(1, 4), (9, 1)] {
        let begun = Start {
            snapshot: SnapshotMeta { mark: Mark { index: snapshot, term: 1 }, ..first_snapshot(1) },
            floor: Mark { index: floor, term: 1 },
            ..start(Membership::of_voters([1]))
        };
        let refused = Node::new(settings(1), begun);
        assert!(matches!(refused, Err(NodeError::LogDoesNotFit { .. })));
    }
}

#[test]
fn calls_that_cannot_be_are_refused_by_name() {
    let mut node = alone();
    settle(&mut node);
    let refusal = |outputs: Vec<Output>| match &outputs[..] {
        [Output::Refused { ticket: 5, reason }, ..] => *reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(node.step(propose(5, ""))), Refusal::InvalidPayload);
    let remove = Input::ProposeConf { ticket: 5, change: Change::Remove(1), context: Bytes::new() };
    assert_eq!(refusal(node.step(remove)), Refusal::IsLeader);
    let add = |member| Input::ProposeConf {
        ticket: 5,
        change: Change::AddLearner(member),
        context: Bytes::from_static(b"record"),
    };
    let outputs = node.step(add(2));
    assert!(outputs.iter().any(|one| matches!(one, Output::Proposed { ticket: 5, .. })));
    assert_eq!(refusal(node.step(add(3))), Refusal::TooBusy, "one change at a time");
    let mut follower = Node::new(settings(1), start(Membership::of_voters([1, 2, 3]))).unwrap();
    let reason = refusal(follower.step(propose(5, "x")));
    assert_eq!(reason, Refusal::NotLeader { leader: None });
}

#[test]
fn too_many_bytes_under_way_are_refused_until_they_are_committed() {
    let small = NodeSettings { uncommitted_bytes_max: 100, message_bytes_max: 100, ..settings(1) };
    let mut node = Node::new(small, start(Membership::of_voters([1]))).unwrap();
    settle(&mut node);
    let payload = Bytes::from(vec![1; 80]);
    let call = |ticket| Input::Propose { ticket, payload: payload.clone() };
    node.receive(call(1));
    node.receive(call(2));
    let outputs = settle(&mut node);
    let busy =
        |one: &Output| matches!(one, Output::Refused { ticket: 2, reason: Refusal::TooBusy });
    assert!(outputs.iter().any(busy));
    let outputs = node.step(call(3));
    assert!(outputs.iter().any(|one| matches!(one, Output::Proposed { ticket: 3, .. })));
}

/// A member of these voters, in whose log another one's removal is the newest entry.
fn behind_removal(of: u64, voters: &[u64]) -> Start {
    let raw = Change::Remove(of).to_raft(Bytes::new());
    let entry = Entry {
        index: 2,
        term: 1,
        kind: EntryKind::Conf,
        payload: raw.write_to_bytes().unwrap().into(),
    };
    let membership = Membership::of_voters(voters.iter().copied());
    Start { entries: vec![entry], ..start(membership) }
}

#[test]
fn a_node_alone_with_a_change_in_its_log_leads_once_that_is_applied() {
    // The log of a cluster of two whose second member was removed: raft refuses to campaign while
    // a committed change is not applied.
    let hard_state = HardState { term: 1, vote: 1, commit: 2 };
    let begun = Start { hard_state, ..behind_removal(2, &[1, 2]) };
    let mut node = Node::new(settings(1), begun).unwrap();
    settle(&mut node);
    assert_eq!(node.status().role.role, Role::Leader);
    assert_eq!(node.status().membership, Membership::of_voters([1]));
}

#[test]
fn a_failed_write_stops_the_node_for_good() {
    let mut node = alone();
    settle(&mut node);
    node.receive(Input::Read { ticket: 3 });
    node.receive(propose(1, "doubtful"));
    let outputs = node.step(Input::PersistFailed);
    assert!(outputs.iter().any(|one| matches!(one, Output::Halted(Halt::PersistFailed))));
    assert!(outputs.iter().any(|one| matches!(one, Output::ReadFailed { ticket: 3 })));
    let outputs = node.step(propose(2, "later"));
    let [Output::Refused { ticket: 2, reason: Refusal::Halted }] = outputs[..] else {
        panic!("{outputs:?}")
    };
    assert!(node.step(Input::Tick).is_empty());
    assert_eq!(node.status().role.role, Role::Follower);
}

#[test]
fn three_nodes_elect_replicate_and_hand_leadership_over() {
    let mut bus = Bus::new(&[1, 2, 3]);
    let leader = bus.elect();
    assert_eq!(leader, 1, "the shortest fixed election time wins, in every run");
    for ticket in 0..20 {
        bus.input(leader, propose(ticket, "entry"));
    }
    bus.tick(3);
    assert!(bus.applied.values().all(|applied| applied.len() == 20), "{:?}", bus.applied);
    bus.input(leader, Input::Transfer { to: Some(3) });
    bus.tick(1);
    assert_eq!(bus.leader(), Some(3), "handed over within a tick");
    bus.input(3, propose(30, "after"));
    bus.tick(3);
    let expected: Vec<Bytes> = bus.applied[&3].clone();
    assert_eq!(expected.len(), 21);
    assert!(bus.applied.values().all(|applied| *applied == expected));
}

#[test]
fn a_lost_leader_is_replaced_and_its_unconfirmed_entry_overruled() {
    let mut bus = Bus::new(&[1, 2, 3]);
    let first = bus.elect();
    let term = bus.nodes[&first].status().role.term;
    bus.cut.insert(first);
    bus.input(first, propose(1, "lost"));
    bus.input(first, Input::Read { ticket: 2 });
    let second = bus.elect();
    assert_ne!(first, second);
    bus.input(second, propose(3, "kept"));
    bus.tick(30);
    let status = bus.nodes[&first].status();
    assert_ne!(status.role.role, Role::Leader, "it stepped down without a quorum");
    assert_eq!(status.role.term, term, "and raised no term while it was alone");
    let answered = |one: &Output| matches!(one, Output::ReadReady { ticket: 2, .. });
    assert!(!bus.answers(first).iter().any(answered), "no read from a leader that is cut off");
    bus.cut.clear();
    bus.tick(30);
    assert_eq!(bus.leader(), Some(second), "its return disturbs nobody");
    assert!(bus.applied.values().all(|applied| *applied == ["kept"]));
    bus.tick(60);
    let failed = |one: &Output| {
        matches!(one, Output::ReadFailed { ticket: 2 } | Output::ReadReady { ticket: 2, .. })
    };
    assert_eq!(bus.answers(first).iter().filter(|one| failed(one)).count(), 1);
}

#[test]
fn reads_wait_for_a_leader_and_are_answered_on_every_node() {
    let mut bus = Bus::new(&[1, 2, 3]);
    for id in 1..=3 {
        bus.input(id, Input::Read { ticket: 10 + id });
    }
    let leader = bus.elect();
    bus.input(leader, propose(1, "x"));
    bus.tick(10);
    for id in 1..=3 {
        let ready = |one: &&Output| match one {
            Output::ReadReady { ticket, index } => *ticket == 10 + id && *index > 1,
            _ => false,
        };
        assert_eq!(bus.answers(id).iter().filter(ready).count(), 1, "node {id}");
    }
}

#[test]
fn a_member_joins_by_snapshot_becomes_a_voter_and_another_leaves() {
    let mut bus = Bus::new(&[1]);
    bus.nodes.get_mut(&1).unwrap().ready();
    bus.input(1, Input::Persisted { group: 1 });
    for ticket in 0..5 {
        bus.input(1, propose(ticket, "early"));
    }
    let status = bus.nodes[&1].status();
    bus.snapshots.insert(status.applied, bus.applied[&1].clone());
    let mark = status.last;
    assert_eq!(mark.index, status.applied);
    bus.input(
        1,
        Input::SnapshotTaken {
            mark,
            membership: status.membership,
            manifest: Bytes::from_static(b"chunks"),
        },
    );
    bus.input(1, Input::Compact { index: mark.index });
    // The joining node is seeded as `join` does it: with a snapshot that already names it.
    let learner = Change::AddLearner(2);
    let joined = Membership::of_voters([1]).with(learner).unwrap();
    let mut seeded = start(joined);
    seeded.snapshot.mark = FIRST_MARK;
    bus.nodes.insert(2, Node::new(settings(2), seeded).unwrap());
    let conf = |ticket, change| Input::ProposeConf { ticket, change, context: Bytes::new() };
    bus.input(1, conf(20, learner));
    bus.tick(6);
    let wanted = |one: &Output| matches!(one, Output::SnapshotWanted { peer: 2, .. });
    assert!(bus.answers(1).iter().any(wanted), "the snapshot at hand does not know the member");
    let status = bus.nodes[&1].status();
    bus.snapshots.insert(status.applied, bus.applied[&1].clone());
    bus.input(
        1,
        Input::SnapshotTaken {
            mark: status.last,
            membership: status.membership,
            manifest: Bytes::from_static(b"chunks"),
        },
    );
    bus.tick(10);
    let installed = |one: &Output| match one {
        Output::InstallSnapshot { manifest, .. } => &manifest[..] == b"chunks",
        _ => false,
    };
    assert!(bus.answers(2).iter().any(installed), "{:?}", bus.nodes[&2]);
    // What apply still had to say of a log that the snapshot has replaced.
    bus.input(2, Input::ConfApplied { index: 1, accepted: true });
    bus.input(1, propose(21, "late"));
    bus.tick(6);
    assert_eq!(bus.applied[&2], bus.applied[&1]);
    bus.input(1, conf(22, Change::AddVoter(2)));
    bus.tick(6);
    assert_eq!(bus.nodes[&2].status().membership, Membership::of_voters([1, 2]));
    bus.input(1, Input::Transfer { to: None });
    bus.tick(3);
    assert_eq!(bus.leader(), Some(2));
    bus.input(2, conf(23, Change::Remove(1)));
    bus.tick(3);
    bus.cut.insert(1);
    bus.input(2, propose(24, "alone"));
    bus.tick(3);
    assert_eq!(bus.applied[&2].last(), Some(&Bytes::from_static(b"alone")));
}

#[test]
fn a_leader_that_commits_its_own_removal_leads_no_more() {
    let mut bus = Bus::new(&[1, 2, 3]);
    // The leader of before proposed it, wrote it to this node alone, and was gone.
    let hard_state = HardState { term: 1, vote: 0, commit: 1 };
    let begun = Start { hard_state, ..behind_removal(1, &[1, 2, 3]) };
    bus.nodes.insert(1, Node::new(settings(1), begun).unwrap());
    bus.elect();
    bus.tick(80);
    let next = bus.leader().unwrap();
    assert_ne!(next, 1);
    assert_eq!(bus.nodes[&next].status().membership, Membership::of_voters([2, 3]));
    assert_eq!(bus.nodes[&1].status().role.role, Role::Follower);
    bus.input(next, propose(5, "after"));
    bus.tick(3);
    assert_eq!(bus.applied[&next].last(), Some(&Bytes::from_static(b"after")));
}

#[test]
fn a_refused_change_of_membership_leaves_the_members_as_they_were() {
    let mut node = alone();
    settle(&mut node);
    let add = Input::ProposeConf { ticket: 1, change: Change::AddVoter(2), context: Bytes::new() };
    node.receive(add);
    let mut outputs = VecDeque::from(node.ready());
    let mut applied = false;
    while let Some(output) = outputs.pop_front() {
        match output {
            Output::Persist(group) => {
                outputs.extend(node.step(Input::Persisted { group: group.number }));
            }
            Output::Committed(entries) => {
                let index = entries[0].index;
                node.receive(Input::ConfApplied { index, accepted: false });
                outputs.extend(node.step(Input::Applied { index }));
                applied = true;
            }
            _ => {}
        }
    }
    assert!(applied);
    assert_eq!(node.status().membership, Membership::of_voters([1]));
}

#[test]
fn a_node_that_lost_what_it_acknowledged_stops_instead_of_panicking() {
    let mut bus = Bus::new(&[1, 2, 3]);
    let leader = bus.elect();
    bus.input(leader, propose(1, "x"));
    bus.tick(3);
    let membership = Membership::of_voters([1, 2, 3]);
    let forgetful = Node::new(settings(3), start(membership)).unwrap();
    bus.nodes.insert(3, forgetful);
    bus.tick(3);
    let lost = |one: &Output| matches!(one, Output::Halted(Halt::LogLost { last: 1, .. }));
    assert!(bus.answers(3).iter().any(lost));
    bus.input(leader, propose(2, "y"));
    assert_eq!(bus.applied[&leader].len(), 2, "the others go on");
}

#[test]
fn votes_wait_until_they_are_persisted() {
    let membership = Membership::of_voters([1, 2, 3]);
    let mut node = Node::new(settings(1), start(membership)).unwrap();
    let mut ask = eraftpb::Message::default();
    ask.set_msg_type(MessageType::MsgRequestVote);
    (ask.from, ask.to, ask.term) = (2, 1, 2);
    (ask.index, ask.log_term) = (1, 1);
    let bytes = Bytes::from(ask.write_to_bytes().unwrap());
    let outputs = node.step(Input::Message { from: 2, bytes });
    assert!(!outputs.iter().any(|one| matches!(one, Output::Send(_))), "{outputs:?}");
    let group = outputs.iter().find_map(|one| match one {
        Output::Persist(group) => Some(group),
        _ => None,
    });
    let group = group.expect("the vote is to be persisted");
    assert_eq!(group.hard_state, Some(HardState { term: 2, vote: 2, commit: 1 }));
    let outputs = node.step(Input::Persisted { group: group.number });
    assert!(matches!(&outputs[..], [Output::Send(sent)] if sent[0].to() == 2), "{outputs:?}");
}

#[test]
fn a_node_that_must_not_lead_asks_for_no_vote() {
    let mut bus = Bus::new(&[1, 2, 3]);
    bus.input(1, Input::Electable(false));
    assert_eq!(bus.elect(), 2, "node 1 would have been first");
    bus.input(2, Input::Transfer { to: Some(1) });
    bus.tick(40);
    assert_ne!(bus.leader(), Some(1));
}

#[test]
fn the_node_that_is_wanted_more_wins_and_a_hand_over_asks_for_no_wishes() {
    let mut bus = Bus::new(&[1, 2, 3]);
    assert_eq!(bus.elect(), 1);
    bus.input(3, Input::Priority(5));
    bus.cut.insert(1);
    assert_eq!(bus.elect(), 3, "node 2 would have been first");
    bus.tick(3);
    bus.input(3, Input::Transfer { to: Some(2) });
    bus.tick(1);
    assert_eq!(bus.leader(), Some(2), "the wish of node 3 is not asked");
}

#[test]
fn who_is_wanted_and_may_not_lead_keeps_nobody_from_it() {
    let mut bus = Bus::new(&[1, 2, 3]);
    assert_eq!(bus.elect(), 1);
    bus.input(3, Input::Priority(5));
    bus.input(3, Input::Electable(false));
    bus.cut.insert(1);
    assert_eq!(bus.elect(), 2);
}

#[test]
fn who_is_wanted_less_leads_if_it_alone_has_all_entries() {
    let mut bus = Bus::new(&[1, 2, 3]);
    let leader = bus.elect();
    assert_eq!(leader, 1);
    bus.cut.insert(3);
    bus.input(1, propose(1, "without node 3"));
    bus.tick(3);
    bus.input(3, Input::Priority(5));
    bus.cut.remove(&3);
    bus.cut.insert(1);
    assert_eq!(bus.elect(), 2, "the wish of node 3 does not weigh against what it lacks");
}

#[test]
fn who_is_wanted_and_has_more_entries_of_an_old_term_keeps_nobody_from_leading() {
    let mut bus = Bus::new(&[1, 2, 3]);
    assert_eq!(bus.elect(), 1);
    bus.input(1, Input::Priority(5));
    bus.cut.insert(1);
    bus.input(1, propose(1, "never"));
    bus.input(1, propose(1, "heard of"));
    let second = bus.elect();
    bus.input(second, propose(2, "heard of by both"));
    bus.tick(3);
    let third = 5 - second;
    bus.cut.remove(&1);
    bus.cut.insert(second);
    assert_eq!(bus.elect(), third, "only it has what the second leader committed");
}

#[test]
fn a_snapshot_may_be_applied_before_it_is_persisted() {
    let membership = Membership::of_voters([1, 2, 3]);
    let mut node = Node::new(settings(1), start(membership.clone())).unwrap();
    let mut offer = eraftpb::Message::default();
    offer.set_msg_type(MessageType::MsgSnapshot);
    (offer.from, offer.to, offer.term) = (2, 1, 2);
    let mut snapshot = eraftpb::Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (50, 2);
    metadata.mut_conf_state().voters = membership.voters.iter().copied().collect();
    offer.set_snapshot(snapshot);
    let bytes = Bytes::from(offer.write_to_bytes().unwrap());
    let outputs = node.step(Input::Message { from: 2, bytes });
    let group = outputs.iter().find_map(|one| match one {
        Output::Persist(group) => Some(group),
        _ => None,
    });
    let group = group.expect("the log begins anew");
    assert_eq!(group.reset, Some(Mark { index: 50, term: 2 }));
    // State is there at once; the log's writer still waits for its disk.
    node.step(Input::Applied { index: 50 });
    assert_eq!(node.status().applied, 1);
    let outputs = node.step(Input::Persisted { group: group.number });
    assert!(outputs.iter().any(|one| matches!(one, Output::Send(_))), "{outputs:?}");
    assert_eq!(node.status().applied, 50);
}

#[test]
fn nodes_that_campaign_at_the_same_time_do_not_do_so_for_ever() {
    for nonce in 0..200 {
        let mut bus = Bus::new(&[1, 2, 3]);
        bus.nodes.retain(|id, _| *id != 1);
        for (id, node) in &mut bus.nodes {
            let alike = NodeSettings { election_extra: 4, run_nonce: nonce + id, ..settings(*id) };
            *node = Node::new(alike, start(Membership::of_voters([1, 2, 3]))).unwrap();
        }
        let elected = (0..200).any(|_| {
            bus.inputs([(2, Input::Tick), (3, Input::Tick)].into());
            bus.leader().is_some()
        });
        assert!(elected, "nonce {nonce}: {:?}", bus.nodes);
    }
}
