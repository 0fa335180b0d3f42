//! What a job's function is told of a command that it asks for: a command is named by its key and
//! the digest of its arguments, and what is recorded of it comes back at once (ruling 10).

use crate::Office;
use crate::run::Told;
use serde_json::Value;
use tiebeam_core::State;
use tiebeam_core::effect::Answer;
use tiebeam_proto::record::CommandRecord;

/// Pause before an intent, or the cancel of a part, that the log did not take is proposed again,
/// in microseconds.
const INTEND_AGAIN_US: u64 = 50_000;

/// What is to be done for a function that asks for a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// It ended; this is its record.
    Ended(Box<CommandRecord>),
    /// It has an intent: its end is to be awaited.
    Await,
    /// It has none: one is to be proposed, and then this is asked again.
    Intend,
    /// The function cannot have it.
    Refused(Refusal),
}

/// Why a function cannot have a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The job was cancelled.
    Cancelled(String),
    /// Its deadline passed before the command began.
    Late(String),
    /// Nobody can say what becomes of the command.
    Indeterminate(String),
}

/// What a function that asks for the command `key` of this digest gets.
pub fn ask(state: &State, job: u64, key: &str, digest: &str) -> Ask {
    let indeterminate = |text: &str| Ask::Refused(Refusal::Indeterminate(text.to_owned()));
    let Some(live) = state.jobs.get(&job).filter(|job| !job.has_ended()) else {
        return indeterminate("the job ended before its command did");
    };
    match live.command(key) {
        None => Ask::Intend,
        Some(known) if known.digest != digest => indeterminate(
            "the job's code changed: a command has other arguments than were recorded",
        ),
        Some(_) => match live.record.commands.iter().find(|record| record.name == key) {
            Some(record) if record.result != "open" => {
                Ask::Ended(Box::new(CommandRecord::clone(record)))
            }
            _ => Ask::Await,
        },
    }
}

/// What an earlier run of a job recorded under this key (ruling 10).
pub fn recorded(state: &State, job: u64, key: &str) -> Option<Value> {
    state.jobs.get(&job)?.recorded.get(key).cloned()
}

/// What follows from the log's word on an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intended {
    /// [`ask`] again, after so many microseconds: the command has its intent, or gets it by
    /// another proposal. Apply takes the second one for the first.
    AskIn(u64),
    /// The function cannot have its command.
    Refused(Refusal),
}

/// What follows from the log's word on an intent, or on a value that is to be recorded. What nobody
/// can tell of an intent is no doubt about its job: nothing runs but what State holds.
pub fn intended(state: &State, job: u64, told: Told<'_>, office: Office) -> Intended {
    match told {
        Told::Answered(Answer::Refused(error)) => {
            let live = state.jobs.get(&job);
            let text = error.message.clone();
            Intended::Refused(match live {
                Some(job) if job.cancel.is_some() => Refusal::Cancelled(text),
                Some(job) if state.clock_us >= job.deadline_us => Refusal::Late(text),
                _ => Refusal::Indeterminate(text),
            })
        }
        Told::Answered(_) | Told::Unknown => Intended::AskIn(0),
        // The log is full, or leadership is being handed over and may stay.
        Told::TooBusy | Told::NotMaster if office.leads => Intended::AskIn(INTEND_AGAIN_US),
        // Nobody's outcome: whoever leads runs the function again.
        Told::TooBusy | Told::NotMaster => {
            Intended::Refused(Refusal::Indeterminate("this node is not the master".to_owned()))
        }
    }
}

/// What follows from the log's word on the cancel of a job's part: it is proposed again after so
/// many microseconds. `None` if it is in the log, or another master runs the job and comes here.
pub fn cancelled(told: Told<'_>, office: Office) -> Option<u64> {
    match told {
        Told::Answered(_) => None,
        _ => office.leads.then_some(INTEND_AGAIN_US),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cancel_of_a_part_is_proposed_until_it_is_in_the_log() {
        let leads = Office { leads: true, term: 3 };
        for told in [Told::TooBusy, Told::NotMaster, Told::Unknown] {
            assert_eq!(cancelled(told, leads), Some(INTEND_AGAIN_US));
            assert_eq!(cancelled(told, Office::default()), None, "another master's");
        }
        assert_eq!(cancelled(Told::Answered(&Answer::Cancel("stopping")), leads), None);
    }

    #[test]
    fn an_intent_of_which_nobody_knows_is_asked_for_again() {
        let state = State::default();
        let office = Office { leads: true, term: 3 };
        let told = |told| intended(&state, 7, told, office);
        assert_eq!(told(Told::Unknown), Intended::AskIn(0));
        assert_eq!(told(Told::NotMaster), Intended::AskIn(INTEND_AGAIN_US));
        assert_eq!(told(Told::TooBusy), Intended::AskIn(INTEND_AGAIN_US));
        let gone = intended(&state, 7, Told::NotMaster, Office::default());
        assert!(matches!(gone, Intended::Refused(Refusal::Indeterminate(_))));
    }

    #[test]
    fn a_command_that_came_too_late_for_its_job_makes_no_doubt() {
        use tiebeam_core::fixture::{apply, intent, state, submission};
        use tiebeam_core::proposal::{Body, Schedule};
        let mut state = state();
        let call = submission(&state);
        apply(&mut state, Body::Submit(Box::new(call)));
        apply(&mut state, Body::Schedule(Schedule { job: 1, time: Default::default() }));
        state.clock_us = state.jobs[&1].deadline_us;
        let answer = apply(&mut state, intent(11)).0;
        let office = Office { leads: true, term: 1 };
        let next = intended(&state, 1, Told::Answered(&answer), office);
        assert!(matches!(next, Intended::Refused(Refusal::Late(_))), "{next:?}");
    }

    #[test]
    fn a_job_that_is_gone_has_no_commands() {
        let asked = ask(&State::default(), 7, "run-n11", "d");
        assert!(matches!(asked, Ask::Refused(Refusal::Indeterminate(_))));
    }
}
