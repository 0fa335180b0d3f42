//! `tiebeam config set`: one value below `app`.

use super::super::changes;
use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::files::{self, RealContents};
use super::super::screen::Screen;
use super::super::session::Session;
use super::super::words;
use super::{note_revision, params, run_job};
use crate::StartOptions;
use serde_json::{Value, json};
use tiebeam_proto::ResultObject;

/// Set a value below `app`, and print the diff
///
/// VALUE is YAML: `5`, `true`, `text`, `[a, b]`, `{a: 1}`; '"5"' is a text. `{< FILE}` is the
/// file's content.
///
///   tiebeam config set app/limits/connections 500 --reason 'ticket 4711'
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Set {
    /// Where, e.g. app/limits/connections
    #[arg(value_name = "PATH")]
    path: String,
    /// The value
    #[arg(value_name = "VALUE", required = true, allow_negative_numbers = true)]
    value: Vec<String>,
    /// Only if the last change there was in this revision; 0: only if there is nothing
    #[arg(long, value_name = "NUMBER")]
    expect_revision: Option<u64>,
    /// Why; kept in the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only show the diff
    #[arg(long)]
    dry_run: bool,
}

impl Set {
    pub(super) fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let given = words::parse_value("VALUE", &self.value)?;
        let mut parameters = words::Parameters::from([("value".to_owned(), given)]);
        files::substitute(&mut parameters, &mut RealContents::default())?;
        let value = parameters.remove("value").map(|given| given.value).unwrap_or_default();
        let mut params =
            params([("path", json!(self.path)), ("expect_revision", json!(self.expect_revision))]);
        // Null is a value here, so it must not be left out like an option.
        params["value"] = value;
        let options =
            StartOptions { reason: self.reason, dry_run: self.dry_run, ..StartOptions::default() };
        let result = run_job(session, "config_set", params, &options)?;
        session.print(&render(&result, &session.screen))?;
        if !self.dry_run {
            note_revision(session, &result);
        }
        Ok(Exit::Ok)
    }
}

/// The diff of a change, or of its dry run.
pub fn render(result: &ResultObject, screen: &Screen) -> String {
    let planned = result.result_plan.as_ref().map(|plan| &plan["diff"]);
    let diff = result.result_output.as_ref().or(planned).unwrap_or(&Value::Null);
    match diff {
        Value::Null if !screen.json => String::new(),
        // Some jobs return the diff beside other things.
        diff if screen.json => screen.value(diff),
        diff if diff["diff"].is_array() => changes::render(&diff["diff"], screen),
        diff => changes::render(diff, screen),
    }
}
