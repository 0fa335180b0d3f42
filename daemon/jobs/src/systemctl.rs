//! systemd's services through `systemctl`: the commands, and what their output says.
//!
//! The jobs of services share it. A unit's name is checked before it goes into a command, so it
//! can be neither an option nor a path.

use crate::batch::{Batches, End, on_nodes};
use crate::error::{invalid, within};
use crate::{CommandWish, JobError, Run, nodes};
use serde_json::{Map, Value, json};
use tiebeam_core::declaration::{Param, Params, Type};
use tiebeam_core::lock::Lock;
use tiebeam_proto::RpcError;
use tiebeam_proto::record::CommandRecord;

/// Longest name of a unit, systemd's own limit.
const UNIT_BYTES_MAX: usize = 255;

/// Parameters of a job about one service.
pub(crate) const PARAMS: &[Param] = &[
    Param::must("service", Type::Line, "the unit: sshd, or sshd.service, or any other suffix"),
    Param::may("nodes", Type::Nodes, nodes::ABOUT),
    Param::may("timeout_s", Type::Int, "seconds per node, 1 to 3600; 60 if not given"),
];

/// The properties that are asked for, and the names under which they are shown.
const PROPERTIES: [(&str, &str); 8] = [
    ("Id", "unit"),
    ("LoadState", "load"),
    ("ActiveState", "active"),
    ("SubState", "sub"),
    ("MainPID", "pid"),
    ("ExecMainStatus", "exit_status"),
    ("UnitFileState", "enabled"),
    ("StateChangeTimestamp", "since"),
];

/// The unit's full name; `None` if the text cannot be one.
pub(crate) fn unit(text: &str) -> Option<String> {
    let letter = |c: char| c.is_ascii_alphanumeric() || ":_.@\\-".contains(c);
    let fits = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(letter);
    if !fits || text.len() > UNIT_BYTES_MAX {
        return None;
    }
    let suffixes = ["service", "socket", "timer", "target", "mount", "path", "slice", "scope"];
    let has_suffix = text.rsplit_once('.').is_some_and(|(_, suffix)| suffixes.contains(&suffix));
    Some(if has_suffix { text.to_owned() } else { format!("{text}.service") })
}

/// Checks the parameters [`PARAMS`].
pub(crate) fn check(params: &Params) -> Result<(), RpcError> {
    if params.get("service").and_then(Value::as_str).is_some_and(|text| unit(text).is_none()) {
        let text = "`service` must be a unit's name: letters, digits and :_.@\\- only";
        return Err(invalid("service", text).hint("for example sshd"));
    }
    within(params, "timeout_s", 1..=3600)
}

/// One operation at a time on a service.
pub(crate) fn write_lock(params: &Params) -> Vec<Lock> {
    let service = params.get("service").and_then(Value::as_str).and_then(unit);
    vec![Lock::write(format!("services/{}", service.unwrap_or_default()))]
}

/// A command of the daemon's own.
pub(crate) fn wish(run: &Run, key: String, node: u32, argv: &[&str]) -> CommandWish {
    let timeout_s = run.int("timeout_s").and_then(|s| u64::try_from(s).ok()).unwrap_or(60);
    let argv = argv.iter().map(|argument| (*argument).to_owned()).collect();
    CommandWish { key, node, argv, timeout_s, own: true, ..CommandWish::default() }
}

/// Starts, stops or restarts the service on each node and tells its state after.
pub(crate) async fn act(run: Run, verb: &'static str) -> Result<Value, JobError> {
    let nodes = nodes::select_nodes(&run, "nodes")?;
    let service = run.text("service").and_then(unit).unwrap_or_default();
    let each = |node: u32| {
        let (run, service) = (run.clone(), service.clone());
        Box::pin(async move { act_on(&run, node, &service, verb).await }) as _
    };
    on_nodes(&run, &nodes, Batches::ALL, each).await
}

async fn act_on(run: &Run, node: u32, service: &str, verb: &str) -> End {
    let argv = ["systemctl", verb, "--", service];
    let acted = run.command(wish(run, format!("{verb}-n{node}"), node, &argv)).await;
    let end = End::of(&acted);
    if !acted.is_ok_and(|record| ["ok", "failed"].contains(&record.result.as_str())) {
        return end;
    }
    let after = state_on(run, node, service).await;
    if after.output["load"] == "not-found" || end.outcome == tiebeam_proto::Outcome::Ok {
        let failed = verb != "stop" && after.output["active"] == "failed";
        return if failed {
            after.failed(format!("{service} failed after it began"))
        } else {
            after
        };
    }
    let mut output = after.output;
    output["result"] = json!("failed");
    output["output"] = end.output["output"].clone();
    let why = why_refused(&end);
    End { output, ..end }.failed(why)
}

