//! Frames that wait to be written to one member: bounded in bytes, filled by any thread.
//!
//! `put` never blocks and wakes the writer; the writer takes all that is there at once, so that
//! frames which come together leave together. While the stream is down nothing is kept: what raft
//! wanted to say then is wrong when the stream is back, and raft says it again.

use super::wire::FRAME_BYTES_MAX;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes that may wait for one member: the largest frame, and the same again behind it.
const BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// What a frame is charged above its bytes, so that empty frames are bounded too.
const FRAME_CHARGE: usize = 64;

/// A frame on its way out.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its kind.
    pub kind: u8,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It will be written.
    Taken,
    /// The stream is down.
    Down,
    /// The outbox is full, since this frame.
    FullNow,
    /// The outbox is still full.
    Full,
    /// It can never be sent.
    Refused,
}

#[derive(Debug, Default)]
struct Waiting {
    open: bool,
    full: bool,
    frames: Vec<Frame>,
    /// Of the frames that wait and of those that the writer took and has not written yet.
    bytes: usize,
}

/// The outbox of one member.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame.
    pub fn put(&self, kind: u8, bytes: Vec<u8>) -> Put {
        if bytes.len() > FRAME_BYTES_MAX {
            return Put::Refused;
        }
        let was_empty = {
            let mut waiting = self.lock();
            let charge = bytes.len() + FRAME_CHARGE;
            if !waiting.open {
                return Put::Down;
            }
            if waiting.bytes + charge > BYTES_MAX {
                let told = std::mem::replace(&mut waiting.full, true);
                return if told { Put::Full } else { Put::FullNow };
            }
            waiting.bytes += charge;
            waiting.frames.push(Frame { kind, bytes });
            waiting.frames.len() == 1
        };
        if was_empty {
            self.filled.notify_one();
        }
        Put::Taken
    }

    /// Waits until frames are there and moves all of them into `batch`, which must be empty. What
    /// it gives back goes into [`Outbox::written`]. Safe to drop while it waits.
    pub async fn take(&self, batch: &mut Vec<Frame>) -> usize {
        loop {
            let taken = self.take_now(batch);
            if taken > 0 {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    /// As [`Outbox::take`], but 0 if there are none.
    pub fn take_now(&self, batch: &mut Vec<Frame>) -> usize {
        let mut waiting = self.lock();
        std::mem::swap(&mut waiting.frames, batch);
        drop(waiting);
        batch.iter().map(|frame| frame.bytes.len() + FRAME_CHARGE).sum()
    }

    /// Gives back the room of frames that were taken.
    pub fn written(&self, bytes: usize) {
        let mut waiting = self.lock();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        if waiting.bytes < BYTES_MAX / 2 {
            waiting.full = false;
        }
    }

    /// The stream is up.
    pub fn open(&self) {
        *self.lock() = Waiting { open: true, ..Waiting::default() };
    }

    /// The stream is down: what waited is dropped, with the number of those frames.
    pub fn close(&self) -> usize {
        std::mem::take(&mut *self.lock()).frames.len()
    }

    /// Whether the stream is up.
    pub fn is_open(&self) -> bool {
        self.lock().open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_is_bounded_and_says_so_once() {
        let outbox = Outbox::default();
        assert_eq!(outbox.put(1, vec![1]), Put::Down);
        outbox.open();
        assert_eq!(outbox.put(1, vec![0; FRAME_BYTES_MAX + 1]), Put::Refused);
        assert_eq!(outbox.put(1, vec![0; FRAME_BYTES_MAX]), Put::Taken);
        assert_eq!(outbox.put(2, vec![0; FRAME_BYTES_MAX]), Put::FullNow);
        assert_eq!(outbox.put(2, vec![0; FRAME_BYTES_MAX]), Put::Full);
        assert_eq!(outbox.put(2, vec![7]), Put::Taken);
        let mut batch = Vec::new();
        let taken = outbox.take_now(&mut batch);
        assert_eq!(batch.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(outbox.put(3, vec![0; FRAME_BYTES_MAX]), Put::Full, "taken is not written");
        outbox.written(taken);
        assert_eq!(outbox.put(3, vec![0; FRAME_BYTES_MAX]), Put::Taken);
        assert_eq!(outbox.close(), 1);
        assert_eq!(outbox.put(4, Vec::new()), Put::Down);
        outbox.open();
        batch.clear();
        assert_eq!(outbox.take_now(&mut batch), 0);
    }

    #[tokio::test]
    async fn a_writer_that_waits_is_woken_and_loses_nothing() {
        let outbox = std::sync::Arc::new(Outbox::default());
        outbox.open();
        let writer = std::sync::Arc::clone(&outbox);
        let reading = tokio::spawn(async move {
            let (mut all, mut batch) = (Vec::new(), Vec::new());
            while all.len() < 1_000 {
                let taken = writer.take(&mut batch).await;
                writer.written(taken);
                all.append(&mut batch);
            }
            all
        });
        for n in 0..1_000_u32 {
            assert_eq!(outbox.put(1, n.to_be_bytes().to_vec()), Put::Taken);
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let all = reading.await.expect("the writer");
        let numbers = all.iter().map(|frame| frame.bytes.clone());
        assert!(numbers.eq((0..1_000_u32).map(|n| n.to_be_bytes().to_vec())));
    }
}
