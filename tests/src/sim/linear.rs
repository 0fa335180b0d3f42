//! Is a history of calls on one register linearizable? A search after Wing and Gong, with the
//! states that were seen remembered.
//!
//! A register is a path of the configuration: a value and the revision that wrote it, with
//! compare-and-set on the revision. Calls that were never answered may have taken effect at any
//! time after they were made, once, or never. Pure; it knows nothing of the simulation.

use std::collections::HashSet;

/// What a call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Writes a value, if the last change was in the revision that is expected.
    Set {
        /// The value; no two calls write the same.
        value: u64,
        /// The revision; 0 if nothing is there.
        expect: Option<u64>,
    },
    /// Takes the value away.
    Delete,
    /// Reads.
    Read,
}

/// What the caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was done, with this revision if it changed something.
    Done(Option<u64>),
    /// This was there.
    Value(Option<u64>),
    /// The last change was in another revision than the expected one.
    Conflict,
    /// Nothing: it may have taken effect or not.
    Unknown,
}

/// A call as the outside saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// When it was made.
    pub called: u64,
    /// When it was answered; for ever if it was not.
    pub returned: u64,
    /// What it does.
    pub act: Act,
    /// What came of it.
    pub seen: Seen,
}

/// What is in the register. The revision is not known after a write that nobody was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Register {
    value: Option<u64>,
    revision: Option<u64>,
}

impl Register {
    fn may_be_at(self, expect: Option<u64>) -> bool {
        expect.is_none_or(|wanted| self.revision.is_none_or(|revision| revision == wanted))
    }

    /// The register after `call`; `None` if the call cannot have seen what it saw here.
    fn after(self, call: &Observed) -> Option<Register> {
        let same = |holds: bool| holds.then_some(self);
        match (&call.act, &call.seen) {
            (Act::Set { value, expect }, Seen::Done(Some(revision))) => {
                let later = self.revision.is_none_or(|now| now < *revision);
                let next = Register { value: Some(*value), revision: Some(*revision) };
                (later && self.may_be_at(*expect)).then_some(next)
            }
            (Act::Set { value, expect }, Seen::Unknown) => {
                let next = Register { value: Some(*value), revision: None };
                self.may_be_at(*expect).then_some(next)
            }
            (Act::Set { expect: Some(expect), .. }, Seen::Conflict) => {
                same(self.revision != Some(*expect))
            }
            (Act::Delete, Seen::Done(Some(_)) | Seen::Unknown) => {
                let next = Register { value: None, revision: Some(0) };
                self.value.is_some().then_some(next)
            }
            (Act::Delete, Seen::Done(None)) => same(self.value.is_none()),
            (Act::Read, Seen::Value(value)) => same(self.value == *value),
            (Act::Read, Seen::Unknown) => Some(self),
            _ => None,
        }
    }
}

/// Whether some order of the calls, each within its time, explains what every caller saw. The
/// register is empty at first.
pub fn is_linearizable(calls: &[Observed]) -> bool {
    let mut search = Search { calls, tried: HashSet::new(), done: vec![0; calls.len() / 64 + 1] };
    search.goes_on(Register { value: None, revision: Some(0) })
}

struct Search<'a> {
    calls: &'a [Observed],
    tried: HashSet<(Vec<u64>, Register)>,
    done: Vec<u64>,
}

impl Search<'_> {
    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] & (1 << (at % 64)) != 0
    }

    fn flip(&mut self, at: usize) {
        self.done[at / 64] ^= 1 << (at % 64);
    }

    fn goes_on(&mut self, register: Register) -> bool {
        if !self.tried.insert((self.done.clone(), register)) {
            return false;
        }
        let open: Vec<usize> = (0..self.calls.len()).filter(|at| !self.is_done(*at)).collect();
        let answered = |at: &&usize| self.calls[**at].seen != Seen::Unknown;
        // Nothing may come before a call that was answered before it was made.
        let Some(first_answer) =
            open.iter().filter(answered).map(|at| self.calls[*at].returned).min()
        else {
            return true;
        };
        for at in open {
            let call = &self.calls[at];
            if call.called > first_answer {
                continue;
            }
            if let Some(next) = register.after(call) {
                self.flip(at);
                if self.goes_on(next) {
                    return true;
                }
                self.flip(at);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(times: (u64, u64), act: Act, seen: Seen) -> Observed {
        Observed { called: times.0, returned: times.1, act, seen }
    }

    fn set(value: u64, expect: Option<u64>) -> Act {
        Act::Set { value, expect }
    }

    #[test]
    fn a_read_sees_the_last_write_or_one_beside_it() {
        let write = call((1, 4), set(7, None), Seen::Done(Some(2)));
        for (times, value, holds) in [
            ((2, 3), None, true),
            ((2, 3), Some(7), true),
            ((5, 6), Some(7), true),
            ((5, 6), None, false),
            ((5, 6), Some(8), false),
        ] {
            let read = call(times, Act::Read, Seen::Value(value));
            assert_eq!(is_linearizable(&[write.clone(), read]), holds, "{times:?} {value:?}");
        }
    }

    #[test]
    fn of_two_compare_and_sets_on_one_revision_one_wins() {
        let base = call((1, 2), set(1, None), Seen::Done(Some(2)));
        let first = call((3, 9), set(2, Some(2)), Seen::Done(Some(3)));
        let second = call((4, 8), set(3, Some(2)), Seen::Done(Some(4)));
        let refused = call((4, 8), set(3, Some(2)), Seen::Conflict);
        assert!(!is_linearizable(&[base.clone(), first.clone(), second]));
        assert!(is_linearizable(&[base, first, refused]));
    }

    #[test]
    fn an_unanswered_write_happens_once_or_never_and_not_before_its_call() {
        let lost = call((5, u64::MAX), set(1, None), Seen::Unknown);
        let read = |at: u64, value| call((at, at + 1), Act::Read, Seen::Value(value));
        assert!(is_linearizable(&[lost.clone(), read(10, None), read(20, Some(1))]));
        assert!(is_linearizable(&[lost.clone(), read(10, None), read(20, None)]));
        assert!(!is_linearizable(&[lost.clone(), read(1, Some(1))]));
        assert!(!is_linearizable(&[lost, read(10, Some(1)), read(20, None)]));
    }

    #[test]
    fn revisions_go_up_in_the_order_of_the_writes() {
        let first = call((1, 2), set(1, None), Seen::Done(Some(9)));
        let second = call((3, 4), set(2, None), Seen::Done(Some(5)));
        assert!(!is_linearizable(&[first, second]));
    }

    #[test]
    fn a_delete_of_nothing_makes_no_revision() {
        let nothing = call((1, 2), Act::Delete, Seen::Done(None));
        let written = call((3, 4), set(1, None), Seen::Done(Some(2)));
        let gone = call((5, 6), Act::Delete, Seen::Done(Some(3)));
        assert!(is_linearizable(&[nothing.clone(), written.clone(), gone.clone()]));
        assert!(!is_linearizable(&[gone, nothing]));
    }
}
