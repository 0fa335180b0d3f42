//! `tiebeam config`: look at the configuration and change it; one file per subcommand.

pub mod blame;
pub mod diff;
pub mod get;
pub mod import;
pub mod log;
pub mod rollback;
pub mod set;

use super::exit::Exit;
use super::failure::Failure;
use super::outcome;
use super::screen::Screen;
use super::session::Session;
use super::table::Run;
use crate::StartOptions;
use serde_json::{Map, Value};
use tiebeam_proto::ResultObject;

/// Look at the configuration, its history, and change it
///
/// Paths are written `users/alice`; a `/` within a name is `~1`. `set` and `import` write below
/// `app` only: users, nodes and settings have jobs of their own (`tiebeam jobs`).
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "config", verbatim_doc_comment)]
pub struct Config {
    #[command(subcommand)]
    below: Below,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Below {
    Get(get::Get),
    Set(set::Set),
    Diff(diff::Diff),
    Log(log::Log),
    Blame(blame::Blame),
    Rollback(rollback::Rollback),
    Import(import::Import),
}

impl Run for Config {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match self.below {
            Below::Get(command) => command.run(session),
            Below::Set(command) => command.run(session),
            Below::Diff(command) => command.run(session),
            Below::Log(command) => command.run(session),
            Below::Blame(command) => command.run(session),
            Below::Rollback(command) => command.run(session),
            Below::Import(command) => command.run(session),
        }
    }
}

/// Runs a job; every outcome but ok is an error, warnings go to standard error.
fn run_job(
    session: &mut Session,
    job: &str,
    params: Value,
    options: &StartOptions,
) -> Result<ResultObject, Failure> {
    let result = session.client()?.run(job, params, options)?;
    eprint!("{}", outcome::notes(&result, &Screen::of_stderr(false)));
    Ok(result)
}

/// An object of those members that have a value.
fn params<const N: usize>(members: [(&str, Value); N]) -> Value {
    let given = members.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

/// What a finished change says on standard error.
fn note_revision(session: &Session, result: &ResultObject) {
    match result.result_revision {
        Some(revision) => session.note(&format!("revision {revision}")),
        None => session.note("nothing to change"),
    }
}
