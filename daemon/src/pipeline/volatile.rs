//! Results of volatile reads: nobody keeps a record, only this master knows them, for 5 minutes
//! (ruling 25). Their ids are `<node>.v<number>`.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tiebeam_proto::ResultObject;

/// How long a result is kept.
const AGE: Duration = Duration::from_secs(300);
/// Results kept at once: `job_exec` does not need them kept, only `job_start` does.
const KEPT_MAX: usize = 1_000;

/// The kept results.
pub struct VolatileResults {
    node: u32,
    inner: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    results: VecDeque<(Instant, String, ResultObject)>,
}

impl VolatileResults {
    /// No results, on this node.
    pub fn new(node: u32) -> VolatileResults {
        VolatileResults { node, inner: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next id.
    pub fn next_id(&self) -> String {
        let mut kept = self.kept();
        kept.last += 1;
        format!("{}.v{}", self.node, kept.last)
    }

    /// Keeps a result of `user`.
    pub fn keep(&self, user: &str, result: ResultObject) {
        let mut kept = self.kept();
        let now = Instant::now();
        let is_old = |oldest: &(Instant, String, ResultObject)| now.duration_since(oldest.0) > AGE;
        while kept.results.len() >= KEPT_MAX || kept.results.front().is_some_and(is_old) {
            kept.results.pop_front();
        }
        kept.results.push_back((now, user.to_owned(), result));
    }

    /// The result with this id, if it is this user's.
    pub fn find(&self, user: &str, id: &str) -> Option<ResultObject> {
        let kept = self.kept();
        let found = kept.results.iter().find(|(made, owner, result)| {
            result.result_jobid == id && owner == user && made.elapsed() <= AGE
        });
        found.map(|(_, _, result)| result.clone())
    }
}

/// Whether an id is one of a volatile read.
pub fn is_volatile(id: &str) -> bool {
    id.split_once(".v").is_some_and(|(node, number)| {
        [node, number].iter().all(|part| {
            !part.is_empty() && part.len() < 20 && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    })
}
