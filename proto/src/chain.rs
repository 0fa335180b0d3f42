//! The chain of the history: how a record is bound to the one before it (ruling 15).
//!
//! `this = SHA-256("tiebeam record 1\0" ‖ previous ‖ canonical)`, with `previous` as 32 raw bytes
//! and `canonical` as RFC 8785 JSON of the record without its link. The first record's `previous`
//! is [`GENESIS`]. This module computes and compares; it reads no file. Apply makes links with
//! it, the history and the offline check test them with it.

use crate::record::ChainLink;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 as raw bytes.
pub type Hash = [u8; 32];

/// What stands before the first record.
pub const GENESIS: Hash = [0; 32];

/// Keeps a record's hash apart from every other use of SHA-256; the number is the chain's format.
const DOMAIN: &[u8] = b"tiebeam record 1\0";

/// What every hash starts with in its text form.
const PREFIX: &str = "sha256:";

/// The hash of a record that follows `previous`.
pub fn hash(previous: &Hash, canonical: &[u8]) -> Hash {
    let mut digest = Sha256::new();
    digest.update(DOMAIN);
    digest.update(previous);
    digest.update(canonical);
    digest.finalize().into()
}

/// The text form, `sha256:` and 64 lower-case hex digits.
pub fn to_text(hash: &Hash) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(PREFIX.len() + 64);
    text.push_str(PREFIX);
    for byte in hash {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Reads the text form; `None` if it is not exactly that.
pub fn from_text(text: &str) -> Option<Hash> {
    let digits = text.strip_prefix(PREFIX)?.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = GENESIS;
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(hash)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// How far a chain goes: the newest record's number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The newest record's number; 0 while there is none.
    pub index: u64,
    /// Its hash; [`GENESIS`] while there is none.
    pub hash: Hash,
}

impl Head {
    /// The head of a chain without records.
    pub const EMPTY: Head = Head { index: 0, hash: GENESIS };

    /// Binds the next record to this head and makes it the new one.
    pub fn extend(&mut self, canonical: &[u8]) -> ChainLink {
        let this = hash(&self.hash, canonical);
        let link = ChainLink {
            index: self.index + 1,
            previous: to_text(&self.hash),
            this: to_text(&this),
        };
        *self = Head { index: link.index, hash: this };
        link
    }
}

/// Whether `link` binds exactly these bytes to what its `previous` names.
pub fn holds(link: &ChainLink, canonical: &[u8]) -> bool {
    let claimed = from_text(&link.previous).zip(from_text(&link.this));
    claimed.is_some_and(|(previous, this)| hash(&previous, canonical) == this)
}

/// The name of the file, beside a day's job files, that holds the day's lines.
pub const LINES_NAME: &str = "chain.jsonl";

/// One line of a day's [`LINES_NAME`]: a record that was archived, whether or not it has a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainLine {
    /// The record's number.
    pub index: u64,
    /// `read`, `modify` or `act` for a job, `addendum`, or `audit`.
    pub kind: String,
    /// The job that the record is of or about.
    pub job: Option<String>,
    /// The hash of the record before it.
    pub previous: String,
    /// Its own hash.
    pub this: String,
}

impl ChainLine {
    /// The line with its newline, the same bytes on every node.
    pub fn to_line(&self) -> String {
        // A line of plain strings and a number always has a JSON form.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Reads a line without its newline; `None` if it is no such line.
    pub fn parse(line: &[u8]) -> Option<ChainLine> {
        serde_json::from_slice(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_the_ruling_says() {
        let mut whole = b"tiebeam record 1\0".to_vec();
        whole.extend_from_slice(&[0; 32]);
        whole.extend_from_slice(b"{}");
        let expected: Hash = Sha256::digest(&whole).into();
        assert_eq!(hash(&GENESIS, b"{}"), expected);
    }

    #[test]
    fn links_follow_each_other_and_bind_their_bytes() {
        let mut head = Head::EMPTY;
        let first = head.extend(b"{\"a\":1}");
        let second = head.extend(b"{\"a\":2}");
        assert_eq!((first.index, second.index), (1, 2));
        assert_eq!(second.previous, first.this);
        assert_eq!(first.previous, format!("sha256:{}", "0".repeat(64)));
        assert!(holds(&second, b"{\"a\":2}") && !holds(&second, b"{\"a\":3}"));
    }

    #[test]
    fn only_the_exact_text_form_is_a_hash() {
        let text = to_text(&hash(&GENESIS, b"x"));
        assert_eq!(from_text(&text).map(|hash| to_text(&hash)), Some(text.clone()));
        for wrong in [&text[..70], &text[7..], &text.to_uppercase(), "", "sha256:é"] {
            assert_eq!(from_text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_line_is_one_line_and_comes_back() {
        let line = ChainLine {
            index: 7,
            kind: "audit".into(),
            job: None,
            previous: to_text(&GENESIS),
            this: to_text(&hash(&GENESIS, b"\n")),
        };
        let text = line.to_line();
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!(ChainLine::parse(text.trim_end().as_bytes()), Some(line));
        assert_eq!(ChainLine::parse(b"{\"index\":7}"), None);
    }
}
