//! From bytes to characters, and which characters and scalars XML-RPC has.
//!
//! Owns the encodings, the alphabet of XML 1.0 and the texts of scalars. Called by the reader and
//! the writer of this folder only.

use super::XmlError;
use crate::time::Time;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::borrow::Cow;

/// An XML declaration is short; one that is longer than this is not looked at.
const DECLARATION_BYTES_MAX: usize = 256;

/// The document's characters, without byte order mark and blanks in front.
///
/// UTF-8, or ISO-8859-1 if the declaration says so (clients in PHP and Perl do).
pub fn decode(body: &[u8]) -> Result<Cow<'_, str>, XmlError> {
    if body.starts_with(&[0xFF, 0xFE]) || body.starts_with(&[0xFE, 0xFF]) {
        return Err(XmlError::Encoding);
    }
    let marked = body.strip_prefix(b"\xef\xbb\xbf");
    let text = marked.unwrap_or(body).trim_ascii_start();
    match declared_encoding(text).as_deref() {
        _ if marked.is_some() => utf8(body, text),
        None | Some("utf-8" | "utf8" | "us-ascii" | "ascii") => utf8(body, text),
        Some("iso-8859-1" | "iso_8859-1" | "iso8859-1" | "latin1" | "latin-1") => {
            Ok(Cow::Owned(text.iter().copied().map(char::from).collect()))
        }
        Some(_) => Err(XmlError::Encoding),
    }
}

fn utf8<'a>(body: &[u8], text: &'a [u8]) -> Result<Cow<'a, str>, XmlError> {
    let skipped = body.len() - text.len();
    let at = |error: std::str::Utf8Error| XmlError::NotUtf8 { at: skipped + error.valid_up_to() };
    std::str::from_utf8(text).map(Cow::Borrowed).map_err(at)
}

/// The encoding in `<?xml … encoding="…"?>`, in lower case.
fn declared_encoding(text: &[u8]) -> Option<String> {
    let head = text.get(..DECLARATION_BYTES_MAX).unwrap_or(text);
    let end = head.windows(2).position(|pair| pair == b"?>")?;
    let declaration = std::str::from_utf8(head.get(..end)?).ok()?.strip_prefix("<?xml")?;
    let (_, rest) = declaration.split_once("encoding")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let name = rest.get(1..)?.split(quote).next()?;
    Some(name.trim().to_ascii_lowercase())
}

/// Whether XML 1.0 has this character.
pub const fn is_xml_char(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => true,
        '\u{0}'..'\u{20}' | '\u{fffe}' | '\u{ffff}' => false,
        _ => true,
    }
}

/// Whether this is only the white space that XML allows between elements.
pub fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// One of XML's own five entities.
pub fn entity(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => None,
    }
}

/// Base64 without its white space, in the one spelling that its bytes have.
pub fn normal_base64(text: &str) -> Option<String> {
    let dense: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(dense).ok().map(|bytes| STANDARD.encode(bytes))
}

/// Whether the text is base64 as [`normal_base64`] gives it.
pub fn is_base64(text: &str) -> bool {
    normal_base64(text).is_some_and(|normal| normal == text)
}

/// RFC 3339 from the forms of `dateTime.iso8601` that clients send.
///
/// `20261120T04:05:06` is the form of the XML-RPC specification, of ConfD and of Python; dashes in
/// the date, a fraction and a zone are accepted. Without a zone it is UTC.
pub fn rfc3339(text: &str) -> Option<String> {
    let (date, time) = text.split_once('T')?;
    let date: String = date.chars().filter(|c| *c != '-').collect();
    let clock = time.get(..8)?;
    let rest = time.get(8..)?;
    if date.len() != 8 || !date.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let zone = if rest.ends_with('Z') || rest.contains(['+', '-']) { "" } else { "Z" };
    let (year, month, day) = (date.get(..4)?, date.get(4..6)?, date.get(6..)?);
    Time::parse(&format!("{year}-{month}-{day}T{clock}{rest}{zone}")).map(Time::to_rfc3339)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_every_client_become_one_form() {
        for (sent, read) in [
            ("20261120T04:05:06", Some("2026-11-20T04:05:06.000000Z")),
            ("2026-11-20T04:05:06", Some("2026-11-20T04:05:06.000000Z")),
            ("20261120T04:05:06.25Z", Some("2026-11-20T04:05:06.250000Z")),
            ("2026-11-20T04:05:06+02:00", Some("2026-11-20T02:05:06.000000Z")),
            ("2026-11-20T04:05:06-0130", Some("2026-11-20T05:35:06.000000Z")),
            ("20261320T04:05:06", None),
            ("20261120T04:05", None),
            ("yesterday", None),
            ("T", None),
            ("2026112éT04:05:06", None),
            ("20261120T04:05:0é", None),
        ] {
            assert_eq!(rfc3339(sent).as_deref(), read, "{sent}");
        }
    }

    #[test]
    fn base64_is_checked_and_has_one_spelling() {
        assert_eq!(normal_base64(" aGVs\n bG8= ").as_deref(), Some("aGVsbG8="));
        assert_eq!(normal_base64("").as_deref(), Some(""));
        for wrong in ["aGVsbG8", "a", "aGV?bG8=", "aGVsbG9="] {
            assert_eq!(normal_base64(wrong), None, "{wrong}");
        }
        assert!(is_base64("aGVsbG8=") && !is_base64(" aGVsbG8="));
    }
}
