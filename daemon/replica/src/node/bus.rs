//! A few nodes without disks over a bus of messages, for the tests beside it: what is written is
//! persisted at once, what is committed is applied at once.

use super::*;
use crate::entry::EntryKind;
use crate::recovery::{FIRST_MARK, Start};
use crate::snapshot::SnapshotMeta;
use std::collections::BTreeSet;

pub fn settings(id: u64) -> NodeSettings {
    NodeSettings { election_extra: id as usize * 3, ..NodeSettings::new(id, 40 + id) }
}

pub fn start(membership: Membership) -> Start {
    Start {
        snapshot: SnapshotMeta { mark: FIRST_MARK, membership },
        floor: FIRST_MARK,
        entries: Vec::new(),
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
    }
}

/// Nodes that exchange messages at once unless a link is cut. Disks are perfect, apply is instant.
pub struct Bus {
    pub nodes: BTreeMap<u64, Node>,
    pub cut: BTreeSet<u64>,
    pub applied: BTreeMap<u64, Vec<Bytes>>,
    pub outputs: BTreeMap<u64, Vec<Output>>,
    /// Bodies are not modelled: a snapshot stands for the payloads applied by its giver.
    pub snapshots: BTreeMap<u64, Vec<Bytes>>,
}

impl Bus {
    pub fn new(voters: &[u64]) -> Bus {
        let membership = Membership::of_voters(voters.iter().copied());
        let make = |id: &u64| (*id, Node::new(settings(*id), start(membership.clone())).unwrap());
        Bus {
            nodes: voters.iter().map(make).collect(),
            cut: BTreeSet::new(),
            applied: BTreeMap::new(),
            outputs: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        }
    }

    pub fn input(&mut self, id: u64, input: Input) {
        self.inputs(VecDeque::from([(id, input)]));
    }

    /// Inputs that come before what follows from any of them.
    pub fn inputs(&mut self, mut queue: VecDeque<(u64, Input)>) {
        while let Some((id, input)) = queue.pop_front() {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            for output in node.step(input) {
                self.carry_out(id, &output, &mut queue);
                self.outputs.entry(id).or_default().push(output);
            }
        }
    }

    pub fn carry_out(&mut self, id: u64, output: &Output, queue: &mut VecDeque<(u64, Input)>) {
        match output {
            Output::Persist(group) => {
                queue.push_back((id, Input::Persisted { group: group.number }));
                if let Some(Mark { index, .. }) = group.reset {
                    queue.push_back((id, Input::Applied { index }));
                }
            }
            Output::Committed(entries) => {
                for entry in entries {
                    let index = entry.index;
                    match entry.kind {
                        EntryKind::Conf => {
                            queue.push_back((id, Input::ConfApplied { index, accepted: true }));
                        }
                        EntryKind::Normal => {
                            self.applied.entry(id).or_default().push(entry.payload.clone());
                        }
                        EntryKind::Empty => {}
                    }
                    queue.push_back((id, Input::Applied { index }));
                }
            }
            Output::InstallSnapshot { mark, .. } => {
                let body = self.snapshots.get(&mark.index).cloned().unwrap_or_default();
                self.applied.insert(id, body);
            }
            Output::Send(envelopes) => {
                for envelope in envelopes {
                    let to = envelope.to();
                    if self.cut.contains(&id) || self.cut.contains(&to) {
                        continue;
                    }
                    let bytes = Bytes::from(envelope.encode());
                    queue.push_back((to, Input::Message { from: id, bytes }));
                    if envelope.snapshot().is_some() {
                        queue.push_back((id, Input::SnapshotSent { peer: to, delivered: true }));
                    }
                }
            }
            _ => {}
        }
    }

    pub fn tick(&mut self, times: usize) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for _ in 0..times {
            for id in &ids {
                self.input(*id, Input::Tick);
            }
        }
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |id: &&u64| {
            let role = self.nodes[id].status().role;
            role.role == Role::Leader && !self.cut.contains(id)
        };
        self.nodes.keys().find(leads).copied()
    }

    pub fn elect(&mut self) -> u64 {
        for _ in 0..100 {
            if let Some(leader) = self.leader() {
                self.tick(2);
                return leader;
            }
            self.tick(1);
        }
        panic!("no leader after 100 ticks");
    }

    pub fn answers(&self, id: u64) -> &[Output] {
        self.outputs.get(&id).map_or(&[], |outputs| outputs)
    }
}
