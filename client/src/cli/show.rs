//! `tiebeam show`: a job's record for reading.

use super::changes;
use super::exit::Exit;
use super::facts;
use super::failure::Failure;
use super::screen::{Screen, tone_of};
use super::session::Session;
use super::table::Run;
use serde_json::Value;
use std::fmt::Write as _;
use tiebeam_proto::Stage;
use tiebeam_proto::time::Time;

/// Lines of a command's output that are shown; `tiebeam file` has all that is kept.
const OUTPUT_LINES: usize = 20;

/// Show a job: who, why, stages, commands, changes, result
///
/// On a terminal for reading; in a pipe as YAML, with -j as JSON. Works while the job runs.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "show", verbatim_doc_comment)]
pub struct Show {
    /// The job's id
    #[arg(value_name = "ID")]
    job: String,
}

impl Run for Show {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let info = session.client()?.info(&self.job)?;
        session.print(&render(&info, &session.screen))?;
        Ok(Exit::Ok)
    }
}

/// The record.
pub fn render(info: &Value, screen: &Screen) -> String {
    if screen.json || !screen.terminal {
        return screen.value(info);
    }
    let mut text = head(info, screen);
    block(&mut text, "parameters", &info["parameters"], screen);
    stages(&mut text, info, screen);
    for command in info["commands"].as_array().into_iter().flatten() {
        command_lines(&mut text, command, screen);
    }
    if info["change"].as_array().is_some_and(|list| !list.is_empty()) {
        let _ = writeln!(text, "{}", screen.bold("change"));
        indent(&mut text, &changes::render(&info["change"], screen));
    }
    let result = &info["result"];
    for (label, key) in [
        ("error", "result_desc"),
        ("warnings", "result_warnings"),
        ("output", "result_output"),
        ("plan", "result_plan"),
    ] {
        block(&mut text, label, &result[key], screen);
    }
    block(&mut text, "nodes", &info["nodes"], screen);
    block(&mut text, "addenda", &info["addenda"], screen);
    text
}

fn head(info: &Value, screen: &Screen) -> String {
    let text = |key: &str| screen.line(info[key].as_str().unwrap_or_default()).into_owned();
    let word = match info["outcome"].as_str() {
        Some(outcome) => screen.toned(&screen.line(outcome), tone_of(outcome)),
        None => facts::stage(info).map_or("unknown", Stage::name).to_owned(),
    };
    let mut head =
        format!("{} {}  {word}\n", screen.bold(&text("job")), screen.bold(&text("name")));
    let mut line = |label: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(head, "  {:<10} {value}", label);
        }
    };
    line("kind", text("kind"));
    line("user", text("user"));
    line("reason", text("reason"));
    let request = &info["request"];
    let part = |key: &str| screen.line(request[key].as_str().unwrap_or_default()).into_owned();
    line("from", [part("peer"), part("protocol")].join(" ").trim().to_owned());
    let revision = &info["result"]["result_revision"];
    line("revision", if revision.is_null() { String::new() } else { screen.inline(revision) });
    line(
        "progress",
        match facts::state(info).fraction {
            Some(share) => format!("{:.0} %", share * 100.0),
            None => String::new(),
        },
    );
    head
}

fn stages(text: &mut String, info: &Value, screen: &Screen) {
    let _ = writeln!(text, "{}", screen.bold("stages"));
    let mut before: Option<Time> = None;
    for stage in Stage::ALL {
        let Some(at) = info["stages"][stage.name()].as_str() else { continue };
        let time = Time::parse(at);
        let after = match (before, time) {
            (Some(before), Some(now)) => format!("  +{}", span(now.0.saturating_sub(before.0))),
            _ => String::new(),
        };
        let _ = writeln!(text, "  {:<10} {}{}", stage.name(), screen.time(at), screen.dim(&after));
        before = time.or(before);
    }
}

/// Microseconds for a person.
fn span(micros: i64) -> String {
    match micros.max(0) {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ => format!("{} min {} s", micros / 60_000_000, micros / 1_000_000 % 60),
    }
}

fn command_lines(text: &mut String, command: &Value, screen: &Screen) {
    let part = |key: &str| screen.line(command[key].as_str().unwrap_or_default()).into_owned();
    let result = part("result");
    let _ = writeln!(
        text,
        "{} {} on node {}  {}",
        screen.bold("command"),
        part("name"),
        screen.inline(&command["node"]),
        screen.toned(&result, tone_of(&result)),
    );
    for (label, key) in [("started", "started"), ("ended", "ended")] {
        if let Some(at) = command[key].as_str() {
            let _ = writeln!(text, "  {label:<10} {}", screen.time(at));
        }
    }
    for key in ["status", "evidence"] {
        if !command[key].is_null() {
            let _ = writeln!(text, "  {key:<10} {}", screen.inline(&command[key]));
        }
    }
    let output = screen.text(command["output"].as_str().unwrap_or_default());
    for line in output.lines().take(OUTPUT_LINES) {
        let _ = writeln!(text, "  {} {line}", screen.dim("│"));
    }
    let left = output.lines().count().saturating_sub(OUTPUT_LINES);
    if left > 0 {
        let _ = writeln!(text, "  {} {left} more lines", screen.dim("│"));
    }
}

/// A titled value, unless there is nothing in it.
fn block(text: &mut String, title: &str, value: &Value, screen: &Screen) {
    let empty = match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    if !empty {
        let _ = writeln!(text, "{}", screen.bold(title));
        indent(text, &screen.value(value));
    }
}

fn indent(text: &mut String, lines: &str) {
    for line in lines.lines() {
        let _ = writeln!(text, "  {line}");
    }
}
