//! A number of bytes as people write it: `4096`, `64KiB`, `20GiB`.
//!
//! This module owns the form and nothing else; the settings use it. It never panics.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// Units from the largest, in powers of two.
const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Reads a size; `None` if it is not one or does not fit into 64 bits.
    pub fn parse(text: &str) -> Option<Size> {
        let unit =
            UNITS.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
        let (digits, shift) = unit.unwrap_or((text, 0));
        let digits = digits.trim_end_matches(' ');
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits.parse::<u64>().ok()?.checked_mul(1 << shift).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |shift: &u32| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        match UNITS.into_iter().find(|(_, shift)| fits(shift)) {
            Some((unit, shift)) => write!(out, "{}{unit}", self.0 >> shift),
            None => write!(out, "{}", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Size, D::Error> {
        struct Reader;
        impl de::Visitor<'_> for Reader {
            type Value = Size;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a number of bytes, e.g. 4096, 64KiB or 20GiB")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes)
                    .map(Size)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        input.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [
            ("0", 0),
            ("4097", 4097),
            ("64KiB", 65536),
            ("20 GiB", 20 << 30),
            ("16383TiB", 16383 << 40),
        ] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
            assert_eq!(Size::parse(&Size(bytes).to_string()), Some(Size(bytes)));
        }
        for bad in ["", "KiB", "1kb", "-1", "1.5GiB", "+1", "99999999TiB", "18446744073709551616"] {
            assert_eq!(Size::parse(bad), None, "{bad}");
        }
        assert_eq!(Size(1536 << 20).to_string(), "1536MiB");
    }
}
