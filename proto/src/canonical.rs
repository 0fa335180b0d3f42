//! Canonical JSON: one value, one sequence of bytes, on every node and in every version.
//!
//! This module owns the byte form that hashes are taken over (RFC 8785) and the hex form in which
//! hashes are shown. The chain, the State hash and the plan tokens use it, apply among them, so it
//! must not allocate more than its output and must never depend on the order of insertion into a
//! map. Its recursion is as deep as the value, which the parsers of this crate bound.
//!
//! One deviation from RFC 8785, on purpose: integers are written with all their digits. The RFC
//! sends every number through an IEEE double, which would make revisions and byte counts above
//! 2^53 collide. Floats follow the RFC: ECMAScript's shortest form, so `1.0` is written `1`.

use serde::Serialize;
use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::io;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The canonical bytes of a value.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write(value, &mut out);
    out
}

/// The canonical bytes of a value whose structs name their fields in alphabetical order, as the
/// records' do: without a tree of values in between, which apply would make for every job.
///
/// # Panics
/// The value cannot be written as JSON.
pub fn of_sorted<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    let mut writer = serde_json::Serializer::with_formatter(&mut out, Canonical);
    value.serialize(&mut writer).expect("records have only types that JSON can hold");
    // Keys that a user chose are sorted by code point, which is UTF-16's order but beyond U+FFFF.
    if out.iter().any(|byte| *byte >= 0xf0) {
        return to_vec(&serde_json::to_value(value).expect("it was just written"));
    }
    out
}

/// Writes floats as the RFC says; everything else is compact JSON already.
struct Canonical;

impl serde_json::ser::Formatter for Canonical {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(ryu_js::Buffer::new().format(value).as_bytes())
    }
}

/// Appends the canonical bytes of a value.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => write_array(items, out),
        Value::Object(members) => write_object(members, out),
    }
}

/// SHA-256 of the canonical bytes.
pub fn digest(value: &Value) -> [u8; 32] {
    Sha256::digest(to_vec(value)).into()
}

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect()
}

/// Bytes from hex of either case; `None` for an odd length or any other character.
pub fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| u8::try_from(nibble(*pair.first()?)? << 4 | nibble(*pair.last()?)?).ok())
        .collect()
}

