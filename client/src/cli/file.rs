//! `tiebeam file`: a job's file.

use super::exit::Exit;
use super::failure::Failure;
use super::screen::Screen;
use super::session::Session;
use super::table::Run;
use serde_json::json;

/// Print a job's file: its whole record as YAML
///
/// The same bytes on every node. With -j the text is one JSON string.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "file", verbatim_doc_comment)]
pub struct File {
    /// The job's id
    #[arg(value_name = "ID")]
    job: String,
}

impl Run for File {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let text = session.client()?.file(&self.job)?;
        session.print(&render(&text, &session.screen))?;
        Ok(Exit::Ok)
    }
}

/// The text as it is; harmless on a terminal.
pub fn render(text: &str, screen: &Screen) -> String {
    screen.value(&json!(text))
}
