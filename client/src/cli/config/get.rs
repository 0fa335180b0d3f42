//! `tiebeam config get`: the tree, or a part of it, now or at a revision.

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::session::Session;
use super::{params, run_job};
use crate::StartOptions;
use serde_json::json;

/// Print the configuration or a part of it
///
/// Secrets are shown as commitments. YAML; JSON with -j.
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Get {
    /// What to print, e.g. users/alice; everything unless given
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// As it was at this revision
    #[arg(long, value_name = "NUMBER")]
    revision: Option<u64>,
}

impl Get {
    pub(super) fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let params = params([("path", json!(self.path)), ("revision", json!(self.revision))]);
        let result = run_job(session, "config_get", params, &StartOptions::default())?;
        session.print_value(&result.result_output.unwrap_or_default())?;
        Ok(Exit::Ok)
    }
}
