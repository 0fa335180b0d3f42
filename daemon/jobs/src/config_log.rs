//! `config_log`: who changed the configuration, when and why.

use crate::error::{invalid, within};
use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::{Path, State};
use tiebeam_proto::record::{Change, ChangeOp, JobRecord};
use tiebeam_proto::{RpcError, time::Time};

/// Revisions that are looked through for one call: a page of history is cheap, all of it is not.
const SCAN_MAX: usize = 20_000;
/// Records that are asked for at once.
const PAGE: usize = 200;
/// Changes that a summary names.
const SUMMARY_PATHS: usize = 3;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "config_log",
        group: "configuration",
        summary: "List the changes of the configuration, newest first",
        description: "Returns a list of `{revision, time, user, job, name, reason, summary}`. \
                      With `path` only changes at, above or below it. Revision 1 is what `init` \
                      made. job_info of a line's `job` shows the whole record, config_diff the \
                      whole change.",
        params: &[
            Param::may("path", Type::Path, "only changes of this part: app/web"),
            Param::may("since", Type::IntOrLine, "the earliest revision or RFC 3339 time"),
            Param::may("limit", Type::Int, "lines at most, 1 to 1000; 50 if not given"),
        ],
        examples: &["{}", r#"{"path": "users", "since": "2026-11-01T00:00:00Z", "limit": 10}"#],
        precheck: check,
        ..Declaration::READ
    },
    run: |run| Box::pin(config_log(run)),
};

#[derive(Clone, Copy)]
enum Since {
    Revision(u64),
    Time(Time),
}

impl Since {
    fn read(text: &str) -> Option<Since> {
        let revision = text.parse().ok().map(Since::Revision);
        revision.or_else(|| Time::parse(text).map(Since::Time))
    }

    fn admits(self, revision: u64, time: Option<Time>) -> bool {
        match self {
            Since::Revision(first) => revision >= first,
            Since::Time(first) => time.is_none_or(|time| time >= first),
        }
    }
}

fn check(params: &Params) -> Result<(), RpcError> {
    let since = params.get("since").and_then(Value::as_str);
    if since.is_some_and(|text| Since::read(text).is_none()) {
        let error = invalid("since", "`since` must be a revision or an RFC 3339 time");
        return Err(error.hint("for example 17 or 2026-11-20T04:00:00Z"));
    }
    within(params, "limit", 1..=1000)
}

async fn config_log(run: Run) -> Result<Value, JobError> {
    let path = run.path("path");
    let limit = run.int("limit").and_then(|n| usize::try_from(n).ok()).unwrap_or(50);
    let since = run.text("since").and_then(Since::read).unwrap_or(Since::Revision(0));
    let mut lines: Vec<Value> = Vec::new();
    let (mut below, mut scanned) = (None, 0);
    loop {
        let page = run.world().revisions(below, PAGE)?;
        for record in &page {
            let revision = record.result.result_revision.unwrap_or(0);
            if lines.len() == limit || !since.admits(revision, record.stages.finished) {
                return Ok(json!(lines));
            }
            if record.change.iter().any(|change| concerns(change, &path)) {
                lines.push(line(revision, record));
            }
            below = Some(revision);
        }
        scanned += page.len();
        if page.is_empty() {
            break;
        }
        if scanned >= SCAN_MAX {
            run.warn(format!("looked through {scanned} revisions only; narrow it with `since`"));
            return Ok(json!(lines));
        }
    }
    let first = first_line(&run.state(), &path).filter(|(time, _)| since.admits(1, *time));
    lines.extend(first.filter(|_| lines.len() < limit).map(|(_, line)| line));
    Ok(json!(lines))
}

fn concerns(change: &Change, path: &Path) -> bool {
    let changed = Path::parse(&change.path).unwrap_or_default();
    changed.covers(path) || path.covers(&changed)
}

fn line(revision: u64, record: &JobRecord) -> Value {
    json!({
        "revision": revision,
        "time": record.stages.finished,
        "user": record.user,
        "job": record.job,
        "name": record.name,
        "reason": record.reason,
        "summary": summary(&record.change),
    })
}

/// The first changes in words.
fn summary(changes: &[Change]) -> String {
    let word = |change: &Change| match change.op {
        ChangeOp::Add => format!("add {}", change.path),
        ChangeOp::Remove => format!("remove {}", change.path),
        ChangeOp::Replace => format!("change {}", change.path),
    };
    let mut words: Vec<String> = changes.iter().take(SUMMARY_PATHS).map(word).collect();
    if changes.len() > SUMMARY_PATHS {
        words.push(format!("{} more", changes.len() - SUMMARY_PATHS));
    }
    words.join("; ")
}

/// Revision 1, which no job made, if it has something to do with `path`.
fn first_line(state: &State, path: &Path) -> Option<(Option<Time>, Value)> {
    let old = state.config.revision_at(path) == Some(1);
    let made = ["cluster", "groups", "users", "nodes", "app"].contains(&path.section());
    if !(path.is_root() || old || (made && path.depth() == 1)) {
        return None;
    }
    let nodes = state.config.get(&tiebeam_core::path::path(&["nodes"]));
    let time = nodes.and_then(|nodes| nodes.as_map()).and_then(|nodes| {
        let added = nodes.iter().filter_map(|(_, node)| node.as_map()?.get("added"));
        let mut first = added.filter(|leaf| leaf.revision() == 1).map(|leaf| leaf.to_value());
        first.find_map(|value| value.as_str().and_then(Time::parse))
    });
    let line = json!({
        "revision": 1,
        "time": time,
        "user": "root",
        "job": "",
        "name": "init",
        "reason": "init",
        "summary": "the cluster was made",
    });
    Some((time, line))
}
