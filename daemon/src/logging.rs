//! The daemon's own log: lines on standard error, text or JSON, for people and for journals.
//!
//! What a client sends is never logged as it came; errors are logged without parameters. Control
//! characters cannot forge a line: the text format escapes them, the JSON format by its nature.

use crate::settings::{Format, Settings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Starts logging as the settings say; `RUST_LOG` wins over the level.
pub fn start(settings: &Settings) {
    let level = settings.log.level.name();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let started = match settings.log.format {
        Format::Text => lines.try_init(),
        Format::Json => lines.json().try_init(),
    };
    if let Err(error) = started {
        eprintln!("tiebeamd: the log cannot be started: {error}");
    }
}
