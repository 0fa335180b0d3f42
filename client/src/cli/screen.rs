//! What output looks like: terminal or pipe, colours, width, JSON.
//!
//! Owns the rules that hold for every command: text of the network never controls the terminal,
//! colours appear on a terminal only (and not with `NO_COLOR`), a table is aligned on a terminal
//! and tab-separated in a pipe. It reads the environment in `of_stdout` and `of_stderr` only.

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IsTerminal;

/// Width if the terminal does not say.
const WIDTH: u16 = 80;

/// How output is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// `-j`.
    pub json: bool,
    /// A person looks at it.
    pub terminal: bool,
    /// Colours are wanted.
    pub colour: bool,
    /// Columns.
    pub width: u16,
}

/// What a word or a line means, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// Well.
    Good,
    /// Not well.
    Bad,
    /// To be looked at.
    Doubtful,
}

impl Screen {
    /// Standard output's.
    pub fn of_stdout(json: bool) -> Screen {
        Screen::of(std::io::stdout().is_terminal(), json)
    }

    /// Standard error's.
    pub fn of_stderr(json: bool) -> Screen {
        Screen::of(std::io::stderr().is_terminal(), json)
    }

    fn of(terminal: bool, json: bool) -> Screen {
        let quiet = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|text| text == "dumb");
        let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
        let width = size.map(|size| size.ws_col).filter(|columns| *columns > 0).unwrap_or(WIDTH);
        Screen { json, terminal, colour: terminal && !quiet && !dumb, width }
    }

    /// A pipe.
    pub fn plain() -> Screen {
        Screen { json: false, terminal: false, colour: false, width: WIDTH }
    }

    /// A terminal with colours, 80 columns.
    pub fn colourful() -> Screen {
        Screen { json: false, terminal: true, colour: true, width: WIDTH }
    }

    /// A pipe with `-j`.
    pub fn in_json() -> Screen {
        Screen { json: true, ..Screen::plain() }
    }

    /// Text from the network: as it is in a pipe, harmless on a terminal. Line ends and tabs stay.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.terminal { neutral(text, true) } else { Cow::Borrowed(text) }
    }

    /// One line of text from the network: also in a pipe without line ends, tabs, controls.
    pub fn line<'a>(&self, text: &'a str) -> Cow<'a, str> {
        neutral(text, false)
    }

    /// A value as output: JSON with `-j`; else a bare string, or YAML.
    pub fn value(&self, value: &Value) -> String {
        let mut text = if self.json {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            // JSON escapes only what is below 0x20; C1 and direction marks are left.
            if self.terminal { neutral(&text, true).into_owned() } else { text }
        } else {
            match value {
                Value::String(text) => self.text(text).into_owned(),
                other => self.text(&serde_yaml::to_string(other).unwrap_or_default()).into_owned(),
            }
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    /// A value on one line, as YAML would write it within a line.
    pub fn inline(&self, value: &Value) -> String {
        match value {
            Value::String(text) => self.line(text).into_owned(),
            other => self.line(&other.to_string()).into_owned(),
        }
    }

    /// Rows under a header on a terminal; tab-separated rows without a header in a pipe.
    pub fn rows(&self, header: &[&str], rows: &[Vec<(String, Tone)>]) -> String {
        if !self.terminal {
            let mut text = String::new();
            for row in rows {
                let cells: Vec<_> = row.iter().map(|(cell, _)| self.line(cell)).collect();
                let _ = writeln!(text, "{}", cells.join("\t"));
            }
            return text;
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.force_no_tty().set_width(self.width);
        if self.colour {
            table.enforce_styling();
        }
        table.set_header(header.iter().map(|name| Cell::new(name.to_uppercase())));
        for row in rows {
            table.add_row(row.iter().map(|(cell, tone)| {
                let cell = Cell::new(self.line(cell));
                match tone {
                    Tone::Plain => cell,
                    Tone::Good => cell.fg(Color::Green),
                    Tone::Bad => cell.fg(Color::Red),
                    Tone::Doubtful => cell.fg(Color::Yellow),
                }
            }));
        }
        // Only the last column, which is for texts, is broken into lines.
        for column in table.column_iter_mut().take(header.len().saturating_sub(1)) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        format!("{}\n", lines.join("\n"))
    }

    /// Text in a tone. The text must be harmless already.
    pub fn toned(&self, text: &str, tone: Tone) -> String {
        match tone {
            Tone::Plain => text.to_owned(),
            Tone::Good => self.painted(text, "32"),
            Tone::Bad => self.painted(text, "31"),
            Tone::Doubtful => self.painted(text, "33"),
        }
    }

    /// An error's word.
    pub fn bad(&self, text: &str) -> String {
        self.painted(text, "1;31")
    }

    /// A label.
    pub fn dim(&self, text: &str) -> String {
        self.painted(text, "2")
    }

    /// A heading.
    pub fn bold(&self, text: &str) -> String {
        self.painted(text, "1")
    }

    fn painted(&self, text: &str, code: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// A wire time: to the second on a terminal, whole in a pipe.
    pub fn time(&self, text: &str) -> String {
        let text = self.line(text);
        match (self.terminal, text.get(..19), text.ends_with('Z')) {
            (true, Some(start), true) => start.replace('T', " "),
            _ => text.into_owned(),
        }
    }
}

/// The tone of an outcome's or stage's word.
pub fn tone_of(word: &str) -> Tone {
    match word.to_ascii_lowercase().as_str() {
        "ok" | "success" | "online" | "ready" => Tone::Good,
        "failed" | "declined" | "timeout" | "conflict" | "offline" => Tone::Bad,
        "indeterminate" | "cancelled" | "suspended" | "joining" | "lagging" => Tone::Doubtful,
        _ => Tone::Plain,
    }
}

/// Shows every character that could control a terminal, or turn the reading direction, as its
/// number: `\u{1b}`.
fn neutral(text: &str, lines: bool) -> Cow<'_, str> {
    let harmless = |c: char| (lines && matches!(c, '\n' | '\t')) || !controls(c);
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if harmless(c) => shown.push(c),
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            c => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
    Cow::Owned(shown)
}

fn controls(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_from_the_network_controls_a_terminal() {
        let hostile = "a\u{1b}]0;title\u{7}\u{9b}31m\u{202e}b\nc\td";
        let shown = Screen::colourful().text(hostile);
        assert!(!shown.chars().any(|c| controls(c) && !matches!(c, '\n' | '\t')), "{shown}");
        assert!(shown.contains("\\u{1b}]0;title"));
        assert_eq!(Screen::plain().text(hostile), hostile);
        assert!(!Screen::plain().line(hostile).contains(['\n', '\t', '\u{1b}']));
        let json = Screen { json: true, ..Screen::colourful() }.value(&json!({"a": hostile}));
        assert!(!json.contains(['\u{9b}', '\u{202e}', '\u{1b}']));
    }

    #[test]
    fn a_string_is_bare_and_everything_else_is_yaml() {
        let plain = Screen::plain();
        assert_eq!(plain.value(&json!("running")), "running\n");
        assert_eq!(plain.value(&json!(["a", "b"])), "- a\n- b\n");
        assert_eq!(plain.value(&json!(18)), "18\n");
        assert_eq!(Screen::in_json().value(&json!("running")), "\"running\"\n");
    }
}
