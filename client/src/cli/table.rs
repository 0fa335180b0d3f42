//! The one list of commands, and how one is chosen.

use super::exit::Exit;
use super::failure::Failure;
use super::options::Options;
use super::session::Session;
use super::{
    cancel, completion, config, exec, file, follow, help, history, jobs, login, result, show,
    start, status, verify, wait,
};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches};

/// What a command does with its arguments.
pub trait Run: CommandFactory + FromArgMatches {
    /// Asks, renders, prints.
    ///
    /// # Errors
    /// Whatever kept it from doing so.
    fn run(self, session: &mut Session) -> Result<Exit, Failure>;
}

/// A row of the list.
pub struct Command {
    clap: fn() -> clap::Command,
    run: fn(&ArgMatches, &mut Session) -> Result<Exit, Failure>,
}

const fn row<C: Run>() -> Command {
    Command { clap: C::command, run: run_matched::<C> }
}

fn run_matched<C: Run>(matches: &ArgMatches, session: &mut Session) -> Result<Exit, Failure> {
    let command = C::from_arg_matches(matches).map_err(|e| Failure::usage(e.to_string()))?;
    command.run(session)
}

/// Every command, in the order of the help text.
pub static COMMANDS: [Command; 18] = [
    row::<exec::Exec>(),
    row::<start::Start>(),
    row::<wait::Wait>(),
    row::<result::ResultOf>(),
    row::<follow::Follow>(),
    row::<cancel::Cancel>(),
    row::<history::History>(),
    row::<show::Show>(),
    row::<file::File>(),
    row::<jobs::Jobs>(),
    row::<help::Help>(),
    row::<config::Config>(),
    row::<status::Status>(),
    row::<login::Login>(),
    row::<login::Logout>(),
    row::<verify::Verify>(),
    row::<completion::Completion>(),
    row::<completion::Complete>(),
];

const ABOUT: &str = "Runs jobs on a Tiebeam cluster and shows what happened";
const AFTER: &str = "\
The cluster is found by flags, then TIEBEAM_URL, TIEBEAM_CA, TIEBEAM_USER and \
TIEBEAM_PASSWORD_FILE, then ~/.config/tiebeam/client.yaml (written by `tiebeam login`), then the \
unix socket of a local node.\n\n\
Exit status: 0 ok, 1 job failed, 2 usage or invalid parameter, 3 forbidden or no login, \
4 unreachable or no master, 5 unfinished, 6 indeterminate.";

/// The whole program as clap sees it.
pub fn root() -> clap::Command {
    with(COMMANDS.iter().map(|command| (command.clap)()))
}

/// The program without the commands that nobody types.
pub fn root_shown() -> clap::Command {
    let commands = COMMANDS.iter().map(|command| (command.clap)());
    with(commands.filter(|command| !command.is_hide_set()))
}

fn with(commands: impl Iterator<Item = clap::Command>) -> clap::Command {
    let root = Options::augment_args(clap::Command::new("tiebeam"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(AFTER)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .max_term_width(100);
    commands.fold(root, clap::Command::subcommand)
}

/// Runs the command that was matched.
///
/// # Errors
/// As the command.
pub fn run(matches: &ArgMatches, session: &mut Session) -> Result<Exit, Failure> {
    let (name, below) =
        matches.subcommand().ok_or_else(|| Failure::usage("no command is named"))?;
    let command = COMMANDS
        .iter()
        .find(|command| (command.clap)().get_name() == name)
        .ok_or_else(|| Failure::usage(format!("there is no command {name:?}")))?;
    (command.run)(below, session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_makes_a_sound_program() {
        root().debug_assert();
    }

    #[test]
    fn no_command_has_an_option_of_the_name_of_a_global_one() {
        let mut root = root();
        let globals: Vec<_> =
            root.get_arguments().map(|argument| argument.get_id().clone()).collect();
        let mut open: Vec<_> = root.get_subcommands_mut().collect();
        while let Some(command) = open.pop() {
            for argument in command.get_arguments() {
                assert!(!globals.contains(argument.get_id()), "{argument:?}");
            }
            open.extend(command.get_subcommands_mut());
        }
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in root().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let name = argument.get_id();
                assert!(argument.get_help().is_some(), "{} {name}", command.get_name());
            }
        }
    }
}
