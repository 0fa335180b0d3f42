//! `tiebeam result`: what a job returned.

use super::exit::Exit;
use super::failure::Failure;
use super::outcome;
use super::session::Session;
use super::table::Run;

/// Print a job's output, as `exec` would have
///
/// Exits as `exec` does; 5 while the job runs.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "result", verbatim_doc_comment)]
pub struct ResultOf {
    /// The job's id
    #[arg(value_name = "ID")]
    job: String,
    /// Print the whole result object, not only the output
    #[arg(long)]
    whole: bool,
}

impl Run for ResultOf {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let result = session.client()?.result(&self.job)?;
        if !self.whole {
            return outcome::print(&result, session);
        }
        let exit = Exit::of_result(result.result_code);
        session.print_value(&serde_json::json!(result))?;
        Ok(exit)
    }
}
