//! What a node does for its cluster beside jobs: reports to the master, fetches what it lacks; and
//! what a master owes its members: noting that one has joined, seating one that has caught up.
//!
//! All of it follows from State and from what was reported, so a new master goes on where the old
//! one stopped (ruling 34). One loop looks at everything, when something changed that may concern
//! it; what takes a while is a `Duty` and goes on in a task of its own.

use super::preference::Preference;
use super::{Cluster, MemberReport, remote, rotation};
use crate::ca;
use crate::engine::Engine;
use crate::threads::raft::ToRaft;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use tiebeam_core::State;
use tiebeam_core::member::{MemberChange, MemberStep};
use tiebeam_core::proposal::{Body, Raise};
use tiebeam_core::state::{FEATURE_LEVEL, Member};
use tokio::task::JoinHandle;

/// How often duties are looked at without anything having happened: what was lost on its way and
/// who fell silent tell nobody.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often members are asked for facts about themselves; and at the start, while one is silent.
const FACTS_EVERY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(500));
/// After so many election timeouts without a master a node leads that only lacks its hot index.
const MASTERLESS_TIMEOUTS: u32 = 5;
/// Election timeouts between two tries to leave the office to somebody.
const TRY_TIMEOUTS: u32 = 10;
/// How long the start is.
const START: Duration = Duration::from_secs(30);
/// Nothing was applied for so long: nobody waits.
const QUIET_AFTER: Duration = Duration::from_millis(100);
/// A learner is seated when it lacks no more entries than this.
const CAUGHT_UP: u64 = 1_000;

/// This node's report as of now.
pub fn report_now(engine: &Engine) -> MemberReport {
    let state = engine.board.state();
    let (floor, metrics) = (state.chain.floor_index.max(1), engine.history_thread.metrics());
    let history_from = engine.history.whole_above(floor);
    MemberReport {
        term: 0,
        applied: state.applied,
        published: engine.published.revision(),
        history_to: metrics.durable.load(Relaxed),
        history_from,
        wall_us: u64::try_from(engine.proposer.wall().0).unwrap_or(0),
        feature_level: u64::from(FEATURE_LEVEL),
        key: engine.cluster.key(),
        leaving: false,
        cannot_lead: history_from > floor || metrics.index_out_of_use.load(Relaxed),
    }
}

/// Has the apply thread report after every batch: somebody waits for it (ruling 6), and another
/// thread would have to be woken first.
pub fn report_each_batch(engine: &Arc<Engine>) {
    let weak = Arc::downgrade(engine);
    engine.board.listen(Box::new(move || {
        if let Some(engine) = weak.upgrade().filter(|engine| !engine.stop.is_cancelled()) {
            engine.cluster.report(|| report_now(&engine));
        }
    }));
}

