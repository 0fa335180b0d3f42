//! What was done to one register, and whether it is linearizable: judged by the tester of the crate
//! `stateright`, with a register of ours as its reference.
//!
//! A register is a path of the configuration: a value and the revision that wrote it, with
//! compare-and-set on the revision. It owns what clients called and were told, and what an observer
//! of all nodes saw written; it must not know how either comes about. `clients` tells it of calls,
//! the invariants of entries tell it of writes.
//!
//! `stateright` searches without a memory, so a history is given to it in **windows**: one ends
//! when no call is under way. Two things make its search go straight to the end of every window
//! that is linearizable. All writes have a revision, so their order is known: a call whose end its
//! client never learned stands in the window as the observer saw it, from the window's begin to the
//! moment at which its entry was first applied, or not at all. And calls that change nothing are
//! threads that the tester tries first: to place such a call early never hinders another one. So a
//! search that has not ended after a bound of steps for each call is one that finds nothing.

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Steps of a search for each call of a window: with so many threads and no way back, it takes at
/// most two for each client.
const STEPS_A_CALL: u64 = 1_000;

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
    /// Who called: one call at a time.
    pub client: usize,
    /// When it was made.
    pub called: u64,
    /// When it was answered, or given up.
    pub returned: u64,
    /// What it does.
    pub act: Act,
    /// What came of it.
    pub seen: Seen,
}

/// A write as the observer of all nodes saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The value; `None` if it was taken away.
    pub value: Option<u64>,
    /// The revision that did it.
    pub revision: u64,
    /// When its entry was first applied.
    pub moment: u64,
}

/// What was done to a register since the last window ended.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was in it then.
    value: Option<u64>,
    revision: u64,
    /// Calls under way.
    open: usize,
    /// Calls that were answered.
    calls: Vec<Observed>,
    written: Vec<Written>,
    /// Calls that nobody was told the end of, and that have not taken effect: values and the
    /// revisions that they expect, and how many that take away.
    unknown: BTreeMap<u64, Option<u64>>,
    unknown_deletes: u64,
}

impl History {
    /// A client calls.
    pub fn begins(&mut self) {
        self.open += 1;
    }

    /// A call came to its end; `None` if it has certainly not taken effect. An error is a window
    /// that has no order.
    pub fn ends(&mut self, call: Option<Observed>) -> Result<(), String> {
        self.open = self.open.saturating_sub(1);
        match call {
            Some(Observed { seen: Seen::Unknown, act, .. }) => match act {
                Act::Set { value, expect } => drop(self.unknown.insert(value, expect)),
                Act::Delete => self.unknown_deletes += 1,
                Act::Read => {}
            },
            Some(call) => self.calls.push(call),
            None => {}
        }
        self.judge()
    }

    /// The observer saw a write: an entry was applied for the first time.
    pub fn writes(&mut self, written: Written) {
        self.written.push(written);
    }

    /// Ends the window, if no call is under way. An error is why it has no order.
    pub fn judge(&mut self) -> Result<(), String> {
        if self.open > 0 || (self.calls.is_empty() && self.written.is_empty()) {
            return Ok(());
        }
        let mut calls = std::mem::take(&mut self.calls);
        let written = std::mem::take(&mut self.written);
        let from = (self.value, self.revision);
        let told = |why: &str, calls: &[Observed]| {
            let lines: Vec<String> = calls.iter().map(|call| format!("{call:?}")).collect();
            format!("{why}; from {from:?}, {written:?}:\n  {}", lines.join("\n  "))
        };
        if let Some(why) = self.claims(&mut calls, &written) {
            return Err(told(&why, &calls));
        }
        let revisions = written.iter().map(|write| write.revision).collect();
        let register = Register::new(from, revisions, calls.len());
        if !is_linearizable(register, &calls) {
            return Err(told("there is no order", &calls));
        }
        if let Some(last) = written.last() {
            self.value = last.value;
            self.revision = last.value.map_or(0, |_| last.revision);
        }
        Ok(())
    }

    /// Holds what callers were told of writes against what was written, and adds a call for each
    /// write that nobody was told of. Returns what does not fit.
    fn claims(&mut self, calls: &mut Vec<Observed>, written: &[Written]) -> Option<String> {
        let mut claimed = BTreeSet::new();
        for call in calls.iter() {
            let (Seen::Done(Some(revision)), value) = (&call.seen, value_of(&call.act)) else {
                continue;
            };
            let same = |write: &&Written| write.revision == *revision && write.value == value;
            if !claimed.insert(*revision) || !written.iter().any(|write| same(&write)) {
                return Some(format!("revision {revision} was not written by who was told so"));
            }
        }
        for write in written.iter().filter(|write| !claimed.contains(&write.revision)) {
            let act = match write.value {
                Some(value) => {
                    let asked = self.unknown.remove(&value);
                    asked.map(|expect| Act::Set { value, expect })
                }
                None => {
                    let left = self.unknown_deletes.checked_sub(1);
                    left.map(|left| self.unknown_deletes = left).map(|()| Act::Delete)
                }
            };
            let Some(act) = act else { return Some(format!("nobody asked for {write:?}")) };
            let (returned, seen) = (write.moment, Seen::Done(Some(write.revision)));
            calls.push(Observed { client: usize::MAX, called: 0, returned, act, seen });
        }
        None
    }
}

