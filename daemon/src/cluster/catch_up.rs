//! Catching up: fetches what is missing in this node's history, newest first, while it serves.
//!
//! What to ask for next is the history's to say ([`HistoryHandle::wanted`]): so this goes on after
//! a restart, a new snapshot or a new floor without knowing of them. A member that fails, has not
//! got it, or sends what does not verify is said once in the log, and the next one is asked, later
//! and later while all of them fail. It works at most half of the time and at a bounded rate, so
//! that neither this node nor the one that sends is kept from its clients. Nothing here decides who
//! may vote or lead.

use super::remote::{self, RemoteError};
use crate::engine::Engine;
use crate::history::{Filled, HistoryError, HistoryHandle, Parcel, ParcelError};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Compressed bytes a second that are fetched at most; 20 GiB of history are here in 20 minutes.
const BYTES_PER_SECOND: u64 = 16 << 20;

/// How often it looks whether something is missing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Pause after the first failure; it doubles with each further one.
const AGAIN: Duration = Duration::from_millis(100);

/// Longest pause after failures.
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// Pause after a failure of this node's own disk.
const AFTER_ERROR: Duration = Duration::from_secs(5);

/// Which records to fetch: as many as a parcel holds of those that end at `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The oldest that is wanted.
    pub from: u64,
    /// The newest that is wanted.
    pub to: u64,
    /// Rises with every failure: another member is to be asked than before.
    pub turn: usize,
}

/// What a member sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The member's raft id.
    pub member: u64,
    /// A parcel, or no bytes if it does not have the records.
    pub bytes: Bytes,
}

/// A member did not answer, or there is none.
#[derive(Debug, thiserror::Error)]
#[error("it did not answer")]
pub struct NotSent {
    /// Who was asked.
    pub member: Option<u64>,
    /// What went wrong.
    #[source]
    pub source: RemoteError,
}

/// Why a member's parcel was of no use.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it sent no parcel")]
    Broken(#[source] ParcelError),
    #[error("it sent records {0} to {1}")]
    NotAsked(u64, u64),
    #[error("what it sent does not belong there")]
    Misfit(#[source] HistoryError),
}

/// What became of what was sent.
enum Kept {
    Taken,
    /// The gap changed while it was on its way.
    Overtaken,
    Refused(Refused),
    /// This node's own failure.
    Failed(HistoryError),
}

/// Whom to ask next, and when.
#[derive(Debug, Default)]
struct Plan {
    turn: usize,
    /// Failures since the last parcel that was taken.
    failures: u32,
    /// Members that failed, and of which the log says so.
    named: BTreeSet<u64>,
}

impl Plan {
    /// The pause after a parcel that was taken.
    fn took(&mut self, bytes: usize, work: Duration) -> Duration {
        self.failures = 0;
        let rate = Duration::from_micros(bytes as u64 * 1_000_000 / BYTES_PER_SECOND);
        rate.max(work)
    }

    /// The pause after a failure, and whether it is to be said.
    fn failed(&mut self, member: Option<u64>) -> (Duration, bool) {
        self.turn = self.turn.wrapping_add(1);
        let pause = AGAIN.saturating_mul(1 << self.failures.min(16)).min(AGAIN_MAX);
        self.failures = self.failures.saturating_add(1);
        // Nobody has the number 0.
        (pause, self.named.insert(member.unwrap_or(0)))
    }

    /// Nothing is missing: whoever fails for the next gap is named again.
    fn rest(&mut self) -> Duration {
        *self = Plan { turn: self.turn, ..Plan::default() };
        LOOK_EVERY
    }
}

/// Fills gaps of this node's history from the other members until the node stops.
pub async fn from_members(engine: Arc<Engine>) {
    let cluster = engine.cluster.clone();
    let fetch = move |ask: Ask| -> BoxFuture<'static, _> {
        let cluster = cluster.clone();
        Box::pin(async move {
            let others = cluster.others();
            let nth = ask.turn.checked_rem(others.len());
            let Some(member) = nth.and_then(|nth| others.get(nth).copied()) else {
                return Err(NotSent { member: None, source: RemoteError::Nobody });
            };
            match remote::history_parcel(&cluster, member, ask.from, ask.to).await {
                Ok(bytes) => Ok(Sent { member, bytes }),
                Err(source) => Err(NotSent { member: Some(member), source }),
            }
        })
    };
    fill_gaps(engine.history_thread.clone(), fetch, engine.stop.clone()).await;
}

