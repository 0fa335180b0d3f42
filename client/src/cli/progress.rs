//! A bar on standard error while a person waits for a job.
//!
//! Polls `job_wait` and `job_info`: both survive a change of the master. In a pipe, and on a
//! terminal that cannot move its cursor, it waits without a word.

use super::facts;
use super::failure::Failure;
use super::screen::Screen;
use crate::blocking::Client;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::io::IsTerminal;
use std::sync::Once;
use std::time::Duration;

/// Time between two looks at the job.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// The bar's resolution.
const PARTS: u64 = 1000;
/// Columns of the bar itself: a fifth of the terminal, and not more than this.
const BAR_MAX: usize = 24;
/// Below so many columns the text needs them all, and the share is a number only.
const BAR_MIN: usize = 8;
/// Columns of the time that has passed, such as `59s`, and the space before it.
const ELAPSED: usize = 4;
/// Columns of `100%`, and the space before it.
const PERCENT: usize = 5;

/// Whether a person looks on.
pub fn wanted() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|text| text == "dumb");
    std::io::stderr().is_terminal() && !dumb
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
    loop {
        bar.show(job, &client.info(job)?);
        if client.wait(job, Some(LOOK))? {
            return Ok(());
        }
    }
}

/// The bar itself; it goes when it is dropped.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    shown: Once,
}

impl Bar {
    /// A bar that is not there before there is something to show.
    pub fn new() -> Bar {
        let hidden = ProgressDrawTarget::hidden();
        Bar { bar: ProgressBar::with_draw_target(Some(PARTS), hidden), shown: Once::new() }
    }

    /// Shows what `job_info` says.
    pub fn show(&self, job: &str, info: &Value) {
        let state = facts::state(info);
        // Asked each time: the window may have become another one.
        let screen = Screen::of_stderr(false);
        let layout = Layout::of(usize::from(screen.width), state.fraction.is_some());
        if let Ok(style) = ProgressStyle::with_template(&layout.template) {
            self.bar.set_style(style);
        }
        if let Some(fraction) = state.fraction {
            // In 0..=1 by `state`, so the product fits.
            self.bar.set_position((fraction * PARTS as f64) as u64);
        }
        let text = format!("{job} {}", state.text);
        self.bar.set_message(shortened(&screen.line(&text), layout.text));
        self.shown.call_once(|| {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(Duration::from_millis(200));
        });
    }

    /// Prints lines above the bar, on standard output.
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

/// How a line of the terminal is shared out.
#[derive(Debug, PartialEq)]
struct Layout {
    template: String,
    /// Columns of the text.
    text: usize,
}

impl Layout {
    fn of(width: usize, has_share: bool) -> Layout {
        // The spinner and its space.
        let room = width.saturating_sub(2 + ELAPSED);
        if !has_share {
            return Layout { template: "{spinner} {wide_msg} {elapsed}".to_owned(), text: room };
        }
        let bar = (width / 5).min(BAR_MAX);
        let (bar, columns) =
            if bar < BAR_MIN { (String::new(), 0) } else { (format!(" [{{bar:{bar}}}]"), bar + 3) };
        Layout {
            template: format!("{{spinner}} {{wide_msg}}{bar} {{percent:>3}}% {{elapsed}}"),
            text: room.saturating_sub(PERCENT + columns),
        }
    }
}

/// The text in so many columns: one that is cut says so.
fn shortened(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_what_the_bar_leaves() {
        assert_eq!(shortened("11.1 command_run · executed", 27), "11.1 command_run · executed");
        assert_eq!(shortened("11.1 command_run · executed", 19), "11.1 command_run ·…");
        for width in [20, 40, 80, 200] {
            let layout = Layout::of(width, true);
            let bar = layout.template.split("bar:").nth(1).and_then(|rest| rest.split('}').next());
            let bar = bar.map_or(0, |columns| columns.parse::<usize>().unwrap() + 3);
            assert_eq!(2 + layout.text + bar + PERCENT + ELAPSED, width, "{layout:?}");
            assert!(bar <= width / 3, "{layout:?}");
        }
        assert_eq!(Layout::of(40, false).text, 34);
        assert_eq!(Layout::of(3, true).text, 0);
    }
}
