//! One node on one thread: the whole loop of a shell, without threads, network or real disk.
//!
//! Shows how the parts belong together and lets the simulation of one node, and tests, run them:
//! [`Drive`] owns a [`Node`], a [`Log`] on a [`MemDisk`], and a state behind [`Apply`]. What the
//! daemon spreads over three threads happens here one after the other, in the same order and with
//! the same crash points. It drives a cluster of one voter; a cluster's simulation has a network
//! and drives nodes itself.

use crate::entry::{Entry, EntryKind, Group, Mark};
use crate::log::{Log, LogError, LogSettings};
use crate::membership::{Membership, decode_change};
use crate::node::{Input, Node, NodeError, NodeSettings, Output, Refusal, Status};
use crate::recovery::{RecoveryError, SNAPSHOT_FOLDER, bootstrap, first_snapshot, recover};
use crate::seams::mem::{MemDisk, SeededRng};
use crate::seams::{Disk, DiskError};
use crate::snapshot::{self, SnapshotError, SnapshotMeta};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// The state that entries are applied to.
pub trait Apply {
    /// Applies an entry of kind `Normal` and returns the answer for its proposer.
    fn apply(&mut self, entry: &Entry) -> Bytes;
    /// Whether a change of membership is taken. All nodes must decide the same.
    fn accepts(&mut self, entry: &Entry) -> bool {
        let _ = entry;
        true
    }
    /// The whole state.
    fn snapshot(&self) -> Vec<u8>;
    /// Replaces the state by one that [`Apply::snapshot`] gave.
    fn restore(&mut self, body: &[u8]);
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The proposal took effect at `index`.
    Applied {
        /// Index of its entry.
        index: u64,
        /// What [`Apply::apply`] said.
        reply: Bytes,
    },
    /// Another leader's entry took its place: it never takes effect.
    Superseded,
    /// Nothing was proposed.
    Refused(Refusal),
    /// The state reflects everything that was acknowledged before the read was asked.
    Read {
        /// The read index.
        index: u64,
    },
    /// No quorum confirmed the read.
    ReadFailed,
}

