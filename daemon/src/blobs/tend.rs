//! What becomes of the blobs of this node: lost copies are made up for, and what no record names
//! any more is removed.
//!
//! All are looked at when members came or went, when a command ended with fewer copies than it
//! should have, and now and then. A blob that no member takes is offered again after pauses that
//! grow; the one that looks is the first of its holders. No clock decides what is removed.

use super::marks::Marks;
use super::spread::{
    HOLDERS, Pace, ask_to_keep, give_up_spoilt, is_past, keepers, node_of, online, ranked,
};
use crate::cluster::remote;
use crate::engine::Engine;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether there is anything to do, and the first pause of a blob that no
/// member takes.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often all blobs are looked at, whoever came or went, and the longest pause.
const REVIEW_EVERY: Duration = Duration::from_secs(600);
/// Longest wait for members to fetch one blob.
const KEEP_WAIT: Duration = Duration::from_secs(60);

/// Blobs that lack copies which no member took: when each is offered again. Whoever found that one
/// does sees to it, whether it is the first holder or not.
#[derive(Debug, Default)]
struct Tries(BTreeMap<String, Try>);

#[derive(Debug)]
struct Try {
    pause: Duration,
    next: Instant,
}

impl Tries {
    fn is_due(&self, digest: &str, now: Instant) -> bool {
        self.0.get(digest).is_none_or(|one| one.next <= now)
    }

    fn begin(&mut self, digest: String, now: Instant) {
        self.0.entry(digest).or_insert(Try { pause: LOOK_EVERY, next: now });
    }

    fn any_due(&self, now: Instant) -> bool {
        self.0.values().any(|one| one.next <= now)
    }

    fn failed(&mut self, digest: &str, now: Instant) {
        let pause = match self.0.get(digest) {
            Some(one) => (one.pause * 2).min(REVIEW_EVERY),
            None => LOOK_EVERY,
        };
        self.0.insert(digest.to_owned(), Try { pause, next: now + pause });
    }

    /// Other members are there: they may take what the former did not.
    fn hurry(&mut self, now: Instant) {
        self.0.values_mut().for_each(|one| one.next = now);
    }
}

/// Looks after the blobs of this node until it stops.
pub async fn tend(engine: Arc<Engine>) {
    let (mut seen, mut reviewed) = (None, Instant::now());
    let mut tries = Tries::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
        if !engine.cluster.is_caught_up() {
            continue;
        }
        let now = Instant::now();
        let members: Vec<u64> = engine.board.state().members.values().map(|m| m.raft_id).collect();
        let there = Some((members, online(&engine)));
        let moved = seen != there;
        if moved {
            tries.hurry(now);
        }
        for digest in engine.host.blobs().take_short() {
            tries.begin(digest, now);
        }
        if moved || now - reviewed >= REVIEW_EVERY || tries.any_due(now) {
            review(&engine, &mut tries).await;
            (seen, reviewed) = (there, now);
        }
    }
}

/// Looks at all blobs once.
async fn review(engine: &Arc<Engine>, tries: &mut Tries) {
    let sorter = engine.clone();
    let sorted = tokio::task::spawn_blocking(move || sort_out(&sorter)).await;
    let own = sorted.unwrap_or_default();
    let asked = online(engine).into_iter().map(|member| async move {
        // One that does not tell is not known to lack anything.
        Some((member, remote::blobs(&engine.cluster, member).await.ok()?))
    });
    let lists: BTreeMap<u64, BTreeSet<String>> =
        futures_util::future::join_all(asked).await.into_iter().flatten().collect();
    tries.0.retain(|digest, _| own.contains_key(digest));
    let passed_over = Mutex::default();
    for (digest, marks) in own {
        let members = engine.board.state().members.values().map(|m| m.raft_id).collect();
        let mine = (engine.identity.raft_id(), tries.0.contains_key(&digest));
        let lacking = lacking(mine, &digest, members, &lists);
        if lacking.wanted == 0 {
            tries.0.remove(&digest);
        } else if tries.is_due(&digest, Instant::now()) {
            match make_up(engine, &digest, &marks, &lacking, &passed_over).await {
                true => drop(tries.0.remove(&digest)),
                false => {
                    tries.failed(&digest, Instant::now());
                    give_up_spoilt(engine, &digest).await;
                }
            }
        }
        if engine.stop.is_cancelled() {
            return;
        }
    }
    engine.metrics.blobs_short.store(tries.0.len() as u64, Ordering::Relaxed);
}

/// Removes what no record names any more; gives the rest with its jobs.
fn sort_out(engine: &Engine) -> BTreeMap<String, Marks> {
    let blobs = engine.host.blobs();
    let failed = |error: &super::BlobError| {
        tracing::warn!(why = crate::report::chain(error), "an output cannot be looked after");
    };
    let listed = |list: Result<Vec<String>, super::BlobError>| {
        list.inspect_err(failed).unwrap_or_default().into_iter()
    };
    let mut kept = BTreeMap::new();
    let here = listed(blobs.list()).map(|digest| (digest, true));
    for (digest, is_here) in here.chain(listed(blobs.without_blob()).map(|one| (one, false))) {
        let Ok(marks) = blobs.marks(&digest).inspect_err(failed) else { continue };
        if is_given_up(engine, &marks) {
            match blobs.remove_of(&digest, &marks) {
                Ok(true) => tracing::info!(digest, ?marks, "an output went with its records"),
                // Another job has it now.
                Ok(false) => {}
                Err(error) => failed(&error),
            }
        } else if is_here {
            kept.insert(digest, marks);
        }
    }
    kept
}

