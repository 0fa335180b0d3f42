//! Blobs among the members: a copy on the node that ran the command and on two more, made before
//! the command counts as ended (ruling 32), and made again when a holder has left the cluster.
//!
//! The holder asks a member to keep a blob, the member fetches it from the holder and verifies it:
//! nobody takes bytes that they did not ask for. A member that cannot be reached when a command
//! ends does not hold the end up: the record says who has it, and the rest is made up for later.

use super::{BlobError, Blobs, PIECE_BYTES, is_digest};
use crate::cluster::remote::{self, RemoteError};
use crate::engine::Engine;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tiebeam_core::State;
use tiebeam_core::job::parse_job_id;
use tiebeam_proto::canonical;
use tiebeam_proto::record::CommandRecord;
use tokio::time::Instant;

/// Members that hold a blob, with the one that ran the command.
const HOLDERS: usize = 3;
/// Longest time that the end of a command waits for its copies: less than the time that a job past
/// its deadline is given to stop.
const SPREAD_WAIT: Duration = Duration::from_secs(8);
/// Longest time that one member may take to fetch a blob.
const KEEP_WAIT: Duration = Duration::from_secs(60);
/// How often it is looked whether members came or went.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often all blobs are looked at, whoever came or went.
const REVIEW_EVERY: Duration = Duration::from_secs(600);
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
fn ranked(digest: &str, mut members: Vec<u64>) -> Vec<u64> {
    let rank = |raft_id: &u64| {
        let mut hash = Sha256::new();
        hash.update(digest);
        hash.update(raft_id.to_le_bytes());
        hash.finalize()
    };
    members.sort_by_cached_key(rank);
    members
}

fn node_of(raft_id: u64) -> u32 {
    u32::try_from(raft_id >> 16).unwrap_or_default()
}

/// Members that answer, without this node.
fn online(engine: &Engine) -> Vec<u64> {
    let mut others = engine.cluster.others();
    others.retain(|member| engine.cluster.is_online(*member));
    others
}

/// Copies the output of a command that ended here to two further members; gives who holds it,
/// node ids in order. What is not done in time is done later.
pub async fn hold(engine: &Engine, job: &str, digest: &str) -> Vec<u32> {
    let blobs = Blobs::of(&engine.data);
    if let Err(error) = blobs.note_job(digest, job) {
        tracing::warn!(digest, why = crate::report::chain(&error), "a blob has no job's mark");
    }
    let until = Instant::now() + SPREAD_WAIT;
    let jobs = [job.to_owned()];
    let others = ranked(digest, online(engine));
    let wanted = HOLDERS - 1;
    let mut holders = copy_to(engine, digest, &jobs, (&others, wanted), until).await;
    holders.push(engine.identity.raft_id());
    if holders.len() < HOLDERS.min(engine.board.state().members.len()) {
        tracing::warn!(job, digest, ?holders, "an output has fewer copies than it should");
    }
    let mut nodes: Vec<u32> = holders.into_iter().map(node_of).collect();
    nodes.sort_unstable();
    nodes
}

/// Asks members in turn to keep a blob until as many as wanted do; gives those that do.
async fn copy_to(
    engine: &Engine,
    digest: &str,
    jobs: &[String],
    (members, wanted): (&[u64], usize),
    until: Instant,
) -> Vec<u64> {
    let mut holders = Vec::new();
    for member in members {
        if holders.len() >= wanted || Instant::now() >= until {
            break;
        }
        let limit = until.duration_since(Instant::now());
        match remote::keep_blob(&engine.cluster, *member, digest, jobs, limit).await {
            Ok(()) => holders.push(*member),
            Err(error) => {
                let (node, why) = (node_of(*member), crate::report::chain(&error));
                tracing::warn!(digest, node, why, "a member does not keep a copy");
            }
        }
    }
    holders
}

