//! This node among the others: who the members are, what they reported, whom the master awaits.
//!
//! `report` is what a member tells its master; `commits` lets calls wait until the awaited members
//! have applied their change (ruling 6); `service` answers peers, `remote` asks them; `install`
//! fetches a snapshot, `catch_up` history; `keeper` does what a master owes its members, `rotation`
//! gives them a new cluster key, `preference` the master's place to the one that is wanted most.
//! Nothing here decides what a change means: that is core's.

pub mod catch_up;
mod commits;
pub mod install;
pub mod keeper;
pub mod preference;
pub mod remote;
mod report;
pub mod rotation;
pub mod service;

use crate::board::Board;
use crate::clock::Clocks;
use crate::engine::Role;
use crate::peer::{Directory, PeerAddress, Peers};
use crate::threads::raft::Outbox;
use commits::Commits;
use install::Orders;
pub use report::{Histories, MemberReport};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tiebeam_core::State;
use tiebeam_core::commit::{Heard, Parted};
use tiebeam_executor::commit::{self, Hearsay, Wait};
use tiebeam_replica::Mark;
use tiebeam_replica::prefix::Held;
use tokio::sync::{Notify, watch};

/// A raft message of a member.
pub const FRAME_RAFT: u8 = 1;
/// A member's report to its master.
pub const FRAME_REPORT: u8 = 2;
/// What the master tells the members of each other's histories.
pub const FRAME_HISTORIES: u8 = 3;
/// How often the master looks who is online while somebody waits for a commit.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What this node knows of its cluster.
pub struct Cluster {
    raft_id: u64,
    board: Arc<Board>,
    cluster_id: String,
    election_timeout: Duration,
    role: watch::Receiver<Role>,
    peers: OnceLock<Arc<Peers>>,
    reports: Mutex<BTreeMap<u64, MemberReport>>,
    commits: Commits,
    orders: Orders,
    /// Whether everything that was committed when this process started is applied (ruling 6).
    caught_up: AtomicBool,
    /// Fires when a member told something that its master may have to act on.
    reported: Notify,
    /// The number of the cluster key that State names, if it is here; else 0.
    key: AtomicU64,
    /// Which key of State's this master misses, and since when.
    misses_key: Mutex<Option<(u32, Instant)>>,
    /// The members' wall clocks.
    pub clocks: Clocks,
}

/// What the raft thread needs of the cluster; it must not see the rest.
pub struct ClusterOutbox(pub Arc<Cluster>);

impl Outbox for ClusterOutbox {
    fn send(&self, to: u64, message: Vec<u8>) -> bool {
        self.0.peers.get().is_some_and(|peers| peers.send(to, FRAME_RAFT, message))
    }

    fn fetch_snapshot(&self, mark: Mark) {
        self.0.orders.put(mark);
    }
}

impl Directory for Cluster {
    fn cluster_id(&self) -> String {
        self.cluster_id.clone()
    }

    fn members(&self) -> Vec<PeerAddress> {
        let state = self.board.state();
        let others = state.members.values().filter(|member| member.raft_id != self.raft_id);
        others
            .filter_map(|member| {
                let address = address_of(&state, member.raft_id)?;
                let key_hash = member.key_hash.clone();
                Some(PeerAddress { raft_id: member.raft_id, key_hash, address })
            })
            .collect()
    }
}

