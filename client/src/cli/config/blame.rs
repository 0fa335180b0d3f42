//! `tiebeam config blame`: who set each value.

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::screen::{Screen, Tone};
use super::super::session::Session;
use super::{params, run_job};
use crate::StartOptions;
use serde_json::{Value, json};

/// Print for each value who set it, by which job, in which revision, when
#[derive(clap::Args, Clone, Debug)]
pub struct Blame {
    /// Where, e.g. users/alice; everything unless given
    #[arg(value_name = "PATH")]
    path: Option<String>,
}

impl Blame {
    pub(super) fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let params = params([("path", json!(self.path.unwrap_or_default()))]);
        let result = run_job(session, "config_blame", params, &StartOptions::default())?;
        session.print(&render(&result.result_output.unwrap_or_default(), &session.screen))?;
        Ok(Exit::Ok)
    }
}

/// A list of `{path, revision, job, user, time}`, or the same by path.
pub fn render(blame: &Value, screen: &Screen) -> String {
    let rows: Vec<Vec<_>> = match blame {
        _ if screen.json => return screen.value(blame),
        Value::Array(list) => list
            .iter()
            .map(|leaf| row(leaf["path"].as_str().unwrap_or_default(), leaf, screen))
            .collect(),
        Value::Object(map) => map.iter().map(|(path, leaf)| row(path, leaf, screen)).collect(),
        other => return screen.value(other),
    };
    screen.rows(&["path", "revision", "job", "user", "time"], &rows)
}

fn row(path: &str, leaf: &Value, screen: &Screen) -> Vec<(String, Tone)> {
    let cell = |key: &str| match &leaf[key] {
        Value::Null => String::new(),
        value => screen.inline(value),
    };
    let time = screen.time(leaf["time"].as_str().unwrap_or_default());
    [path.to_owned(), cell("revision"), cell("job"), cell("user"), time]
        .map(|text| (text, Tone::Plain))
        .into()
}
