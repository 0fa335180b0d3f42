//! The raft node: one owner of tikv's `RawNode`, driven by [`Node::step`], with no I/O at all.
//!
//! The daemon's raft thread owns a [`Node`]: it drains its queue into [`Node::receive`], then calls
//! [`Node::ready`] once, so that everything that waited shares one group (group commit). The
//! simulation does the same from its event queue. Nothing here may block, read a clock or touch a
//! file; nothing else may touch the `RawNode`.
//!
//! **Order of work** in [`Node::ready`] is the library's manual, in its asynchronous form: entries
//! go to the in-memory tail and to the log writer, the leader's messages leave at once, all
//! other messages wait for the log, and committed entries come out only when this node's log has
//! them too.
//!
//! **Panics.** `raft` panics in about 25 places where its invariants break, and this module asserts
//! its own. Both are fatal for the node: the shell lets the process end, and recovery decides.
//! Nothing a peer or a client can send reaches one of them ([`Node::receive`] filters messages).

#[cfg(test)]
mod bus;
mod campaign;
#[cfg(test)]
mod chaos;
mod ports;
mod priority;
mod reads;
mod screen;
mod settings;
mod tail;
#[cfg(test)]
mod tests;

use crate::entry::{Group, HardState, Mark};
use crate::logger::logger;
use crate::membership::{Change, Membership, raw_change};
use crate::recovery::Start;
use bytes::Bytes;
pub use ports::{Envelope, Halt, Input, Output, PeerReport, Refusal, Role, RoleReport, Status};
use protobuf::Message as _;
use raft::eraftpb::{self, ConfChangeV2, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use reads::Reads;
pub use settings::{NodeError, NodeSettings};
use std::collections::{BTreeMap, VecDeque};
use tail::Tail;

/// A group that the log writer has, and what waits for it.
#[derive(Debug)]
struct Unpersisted {
    group: u64,
    /// The newest of raft's readies that this group completes.
    ready: u64,
    messages: Vec<Envelope>,
}

/// A node of the raft group.
pub struct Node {
    settings: NodeSettings,
    raw: RawNode<Tail>,
    membership: Membership,
    unpersisted: VecDeque<Unpersisted>,
    /// What the shell applied last. A snapshot may be applied before the log has begun anew behind
    /// it; raft is told when it has.
    applied: u64,
    /// Index of the last snapshot of a leader.
    installed: u64,
    groups: u64,
    ready_number: u64,
    /// A commit index that no group has carried yet. Nothing depends on its being durable, so it
    /// travels with the next group, or alone with the next tick.
    commit_unwritten: Option<HardState>,
    conf_waiting: BTreeMap<u64, ConfChangeV2>,
    reads: Reads,
    ticks: u64,
    /// Elections that this node began.
    elections: u64,
    role: RoleReport,
    electable: bool,
    priority: u32,
    halted: Option<Halt>,
    outputs: Vec<Output>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Node").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Node {
    /// Makes a node from what recovery found. A node that is the only voter leads as soon as its
    /// first group is persisted, without waiting for an election timeout.
    pub fn new(settings: NodeSettings, start: Start) -> Result<Node, NodeError> {
        let Start { snapshot, floor, entries, mut hard_state } = start;
        let last = entries.last().map_or(floor, |entry| entry.mark());
        let applied = snapshot.mark.index;
        if floor.index > applied || last.index < applied {
            let (floor, last) = (floor.index, last.index);
            return Err(NodeError::LogDoesNotFit { floor, last, snapshot: applied });
        }
        // The commit index is not synced, so it may be older than the snapshot; raft panics then.
        hard_state.commit = hard_state.commit.clamp(applied, last.index);
        let membership = snapshot.membership;
        let mut tail = Tail::new(floor, &entries, hard_state, membership.clone());
        tail.set_snapshot(snapshot.mark, &membership, Bytes::new());
        let raw = RawNode::new(&settings.raft_config(applied), tail, &logger())
            .map_err(NodeError::Raft)?;
        let election = settings.election_ticks_max() as u64;
        let mut node = Node {
            reads: Reads::new(settings.run_nonce, 2 * settings.heartbeat_tick as u64, 5 * election),
            role: RoleReport { role: Role::Follower, term: raw.raft.term, leader: None },
            settings,
            raw,
            membership,
            unpersisted: VecDeque::new(),
            applied: 0,
            installed: 0,
            groups: 0,
            ready_number: 0,
            commit_unwritten: None,
            conf_waiting: BTreeMap::new(),
            ticks: 0,
            elections: 0,
            electable: true,
            priority: 0,
            halted: None,
            outputs: Vec::new(),
        };
        node.lead_if_alone();
        Ok(node)
    }

    /// Takes one input and returns what follows from it.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        self.receive(input);
        self.ready()
    }

    /// Takes one input. What follows from it comes with the next [`Node::ready`].
    pub fn receive(&mut self, input: Input) {
        if self.halted.is_some() {
            return self.refuse_halted(&input);
        }
        match input {
            Input::Tick => self.tick(),
            Input::Message { from, bytes } => self.message(from, &bytes),
            Input::Propose { ticket, payload } => self.propose(ticket, payload),
            Input::ProposeConf { ticket, change, context } => {
                self.propose_conf(ticket, change, context);
            }
            Input::Read { ticket } if self.reads.count() >= self.settings.reads_max => {
                self.refuse(ticket, Refusal::TooBusy);
            }
            Input::Read { ticket } => self.reads.add(ticket, self.ticks),
            Input::Persisted { group } => self.persisted(group),
            Input::PersistFailed => self.halt(Halt::PersistFailed),
            Input::Applied { index } => self.applied(index),
            Input::ConfApplied { index, accepted } => self.conf_applied(index, accepted),
            Input::SnapshotTaken { mark, membership, manifest } => {
                self.raw.mut_store().set_snapshot(mark, &membership, manifest);
            }
            Input::Compact { index } => {
                let index = index.min(self.raw.raft.raft_log.applied);
                self.raw.mut_store().compact(index);
            }
            Input::Transfer { to } => self.transfer(to),
            Input::Unreachable { peer } => self.raw.report_unreachable(peer),
            Input::SnapshotSent { peer, delivered } => {
                let status =
                    if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raw.report_snapshot(peer, status);
            }
            Input::Electable(electable) => self.set_electable(electable),
            Input::Priority(priority) => self.set_priority(priority),
        }
    }

    /// Everything that is to be done now.
    pub fn ready(&mut self) -> Vec<Output> {
        if self.halted.is_none() {
            self.ask_reads();
            while self.raw.has_ready() {
                self.take_ready();
                self.ask_reads();
            }
            if let Some((peer, index)) = self.raw.store().take_wanted() {
                self.outputs.push(Output::SnapshotWanted { peer, index });
            }
        }
        std::mem::take(&mut self.outputs)
    }

    /// The node's view of itself.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader;
        let peers = raft.prs().iter().filter(|(id, _)| leads && **id != raft.id);
        let mut peers: Vec<PeerReport> = peers
            .map(|(id, progress)| PeerReport {
                id: *id,
                matched: progress.matched,
                recently_active: progress.recent_active,
                in_snapshot: progress.state == ProgressState::Snapshot,
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.id);
        Status {
            id: raft.id,
            role: self.role,
            membership: self.membership.clone(),
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            persisted: raft.raft_log.persisted,
            floor: self.raw.store().floor(),
            last: self.last(),
            peers,
            halted: self.halted,
        }
    }

    fn last(&self) -> Mark {
        let log = &self.raw.raft.raft_log;
        Mark { index: log.last_index(), term: log.last_term() }
    }

    fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|id| *id != raft::INVALID_ID)
    }

    fn tick(&mut self) {
        self.ticks += 1;
        if self.membership.is_only_voter(self.settings.raft_id) && !self.leads() {
            // Raft's own election would assert that the whole log is persisted.
            self.lead_if_alone();
        } else {
            self.tick_raft();
        }
        for ticket in self.reads.tick(self.ticks) {
            self.outputs.push(Output::ReadFailed { ticket });
        }
        if let Some(hard_state) = self.commit_unwritten.take() {
            let group = Group { hard_state: Some(hard_state), ..Group::default() };
            self.persist(group, Vec::new());
        }
    }

    fn refuse(&mut self, ticket: u64, reason: Refusal) {
        self.outputs.push(Output::Refused { ticket, reason });
    }

    fn refuse_halted(&mut self, input: &Input) {
        if let Input::Propose { ticket, .. }
        | Input::ProposeConf { ticket, .. }
        | Input::Read { ticket } = input
        {
            self.refuse(*ticket, Refusal::Halted);
        }
    }

    fn propose(&mut self, ticket: u64, payload: Bytes) {
        if payload.is_empty() || payload.len() > self.settings.entry_bytes_max {
            return self.refuse(ticket, Refusal::InvalidPayload);
        }
        let entry = eraftpb::Entry { data: payload, ..Default::default() };
        self.propose_entry(ticket, entry);
    }

    fn propose_conf(&mut self, ticket: u64, change: Change, context: Bytes) {
        // Raft takes a change while another is pending, and turns it into an empty entry without
        // a word; so it is refused here. A new leader first commits in its term (ruling 43).
        if self.leads()
            && (self.raw.raft.has_pending_conf() || !self.raw.raft.commit_to_current_term())
        {
            return self.refuse(ticket, Refusal::TooBusy);
        }
        let adds = matches!(change, Change::AddVoter(_));
        if !adds && change.member() == self.settings.raft_id && self.leads() {
            return self.refuse(ticket, Refusal::IsLeader);
        }
        if let Err(error) = self.membership.with(change) {
            return self.refuse(ticket, Refusal::InvalidChange(error));
        }
        let raw = change.to_raft(context);
        let mut entry = eraftpb::Entry::default();
        entry.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
        entry.data = raw.write_to_bytes().expect("a change of known size").into();
        self.propose_entry(ticket, entry);
    }

    /// Proposes on the leader only: raft would forward a follower's proposal, and no answer to it
    /// would ever come back.
    fn propose_entry(&mut self, ticket: u64, entry: eraftpb::Entry) {
        if !self.leads() {
            let leader = self.leader();
            return self.refuse(ticket, Refusal::NotLeader { leader });
        }
        if self.raw.raft.lead_transferee.is_some() {
            return self.refuse(ticket, Refusal::Transferring);
        }
        let mut message = eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.settings.raft_id;
        message.set_entries(vec![entry].into());
        match self.raw.step(message) {
            Ok(()) => self.outputs.push(Output::Proposed { ticket, mark: self.last() }),
            Err(raft::Error::ProposalDropped) => self.refuse(ticket, Refusal::TooBusy),
            Err(other) => panic!("raft refused a proposal in a way it does not document: {other}"),
        }
    }

    /// Asks for a read index, unless raft would drop the question silently.
    fn ask_reads(&mut self) {
        let raft = &self.raw.raft;
        let heard = match raft.state {
            StateRole::Leader => raft.commit_to_current_term(),
            StateRole::Follower => raft.leader_id != raft::INVALID_ID,
            StateRole::Candidate | StateRole::PreCandidate => false,
        };
        if heard && let Some(context) = self.reads.next(self.ticks) {
            self.raw.read_index(context);
        }
    }

    fn persisted(&mut self, group: u64) {
        let mut ready = None;
        let mut messages = Vec::new();
        while self.unpersisted.front().is_some_and(|first| first.group <= group) {
            if let Some(done) = self.unpersisted.pop_front() {
                ready = Some(done.ready);
                messages.extend(done.messages);
            }
        }
        assert!(group <= self.groups, "group {group} was never handed out");
        if let Some(ready) = ready {
            self.raw.on_persist_ready(ready);
        }
        self.send(messages);
        self.tell_applied();
        self.lead_if_alone();
    }

    fn applied(&mut self, index: u64) {
        let first = self.conf_waiting.first_key_value().map(|(index, _)| *index);
        assert!(first.is_none_or(|first| first > index), "ConfApplied comes before Applied");
        self.applied = self.applied.max(index);
        self.tell_applied();
        self.lead_if_alone();
    }

    /// Tells raft what is applied, as far as it is persisted: more would be a panic there.
    fn tell_applied(&mut self) {
        let log = &self.raw.raft.raft_log;
        let index = self.applied.min(log.persisted);
        if index > log.applied {
            self.raw.advance_apply_to(index);
        }
    }

    fn conf_applied(&mut self, index: u64, accepted: bool) {
        if index <= self.installed {
            // A snapshot came in between; it knows the members.
            return;
        }
        let change = self.conf_waiting.remove(&index).expect("a change is applied once, in order");
        if !accepted {
            return;
        }
        let state = self.raw.apply_conf_change(&change).expect("checked before it was proposed");
        self.membership = Membership::from_conf_state(&state);
        let membership = self.membership.clone();
        self.outputs.push(Output::MembersChanged { index, membership });
        if self.leads() && !self.membership.voters.contains(&self.settings.raft_id) {
            // It was elected with the entry of its own removal in its log. Raft would lead on, and
            // panic when its next write is done.
            self.raw.raft.become_follower(self.raw.raft.term, raft::INVALID_ID);
        }
    }

    fn transfer(&mut self, to: Option<u64>) {
        if !self.leads() {
            return;
        }
        let furthest = || {
            let peers = self.status().peers.into_iter();
            peers
                .filter(|peer| peer.recently_active && self.membership.voters.contains(&peer.id))
                .max_by_key(|peer| peer.matched)
                .map(|peer| peer.id)
        };
        if let Some(to) = to.or_else(furthest)
            && self.membership.voters.contains(&to)
        {
            self.raw.transfer_leader(to);
        }
    }

    /// Stops for good: hands leadership over by messages that need no disk, then falls silent.
    fn halt(&mut self, halt: Halt) {
        self.transfer(None);
        let messages = std::mem::take(&mut self.raw.raft.msgs);
        if self.leads() {
            // What the leader may say without its own disk is what it says in normal work.
            self.send(messages.into_iter().map(|message| Envelope { message }).collect());
        }
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, raft::INVALID_ID);
        self.raw.raft.msgs.clear();
        self.unpersisted.clear();
        for ticket in self.reads.give_up() {
            self.outputs.push(Output::ReadFailed { ticket });
        }
        self.report_role();
        self.halted = Some(halt);
        self.outputs.push(Output::Halted(halt));
    }

    /// One ready of raft, in the order of its manual. No call into raft may come between `ready`
    /// and `advance_append_async`.
    fn take_ready(&mut self) {
        let mut ready = self.raw.ready();
        self.ready_number = ready.number();
        // 1. A leader's messages go out in parallel with its own write.
        let at_once = ready.take_messages();
        self.send(at_once.into_iter().map(|message| Envelope { message }).collect());
        let mut group = Group { must_sync: ready.must_sync(), ..Group::default() };
        // 2. A snapshot takes the place of the log.
        if !ready.snapshot().is_empty() {
            let snapshot = ready.snapshot().clone();
            self.install(snapshot, &mut group);
        }
        // 3. Entries must be readable before `advance`.
        let entries = ready.take_entries();
        group.entries = entries.iter().map(tail::from_raft).collect();
        self.raw.mut_store().append(entries);
        // 4. The hard state; alone and without a new term or vote it can wait.
        if let Some(state) = ready.hs() {
            let state = HardState { term: state.term, vote: state.vote, commit: state.commit };
            self.commit_unwritten = Some(state);
        }
        let committed = ready.take_committed_entries();
        let read_states = ready.take_read_states();
        // 5. Everybody else's messages promise what this group makes durable.
        let promises = ready.take_persisted_messages();
        let promises = promises.into_iter().map(|message| Envelope { message }).collect();
        self.raw.advance_append_async(ready);
        if group.must_sync {
            group.hard_state = self.commit_unwritten.take();
            self.persist(group, promises);
        } else if let Some(newest) = self.unpersisted.back_mut() {
            // Nothing to write, but what was promised before comes first.
            newest.ready = self.ready_number;
            newest.messages.extend(promises);
        } else {
            self.raw.on_persist_ready(self.ready_number);
            self.send(promises);
        }
        // 6. Who leads, before anything that depends on it.
        self.report_role();
        self.hand_out(&committed);
        for state in read_states {
            for ticket in self.reads.answered(&state.request_ctx) {
                self.outputs.push(Output::ReadReady { ticket, index: state.index });
            }
        }
    }

    fn persist(&mut self, mut group: Group, messages: Vec<Envelope>) {
        self.groups += 1;
        group.number = self.groups;
        self.unpersisted.push_back(Unpersisted {
            group: group.number,
            ready: self.ready_number,
            messages,
        });
        self.outputs.push(Output::Persist(group));
    }

    fn hand_out(&mut self, committed: &[eraftpb::Entry]) {
        if committed.is_empty() {
            return;
        }
        let entries: Vec<_> = committed.iter().map(tail::from_raft).collect();
        for entry in entries.iter().filter(|entry| entry.kind == crate::EntryKind::Conf) {
            let change = raw_change(&entry.payload).expect("raft parsed it when it was proposed");
            self.conf_waiting.insert(entry.index, change);
        }
        self.outputs.push(Output::Committed(entries));
    }

    fn install(&mut self, snapshot: eraftpb::Snapshot, group: &mut Group) {
        let meta = snapshot.get_metadata();
        let mark = Mark { index: meta.index, term: meta.term };
        self.membership = Membership::from_conf_state(meta.get_conf_state());
        self.raw.mut_store().install(mark);
        self.installed = mark.index;
        self.raw.mut_store().set_snapshot(mark, &self.membership, snapshot.data.clone());
        self.conf_waiting.clear();
        group.reset = Some(mark);
        let membership = self.membership.clone();
        self.outputs.push(Output::InstallSnapshot {
            group: self.groups + 1,
            mark,
            membership: membership.clone(),
            manifest: snapshot.data,
        });
        self.outputs.push(Output::MembersChanged { index: mark.index, membership });
    }

    fn send(&mut self, mut messages: Vec<Envelope>) {
        if !self.electable {
            messages.retain(|one| !screen::asks_for_votes(&one.message));
        }
        if !messages.is_empty() {
            self.outputs.push(Output::Send(messages));
        }
    }

    fn report_role(&mut self) {
        let raft = &self.raw.raft;
        let role = match raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        let report = RoleReport { role, term: raft.term, leader: self.leader() };
        if report != self.role {
            if report.leader != self.role.leader {
                self.reads.leader_changed();
            }
            self.role = report;
            self.outputs.push(Output::Role(report));
        }
    }

    fn message(&mut self, from: u64, bytes: &Bytes) {
        let message = match eraftpb::Message::parse_from_carllerche_bytes(bytes) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(from, %error, "a peer's message cannot be read");
                return;
            }
        };
        let learner = self.membership.learners.contains(&from);
        if let Err(why) = screen::screen(&message, from, self.settings.raft_id, learner) {
            let kind = message.get_msg_type();
            tracing::warn!(from, ?kind, why, "a peer's message is dropped");
            return;
        }
        let kind = message.get_msg_type();
        if kind == MessageType::MsgTimeoutNow && (!self.electable || self.is_installing()) {
            return;
        }
        if kind == MessageType::MsgHeartbeat && message.term >= self.raw.raft.term {
            let last = self.last().index;
            if message.commit > last {
                let acknowledged = message.commit;
                return self.halt(Halt::LogLost { acknowledged, last });
            }
        }
        if let Err(error) = self.step_raft(message) {
            // An answer of a member that was removed meanwhile, or a dropped read.
            tracing::debug!(from, ?kind, %error, "raft did not take a message");
        }
    }
}
