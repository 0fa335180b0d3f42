//! `tiebeam config diff`: what changed between two revisions.

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::session::Session;
use super::{params, run_job, set};
use crate::StartOptions;
use serde_json::json;

/// Print what changed between two revisions
///
/// `+ path: value`, `- path: value`, `~ path: old → new`; with -j a list of changes.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Diff {
    /// The older revision
    #[arg(value_name = "FROM")]
    from: u64,
    /// The newer revision; the current one unless given
    #[arg(value_name = "TO")]
    to: Option<u64>,
}

impl Diff {
    pub(super) fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let params = params([("from", json!(self.from)), ("to", json!(self.to))]);
        let result = run_job(session, "config_diff", params, &StartOptions::default())?;
        session.print(&set::render(&result, &session.screen))?;
        Ok(Exit::Ok)
    }
}