/// The exit status, and systemctl's first line: the rest of what it says is advice.
fn why_refused(end: &End) -> String {
    let said = end.output["output"].as_str().unwrap_or_default();
    match said.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => format!("{}: {line}", end.why),
        _ => end.why.clone(),
    }
}

/// The state of the service on a node; a unit that systemd does not know is a failure.
pub(crate) async fn state_on(run: &Run, node: u32, service: &str) -> End {
    let names: Vec<&str> = PROPERTIES.iter().map(|(property, _)| *property).collect();
    let properties = format!("--property={}", names.join(","));
    let argv = ["systemctl", "show", "--no-pager", &properties, "--", service];
    let shown = run.command(wish(run, format!("state-n{node}"), node, &argv)).await;
    let end = End::of(&shown);
    let Some(record) = shown.ok().filter(|record| record.result == "ok") else { return end };
    let mut output = read_state(&record.output);
    if output["load"] == "not-found" {
        output["result"] = json!("failed");
        return End { output, ..end }.failed(format!("there is no service {service}"));
    }
    output["result"] = json!("ok");
    End { output, ..end }
}

/// Reads `systemctl show`: lines of `Property=value`.
pub(crate) fn read_state(text: &str) -> Value {
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |property: &str| {
        let (_, value) = lines.iter().find(|(name, _)| *name == property)?;
        match property {
            "MainPID" | "ExecMainStatus" => value.parse::<i64>().ok().map(Value::from),
            _ => Some(Value::from(*value)),
        }
    };
    let shown = PROPERTIES
        .iter()
        .map(|(property, name)| ((*name).to_owned(), value(property).unwrap_or(Value::Null)));
    Value::Object(shown.collect::<Map<String, Value>>())
}

/// Reads `systemctl list-units --plain --no-legend`: unit, load, active, sub, description.
pub(crate) fn read_list(record: &CommandRecord) -> Value {
    let line = |line: &str| {
        let line = line.trim_start_matches(['●', '○', '×', '*', ' ', '\t']);
        let mut words = line.split_whitespace();
        let unit = words.next().filter(|word| word.contains('.'))?;
        let (load, active, sub) = (words.next()?, words.next()?, words.next()?);
        let description: Vec<&str> = words.collect();
        Some(json!({
            "unit": unit,
            "load": load,
            "active": active,
            "sub": sub,
            "description": description.join(" "),
        }))
    };
    record.output.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_a_name_and_nothing_else() {
        for (given, expected) in [
            ("sshd", "sshd.service"),
            ("sshd.service", "sshd.service"),
            ("getty@tty1", "getty@tty1.service"),
            ("fstrim.timer", "fstrim.timer"),
            ("org.example.web", "org.example.web.service"),
        ] {
            assert_eq!(unit(given).as_deref(), Some(expected));
        }
        for bad in ["", "-H", "--help", "../x", "a/b", "a b", "a;b", "a\nb", "é", "*", ".x"] {
            assert_eq!(unit(bad), None, "{bad:?}");
        }
        assert_eq!(unit(&"x".repeat(256)), None);
    }

    #[test]
    fn systemctl_s_output_is_read() {
        let shown = "Id=sshd.service\nLoadState=loaded\nActiveState=active\nSubState=running\n\
                     MainPID=812\nExecMainStatus=0\nUnitFileState=enabled\n\
                     StateChangeTimestamp=Fri 2026-11-20 04:05:06 UTC\n";
        let state = read_state(shown);
        assert_eq!(state["unit"], "sshd.service");
        assert_eq!((&state["pid"], &state["enabled"]), (&json!(812), &json!("enabled")));
        assert_eq!(state["since"], "Fri 2026-11-20 04:05:06 UTC");
        assert_eq!(read_state("")["active"], Value::Null);
        let output = "cron.service loaded active running Regular background program\n\
                      ● bad.service not-found failed failed bad.service\n\n garbage\n"
            .to_owned();
        let list = read_list(&CommandRecord { output, ..CommandRecord::default() });
        assert_eq!(list[0]["description"], "Regular background program");
        assert_eq!(
            (&list[1]["unit"], &list[1]["load"]),
            (&json!("bad.service"), &json!("not-found"))
        );
        assert_eq!(list.as_array().unwrap().len(), 2);
    }
}