/// As the leader, tells all members and this node itself what each has durably in its history: a
/// prefix of the log goes when a majority has its records (ruling 16).
pub async fn tell_histories(engine: Arc<Engine>, raft: Sender<ToRaft>) {
    loop {
        if engine.role.borrow().leads {
            let histories = engine.cluster.histories(report_now(&engine));
            engine.cluster.tell_histories(&histories);
            // The raft thread has gone only if the node stops.
            let _ = raft.send(ToRaft::Held(histories.0));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

/// Counts as a job that waits while entries are applied, so that what may be done later is done
/// later on every member, and not only where the calls arrive.
pub async fn note_load(engine: Arc<Engine>, jobs_waiting: Arc<AtomicU64>) {
    let mut applied = engine.board.follow_applied();
    loop {
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = engine.stop.cancelled() => return,
        }
        jobs_waiting.fetch_add(1, Relaxed);
        // Looked at from time to time: to be woken by every batch would be a load of its own.
        loop {
            applied.mark_unchanged();
            tokio::time::sleep(QUIET_AFTER).await;
            if !applied.has_changed().unwrap_or(false) {
                break;
            }
        }
        jobs_waiting.fetch_sub(1, Relaxed);
    }
}

/// Waits until this node has applied everything that was committed when it started (ruling 6).
pub async fn catch_up(engine: Arc<Engine>) {
    while !engine.cluster.is_caught_up() {
        if let Ok(index) = engine.proposer.read_index().await {
            engine.board.applied(index).await;
            engine.cluster.note_caught_up();
            tracing::info!(index, "caught up with what was committed at the start");
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

/// Something that a node owes its cluster and that takes a while.
struct Duty {
    /// Whether there is something to do.
    is_due: fn(&Engine) -> bool,
    /// Does it once; what fails is due again at the next look.
    act: fn(Arc<Engine>) -> BoxFuture<'static, ()>,
}

/// Each goes on by itself, one of a kind at a time: a member that does not answer holds up nothing
/// else.
const DUTIES: [Duty; 4] = [
    Duty { is_due: lacks_authority, act: |engine| Box::pin(fetch_authority(engine)) },
    Duty { is_due: owes_step, act: |engine| Box::pin(take_step(engine)) },
    Duty { is_due: rotation::lacks_key, act: |engine| Box::pin(rotation::fetch_key(engine)) },
    Duty { is_due: rotation::owes_key, act: |engine| Box::pin(rotation::lead(engine)) },
];

/// What the loop goes by beside State.
struct Keeper {
    engine: Arc<Engine>,
    raft: Sender<ToRaft>,
    /// The members that the connections are made for.
    members: Vec<(u32, Member)>,
    /// The last change of the section `nodes` that they are made for.
    nodes: Option<u64>,
    candidacy: Candidacy,
    preference: Preference,
}

/// Does what this node owes its cluster, until it stops.
pub async fn keep(engine: Arc<Engine>, raft: Sender<ToRaft>) {
    let mut changes = engine.board.follow_cluster();
    let (mut role, mut published) = (engine.role.clone(), engine.published.follow());
    let mut keeper = Keeper {
        // The first look tells everything.
        members: Vec::new(),
        nodes: None,
        candidacy: Candidacy::new(),
        preference: Preference::new(engine.cluster.election_timeout()),
        engine: engine.clone(),
        raft,
    };
    let mut doing: [Option<JoinHandle<()>>; DUTIES.len()] = Default::default();
    loop {
        keeper.look();
        for (duty, doing) in DUTIES.iter().zip(&mut doing) {
            let is_free = doing.as_ref().is_none_or(JoinHandle::is_finished);
            if is_free && (duty.is_due)(&engine) {
                *doing = Some(tokio::spawn((duty.act)(engine.clone())));
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            _ = role.changed() => {}
            _ = published.changed() => {}
            () = engine.cluster.reported() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

impl Keeper {
    /// What is done at once.
    fn look(&mut self) {
        let engine = &*self.engine;
        let state = engine.board.state();
        rotation::take_up(engine, &state.shared_key);
        engine.cluster.note_key(u64::from(engine.keys.held(&state.shared_key)));
        engine.cluster.report(|| report_now(engine));
        self.candidacy.look(engine, &state, &self.raft);
        self.preference.look(engine, &state);
        self.refresh_peers(&state);
    }

    /// Keeps the connections as the members are.
    fn refresh_peers(&mut self, state: &State) {
        let nodes = state.config.revision_at(&nodes_path());
        let members = || state.members.iter().map(|(node, member)| (*node, member.clone()));
        if (nodes != self.nodes || !members().eq(self.members.iter().cloned()))
            && let Some(peers) = self.engine.cluster.peers()
        {
            peers.refresh();
            (self.members, self.nodes) = (members().collect(), nodes);
        }
    }
}

fn nodes_path() -> tiebeam_core::Path {
    tiebeam_core::path::path(&["nodes"])
}

/// How much a node is wanted as the master; 0 for never.
pub fn affinity(state: &State, node: u32) -> i64 {
    let value = state.config.value(&State::node_path(node).child("affinity"));
    value.and_then(|value| value.as_i64()).unwrap_or(1)
}

/// How much raft is to prefer a node: 0 for the affinity that nodes have from the start, so that a
/// member which knows nothing of it, or not yet, is not in anybody's way.
fn priority_of(state: &State, node: u32) -> u32 {
    u32::try_from(affinity(state, node).saturating_sub(1)).unwrap_or(0)
}

/// Whether a node may lead by its affinity. If no voter may, each may: there has to be a master.
fn may_lead(state: &State, node: u32) -> bool {
    affinity(state, node) > 0 || state.voters().all(|(voter, _)| affinity(state, voter) == 0)
}

/// Whether a node may lead: not with a gap in its history (ruling 16), unless there is no other
/// voter; then nobody is kept from leading by it, and the gap stands in health and verification.
fn is_electable(state: &State, node: u32, whole: bool) -> bool {
    (whole || is_only_voter(state, node)) && may_lead(state, node)
}

/// Whether nobody else votes.
pub fn is_only_voter(state: &State, node: u32) -> bool {
    state.voters().all(|(voter, _)| voter == node) && state.voters().next().is_some()
}

/// How well a voter would do as the next master: whether it may lead and did not say that it
/// cannot, whether it has caught up, how much it is wanted, what it has applied.
type Fitness = (bool, bool, i64, u64);

fn fitness(state: &State, node: u32, near: bool, report: Option<&MemberReport>) -> Fitness {
    let wanted = affinity(state, node);
    (wanted > 0 && is_able(report), near, wanted, report.map_or(0, |report| report.applied))
}

/// Whether a member did not say that it cannot lead: one that hands the place on at once, or does
/// not take it, is not to be given it.
fn is_able(report: Option<&MemberReport>) -> bool {
    report.is_none_or(|report| !report.cannot_lead)
}

/// Whether a voter can be given the place by the rules and by its own word.
pub fn could_lead(cluster: &Cluster, state: &State, raft_id: u64) -> bool {
    let node = state.member_of(raft_id).map(|(node, _)| node);
    node.is_some_and(|node| may_lead(state, node)) && is_able(cluster.report_of(raft_id).as_ref())
}

/// The other voters that answer, in the order in which they are to be the next master: those that
/// may and can lead, have caught up, are wanted most and lack the least.
pub fn successors(cluster: &Cluster, state: &State) -> Vec<u64> {
    let others = state
        .voters()
        .filter(|(node, member)| *node != cluster.own() && cluster.is_online(member.raft_id));
    let mut ranked: Vec<_> = others
        .map(|(node, member)| {
            let near = is_near(cluster, state, node);
            let report = cluster.report_of(member.raft_id);
            (fitness(state, node, near, report.as_ref()), member.raft_id)
        })
        .collect();
    ranked.sort_unstable_by(|one, other| other.cmp(one));
    ranked.into_iter().map(|(_, raft_id)| raft_id).collect()
}

/// Whom the master leaves its office to because a voter refuses it: that one was away when this
/// node joined, takes nothing from it and so never hears of it. A member that was there before may
/// be known to it. `None` if nobody refuses, or nobody is older.
fn elder(state: &State, own: u64, refusing: &[u32], answering: &[u64]) -> Option<u64> {
    let is_refused = state.voters().any(|(node, _)| refusing.contains(&node));
    let elders: Vec<u64> = state.elders(own).collect();
    let known = |next: &&u64| {
        let node = state.member_of(**next).map(|(node, _)| node);
        elders.contains(next) && node.is_some_and(|node| !refusing.contains(&node))
    };
    answering.iter().find(known).copied().filter(|_| is_refused)
}

/// To whom the master leaves its office: to an older member if a voter refuses this one, or to the
/// next one if this node may not lead. Only to one that may and can lead itself.
fn heir(engine: &Engine, state: &State, electable: bool) -> Option<u64> {
    let mut next = successors(&engine.cluster, state);
    next.retain(|one| could_lead(&engine.cluster, state, *one));
    let refusing = engine.cluster.peers().map(|peers| peers.deniers()).unwrap_or_default();
    let elder = elder(state, engine.cluster.raft_id, &refusing, &next);
    elder.or(next.first().copied().filter(|_| !electable))
}

/// Whether this node may lead, as it was told to raft last, and what that depends on.
struct Candidacy {
    electable: bool,
    priority: u32,
    /// When there was a master last.
    led: Instant,
    /// When this node last tried to leave the office to somebody.
    tried: Option<Instant>,
}

impl Candidacy {
    /// As raft begins.
    fn new() -> Candidacy {
        Candidacy { electable: true, priority: 0, led: Instant::now(), tried: None }
    }

    /// A node with a gap in its history must not lead (ruling 16), nor one with affinity 0; one
    /// with a higher affinity than others is preferred in elections. One that a voter does not know
    /// leads only if there is nobody older. One without its hot index could not answer for the
    /// newest jobs: it leads only if otherwise there is no master.
    fn look(&mut self, engine: &Engine, state: &State, raft: &Sender<ToRaft>) {
        let (timeout, own) = (engine.cluster.election_timeout(), engine.identity.node_id);
        if engine.role.borrow().leader.is_some() {
            self.led = Instant::now();
        }
        let whole = engine.history.gaps(state.chain.floor_index.max(1)).is_empty();
        let indexed = !engine.history_thread.metrics().index_out_of_use.load(Relaxed);
        let is_needed = self.led.elapsed() > timeout * MASTERLESS_TIMEOUTS;
        let able = is_electable(state, own, whole && (indexed || is_needed));
        let wanted = priority_of(state, own);
        if wanted != self.priority {
            self.priority = wanted;
            let _ = raft.send(ToRaft::Priority(wanted));
        }
        if able != self.electable {
            self.electable = able;
            tracing::info!(electable = able, "whether this node may lead");
            // The raft thread has gone only if the node stops.
            let _ = raft.send(ToRaft::Electable(able));
        }
        // While the office is handed over no change is taken: an heir that does not take it is not
        // asked all the time.
        if engine.cluster.is_master()
            && self.tried.is_none_or(|at| at.elapsed() > timeout * TRY_TIMEOUTS)
            && let Some(next) = heir(engine, state, able)
        {
            self.tried = Some(Instant::now());
            engine.proposer.transfer(Some(next));
        }
    }
}

fn lacks_authority(engine: &Engine) -> bool {
    let own = engine.identity.node_id;
    let is_voter = engine.board.state().members.get(&own).is_some_and(|member| member.voter);
    is_voter && engine.keys.authority_key().is_none()
}

/// Keeps the key that a member gave, if it is the one of the authority's certificate.
fn keep_authority(engine: &Engine, key: &[u8]) {
    let key = crate::secret::Secret::new(String::from_utf8_lossy(key).into_owned());
    let certificate = ca::read_certificate(&engine.data, ca::CA_CERTIFICATE).unwrap_or_default();
    if !ca::is_key_of(&key, &certificate) {
        tracing::warn!("a member gave a key that is not the authority's");
        return;
    }
    match engine.keys.keep_authority(&engine.data, key) {
        Ok(()) => tracing::info!("this voter has the authority's key"),
        Err(error) => {
            let why = crate::report::chain(&error);
            tracing::warn!(why, "the authority's key is not kept");
        }
    }
}

/// A voter fetches the key of the cluster's authority if it has none (ruling 21).
async fn fetch_authority(engine: Arc<Engine>) {
    match remote::ca_key(&engine.cluster).await {
        Ok(key) => keep_authority(&engine, &key),
        Err(error) => tracing::debug!(why = crate::report::chain(&error), "no key yet"),
    }
}

fn owes_step(engine: &Engine) -> bool {
    let state = engine.board.state();
    let owes = || next_step(&engine.cluster, &state).is_some() || state.next_level().is_some();
    engine.is_master() && owes()
}

/// Does the next thing that a master owes its members.
async fn take_step(engine: Arc<Engine>) {
    let state = engine.board.state();
    if let Some(step) = next_step(&engine.cluster, &state) {
        propose(&engine, step).await;
    } else if let Some(level) = state.next_level() {
        raise(&engine, level).await;
    }
}

async fn propose(engine: &Engine, step: MemberStep) {
    let body = Body::Member(step.clone());
    let answer = match &step {
        MemberStep::Joined { .. } | MemberStep::Supports { .. } => {
            engine.proposer.propose(body).await
        }
        MemberStep::Seated { change } => engine.proposer.propose_member(change, body).await,
    };
    match answer {
        Ok(_) => tracing::info!(?step, "membership"),
        Err(error) => tracing::debug!(?step, %error, "to be tried again"),
    }
}

/// Raises the cluster to a feature level that every member supports (ruling 12).
async fn raise(engine: &Engine, level: u32) {
    match engine.proposer.propose(Body::Raise(Raise { level })).await {
        Ok(_) => tracing::info!(level, "every member supports it: the feature level is raised"),
        Err(error) => tracing::debug!(level, %error, "to be tried again"),
    }
}

/// A member that answers and supports another feature level than State knows of it.
fn other_level(cluster: &Cluster, state: &State) -> Option<MemberStep> {
    state.members.iter().find_map(|(node, member)| {
        let level = match *node == cluster.own() {
            true => FEATURE_LEVEL,
            false => u32::try_from(cluster.newest_report(member.raft_id)?.feature_level).ok()?,
        };
        let raft_id = member.raft_id;
        (level != state.supported_by(raft_id)).then_some(MemberStep::Supports { raft_id, level })
    })
}

/// The first thing that is due: one member at a time (ruling 43).
fn next_step(cluster: &Cluster, state: &State) -> Option<MemberStep> {
    for (node, member) in &state.members {
        let Some(report) = cluster.report_of(member.raft_id) else { continue };
        if member.joining && report.applied > member.since {
            return Some(MemberStep::Joined { node: *node, raft_id: member.raft_id });
        }
    }
    let due = |(node, member): &(&u32, &Member)| {
        let report = cluster.report_of(member.raft_id);
        report.is_some_and(|report| is_to_be_seated(state, **node, member, &report))
    };
    let Some((node, member)) = state.members.iter().find(due) else {
        return other_level(cluster, state);
    };
    let change = MemberChange::Promote { node: *node, raft_id: member.raft_id };
    Some(MemberStep::Seated { change })
}

/// Whether a member has reported that it lacks next to nothing.
pub fn is_near(cluster: &Cluster, state: &State, node: u32) -> bool {
    let member = state.members.get(&node);
    let report = member.and_then(|member| cluster.report_of(member.raft_id));
    node == cluster.own() || report.is_some_and(|report| lacks_little(state, &report))
}

fn lacks_little(state: &State, report: &MemberReport) -> bool {
    let near = report.applied + CAUGHT_UP >= state.applied;
    let whole = report.history_from <= state.chain.floor_index.max(1)
        && report.history_to + CAUGHT_UP >= state.chain.index;
    near && whole
}

/// Whether a learner that is to be a voter lacks nothing that matters (ruling 16).
fn is_to_be_seated(state: &State, node: u32, member: &Member, report: &MemberReport) -> bool {
    let role = state.config.value(&State::node_path(node).child("role"));
    let wanted = role.as_ref().and_then(Value::as_str) == Some("voter");
    wanted && !member.voter && !member.joining && lacks_little(state, report)
}

/// What members say of themselves, asked now and then by every node.
pub async fn ask_facts(engine: Arc<Engine>) {
    loop {
        let mut facts = BTreeMap::new();
        let others = engine.cluster.others();
        let count = others.len();
        for member in others {
            let node = u32::try_from(member >> 16).unwrap_or_default();
            if engine.cluster.is_online(member)
                && let Ok(found) = remote::facts(&engine.cluster, member).await
            {
                if let Some(theirs_us) = found["wall_us"].as_i64() {
                    engine.cluster.clocks.note(node, theirs_us);
                }
                facts.insert(node, found);
            }
        }
        let is_early = facts.len() < count && engine.started.elapsed() < START;
        let pause = if is_early { FACTS_EVERY.1 } else { FACTS_EVERY.0 };
        engine.members_facts.store(Arc::new(facts));
        engine.cluster.clocks.tell(&engine.board.state());
        crate::notices::clock(&engine).await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = engine.stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tiebeam_core::Tree;

    #[test]
    fn a_node_with_affinity_0_leads_only_if_nobody_else_may() {
        let member = |node: u64| Member {
            raft_id: node << 16 | 1,
            key_hash: String::new(),
            voter: true,
            joining: false,
            since: 0,
        };
        let members = [(11_u32, member(11)), (12, member(12))].into_iter().collect();
        let mut state = State { members, ..State::default() };
        assert!(may_lead(&state, 11) && may_lead(&state, 12));
        let mut never = |node: u32| {
            let at = State::node_path(node).child("affinity");
            state.config = state.config.set(&at, &json!(0), 1).expect("a small tree");
            (may_lead(&state, 11), may_lead(&state, 12))
        };
        assert_eq!(never(11), (false, true));
        assert_eq!(never(12), (true, true), "there has to be a master");
    }

    #[test]
    fn a_voter_that_says_that_it_cannot_lead_comes_last_however_much_it_is_wanted() {
        let at = State::node_path(12).child("affinity");
        let config = Tree::new().set(&at, &json!(9), 1).expect("a small tree");
        let state = State { config, ..State::default() };
        let able = MemberReport { applied: 5, ..Default::default() };
        let unable = MemberReport { cannot_lead: true, ..able };
        let of = |node, report| fitness(&state, node, true, report);
        assert!(of(12, Some(&able)) > of(13, Some(&able)));
        assert!(of(12, Some(&unable)) < of(13, Some(&able)));
        assert!(of(12, Some(&unable)) < of(13, None), "an earlier version does not say it");
        assert!(is_able(Some(&able)) && is_able(None) && !is_able(Some(&unable)));
    }

    #[test]
    fn a_gap_keeps_a_node_from_leading_only_if_there_is_another_voter() {
        let member = |node: u64, voter: bool| Member {
            raft_id: node << 16 | 1,
            key_hash: String::new(),
            voter,
            joining: false,
            since: 0,
        };
        let of = |second: bool| {
            let members = [(11_u32, member(11, true)), (12, member(12, second))];
            State { members: members.into_iter().collect(), ..State::default() }
        };
        assert!(!is_electable(&of(true), 11, false) && is_electable(&of(true), 11, true));
        assert!(is_electable(&of(false), 11, false), "12 is a learner");
        assert!(!is_only_voter(&of(false), 12) && !is_only_voter(&State::default(), 11));
    }

    #[test]
    fn a_master_that_a_voter_refuses_leaves_to_an_older_member() {
        let member = |node: u64, since| Member {
            raft_id: node << 16 | 1,
            key_hash: String::new(),
            voter: true,
            joining: false,
            since,
        };
        let members = [(11_u32, member(11, 0)), (12, member(12, 0)), (13, member(13, 70))];
        let state = State { members: members.into_iter().collect(), ..State::default() };
        let own = |node: u64| node << 16 | 1;
        let answering = [own(11), own(12)];
        assert_eq!(elder(&state, own(13), &[12], &answering), Some(own(11)));
        assert_eq!(elder(&state, own(13), &[], &answering), None, "nobody refuses it");
        assert_eq!(elder(&state, own(13), &[14], &answering), None, "no voter refuses it");
        assert_eq!(elder(&state, own(13), &[11, 12], &answering), None, "nobody would do");
        assert_eq!(elder(&state, own(11), &[12], &[own(13)]), None, "nobody is older");
    }

    #[test]
    fn a_learner_is_seated_when_it_lacks_nothing() {
        let at = State::node_path(12);
        let config = Tree::new().set(&at, &json!({"role": "voter"}), 1).expect("a small tree");
        let mut state = State { config, applied: 5_000, ..State::default() };
        (state.chain.index, state.chain.floor_index) = (4_000, 10);
        let member = Member {
            raft_id: 12 << 16 | 1,
            key_hash: String::new(),
            voter: false,
            joining: false,
            since: 3,
        };
        let whole = MemberReport {
            applied: 4_500,
            history_from: 10,
            history_to: 3_990,
            ..Default::default()
        };
        assert!(is_to_be_seated(&state, 12, &member, &whole));
        for lacks in [
            MemberReport { applied: 3_000, ..whole },
            MemberReport { history_from: 11, ..whole },
            MemberReport { history_to: 100, ..whole },
        ] {
            assert!(!is_to_be_seated(&state, 12, &member, &lacks), "{lacks:?}");
        }
        let joining = Member { joining: true, ..member };
        assert!(!is_to_be_seated(&state, 12, &joining, &whole));
    }
}
