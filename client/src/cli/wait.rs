//! `tiebeam wait`: wait for a job's last stage.

use super::exit::Exit;
use super::failure::Failure;
use super::screen::Screen;
use super::session::Session;
use super::table::Run;
use serde_json::json;
use std::time::Duration;

/// Wait until a job has reached its last stage
///
/// Prints `true`, and exits 0 whatever the job's outcome is (`tiebeam result ID` tells). If the
/// time is over first, prints `false` and exits 5.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "wait", verbatim_doc_comment)]
pub struct Wait {
    /// The job's id
    #[arg(value_name = "ID")]
    job: String,
    /// Seconds to wait at most; for ever unless given
    #[arg(long, short = 't', value_name = "SECONDS")]
    timeout: Option<u64>,
}

impl Run for Wait {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let done = session.client()?.wait(&self.job, self.timeout.map(Duration::from_secs))?;
        session.print(&render(done, &session.screen))?;
        Ok(if done { Exit::Ok } else { Exit::Unfinished })
    }
}

/// `true` or `false`.
pub fn render(done: bool, screen: &Screen) -> String {
    screen.value(&json!(done))
}
