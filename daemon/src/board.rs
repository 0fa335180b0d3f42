//! What the apply thread shows the rest of the daemon: the newest State, who waits for which job,
//! and the events.
//!
//! The apply thread is the only writer. Readers take a pointer to a State that never changes;
//! waiting is by job, so that a thousand waiters cost nothing while other jobs end.

use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;
use tiebeam_core::State;
use tiebeam_core::effect::Event;
use tiebeam_proto::limits::EVENTS_MAX;
use tokio::sync::{oneshot, watch};

/// The newest State and everything that hangs on it.
pub struct Board {
    state: ArcSwap<State>,
    shown: Mutex<Instant>,
    applied: watch::Sender<u64>,
    due: watch::Sender<u64>,
    /// Counts changes of what the cluster is made of.
    cluster: watch::Sender<u64>,
    /// Counts what may concern jobs that run or are in doubt.
    running: watch::Sender<u64>,
    /// Whether there were any when that was counted last.
    ran: AtomicBool,
    listener: OnceLock<Box<dyn Fn() + Send + Sync>>,
    job_waiters: Mutex<HashMap<u64, Vec<oneshot::Sender<()>>>>,
    command_waiters: Mutex<CommandWaiters>,
    events: Mutex<VecDeque<Event>>,
    newest_event: watch::Sender<(u64, u32)>,
}

type CommandWaiters = BTreeMap<(u64, String), Vec<oneshot::Sender<()>>>;

/// A piece of the retained events.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPage {
    /// Set if events between the cursor that was asked for and the first one here are gone.
    pub gap: Option<((u64, u32), (u64, u32))>,
    /// The events, oldest first.
    pub events: Vec<Event>,
}

/// Sections of the configuration that the daemon itself lives by.
const OWN_SECTIONS: [&str; 6] = ["cluster", "groups", "nodes", "settings", "ssl", "users"];