/// What a write leaves behind.
fn value_of(act: &Act) -> Option<u64> {
    match act {
        Act::Set { value, .. } => Some(*value),
        Act::Delete | Act::Read => None,
    }
}

/// The reference: what a register is when one call comes after the other.
#[derive(Clone, Debug)]
struct Register {
    value: Option<u64>,
    revision: u64,
    /// Revisions of the window's writes in their order, and how many were made.
    revisions: Rc<[u64]>,
    made: usize,
    /// Steps that the search may still take.
    steps: Rc<Cell<u64>>,
}

impl Register {
    fn new((value, revision): (Option<u64>, u64), revisions: Rc<[u64]>, calls: usize) -> Register {
        let steps = Rc::new(Cell::new(STEPS_A_CALL * calls as u64));
        Register { value, revision, revisions, made: 0, steps }
    }

    /// Makes the write of this revision, if it is the next one.
    fn takes(&mut self, value: Option<u64>, revision: u64) -> bool {
        let next = self.revisions.get(self.made) == Some(&revision);
        if next {
            (self.value, self.revision) = (value, value.map_or(0, |_| revision));
            self.made += 1;
        }
        next
    }
}

impl SequentialSpec for Register {
    type Op = Act;
    type Ret = Seen;

    /// Nothing is in flight when a window is judged, so nobody asks.
    fn invoke(&mut self, _: &Act) -> Seen {
        Seen::Unknown
    }

    fn is_valid_step(&mut self, act: &Act, seen: &Seen) -> bool {
        let Some(left) = self.steps.get().checked_sub(1) else { return false };
        self.steps.set(left);
        match (act, seen) {
            (Act::Set { value, expect }, Seen::Done(Some(revision))) => {
                let expected = expect.is_none_or(|expect| expect == self.revision);
                expected && self.takes(Some(*value), *revision)
            }
            (Act::Set { expect: Some(expect), .. }, Seen::Conflict) => self.revision != *expect,
            (Act::Delete, Seen::Done(Some(revision))) => {
                self.value.is_some() && self.takes(None, *revision)
            }
            (Act::Delete, Seen::Done(None)) => self.value.is_none(),
            (Act::Read, Seen::Value(value)) => self.value == *value,
            _ => false,
        }
    }
}

/// Whether a call changes the register, who made it, and the revision if nobody was told of it:
/// threads of the tester, in the order in which it tries them.
type Thread = (bool, usize, u64);

fn thread_of(call: &Observed) -> Thread {
    match call.seen {
        Seen::Done(Some(revision)) if call.client == usize::MAX => (true, call.client, revision),
        Seen::Done(Some(_)) => (true, call.client, 0),
        _ => (false, call.client, 0),
    }
}

