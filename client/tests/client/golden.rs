//! One golden file per command and kind of output. `UPDATE_GOLDEN=1` writes them anew.

use crate::replies;
use clap_complete::Shell;
use serde_json::{Value, json};
use std::path::PathBuf;
use tiebeam::cli::screen::Screen;
use tiebeam::cli::{
    cancel, changes, completion, config, facts, file, follow, help, history, jobs, login, outcome,
    show, start, status, table, verify, wait,
};
use tiebeam::{Cancelled, Error, ErrorCode, RpcError};

type Rendering = fn(&Screen) -> String;

/// Output, and behind a rule what goes to standard error.
fn both(result: &tiebeam::ResultObject, screen: &Screen) -> String {
    let notes = outcome::notes(result, &Screen { json: false, ..*screen });
    format!("{}-- standard error --\n{notes}", outcome::output(result, screen))
}

fn followed(screen: &Screen) -> String {
    let facts = facts::new_facts(&Value::Null, &replies::record());
    let mut text: String = facts.iter().map(|fact| fact.render("11.42", screen)).collect();
    text.push_str("-- events --\n");
    for event in replies::events() {
        text.push_str(&follow::render_event(&event, screen));
    }
    text
}

fn failure(screen: &Screen) -> String {
    let error = RpcError::new(ErrorCode::InvalidParameter, "`grp` \u{1b}[1m is unknown")
        .field("grp")
        .hint("did you mean `group`?");
    tiebeam::cli::failure::Failure::Call(Error::Rpc(error)).render(screen)
}

const GOLDEN: &[(&str, Rendering)] = &[
    ("exec", |s| both(&replies::result(), s)),
    ("exec-failed", |s| both(&replies::failed_result(), s)),
    ("exec-dry-run", |s| both(&replies::planned_result(), s)),
    ("result", |s| both(&tiebeam::ResultObject::unfinished("11.44"), s)),
    ("start", |s| start::render("11.42", s)),
    ("wait", |s| wait::render(true, s)),
    ("cancel", |s| cancel::render(Cancelled::TooLate, s)),
    ("follow", followed),
    ("history", |s| {
        history::render(
            &[
                replies::running_record(),
                replies::failed_record(),
                replies::summary(),
                replies::audit_summary(),
            ],
            s,
        )
    }),
    ("show", |s| show::render(&replies::record(), s)),
    ("show-running", |s| show::render(&replies::running_record(), s)),
    ("file", |s| file::render("format: 1\njob: \"11.42\"\nnote: \"\u{1b}[2J\"\n", s)),
    ("file-command", |s| file::render_output("up 3 days\u{1b}[2J\n0 users", s)),
    ("jobs", |s| jobs::render(&replies::jobs(), s)),
    ("help", |s| help::render(replies::help_text(), s)),
    ("config-get", |s| s.value(&json!({"web": {"port": 80, "names": ["a", "b"]}}))),
    ("config-set", |s| {
        let mut result = replies::result();
        result.result_output = Some(replies::record()["change"].clone());
        config::set::render(&result, s)
    }),
    ("config-rollback", |s| config::set::render(&replies::planned_result(), s)),
    ("config-import", |s| changes::render(&json!([]), s)),
    ("config-diff", |s| changes::render(&replies::record()["change"], s)),
    ("config-log", |s| config::log::render(&replies::log(), s)),
    ("config-blame", |s| config::blame::render(&replies::blame(), s)),
    ("status", |s| status::render(&replies::cluster(), &replies::health(), s)),
    ("status-headless", |s| status::render(&Value::Null, &replies::health(), s)),
    ("login", |s| {
        let reply = json!({"user": "admin", "expires": "2026-11-20T12:05:06.000000Z",
                           "file": "/home/a/.config/tiebeam/client.yaml"});
        login::render(&reply, s)
    }),
    ("logout", |s| s.value(&json!("logged out"))),
    ("verify", |s| verify::render(&replies::folder_report(), s)),
    // The scripts do not depend on the screen; our own parts of them are what can break.
    ("completion", |s| s.text(completion::own_part(Shell::Bash)).into_owned()),
    ("completion-zsh", |s| s.text(completion::own_part(Shell::Zsh)).into_owned()),
    ("completion-fish", |s| s.text(completion::own_part(Shell::Fish)).into_owned()),
    ("error", failure),
];

#[test]
fn output_is_as_in_the_golden_files() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let kinds =
        [("terminal", Screen::colourful()), ("pipe", Screen::plain()), ("json", Screen::in_json())];
    for (name, render) in GOLDEN {
        for (kind, screen) in &kinds {
            let path = folder.join(format!("{name}.{kind}"));
            let text = render(screen);
            if update {
                std::fs::write(&path, &text).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(text, golden, "{} (UPDATE_GOLDEN=1 writes it)", path.display());
        }
    }
}

#[test]
fn every_command_has_golden_files_and_every_file_a_command() {
    let root = table::root();
    let mut expected = Vec::new();
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        match command.get_name() {
            "config" => {
                let below = command.get_subcommands();
                expected.extend(below.map(|command| format!("config-{}", command.get_name())));
            }
            name => expected.push(name.to_owned()),
        }
    }
    for name in expected {
        assert!(GOLDEN.iter().any(|(golden, _)| *golden == name), "{name} has no golden file");
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.rsplit_once('.').map_or(file.as_str(), |(name, _)| name);
        assert!(GOLDEN.iter().any(|(golden, _)| *golden == name), "{file} belongs to nothing");
    }
}

#[test]
fn no_golden_output_of_a_terminal_holds_a_foreign_control_character() {
    for (name, render) in GOLDEN {
        let text = render(&Screen { colour: false, ..Screen::colourful() });
        let foreign = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        assert_eq!(foreign, None, "{name}");
    }
}
