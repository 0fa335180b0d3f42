//! `tiebeam start`: start a job and print its id.

use super::exit::Exit;
use super::failure::Failure;
use super::invocation::Invocation;
use super::screen::Screen;
use super::session::Session;
use super::table::Run;
use serde_json::json;

/// Start a job and print its id, without waiting
///
/// Takes what `exec` takes. The id is durable before it is printed; `tiebeam wait ID`,
/// `tiebeam result ID` and `tiebeam follow ID` go on from there.
///
///   tiebeam start node_remove nid: 13 --reason 'ticket 4711'
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "start", verbatim_doc_comment)]
pub struct Start {
    #[command(flatten)]
    invocation: Invocation,
}

impl Run for Start {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let (name, params) = self.invocation.resolve(session)?;
        let job = session.client()?.start(&name, params, &self.invocation.options())?;
        session.print(&render(&job, &session.screen))?;
        Ok(Exit::Ok)
    }
}

/// The id, bare or as a JSON string.
pub fn render(job: &str, screen: &Screen) -> String {
    screen.value(&json!(job))
}
