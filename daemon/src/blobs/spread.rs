//! Blobs among the members: a copy on the node that ran the command and on two more, made before
//! the command counts as ended (ruling 32).
//!
//! The holder asks a member to keep a blob, the member fetches it from the holder and verifies it:
//! nobody takes bytes that they did not ask for. A member that cannot be reached when a command
//! ends does not hold the end up: the record says who has it, and `tend` makes up for the rest.

use super::marks::{Marks, NAMED_MAX};
use super::{BlobError, PIECE_BYTES, is_digest};
use crate::cluster::remote::{self, RemoteError};
use crate::engine::Engine;
use futures_util::stream::{FuturesUnordered, StreamExt};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::State;
use tiebeam_core::job::parse_job_id;
use tiebeam_proto::canonical;
use tiebeam_proto::record::CommandRecord;
use tokio::time::Instant;

/// Members that hold a blob, with the one that ran the command.
pub(super) const HOLDERS: usize = 3;
/// Longest time that the end of a command waits for its copies: less than the time that a job past
/// its deadline is given to stop.
const SPREAD_WAIT: Duration = Duration::from_secs(8);
/// After this time further members are asked beside those that have not answered.
const SLOW_AFTER: Duration = Duration::from_secs(4);
/// Longest time that a blob is being fetched, whether anybody still waits for it or not.
const FETCH_WAIT: Duration = Duration::from_secs(600);
/// Bytes of one output that are answered at once.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Why a blob is not here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is too little room on the disk.
    #[error("there is too little room on the disk")]
    NoRoom,
    /// The member did not give it.
    #[error("the member does not give it")]
    Remote(#[source] RemoteError),
    /// It cannot be kept.
    #[error("it cannot be kept")]
    Blob(#[source] BlobError),
    /// It took too long, or this node stops.
    #[error("it was given up")]
    GivenUp,
}

/// Why the whole output of a command cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is on no member that answers.
    #[error("the whole output is missing: no member that answers has it ({0})")]
    Missing(String),
    /// It is too long for one answer.
    #[error("the whole output is longer than the {ANSWER_BYTES_MAX} bytes of an answer")]
    TooLong,
}

/// Members in the order in which they are to hold this blob: another one for each blob, and the
/// same wherever it is asked.
pub(super) fn ranked(digest: &str, mut members: Vec<u64>) -> Vec<u64> {
    let rank = |raft_id: &u64| {
        let mut hash = Sha256::new();
        hash.update(digest);
        hash.update(raft_id.to_le_bytes());
        hash.finalize()
    };
    members.sort_by_cached_key(rank);
    members
}

pub(super) fn node_of(raft_id: u64) -> u32 {
    u32::try_from(raft_id >> 16).unwrap_or_default()
}

/// Members that answer, without this node.
pub(super) fn online(engine: &Engine) -> Vec<u64> {
    let mut others = engine.cluster.others();
    others.retain(|member| engine.cluster.is_online(*member));
    others
}

/// Copies the output of a command that ended here to two further members; gives who holds it,
/// node ids in order. What is not done in time is done later.
pub async fn hold(engine: &Engine, job: &str, digest: &str) -> Vec<u32> {
    let marks = Marks::of(job);
    let noted = engine.host.blobs().note(digest, &marks);
    if let Err(error) = noted.and_then(|all| shorten(engine, digest, &all)) {
        tracing::warn!(digest, why = crate::report::chain(&error), "a blob has no job's mark");
    }
    let others = ranked(digest, online(engine));
    let now = Instant::now();
    let pace = Pace { slow: now + SLOW_AFTER, until: now + SPREAD_WAIT };
    let ask = |member| ask_to_keep(engine, member, digest, &marks, pace.until);
    let mut holders = keepers(&others, HOLDERS - 1, pace, ask).await;
    holders.push(engine.identity.raft_id());
    if holders.len() < HOLDERS.min(engine.board.state().members.len()) {
        tracing::warn!(job, digest, ?holders, "an output has fewer copies than it should");
        engine.host.blobs().note_short(digest);
    }
    let mut nodes: Vec<u32> = holders.into_iter().map(node_of).collect();
    nodes.sort_unstable();
    nodes
}

/// How long members are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Then others are asked beside those that have not answered.
    pub slow: Instant,
    /// Then it is over.
    pub until: Instant,
}

