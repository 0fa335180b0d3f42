//! Reading JSON from strangers.
//!
//! This module owns the one way in which a request body becomes a `serde_json::Value`. The request
//! path calls it with bytes that nobody has looked at, so it never panics, needs stack and memory
//! in proportion to what it accepts only, and its errors name a place and never repeat the input.
//!
//! Of members with the same key the last one counts, as in every JSON parser ConfD's clients were
//! written against. A byte order mark in front is passed over (RFC 8259, section 8.1).

use crate::limits::VALUES_MAX;
use crate::{ErrorCode, RpcError};
use serde_json::Value;

/// What an object counts among the values.
const OBJECT_WEIGHT: usize = 4;

/// Why a body is not a JSON value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {at}")]
pub struct ParseError {
    /// Offset of the first wrong byte, from the start of the body.
    pub at: usize,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Arrays and objects within each other beyond the limit.
    #[error("the JSON is nested deeper than {0} levels")]
    TooDeep(usize),
    /// More values than a body may unfold to in memory.
    #[error("the JSON holds too many values")]
    TooMany,
    /// Bytes that are no UTF-8.
    #[error("the JSON is not valid UTF-8")]
    NotUtf8,
    /// The body ends within a value.
    #[error("the JSON ends too early")]
    Incomplete,
    /// Something else; the parser's own words, which are fixed texts.
    #[error("the JSON is malformed: {0}")]
    Malformed(String),
}

impl ParseError {
    /// The error code on the wire.
    pub const fn code(&self) -> ErrorCode {
        match self.reason {
            Reason::TooMany => ErrorCode::TooLarge,
            _ => ErrorCode::ParseError,
        }
    }
}

impl From<ParseError> for RpcError {
    fn from(error: ParseError) -> RpcError {
        RpcError::new(error.code(), error.to_string())
    }
}

/// Reads exactly one JSON value, of at most `depth` containers within each other.
///
/// The outermost container counts as level 1. `depth` is [`crate::limits::NESTING_MAX`] for
/// requests; above 127 the parser's own limit comes first. How many values there may be is
/// [`VALUES_MAX`].
///
/// # Errors
///
/// [`ParseError`] with the place and the reason.
pub fn parse(body: &[u8], depth: usize) -> Result<Value, ParseError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| ParseError { at: error.valid_up_to(), reason: Reason::NotUtf8 })?;
    let skipped = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let text = text.get(skipped..).unwrap_or_default();
    if let Some((at, reason)) = first_beyond(text.as_bytes(), depth) {
        return Err(ParseError { at: at + skipped, reason });
    }
    serde_json::from_str(text).map_err(|error| {
        let at = skipped + offset(text, error.line(), error.column());
        let reason =
            if error.is_eof() { Reason::Incomplete } else { Reason::Malformed(words(&error)) };
        ParseError { at, reason }
    })
}

/// Where the text goes beyond `depth` or [`VALUES_MAX`], and which of them.
///
/// One pass, before anything recurses or is kept. Up to the first error of a malformed text this
/// sees the same brackets as the parser, and the parser does not go beyond it.
fn first_beyond(text: &[u8], depth: usize) -> Option<(usize, Reason)> {
    let (mut level, mut in_string, mut escaped) = (0_usize, false, false);
    let mut weight = 0;
    for (at, &byte) in text.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' if level == depth => return Some((at, Reason::TooDeep(depth))),
            b'[' => (level, weight) = (level + 1, weight + 1),
            b'{' => (level, weight) = (level + 1, weight + OBJECT_WEIGHT),
            b']' | b'}' => level = level.saturating_sub(1),
            b',' => weight += 1,
            _ => {}
        }
        if weight > VALUES_MAX {
            return Some((at, Reason::TooMany));
        }
    }
    None
}

/// The byte at a line and column as `serde_json` counts them: both from 1, columns in bytes.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

/// The parser's message without its place.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reason(body: &[u8]) -> (usize, Reason) {
        let error = parse(body, 64).unwrap_err();
        (error.at, error.reason)
    }

    #[test]
    fn nesting_is_counted_from_the_outermost_container() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(parse(nested(64).as_bytes(), 64).is_ok());
        assert_eq!(reason(nested(65).as_bytes()), (64, Reason::TooDeep(64)));
        assert!(parse(b"1", 0).is_ok());
        let brackets = format!("[{:?}, \"\\\\\", \"\\\"[\"]", "[{".repeat(100));
        assert!(parse(brackets.as_bytes(), 1).is_ok());
    }

    #[test]
    fn what_unfolds_to_too_much_is_refused_before_it_is_kept() {
        let list = |count: usize, one: &str| format!("[{}]", vec![one; count].join(","));
        assert!(parse(list(VALUES_MAX, "0").as_bytes(), 64).is_ok());
        assert_eq!(reason(list(VALUES_MAX + 1, "0").as_bytes()).1, Reason::TooMany);
        let objects = VALUES_MAX / (OBJECT_WEIGHT + 1);
        assert!(parse(list(objects, "{\"a\":1}").as_bytes(), 64).is_ok());
        assert_eq!(reason(list(objects + 1, "{\"a\":1}").as_bytes()).1, Reason::TooMany);
        // Text is text, whatever is in it.
        assert!(parse(format!("{:?}", ",{[".repeat(300_000)).as_bytes(), 64).is_ok());
    }

    #[test]
    fn a_million_levels_are_an_error_and_no_crash() {
        for one in ["[", "{\"a\":", "[{\"a\":"] {
            let body = one.repeat(1_000_000);
            assert!(matches!(parse(body.as_bytes(), 64).unwrap_err().reason, Reason::TooDeep(64)));
        }
        // The parser's own limit holds where ours is set beyond it.
        assert!(parse("[".repeat(1_000_000).as_bytes(), usize::MAX).is_err());
    }

    #[test]
    fn an_error_names_the_place_and_repeats_nothing() {
        assert_eq!(reason(b"[1, \xff]"), (4, Reason::NotUtf8));
        assert_eq!(reason(b"{\"a\": 1").1, Reason::Incomplete);
        assert_eq!(reason(b"").1, Reason::Incomplete);
        let error = parse(b"{\n  \"password\": hunter2}", 64).unwrap_err();
        assert_eq!(error.at, 16);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert_eq!(RpcError::from(error).code, ErrorCode::ParseError);
        assert!(matches!(reason(b"1 2").1, Reason::Malformed(_)));
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_a_byte_order_mark_does_not() {
        assert_eq!(parse(b"{\"a\":1,\"a\":2}", 64), Ok(json!({"a": 2})));
        assert_eq!(parse(b"\xef\xbb\xbf[18446744073709551615]", 64), Ok(json!([u64::MAX])));
    }
}
