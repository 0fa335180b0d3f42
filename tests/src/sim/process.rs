//! A node's process: the real replica, log and State, cut at the queues at which the daemon's
//! threads are cut. The simulation decides when each queue is worked off.
//!
//! It mirrors the daemon's threads (log writer, apply, snapshot): same order, same rules. It must
//! not decide anything that the daemon leaves to the replica or to apply.

use super::archive::{Archive, OpenError};
use super::carry::{Carried, carry_out};
pub(super) use super::first::init;
use super::first::log_settings;
use super::invariants::{self, Applied};
use super::ledger::Ledger;
use super::manifest::Manifest;
use super::plant::{self, Plant};
pub(super) use super::queues::{Halt, Identity, Round, Shown, Told};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tiebeam_core::effect::{Answer, Effect};
use tiebeam_core::proposal::{Body, Header, Proposal};
use tiebeam_core::{State, snapshot as state_bytes};
use tiebeam_executor::Office;
use tiebeam_executor::submit::Flight;
use tiebeam_proto::chain::Head;
use tiebeam_proto::time::Time;
use tiebeam_replica::log::{Log, LogError};
use tiebeam_replica::membership::{Change, Membership, node_of};
use tiebeam_replica::prefix::{Held, Place, Prefix};
use tiebeam_replica::recovery::{SNAPSHOT_FOLDER, recover};
use tiebeam_replica::seams::mem::{MemDisk, SeededRng};
use tiebeam_replica::seams::{Disk, DiskError};
use tiebeam_replica::snapshot::{self, SnapshotMeta};
use tiebeam_replica::{
    Entry, EntryKind, Group, Input, Mark, Node, NodeSettings, Output, Role, RoleReport,
};

/// Entries between two snapshots: few, so that every life sees some.
const SNAPSHOT_EVERY: u64 = 40;

/// Something for the log writer.
enum Work {
    Append(Group),
    Compact(u64),
    /// A leader's snapshot, to be durable before the group that follows.
    Install(SnapshotMeta, Vec<u8>),
}

/// Something for apply.
enum Batch {
    Entries(Vec<Entry>),
    Install(Box<State>, Membership),
}

/// A running node.
pub(super) struct Process {
    pub(super) identity: Identity,
    node: Node,
    log: Log<MemDisk>,
    disk: MemDisk,
    state: State,
    /// What readers and planners see.
    pub(super) board: Arc<State>,
    pub(super) archive: Archive,
    membership: Membership,
    writing: VecDeque<Work>,
    applying: VecDeque<Batch>,
    waiters: BTreeMap<u64, (u64, u64)>,
    /// Locks of plans on their way into the log.
    pub(super) flight: Flight,
    pub(super) role: RoleReport,
    stamped_us: u64,
    since_snapshot: u64,
    /// A snapshot's body that was fetched, for the install that follows.
    fetched: Option<(Manifest, Vec<u8>)>,
    /// A snapshot that is durable, until the node knows that its group is.
    installed: Option<Batch>,
    installed_group: Option<u64>,
    /// The newest snapshot that others can fetch.
    pub(super) offered: Option<(Manifest, Arc<Vec<u8>>)>,
    /// The log failed; nothing above `durable_index` may be acknowledged any more.
    pub(super) log_failed: bool,
    durable_index: u64,
    /// What the log would still have after a stop at this moment.
    pub(super) promised: u64,
    /// Which prefix of the log may be dropped (ruling 16).
    pub(super) prefix: Prefix,
    /// The newest record of the prefix that was dropped last, to be looked at.
    pub(super) dropped: Option<u64>,
    replay_to: u64,
    records: u64,
}

/// Chain index and hash that a State's history ends with.
pub(super) fn head_of(state: &State) -> Head {
    Head { index: state.chain.index, hash: state.chain.head }
}