fn write_array(items: &[Value], out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// A map that iterates in the right order already (nearly all do: `serde_json`'s sorts by code
/// point, which differs from UTF-16 only beyond U+FFFF) is written without a sorted copy.
fn write_object(members: &Map<String, Value>, out: &mut Vec<u8>) {
    let sorted = members.keys().is_sorted_by(|a, b| utf16_order(a, b).is_lt());
    if sorted {
        write_members(members.iter(), out);
    } else {
        let mut copy: Vec<(&String, &Value)> = members.iter().collect();
        copy.sort_unstable_by(|a, b| utf16_order(a.0, b.0));
        write_members(copy.into_iter(), out);
    }
}

fn write_members<'a>(members: impl Iterator<Item = (&'a String, &'a Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (key, value)) in members.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(key, out);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

/// Orders strings by their UTF-16 code units without leaving UTF-8.
///
/// The orders differ only where one string has a surrogate pair (UTF-8 lead byte F0 to F4) and the
/// other a character from U+E000 to U+FFFF (lead byte EE or EF): in UTF-16 the pair comes first.
fn utf16_order(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| match byte {
        0xEE | 0xEF => byte + 0x10,
        other => other,
    };
    match a.bytes().zip(b.bytes()).find(|(x, y)| x != y) {
        Some((x, y)) => rank(x).cmp(&rank(y)),
        None => a.len().cmp(&b.len()),
    }
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    if let Some(integer) = number.as_u64() {
        write_u64(integer, out);
    } else if let Some(integer) = number.as_i64() {
        out.push(b'-');
        write_u64(integer.unsigned_abs(), out);
    } else {
        // A `Number` is finite; the default is only what the types ask for.
        let float = number.as_f64().unwrap_or_default();
        out.extend_from_slice(ryu_js::Buffer::new().format(float).as_bytes());
    }
}

fn write_u64(mut integer: u64, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        out.push(b'0' + (integer % 10) as u8);
        integer /= 10;
        if integer == 0 {
            break;
        }
    }
    out[start..].reverse();
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        write_escape(byte, out);
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        0x08 => b'b',
        0x09 => b't',
        0x0A => b'n',
        0x0C => b'f',
        0x0D => b'r',
        b'"' | b'\\' => byte,
        control => {
            let (high, low) = (usize::from(control >> 4), usize::from(control & 15));
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', DIGITS[high], DIGITS[low]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(value: &Value) -> String {
        String::from_utf8(to_vec(value)).unwrap()
    }

    #[test]
    fn floats_follow_ecmascript_and_integers_keep_every_digit() {
        // The table of RFC 8785, appendix B, as bits and text.
        for (bits, expected) in [
            (0x0000000000000000_u64, "0"),
            (0x8000000000000000, "0"),
            (0x0000000000000001, "5e-324"),
            (0x7fefffffffffffff, "1.7976931348623157e+308"),
            (0x4340000000000000, "9007199254740992"),
            (0x4430000000000000, "295147905179352830000"),
            (0x44b52d02c7e14af5, "9.999999999999997e+22"),
            (0x444b1ae4d6e2ef50, "1e+21"),
            (0x3eb0c6f7a0b5ed8d, "0.000001"),
            (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
            (0x41b3de4355555557, "333333333.33333343"),
            (0xbecbf647612f3696, "-0.0000033333333333333333"),
        ] {
            assert_eq!(text(&json!(f64::from_bits(bits))), expected);
        }
        assert_eq!(text(&json!([u64::MAX, i64::MIN, 0, -1, 1.0])), {
            "[18446744073709551615,-9223372036854775808,0,-1,1]"
        });
    }

    #[test]
    fn strings_are_escaped_as_the_rfc_says() {
        let value = json!("\u{20ac}$\u{000F}\u{000a}A'\u{0042}\u{0022}\u{005c}\\\"/\u{7f}\u{1f}");
        assert_eq!(text(&value), r#""€$\u000f\nA'B\"\\\\\"/"#.to_owned() + "\u{7f}\\u001f\"");
    }

    #[test]
    fn keys_are_sorted_by_utf16_units() {
        // The example of RFC 8785, section 3.2.3.
        let value = json!({
            "\u{20ac}": "Euro Sign", "\r": "Carriage Return", "\u{fb33}": "Hebrew Letter",
            "1": "One", "\u{1f600}": "Emoji", "\u{80}": "Control", "\u{f6}": "Latin",
        });
        let keys = ["\\r", "1", "\u{80}", "\u{f6}", "\u{20ac}", "\u{1f600}", "\u{fb33}"];
        let written = text(&value);
        let places: Vec<usize> =
            keys.iter().map(|key| written.find(&format!("\"{key}\":")).unwrap()).collect();
        assert!(places.is_sorted(), "{written}");
    }

    #[test]
    fn the_utf16_order_is_the_order_of_the_units() {
        let words = ["", "a", "ab", "\u{d7ff}", "\u{e000}", "\u{ffff}", "\u{10000}", "\u{10ffff}a"];
        for a in words {
            for b in words {
                assert_eq!(
                    utf16_order(a, b),
                    a.encode_utf16().cmp(b.encode_utf16()),
                    "{a:?} {b:?}"
                );
            }
        }
    }

    #[test]
    fn hex_goes_both_ways_and_refuses_the_rest() {
        assert_eq!(hex(&[0, 0x1f, 0xff]), "001fff");
        assert_eq!(parse_hex("001FfF"), Some(vec![0, 0x1f, 0xff]));
        for wrong in ["0", "0g", "é", "+1", " 1"] {
            assert_eq!(parse_hex(wrong), None, "{wrong:?}");
        }
        let empty = hex(&digest(&json!({})));
        assert_eq!(empty, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }
}
