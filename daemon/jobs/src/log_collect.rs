//! `log_collect`: gathers what services wrote to the journal of nodes.

use crate::batch::{Batches, End, on_nodes};
use crate::error::{invalid, within};
use crate::{CommandWish, Job, JobError, Run, nodes, systemctl};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type, Way};
use tiebeam_proto::{RpcError, time::Time};

/// Lines that are gathered of a node; the record keeps the first and last of them.
const LINES_MAX: u32 = 5_000;
/// Seconds that are looked back when the caller does not say.
const INTERVAL_S: u64 = 3600;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "log_collect",
        group: "nodes",
        summary: "Gather what services wrote to the journal",
        description: "Asks each node's journal (`journalctl`). Times are `2026-11-20 04:05:06`, in \
                      UTC, or RFC 3339. Without `start_time` it looks back `default_interval`: \
                      seconds, or `1w 2d 3h 4m 5s`. `error_level` is the least severity: ERR, \
                      WARN, NOTICE, INFO, or systemd's own names. `tag` is a syslog identifier. \
                      Returns `{node: {lines, truncated}}`. Always leaves a record.",
        way: Way::Long,
        params: &[
            Param::must("services", Type::Lines, "units: [sshd, chronyd]"),
            Param::may("nodes", Type::Nodes, nodes::ABOUT),
            Param::may("start_time", Type::Line, "the earliest time"),
            Param::may("stop_time", Type::Line, "the latest time"),
            Param::may("default_interval", Type::IntOrLine, "how far back; 1h if not given"),
            Param::may("error_level", Type::Line, "the least severity: ERR, WARN, NOTICE, INFO"),
            Param::may("tag", Type::Line, "only lines with this syslog identifier"),
            Param::may("timeout_s", Type::Int, "seconds per node, 1 to 3600; 60 if not given"),
        ],
        examples: &[
            r#"{"services": ["sshd"], "default_interval": "15m"}"#,
            r#"{"services": ["sshd", "chronyd"], "nodes": [11], "error_level": "WARN",
                "start_time": "2026-11-20 04:00:00", "stop_time": "2026-11-20T05:00:00Z"}"#,
        ],
        deadline_s: Some(3700),
        always_recorded: true,
        precheck: check,
        ..Declaration::READ
    },
    run: |run| Box::pin(log_collect(run)),
};

/// Seconds since 1970, by RFC 3339 or as ConfD writes it.
fn seconds(text: &str) -> Option<i64> {
    let time = Time::parse(text).or_else(|| {
        let (date, clock) = text.split_once(' ')?;
        Time::parse(&format!("{date}T{clock}Z"))
    });
    time.map(|time| time.0.div_euclid(1_000_000))
}

/// Seconds of `90`, `15m` or `1w 2d 3h 4m 5s`; at most ten years.
fn interval(text: &str) -> Option<u64> {
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
fn priority(text: &str) -> Option<&'static str> {
    let names = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
    let text = text.to_ascii_lowercase();
    let text = match text.as_str() {
        "error" => "err",
        "warn" => "warning",
        other => other,
    };
    names.into_iter().find(|name| *name == text)
}

fn is_tag(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.@:/-".contains(c))
}

fn check(params: &Params) -> Result<(), RpcError> {
    let services = params.get("services").and_then(Value::as_array);
    let services = services.into_iter().flatten().filter_map(Value::as_str);
    let units: Option<Vec<String>> = services.map(systemctl::unit).collect();
    if units.is_none_or(|units| units.is_empty() || units.len() > 64) {
        return Err(invalid("services", "`services` must be 1 to 64 names of units"));
    }
    let wrong = |name: &str, fits: &dyn Fn(&str) -> bool| {
        params.get(name).and_then(Value::as_str).is_some_and(|text| !fits(text))
    };
    for name in ["start_time", "stop_time"] {
        if wrong(name, &|text| seconds(text).is_some()) {
            let error = invalid(name, format!("`{name}` must be a time"));
            return Err(error.hint("2026-11-20 04:05:06 (UTC) or 2026-11-20T04:05:06+01:00"));
        }
    }
    if wrong("default_interval", &|text| interval(text).is_some()) {
        let error = invalid("default_interval", "`default_interval` must be a length of time");
        return Err(error.hint("seconds, or for example 1d 12h"));
    }
    if wrong("error_level", &|text| priority(text).is_some()) {
        let error = invalid("error_level", "`error_level` must be the name of a severity");
        return Err(error.hint("ERR, WARN, NOTICE or INFO"));
    }
    if wrong("tag", &is_tag) {
        return Err(invalid("tag", "`tag` must be a syslog identifier: letters, digits, _.@:/-"));
    }
    within(params, "timeout_s", 1..=3600)
}

/// The arguments; nothing in them is the caller's own text, save names that were checked.
fn argv(run: &Run) -> Vec<String> {
    let time = |name: &str| run.text(name).and_then(seconds);
    let back = run.text("default_interval").and_then(interval).unwrap_or(INTERVAL_S);
    let since = match (time("start_time"), time("stop_time")) {
        (Some(start), _) => format!("@{start}"),
        (None, Some(stop)) => format!("@{}", stop.saturating_sub_unsigned(back)),
        (None, None) => format!("-{back}s"),
    };
    let mut argv = vec!["journalctl".to_owned(), "--no-pager".into(), "--output=short-iso".into()];
    argv.push(format!("--lines={LINES_MAX}"));
    argv.push(format!("--since={since}"));
    argv.extend(time("stop_time").map(|stop| format!("--until=@{stop}")));
    argv.extend(run.text("error_level").and_then(priority).map(|p| format!("--priority={p}")));
    argv.extend(run.text("tag").map(|tag| format!("--identifier={tag}")));
    let units = run.texts("services");
    argv.extend(units.iter().filter_map(|s| systemctl::unit(s)).map(|u| format!("--unit={u}")));
    argv
}

async fn log_collect(run: Run) -> Result<Value, JobError> {
    let nodes = nodes::select_nodes(&run, run.param("nodes"))?;
    let argv = argv(&run);
    let each = |node: u32| {
        let wish = systemctl::wish(&run, format!("log-n{node}"), node, &[]);
        let command = run.world().command(CommandWish { argv: argv.clone(), ..wish });
        Box::pin(async move {
            let gathered = command.await;
            let end = End::of(&gathered);
            let Some(record) = gathered.ok().filter(|r| r.result == "ok") else { return end };
            let lines: Vec<&str> = record.output.lines().collect();
            End { output: json!({"lines": lines, "truncated": record.truncated}), ..end }
        }) as _
    };
    on_nodes(&run, &nodes, Batches::ALL, each).await
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
        assert!(is_tag("sshd") && !is_tag("-x") && !is_tag(""));
    }
}
