//! `tiebeam completion`: scripts for shells. Commands and options are in the script; jobs and
//! their parameters are asked of the cluster while typing, by the hidden command `__complete`.

use super::exit::Exit;
use super::failure::Failure;
use super::session::Session;
use super::table::{self, Run};
use super::words::is_key_word;
use super::{exec, options};
use crate::JobDescription;
use clap::{ArgAction, Args, CommandFactory};
use clap_complete::Shell;

/// Seconds that completion may take: a person is typing.
const PATIENCE: u64 = 1;

/// Print a completion script for a shell
///
///   tiebeam completion bash > /etc/bash_completion.d/tiebeam
///   tiebeam completion zsh > "${fpath[1]}/_tiebeam"
///   tiebeam completion fish > ~/.config/fish/completions/tiebeam.fish
///
/// The names of jobs and of their parameters are completed too, as the cluster has them.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "completion", verbatim_doc_comment)]
pub struct Completion {
    /// bash, zsh or fish
    #[arg(value_name = "SHELL", value_enum)]
    shell: ShellName,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum ShellName {
    Bash,
    Zsh,
    Fish,
}

impl Run for Completion {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        session.print(&match self.shell {
            ShellName::Bash => script(Shell::Bash),
            ShellName::Zsh => script(Shell::Zsh),
            ShellName::Fish => script(Shell::Fish),
        })?;
        Ok(Exit::Ok)
    }
}

/// A shell's script: what clap makes of commands and options, and our part about jobs behind it.
pub fn script(shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut table::root_shown(), "tiebeam", &mut bytes);
    let mut script = String::from_utf8_lossy(&bytes).into_owned();
    if shell == Shell::Zsh {
        // The file is the function `_tiebeam`; what it does when it is called stands at its end.
        script = script.replacen("#compdef tiebeam\n", "#compdef tiebeam confd_client\n", 1);
        if let Some((functions, _)) = script.rsplit_once("\nif [ \"$funcstack[1]\"") {
            script.truncate(functions.len());
        }
    }
    script.push_str(own_part(shell));
    script
}

/// Our part of a shell's script.
pub fn own_part(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
        _ => "",
    }
}

/// Behind `exec`, `start` and `help`, words are jobs and parameters: ask the program.
const BASH: &str = r#"
_tiebeam_words() {
    local at word
    case "${COMP_WORDS[0]##*/}" in confd_client) at=0 ;; *) at=-1 ;; esac
    for ((word = 1; at < 0 && word < COMP_CWORD; word++)); do
        case "${COMP_WORDS[word]}" in exec | start | help) at=$word ;; esac
    done
    if ((at < 0)) || [[ ${COMP_WORDS[COMP_CWORD]} == -* ]]; then
        _tiebeam "$@"
        return
    fi
    # Bash splits `name:` into two words; the program puts them together again.
    mapfile -t COMPREPLY < <(
        command tiebeam __complete -- "${COMP_WORDS[@]:at+1:COMP_CWORD-at}" 2>/dev/null
    )
    [[ ${COMPREPLY[0]-} == *: ]] && compopt -o nospace
}
complete -F _tiebeam_words -o bashdefault -o default tiebeam confd_client
"#;

/// The same for zsh.
const ZSH: &str = r#"
_tiebeam_words() {
    local at=0 word
    [[ ${words[1]:t} == confd_client ]] && at=1
    for ((word = 2; at == 0 && word < CURRENT; word++)); do
        case ${words[word]} in exec | start | help) at=$word ;; esac
    done
    if ((at == 0)) || [[ ${words[CURRENT]} == -* ]]; then
        _tiebeam "$@"
        return
    fi
    local -a found
    found=(${(f)"$(command tiebeam __complete -- "${(@)words[at+1,CURRENT]}" 2>/dev/null)"})
    if (($#found)); then compadd -- $found; else _default; fi
}
if [ "$funcstack[1]" = "_tiebeam" ]; then
    _tiebeam_words "$@"
else
    compdef _tiebeam_words tiebeam confd_client
fi
"#;

/// The same for fish.
const FISH: &str = r#"
function __fish_tiebeam_words
    set -l typed (commandline -ct)
    set -l words (commandline -opc)
    set -l at
    if test (string replace -r '.*/' '' -- $words[1]) = confd_client
        set at 1
    else if set -l found (contains -i -- exec $words; or contains -i -- start $words; \
            or contains -i -- help $words)
        set at $found
    else
        return
    end
    command tiebeam __complete -- $words[(math $at + 1)..-1] "$typed" 2>/dev/null
end
complete -c tiebeam -n "__fish_tiebeam_using_subcommand exec start help" \
    -f -a "(__fish_tiebeam_words)"
complete -c confd_client -f -a "(__fish_tiebeam_words)"
"#;

/// Complete the words behind exec, start or help
///
/// Called by the completion script. Prints what may stand in the last word's place.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "__complete", hide = true)]
pub struct Complete {
    /// The words so far; the last one is being typed
    #[arg(value_name = "WORD", allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Run for Complete {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        session.options.retry_for = session.options.retry_for.min(PATIENCE);
        let Some(words) = without_options(joined(&self.words)) else { return Ok(Exit::Ok) };
        let client = session.client()?;
        let found = match words.as_slice() {
            [] => jobs_like(&client.job_list()?, ""),
            [typed] => jobs_like(&client.job_list()?, typed),
            [job, between @ .., typed] => parameters_like(&client.job_desc(job)?, between, typed),
        };
        session.print(&found.iter().map(|word| format!("{word}\n")).collect::<String>())?;
        Ok(Exit::Ok)
    }
}