/// The advertised `host:port` of a member.
pub fn address_of(state: &State, raft_id: u64) -> Option<String> {
    let (node, _) = state.member_of(raft_id)?;
    let entry = state.config.value(&State::node_path(node))?;
    entry["address"].as_str().map(str::to_owned)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// What a node knows before it has heard anything.
    pub fn new(
        raft_id: u64,
        cluster_id: String,
        board: Arc<Board>,
        role: watch::Receiver<Role>,
        election_timeout: Duration,
    ) -> Cluster {
        Cluster {
            raft_id,
            board,
            cluster_id,
            election_timeout,
            role,
            peers: OnceLock::new(),
            reports: Mutex::default(),
            commits: Commits::default(),
            orders: Orders::default(),
            caught_up: AtomicBool::new(false),
            reported: Notify::new(),
            key: AtomicU64::new(0),
            misses_key: Mutex::default(),
            clocks: Clocks::new(u32::try_from(raft_id >> 16).unwrap_or(u32::MAX)),
        }
    }

    /// The connections to the others, once they are there.
    pub fn connect(&self, peers: Arc<Peers>) {
        // It is called once, at the start.
        let _ = self.peers.set(peers);
    }

    /// The connections to the others.
    pub fn peers(&self) -> Option<&Arc<Peers>> {
        self.peers.get()
    }

    /// This node's id.
    pub fn own(&self) -> u32 {
        u32::try_from(self.raft_id >> 16).unwrap_or(u32::MAX)
    }

    /// One election timeout.
    pub fn election_timeout(&self) -> Duration {
        self.election_timeout
    }

    /// Whether this node leads and has applied the first entry of its term (ruling 34).
    pub fn is_master(&self) -> bool {
        self.role.borrow().office().is_master(&self.board.state())
    }

    /// The leader, if it was heard within one election timeout (ruling 25). A learner and a node
    /// that was removed never campaign: what raft last told them of a leader stands for ever.
    pub fn leader(&self) -> Option<u64> {
        let leader = self.role.borrow().leader?;
        let is_member = self.board.state().members.contains_key(&self.own());
        (is_member && self.is_online(leader)).then_some(leader)
    }

    /// Everything that was committed when this process started is applied: it may publish, report
    /// and be read from.
    pub fn note_caught_up(&self) {
        self.caught_up.store(true, Ordering::Release);
    }

    /// Whether [`Cluster::note_caught_up`] was called.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    /// Whether anything came from a member within one election timeout, and it did not say that it
    /// stops; this node always answers.
    pub fn is_online(&self, raft_id: u64) -> bool {
        let heard = || self.heard_within(raft_id).is_some_and(|ago| ago <= self.election_timeout);
        raft_id == self.raft_id || (!self.has_left(raft_id) && heard())
    }

    /// Whether a member said that it stops, and has not come back.
    fn has_left(&self, raft_id: u64) -> bool {
        self.peers.get().is_some_and(|peers| peers.has_left(raft_id))
    }

    /// How long ago a member was last heard.
    pub fn heard_within(&self, raft_id: u64) -> Option<Duration> {
        self.peers.get()?.heard(raft_id).map(|at| at.elapsed())
    }

    /// A node's state in one word: `online`, `offline` or `joining`.
    pub fn node_state(&self, node: u32) -> &'static str {
        let state = self.board.state();
        match state.members.get(&node) {
            Some(member) if member.joining => "joining",
            Some(member) if self.is_online(member.raft_id) => "online",
            _ => "offline",
        }
    }

    /// What a member last reported, to whichever master.
    pub fn report_of(&self, raft_id: u64) -> Option<MemberReport> {
        lock(&self.reports).get(&raft_id).copied()
    }

    /// What a member that is online reported to this master, in its own term.
    pub fn newest_report(&self, raft_id: u64) -> Option<MemberReport> {
        let term = self.role.borrow().term;
        let report = self.report_of(raft_id).filter(|report| report.term == term);
        report.filter(|_| self.is_online(raft_id))
    }

    /// What the master knows of a member, in its own term.
    fn heard(&self, raft_id: u64, term: u64) -> Heard {
        let applied = self.report_of(raft_id).filter(|report| report.term == term);
        Heard {
            applied: applied.map_or(0, |report| report.applied),
            online: self.is_online(raft_id),
        }
    }

    /// Keeps a member's report and wakes who waited for it.
    pub fn note_report(&self, from: u64, report: MemberReport) {
        let before = lock(&self.reports).insert(from, report);
        if report.leaving
            && let Some(peers) = self.peers.get()
        {
            peers.note_left(from);
        }
        self.commits.raise(|| self.applied_by_all());
        let told = |report: &MemberReport| (report.term, report.feature_level, report.key);
        let state = self.board.state();
        let joins = state.member_of(from).is_some_and(|(_, member)| member.joining);
        if joins || before.as_ref().map(told) != Some(told(&report)) {
            self.reported.notify_one();
        }
    }

    /// Resolves when a member told something that its master may have to act on: that it is here,
    /// its feature level, its key. What was told before the call counts, once.
    pub async fn reported(&self) {
        self.reported.notified().await;
    }

    /// Notes which cluster key of State's is here; 0 for none.
    pub fn note_key(&self, number: u64) {
        self.key.store(number, Ordering::Relaxed);
    }

    /// What [`Cluster::note_key`] noted.
    pub fn key(&self) -> u64 {
        self.key.load(Ordering::Relaxed)
    }

    /// Notes which cluster key this master misses, if any; for how long by now.
    pub fn misses_key(&self, missing: Option<u32>) -> Option<Duration> {
        let mut noted = lock(&self.misses_key);
        let before = noted.filter(|(number, _)| Some(*number) == missing);
        *noted = missing.map(|number| before.unwrap_or_else(|| (number, Instant::now())));
        noted.map(|(_, since)| since.elapsed())
    }

    /// What this master knows of the members in a term.
    pub fn hearsay(&self, term: u64) -> impl Hearsay {
        move |raft_id| self.heard(raft_id, term)
    }

    /// The index that every awaited member which is online has applied.
    fn applied_by_all(&self) -> u64 {
        let term = self.role.borrow().term;
        commit::applied_by_all(&self.board.state(), self.own(), &self.hearsay(term))
    }

    /// Whether the change at `index` may be called committed now: every awaited member that is
    /// online has applied it.
    pub fn is_committed(&self, index: u64) -> bool {
        self.applied_by_all() >= index
    }

    /// Waits until the change at `index`, applied here, is committed (ruling 6), at most
    /// `commit_wait_ms`. `None` if this node is not the master any more: it may not say so.
    pub async fn committed(&self, index: u64) -> Option<Parted> {
        let begin = tokio::time::Instant::now();
        let passed_us = || u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        let state = self.board.state();
        let wait = Wait::begin(&state, self.role.borrow().office(), index, 0);
        let until = begin + Duration::from_micros(wait.until_us());
        if !wait.is_over(self.applied_by_all(), 0) {
            let mut told = self.commits.wait(index);
            loop {
                let look = (tokio::time::Instant::now() + LOOK_EVERY).min(until);
                let woken = tokio::time::timeout_at(look, &mut told).await.is_ok();
                if woken || wait.is_over(self.applied_by_all(), passed_us()) {
                    break;
                }
            }
        }
        let office = self.role.borrow().office();
        wait.answer(&state, self.own(), office, &self.hearsay(office.term))
    }

    /// Sends this node's report to the master, unless it is the master or knows none.
    pub fn report(&self, report: impl FnOnce() -> MemberReport) {
        let role = *self.role.borrow();
        let Some(leader) = role.leader.filter(|leader| *leader != self.raft_id) else { return };
        if !self.is_caught_up() {
            return;
        }
        if let Some(peers) = self.peers.get() {
            // The next one says the same and more.
            peers.send(leader, FRAME_REPORT, MemberReport { term: role.term, ..report() }.encode());
        }
    }

    /// Tells every member that this node stops: whoever leads waits for it no longer. It is the
    /// last report; an earlier version reads what it knows of it and waits as before.
    pub fn leave(&self, report: MemberReport) {
        let Some(peers) = self.peers.get() else { return };
        // What it has applied counts only if it has caught up with what was there at its start.
        let term = if self.is_caught_up() { self.role.borrow().term } else { 0 };
        let last = MemberReport { term, leaving: true, ..report }.encode();
        for member in self.others() {
            peers.send(member, FRAME_REPORT, last.clone());
        }
    }

    /// What each member has durably in its history, as it said, and `own` of this node.
    pub fn histories(&self, own: MemberReport) -> Histories {
        let held =
            |report: &MemberReport| Held { from: report.history_from, to: report.history_to };
        let state = self.board.state();
        let members = state.members.values().map(|member| member.raft_id);
        let others = members.filter(|raft_id| *raft_id != self.raft_id);
        let told = others.filter_map(|raft_id| Some((raft_id, held(&self.report_of(raft_id)?))));
        Histories(told.chain([(self.raft_id, held(&own))]).collect())
    }

    /// Whether this node takes that member for the leader.
    pub fn follows(&self, raft_id: u64) -> bool {
        self.role.borrow().leader == Some(raft_id)
    }

    /// Tells the members what each of them has.
    pub fn tell_histories(&self, histories: &Histories) {
        let Some(peers) = self.peers.get() else { return };
        let frame = histories.encode();
        for member in self.others() {
            // It is told again and again.
            peers.send(member, FRAME_HISTORIES, frame.clone());
        }
    }
}
