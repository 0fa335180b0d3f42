//! `tiebeam follow`: look on while a job runs, or while anything happens.

use super::exit::Exit;
use super::facts;
use super::failure::Failure;
use super::outcome;
use super::progress::{self, Bar, LOOK};
use super::screen::{Screen, Tone, tone_of};
use super::session::Session;
use super::table::Run;
use crate::error::Error;
use crate::{EventFilter, JobsFilter};
use serde_json::Value;
use std::time::Duration;

/// Follow a job to its end, or everything that happens
///
/// With an id: prints each stage and command as it comes, and what commands print while they run
/// on any node (of much at once its end), with a progress bar on a terminal, then the job's output;
/// exits as `exec` does. Without: prints events until interrupted; with --since it first prints
/// what came after that cursor. With -j: one JSON object per line.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "follow", verbatim_doc_comment)]
pub struct Follow {
    /// The job's id
    #[arg(value_name = "ID")]
    job: Option<String>,
    /// Events of all jobs that you may see, not only of your own
    #[arg(long, conflicts_with = "job")]
    all: bool,
    /// Only these kinds: stage, command, progress, config, node, master
    #[arg(long, value_name = "KIND", value_delimiter = ',', conflicts_with = "job")]
    kinds: Vec<String>,
    /// Begin after this event
    #[arg(long, value_name = "CURSOR", conflicts_with = "job")]
    since: Option<String>,
}

impl Run for Follow {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match &self.job {
            Some(job) => follow_job(job, session),
            None => self.follow_events(session),
        }
    }
}

fn follow_job(job: &str, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    let bar = progress::wanted().then(Bar::new);
    let mut seen = Value::Null;
    // The first look is at once, so that there is something to see from the beginning.
    let mut patience = Duration::ZERO;
    loop {
        let done = client.wait(job, Some(patience))?;
        let info = client.info(job)?;
        let mut new = facts::new_facts(&seen, &info);
        new.extend(facts::new_output(&seen, &info));
        let lines: String = new.iter().map(|fact| fact.render(job, &session.screen)).collect();
        match &bar {
            Some(bar) if !lines.is_empty() => bar.above(|| session.print(&lines))?,
            Some(_) => {}
            None => session.print(&lines)?,
        }
        if done {
            break;
        }
        if let Some(bar) = &bar {
            bar.show(job, &info);
        }
        (seen, patience) = (info, LOOK);
    }
    drop(bar);
    let result = client.result(job)?;
    if session.screen.json {
        session.print(&format!("{}\n", serde_json::json!(result)))?;
        return Ok(Exit::of_result(result.result_code));
    }
    outcome::print(&result, session)
}

impl Follow {
    fn follow_events(self, session: &mut Session) -> Result<Exit, Failure> {
        let jobs = if self.all { JobsFilter::All } else { JobsFilter::Mine };
        let filter = EventFilter { jobs, kinds: self.kinds, since: self.since };
        for event in session.client()?.events(filter) {
            match event {
                Ok(event) => session.print(&render_event(&event.value, &session.screen))?,
                Err(Error::EventGap { from }) => {
                    session.note(&format!("warning: the events before {from} are gone"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Exit::Ok)
    }
}

/// One event as a line.
pub fn render_event(event: &Value, screen: &Screen) -> String {
    if screen.json {
        return format!("{event}\n");
    }
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let (what, tone) = match text("kind") {
        "stage" => {
            let outcome = text("outcome");
            let colon = if outcome.is_empty() { "" } else { ": " };
            let line =
                format!("{} {} {}{colon}{outcome}", text("job"), text("name"), text("stage"));
            (line, tone_of(outcome))
        }
        "command" => {
            let (job, command, result) = (text("job"), text("command"), text("result"));
            (format!("{job} {command} on node {}: {result}", event["node"]), tone_of(result))
        }
        "config" => (format!("revision {} by {}", event["revision"], text("job")), Tone::Plain),
        _ => (rest_of(event), Tone::Plain),
    };
    let what = screen.line(&what);
    if screen.terminal {
        let time = format!("{:<19}", screen.time(text("time")));
        format!("{} {}\n", screen.dim(&time), screen.toned(&what, tone))
    } else {
        let line = [text("cursor"), text("time"), text("kind")].map(|cell| screen.line(cell));
        format!("{}\t{what}\n", line.join("\t"))
    }
}

/// The members of an event of another kind, but for those that every line shows.
fn rest_of(event: &Value) -> String {
    let rest = event.as_object().into_iter().flatten();
    let shown = ["cursor", "kind", "time"];
    let parts =
        rest.filter(|(key, _)| !shown.contains(&key.as_str())).map(|(key, value)| match value {
            Value::String(text) => format!("{key} {text}"),
            other => format!("{key} {other}"),
        });
    let text = parts.collect::<Vec<_>>().join(", ");
    format!("{}: {text}", event["kind"].as_str().unwrap_or_default())
}
