//! The daemon's own log: lines on standard error, text or JSON, for people and for journals.
//!
//! What a client sends is never logged as it came; errors are logged without parameters. Control
//! characters cannot forge a line: the text format escapes them, the JSON format by its nature.

use crate::settings::{Format, Settings};
use std::sync::OnceLock;
use tracing_subscriber::fmt;
use tracing_subscriber::{EnvFilter, reload};

/// Puts another filter into the running log.
type Reload = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The running log's filter; there is one log in a process.
static FILTER: OnceLock<Reload> = OnceLock::new();

/// Starts logging as the settings say; `RUST_LOG` wins over the level.
pub fn start(settings: &Settings) {
    let lines = fmt().with_writer(std::io::stderr).with_ansi(false);
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
