//! Linearizable reads: many waiting reads share one round of the read index.
//!
//! Raft drops a read index silently when there is no leader, when a new leader has committed
//! nothing yet, or when messages are lost. So a round that is not answered in time is asked again
//! under a new number, and a read that waited too long is given up by name. The lease is never
//! used (ruling 25). Pure bookkeeping; [`super::Node`] does the asking.

use std::collections::{BTreeMap, VecDeque};

/// Rounds under way at once: one asks while others are on the wire.
const ROUNDS_MAX: usize = 4;

#[derive(Debug)]
struct Round {
    asked_tick: u64,
    reads: Vec<Read>,
}

#[derive(Debug, Clone, Copy)]
struct Read {
    ticket: u64,
    since_tick: u64,
}

/// The reads that wait for an index.
#[derive(Debug)]
pub(super) struct Reads {
    /// Random number of this run: an answer to the node's former life must not count.
    nonce: u64,
    next_round: u64,
    waiting: VecDeque<Read>,
    rounds: BTreeMap<u64, Round>,
    retry_ticks: u64,
    give_up_ticks: u64,
    count: usize,
}

impl Reads {
    pub(super) fn new(nonce: u64, retry_ticks: u64, give_up_ticks: u64) -> Reads {
        Reads {
            nonce,
            next_round: 1,
            waiting: VecDeque::new(),
            rounds: BTreeMap::new(),
            retry_ticks,
            give_up_ticks,
            count: 0,
        }
    }

    /// Reads that wait.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn add(&mut self, ticket: u64, tick: u64) {
        self.waiting.push_back(Read { ticket, since_tick: tick });
        self.count += 1;
    }

    /// The context of the next round, if reads wait for one.
    pub(super) fn next(&mut self, tick: u64) -> Option<Vec<u8>> {
        if self.waiting.is_empty() || self.rounds.len() >= ROUNDS_MAX {
            return None;
        }
        let number = self.next_round;
        self.next_round += 1;
        let reads = self.waiting.drain(..).collect();
        self.rounds.insert(number, Round { asked_tick: tick, reads });
        let mut context = self.nonce.to_le_bytes().to_vec();
        context.extend_from_slice(&number.to_le_bytes());
        Some(context)
    }

    /// Tickets of the round that raft answered; none if it was asked again meanwhile.
    pub(super) fn answered(&mut self, context: &[u8]) -> Vec<u64> {
        let (Some(nonce), Some(number)) = (context.get(..8), context.get(8..16)) else {
            return Vec::new();
        };
        if nonce != self.nonce.to_le_bytes() {
            return Vec::new();
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(number);
        let Some(round) = self.rounds.remove(&u64::from_le_bytes(bytes)) else {
            return Vec::new();
        };
        self.count -= round.reads.len();
        round.reads.into_iter().map(|read| read.ticket).collect()
    }

    /// Puts rounds back that were not answered in time, and returns the tickets given up.
    pub(super) fn tick(&mut self, tick: u64) -> Vec<u64> {
        let late = |round: &Round| tick >= round.asked_tick + self.retry_ticks;
        let late: Vec<u64> =
            self.rounds.iter().filter(|(_, round)| late(round)).map(|(nr, _)| *nr).collect();
        for number in late {
            if let Some(round) = self.rounds.remove(&number) {
                self.waiting.extend(round.reads);
            }
        }
        let mut given_up = Vec::new();
        let give_up_ticks = self.give_up_ticks;
        self.waiting.retain(|read| {
            let old = tick >= read.since_tick + give_up_ticks;
            if old {
                given_up.push(read.ticket);
            }
            !old
        });
        self.count -= given_up.len();
        given_up
    }

    /// Asks everything again: the leader that was asked is none any more.
    pub(super) fn leader_changed(&mut self) {
        for (_, round) in std::mem::take(&mut self.rounds) {
            self.waiting.extend(round.reads);
        }
    }

    /// All tickets, given up at once.
    pub(super) fn give_up(&mut self) -> Vec<u64> {
        self.leader_changed();
        self.count = 0;
        self.waiting.drain(..).map(|read| read.ticket).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_share_a_round_and_a_lost_round_is_asked_again_until_it_is_too_late() {
        let mut reads = Reads::new(77, 3, 10);
        assert_eq!(reads.next(0), None);
        (1..=3).for_each(|ticket| reads.add(ticket, 0));
        let first = reads.next(0).unwrap();
        reads.add(4, 1);
        let second = reads.next(1).unwrap();
        assert_eq!(reads.answered(&second), [4]);
        assert!(reads.tick(2).is_empty() && reads.next(2).is_none());
        assert!(reads.tick(3).is_empty());
        let again = reads.next(3).unwrap();
        assert_ne!(first, again);
        assert!(reads.answered(&first).is_empty(), "late answers do not count twice");
        let mut foreign = again.clone();
        foreign[0] ^= 1;
        assert!(reads.answered(&foreign).is_empty(), "nor those to a former life");
        assert_eq!((reads.tick(10), reads.count()), (vec![1, 2, 3], 0));
    }
}