impl Process {
    /// Starts from the files. An error is a text that says why there is no start.
    pub(super) fn start(
        disk: &MemDisk,
        identity: Identity,
        nonce: u64,
        now_us: u64,
    ) -> Result<Process, String> {
        let rng = Box::new(SeededRng::new(nonce));
        let found = recover(disk.clone(), log_settings(), rng).map_err(|e| format!("{e:?}"))?;
        let state = state_bytes::decode(&found.body).map_err(|error| format!("{error:?}"))?;
        let opened = Archive::open(disk.clone(), head_of(&state), identity.library.clone());
        let archive = opened.map_err(|error| match error {
            OpenError::Disk(error) => format!("{error:?}"),
            OpenError::Damaged { whole, needed } => {
                format!("the history has {whole} whole records of {needed}")
            }
        })?;
        let last = found.log.last().index;
        let membership = found.start.snapshot.membership.clone();
        let mark = found.start.snapshot.mark;
        let place = Place { index: mark.index, record: state.chain.index };
        let prefix = Prefix::new(identity.raft, found.start.floor.index, place);
        let settings = NodeSettings::new(identity.raft, nonce);
        let node = Node::new(settings, found.start).map_err(|error| format!("{error:?}"))?;
        let mut process = Process {
            role: node.status().role,
            identity,
            node,
            log: found.log,
            disk: disk.clone(),
            board: Arc::new(state.clone()),
            state,
            archive,
            membership,
            writing: VecDeque::new(),
            applying: VecDeque::new(),
            waiters: BTreeMap::new(),
            flight: Flight::default(),
            stamped_us: now_us,
            since_snapshot: 0,
            fetched: None,
            installed: None,
            installed_group: None,
            offered: None,
            log_failed: false,
            durable_index: last,
            promised: last,
            prefix,
            dropped: None,
            replay_to: last,
            records: 0,
        };
        process.offer(SnapshotMeta { mark, membership: process.membership.clone() }, found.body);
        process.may_lead();
        Ok(process)
    }

    /// Last index in the log.
    pub(super) fn last_index(&self) -> u64 {
        self.log.last().index
    }

    /// The members as far as entries are applied.
    pub(super) fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Whether it leads and has applied its own first entry.
    pub(super) fn is_master(&self) -> bool {
        self.office().is_master(&self.board)
    }

    /// Its office, as raft last said.
    pub(super) fn office(&self) -> Office {
        Office { leads: self.role.role == Role::Leader, term: self.role.term }
    }

    /// Node id of the leader that it knows of.
    pub(super) fn leader(&self) -> Option<u32> {
        self.role.leader.map(|raft| node_of(raft).0 as u32)
    }

    /// Hands an input to the node; what follows comes with the next [`Process::round`].
    pub(super) fn receive(&mut self, input: Input) {
        self.node.receive(input);
    }

    /// Who lacks history must not lead (ruling 16).
    pub(super) fn may_lead(&mut self) {
        if self.identity.plant == Some(Plant::LeadWithGap) {
            return;
        }
        let whole = !self.archive.has_gap();
        self.receive(Input::Electable(whole));
        if !whole && self.role.role == Role::Leader {
            self.receive(Input::Transfer { to: None });
        }
    }

    /// Lets others fetch a snapshot.
    fn offer(&mut self, SnapshotMeta { mark, membership }: SnapshotMeta, body: Vec<u8>) {
        let manifest = Manifest::of(mark.index, &body);
        let taken = Input::SnapshotTaken { mark, membership, manifest: manifest.encode().into() };
        self.offered = Some((manifest, Arc::new(body)));
        self.receive(taken);
    }

    /// Keeps a snapshot that was fetched for the install that the node may ask for.
    pub(super) fn keep_fetched(&mut self, manifest: Manifest, body: Vec<u8>) {
        self.fetched = Some((manifest, body));
    }

    /// A body as it is proposed now, by these clocks.
    fn stamped(&mut self, body: Body, (now_us, wall): (u64, Time)) -> Vec<u8> {
        let elapsed_us = now_us.saturating_sub(self.stamped_us);
        self.stamped_us = self.stamped_us.max(now_us);
        let header = Header { wall, elapsed_us, proposer: self.identity.node };
        Proposal { header, body }.encode()
    }

    /// Proposes a body under a ticket.
    pub(super) fn propose(&mut self, ticket: u64, body: Body, clock: (u64, Time)) {
        let payload = self.stamped(body, clock).into();
        self.receive(Input::Propose { ticket, payload });
    }

    /// Proposes a change of membership with its body (ruling 20): raft's change first.
    pub(super) fn propose_member(
        &mut self,
        ticket: u64,
        (change, body): (Change, Body),
        clock: (u64, Time),
    ) {
        let context = self.stamped(body, clock).into();
        self.receive(Input::ProposeConf { ticket, change, context });
    }

    /// Nobody waits for this ticket any more.
    pub(super) fn forget(&mut self, ticket: u64) {
        self.waiters.retain(|_, (_, waiting)| *waiting != ticket);
    }

