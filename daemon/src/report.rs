//! Errors at the edge: the one place where a chain of causes becomes one line.

use std::error::Error;

/// The error and its causes, from the outermost in, on one line without control characters.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    one_line(&text)
}

/// The text with control characters replaced: nothing in it can forge a line.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