/// Has the copies made that a blob lacks; gives whether all were. Members that were too slow for
/// one blob are not asked again while all are looked at.
async fn make_up(
    engine: &Engine,
    digest: &str,
    marks: &Marks,
    lacking: &Lacking,
    passed_over: &Mutex<BTreeSet<u64>>,
) -> bool {
    let slow = || passed_over.lock().unwrap_or_else(PoisonError::into_inner);
    let mut members = lacking.candidates.clone();
    members.retain(|member| !slow().contains(member));
    let until = Instant::now() + KEEP_WAIT;
    let ask = |member| async move {
        let kept = ask_to_keep(engine, member, digest, marks, until).await;
        if !kept && Instant::now() >= until {
            slow().insert(member);
        }
        kept
    };
    // None is asked in place of a slow one: it may have the copy soon.
    let pace = Pace { slow: until, until: until + LOOK_EVERY };
    let made = keepers(&members, lacking.wanted, pace, ask).await;
    if !made.is_empty() {
        let nodes: Vec<u32> = made.iter().copied().map(node_of).collect();
        tracing::info!(digest, ?nodes, "copies of an output were made");
    }
    made.len() >= lacking.wanted
}

/// Copies that this node is to make up for.
#[derive(Debug, PartialEq, Eq)]
struct Lacking {
    wanted: usize,
    candidates: Vec<u64>,
}

/// What is to be done about a blob of this node: a member that did not tell what it has may have
/// it, one that left the cluster has not; of several holders the first one copies, or who found
/// that a copy is missing.
fn lacking(
    (own, found): (u64, bool),
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
    match first || found {
        true => Lacking { wanted, candidates: ranked(digest, without) },
        false => Lacking { wanted: 0, candidates: Vec::new() },
    }
}

/// Whether all records that name a blob have been given up; no clock decides it.
fn is_given_up(engine: &Engine, marks: &Marks) -> bool {
    let state = engine.board.state();
    let gone = |job: &String| is_past(&state, job) && matches!(engine.archived_job(job), Ok(None));
    // The newest first: it is the likeliest to be there.
    let folded_are_gone = marks.records() < state.chain.floor_index.max(1);
    !marks.is_empty() && folded_are_gone && marks.jobs().iter().rev().all(gone)
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
        let of = |own: u64, told: &[(u64, bool)]| {
            lacking((own, false), "d", members.clone(), &lists(told))
        };
        let full = of(1, &[(2, true), (3, true), (4, false), (5, false)]);
        assert_eq!(full.wanted, 0);
        let one_lost = of(1, &[(2, true), (3, false), (4, false), (5, false)]);
        assert_eq!((one_lost.wanted, one_lost.candidates.len()), (1, 3));
        let not_first = of(2, &[(1, true), (3, false), (4, false), (5, false)]);
        assert_eq!(not_first.wanted, 0, "node 1 does it");
        let told = lists(&[(1, true), (3, false), (4, false), (5, false)]);
        let found = lacking((2, true), "d", members.clone(), &told);
        assert_eq!(found.wanted, 1, "node 2 knows of it, node 1 may not");
        let silent = of(1, &[(2, true), (4, false), (5, false)]);
        assert_eq!(silent.wanted, 0, "3 may have it");
        let alone = of(1, &[(2, false), (3, false), (4, false), (5, false)]);
        assert_eq!(alone.wanted, 2);
        let small = lacking((1, false), "d", BTreeSet::from([1, 2]), &lists(&[(2, false)]));
        assert_eq!(small, Lacking { wanted: 1, candidates: vec![2] });
        assert_eq!(lacking((1, false), "d", BTreeSet::from([1]), &lists(&[])).wanted, 0);
    }

    #[test]
    fn what_nobody_takes_is_offered_after_pauses_that_grow() {
        let (mut tries, mut now) = (Tries::default(), Instant::now());
        assert!(tries.is_due("a", now) && !tries.any_due(now));
        let mut pauses = Vec::new();
        for _ in 0..10 {
            tries.failed("a", now);
            let pause = tries.0["a"].pause;
            assert!(!tries.is_due("a", now + pause / 2) && tries.any_due(now + pause));
            (now, pauses) = (now + pause, [pauses, vec![pause.as_secs()]].concat());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 512, 600]);
        tries.failed("a", now);
        tries.begin("a".to_owned(), now);
        assert!(tries.is_due("b", now) && !tries.is_due("a", now), "each has its own");
        tries.hurry(now);
        assert!(tries.is_due("a", now), "others may take it");
        tries.failed("a", now);
        assert_eq!(tries.0["a"].pause, REVIEW_EVERY, "it has failed often");
    }
}