/// `name` and `:`, split by bash, are one word.
fn joined(words: &[String]) -> Vec<String> {
    let mut whole: Vec<String> = Vec::new();
    for word in words {
        match whole.last_mut() {
            Some(last) if word == ":" => last.push(':'),
            _ => whole.push(word.clone()),
        }
    }
    whole
}

/// The job, its parameters and the word that is being typed, without options between them; `None`
/// if that word is an option's value.
fn without_options(words: Vec<String>) -> Option<Vec<String>> {
    let known = options::Options::augment_args(exec::Exec::command());
    let takes_value = |flag: &str| {
        known.get_arguments().any(|argument| {
            let long =
                argument.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long));
            let short = argument.get_short().is_some_and(|short| flag == format!("-{short}"));
            (long || short) && matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
        })
    };
    let (typed, before) = words.split_last()?;
    let (mut kept, mut job) = (Vec::new(), None);
    let mut rest = before.iter();
    while let Some(word) = rest.next() {
        if takes_value(word) {
            let value = rest.next()?;
            job = job.or(matches!(word.as_str(), "-c" | "--job").then(|| value.clone()));
        } else if !word.starts_with('-') || before_is_key(&kept) {
            kept.push(word.clone());
        }
    }
    Some(job.into_iter().chain(kept).chain([typed.clone()]).collect())
}

/// Whether a parameter's value is next: one may begin with a minus.
fn before_is_key(kept: &[String]) -> bool {
    kept.last().is_some_and(|word| is_key_word(word))
}

fn jobs_like(jobs: &[String], typed: &str) -> Vec<String> {
    jobs.iter().filter(|job| job.starts_with(typed)).cloned().collect()
}

/// Parameters that are not given yet, mandatory ones first; nothing in a value's place.
fn parameters_like(job: &JobDescription, before: &[String], typed: &str) -> Vec<String> {
    if before_is_key(before) {
        return Vec::new();
    }
    let given = |name: &str| before.iter().any(|word| word.strip_suffix(':') == Some(name));
    let open = job.parameters.iter().filter(|(name, _)| name.starts_with(typed) && !given(name));
    let mut names: Vec<_> = open.collect();
    names.sort_by_key(|(name, parameter)| (!parameter.mandatory, name.as_str()));
    names.into_iter().map(|(name, _)| format!("{name}:")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameter;

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn parameters_are_offered_once_and_not_as_values() {
        let mut job = JobDescription::default();
        for (name, mandatory) in [("username", true), ("userid", true), ("password", false)] {
            job.parameters.insert(name.into(), Parameter { mandatory, ..Parameter::default() });
        }
        assert_eq!(parameters_like(&job, &[], ""), ["userid:", "username:", "password:"]);
        assert_eq!(parameters_like(&job, &texts(&["userid:", "5"]), "user"), ["username:"]);
        assert!(parameters_like(&job, &texts(&["userid:"]), "").is_empty());
        assert_eq!(joined(&texts(&["x", "userid", ":", "5"])), ["x", "userid:", "5"]);
    }

    #[test]
    fn options_between_the_words_are_passed_over() {
        for (words, left) in [
            (&["--dry-run", "x", "a:", "-5", "b"][..], Some(&["x", "a:", "-5", "b"][..])),
            (&["--reason", "why", "-j", "x", ""], Some(&["x", ""])),
            (&["-c", "x", "us"], Some(&["x", "us"])),
            (&["--url", "https://a", "x"], Some(&["x"])),
            (&["x", "--reason", "wh"], None),
            (&[], None),
        ] {
            let left = left.map(texts);
            assert_eq!(without_options(texts(words)), left, "{words:?}");
        }
    }
}
