//! YAML text for JSON values: a small emitter whose output reads the same everywhere.
//!
//! It owns style only: block maps, `- ` lists at the key's own indent, short containers on one
//! line, literal blocks for text of several lines. A string is plain only where YAML 1.1 and 1.2
//! both take it for a string; else it is quoted, and what is not printable is escaped. Which keys
//! come first is the caller's, [`super`]. It never fails and never panics.

use super::Part;
use serde_json::{Map, Number, Value};

/// Columns that a container may fill before it is written over several lines.
const COLUMNS: usize = 100;

/// An implicit key of YAML has at most 1,024 characters; longer ones are written as `? key`.
const KEY_BYTES_MAX: usize = 1000;

/// Words that some YAML version reads as a boolean or null.
const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// The text so far.
#[derive(Default)]
pub(super) struct Emitter {
    /// The YAML text.
    pub(super) out: String,
}

impl Emitter {
    /// Writes `key: value` where a line of a block map with this indent begins. An `open`
    /// container is written over several lines even if one would do.
    pub(super) fn pair(
        &mut self,
        indent: usize,
        key: &str,
        value: &Value,
        (part, open): (Part, bool),
    ) {
        if key.len() > KEY_BYTES_MAX {
            self.long_pair(indent, key, value, part);
            return;
        }
        self.key(key);
        self.out.push(':');
        if self.inline(indent + 2, value, part, open) {
            return;
        }
        self.out.push('\n');
        match value {
            Value::Array(items) => self.items(indent, items, part, false),
            Value::Object(map) => self.entries(indent + 2, map, part, false),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn long_pair(&mut self, indent: usize, key: &str, value: &Value, part: Part) {
        self.out.push_str("? ");
        self.quoted(key);
        self.out.push('\n');
        self.spaces(indent);
        self.out.push_str(": ");
        self.flow(value, part, usize::MAX);
        self.out.push('\n');
    }

    /// Writes ` value` and ends the line, if the value has a form that begins on this line.
    fn inline(&mut self, indent: usize, value: &Value, part: Part, open: bool) -> bool {
        let mark = self.out.len();
        self.out.push(' ');
        let written = match value {
            Value::String(text) if literal(text) => {
                self.literal(indent, text);
                return true;
            }
            Value::Array(items) if items.is_empty() => self.flow(value, part, usize::MAX),
            Value::Object(map) if map.is_empty() => self.flow(value, part, usize::MAX),
            Value::Array(_) | Value::Object(_) if open => false,
            Value::Array(_) | Value::Object(_) => {
                let line = self.out.rfind('\n').map_or(0, |end| end + 1);
                self.flow(value, part, line + COLUMNS)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.flow(value, part, usize::MAX),
            Value::String(text) => {
                self.text(text, part, false);
                true
            }
        };
        if written {
            self.out.push('\n');
        } else {
            self.out.truncate(mark);
        }
        written
    }

    fn entries(&mut self, indent: usize, map: &Map<String, Value>, part: Part, mut begun: bool) {
        for (key, value) in part.sorted(map) {
            if !std::mem::take(&mut begun) {
                self.spaces(indent);
            }
            let inner = part.child(key);
            self.pair(indent, key, value, (inner, inner == Part::Commands));
        }
    }

    fn items(&mut self, indent: usize, items: &[Value], part: Part, mut begun: bool) {
        for item in items {
            if !std::mem::take(&mut begun) {
                self.spaces(indent);
            }
            self.out.push('-');
            if self.inline(indent + 2, item, part, matches!(part, Part::Commands | Part::Addenda)) {
                continue;
            }
            self.out.push(' ');
            match item {
                Value::Array(inner) => self.items(indent + 2, inner, part, true),
                Value::Object(map) => self.entries(indent + 2, map, part, true),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
    }

    /// Writes the value on one line; `false`, with the rest unwritten, once `out` exceeds `end`.
    pub(super) fn flow(&mut self, value: &Value, part: Part, end: usize) -> bool {
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(flag) => self.out.push_str(if *flag { "true" } else { "false" }),
            Value::Number(number) => self.number(number),
            Value::String(text) if end == usize::MAX || text.len() < COLUMNS => {
                self.text(text, part, true);
            }
            Value::String(_) => return false,
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.out.push_str(if at == 0 { "[" } else { ", " });
                    if !self.flow(item, part, end) {
                        return false;
                    }
                }
                self.out.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Value::Object(map) => return self.flow_map(map, part, end),
        }
        self.out.len() <= end
    }

    fn flow_map(&mut self, map: &Map<String, Value>, part: Part, end: usize) -> bool {
        for (at, (key, value)) in part.sorted(map).into_iter().enumerate() {
            self.out.push_str(if at == 0 { "{" } else { ", " });
            if key.len() > KEY_BYTES_MAX {
                self.out.push_str("? ");
                self.quoted(key);
                self.out.push(' ');
            } else {
                self.key(key);
            }
            self.out.push_str(": ");
            if self.out.len() > end || !self.flow(value, part.child(key), end) {
                return false;
            }
        }
        self.out.push_str(if map.is_empty() { "{}" } else { "}" });
        self.out.len() <= end
    }

    fn spaces(&mut self, count: usize) {
        self.out.extend(std::iter::repeat_n(' ', count));
    }

    fn key(&mut self, key: &str) {
        if plain(key) && !key.contains(' ') {
            self.out.push_str(key);
        } else {
            self.quoted(key);
        }
    }

    fn text(&mut self, text: &str, part: Part, flow: bool) {
        let bare = plain(text) && !(flow && text.contains(' '));
        if bare || (part != Part::Foreign && time(text)) {
            self.out.push_str(text);
        } else {
            self.quoted(text);
        }
    }

    fn quoted(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                _ if printable(letter) => self.out.push(letter),
                _ => self.out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            }
        }
        self.out.push('"');
    }

    fn literal(&mut self, indent: usize, text: &str) {
        let chomp = match (text.ends_with('\n'), text.ends_with("\n\n")) {
            (false, _) => "-",
            (true, false) => "",
            (true, true) => "+",
        };
        self.out.push('|');
        self.out.push_str(chomp);
        self.out.push('\n');
        for line in text.split_inclusive('\n') {
            if line != "\n" {
                self.spaces(indent);
            }
            self.out.push_str(line);
        }
        if !text.ends_with('\n') {
            self.out.push('\n');
        }
    }

    fn number(&mut self, number: &Number) {
        let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
            self.out.push_str(&number.to_string());
            return;
        };
        let mut buffer = ryu_js::Buffer::new();
        let text = buffer.format(float);
        // A point keeps it a float for readers of YAML 1.1, and off the road of big integers.
        let (digits, power) = text.find('e').map_or((text, ""), |at| text.split_at(at));
        self.out.push_str(digits);
        if !digits.contains('.') {
            self.out.push_str(".0");
        }
        self.out.push_str(power);
    }
}