/// Whether two States are the same in what [`Board::follow_cluster`] tells of. Sections are
/// compared by pointer: what was not changed is shared.
fn is_same_cluster(one: &State, other: &State) -> bool {
    let same_section = |name: &&str| match (one.config.at(&[name]), other.config.at(&[name])) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    };
    one.members.ptr_eq(&other.members)
        && one.supported.ptr_eq(&other.supported)
        && one.revoked.ptr_eq(&other.revoked)
        && one.credentials.ptr_eq(&other.credentials)
        && one.feature_level == other.feature_level
        && one.shared_key == other.shared_key
        && OWN_SECTIONS.iter().all(same_section)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// A board that shows this State.
    pub fn new(state: State) -> Board {
        let applied = state.applied;
        Board {
            state: ArcSwap::from_pointee(state),
            shown: Mutex::new(Instant::now()),
            applied: watch::Sender::new(applied),
            due: watch::Sender::new(0),
            cluster: watch::Sender::new(0),
            running: watch::Sender::new(0),
            ran: AtomicBool::new(true),
            listener: OnceLock::new(),
            job_waiters: Mutex::default(),
            command_waiters: Mutex::default(),
            events: Mutex::default(),
            newest_event: watch::Sender::new((applied, 0)),
        }
    }

    /// The newest State.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Cluster time in microseconds: State's, and what has passed here since it was applied, which
    /// the next entry will carry.
    pub fn clock_us(&self) -> u64 {
        let passed = lock(&self.shown).elapsed().as_micros();
        self.state().clock_us.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// Shows a newer State. The apply thread alone calls this.
    pub fn show(&self, state: State) {
        let applied = state.applied;
        let before = self.state.swap(Arc::new(state));
        *lock(&self.shown) = Instant::now();
        self.applied.send_replace(applied);
        if !is_same_cluster(&before, &self.state.load()) {
            self.cluster.send_modify(|count| *count += 1);
        }
    }

    /// Tells that [`State::due`] may have something new.
    pub fn note_due(&self) {
        self.due.send_modify(|count| *count += 1);
        let runs = {
            let state = self.state.load();
            !state.running.is_empty() || !state.doubts.is_empty()
        };
        if self.ran.swap(runs, Ordering::Relaxed) || runs {
            self.running.send_modify(|count| *count += 1);
        }
    }

    /// Has `listener` called on the apply thread after each batch, once all who wait are answered.
    /// It must not block. Only the first one is kept.
    pub fn listen(&self, listener: Box<dyn Fn() + Send + Sync>) {
        let _ = self.listener.set(listener);
    }

    /// Calls who listens.
    pub fn tell_applied(&self) {
        if let Some(listener) = self.listener.get() {
            listener();
        }
    }

    /// Follows what the cluster is made of: members, keys, levels, users' rights and tokens, and
    /// every section of the configuration that is not the users' own. Ordinary jobs wake nobody
    /// here.
    pub fn follow_cluster(&self) -> watch::Receiver<u64> {
        self.cluster.subscribe()
    }

    /// As [`Board::due`], for who looks after jobs that run, or are in doubt.
    pub fn follow_running(&self) -> watch::Receiver<u64> {
        self.running.subscribe()
    }

    /// Follows [`Board::note_due`].
    pub fn due(&self) -> watch::Receiver<u64> {
        self.due.subscribe()
    }

    /// Follows the applied index.
    pub fn follow_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn applied(&self, index: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as the board: this cannot fail while somebody waits on it.
        let _ = applied.wait_for(|at| *at >= index).await;
    }

    /// Resolves when the job reaches its last stage; at once if it is not live any more.
    pub fn job_end(&self, sequence: u64) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let mut waiters = lock(&self.job_waiters);
        let live = self.state().jobs.get(&sequence).is_some_and(|job| !job.has_ended());
        if live {
            let list = waiters.entry(sequence).or_default();
            list.retain(|waiter| !waiter.is_closed());
            list.push(tell);
        } else {
            let _ = tell.send(());
        }
        told
    }

    /// Waits until the job has left State: from then on the history has its record, with its place
    /// in the chain. One that changed the configuration is told of twice, at its end and when it
    /// is committed.
    pub async fn job_archived(&self, sequence: u64) {
        while let Some(told) = self.next_word_of(sequence) {
            // The board outlives who waits on it; a dropped sender would be looked at again.
            let _ = told.await;
        }
    }

    /// Resolves when the job is told of next; `None` if it is not live any more.
    fn next_word_of(&self, sequence: u64) -> Option<oneshot::Receiver<()>> {
        let mut waiters = lock(&self.job_waiters);
        if !self.state().jobs.contains_key(&sequence) {
            return None;
        }
        let (tell, told) = oneshot::channel();
        let list = waiters.entry(sequence).or_default();
        list.retain(|waiter| !waiter.is_closed());
        list.push(tell);
        Some(told)
    }

    /// Wakes who waits for these jobs. Called after the State in which they ended, or were
    /// committed, is shown.
    pub fn tell_job_ends(&self, ended: &[u64]) {
        let mut waiters = lock(&self.job_waiters);
        if waiters.is_empty() {
            return;
        }
        for sequence in ended {
            for waiter in waiters.remove(sequence).into_iter().flatten() {
                let _ = waiter.send(());
            }
        }
    }

    /// Resolves when the command's end is in State; at once if it is there already or the job does
    /// not run.
    pub fn command_end(&self, sequence: u64, key: &str) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let mut waiters = lock(&self.command_waiters);
        let state = self.state();
        let job = state.jobs.get(&sequence).filter(|job| !job.has_ended());
        if job.is_some_and(|job| job.command(key).is_none_or(|command| !command.ended)) {
            waiters.entry((sequence, key.to_owned())).or_default().push(tell);
        } else {
            let _ = tell.send(());
        }
        told
    }

    /// Wakes who waits for these commands, or for any command of jobs that ended.
    pub fn tell_command_ends(&self, ended: &[(u64, String)], jobs: &[u64]) {
        let mut waiters = lock(&self.command_waiters);
        if waiters.is_empty() {
            return;
        }
        let gone: Vec<_> = waiters
            .keys()
            .filter(|key| ended.contains(key) || jobs.contains(&key.0))
            .cloned()
            .collect();
        for key in gone {
            for waiter in waiters.remove(&key).into_iter().flatten() {
                let _ = waiter.send(());
            }
        }
    }

    /// Keeps events, the newest [`EVENTS_MAX`].
    pub fn keep_events(&self, new: Vec<Event>) {
        let Some(newest) = new.last().map(|event| event.cursor) else { return };
        let mut events = lock(&self.events);
        let over = (events.len() + new.len()).saturating_sub(EVENTS_MAX);
        let gone = over.min(events.len());
        events.drain(..gone);
        events.extend(new);
        drop(events);
        self.newest_event.send_replace(newest);
    }

    /// The cursor of the newest event.
    pub fn newest_event(&self) -> (u64, u32) {
        *self.newest_event.borrow()
    }

    /// Follows the cursor of the newest event.
    pub fn follow_events(&self) -> watch::Receiver<(u64, u32)> {
        self.newest_event.subscribe()
    }

    /// At most `most` events after `cursor`. `oldest_known` is the cursor below which this node
    /// has made no events itself (it started from a snapshot there).
    pub fn events_after(&self, cursor: (u64, u32), most: usize) -> EventPage {
        let events = lock(&self.events);
        let at = events.partition_point(|event| event.cursor <= cursor);
        let page = events.iter().skip(at).take(most).cloned().collect();
        let oldest = events.front().map(|event| event.cursor);
        let gap = oldest.filter(|oldest| at == 0 && cursor.0 + 1 < oldest.0);
        EventPage { gap: gap.map(|oldest| (cursor, oldest)), events: page }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebeam_core::effect::What;
    use tiebeam_core::job::Job;
    use tiebeam_proto::Stage;

    fn event(index: u64, number: u32) -> Event {
        let what =
            What::Config { revision: index, job: Arc::from("11.1"), user: Arc::from("admin") };
        Event { cursor: (index, number), what }
    }

    /// A job that made a revision and is not committed.
    fn uncommitted(sequence: u64) -> Job {
        let record = crate::history::fixture::job(3 * sequence);
        Job {
            sequence,
            record: serde_json::from_value(record).unwrap(),
            stage: Stage::Finished,
            needs: Arc::default(),
            locks: Arc::default(),
            inputs: None,
            submitted_us: 0,
            deadline_us: 0,
            change_index: Some(1),
            cancel: None,
            commands: Vec::new(),
            recorded: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn an_archived_job_is_told_of_after_its_end() {
        let mut state = State::default();
        state.jobs.insert(7, Arc::new(uncommitted(7)));
        let board = Arc::new(Board::new(state.clone()));
        board.job_end(7).await.unwrap();
        let waits = tokio::spawn({
            let board = board.clone();
            async move { board.job_archived(7).await }
        });
        while lock(&board.job_waiters).is_empty() {
            tokio::task::yield_now().await;
        }
        board.tell_job_ends(&[7]);
        while lock(&board.job_waiters).is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!waits.is_finished(), "its end is not yet its place in the chain");
        state.jobs.remove(&7);
        board.show(state);
        board.tell_job_ends(&[7]);
        waits.await.unwrap();
        board.job_archived(7).await;
        assert!(lock(&board.job_waiters).is_empty());
    }

    #[test]
    fn a_change_of_the_users_own_section_wakes_nobody_who_need_not_act() {
        let set = |state: &State, names: &[&str]| {
            let at = tiebeam_core::path::path(names);
            let config = state.config.set(&at, &serde_json::json!(1), 2).unwrap();
            State { config, ..state.clone() }
        };
        let state = set(&State::default(), &["nodes", "11"]);
        let board = Board::new(state.clone());
        board.note_due();
        let (mut cluster, mut running) = (board.follow_cluster(), board.follow_running());
        let mut woken = |state: &State| {
            board.show(state.clone());
            board.note_due();
            let woken = (cluster.has_changed().unwrap(), running.has_changed().unwrap());
            cluster.mark_unchanged();
            running.mark_unchanged();
            woken
        };
        let mut state = set(&state, &["app", "a"]);
        assert_eq!(woken(&state), (false, false));
        state = set(&state, &["nodes", "12"]);
        assert_eq!(woken(&state), (true, false));
        state.running.insert(1);
        assert_eq!(woken(&state), (false, true));
        state.running.remove(&1);
        assert_eq!(woken(&state), (false, true), "who ended is looked at once more");
        assert_eq!(woken(&state), (false, false));
    }

    #[test]
    fn events_follow_a_cursor_and_a_lost_one_shows_a_gap() {
        let board = Board::new(State::default());
        board.keep_events(vec![event(5, 0), event(5, 1), event(7, 0)]);
        let page = board.events_after((5, 0), 10);
        assert_eq!((page.gap, page.events.len()), (None, 2));
        let page = board.events_after((2, 0), 1);
        assert_eq!((page.gap, page.events.len()), (Some(((2, 0), (5, 0))), 1));
        assert!(board.events_after((7, 0), 10).events.is_empty());
    }
}