/// Fills gaps of the history until the node stops. `fetch` asks one member for a parcel as
/// [`History::parcel`](crate::history::History::parcel) makes it, and gives up by itself.
pub async fn fill_gaps<F>(handle: HistoryHandle, fetch: F, stop: CancellationToken)
where
    F: Fn(Ask) -> BoxFuture<'static, Result<Sent, NotSent>> + Send + Sync,
{
    let mut plan = Plan::default();
    let work = async {
        loop {
            let pause = step(&handle, &fetch, &mut plan).await;
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Fetches one parcel; gives how long to rest.
async fn step<F>(handle: &HistoryHandle, fetch: &F, plan: &mut Plan) -> Duration
where
    F: Fn(Ask) -> BoxFuture<'static, Result<Sent, NotSent>>,
{
    let wanted = match blocking(handle, HistoryHandle::wanted).await {
        Some(Ok(Some(wanted))) => wanted,
        Some(Ok(None)) => return plan.rest(),
        Some(Err(error)) => return own_failure(&error),
        None => return AFTER_ERROR,
    };
    let ask = Ask { from: wanted.0, to: wanted.1, turn: plan.turn };
    let sent = match fetch(ask).await {
        Ok(sent) => sent,
        Err(error) => return member_failed(plan, ask, error.member, &error),
    };
    let (begun, member, size) = (Instant::now(), sent.member, sent.bytes.len());
    match blocking(handle, move |handle| keep(handle, ask, &sent.bytes)).await {
        Some(Kept::Taken) => plan.took(size, begun.elapsed()),
        Some(Kept::Overtaken) => Duration::ZERO,
        Some(Kept::Refused(why)) => member_failed(plan, ask, Some(member), &why),
        Some(Kept::Failed(error)) => own_failure(&error),
        None => AFTER_ERROR,
    }
}

/// Runs something that reads or writes files; `None` if the runtime ends.
async fn blocking<T: Send + 'static>(
    handle: &HistoryHandle,
    work: impl FnOnce(&HistoryHandle) -> T + Send + 'static,
) -> Option<T> {
    let handle = handle.clone();
    tokio::task::spawn_blocking(move || work(&handle)).await.ok()
}

/// Verifies what was sent and keeps it.
fn keep(handle: &HistoryHandle, ask: Ask, bytes: &[u8]) -> Kept {
    let parcel = match Parcel::decode(bytes) {
        Ok(parcel) => parcel,
        Err(error) => return Kept::Refused(Refused::Broken(error)),
    };
    let (first, last) = (parcel.first(), parcel.last());
    if last != ask.to || first < ask.from {
        return Kept::Refused(Refused::NotAsked(first, last));
    }
    match handle.fill(&parcel) {
        Ok(Filled::Taken { .. }) => Kept::Taken,
        Ok(Filled::NotWanted) => Kept::Overtaken,
        Err(error @ HistoryError::Misfit(_)) => Kept::Refused(Refused::Misfit(error)),
        Err(error) => Kept::Failed(error),
    }
}

fn own_failure(error: &HistoryError) -> Duration {
    tracing::warn!(error = %chain(error), "missing history cannot be kept");
    AFTER_ERROR
}

fn member_failed(plan: &mut Plan, ask: Ask, member: Option<u64>, error: &dyn Error) -> Duration {
    let (pause, say) = plan.failed(member);
    if say {
        let (from, to) = (ask.from, ask.to);
        let why = chain(error);
        tracing::warn!(member, from, to, why, "missing history did not come from this member");
    }
    pause
}

fn chain(error: &dyn Error) -> String {
    crate::report::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::fixture::{Folder, Maker};
    use crate::history::{History, HistoryThread, Start};
    use std::sync::Mutex;
    use tiebeam_proto::chain::{Head, from_text};
    use tiebeam_proto::record::Archived;

    fn spawn(folder: &Folder, head: Head) -> HistoryThread {
        HistoryThread::spawn(&Start::behind(folder.path(), head)).unwrap()
    }

    fn filled(folder: &Folder, records: &[Archived]) -> HistoryThread {
        let thread = spawn(folder, Head::EMPTY);
        records.iter().for_each(|record| thread.handle.archive(record.clone()).unwrap());
        thread.handle.sync_to(records.len() as u64).unwrap();
        thread
    }

    /// Four members: one is down, one has nothing, one lies, one is sound.
    fn member(nth: usize, sound: &History, liar: &History, ask: Ask) -> Result<Sent, NotSent> {
        let member = nth as u64 + 1;
        let parcel =
            |history: &History| -> Bytes { history.parcel(ask.from, ask.to).unwrap().into() };
        let bytes = match nth {
            0 => return Err(NotSent { member: Some(member), source: RemoteError::Late }),
            1 => Bytes::new(),
            2 => parcel(liar),
            _ => parcel(sound),
        };
        Ok(Sent { member, bytes })
    }

    #[tokio::test]
    async fn what_is_missing_comes_from_the_member_that_has_it() {
        let folders = [Folder::new(), Folder::new(), Folder::new()];
        let records = Maker::new().jobs(1_500);
        let hash = from_text(&records[1_499].link.this).unwrap();
        let sound = filled(&folders[0], &records);
        let mut forger = Maker::new();
        let mut forged = vec![forger.audit()];
        forged.extend(forger.jobs(1_499));
        let liar = filled(&folders[1], &forged);
        let thread = spawn(&folders[2], Head { index: 1_500, hash });
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let fetch = {
            let (asked, sound, liar) = (asked.clone(), sound.history.clone(), liar.history.clone());
            move |ask: Ask| -> BoxFuture<'static, _> {
                asked.lock().unwrap().push(ask);
                let sent = member(ask.turn % 4, &sound, &liar, ask);
                Box::pin(async move { sent })
            }
        };
        let filling = tokio::spawn(fill_gaps(thread.handle.clone(), fetch, stop.clone()));
        while thread.history.gap_records() > 0 || !thread.history.gaps(1).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        filling.await.unwrap();
        assert_eq!(thread.history.record(1).unwrap().as_ref(), records.first());
        assert_eq!(thread.history.verify().unwrap().records, 1_500);
        let asked = asked.lock().unwrap();
        // Three failures, then it stays with the sound one; a parcel holds some 700 records.
        let turns: Vec<_> = asked.iter().map(|ask| ask.turn).collect();
        assert_eq!(turns[..4], [0, 1, 2, 3], "{asked:?}");
        assert!(turns[4..].iter().all(|turn| *turn == 3) && (5..9).contains(&turns.len()));
        assert!(asked.windows(2).all(|two| two[1].to <= two[0].to));
        [sound, liar, thread].into_iter().for_each(|thread| thread.stop().unwrap());
    }

    #[test]
    fn a_member_is_named_once_and_asked_later_and_later() {
        let mut plan = Plan::default();
        let first = plan.failed(Some(7));
        assert_eq!((first, plan.failed(Some(7))), ((AGAIN, true), (AGAIN * 2, false)));
        assert_eq!(plan.failed(None), (AGAIN * 4, true));
        for _ in 0..100 {
            plan.failed(Some(7));
        }
        assert_eq!((plan.failed(None), plan.turn), ((AGAIN_MAX, false), 104));
        // The rate, and half of the time.
        let second = Duration::from_secs(1);
        assert_eq!(plan.took(BYTES_PER_SECOND as usize, Duration::ZERO), second);
        assert_eq!(plan.took(10, second), second);
        assert_eq!(plan.failed(Some(7)), (AGAIN, false));
        plan.rest();
        assert_eq!((plan.failed(Some(7)), plan.turn), ((AGAIN, true), 106));
    }
}
