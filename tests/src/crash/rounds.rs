//! What every kind of rounds has: a daemon, the ledger of what it acknowledged, random choices, and
//! the loop around them.
//!
//! [`super::kill`] and [`super::power`] say how a round ends; writers and their end, the words that
//! a failure is told with, and what is kept of a failed run are here.

use super::ledger::Ledger;
use super::load::{Call, Seen, Writer, Writing};
use super::subject::{Started, Subject};
use super::{Dice, Failure, Options};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Writers at once.
const WRITERS: u64 = 4;
/// Lines of the daemon's log that a failure is told with.
const LAST_WORDS: usize = 20;

/// The daemon of a run and what is known of it.
pub(super) struct Ground {
    pub subject: Subject,
    pub ledger: Ledger,
    pub dice: Dice,
}

/// One kind of rounds.
pub(super) trait Rounds {
    /// Its daemon.
    fn ground(&mut self) -> &mut Ground;

    /// Makes a round, counted from 0.
    async fn round(&mut self, round: u32) -> Result<(), Failure>;
}

/// Makes the rounds, until something is found; how many were made.
pub(super) async fn run(kind: &mut impl Rounds, options: &Options) -> Result<u32, Failure> {
    for round in 0..options.rounds {
        let ended = kind.round(round).await;
        let Ground { subject, ledger, .. } = kind.ground();
        let found = !ledger.findings.is_empty();
        if found || ended.is_err() {
            subject.keep();
        }
        ended.map_err(|error| {
            let words = subject.last_words(LAST_WORDS);
            let findings = ledger.findings.join("\n");
            format!("round {round}, seed {}: {error}\n{findings}\n{words}", options.seed)
        })?;
        if found {
            return Ok(round + 1);
        }
    }
    Ok(options.rounds)
}

/// Writers that call until they are stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    writings: Vec<Writing>,
}

impl Ground {
    /// Starts the writers of a round; `marks` is where their commands leave marks, if they may run
    /// any.
    pub(super) fn load(&mut self, round: &str, marks: Option<PathBuf>) -> Result<Load, Failure> {
        let mut load = Load { stop: Arc::default(), writings: Vec::new() };
        for number in 0..WRITERS {
            let writer = Writer {
                number,
                round: round.to_owned(),
                user: self.ledger.users.get(&number).copied().unwrap_or(false),
                marks: marks.clone(),
                dice: Dice::new(self.dice.bits()),
            };
            load.writings.push(writer.spawn(self.subject.rpc()?, load.stop.clone()));
        }
        Ok(load)
    }
}

impl Load {
    /// Ends the writers: what they called, and what they know of it.
    pub(super) async fn end(self) -> Result<Vec<Call>, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        for writing in self.writings {
            calls.extend(writing.await?);
        }
        Ok(calls)
    }
}

/// The verification of the whole chain, as one more call that has no answer yet.
pub(super) fn verification(round: u32) -> Call {
    let key = format!("verify-{round}");
    Call { key, job: "history_verify", params: json!({}), seen: Seen::Nothing }
}

/// Starts the daemon; it must answer.
pub(super) async fn first_answer(subject: &mut Subject) -> Result<Duration, Failure> {
    match subject.start().await? {
        Started::Answers(after) => Ok(after),
        Started::Damaged => {
            subject.keep();
            Err(format!("the daemon found damage: {}", subject.last_words(3)).into())
        }
        Started::Ended(status) => {
            subject.keep();
            Err(format!("the daemon did not start ({status}): {}", subject.last_words(1)).into())
        }
    }
}

/// Prints what is wrong.
pub(super) fn print_findings(findings: &[String]) {
    println!("{} findings", findings.len());
    for finding in findings {
        println!("  {finding}");
    }
}
