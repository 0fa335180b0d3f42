//! How many calls wait for jobs: a bound per user and per node (ruling 37).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tiebeam_proto::limits::{WAITING_PER_NODE_MAX, WAITING_PER_USER_MAX};
use tiebeam_proto::{ErrorCode, RpcError};

/// The counts.
#[derive(Default)]
pub struct Waiting {
    inner: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_user: HashMap<String, usize>,
}

/// A call that waits; counted until this is dropped.
pub struct Waits {
    waiting: Arc<Waiting>,
    user: String,
}

impl Waiting {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more call of `user`.
    ///
    /// # Errors
    /// `too_busy` if that is one too many.
    pub fn begin(self: &Arc<Waiting>, user: &str) -> Result<Waits, RpcError> {
        let mut counts = self.counts();
        let of_user = counts.by_user.get(user).copied().unwrap_or(0);
        if of_user >= WAITING_PER_USER_MAX || counts.all >= WAITING_PER_NODE_MAX {
            let text = format!("{of_user} of your calls are waiting already");
            return Err(RpcError::new(ErrorCode::TooBusy, text)
                .hint("start jobs with job_start and ask for their results later"));
        }
        counts.all += 1;
        *counts.by_user.entry(user.to_owned()).or_default() += 1;
        Ok(Waits { waiting: self.clone(), user: user.to_owned() })
    }

    /// How many calls wait now.
    pub fn count(&self) -> usize {
        self.counts().all
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut counts = self.waiting.counts();
        counts.all -= 1;
        if let Some(count) = counts.by_user.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                counts.by_user.remove(&self.user);
            }
        }
    }
}
