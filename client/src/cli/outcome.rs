//! How a job's result is printed: the output, and beside it what else there is to say.
//!
//! Standard output gets `result_output` (or a dry run's plan) and nothing else, so that it can be
//! read by programs; warnings, lagging nodes and a job's error go to standard error.

use super::changes;
use super::exit::Exit;
use super::failure::Failure;
use super::screen::{Screen, Tone, tone_of};
use super::session::Session;
use serde_json::Value;
use std::fmt::Write as _;
use tiebeam_proto::ResultObject;
use tiebeam_proto::outcome::UNFINISHED;

/// What goes to standard output.
pub fn output(result: &ResultObject, screen: &Screen) -> String {
    match (&result.result_output, &result.result_plan) {
        (Some(output), _) => screen.value(output),
        (None, Some(plan)) => plan_text(plan, screen),
        (None, None) if screen.json => screen.value(&Value::Null),
        (None, None) => String::new(),
    }
}

/// What goes to standard error.
pub fn notes(result: &ResultObject, screen: &Screen) -> String {
    let mut text = String::new();
    for warning in &result.result_warnings {
        let _ =
            writeln!(text, "{} {}", screen.toned("warning:", Tone::Doubtful), screen.text(warning));
    }
    if let [first, rest @ ..] = result.result_nodes_pending.as_slice() {
        let mut nodes = first.to_string();
        rest.iter().for_each(|node| nodes.push_str(&format!(", {node}")));
        let _ = writeln!(
            text,
            "{} not yet applied on: {nodes}",
            screen.toned("pending:", Tone::Doubtful)
        );
    }
    let job = screen.line(&result.result_jobid);
    if result.result_code == UNFINISHED {
        let _ = writeln!(text, "job {job} still runs; `tiebeam follow {job}` shows it");
    } else if result.result_code != 0 {
        let word = screen.toned(&screen.line(&result.result_name), tone_of(&result.result_name));
        let _ = writeln!(text, "job {job} ended {word}: {}", screen.text(&result.result_desc));
    }
    text
}

/// Prints both and says how the program ends.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(result: &ResultObject, session: &Session) -> Result<Exit, Failure> {
    session.print(&output(result, &session.screen))?;
    eprint!("{}", notes(result, &Screen::of_stderr(false)));
    Ok(Exit::of_result(result.result_code))
}

fn plan_text(plan: &Value, screen: &Screen) -> String {
    if screen.json {
        return screen.value(plan);
    }
    let mut text = format!("against revision {}\n", screen.inline(&plan["base_revision"]));
    let _ = write!(text, "{}", changes::render(&plan["diff"], screen));
    for (label, key) in [("command", "commands"), ("lock", "locks")] {
        for item in plan[key].as_array().into_iter().flatten() {
            let _ = writeln!(text, "{} {}", screen.dim(label), screen.inline(item));
        }
    }
    text
}