/// Fetches a blob from the member that asked this node to keep it.
///
/// # Errors
/// It is not here now.
pub async fn fetch(
    engine: &Arc<Engine>,
    from: u64,
    digest: &str,
    jobs: &[String],
) -> Result<(), FetchError> {
    let blobs = Blobs::of(&engine.data);
    if !is_digest(digest) {
        return Err(FetchError::Blob(BlobError::Name));
    }
    if blobs.bytes(digest).is_none() {
        if !engine.space.is_enough() {
            return Err(FetchError::NoRoom);
        }
        let mut incoming = blobs.receive(digest).map_err(FetchError::Blob)?;
        loop {
            let at = incoming.bytes();
            let piece = remote::blob_piece(&engine.cluster, from, digest, at).await;
            let piece = piece.map_err(FetchError::Remote)?;
            incoming.push(&piece).map_err(FetchError::Blob)?;
            if piece.len() < PIECE_BYTES {
                break;
            }
        }
        let finished = tokio::task::spawn_blocking(move || incoming.finish()).await;
        finished.unwrap_or(Err(BlobError::Name)).map_err(FetchError::Blob)?;
    }
    for job in jobs {
        blobs.note_job(digest, job).map_err(FetchError::Blob)?;
    }
    Ok(())
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
            true => Blobs::of(&engine.data).piece(digest, at).ok(),
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
async fn give_up_spoilt(engine: &Engine, digest: &str) {
    let (blobs, digest) = (Blobs::of(&engine.data), digest.to_owned());
    let looked = tokio::task::spawn_blocking(move || blobs.remove_spoilt(&digest)).await;
    if let Ok(Err(error)) = looked {
        tracing::warn!(why = crate::report::chain(&error), "an output cannot be read here");
    }
}

/// Looks after the blobs of this node until it stops: copies are made up for when members came or
/// went, and those whose records are gone are removed.
pub async fn tend(engine: Arc<Engine>) {
    if let Err(error) = Blobs::of(&engine.data).clear_unfinished() {
        tracing::warn!(why = crate::report::chain(&error), "unfinished blobs stay");
    }
    let (mut seen, mut reviewed) = (None, Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
        let members: Vec<u64> = engine.board.state().members.values().map(|m| m.raft_id).collect();
        let now = (members, online(&engine));
        if seen.as_ref() == Some(&now) && reviewed.elapsed() < REVIEW_EVERY {
            continue;
        }
        if engine.cluster.is_caught_up() && review(&engine).await {
            (seen, reviewed) = (Some(now), Instant::now());
        }
    }
}

/// Looks at all blobs once; false if it is to be done again soon.
async fn review(engine: &Arc<Engine>) -> bool {
    let blobs = Blobs::of(&engine.data);
    let Ok(own) = blobs.list() else { return false };
    let mut lists = BTreeMap::new();
    for member in online(engine) {
        // One that does not tell is not known to lack anything.
        if let Ok(list) = remote::blobs(&engine.cluster, member).await {
            lists.insert(member, list);
        }
    }
    let (mut short, mut done) = (0, true);
    for digest in own {
        let Ok(jobs) = blobs.jobs(&digest) else { continue };
        if is_given_up(engine, &jobs) {
            match blobs.remove(&digest) {
                Ok(()) => tracing::info!(digest, ?jobs, "an output went with its records"),
                Err(error) => {
                    tracing::warn!(why = crate::report::chain(&error), "an old output stays");
                }
            }
            continue;
        }
        let members = engine.board.state().members.values().map(|m| m.raft_id).collect();
        let lacking = lacking(engine.identity.raft_id(), &digest, members, &lists);
        if lacking.wanted == 0 {
            continue;
        }
        let until = Instant::now() + KEEP_WAIT;
        let to = (lacking.candidates.as_slice(), lacking.wanted);
        let made = copy_to(engine, &digest, &jobs, to, until).await;
        if made.len() < lacking.wanted {
            (short, done) = (short + 1, false);
            give_up_spoilt(engine, &digest).await;
        }
    }
    engine.metrics.blobs_short.store(short, Ordering::Relaxed);
    done
}

/// Copies that this node is to make up for.
#[derive(Debug, PartialEq, Eq)]
struct Lacking {
    wanted: usize,
    candidates: Vec<u64>,
}

/// What is to be done about a blob of this node: a member that did not tell what it has may have
/// it, one that left the cluster has not; of several holders the first one copies.
fn lacking(
    own: u64,
    digest: &str,
    members: BTreeSet<u64>,
    lists: &BTreeMap<u64, BTreeSet<String>>,
) -> Lacking {
    let told = |member: &u64| lists.get(member).map(|list| list.contains(digest));
    let others = members.iter().copied().filter(|member| *member != own);
    let may_have = others.clone().filter(|member| told(member) != Some(false)).count();
    let first = others.clone().filter(|member| told(member) == Some(true)).all(|one| one > own);
    let wanted = HOLDERS.min(members.len()).saturating_sub(may_have + 1);
    let without = others.filter(|member| told(member) == Some(false)).collect();
    match first {
        true => Lacking { wanted, candidates: ranked(digest, without) },
        false => Lacking { wanted: 0, candidates: Vec::new() },
    }
}

/// Whether all records that name a blob have been given up; no clock decides it.
fn is_given_up(engine: &Engine, jobs: &[String]) -> bool {
    let state = engine.board.state();
    let gone = |job: &String| is_past(&state, job) && matches!(engine.archived_job(job), Ok(None));
    !jobs.is_empty() && jobs.iter().all(gone)
}

/// Whether the job has left this node's State: one that it has not heard of yet is to come.
fn is_past(state: &State, job: &str) -> bool {
    let Some((_, sequence)) = parse_job_id(job) else { return true };
    let is_known = sequence <= state.last_job;
    is_known && !state.jobs.contains_key(&sequence) && !state.doubts.contains_key(&sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(of: &[(u64, bool)]) -> BTreeMap<u64, BTreeSet<String>> {
        let list = |has: bool| if has { BTreeSet::from(["d".to_owned()]) } else { BTreeSet::new() };
        of.iter().map(|(member, has)| (*member, list(*has))).collect()
    }

    #[test]
    fn a_lost_copy_is_made_up_for_by_one_holder() {
        let members: BTreeSet<u64> = (1..=5).collect();
        let of = |own: u64, told: &[(u64, bool)]| lacking(own, "d", members.clone(), &lists(told));
        let full = of(1, &[(2, true), (3, true), (4, false), (5, false)]);
        assert_eq!(full.wanted, 0);
        let one_lost = of(1, &[(2, true), (3, false), (4, false), (5, false)]);
        assert_eq!((one_lost.wanted, one_lost.candidates.len()), (1, 3));
        let not_first = of(2, &[(1, true), (3, false), (4, false), (5, false)]);
        assert_eq!(not_first.wanted, 0, "node 1 does it");
        let silent = of(1, &[(2, true), (4, false), (5, false)]);
        assert_eq!(silent.wanted, 0, "3 may have it");
        let alone = of(1, &[(2, false), (3, false), (4, false), (5, false)]);
        assert_eq!(alone.wanted, 2);
        let small = lacking(1, "d", BTreeSet::from([1, 2]), &lists(&[(2, false)]));
        assert_eq!(small, Lacking { wanted: 1, candidates: vec![2] });
        assert_eq!(lacking(1, "d", BTreeSet::from([1]), &lists(&[])).wanted, 0);
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
    }
}
