//! `tiebeam file`: a job's file, or all that one of its commands printed.

use super::exit::Exit;
use super::failure::Failure;
use super::screen::Screen;
use super::session::Session;
use super::table::Run;
use serde_json::json;

/// Print a job's file: its whole record as YAML
///
/// The same bytes on every node. With --command it is what that command printed instead, whole,
/// from whichever member has it. With -j the text is one JSON string.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "file", verbatim_doc_comment)]
pub struct File {
    /// The job's id
    #[arg(value_name = "ID")]
    job: String,
    /// Print all that this command of the job printed, by its name in the record: run-n11
    #[arg(long, value_name = "NAME")]
    command: Option<String>,
}

impl Run for File {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let shown = match &self.command {
            None => render(&session.client()?.file(&self.job)?, &session.screen),
            Some(name) => {
                let printed = session.client()?.command_output(&self.job, name)?;
                render_output(&printed, &session.screen)
            }
        };
        session.print(&shown)?;
        Ok(Exit::Ok)
    }
}

/// The text as it is; harmless on a terminal.
pub fn render(text: &str, screen: &Screen) -> String {
    screen.value(&json!(text))
}

/// What a command printed: in a pipe to the last byte, without a line end that it did not print.
pub fn render_output(printed: &str, screen: &Screen) -> String {
    match screen.json || screen.terminal {
        true => screen.value(&json!(printed)),
        false => printed.to_owned(),
    }
}
