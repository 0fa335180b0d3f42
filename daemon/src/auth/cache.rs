//! Remembers for some minutes that credentials were right, so that a request does not pay a hash.
//!
//! This module owns the memory of successes and the flights of verifications under way: calls with
//! the same credentials at the same time pay one hash. The key is an HMAC, under a random key of
//! this process, of user, password and the user's credential revision: a change of password or
//! rights makes every older entry useless, and no password is kept. It reads no clock.

use crate::keys::{KeyError, cluster::random};
use ring::hmac;
use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::OnceCell;

/// Successes that are remembered: more than the users of any cluster at 100 bytes each.
pub const ENTRIES_MAX: usize = 4096;
/// How long a success is remembered, in milliseconds: 10 minutes.
pub const AGE_MS: u64 = 600_000;

/// What stands for credentials.
pub type CacheKey = [u8; 32];

/// What flight a call was in, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flown {
    /// The credentials were found right some minutes ago.
    Remembered,
    /// They were verified just now, by this call or by another one at the same time.
    Verified(Answer),
}

/// How a verification ended, for all who waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The credentials are right.
    Right,
    /// They are not.
    Wrong,
    /// Nobody had the time to find out.
    Busy,
}

/// The memory of successes.
pub struct Cache {
    secret: hmac::Key,
    entries_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// When each success is forgotten.
    expires: HashMap<CacheKey, u64>,
    /// The same, oldest first; the number keeps two of one millisecond apart.
    order: BTreeMap<(u64, u64), CacheKey>,
    number: u64,
    flights: HashMap<CacheKey, Arc<OnceCell<Answer>>>,
}

impl Cache {
    /// An empty memory with a new random key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new(entries_max: usize) -> Result<Cache, KeyError> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        Ok(Cache { secret, entries_max, inner: Mutex::default() })
    }

    /// The key of credentials.
    pub fn key(&self, user: &str, password: &str, credential_revision: u64) -> CacheKey {
        // The parts cannot run into each other: a user's name has no zero byte, and the revision
        // has a fixed length.
        let mut mac = hmac::Context::with_key(&self.secret);
        mac.update(user.as_bytes());
        mac.update(&[0]);
        mac.update(password.as_bytes());
        mac.update(&[0]);
        mac.update(&credential_revision.to_be_bytes());
        let mut key = CacheKey::default();
        key.copy_from_slice(mac.sign().as_ref());
        key
    }

    /// Whether these credentials are remembered as right.
    pub fn remembers(&self, key: &CacheKey, now_ms: u64) -> bool {
        self.lock().expires.get(key).is_some_and(|expires| now_ms < *expires)
    }

    /// Remembers that something was right, for [`AGE_MS`]; the oldest make room.
    pub fn remember(&self, key: CacheKey, now_ms: u64) {
        self.lock().remember(key, now_ms, self.entries_max);
    }

    /// Answers from memory, or verifies; calls with one key at the same time verify once.
    ///
    /// If the call that verifies is dropped, the next one that waits takes over.
    pub async fn once<F>(&self, key: CacheKey, now_ms: u64, verify: impl FnOnce() -> F) -> Flown
    where
        F: Future<Output = Answer>,
    {
        if self.remembers(&key, now_ms) {
            return Flown::Remembered;
        }
        let cell = Arc::clone(self.lock().flights.entry(key).or_default());
        let landing = Landing { cache: self, key, cell };
        let answer = *landing.cell.get_or_init(verify).await;
        if answer == Answer::Right {
            self.remember(key, now_ms);
        }
        Flown::Verified(answer)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics under this lock; if something did, the worst is a hash too many.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remember(&mut self, key: CacheKey, now_ms: u64, entries_max: usize) {
        if self.expires.get(&key).is_some_and(|expires| now_ms < *expires) {
            return;
        }
        let expires = now_ms.saturating_add(AGE_MS);
        self.number = self.number.wrapping_add(1);
        self.expires.insert(key, expires);
        self.order.insert((expires, self.number), key);
        while self.expires.len() > entries_max
            || self.order.first_key_value().is_some_and(|((expires, _), _)| *expires <= now_ms)
        {
            let Some(((expires, _), oldest)) = self.order.pop_first() else { break };
            // A key may have been remembered again since; then the newer time stays.
            if self.expires.get(&oldest) == Some(&expires) {
                self.expires.remove(&oldest);
            }
        }
    }
}

