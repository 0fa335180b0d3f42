//! A command's journal on its node: its lines, what they say together, and what may follow from
//! them (ruling 9).
//!
//! The daemon and the shim are the only writers, and every decision is "lock, read, append":
//! whichever of a shim that begins and a daemon that fences comes first, the other one sees it.
//! `P` is how a driver names a process.
//!
//! Order of lines in a life: `intent` (daemon, before the spawn) → `running` (shim, before it
//! starts the program) → `spawned` → `ended` (shim). An `intent` without `running` means that the
//! program did not run; `void` takes that intent back, `refused` forbids all later ones. `lost`
//! is the daemon's finding that a shim went without an end.

use crate::end::EndLine;
use crate::faults::{Faults, Step};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One line of a command's journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum Line<P> {
    /// The daemon is about to start a shim.
    Intent {
        /// Names this attempt; only the shim that was given it may begin.
        nonce: String,
        /// The epoch of the master that asked.
        epoch: u64,
        /// The digest of the arguments, as in the intent entry of the log.
        digest: String,
        /// Wall clock, microseconds.
        at_us: i64,
    },
    /// The shim lives and is about to start the program.
    Running {
        /// The attempt.
        nonce: String,
        /// The shim.
        shim: P,
        /// The cgroup of the program's tree, if one could be made.
        cgroup: Option<PathBuf>,
        /// Wall clock, microseconds.
        at_us: i64,
    },
    /// The program's process exists.
    Spawned {
        /// Its process id.
        pid: i32,
    },
    /// The program and its tree have ended.
    Ended(Box<EndLine>),
    /// The attempt was taken back before the program ran.
    Void {
        /// The attempt.
        nonce: String,
        /// Why.
        why: String,
    },
    /// The command was given up before it ran; it never will.
    Refused {
        /// The epoch of the master that asked.
        epoch: u64,
        /// Why.
        why: String,
        /// Wall clock, microseconds.
        at_us: i64,
    },
    /// The shim is gone and left no end.
    Lost {
        /// What is known.
        evidence: String,
        /// Wall clock, microseconds.
        at_us: i64,
    },
}

/// What the lines of a journal say together.
#[derive(Clone, Debug)]
pub struct Story<P> {
    /// The attempt that stands: nonce, epoch, digest.
    pub intent: Option<(String, u64, String)>,
    /// The shim, its cgroup and the time it began.
    pub running: Option<(P, Option<PathBuf>, i64)>,
    /// The program's process.
    pub program: Option<i32>,
    /// How it ended.
    pub ended: Option<Box<EndLine>>,
    /// Why it was refused.
    pub refused: Option<String>,
    /// What is known of a shim that vanished.
    pub lost: Option<String>,
    /// Whole lines that fail their checksum: somebody else changed the file, or the disk did.
    pub damaged: usize,
}

