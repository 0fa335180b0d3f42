//! The completion scripts in the shells that they are for.

use super::command_line::Shell;
use tiebeam_tests::program::command;
use tiebeam_tests::{Options, TestNode, client_program, need, run};

/// Asks bash's completion function for the words that may stand in the last one's place.
const BASH: &str = r#"
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
compopt() { :; }
_tiebeam_words "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// The same for zsh, without a line editor: what is offered is printed.
const ZSH: &str = r#"
compdef() { : }
compadd() { shift; print -l -- "$@" }
_default() { : }
source "$1"
shift
words=("$@") CURRENT=$#
_tiebeam() { print -l commands-and-options }
_tiebeam_words
"#;

/// Fish can be asked.
const FISH: &str = r#"
source $argv[1]
complete -C (string join ' ' -- $argv[2..])
"#;

/// The words that a shell offers in the last word's place.
fn offered(node: &TestNode, shell: &str, words: &[&str]) -> Vec<String> {
    let program = client_program();
    let script = node.folder.join(format!("script.{shell}"));
    if !script.exists() {
        let made = run(&mut command(&program, &["completion", shell]), "").ok();
        std::fs::write(&script, made).expect("a file");
    }
    let (options, code): (&[&str], &str) = match shell {
        "bash" => (&["--norc", "-c"], BASH),
        "zsh" => (&["-f", "-c"], ZSH),
        _ => (&["--no-config", "-c"], FISH),
    };
    let mut asked = command(shell, options);
    asked.env_clear().arg(code);
    if shell != "fish" {
        asked.arg(shell);
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let folder = program.parent().expect("a program lies in a folder").display();
    asked.arg(&script).args(words).env("PATH", format!("{folder}:{path}")).env("TERM", "dumb");
    let out = run(Shell::new(node).prepare(&mut asked), "").ok();
    // Fish says what a word is for, behind a tab.
    let word = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
    let mut found: Vec<String> = out.lines().map(word).collect();
    found.retain(|word| !word.is_empty());
    found.sort();
    found
}

#[test]
fn jobs_and_parameters_are_completed_in_every_shell() {
    let node = TestNode::start(Options::default());
    for shell in ["bash", "zsh", "fish"] {
        if !need(&format!("completion in {shell}"), &[shell, "--version"]) {
            continue;
        }
        for (words, expected) in [
            (&["tiebeam", "exec", "user_cr"][..], &["user_create"][..]),
            (&["tiebeam", "start", "group_l"], &["group_list"]),
            (&["tiebeam", "help", "user_pas"], &["user_passwd"]),
            (&["tiebeam", "exec", "user_create", "user"], &["userid:", "username:"]),
            (&["tiebeam", "exec", "--dry-run", "user_create", "usern"], &["username:"]),
            (&["tiebeam", "exec", "user_create", "username:", "alice", "usern"], &[]),
            (&["confd_client", "db_l"], &["db_list"]),
            (&["confd_client", "user_create", "userid:", "5", "user"], &["username:"]),
        ] {
            assert_eq!(offered(&node, shell, words), expected, "{shell}: {words:?}");
        }
        let commands = offered(&node, shell, &["tiebeam", ""]);
        assert!(!commands.is_empty(), "{shell}");
        assert!(!commands.iter().any(|word| word.contains("__complete")), "{shell}: {commands:?}");
    }
}

#[test]
fn the_scripts_parse() {
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        if !need(&format!("completion in {shell}"), &[shell, "--version"]) {
            continue;
        }
        let script = run(&mut command(client_program(), &["completion", shell]), "").ok();
        assert_eq!(run(&mut command(shell, &[check]), &script).ok(), "", "{shell}");
    }
}
