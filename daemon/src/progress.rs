//! How far running jobs say they are: best effort, never replicated, without a cursor (ruling 39).
//!
//! Owns the last word of each job, for `job_info`, and the newest words of all jobs in the order
//! in which they were said, for subscribers who are there. `pipeline/world` puts words in;
//! `methods` takes them out.

use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Jobs whose last word is remembered at once.
const JOBS_MAX: usize = 1_000;
/// Words that subscribers may still be behind.
const WORDS_MAX: usize = 1_000;

/// What a job said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The job's id.
    pub job: String,
    /// Whose job it is.
    pub user: String,
    /// From 0 to 100.
    pub percent: u8,
    /// What it is at.
    pub text: String,
}

impl Word {
    /// The event as a subscriber gets it.
    pub fn to_json(&self) -> Value {
        json!({"kind": "progress", "job": self.job, "percent": self.percent, "text": self.text})
    }
}

/// What jobs say.
#[derive(Default)]
pub struct Progress {
    said: Mutex<Said>,
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct Said {
    last: HashMap<String, (u8, String)>,
    words: VecDeque<Word>,
}

impl Progress {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a word.
    pub fn note(&self, word: Word) {
        let word = Word { percent: word.percent.min(100), ..word };
        let mut said = self.said();
        if said.last.len() >= JOBS_MAX {
            said.last.clear();
        }
        said.last.insert(word.job.clone(), (word.percent, word.text.clone()));
        if said.words.len() >= WORDS_MAX {
            said.words.pop_front();
        }
        said.words.push_back(word);
        // Under the lock, so that count and words fit.
        self.count.send_modify(|count| *count += 1);
    }

    /// How far a job said it is.
    pub fn of(&self, job: &str) -> Option<(u8, String)> {
        self.said().last.get(job).cloned()
    }

    /// How many words there were.
    pub fn count(&self) -> u64 {
        *self.count.borrow()
    }

    /// Follows [`Progress::count`].
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// The words after the first `heard`, as far as they are kept, and how many there are now.
    pub fn after(&self, heard: u64) -> (Vec<Word>, u64) {
        let said = self.said();
        let count = self.count();
        let new = usize::try_from(count.saturating_sub(heard)).unwrap_or(usize::MAX);
        let known = said.words.len().saturating_sub(new);
        (said.words.iter().skip(known).cloned().collect(), count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(job: &str, percent: u8) -> Word {
        Word { job: job.to_owned(), user: "admin".to_owned(), percent, text: "n11".to_owned() }
    }

    #[test]
    fn words_are_heard_once_and_the_last_one_is_known() {
        let progress = Progress::default();
        progress.note(word("11.1", 0));
        let (heard, count) = progress.after(0);
        assert_eq!((heard, count), (vec![word("11.1", 0)], 1));
        progress.note(word("11.1", 200));
        assert_eq!(progress.after(count), (vec![word("11.1", 100)], 2));
        assert_eq!(progress.after(2), (Vec::new(), 2));
        assert_eq!(progress.of("11.1"), Some((100, "n11".to_owned())));
        assert_eq!(word("11.1", 5).to_json()["kind"], "progress");
        for _ in 0..WORDS_MAX {
            progress.note(word("11.2", 1));
        }
        assert_eq!(progress.after(0).0.len(), WORDS_MAX, "who is far behind misses some");
    }
}
