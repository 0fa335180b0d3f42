//! Wall-clock times as records carry them: microseconds since 1970 in UTC, RFC 3339 on the wire.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A wall-clock time in microseconds since 1970-01-01T00:00:00Z.
///
/// Written as RFC 3339 with six digits and `Z`, e.g. `2026-11-20T04:05:06.123456Z`. It is for
/// display; nothing expires by it (ruling 22).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// The RFC 3339 form. Times outside the years 0 to 9999 are shown as the nearest such year.
    pub fn to_rfc3339(self) -> String {
        let micros = self.0.clamp(-62_167_219_200_000_000, 253_402_207_199_999_999);
        let stamp =
            jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        format!("{stamp:.6}")
    }

    /// Reads an RFC 3339 time; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Time> {
        text.parse::<jiff::Timestamp>().ok().map(|stamp| Time(stamp.as_microsecond()))
    }

    /// The UTC date, as `(year, month, day)`: the folder of a job file.
    pub fn date(self) -> (u32, u32, u32) {
        let text = self.to_rfc3339();
        let part = |range: std::ops::Range<usize>| {
            text.get(range).and_then(|digits| digits.parse().ok()).unwrap_or(0)
        };
        (part(0..4), part(5..7), part(8..10))
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.to_rfc3339())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Time, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(input)?;
        Time::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no RFC 3339 time")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_six_digits_and_read_back() {
        let time = Time(1_795_147_506_123_450);
        let text = time.to_rfc3339();
        assert!(text.ends_with(".123450Z"), "{text}");
        assert_eq!(Time::parse(&text), Some(time));
        assert_eq!(Time(0).to_rfc3339(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Time(0).date(), (1970, 1, 1));
    }

    #[test]
    fn a_clock_gone_mad_still_has_a_date() {
        assert!(Time(i64::MAX).to_rfc3339().starts_with("9999"));
        assert!(!Time(i64::MIN).to_rfc3339().is_empty());
    }
}
