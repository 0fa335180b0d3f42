//! Three nodes with real logs on simulated disks, under loss, duplication, reordering, cut links,
//! slow disks, power cuts and snapshots, from a seed. After every event: one leader per term, the
//! same entry at every index on every node and for ever, and no read that misses an answer.

use super::*;
use crate::entry::{Entry, EntryKind};
use crate::log::{Log, LogSettings};
use crate::recovery::{FIRST_MARK, SNAPSHOT_FOLDER, bootstrap, recover};
use crate::seams::Rng;
use crate::seams::mem::{MemDisk, SeededRng, Stop};
use crate::snapshot::{self, SnapshotMeta};
use std::collections::BTreeSet;

const IDS: [u64; 3] = [1, 2, 3];
/// Messages under way at once; more are lost, as on a full queue.
const FLIGHT_MAX: usize = 60;

struct Member {
    disk: MemDisk,
    node: Node,
    log: Log<MemDisk>,
    /// What the log writer has not done yet, with the body of a snapshot to be installed first.
    groups: VecDeque<(Group, Option<(SnapshotMeta, Bytes)>)>,
    committed: VecDeque<Entry>,
    state: Vec<u64>,
    applied: Mark,
    snapshot_index: u64,
}

#[derive(Default)]
struct Truth {
    entries: BTreeMap<u64, (u64, Bytes)>,
    leaders: BTreeMap<u64, u64>,
    acknowledged: u64,
    proposed: BTreeMap<(u64, u64), u64>,
    reads: BTreeMap<u64, u64>,
    reads_answered: usize,
    installs: usize,
}

struct World {
    rng: SeededRng,
    members: BTreeMap<u64, Member>,
    flight: Vec<(u64, u64, Bytes)>,
    cut: BTreeSet<(u64, u64)>,
    truth: Truth,
    next: u64,
}

fn log_settings() -> LogSettings {
    LogSettings { segment_bytes: 12 << 10, first_segment_bytes: 12 << 10, mark_every: 1 }
}

