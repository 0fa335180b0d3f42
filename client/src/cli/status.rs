//! `tiebeam status`: is the cluster well?

use super::exit::Exit;
use super::failure::Failure;
use super::screen::{Screen, Tone, tone_of};
use super::session::Session;
use super::table::Run;
use crate::StartOptions;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Seconds to go on unless `--retry-for` is shorter: who asks for the state wants it now.
const PATIENCE: u64 = 3;
/// Columns of the members' table, those that the reply has.
const COLUMNS: [&str; 9] =
    ["id", "name", "address", "role", "state", "applied", "lag", "version", "labels"];

/// Show the cluster: master, revision, members, and which of them answer here
///
/// Asks every configured address for its health, and the cluster for `cluster_info`. On a node,
/// as root, it needs no flags: it uses the local socket. Exit status 4 if there is no master.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "status", verbatim_doc_comment)]
pub struct Status {}

impl Run for Status {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        session.options.retry_for = session.options.retry_for.min(PATIENCE);
        let client = session.client()?;
        let health = client.health().into_iter().map(|(address, answer)| match answer {
            Ok(said) => json!({"address": address, "ready": said.ready, "detail": said.detail}),
            Err(error) => json!({"address": address, "ready": false, "error": reason(&error)}),
        });
        let health: Vec<Value> = health.collect();
        let info = client.run("cluster_info", json!({}), &StartOptions::volatile());
        let (cluster, failed) = match info {
            Ok(result) => (result.result_output.unwrap_or_default(), None),
            Err(error) => (Value::Null, Some(error)),
        };
        session.print(&render(&cluster, &health, &session.screen))?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(Exit::Ok),
        }
    }
}

fn reason(error: &crate::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(below) = deepest.source() {
        deepest = below;
    }
    deepest.to_string()
}

/// `cluster_info`'s output (null if it could not be had) and the members' health.
pub fn render(cluster: &Value, health: &[Value], screen: &Screen) -> String {
    if screen.json || !screen.terminal {
        return screen.value(&json!({"cluster": cluster, "reached": health}));
    }
    let mut text = String::new();
    if cluster.is_object() {
        let _ = write!(text, "{}", cluster_text(cluster, screen));
    }
    let _ = writeln!(text, "{}", screen.bold("reached from here"));
    for member in health {
        let address = screen.line(member["address"].as_str().unwrap_or_default());
        let word = match (member["ready"].as_bool(), member["error"].as_str()) {
            (Some(true), _) => screen.toned("ready", Tone::Good),
            (_, Some(error)) => screen.toned(&screen.line(error), Tone::Bad),
            _ => screen.toned("not ready", Tone::Doubtful),
        };
        let _ = writeln!(text, "  {address}  {word}");
    }
    text
}

fn cluster_text(cluster: &Value, screen: &Screen) -> String {
    let mut text = String::new();
    let name = screen.line(cluster["name"].as_str().unwrap_or_default());
    let _ = writeln!(text, "{} {name}", screen.bold("cluster"));
    for key in ["master", "term", "revision", "health"] {
        if !cluster[key].is_null() {
            let value = screen.inline(&cluster[key]);
            let _ = writeln!(text, "  {key:<9} {}", screen.toned(&value, tone_of(&value)));
        }
    }
    let members = members(&cluster["members"]);
    let has = |column: &&str| members.iter().any(|member| !member[*column].is_null());
    let columns: Vec<&str> = COLUMNS.into_iter().filter(|column| has(column)).collect();
    let rows: Vec<Vec<_>> = members
        .iter()
        .map(|member| columns.iter().map(|column| cell(&member[*column], screen)).collect())
        .collect();
    if !rows.is_empty() {
        text.push_str(&screen.rows(&columns, &rows));
    }
    text
}

fn cell(value: &Value, screen: &Screen) -> (String, Tone) {
    let text = if value.is_null() { String::new() } else { screen.inline(value) };
    let tone = tone_of(&text);
    (text, tone)
}

/// Members as a list, whether they come as one or by id.
fn members(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list.clone(),
        Value::Object(map) => map.iter().map(|(id, member)| with_id(id, member)).collect(),
        _ => Vec::new(),
    }
}

fn with_id(id: &str, member: &Value) -> Value {
    let mut row: Map<String, Value> = member.as_object().cloned().unwrap_or_default();
    row.entry("id").or_insert_with(|| json!(id));
    Value::Object(row)
}