impl<P: Serialize + DeserializeOwned> Story<P> {
    /// Reads a journal's bytes: the story and the length of the part that ends in whole lines.
    /// A last line without its line feed was torn by a crash and counts as never written.
    pub fn parse(bytes: &[u8]) -> (Story<P>, u64) {
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut story = Story::default();
        for line in bytes.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n') {
            match decode(line) {
                _ if line.is_empty() => {}
                Some(line) => story.take(line),
                None => story.damaged += 1,
            }
        }
        (story, whole as u64)
    }

    /// Adds a line.
    pub fn take(&mut self, line: Line<P>) {
        match line {
            Line::Intent { nonce, epoch, digest, .. } => {
                self.intent = Some((nonce, epoch, digest));
            }
            Line::Running { shim, cgroup, at_us, .. } => {
                self.running = Some((shim, cgroup, at_us));
            }
            Line::Spawned { pid } => self.program = Some(pid),
            Line::Ended(end) => self.ended = Some(end),
            Line::Void { nonce, .. } => {
                if self.running.is_none() && self.intent.as_ref().is_some_and(|i| i.0 == nonce) {
                    self.intent = None;
                }
            }
            Line::Refused { why, .. } => self.refused = Some(why),
            Line::Lost { evidence, .. } => self.lost = Some(evidence),
        }
    }

    /// Whether the shim of the attempt `nonce` may go on to the program.
    pub fn may_begin(&self, nonce: &str, faults: &impl Faults) -> bool {
        self.awaits(nonce) || faults.skips(Step::ReadJournal)
    }

    /// Whether the attempt `nonce` stands and nothing of it has begun: only then may it be taken
    /// back.
    pub fn awaits(&self, nonce: &str) -> bool {
        self.intent.as_ref().is_some_and(|intent| intent.0 == nonce)
            && self.running.is_none()
            && self.refused.is_none()
            && self.damaged == 0
    }

    /// What a start of the command with this digest comes to.
    pub fn admit(&self, digest: &str, faults: &impl Faults) -> Admission {
        if faults.skips(Step::ReadJournal) {
            return Admission::Begin;
        }
        if self.intent.as_ref().is_some_and(|(_, _, known)| known != digest) {
            return Admission::OtherArguments;
        }
        match self.intent.is_none() && self.refused.is_none() && self.damaged == 0 {
            true => Admission::Begin,
            false => Admission::Known,
        }
    }

    /// Whether a command that is given up is to be refused for ever: not if it may have run, and
    /// not twice.
    pub fn may_refuse(&self) -> bool {
        let may_have_run = self.running.is_some() || self.ended.is_some() || self.damaged > 0;
        !may_have_run && self.refused.is_none()
    }

    /// Whether there is something to stop.
    pub fn may_stop(&self) -> bool {
        self.intent.is_some() && self.ended.is_none() && self.refused.is_none()
    }

    /// The attempt that no shim has taken over. A daemon that has just started voids it: the shim
    /// it is about was another daemon's, and finds the void if it still comes.
    pub fn orphan(&self) -> Option<&str> {
        let nonce = self.intent.as_ref().map(|intent| intent.0.as_str());
        nonce.filter(|nonce| self.awaits(nonce))
    }

    /// Where the command is; `runs` tells of a shim whether it lives.
    pub fn standing(&self, runs: impl FnOnce(&P) -> bool) -> Standing<'_> {
        if let Some(end) = &self.ended {
            return Standing::Ended(end);
        }
        if let Some(evidence) = &self.lost {
            return Standing::Unknown(evidence.clone());
        }
        if self.damaged > 0 {
            let evidence = format!("{} lines of its journal are damaged", self.damaged);
            return Standing::Unknown(evidence);
        }
        if let Some(why) = &self.refused {
            return Standing::Refused(why);
        }
        match (&self.running, &self.intent) {
            (Some((shim, ..)), _) if runs(shim) => Standing::Running,
            (Some(_), _) => Standing::Vanished,
            (None, Some(_)) => Standing::Starting,
            (None, None) => Standing::NotStarted,
        }
    }

    /// What a start that failed comes to: its attempt is `nonce`.
    pub fn give_back(&self, nonce: &str) -> GivenBack<'_> {
        match (&self.running, &self.refused) {
            _ if self.awaits(nonce) => GivenBack::Void,
            (Some(_), _) => GivenBack::Begun,
            (None, Some(why)) => GivenBack::Refused(why),
            (None, None) => GivenBack::Gone,
        }
    }
}

/// What a start comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// `intent` is written, then a shim is started.
    Begin,
    /// The key was used for a command with other arguments (ruling 10).
    OtherArguments,
    /// It is under way or over, or never will be: [`Story::standing`] tells.
    Known,
}

/// Where a command is, as its journal and its shim tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing<'a> {
    /// Nothing of it has run; it may be started.
    NotStarted,
    /// A shim was asked to begin and has not yet.
    Starting,
    /// Its shim lives.
    Running,
    /// Its shim is gone and left no end: after one more look, under the lock, `lost` is written.
    Vanished,
    /// It ended.
    Ended(&'a EndLine),
    /// It may have run; only a probe can tell.
    Unknown(String),
    /// It did not run and never will.
    Refused(&'a str),
}

/// What a start that failed comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBack<'a> {
    /// `void` is written; the start failed.
    Void,
    /// The shim had begun after all.
    Begun,
    /// The command was refused meanwhile.
    Refused(&'a str),
    /// The shim took the attempt back itself; the start failed.
    Gone,
}

/// A line as bytes: CRC-32C in hex, a space, JSON, a line feed.
///
/// # Errors
/// The line cannot be written as JSON.
pub fn encode<P: Serialize>(line: &Line<P>) -> Result<Vec<u8>, serde_json::Error> {
    let json = serde_json::to_string(line)?;
    Ok(format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes())).into_bytes())
}