/// Asks as many members at once as are wanted, and in place of each that refuses the next; gives
/// those that keep a copy.
pub(super) async fn keepers<F: Future<Output = bool>>(
    members: &[u64],
    wanted: usize,
    pace: Pace,
    ask: impl Fn(u64) -> F,
) -> Vec<u64> {
    let ask = &ask;
    let mut next = members.iter().map(|member| async move { (*member, ask(*member).await) });
    let mut asked: FuturesUnordered<_> = next.by_ref().take(wanted).collect();
    let (mut holders, mut in_time) = (Vec::new(), true);
    while holders.len() < wanted && !asked.is_empty() {
        tokio::select! {
            biased;
            Some((member, kept)) = asked.next() => match kept {
                true => holders.push(member),
                false => asked.extend(next.next()),
            },
            () = tokio::time::sleep_until(pace.until) => break,
            () = tokio::time::sleep_until(pace.slow), if in_time => {
                in_time = false;
                asked.extend(next.by_ref().take(wanted - holders.len()));
            }
        }
    }
    holders
}

/// Asks one member to keep a copy; gives whether it does.
pub(super) async fn ask_to_keep(
    engine: &Engine,
    member: u64,
    digest: &str,
    marks: &Marks,
    until: Instant,
) -> bool {
    let limit = until.saturating_duration_since(Instant::now());
    let asked = remote::keep_blob(&engine.cluster, member, digest, marks, limit).await;
    if let Err(error) = &asked {
        let (node, why) = (node_of(member), crate::report::chain(error));
        tracing::warn!(digest, node, why, "a member does not keep a copy");
    }
    asked.is_ok()
}

/// Of many jobs that name a blob those that are archived become one line.
fn shorten(engine: &Engine, digest: &str, all: &Marks) -> Result<(), BlobError> {
    if all.jobs().len() <= NAMED_MAX {
        return Ok(());
    }
    // What this State has archived lies in its chain, whatever this node's history has.
    let state = engine.board.state();
    engine.host.blobs().fold(digest, |job| is_past(&state, job), state.chain.index)
}

/// Fetches a blob from the member that asked this node to keep it. Once begun it goes on when that
/// one waits no longer: who asks again finds it.
///
/// # Errors
/// It is not here now.
pub async fn fetch(
    engine: &Arc<Engine>,
    from: u64,
    digest: &str,
    marks: Marks,
) -> Result<(), FetchError> {
    let blobs = engine.host.blobs();
    if let Some(all) = blobs.claim(digest, &marks).map_err(FetchError::Blob)? {
        return shorten(engine, digest, &all).map_err(FetchError::Blob);
    }
    let turn = blobs.turn(digest).await;
    // Whoever had the turn before may have fetched it.
    if blobs.claim(digest, &marks).map_err(FetchError::Blob)?.is_some() {
        return Ok(());
    }
    let (engine, digest) = (engine.clone(), digest.to_owned());
    let fetching = tokio::spawn(async move {
        let _turn = turn;
        tokio::select! {
            fetched = receive(&engine, from, &digest, &marks) => fetched,
            () = tokio::time::sleep(FETCH_WAIT) => Err(FetchError::GivenUp),
            () = engine.stop.cancelled() => Err(FetchError::GivenUp),
        }
    });
    fetching.await.unwrap_or(Err(FetchError::GivenUp))
}

async fn receive(
    engine: &Engine,
    from: u64,
    digest: &str,
    marks: &Marks,
) -> Result<(), FetchError> {
    let mut incoming = engine.host.blobs().receive(digest).map_err(FetchError::Blob)?;
    loop {
        // Others write, too: what was enough at the begin may be little now.
        if !engine.space.is_enough() {
            return Err(FetchError::NoRoom);
        }
        let piece = remote::blob_piece(&engine.cluster, from, digest, incoming.bytes()).await;
        let piece = piece.map_err(FetchError::Remote)?;
        incoming.push(&piece).map_err(FetchError::Blob)?;
        if piece.len() < PIECE_BYTES {
            break;
        }
    }
    let marks = marks.clone();
    let finished = tokio::task::spawn_blocking(move || incoming.finish(&marks)).await;
    finished.unwrap_or(Err(BlobError::Name)).map_err(FetchError::Blob)
}

