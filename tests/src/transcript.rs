//! Transcripts: documents whose fenced blocks hold commands and the answers that they must give.
//!
//! A block opens with ```` ```console ````. In it, a line that begins with `$ ` is a command for
//! `sh` (a trailing `\` continues it), and the lines up to the next command are its whole output.
//! In an answer `<…>` stands for any text within its line, and a line `…` for any lines. What
//! stands between blocks is for readers.

use crate::program::{command, run};

/// A command and its expected answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line of the document, from 1.
    pub line: usize,
    /// The command.
    pub command: String,
    /// The lines of the answer.
    pub answer: Vec<String>,
}

/// The steps of a document.
pub fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut continued) = (false, false);
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
            continued = false;
        } else if inside && continued {
            let last = steps.last_mut().expect("what is continued has begun");
            last.command.push('\n');
            last.command.push_str(line);
            continued = line.ends_with('\\');
        } else if inside && let Some(command) = line.strip_prefix("$ ") {
            continued = line.ends_with('\\');
            steps.push(Step { line: at + 1, command: command.to_owned(), answer: Vec::new() });
        } else if inside && let Some(step) = steps.last_mut() {
            step.answer.push(line.to_owned());
        }
    }
    steps
}

/// Runs the steps in order with these variables set.
///
/// # Panics
/// A command gives another answer, or the document has no command.
#[track_caller]
pub fn replay(name: &str, text: &str, environment: &[(&str, &str)]) {
    let steps = steps(text);
    assert!(!steps.is_empty(), "{name} has no command");
    for step in steps {
        let mut shell = command("sh", &["-c", &step.command]);
        shell.envs(environment.iter().copied());
        let ended = run(&mut shell, "");
        let given: Vec<&str> = ended.out.lines().collect();
        assert!(
            fits(&step.answer, &given),
            "{name}:{}\n$ {}\nexpected:\n{}\ngot:\n{}{}",
            step.line,
            step.command,
            step.answer.join("\n"),
            ended.out,
            ended.err,
        );
    }
}

fn fits(expected: &[String], given: &[&str]) -> bool {
    match expected.split_first() {
        None => given.is_empty(),
        Some((any, rest)) if any == "…" => {
            (0..=given.len()).any(|skipped| fits(rest, &given[skipped..]))
        }
        Some((line, rest)) => match given.split_first() {
            Some((first, others)) => line_fits(line, first) && fits(rest, others),
            None => false,
        },
    }
}

/// Whether a line is the pattern, where `<…>` is any text.
fn line_fits(pattern: &str, line: &str) -> bool {
    match pattern.split_once("<…>") {
        None => pattern == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().any(|at| line_fits(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_commands_and_answers() {
        let text = "words\n```console\n$ a \\\n  b\none\n$ c\n```\n```json\n$ no\n```\n";
        let found = steps(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].command, "a \\\n  b");
        assert_eq!(found[0].answer, ["one"]);
        assert!(found[1].answer.is_empty());
    }

    #[test]
    fn placeholders_stand_for_any_text_and_nothing_else() {
        assert!(line_fits("id \"<…>\" of <…>!", "id \"11.4\" of me!"));
        assert!(!line_fits("id \"<…>\"", "id 11.4"));
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(fits(&lines("a\n…\nz"), &["a", "b", "c", "z"]));
        assert!(!fits(&lines("a\n…\nz"), &["a", "b"]));
        assert!(!fits(&lines("a"), &["a", "b"]));
    }
}