/// Why a drive stopped.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A crash point was reached.
    #[error("the node was stopped")]
    Stopped(#[source] DiskError),
    /// The data folder could not be made or recovered.
    #[error("the node could not be recovered")]
    Recovery(#[source] RecoveryError),
    /// The node could not be made.
    #[error("the node could not be made")]
    Node(#[source] NodeError),
    /// The log failed. The node has been told and acknowledges nothing any more.
    #[error("the log failed")]
    Log(#[source] LogError),
    /// A snapshot failed.
    #[error("a snapshot failed")]
    Snapshot(#[source] SnapshotError),
}

/// Sizes of a drive.
#[derive(Debug, Clone)]
pub struct DriveSettings {
    /// The node's.
    pub node: NodeSettings,
    /// The log's.
    pub log: LogSettings,
    /// Entries between snapshots (100,000 in production, ruling 33).
    pub snapshot_every: u64,
    /// For generations and nonces.
    pub seed: u64,
}

/// A node with its log and its state.
#[derive(Debug)]
pub struct Drive<A> {
    settings: DriveSettings,
    disk: MemDisk,
    node: Node,
    log: Log<MemDisk>,
    state: A,
    applied: Mark,
    membership: Membership,
    snapshot_index: u64,
    /// Proposals by index: the term they must have, and whose they are.
    waiting: BTreeMap<u64, (u64, u64)>,
    reads: Vec<(u64, u64)>,
    answers: Vec<(u64, Answer)>,
}

impl<A: Apply> Drive<A> {
    /// Makes the first files of a cluster of one, with `state` as its state.
    pub fn init(disk: &MemDisk, settings: &DriveSettings, state: &A) -> Result<(), DriveError> {
        let rng = Box::new(SeededRng::new(settings.seed));
        let meta = first_snapshot(settings.node.raft_id);
        bootstrap(disk.clone(), settings.log.clone(), rng, meta, &state.snapshot())
            .map_err(DriveError::Recovery)
    }

    /// Starts the node from its files. `state` is any state; it is replaced by the recovered one.
    pub fn start(
        disk: &MemDisk,
        settings: DriveSettings,
        mut state: A,
    ) -> Result<Self, DriveError> {
        let rng = Box::new(SeededRng::new(settings.seed ^ settings.node.run_nonce));
        let found =
            recover(disk.clone(), settings.log.clone(), rng).map_err(DriveError::Recovery)?;
        state.restore(&found.body);
        let SnapshotMeta { mark, membership } = found.start.snapshot.clone();
        let node = Node::new(settings.node.clone(), found.start).map_err(DriveError::Node)?;
        let mut drive = Drive {
            settings,
            disk: disk.clone(),
            node,
            log: found.log,
            state,
            applied: mark,
            membership,
            snapshot_index: mark.index,
            waiting: BTreeMap::new(),
            reads: Vec::new(),
            answers: Vec::new(),
        };
        drive.calls([])?;
        Ok(drive)
    }

    /// Hands `inputs` to the node together, as a shell does that drains its queue, and carries out
    /// all that follows. Returns the answers that became known, by ticket.
    pub fn calls(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Result<Vec<(u64, Answer)>, DriveError> {
        for input in inputs {
            self.node.receive(input);
        }
        let mut queue = VecDeque::from(self.node.ready());
        while let Some(output) = queue.pop_front() {
            for input in self.carry_out(output)? {
                self.node.receive(input);
            }
            queue.extend(self.node.ready());
        }
        self.snapshot_if_due()?;
        self.log.prepare().map_err(log_failed)?;
        Ok(std::mem::take(&mut self.answers))
    }

    /// Proposes a payload.
    pub fn propose(
        &mut self,
        ticket: u64,
        payload: Bytes,
    ) -> Result<Vec<(u64, Answer)>, DriveError> {
        self.calls([Input::Propose { ticket, payload }])
    }

    /// The state.
    pub fn state(&self) -> &A {
        &self.state
    }

    /// The node's view of itself.
    pub fn status(&self) -> Status {
        self.node.status()
    }

    fn carry_out(&mut self, output: Output) -> Result<Vec<Input>, DriveError> {
        match output {
            Output::Persist(group) => self.persist(&group),
            Output::Committed(entries) => self.apply(&entries),
            Output::Proposed { ticket, mark } => {
                self.waiting.insert(mark.index, (mark.term, ticket));
                Ok(Vec::new())
            }
            Output::Refused { ticket, reason } => self.reply(ticket, Answer::Refused(reason)),
            Output::ReadFailed { ticket } => self.reply(ticket, Answer::ReadFailed),
            Output::ReadReady { ticket, index } => {
                self.reads.push((index, ticket));
                self.answer_reads()
            }
            Output::Role(_) | Output::MembersChanged { .. } | Output::Halted(_) => Ok(Vec::new()),
            Output::Send(_) | Output::InstallSnapshot { .. } | Output::SnapshotWanted { .. } => {
                // Learners that a test adds are never there; the leader need not know.
                Ok(Vec::new())
            }
        }
    }

    /// The log writer's part.
    fn persist(&mut self, group: &Group) -> Result<Vec<Input>, DriveError> {
        self.reached("persist.before")?;
        if let Err(error) = self.log.append(group) {
            self.node.receive(Input::PersistFailed);
            return Err(log_failed(error));
        }
        self.reached("persist.after")?;
        Ok(vec![Input::Persisted { group: group.number }])
    }

    /// The apply thread's part.
    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Input>, DriveError> {
        let mut inputs = Vec::new();
        for entry in entries {
            assert_eq!(entry.index, self.applied.index + 1, "entries are applied without a gap");
            self.reached("apply.before")?;
            let reply = match entry.kind {
                EntryKind::Normal => self.state.apply(entry),
                EntryKind::Empty => Bytes::new(),
                EntryKind::Conf => {
                    let accepted = self.state.accepts(entry);
                    if accepted {
                        let (change, _) =
                            decode_change(&entry.payload).expect("checked before it was proposed");
                        self.membership =
                            self.membership.with(change).expect("checked before it was proposed");
                    }
                    inputs.push(Input::ConfApplied { index: entry.index, accepted });
                    Bytes::new()
                }
            };
            self.applied = entry.mark();
            self.reached("apply.after")?;
            if let Some((term, ticket)) = self.waiting.remove(&entry.index) {
                let answer = if term == entry.term {
                    Answer::Applied { index: entry.index, reply }
                } else {
                    Answer::Superseded
                };
                self.reply(ticket, answer)?;
            }
        }
        inputs.push(Input::Applied { index: self.applied.index });
        self.answer_reads()?;
        Ok(inputs)
    }

    fn answer_reads(&mut self) -> Result<Vec<Input>, DriveError> {
        let applied = self.applied.index;
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.reads).into_iter().partition(|(index, _)| *index <= applied);
        self.reads = waiting;
        for (index, ticket) in ready {
            self.reply(ticket, Answer::Read { index })?;
        }
        Ok(Vec::new())
    }

    fn reply(&mut self, ticket: u64, answer: Answer) -> Result<Vec<Input>, DriveError> {
        self.reached("reply.before")?;
        self.answers.push((ticket, answer));
        self.reached("reply.after")?;
        Ok(Vec::new())
    }

    /// Snapshot first, then the log's prefix: never the other way round.
    fn snapshot_if_due(&mut self) -> Result<(), DriveError> {
        if self.applied.index < self.snapshot_index + self.settings.snapshot_every {
            return Ok(());
        }
        let meta = SnapshotMeta { mark: self.applied, membership: self.membership.clone() };
        let body = self.state.snapshot();
        snapshot::save(self.disk.clone(), SNAPSHOT_FOLDER, meta, &body).map_err(snapshot_failed)?;
        self.snapshot_index = self.applied.index;
        self.node.receive(Input::SnapshotTaken {
            mark: self.applied,
            membership: self.membership.clone(),
            manifest: Bytes::new(),
        });
        let oldest =
            snapshot::oldest_kept(&mut self.disk, SNAPSHOT_FOLDER).map_err(snapshot_failed)?;
        if let Some(index) = oldest {
            self.node.receive(Input::Compact { index });
            self.log.compact_to(index).map_err(log_failed)?;
        }
        Ok(())
    }

    fn reached(&mut self, point: &'static str) -> Result<(), DriveError> {
        self.disk.crash_point(point).map_err(DriveError::Stopped)
    }

    /// Answers that were given before a stop: the outside has them although the node is gone.
    pub fn take_answers(&mut self) -> Vec<(u64, Answer)> {
        std::mem::take(&mut self.answers)
    }
}

fn log_failed(error: LogError) -> DriveError {
    match error {
        LogError::Append { source, .. }
        | LogError::Persist { source, .. }
        | LogError::Compact(source)
        | LogError::Prepare(source)
            if matches!(source, DiskError::Crashed { .. }) =>
        {
            DriveError::Stopped(source)
        }
        other => DriveError::Log(other),
    }
}

fn snapshot_failed(error: SnapshotError) -> DriveError {
    match error {
        SnapshotError::Write { source, .. } | SnapshotError::Read { source, .. }
            if matches!(source, DiskError::Crashed { .. }) =>
        {
            DriveError::Stopped(source)
        }
        other => DriveError::Snapshot(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Halt, Role};
    use crate::seams::CRASH_POINTS;
    use crate::seams::Rng;
    use crate::seams::mem::Stop;

    /// A state that remembers what it was given, in order.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct Journal(Vec<u64>);

    impl Apply for Journal {
        fn apply(&mut self, entry: &Entry) -> Bytes {
            let mut number = [0; 8];
            number.copy_from_slice(&entry.payload[..8]);
            self.0.push(u64::from_le_bytes(number));
            Bytes::from(self.0.len().to_string())
        }

        fn snapshot(&self) -> Vec<u8> {
            self.0.iter().flat_map(|number| number.to_le_bytes()).collect()
        }

        fn restore(&mut self, body: &[u8]) {
            let number = |part: &[u8]| u64::from_le_bytes(part.try_into().unwrap());
            self.0 = body.chunks(8).map(number).collect();
        }
    }

    fn settings(seed: u64) -> DriveSettings {
        DriveSettings {
            node: NodeSettings::new(65_537, seed),
            log: LogSettings {
                segment_bytes: 16 << 10,
                first_segment_bytes: 16 << 10,
                mark_every: 1,
            },
            snapshot_every: 15,
            seed,
        }
    }

    fn payload(number: u64) -> Bytes {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(200, number as u8);
        bytes.into()
    }

    fn running(disk: &MemDisk) -> Drive<Journal> {
        Drive::init(disk, &settings(1), &Journal::default()).unwrap();
        Drive::start(disk, settings(1), Journal::default()).unwrap()
    }

    #[test]
    fn a_single_node_answers_at_once_and_reads_what_it_acknowledged() {
        let disk = MemDisk::new();
        let mut drive = running(&disk);
        assert_eq!(drive.status().role.role, Role::Leader, "no election timeout for one voter");
        let answers = drive.propose(9, payload(42)).unwrap();
        let reply = Bytes::from_static(b"1");
        assert_eq!(answers, [(9, Answer::Applied { index: 3, reply })]);
        let read = drive.calls([Input::Read { ticket: 10 }]).unwrap();
        assert_eq!(read, [(10, Answer::Read { index: 3 })]);
    }

    #[test]
    fn calls_that_come_together_share_one_sync() {
        let disk = MemDisk::new();
        let mut drive = running(&disk);
        while drive.log.prepare().unwrap() {}
        let before = disk.calls().syncs;
        let call = |ticket| Input::Propose { ticket, payload: payload(ticket) };
        let answers = drive.calls((0..32).map(call)).unwrap();
        assert_eq!(answers.len(), 32);
        // Entries 3 to 34 pass the snapshot's mark once: one sync for them, one for the snapshot.
        assert_eq!(disk.calls().syncs - before, 2);
    }

    #[test]
    fn a_disk_that_fails_stops_the_node_and_loses_nothing_acknowledged() {
        let disk = MemDisk::new();
        let mut drive = running(&disk);
        drive.propose(1, payload(1)).unwrap();
        disk.fail_sync_after(0);
        let failed = drive.propose(2, payload(2));
        assert!(matches!(failed, Err(DriveError::Log(_))), "{failed:?}");
        assert_eq!(drive.status().halted, Some(Halt::PersistFailed));
        let answers = drive.node.step(Input::Propose { ticket: 3, payload: payload(3) });
        assert!(answers.iter().any(|one| matches!(one, Output::Refused { ticket: 3, .. })));
        disk.restart(Stop::LoseAll);
        let drive = Drive::start(&disk, settings(2), Journal::default()).unwrap();
        assert_eq!(drive.state().0, [1]);
    }

    /// Runs a node through stops at `point` (any disk call, if there is none) and checks after
    /// every start: what was acknowledged is there, once, in order, and nothing else came up that
    /// was not proposed. Returns how often it was stopped there.
    fn life(seed: u64, point: Option<&str>, lies: bool) -> Result<u32, String> {
        let mut rng = SeededRng::new(seed);
        let disk = MemDisk::new();
        Drive::init(&disk, &settings(seed), &Journal::default()).unwrap();
        if lies {
            disk.lie_about_syncs();
        }
        let mut acknowledged: Vec<u64> = Vec::new();
        let (mut next, mut stopped) = (1, 0);
        for run in 0..6 {
            let mut node = settings(seed);
            node.node.run_nonce = rng.next_u64();
            let mut drive = Drive::start(&disk, node, Journal::default())
                .map_err(|error| format!("run {run}: {error}: {:?}", disk.paths()))?;
            let journal = drive.state().0.clone();
            let kept = journal.iter().filter(|number| acknowledged.contains(number));
            if !kept.eq(acknowledged.iter()) {
                return Err(format!("run {run}: {acknowledged:?} became {journal:?}"));
            }
            let ascending = journal.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || journal.last().is_some_and(|last| *last >= next) {
                return Err(format!("run {run}: twice or never proposed: {journal:?}"));
            }
            match point {
                Some(point) => disk.arm(point, rng.below(4)),
                None => disk.crash_after(rng.below(120)),
            }
            for _ in 0..60 {
                let group = next..next + 1 + rng.below(3);
                next = group.end;
                let calls = group.map(|nr| Input::Propose { ticket: nr, payload: payload(nr) });
                let outcome = drive.calls(calls.chain([Input::Tick]));
                let answers = match &outcome {
                    Ok(answers) => answers.clone(),
                    Err(_) => drive.take_answers(),
                };
                for (ticket, answer) in answers {
                    if matches!(answer, Answer::Applied { .. }) {
                        acknowledged.push(ticket);
                    }
                }
                if outcome.is_err() {
                    stopped += 1;
                    break;
                }
            }
            let stops = [Stop::Kill, Stop::LoseAll, Stop::KeepAll, Stop::Random(rng.next_u64())];
            disk.restart(stops[rng.below(4) as usize]);
        }
        Ok(stopped)
    }

    #[test]
    fn a_stop_at_every_crash_point_loses_and_invents_nothing() {
        for point in CRASH_POINTS {
            let mut stopped = 0;
            for seed in 0..4 {
                stopped += life(seed, Some(point), false)
                    .unwrap_or_else(|found| panic!("{point}, seed {seed}: {found}"));
            }
            assert!(stopped > 0, "no node ever came to {point}");
        }
    }

    #[test]
    fn a_stop_at_any_disk_call_loses_and_invents_nothing() {
        for seed in 100..160 {
            life(seed, None, false).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
        }
    }

    #[test]
    fn the_same_lives_on_a_disk_that_lies_are_caught() {
        let caught = (100..160).filter(|seed| life(*seed, None, true).is_err()).count();
        assert!(caught > 20, "only {caught} of 60");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let contents = |seed| {
            let disk = MemDisk::new();
            let mut drive = running(&disk);
            for number in 0..50 {
                drive.propose(number, payload(number + seed)).unwrap();
            }
            disk.paths().into_iter().map(|path| (disk.content(&path), path)).collect::<Vec<_>>()
        };
        assert_eq!(contents(1), contents(1));
        assert_ne!(contents(1), contents(2));
    }
}
