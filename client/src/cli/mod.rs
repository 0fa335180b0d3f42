//! The command line `tiebeam`.
//!
//! A command is a file of its own: what it takes (clap's derive, whose texts are the manual), what
//! it asks the cluster, and how it renders the replies. Asking and rendering are separate
//! functions, so that rendering is tested against golden files without a network. Everything a
//! command prints on standard output goes through [`screen::Screen`], which neutralises control
//! characters on a terminal. [`table::COMMANDS`] is the one list of commands.

// Doc comments of commands are their help text: brackets there are brackets, not links.
#![allow(rustdoc::broken_intra_doc_links)]

pub mod argv;
pub mod cancel;
pub mod changes;
pub mod coerce;
pub mod completion;
pub mod config;
pub mod exec;
pub mod exit;
pub mod facts;
pub mod failure;
pub mod file;
pub mod files;
pub mod follow;
pub mod help;
pub mod history;
pub mod invocation;
pub mod jobs;
pub mod login;
pub mod options;
pub mod outcome;
pub mod progress;
pub mod prompt;
pub mod result;
pub mod screen;
pub mod session;
pub mod show;
pub mod start;
pub mod status;
pub mod table;
pub mod target;
pub mod verify;
pub mod wait;
pub mod words;

use exit::Exit;
use failure::Failure;
use screen::Screen;
use session::Session;
use std::process::ExitCode;

/// The whole program: arguments in, exit status out (wire.md section 9).
pub fn main() -> ExitCode {
    // Two providers in one process would make rustls panic; whoever was first is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root = table::root();
    let arguments = match argv::normalise(std::env::args_os(), &root) {
        Ok(arguments) => arguments,
        Err(failure) => return report(&failure, false),
    };
    let matches = match root.try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    let options = options::Options::of(&matches);
    let json = options.json;
    let mut session = Session::new(options, Screen::of_stdout(json));
    match table::run(&matches, &mut session) {
        Ok(exit) => exit.into(),
        Err(failure) => report(&failure, json),
    }
}

fn report(failure: &Failure, json: bool) -> ExitCode {
    if !failure.is_broken_pipe() {
        eprint!("{}", failure.render(&Screen::of_stderr(json)));
    }
    failure.exit().into()
}