/// Whether some order of the calls, each within its time, explains what every caller saw.
fn is_linearizable(register: Register, calls: &[Observed]) -> bool {
    let begins = calls.iter().map(|call| (call.called, false, call));
    let returns = calls.iter().map(|call| (call.returned, true, call));
    let mut moments: Vec<_> = begins.chain(returns).collect();
    moments.sort_by_key(|(moment, returns, _)| (*moment, *returns));
    let mut tester = LinearizabilityTester::new(register);
    for (_, returns, call) in moments {
        let thread = thread_of(call);
        let taken = match returns {
            false => tester.on_invoke(thread, call.act.clone()).map(drop),
            true => tester.on_return(thread, call.seen.clone()).map(drop),
        };
        if taken.is_err() {
            return false;
        }
    }
    tester.is_consistent()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client 0 sets, 1 and 2 do what they do; writes are seen when they are answered.
    fn call(client: usize, times: (u64, u64), act: Act, seen: Seen) -> Observed {
        Observed { client, called: times.0, returned: times.1, act, seen }
    }

    fn set(value: u64, expect: Option<u64>) -> Act {
        Act::Set { value, expect }
    }

    /// Judges the calls as one window; `late` are writes that nobody was told of.
    fn holds(calls: &[Observed], late: &[Written]) -> bool {
        let mut history = History::default();
        let told = calls.iter().filter_map(|call| match call.seen {
            Seen::Done(Some(revision)) => {
                Some(Written { value: value_of(&call.act), revision, moment: call.returned })
            }
            _ => None,
        });
        let mut written: Vec<Written> = told.chain(late.iter().copied()).collect();
        written.sort_by_key(|write| write.revision);
        calls.iter().for_each(|_| history.begins());
        written.into_iter().for_each(|write| history.writes(write));
        calls.iter().map(|call| history.ends(Some(call.clone()))).all(|ended| ended.is_ok())
    }

    #[test]
    fn a_read_sees_the_last_write_or_one_beside_it() {
        let write = call(0, (1, 4), set(7, None), Seen::Done(Some(2)));
        for (times, value, expected) in [
            ((2, 3), None, true),
            ((2, 3), Some(7), true),
            ((5, 6), Some(7), true),
            ((5, 6), None, false),
            ((5, 6), Some(8), false),
        ] {
            let read = call(1, times, Act::Read, Seen::Value(value));
            assert_eq!(holds(&[write.clone(), read], &[]), expected, "{times:?} {value:?}");
        }
    }

    #[test]
    fn of_two_compare_and_sets_on_one_revision_one_wins() {
        let first_of_all = call(0, (1, 2), set(1, None), Seen::Done(Some(2)));
        let first = call(0, (3, 9), set(2, Some(2)), Seen::Done(Some(3)));
        let second = call(1, (4, 8), set(3, Some(2)), Seen::Done(Some(4)));
        let refused = call(1, (4, 8), set(3, Some(2)), Seen::Conflict);
        assert!(!holds(&[first_of_all.clone(), first.clone(), second], &[]));
        assert!(holds(&[first_of_all, first, refused], &[]));
    }

    #[test]
    fn an_unanswered_write_happens_once_or_never_and_not_before_its_call() {
        let lost = call(0, (5, 30), set(1, None), Seen::Unknown);
        let read = |at: u64, value| call(1, (at, at + 1), Act::Read, Seen::Value(value));
        let done = |moment| [Written { value: Some(1), revision: 2, moment }];
        assert!(holds(&[lost.clone(), read(10, None), read(20, Some(1))], &done(15)));
        assert!(holds(&[lost.clone(), read(10, None), read(20, None)], &[]));
        assert!(!holds(&[lost.clone(), read(10, None), read(20, None)], &done(15)), "not seen");
        assert!(!holds(&[lost.clone(), read(10, Some(1)), read(20, None)], &done(9)), "gone");
        assert!(!holds(&[read(10, Some(1))], &done(9)), "nobody asked for it");
    }

    #[test]
    fn a_write_is_of_who_was_told_so_and_revisions_go_up() {
        let first = call(0, (1, 2), set(1, None), Seen::Done(Some(9)));
        let second = call(0, (3, 4), set(2, None), Seen::Done(Some(5)));
        assert!(!holds(&[first.clone(), second], &[]));
        let other = call(1, (3, 4), set(2, None), Seen::Done(Some(9)));
        assert!(!holds(&[first, other], &[]), "told of another's revision");
    }

    #[test]
    fn a_delete_of_nothing_makes_no_revision() {
        let nothing = call(0, (1, 2), Act::Delete, Seen::Done(None));
        let written = call(0, (3, 4), set(1, None), Seen::Done(Some(2)));
        let gone = call(0, (5, 6), Act::Delete, Seen::Done(Some(3)));
        assert!(holds(&[nothing.clone(), written.clone(), gone.clone()], &[]));
        let late = Observed { called: 7, returned: 8, ..nothing };
        assert!(holds(&[written.clone(), gone, late.clone()], &[]));
        assert!(!holds(&[written, late], &[]));
    }

    #[test]
    fn a_long_window_is_judged_straight_on_and_its_violation_soon() {
        let rounds = 60;
        let mut calls = vec![call(9, (0, 10_000), set(1, Some(5)), Seen::Conflict)];
        for round in 0..rounds {
            let (at, value) = (20 * round + 1, 100 + round);
            calls.push(call(0, (at, at + 12), set(value, None), Seen::Done(Some(10 + round))));
            for client in 1..5 {
                let old = Some(99 + round).filter(|_| round > 0);
                calls.push(call(client, (at + 1, at + 5), Act::Read, Seen::Value(old)));
                let new = Seen::Value(Some(value));
                calls.push(call(client, (at + 6, at + 14), Act::Read, new));
            }
        }
        assert!(holds(&calls, &[]));
        let stale = 20 * rounds + 1;
        calls.push(call(1, (stale, stale + 1), Act::Read, Seen::Value(Some(100))));
        assert!(!holds(&calls, &[]));
    }
}