fn encode(state: &[u64]) -> Bytes {
    state.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn decode(body: &[u8]) -> Vec<u64> {
    body.chunks(8).map(|part| u64::from_le_bytes(part.try_into().unwrap())).collect()
}

fn boot(id: u64, disk: MemDisk, rng: &mut SeededRng) -> Member {
    let seed = Box::new(SeededRng::new(rng.next_u64()));
    let found = recover(disk.clone(), log_settings(), seed).unwrap();
    let applied = found.start.snapshot.mark;
    let manifest = Bytes::from(found.body.clone());
    let membership = found.start.snapshot.membership.clone();
    let settings = NodeSettings {
        run_nonce: rng.next_u64(),
        election_extra: 3 * id as usize,
        ..NodeSettings::new(id, id)
    };
    let mut node = Node::new(settings, found.start).unwrap();
    node.receive(Input::SnapshotTaken { mark: applied, membership, manifest });
    Member {
        disk,
        node,
        log: found.log,
        groups: VecDeque::new(),
        committed: VecDeque::new(),
        state: decode(&found.body),
        applied,
        snapshot_index: applied.index,
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = SeededRng::new(seed);
        let mut members = BTreeMap::new();
        for id in IDS {
            let disk = MemDisk::new();
            let membership = Membership::of_voters(IDS);
            let meta = SnapshotMeta { mark: FIRST_MARK, membership };
            let seed = Box::new(SeededRng::new(rng.next_u64()));
            bootstrap(disk.clone(), log_settings(), seed, meta, &[]).unwrap();
            members.insert(id, boot(id, disk, &mut rng));
        }
        let (flight, cut) = (Vec::new(), BTreeSet::new());
        World { rng, members, flight, cut, truth: Truth::default(), next: 1 }
    }

    fn anyone(&mut self) -> u64 {
        IDS[self.rng.below(3) as usize]
    }

    fn event(&mut self) {
        let id = self.anyone();
        match self.rng.below(400) {
            0..=1 => self.power_cut(id),
            2..=4 => {
                let other = self.anyone();
                self.cut.insert((id, other));
            }
            5 => {
                let others = IDS.into_iter().filter(|other| *other != id);
                self.cut.extend(others.flat_map(|other| [(id, other), (other, id)]));
            }
            6..=8 => self.cut.clear(),
            9..=59 => self.input(id, Input::Tick),
            60..=99 => self.propose(id),
            100..=114 => {
                self.next += 1;
                self.truth.reads.insert(self.next, self.truth.acknowledged);
                self.input(id, Input::Read { ticket: self.next });
            }
            115 => self.input(id, Input::Transfer { to: None }),
            116..=119 => {
                let peer = self.anyone();
                self.input(id, Input::Unreachable { peer });
            }
            120..=199 => self.write(id),
            200..=249 => self.apply(id),
            _ => self.deliver(),
        }
    }

    fn propose(&mut self, id: u64) {
        self.next += 1;
        let payload = Bytes::copy_from_slice(&self.next.to_le_bytes());
        self.input(id, Input::Propose { ticket: self.next, payload });
    }

    fn deliver(&mut self) {
        if self.flight.is_empty() {
            return;
        }
        let nth = self.rng.below(self.flight.len() as u64) as usize;
        let (from, to, bytes) = match self.rng.below(12) {
            0 => self.flight[nth].clone(), // arrives again later
            _ => self.flight.swap_remove(nth),
        };
        if !self.rng.one_in(12) && !self.cut.contains(&(from, to)) {
            self.input(to, Input::Message { from, bytes });
        }
    }

    fn power_cut(&mut self, id: u64) {
        let member = self.members.remove(&id).unwrap();
        let stops = [Stop::Kill, Stop::LoseAll, Stop::KeepAll, Stop::Random(self.rng.next_u64())];
        member.disk.restart(stops[self.rng.below(4) as usize]);
        self.truth.proposed.retain(|(_, owner), _| *owner != id);
        let member = boot(id, member.disk, &mut self.rng);
        self.members.insert(id, member);
        self.outputs(id);
    }

    /// The log writer takes one group.
    fn write(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        let Some((group, install)) = member.groups.pop_front() else { return };
        if let Some((meta, body)) = &install {
            snapshot::save(member.disk.clone(), SNAPSHOT_FOLDER, meta.clone(), body).unwrap();
        }
        member.log.append(&group).unwrap();
        if self.rng.one_in(8) {
            member.log.prepare().unwrap();
        }
        self.input(id, Input::Persisted { group: group.number });
        if let Some((meta, body)) = install {
            let member = self.members.get_mut(&id).unwrap();
            member.state = decode(&body);
            member.applied = meta.mark;
            member.snapshot_index = meta.mark.index;
            self.truth.installs += 1;
            self.input(id, Input::Applied { index: meta.mark.index });
        }
    }

    /// The apply thread takes one entry.
    fn apply(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        let Some(entry) = member.committed.pop_front() else { return };
        assert_eq!(entry.index, member.applied.index + 1);
        member.applied = entry.mark();
        if entry.kind == EntryKind::Normal {
            member.state.extend(decode(&entry.payload));
        }
        let told = (entry.term, entry.payload.clone());
        let truth = self.truth.entries.entry(entry.index).or_insert(told.clone());
        assert_eq!(*truth, told, "node {id} applied another entry at {}", entry.index);
        if self.truth.proposed.remove(&(entry.index, id)) == Some(entry.term) {
            self.truth.acknowledged = self.truth.acknowledged.max(entry.index);
        }
        self.input(id, Input::Applied { index: entry.index });
        self.snapshot(id);
    }

    fn snapshot(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        if member.applied.index < member.snapshot_index + 5 {
            return;
        }
        let mark = member.applied;
        member.snapshot_index = mark.index;
        let membership = Membership::of_voters(IDS);
        let meta = SnapshotMeta { mark, membership: membership.clone() };
        let manifest = encode(&member.state);
        snapshot::save(member.disk.clone(), SNAPSHOT_FOLDER, meta, &manifest).unwrap();
        let index = snapshot::oldest_kept(&mut member.disk, SNAPSHOT_FOLDER).unwrap().unwrap();
        member.log.compact_to(index).unwrap();
        self.input(id, Input::SnapshotTaken { mark, membership, manifest });
        self.input(id, Input::Compact { index });
    }

    fn input(&mut self, id: u64, input: Input) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.node.receive(input);
        if !self.rng.one_in(4) {
            self.outputs(id); // else it waits for the next input, as in a drained queue
        }
    }

    fn outputs(&mut self, id: u64) {
        let mut install = None;
        for output in self.members.get_mut(&id).unwrap().node.ready() {
            let member = self.members.get_mut(&id).unwrap();
            match output {
                Output::Persist(group) => member.groups.push_back((group, install.take())),
                Output::Committed(entries) => member.committed.extend(entries),
                Output::InstallSnapshot { mark, membership, manifest, .. } => {
                    member.committed.clear();
                    install = Some((SnapshotMeta { mark, membership }, manifest));
                }
                Output::Send(envelopes) => {
                    for envelope in envelopes {
                        let peer = envelope.to();
                        let snapshot = envelope.snapshot().is_some();
                        let lost = self.flight.len() >= FLIGHT_MAX;
                        if !lost {
                            self.flight.push((id, peer, envelope.encode().into()));
                        }
                        if snapshot {
                            let told = Input::SnapshotSent { peer, delivered: !lost };
                            self.members.get_mut(&id).unwrap().node.receive(told);
                        }
                    }
                }
                Output::Proposed { mark, .. } => {
                    self.truth.proposed.insert((mark.index, id), mark.term);
                }
                Output::ReadReady { ticket, index } => {
                    let least = self.truth.reads[&ticket];
                    assert!(index >= least, "read {ticket} at {index}, {least} was acknowledged");
                    self.truth.reads_answered += 1;
                }
                Output::Role(report) if report.role == Role::Leader => {
                    let leader = *self.truth.leaders.entry(report.term).or_insert(id);
                    assert_eq!(leader, id, "two leaders in term {}", report.term);
                }
                Output::Halted(halt) => panic!("node {id}: {halt:?}"),
                _ => {}
            }
        }
    }

    /// Ends all faults and runs until everything is applied everywhere.
    fn heal(&mut self) {
        self.cut.clear();
        for round in 0..600 {
            for id in IDS {
                self.input(id, Input::Tick);
            }
            for _ in 0..40 {
                for id in IDS {
                    self.write(id);
                    self.apply(id);
                }
                for (from, to, bytes) in std::mem::take(&mut self.flight) {
                    self.input(to, Input::Message { from, bytes });
                }
            }
            if round == 300 {
                IDS.iter().for_each(|id| self.propose(*id));
            }
        }
        let states: BTreeSet<_> = self.members.values().map(|one| one.state.clone()).collect();
        let applied: BTreeSet<_> = self.members.values().map(|one| one.applied).collect();
        assert_eq!((states.len(), applied.len()), (1, 1), "{applied:?}");
        let last = applied.first().map_or(0, |mark| mark.index);
        assert!(last >= self.truth.acknowledged, "an acknowledged entry is gone");
        let state = states.first().unwrap();
        let unique: BTreeSet<_> = state.iter().collect();
        assert_eq!(unique.len(), state.len(), "an entry was applied twice");
    }
}

#[test]
fn three_nodes_agree_whatever_happens_to_disks_and_network() {
    let (mut acknowledged, mut reads, mut installs, mut terms) = (0, 0, 0, 0);
    for seed in 0..24 {
        let mut world = World::new(seed);
        for _ in 0..8000 {
            world.event();
        }
        world.heal();
        acknowledged += world.truth.acknowledged;
        reads += world.truth.reads_answered;
        installs += world.truth.installs;
        terms += world.truth.leaders.len();
    }
    // A run in which little happened would prove nothing.
    let happened = (acknowledged, reads, installs, terms);
    let enough = acknowledged > 1000 && reads > 1000 && installs >= 5 && terms > 60;
    assert!(enough, "{happened:?}");
}