    /// Takes what the node wants done and puts it into the queues.
    pub(super) fn round(&mut self) -> Round {
        let mut round = Round::default();
        for output in self.node.ready() {
            match output {
                Output::Persist(group) => {
                    if self.identity.plant == Some(Plant::AcknowledgeBeforeSync) {
                        round.believed.push(group.number);
                    }
                    self.writing.push_back(Work::Append(group));
                }
                Output::Committed(entries) => self.applying.push_back(Batch::Entries(entries)),
                Output::Proposed { ticket, mark } => {
                    // An older proposal at this index is in no leader's log any more.
                    let old = self.waiters.insert(mark.index, (mark.term, ticket));
                    round.told.extend(old.map(|(_, ticket)| (ticket, Told::Refused)));
                }
                Output::Refused { ticket, .. } | Output::ReadFailed { ticket } => {
                    round.told.push((ticket, Told::Refused));
                }
                Output::ReadReady { ticket, index } => {
                    round.told.push((ticket, Told::Readable(index)));
                }
                Output::Role(role) => {
                    self.role = role;
                    round.role = Some(role);
                }
                Output::Halted(why) => round.halted = Some(why),
                Output::Send(envelopes) => round.sent.extend(envelopes),
                Output::InstallSnapshot { mark, membership, manifest, .. } => {
                    self.prepare_install(mark, membership, &manifest, &mut round);
                }
                Output::SnapshotWanted { .. } => round.wants_snapshot = true,
                Output::MembersChanged { .. } => {}
            }
        }
        round
    }

    /// The node took a leader's snapshot: it is made durable in its turn.
    fn prepare_install(
        &mut self,
        mark: Mark,
        membership: Membership,
        manifest: &[u8],
        round: &mut Round,
    ) {
        self.applying.clear();
        (self.installed, self.installed_group) = (None, None);
        let covered: Vec<u64> = self.waiters.range(..=mark.index).map(|(at, _)| *at).collect();
        for index in covered {
            let gone = self.waiters.remove(&index);
            round.told.extend(gone.map(|(_, ticket)| (ticket, Told::Unknown)));
        }
        let (fetched, body) = self.fetched.take().expect("chunks come before their message");
        assert_eq!(Some(&fetched), Manifest::decode(manifest).as_ref(), "the offer's own chunks");
        self.writing.push_back(Work::Install(SnapshotMeta { mark, membership }, body));
    }