/// Whether every YAML reader takes this text, unquoted, for this very string.
fn plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let starts = bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || b"/_".contains(b));
    let letters = |b: &u8| b.is_ascii_alphanumeric() || b" _./@+-".contains(b);
    starts
        && bytes.len() <= 256
        && !bytes.ends_with(b" ")
        && bytes.iter().all(letters)
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Whether this is a time as records write it: `2026-11-20T04:05:06.123456Z`.
fn time(text: &str) -> bool {
    const SHAPE: &[u8; 27] = b"dddd-dd-ddTdd:dd:dd.ddddddZ";
    text.len() == SHAPE.len()
        && text
            .bytes()
            .zip(SHAPE)
            .all(|(b, s)| if *s == b'd' { b.is_ascii_digit() } else { b == *s })
}

/// Whether a literal block gives exactly this text back.
fn literal(text: &str) -> bool {
    let last = text.trim_end_matches('\n').rsplit('\n').next().unwrap_or_default();
    text.contains('\n')
        && !text.starts_with([' ', '\t', '\n'])
        && !last.trim_matches(' ').is_empty()
        && text.chars().all(|letter| letter == '\n' || letter == '\t' || printable(letter))
}

/// Whether YAML may hold this letter as it is, and nobody takes it for a line break.
fn printable(letter: char) -> bool {
    matches!(letter,
        ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
        | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}
