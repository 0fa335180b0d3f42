//! `tiebeam config rollback`: a new revision with an old content.

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::prompt;
use super::super::session::Session;
use super::{note_revision, params, run_job, set};
use crate::StartOptions;
use serde_json::{Value, json};

/// Make a new revision with the content of an old one
///
/// Shows what would change, and asks. Passwords, keys, tokens and enabled logins never come back;
/// warnings say what was left out.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Rollback {
    /// The revision whose content is wanted
    #[arg(value_name = "REVISION")]
    revision: u64,
    /// Only this part
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// Why; kept in the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Rollback {
    pub(super) fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let params = params([("revision", json!(self.revision)), ("path", json!(self.path))]);
        if !self.yes {
            let dry = StartOptions { dry_run: true, ..StartOptions::default() };
            let plan = run_job(session, "config_rollback", params.clone(), &dry)?;
            let diff = plan.result_plan.as_ref().map_or(&Value::Null, |plan| &plan["diff"]);
            eprint!("{}", super::super::changes::render(diff, &session.screen));
            if !prompt::confirm("Roll back?")? {
                return Ok(Exit::JobFailed);
            }
        }
        let options = StartOptions { reason: self.reason, ..StartOptions::default() };
        let result = run_job(session, "config_rollback", params, &options)?;
        session.print(&set::render(&result, &session.screen))?;
        note_revision(session, &result);
        Ok(Exit::Ok)
    }
}
