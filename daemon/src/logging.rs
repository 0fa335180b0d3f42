//! The daemon's own log: lines on standard error, text or JSON, for people and for journals.
//!
//! What a client sends is never logged as it came; errors are logged without parameters. Control
//! characters cannot forge a line: the text format escapes them, the JSON format by its nature.

use crate::settings::{Format, Settings};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};
use tiebeam_proto::time::Time;
use tracing_subscriber::fmt;
use tracing_subscriber::{EnvFilter, reload};

/// Bytes of the last lines that are remembered, for `debug_collect`.
const RECENT_BYTES_MAX: usize = 1 << 20;

/// The last lines.
static RECENT: Mutex<Recent> = Mutex::new(Recent { lines: VecDeque::new(), bytes: 0 });

struct Recent {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, line: &[u8]) {
        self.bytes += line.len();
        self.lines.push_back(line.to_vec());
        while self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    fn between(&self, from: Time, to: Time) -> String {
        let mut text = String::new();
        for line in self.lines.iter().map(|line| String::from_utf8_lossy(line)) {
            if time_of(&line).is_none_or(|time| from <= time && time <= to) {
                text.push_str(&line);
            }
        }
        text
    }
}

/// The time that a line begins with, in either format.
fn time_of(line: &str) -> Option<Time> {
    let text = line.strip_prefix("{\"timestamp\":\"").unwrap_or(line);
    Time::parse(text.split([' ', '"']).next()?)
}

/// The remembered lines of that time.
pub fn recent(from: Time, to: Time) -> String {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).between(from, to)
}

/// Standard error, with a memory. The formatter writes each line at once.
struct Remembering;

impl Write for Remembering {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        RECENT.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        std::io::stderr().write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Puts another filter into the running log.
type Reload = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The running log's filter; there is one log in a process.
static FILTER: OnceLock<Reload> = OnceLock::new();

/// Starts logging as the settings say; `RUST_LOG` wins over the level.
pub fn start(settings: &Settings) {
    let lines = fmt().with_writer(|| Remembering).with_ansi(false);
    let filter = filter(settings);
    let started = match settings.log.format {
        Format::Text => {
            let lines = lines.with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            let _ = FILTER.set(Box::new(move |filter| handle.reload(filter)));
            lines.try_init()
        }
        Format::Json => {
            let lines = lines.json().with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            let _ = FILTER.set(Box::new(move |filter| handle.reload(filter)));
            lines.try_init()
        }
    };
    if let Err(error) = started {
        eprintln!("tiebeamd: the log cannot be started: {error}");
    }
}

/// Takes the level of settings that were read again; what `RUST_LOG` says still wins.
pub fn follow(settings: &Settings) {
    let Some(reload) = FILTER.get() else { return };
    if let Err(error) = reload(filter(settings)) {
        tracing::warn!(%error, "the log's level stays as it is");
    }
}

fn filter(settings: &Settings) -> EnvFilter {
    let level = settings.log.level.name();
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_remembered_with_their_times() {
        let mut recent = Recent { lines: VecDeque::new(), bytes: 0 };
        let text = "2026-11-20T10:25:00.797594Z  INFO a: b\n";
        let json = "{\"timestamp\":\"2026-11-20T10:26:00.000000Z\",\"level\":\"INFO\"}\n";
        recent.push(text.as_bytes());
        recent.push(json.as_bytes());
        let at = |text: &str| Time::parse(text).expect("a time");
        let (first, second) = (at("2026-11-20T10:25:30Z"), at("2026-11-20T10:27:00Z"));
        assert_eq!(recent.between(first, second), json);
        assert_eq!(recent.between(Time(0), first), text);
        let long = vec![b'x'; RECENT_BYTES_MAX / 2 + 1];
        recent.push(&long);
        recent.push(&long);
        assert_eq!((recent.lines.len(), recent.bytes), (1, long.len()));
    }
}
