//! A bar on standard error while a person waits for a job.
//!
//! Polls `job_wait` and `job_info`: both survive a change of the master. In a pipe it waits
//! without a word.

use super::facts;
use super::failure::Failure;
use super::screen::Screen;
use crate::blocking::Client;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::io::IsTerminal;
use std::time::Duration;

/// Time between two looks at the job.
const LOOK: Duration = Duration::from_secs(1);
/// The bar's resolution.
const PARTS: u64 = 1000;

/// Whether a person looks on.
pub fn wanted() -> bool {
    std::io::stderr().is_terminal()
}

/// Waits for a job's last stage.
///
/// # Errors
/// As the calls.
pub fn watch(client: &Client, job: &str) -> Result<(), Failure> {
    if !wanted() {
        client.wait(job, None)?;
        return Ok(());
    }
    let bar = Bar::new();
    while !client.wait(job, Some(LOOK))? {
        bar.show(job, &client.info(job)?);
    }
    Ok(())
}

/// The bar itself; it goes when it is dropped.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    screen: Screen,
}

impl Bar {
    /// A bar that shows nothing yet.
    pub fn new() -> Bar {
        let bar = ProgressBar::new(PARTS);
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar { bar, screen: Screen::of_stderr(false) }
    }

    /// Shows what `job_info` says.
    pub fn show(&self, job: &str, info: &Value) {
        let state = facts::state(info);
        let template = match state.fraction {
            Some(_) => "{spinner} {wide_msg} [{bar:24}] {percent:>3}% {elapsed}",
            None => "{spinner} {wide_msg} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        if let Some(fraction) = state.fraction {
            // In 0..=1 by `state`, so the product fits.
            self.bar.set_position((fraction * PARTS as f64) as u64);
        }
        let text = format!("{job} {}", state.text);
        self.bar.set_message(self.screen.line(&text).into_owned());
    }

    /// Prints a line above the bar, on standard output.
    pub fn above(&self, print: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        self.bar.suspend(print)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Bar {
    fn default() -> Bar {
        Bar::new()
    }
}