/// The whole output of a command: from the record if that has it, else from whichever member holds
/// it, verified.
///
/// # Errors
/// Nobody that answers has it.
pub async fn whole_output(
    engine: &Arc<Engine>,
    command: &CommandRecord,
) -> Result<String, OutputError> {
    let digest = command.output_sha256.as_deref().filter(|digest| is_digest(digest));
    let Some(digest) = digest.filter(|_| command.truncated) else {
        return Ok(command.output.clone());
    };
    let mut others = engine.cluster.others();
    others.sort_by_key(|member| !command.holders.contains(&node_of(*member)));
    for member in std::iter::once(engine.identity.raft_id()).chain(others) {
        if let Some(bytes) = gather(engine, member, digest).await? {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    let holders = match command.holders.as_slice() {
        [] => "no copies were made".to_owned(),
        nodes => format!("it was on nodes {nodes:?}"),
    };
    Err(OutputError::Missing(holders))
}

/// A blob as this member has it, whole; `None` if a piece is missing or it is another one.
async fn gather(
    engine: &Arc<Engine>,
    member: u64,
    digest: &str,
) -> Result<Option<Vec<u8>>, OutputError> {
    let mut whole = Vec::new();
    loop {
        let at = whole.len() as u64;
        let piece = match member == engine.identity.raft_id() {
            true => engine.host.blobs().piece(digest, at).ok(),
            false => {
                let piece = remote::blob_piece(&engine.cluster, member, digest, at).await;
                piece.ok().map(|piece| piece.to_vec())
            }
        };
        let Some(piece) = piece else { return Ok(None) };
        whole.extend_from_slice(&piece);
        if whole.len() as u64 > ANSWER_BYTES_MAX {
            return Err(OutputError::TooLong);
        }
        if piece.len() < PIECE_BYTES {
            break;
        }
    }
    let sound = canonical::hex(&Sha256::digest(&whole)) == digest;
    if !sound && member == engine.identity.raft_id() {
        give_up_spoilt(engine, digest).await;
    }
    Ok(sound.then_some(whole))
}

/// Removes this node's copy if it is spoilt: whoever has a sound one makes up for it.
pub(super) async fn give_up_spoilt(engine: &Engine, digest: &str) {
    let (blobs, digest) = (engine.host.blobs().clone(), digest.to_owned());
    let looked = tokio::task::spawn_blocking(move || blobs.remove_spoilt(&digest)).await;
    if let Ok(Err(error)) = looked {
        tracing::warn!(why = crate::report::chain(&error), "an output cannot be read here");
    }
}

/// Whether the job has left this node's State: one that it has not heard of yet is to come.
pub(super) fn is_past(state: &State, job: &str) -> bool {
    let Some((_, sequence)) = parse_job_id(job) else { return true };
    let is_known = sequence <= state.last_job;
    is_known && !state.jobs.contains_key(&sequence) && !state.doubts.contains_key(&sequence)
}

/// Whether a State has given all these ids and places in the chain.
pub fn knows(state: &State, marks: &Marks) -> bool {
    let is_given =
        |job: &String| parse_job_id(job).is_none_or(|(_, sequence)| sequence <= state.last_job);
    marks.records() <= state.chain.index && marks.jobs().iter().all(is_given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn a_slow_member_is_made_up_for_by_others() {
        // 1 never answers, 2 refuses, the others keep a copy.
        let ask = |member: u64| async move {
            match member {
                1 => std::future::pending().await,
                2 => false,
                _ => true,
            }
        };
        let far = Instant::now() + Duration::from_secs(3_600);
        let far_off = Pace { slow: far, until: far };
        let soon = Pace { slow: Instant::now(), until: far };
        let of = |members: &'static [u64], pace| keepers(members, 2, pace, ask);
        assert_eq!(of(&[3, 4, 5], far_off).await, [3, 4]);
        assert_eq!(of(&[2, 3, 4], far_off).await, [3, 4], "the next one does");
        assert_eq!(of(&[1, 3, 4], soon).await, [3, 4], "the slow one holds nobody up");
        assert_eq!(of(&[2, 5], far_off).await, [5], "nobody is left");
        let over = Pace { slow: far, until: Instant::now() };
        assert_eq!(of(&[1, 1, 3], over).await, Vec::<u64>::new(), "the time is over");
    }

    #[test]
    fn blobs_are_spread_over_all_members_and_each_finds_its_own_again() {
        let members: Vec<u64> = (1..=7).collect();
        let firsts: BTreeSet<u64> =
            (0..100).map(|n| ranked(&format!("{n}"), members.clone())[0]).collect();
        assert_eq!(firsts.len(), 7);
        let reversed = members.iter().rev().copied().collect();
        assert_eq!(ranked("a", members), ranked("a", reversed));
    }

    #[test]
    fn a_job_that_is_to_come_is_not_past() {
        let state = State { last_job: 9, ..State::default() };
        assert!(is_past(&state, "11.9") && !is_past(&state, "11.10"));
        assert!(is_past(&state, "no job"));
        let known = |text| knows(&state, &Marks::parse(text));
        assert!(known("11.9\n") && known("") && !known("11.9\n11.10\n") && !known("records 1"));
    }
}