/// Ends a call's part in a flight, also if the call is dropped.
struct Landing<'a> {
    cache: &'a Cache,
    key: CacheKey,
    cell: Arc<OnceCell<Answer>>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut inner = self.cache.lock();
        let ours = inner.flights.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        // Two hold the cell: the table and this call. Whoever is last clears the table; a flight
        // that ended must not be boarded any more.
        if ours && (self.cell.initialized() || Arc::strong_count(&self.cell) == 2) {
            inner.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn cache(entries: usize) -> Cache {
        Cache::new(entries).unwrap_or_else(|e| panic!("{e}"))
    }

    #[tokio::test]
    async fn a_burst_with_the_same_credentials_verifies_once() {
        let cache = Arc::new(cache(10));
        let verified = Arc::new(AtomicU32::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let key = cache.key("a", "b", 1);
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let (cache, verified, gate) = (cache.clone(), verified.clone(), gate.clone());
                tokio::spawn(async move {
                    let verify = || async {
                        verified.fetch_add(1, Ordering::Relaxed);
                        gate.acquire().await.expect("gate").forget();
                        Answer::Right
                    };
                    cache.once(key, 0, verify).await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        gate.add_permits(1);
        for call in calls {
            call.await.expect("a call");
        }
        assert_eq!(verified.load(Ordering::Relaxed), 1);
        assert!(cache.remembers(&key, AGE_MS - 1) && !cache.remembers(&key, AGE_MS));
        assert!(cache.lock().flights.is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered_and_a_dropped_call_is_taken_over() {
        let cache = cache(10);
        let key = cache.key("a", "b", 1);
        let wrong = cache.once(key, 0, || async { Answer::Wrong }).await;
        assert_eq!(wrong, Flown::Verified(Answer::Wrong));
        let mut leader = Box::pin(cache.once(key, 0, std::future::pending::<Answer>));
        let mut follower = Box::pin(cache.once(key, 0, || async { Answer::Right }));
        tokio::select! {
            biased;
            _ = &mut leader => unreachable!("it never ends"),
            _ = &mut follower => unreachable!("it waits for the leader"),
            () = tokio::task::yield_now() => {}
        }
        drop(leader);
        assert_eq!(follower.await, Flown::Verified(Answer::Right));
        assert!(cache.lock().flights.is_empty());
        let again = cache.once(key, 1, || async { Answer::Wrong }).await;
        assert_eq!(again, Flown::Remembered);
    }

    #[test]
    fn credentials_have_one_key_each_and_a_new_revision_another() {
        let cache = cache(10);
        let key = cache.key("user", "password", 7);
        assert_eq!(key, cache.key("user", "password", 7));
        for other in [
            cache.key("user", "password", 8),
            cache.key("user", "passwor", 7),
            cache.key("userp", "assword", 7),
            cache.key("user", "password\0", 7),
            super::tests::cache(10).key("user", "password", 7),
        ] {
            assert_ne!(key, other);
        }
    }

    #[test]
    fn the_oldest_make_room_and_the_expired_go() {
        let cache = cache(3);
        let keys: Vec<_> = (0..5).map(|n| cache.key("u", "p", n)).collect();
        for (now, key) in (0..).zip(&keys) {
            cache.remember(*key, now);
        }
        let remembered: Vec<_> = keys.iter().map(|key| cache.remembers(key, 5)).collect();
        assert_eq!(remembered, [false, false, true, true, true]);
        cache.remember(keys[0], AGE_MS + 10);
        let inner = cache.lock();
        assert_eq!((inner.expires.len(), inner.order.len()), (1, 1));
    }
}
