//! Blobs that are being fetched from other members: each by one at a time, and few at once.
//!
//! Owns nothing but their names. A disk that fills up is looked at between two pieces, so the
//! number of those who write at once bounds by how much the look can be late. `spread` takes a turn
//! and gives it back by dropping it.

use super::Blobs;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Blobs that are fetched at once.
const AT_ONCE: usize = 2;

/// Who fetches.
#[derive(Debug, Default)]
pub(super) struct Turns {
    under_way: Mutex<BTreeSet<String>>,
    freed: Notify,
}

impl Turns {
    fn under_way(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_begin(&self, digest: &str) -> bool {
        let mut under_way = self.under_way();
        under_way.len() < AT_ONCE && under_way.insert(digest.to_owned())
    }
}

/// The right to fetch a blob, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    blobs: Blobs,
    digest: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let turns = &self.blobs.shared.turns;
        turns.under_way().remove(&self.digest);
        turns.freed.notify_waiters();
    }
}

impl Blobs {
    /// Waits until nobody fetches this blob and few others are fetched.
    pub(super) async fn turn(&self, digest: &str) -> Turn {
        let turns = &self.shared.turns;
        loop {
            let mut freed = std::pin::pin!(turns.freed.notified());
            // From here on no word is missed.
            freed.as_mut().enable();
            if turns.try_begin(digest) {
                return Turn { blobs: self.clone(), digest: digest.to_owned() };
            }
            freed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[tokio::test]
    async fn a_blob_is_fetched_by_one_and_few_are_at_once() {
        let blobs = Blobs::of(Path::new("nowhere"));
        let first = blobs.turn("a").await;
        let (other, again) = (blobs.clone(), blobs.clone());
        let again = tokio::spawn(async move { again.turn("a").await });
        let second = blobs.turn("b").await;
        let third = tokio::spawn(async move { other.turn("c").await });
        tokio::task::yield_now().await;
        assert!(!again.is_finished() && !third.is_finished());
        drop(second);
        let third = third.await.unwrap();
        assert!(!again.is_finished(), "a is under way");
        drop(first);
        again.await.unwrap();
        drop(third);
        assert_eq!(blobs.shared.turns.under_way().len(), 0);
    }
}
