//! What a job's function is told of a command that it asks for: a command is named by its key and
//! the digest of its arguments, and what is recorded of it comes back at once (ruling 10).

use crate::Office;
use crate::run::Told;
use tiebeam_core::State;
use tiebeam_core::effect::Answer;
use tiebeam_proto::record::CommandRecord;

/// Pause before an intent that the log did not take is proposed again, in microseconds.
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
            Some(record) if record.result != "open" => Ask::Ended(Box::new(record.clone())),
            _ => Ask::Await,
        },
    }
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

/// What follows from the log's word on an intent. What nobody can tell of an intent is no doubt
/// about its job: nothing runs but what State holds.
pub fn intended(state: &State, job: u64, told: Told<'_>, office: Office) -> Intended {
    match told {
        Told::Answered(Answer::Refused(error)) => {
            let live = state.jobs.get(&job);
            let text = error.message.clone();
            Intended::Refused(match live.is_some_and(|job| job.cancel.is_some()) {
                true => Refusal::Cancelled(text),
                false => Refusal::Indeterminate(text),
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_job_that_is_gone_has_no_commands() {
        let asked = ask(&State::default(), 7, "run-n11", "d");
        assert!(matches!(asked, Ask::Refused(Refusal::Indeterminate(_))));
    }
}
