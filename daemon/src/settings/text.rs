//! The settings as a commented file: what `init` writes and what `etc/tiebeamd.yaml` shows.
//!
//! This module owns the text. Every key stands in it with its meaning and default; a key that has
//! its default is commented out, so that a later version's default holds. It does no I/O.

use super::{
    Settings,
    table::{KEYS, Key},
};
use serde_json::Value;

const HEAD: &str = "\
# Node settings of tiebeamd. They are this node's own and are not replicated.
#
# Every key stands here with its default; take the `#` away in front of a key (and of its
# section) to change it. An unknown key is an error. Flags win over environment variables,
# those over this file. SIGHUP makes tiebeamd read this file again; what needs a restart
# is then named in its log. Sizes are bytes or have a unit: 64KiB, 20GiB.
";

/// The commented file for these settings.
pub fn file_text(settings: &Settings) -> String {
    // Settings are plain values of our own; if they could not be written, all keys are comments.
    let now = serde_json::to_value(settings).unwrap_or_default();
    let default = serde_json::to_value(Settings::default()).unwrap_or_default();
    let value = |of: &Value, key: &Key| of.pointer(&key.pointer()).cloned().unwrap_or_default();
    let is_set = |key: &Key| value(&now, key) != value(&default, key);
    let mut text = HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        let (own, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if own != section {
            let used = KEYS.iter().any(|k| k.path.split('.').next() == Some(own) && is_set(k));
            text.push_str(&format!("\n{}{own}:\n", if used { "" } else { "#" }));
            section = own;
        } else {
            text.push('\n');
        }
        let indent = if own.is_empty() { "" } else { "  " };
        for line in key.doc {
            text.push_str(&format!("{indent}# {line}\n"));
        }
        let when = if key.live { "changes live" } else { "needs a restart" };
        text.push_str(&format!("{indent}# ({when}; {})\n", key.variable()));
        let mark = if is_set(key) { "" } else { "#" };
        text.push_str(&format!("{mark}{indent}{name}: {}\n", value(&now, key)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::{load::parse, *},
        *,
    };
    use std::path::Path;

    fn read(text: &str) -> Settings {
        parse(Path::new(FILE), text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    /// Takes the `#` away in front of keys and sections, not of explanations.
    fn without_marks(text: &str) -> String {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with("  ") && rest.starts_with([' ']) => String::new(),
            Some("") => String::new(),
            Some(rest) => format!("{rest}\n"),
            None => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn the_file_in_etc_is_the_generated_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc/tiebeamd.yaml");
        let text = file_text(&Settings::default());
        if std::env::var_os("TIEBEAM_WRITE").is_some() {
            std::fs::write(&path, &text).expect("written");
        }
        let found = std::fs::read_to_string(&path).expect("etc/tiebeamd.yaml");
        assert!(found == text, "etc/tiebeamd.yaml is stale: run this test with TIEBEAM_WRITE=1");
    }

    #[test]
    fn the_defaults_are_all_comments_and_hold_when_the_marks_are_taken_away() {
        let text = file_text(&Settings::default());
        assert!(text.lines().all(|l| l.trim_start().starts_with('#') || l.is_empty()), "{text}");
        assert!(text.lines().all(|line| line.len() <= 100));
        assert_eq!(read(&text), Settings::default());
        let bare = without_marks(&text);
        assert!(bare.contains("\nexec:\n") && bare.contains("\n  enabled: false\n"), "{bare}");
        assert_eq!(read(&bare), Settings::default());
    }

    #[test]
    fn what_was_changed_is_read_back() {
        let settings = Settings {
            listen: "127.0.0.11:20003".parse().expect("address"),
            advertise: Some("n11.example:20003".to_owned()),
            exec: Exec { enabled: true, allow: vec!["/bin/a b".to_owned()], ..Exec::default() },
            disk: Disk { free_bytes_min: Size(5), free_percent_min: 7, ..Disk::default() },
            raft: Raft { tick_ms: 20, ..Raft::default() },
            ..Settings::default()
        };
        let text = file_text(&settings);
        assert!(text.contains("\nlisten: \"127.0.0.11:20003\"\n"), "{text}");
        assert!(text.contains("\n#log:\n"), "{text}");
        assert_eq!(read(&text), settings);
        assert_eq!(read(&without_marks(&text)), settings);
    }
}
