//! `tiebeam cancel`: stop a job, and know whether it had an effect.

use super::exit::Exit;
use super::failure::Failure;
use super::screen::Screen;
use super::session::Session;
use super::table::Run;
use crate::Cancelled;
use serde_json::json;

/// Cancel a job
///
/// Prints `cancelled` (it had done nothing, and will not), `stopping` (it runs, and is being
/// stopped; its record will say after which step) or `too_late` (it took effect; exit status 1).
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "cancel", verbatim_doc_comment)]
pub struct Cancel {
    /// The job's id
    #[arg(value_name = "ID")]
    job: String,
}

impl Run for Cancel {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let answer = session.client()?.cancel(&self.job)?;
        session.print(&render(answer, &session.screen))?;
        Ok(if answer == Cancelled::TooLate { Exit::JobFailed } else { Exit::Ok })
    }
}

/// The word of the wire.
pub fn render(answer: Cancelled, screen: &Screen) -> String {
    screen.value(&json!(match answer {
        Cancelled::Cancelled => "cancelled",
        Cancelled::Stopping => "stopping",
        Cancelled::TooLate => "too_late",
    }))
}