    /// Whether the log writer has something to do.
    pub(super) fn has_writes(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Whether apply has something to do.
    pub(super) fn has_entries(&self) -> bool {
        !self.applying.is_empty()
    }

    /// The log writer's turn: everything that waits. Returns the newest group written.
    pub(super) fn write(&mut self) -> Result<Option<u64>, Halt> {
        self.reached("persist.before")?;
        let mut newest = None;
        while let Some(work) = self.writing.pop_front() {
            match work {
                Work::Append(group) => {
                    self.append(&group)?;
                    newest = Some(group.number);
                    if group.reset.is_some() {
                        self.installed_group = Some(group.number);
                    }
                }
                Work::Compact(index) => {
                    let compacted = self.log.compact_to(index).map(drop);
                    self.survives(compacted)?;
                }
                Work::Install(meta, body) => match self.install(meta, body) {
                    Ok(batch) => self.installed = Some(batch),
                    Err(halt) => {
                        // Without the snapshot, the group behind it would leave a log without one.
                        self.writing.clear();
                        self.receive(Input::PersistFailed);
                        return Err(halt);
                    }
                },
            }
        }
        self.reached("persist.after")?;
        let prepared = self.log.prepare().map(drop);
        self.survives(prepared)?;
        Ok(newest)
    }

    /// The node learns what is written; apply takes a snapshot over only after that.
    pub(super) fn persisted(&mut self, group: u64) {
        self.receive(Input::Persisted { group });
        if self.installed_group.is_some_and(|installed| installed <= group) {
            self.installed_group = None;
            self.applying.extend(self.installed.take());
        }
    }

    fn append(&mut self, group: &Group) -> Result<(), Halt> {
        let floor = group.reset.map_or(u64::MAX, |mark| mark.index);
        let first = group.entries.first().map_or(u64::MAX, |entry| entry.index - 1);
        self.promised = self.promised.min(first).min(floor);
        if let Err(error) = self.log.append(group) {
            self.alive()?;
            self.log_failed = true;
            if self.identity.plant != Some(Plant::IgnoreFailedSync) {
                self.receive(Input::PersistFailed);
                return Err(Halt::Exits(format!("the log failed: {error}")));
            }
        } else {
            self.durable_index = self.log.last().index;
        }
        if group.must_sync {
            self.promised = self.log.last().index;
        }
        Ok(())
    }

    /// Makes a leader's snapshot durable: the history leaps, then the snapshot gets its name.
    fn install(&mut self, meta: SnapshotMeta, body: Vec<u8>) -> Result<Batch, Halt> {
        self.reached("install.before")?;
        let state = state_bytes::decode(&body).map_err(|error| Halt::Exits(error.to_string()))?;
        let leapt = self.archive.leap(head_of(&state));
        self.disk_went("the history", leapt)?;
        self.reached("install.history.after")?;
        let saved = snapshot::save(self.disk.clone(), SNAPSHOT_FOLDER, meta.clone(), &body);
        if let Err(error) = saved {
            self.alive()?;
            return Err(Halt::Exits(format!("the snapshot cannot be installed: {error}")));
        }
        self.reached("install.snapshot.after")?;
        self.membership = meta.membership.clone();
        let place = Place { index: meta.mark.index, record: state.chain.index };
        self.prefix.installed(place);
        self.offer(meta.clone(), body);
        Ok(Batch::Install(Box::new(state), meta.membership))
    }

    /// Fails if the process was stopped; every other error of work ahead is only reported.
    fn survives(&self, result: Result<(), LogError>) -> Result<(), Halt> {
        if result.is_err() { self.alive() } else { Ok(()) }
    }

    fn alive(&self) -> Result<(), Halt> {
        if self.disk.crashed().is_some() { Err(Halt::Died) } else { Ok(()) }
    }

    /// A place where the process may be stopped.
    pub(super) fn reached(&mut self, point: &'static str) -> Result<(), Halt> {
        self.disk.crash_point(point).map_err(|_| Halt::Died)
    }

    /// The apply thread's turn: one batch. Records go to the history, then the new State to the
    /// board, then the answers out.
    pub(super) fn apply(&mut self, ledger: &mut Ledger) -> Result<Shown, Halt> {
        let mut shown = Shown::default();
        let mut answers = Vec::new();
        let entries = match self.applying.pop_front() {
            Some(Batch::Entries(entries)) => entries,
            Some(Batch::Install(state, membership)) => {
                self.reached("install.apply.before")?;
                invariants::installed_states_are_known(ledger, &state)?;
                (self.state, self.membership) = (*state, membership);
                shown.due = true;
                self.since_snapshot = 0;
                Vec::new()
            }
            None => Vec::new(),
        };
        for entry in entries {
            self.reached("apply.before")?;
            let answer = self.apply_entry(&entry, ledger, &mut shown)?;
            self.reached("apply.after")?;
            if let Some((term, ticket)) = self.waiters.remove(&entry.index) {
                let took_effect =
                    term == entry.term || self.identity.plant == Some(Plant::SkipTermCheck);
                let told =
                    if took_effect { Told::Applied(entry.index, answer) } else { Told::Refused };
                answers.push((ticket, told));
            }
        }
        self.receive(Input::Applied { index: self.state.applied });
        if self.identity.plant != Some(Plant::AnswerBeforeApply) {
            self.show();
        }
        self.may_lead();
        self.reached("reply.before")?;
        shown.told = answers;
        Ok(shown)
    }

    /// Shows readers the newest State.
    pub(super) fn show(&mut self) {
        let mut board = self.state.clone();
        plant::forget_cancels(self.identity.plant, &mut board);
        self.board = Arc::new(board);
    }

    fn apply_entry(
        &mut self,
        entry: &Entry,
        ledger: &mut Ledger,
        shown: &mut Shown,
    ) -> Result<Answer, Halt> {
        let skipped = self.identity.plant == Some(Plant::RestartWithoutReplay);
        if skipped && entry.index <= self.replay_to && entry.kind != EntryKind::Conf {
            (self.state.applied, self.state.term) = (entry.index, entry.term);
            return Ok(Answer::Done);
        }
        let before = self.state.clone();
        let Carried { proposal, answer, effects, change } =
            carry_out(&mut self.state, entry).map_err(Halt::Exits)?;
        if let Some((change, accepted)) = change {
            let told = accepted && !plant::counts_removed(self.identity.plant, change);
            self.receive(Input::ConfApplied { index: entry.index, accepted: told });
            if accepted {
                let next = self.membership.with(change).map_err(|e| e.to_string());
                self.membership = next.map_err(Halt::Exits)?;
                // A replica that halted takes nothing any more.
                if !self.log_failed {
                    let group = self.node.status().membership;
                    invariants::the_group_is_what_state_says(&self.state, &group)?;
                }
            }
        }
        let after = &self.state;
        let applied = Applied {
            entry,
            proposal: proposal.as_ref(),
            before: &before,
            after,
            answer: &answer,
            effects: &effects,
        };
        invariants::after_entry(ledger, &applied)?;
        self.since_snapshot += 1;
        for effect in effects {
            match effect {
                Effect::Archive(archived, record) => {
                    self.records += 1;
                    let dropped = self.identity.plant == Some(Plant::DropRecord);
                    if !dropped || !self.records.is_multiple_of(7) {
                        self.archive.push(archived, record);
                    }
                }
                Effect::Revision(_) | Effect::Due => shown.due = true,
                Effect::Event(_) => {}
            }
        }
        Ok(answer)
    }

    /// Whether the entry at this index may be acknowledged.
    pub(super) fn may_acknowledge(&self, index: u64) -> bool {
        !self.log_failed || index <= self.durable_index
    }

    /// The history thread's turn.
    pub(super) fn sync_history(&mut self) -> Result<(), Halt> {
        let synced = self.archive.sync();
        self.disk_went("the history", synced)
    }

    /// A failure of the disk ends the process, unless it was stopped already.
    pub(super) fn disk_went(&self, what: &str, result: Result<(), DiskError>) -> Result<(), Halt> {
        if let Err(error) = result {
            self.alive()?;
            return Err(Halt::Exits(format!("{what} failed: {error}")));
        }
        Ok(())
    }

    /// Whether a snapshot is due.
    pub(super) fn wants_snapshot(&self) -> bool {
        self.since_snapshot >= SNAPSHOT_EVERY
    }

    /// The State to take a snapshot of: a pointer copy.
    pub(super) fn state_to_save(&mut self) -> (Box<State>, Membership) {
        self.since_snapshot = 0;
        (Box::new(self.state.clone()), self.membership.clone())
    }

    /// The snapshot thread's turn: the history first, then the snapshot. [`Process::told`], which
    /// may drop a prefix of the log, follows.
    pub(super) fn snapshot(
        &mut self,
        (mut state, membership): (Box<State>, Membership),
    ) -> Result<(), Halt> {
        self.reached("snapshot.begin")?;
        self.sync_history()?;
        self.reached("snapshot.history.after")?;
        if self.identity.plant == Some(Plant::ForgetAppliedIndex) {
            state.applied -= 3;
        }
        let mark = Mark { index: state.applied, term: state.term };
        if self.offered.as_ref().is_some_and(|(newest, _)| newest.index >= mark.index) {
            // A leader's snapshot was installed meanwhile.
            return Ok(());
        }
        let meta = SnapshotMeta { mark, membership };
        let body = state_bytes::encode(&state);
        if snapshot::save(self.disk.clone(), SNAPSHOT_FOLDER, meta.clone(), &body).is_err() {
            // The daemon reports it and tries again later.
            return self.alive();
        }
        // Its own members: those of now may be others.
        self.offer(meta, body);
        let place = Place { index: mark.index, record: state.chain.index };
        self.prefix.snapshotted(place);
        if self.identity.plant == Some(Plant::DropLogUnasked) {
            // Not even the older of two snapshots is waited for.
            self.prefix.snapshotted(place);
        }
        Ok(())
    }

    /// What the members hold of the history, by raft id.
    pub(super) fn told(&mut self, held: BTreeMap<u64, Held>) -> Result<(), Halt> {
        self.prefix.told(held);
        self.compact()
    }

    /// Drops the log's prefix that neither a kept snapshot nor a history needs (ruling 16).
    fn compact(&mut self) -> Result<(), Halt> {
        let alone = BTreeSet::from([self.identity.raft]);
        let voters = match self.identity.plant {
            Some(Plant::DropLogUnasked) => &alone,
            _ => &self.membership.voters,
        };
        if let Some(place) = self.prefix.drop_to(voters) {
            self.reached("compact.before")?;
            self.dropped = self.dropped.max(Some(place.record));
            self.receive(Input::Compact { index: place.index });
            self.writing.push_back(Work::Compact(place.index));
        }
        Ok(())
    }
}
