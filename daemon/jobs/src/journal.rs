//! `journalctl`'s arguments, from what callers of `log_collect` say.
//!
//! Times, lengths of time and severities are read and written anew, so that nothing of a caller's
//! own text reaches the command, save names that were checked.

use crate::{Run, systemctl};
use tiebeam_proto::time::Time;

/// Lines that are gathered of a node; the record keeps the first and last of them.
const LINES_MAX: u32 = 5_000;
/// Seconds that are looked back when the caller does not say.
const INTERVAL_S: u64 = 3600;

/// Seconds since 1970, by RFC 3339 or as ConfD writes it.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    let time = Time::parse(text).or_else(|| {
        let (date, clock) = text.split_once(' ')?;
        Time::parse(&format!("{date}T{clock}Z"))
    });
    time.map(|time| time.0.div_euclid(1_000_000))
}

/// Seconds of `90`, `15m` or `1w 2d 3h 4m 5s`; at most ten years.
pub(crate) fn interval(text: &str) -> Option<u64> {
    let mut sum = 0_u64;
    for word in text.split_whitespace() {
        let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match word.strip_prefix(digits)? {
            "w" => 604_800,
            "d" => 86_400,
            "h" => 3600,
            "m" => 60,
            "s" | "" => 1,
            _ => return None,
        };
        sum = sum.checked_add(digits.parse::<u64>().ok()?.checked_mul(unit)?)?;
    }
    (1..=315_360_000).contains(&sum).then_some(sum)
}

/// The priority that journalctl is given.
pub(crate) fn priority(text: &str) -> Option<&'static str> {
    let names = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
    let text = text.to_ascii_lowercase();
    let text = match text.as_str() {
        "error" => "err",
        "warn" => "warning",
        other => other,
    };
    names.into_iter().find(|name| *name == text)
}

/// Whether a text can be a syslog identifier.
pub(crate) fn is_identifier(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.@:/-".contains(c))
}

/// The whole command.
pub(crate) fn argv(run: &Run) -> Vec<String> {
    let time = |name: &str| run.text(name).and_then(seconds);
    let back = run.text("default_interval").and_then(interval).unwrap_or(INTERVAL_S);
    let since = match (time("start_time"), time("stop_time")) {
        (Some(start), _) => format!("@{start}"),
        (None, Some(stop)) => format!("@{}", stop.saturating_sub_unsigned(back)),
        (None, None) => format!("-{back}s"),
    };
    // Without --quiet it prints `-- No entries --` where there are none.
    let flags = ["journalctl", "--no-pager", "--quiet", "--output=short-iso"];
    let mut argv: Vec<String> = flags.map(str::to_owned).to_vec();
    argv.push(format!("--lines={LINES_MAX}"));
    argv.push(format!("--since={since}"));
    argv.extend(time("stop_time").map(|stop| format!("--until=@{stop}")));
    argv.extend(run.text("error_level").and_then(priority).map(|p| format!("--priority={p}")));
    argv.extend(run.text("identifier").map(|name| format!("--identifier={name}")));
    let units = run.texts("services");
    argv.extend(units.iter().filter_map(|s| systemctl::unit(s)).map(|u| format!("--unit={u}")));
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_intervals_become_numbers() {
        assert_eq!(seconds("1970-01-02 00:00:00"), Some(86_400));
        assert_eq!(seconds("1970-01-01T01:00:00+01:00"), Some(0));
        for bad in ["yesterday", "-1h", "1970-01-02", "1970-01-02 00:00:00Z --x", ""] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        assert_eq!(interval("90"), Some(90));
        assert_eq!(interval("1w 2d 3h 4m 5s"), Some(788_645));
        for bad in ["", "0", "-5", "5x", "h", "1h;", "99999999999999999999", "9999999w"] {
            assert_eq!(interval(bad), None, "{bad}");
        }
        assert_eq!((priority("WARN"), priority("9")), (Some("warning"), None));
        assert!(is_identifier("sshd") && !is_identifier("-x") && !is_identifier(""));
    }
}
