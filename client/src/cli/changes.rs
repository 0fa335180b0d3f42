//! Configuration diffs: lists of `{op, path, old, value}`, one line each.

use super::screen::{Screen, Tone};
use serde_json::Value;
use std::fmt::Write as _;

/// A diff as lines: `+ path: value`, `- path: value`, `~ path: old → new`. What is no list of
/// changes is shown as a value.
pub fn render(diff: &Value, screen: &Screen) -> String {
    let Some(changes) = diff.as_array().filter(|list| list.iter().all(is_change)) else {
        return screen.value(diff);
    };
    let mut text = String::new();
    for change in changes {
        let _ = writeln!(text, "{}", line(change, screen));
    }
    text
}

fn is_change(change: &Value) -> bool {
    change["op"].is_string() && change["path"].is_string()
}

fn line(change: &Value, screen: &Screen) -> String {
    let path = screen.line(change["path"].as_str().unwrap_or_default());
    let (old, new) = (screen.inline(&change["old"]), screen.inline(&change["value"]));
    match change["op"].as_str() {
        Some("add") => screen.toned(&format!("+ {path}: {new}"), Tone::Good),
        Some("remove") if change["old"].is_null() => screen.toned(&format!("- {path}"), Tone::Bad),
        Some("remove") => screen.toned(&format!("- {path}: {old}"), Tone::Bad),
        _ => screen.toned(&format!("~ {path}: {old} → {new}"), Tone::Doubtful),
    }
}