fn decode<P: DeserializeOwned>(line: &[u8]) -> Option<Line<P>> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (sum == crc32c::crc32c(json.as_bytes())).then(|| serde_json::from_str(json).ok())?
}

impl<P> Default for Story<P> {
    fn default() -> Story<P> {
        let (intent, running, program, ended) = (None, None, None, None);
        Story { intent, running, program, ended, refused: None, lost: None, damaged: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Sound;

    fn intent(nonce: &str) -> Line<u8> {
        Line::Intent { nonce: nonce.into(), epoch: 3, digest: "d".into(), at_us: 1 }
    }

    fn story(lines: impl IntoIterator<Item = Line<u8>>) -> Story<u8> {
        let mut story = Story::default();
        lines.into_iter().for_each(|line| story.take(line));
        story
    }

    fn running(nonce: &str) -> Line<u8> {
        Line::Running { nonce: nonce.into(), shim: 7, cgroup: None, at_us: 2 }
    }

    #[test]
    fn a_torn_last_line_was_never_written_and_a_changed_one_is_damage() {
        let mut bytes = encode(&intent("a")).unwrap();
        let whole = bytes.len();
        for cut in 0..whole {
            let (story, length) = Story::<u8>::parse(&bytes[..cut]);
            assert_eq!((story.intent, story.damaged, length), (None, 0, 0), "{cut}");
        }
        assert!(Story::<u8>::parse(&bytes).0.awaits("a"));
        bytes[whole - 4] ^= 1;
        let (story, _) = Story::<u8>::parse(&bytes);
        assert_eq!(story.damaged, 1);
        assert!(!story.awaits("a"));
        // Nobody knows what stood there: it is neither started nor called refused.
        assert_eq!(story.admit("d", &Sound), Admission::Known);
        assert!(!story.may_refuse());
    }

    #[test]
    fn only_the_attempt_that_stands_may_begin() {
        let mut story = story([intent("a")]);
        story.take(Line::Void { nonce: "other".into(), why: String::new() });
        assert!(story.awaits("a"));
        story.take(Line::Void { nonce: "a".into(), why: String::new() });
        assert!(!story.awaits("a"));
        story.take(intent("b"));
        assert!(story.awaits("b") && !story.awaits("a"));
        story.take(Line::Refused { epoch: 4, why: "cancelled".into(), at_us: 2 });
        assert!(!story.awaits("b"));
    }

    #[test]
    fn what_was_begun_is_not_begun_again() {
        let begin = |lines: &[Line<u8>]| story(lines.to_vec()).admit("d", &Sound);
        let void = Line::Void { nonce: "a".into(), why: String::new() };
        let refused = Line::Refused { epoch: 4, why: String::new(), at_us: 2 };
        assert_eq!(begin(&[]), Admission::Begin);
        assert_eq!(begin(&[intent("a")]), Admission::Known);
        assert_eq!(begin(&[intent("a"), void.clone()]), Admission::Begin);
        assert_eq!(begin(&[intent("a"), running("a"), void]), Admission::Known);
        assert_eq!(begin(&[refused]), Admission::Known);
        let other = story([intent("a")]).admit("another", &Sound);
        assert_eq!(other, Admission::OtherArguments);
    }

    #[test]
    fn where_a_command_is_follows_from_its_journal_and_its_shim() {
        let asked = story([intent("a")]);
        assert_eq!(asked.standing(|_| panic!("there is no shim")), Standing::Starting);
        assert_eq!(asked.orphan(), Some("a"));
        assert!(asked.may_refuse());
        let begun = story([intent("a"), running("a")]);
        assert_eq!(begun.standing(|shim| *shim == 7), Standing::Running);
        assert_eq!(begun.standing(|_| false), Standing::Vanished);
        assert_eq!(begun.orphan(), None);
        assert!(!begun.may_refuse() && begun.may_stop());
        assert_eq!(begun.give_back("a"), GivenBack::Begun);
        assert_eq!(asked.give_back("a"), GivenBack::Void);
    }
}
