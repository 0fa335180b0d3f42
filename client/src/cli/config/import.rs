//! `tiebeam config import`: a file's content merged below `app`, after a look at the diff.

use super::super::changes;
use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::prompt;
use super::super::screen::Screen;
use super::super::session::Session;
use super::{note_revision, params, run_job, set};
use crate::StartOptions;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Merge a file below `app`: shows the diff, asks, then changes exactly that
///
/// FILE is YAML: the published cluster.yaml after an edit (a daemon keeps such an edit as
/// config/edited-TIME.yaml), or any mapping with --path. Only its section `app` is taken, other
/// sections have jobs of their own. If the configuration changes between diff and answer, nothing
/// is done (`conflict`).
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct Import {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Merge the whole file here, e.g. app/web, instead of its section `app` there
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Why; kept in the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Import {
    pub(super) fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let text = std::fs::read_to_string(&self.file).map_err(|source| Failure::File {
            what: "read",
            path: self.file.clone(),
            source,
        })?;
        let (path, value, left_out) = chosen(&self.file, &text, self.path.as_deref())?;
        if !left_out.is_empty() {
            session.note(&format!("not imported: {}", left_out.join(", ")));
        }
        let last_change = last_change(session, &path)?;
        let dry = StartOptions { dry_run: true, ..StartOptions::default() };
        let wanted = params([("path", json!(path)), ("value", value.clone())]);
        let plan = run_job(session, "config_merge", wanted, &dry)?.result_plan.unwrap_or_default();
        if plan["diff"].as_array().is_some_and(Vec::is_empty) {
            session.note("nothing to change");
            return Ok(Exit::Ok);
        }
        if !self.yes {
            eprint!("{}", changes::render(&plan["diff"], &Screen::of_stderr(false)));
            if !prompt::confirm(&format!("Merge this into {path}?"))? {
                return Ok(Exit::JobFailed);
            }
        }
        let wanted = params([
            ("path", json!(path)),
            ("value", value),
            ("expect_revision", expected(&plan["diff"], &path, last_change)),
        ]);
        let options = StartOptions { reason: self.reason, ..StartOptions::default() };
        let result = run_job(session, "config_merge", wanted, &options)?;
        session.print(&set::render(&result, &session.screen))?;
        note_revision(session, &result);
        Ok(Exit::Ok)
    }
}

/// The revision of the last change at or below a path, asked for before the diff is made: what
/// comes in between is then a conflict too.
fn last_change(session: &mut Session, path: &str) -> Result<Value, Failure> {
    let params = params([("path", json!(path)), ("limit", json!(1))]);
    let log = run_job(session, "config_log", params, &StartOptions::default())?;
    let newest = log.result_output.map(|list| list[0]["revision"].clone());
    // Revision 1 is what `init` made; no job did it, so it has no line.
    Ok(newest.filter(Value::is_number).unwrap_or(json!(1)))
}

/// What `expect_revision` is to be: 0 where the diff shows that there is nothing yet.
fn expected(diff: &Value, path: &str, last_change: Value) -> Value {
    let added = |change: &Value| change["op"] == "add" && change["path"] == path;
    let absent = diff.as_array().is_some_and(|list| list.iter().any(added));
    if absent { json!(0) } else { last_change }
}

/// Where to merge, what, and which sections of the file are left out.
fn chosen(
    file: &Path,
    text: &str,
    path: Option<&str>,
) -> Result<(String, Value, Vec<String>), Failure> {
    let mut content: Map<String, Value> = serde_saphyr::from_str(text).map_err(|error| {
        Failure::usage(format!("{} is no YAML mapping: {error}", file.display()))
    })?;
    if let Some(path) = path {
        return Ok((path.to_owned(), Value::Object(content), Vec::new()));
    }
    let app = content.remove("app").filter(Value::is_object).ok_or_else(|| {
        Failure::usage_hint(
            format!("{} has no section `app`", file.display()),
            "--path app/NAME merges the whole file there",
        )
    })?;
    Ok(("app".to_owned(), app, content.keys().cloned().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_app_is_taken_from_a_published_file() {
        let text = "# revision: 18\napp: {web: {port: 80}}\nusers: {alice: {id: 1}}\n";
        let (path, value, left) = chosen(Path::new("f"), text, None).unwrap();
        assert_eq!((path.as_str(), value), ("app", json!({"web": {"port": 80}})));
        assert_eq!(left, ["users"]);
        let (path, value, left) = chosen(Path::new("f"), "port: 80", Some("app/web")).unwrap();
        assert_eq!((path.as_str(), value, left.len()), ("app/web", json!({"port": 80}), 0));
        assert!(chosen(Path::new("f"), "users: {}", None).is_err());
    }

    #[test]
    fn where_there_is_nothing_yet_nothing_is_expected() {
        let below = json!([{"op": "add", "path": "app/web/port", "value": 80}]);
        assert_eq!(expected(&below, "app/web", json!(17)), json!(17));
        let whole = json!([{"op": "add", "path": "app/web", "value": {"port": 80}}]);
        assert_eq!(expected(&whole, "app/web", json!(17)), json!(0));
    }
}
