//! `tiebeam config log`: which revisions there were, and who made them.

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::screen::{Screen, Tone};
use super::super::session::Session;
use super::{params, run_job};
use crate::StartOptions;
use serde_json::{Value, json};

/// Print the revisions, the newest first: time, user, job, reason, what changed
#[derive(clap::Args, Clone, Debug)]
pub struct Log {
    /// Only revisions that changed something here
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// The earliest revision, or RFC 3339 time
    #[arg(long, value_name = "REVISION|TIME")]
    since: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "NUMBER")]
    limit: Option<u64>,
}

impl Log {
    pub(super) fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let params = params([
            ("path", json!(self.path)),
            ("since", json!(self.since)),
            ("limit", json!(self.limit)),
        ]);
        let result = run_job(session, "config_log", params, &StartOptions::default())?;
        session.print(&render(&result.result_output.unwrap_or_default(), &session.screen))?;
        Ok(Exit::Ok)
    }
}

/// A list of `{revision, time, user, job, reason, summary}`.
pub fn render(log: &Value, screen: &Screen) -> String {
    let Some(list) = log.as_array().filter(|_| !screen.json) else {
        return screen.value(log);
    };
    let rows: Vec<Vec<_>> = list.iter().map(|entry| row(entry, screen)).collect();
    screen.rows(&["revision", "time", "user", "job", "reason", "summary"], &rows)
}

fn row(entry: &Value, screen: &Screen) -> Vec<(String, Tone)> {
    let cell = |key: &str| match &entry[key] {
        Value::Null => String::new(),
        value => screen.inline(value),
    };
    let time = screen.time(entry["time"].as_str().unwrap_or_default());
    [cell("revision"), time, cell("user"), cell("job"), cell("reason"), cell("summary")]
        .map(|text| (text, Tone::Plain))
        .into()
}
