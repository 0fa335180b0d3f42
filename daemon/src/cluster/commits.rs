//! Calls that wait until a change is applied by the awaited members: woken by index, so that a
//! thousand waiters cost nothing while others are served.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::oneshot;

/// Who waits for which index.
#[derive(Default)]
pub struct Commits(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    last: u64,
    by_index: BTreeMap<(u64, u64), oneshot::Sender<()>>,
}

impl Commits {
    /// Resolves when [`Commits::raise`] reaches `index`.
    pub fn wait(&self, index: u64) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.last += 1;
        let number = waiting.last;
        waiting.by_index.insert((index, number), tell);
        told
    }

    /// Wakes who waits for an index up to the one that `reached` finds; it is asked only if
    /// somebody waits.
    pub fn raise(&self, reached: impl FnOnce() -> u64) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.by_index.is_empty() {
            return;
        }
        let later = match reached().checked_add(1) {
            Some(next) => waiting.by_index.split_off(&(next, 0)),
            None => BTreeMap::new(),
        };
        for (_, tell) in std::mem::replace(&mut waiting.by_index, later) {
            // Whoever gave up waiting has answered already.
            let _ = tell.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_at_its_index_and_not_before() {
        let commits = Commits::default();
        commits.raise(|| panic!("nobody waits"));
        let (mut low, mut high) = (commits.wait(5), commits.wait(9));
        commits.raise(|| 4);
        assert!(low.try_recv().is_err());
        commits.raise(|| 8);
        assert!(low.try_recv().is_ok() && high.try_recv().is_err());
        commits.raise(|| u64::MAX);
        assert!(high.try_recv().is_ok());
    }
}
