//! Carries raft's `slog` records into `tracing`, under the target `raft`.
//!
//! Levels are asked of `tracing` before a record is formatted, so a filtered one costs a look-up.

use slog::{Drain, Level, Never, OwnedKVList, Record, Serializer};
use std::fmt::Write as _;

/// The logger for one raft node.
pub(crate) fn logger() -> slog::Logger {
    slog::Logger::root(ToTracing, slog::o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // A logger does not ask `is_enabled` by itself.
        if !self.is_enabled(record.level()) {
            return Ok(());
        }
        let mut line = Line(record.msg().to_string());
        // Formatting into a String does not fail, and a record is not worth an error.
        let _ = slog::KV::serialize(&record.kv(), record, &mut line);
        let _ = slog::KV::serialize(values, record, &mut line);
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{}", line.0),
            Level::Warning => tracing::warn!(target: "raft", "{}", line.0),
            Level::Info => tracing::info!(target: "raft", "{}", line.0),
            Level::Debug => tracing::debug!(target: "raft", "{}", line.0),
            Level::Trace => tracing::trace!(target: "raft", "{}", line.0),
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error => {
                tracing::enabled!(target: "raft", tracing::Level::ERROR)
            }
            Level::Warning => tracing::enabled!(target: "raft", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "raft", tracing::Level::INFO),
            Level::Debug => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
            Level::Trace => tracing::enabled!(target: "raft", tracing::Level::TRACE),
        }
    }
}

struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::logger;
    use std::cell::Cell;
    use std::fmt;

    /// Counts how often it is formatted.
    struct Counted<'a>(&'a Cell<u32>);

    impl fmt::Display for Counted<'_> {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.set(self.0.get() + 1);
            out.write_str("counted")
        }
    }

    #[test]
    fn a_record_that_nobody_wants_is_not_formatted() {
        let formatted = Cell::new(0);
        // Nobody subscribes here.
        slog::debug!(logger(), "a message"; "message" => %Counted(&formatted));
        assert_eq!(formatted.get(), 0);
    }
}
