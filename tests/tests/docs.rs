//! The documents say what is so: links lead somewhere, files exist, tables agree with the code.
//!
//! Reads the Markdown files that people start from, the limits of `tiebeam-proto`, and `/metrics`
//! of a running node. What a sentence means stays with its author.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiebeam_proto::limits;
use tiebeam_tests::{Options, TestNode};

const ARCHITECTURE: &str = "daemon/docs/architecture.md";
const ADDING_A_JOB: &str = "daemon/docs/adding-a-job.md";
const OPERATING: &str = "daemon/docs/operating.md";
/// The documents, from the root.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "CHANGELOG.md",
    ARCHITECTURE,
    ADDING_A_JOB,
    OPERATING,
    "daemon/docs/decisions.md",
    "daemon/docs/glossary.md",
];
/// The top-level folders: what begins with one of them, in backticks, is a path.
const FOLDERS: [&str; 5] = ["client", "daemon", "etc", "proto", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the repository.
fn read(path: &str) -> String {
    tiebeam_tests::node::read(&root().join(path))
}

/// The lines outside fenced blocks, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((at + 1, line));
        }
    }
    lines
}

/// The contents of fenced blocks in this language.
fn fenced(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<(bool, String)> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut block) {
            (Some(_), Some(_)) => {
                blocks.extend(block.take().filter(|(wanted, _)| *wanted).map(|(_, text)| text));
            }
            (Some(found), None) => block = Some((found == language, String::new())),
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The commands of a document's `sh` blocks: lines that begin with `$ `, without it.
fn commands(text: &str) -> Vec<String> {
    let blocks = fenced(text, "sh");
    let lines = blocks.iter().flat_map(|block| block.lines());
    lines.filter_map(|line| line.trim_start().strip_prefix("$ ")).map(str::to_owned).collect()
}

/// What stands in backticks in a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// The anchors that a document's headings make.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter(|(_, line)| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(|(_, line)| anchor(line)).collect()
}

fn leads_somewhere(document: &str, target: &str) -> bool {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(document).parent().unwrap_or(Path::new(""));
    let file = if path.is_empty() { Path::new(document).to_owned() } else { folder.join(path) };
    let file = root().join(file);
    if anchor.is_empty() {
        return file.exists();
    }
    std::fs::read_to_string(file).is_ok_and(|text| anchors(&text).contains(anchor))
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        for (at, line) in prose(&text) {
            let inside = links(line).filter(|target| !target.contains("://"));
            let lost = inside.filter(|target| !leads_somewhere(document, target));
            dead.extend(lost.map(|target| format!("{document}:{at} {target}")));
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere:\n  {}", dead.join("\n  "));
}

#[test]
fn files_that_the_documents_name_exist() {
    let mut missing = Vec::new();
    for document in [ARCHITECTURE, ADDING_A_JOB, OPERATING] {
        for (at, line) in prose(&read(document)) {
            for name in quoted(line) {
                let simple = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
                let ours = name.split('/').next().is_some_and(|first| FOLDERS.contains(&first));
                let path = name.ends_with(".rs") || (ours && name.contains('/'));
                if path && name.chars().all(simple) && !root().join(name).exists() {
                    missing.push(format!("{document}:{at} {name}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "files that are not there:\n  {}", missing.join("\n  "));
}

#[test]
fn the_example_job_is_the_one_in_the_daemon() {
    let example = fenced(&read(ADDING_A_JOB), "rust");
    assert_eq!(example, [read("daemon/jobs/src/group_create.rs")]);
}

/// The rows of the table below a heading: cells without backticks.
fn table(text: &str, first_cell: &str) -> Vec<Vec<String>> {
    let head = format!("| {first_cell} |");
    let rows = text.lines().skip_while(|line| !line.starts_with(&head)).skip(2);
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn bytes(count: usize) -> String {
    match count {
        _ if count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        _ if count.is_multiple_of(1 << 10) => format!("{} KiB", count >> 10),
        _ => count.to_string(),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

/// Every constant of `proto/src/limits.rs`, as the table shows it.
fn limits() -> BTreeMap<&'static str, String> {
    let (value, tree, depth) = limits::CONFIG_LIMITS;
    let (longest, default) = limits::WAIT_SECONDS;
    BTreeMap::from([
        ("BODY_BYTES_MAX", bytes(limits::BODY_BYTES_MAX)),
        ("NESTING_MAX", limits::NESTING_MAX.to_string()),
        ("VALUES_MAX", limits::VALUES_MAX.to_string()),
        ("BATCH_MAX", limits::BATCH_MAX.to_string()),
        ("BODY_BYTES_BEFORE_LOGIN", bytes(limits::BODY_BYTES_BEFORE_LOGIN)),
        ("HEAD_READ", seconds(limits::HEAD_READ)),
        ("BODY_READ", seconds(limits::BODY_READ)),
        ("IDLE", seconds(limits::IDLE)),
        ("HANDSHAKE", seconds(limits::HANDSHAKE)),
        ("CONNECTIONS_MAX", limits::CONNECTIONS_MAX.to_string()),
        ("HANDSHAKES_MAX", limits::HANDSHAKES_MAX.to_string()),
        ("HANDSHAKES_PER_SOURCE_MAX", limits::HANDSHAKES_PER_SOURCE_MAX.to_string()),
        ("BODIES_BYTES_MAX", bytes(limits::BODIES_BYTES_MAX)),
        ("WAITING_PER_USER_MAX", limits::WAITING_PER_USER_MAX.to_string()),
        ("WAITING_PER_NODE_MAX", limits::WAITING_PER_NODE_MAX.to_string()),
        ("WAIT_SECONDS", format!("{longest}, {default}")),
        ("REQUEST_ID_CHARS_MAX", limits::REQUEST_ID_CHARS_MAX.to_string()),
        ("REASON_BYTES_MAX", bytes(limits::REASON_BYTES_MAX)),
        ("HEADER_BYTES_MAX", bytes(limits::HEADER_BYTES_MAX)),
        ("REQUEST_IDS_MAX", limits::REQUEST_IDS_MAX.to_string()),
        ("REQUEST_ID_AGE_US", format!("{} h", limits::REQUEST_ID_AGE_US / 3_600_000_000)),
        ("LIVE_JOBS_MAX", limits::LIVE_JOBS_MAX.to_string()),
        ("REPLANS_MAX", limits::REPLANS_MAX.to_string()),
        ("EVENTS_MAX", limits::EVENTS_MAX.to_string()),
        ("CONFIG_LIMITS", format!("{}, {}, {depth}", bytes(value), bytes(tree))),
    ])
}

#[test]
fn the_table_of_limits_is_what_the_code_has() {
    let limits = limits();
    let source = read("proto/src/limits.rs");
    let declared = source.lines().filter_map(|line| line.strip_prefix("pub const "));
    let declared: BTreeSet<&str> = declared.filter_map(|rest| rest.split(':').next()).collect();
    let known: BTreeSet<&str> = limits.keys().copied().collect();
    assert_eq!(known, declared, "the list in this test is not that of proto/src/limits.rs");
    let written = table(&read(OPERATING), "constant");
    let written: BTreeMap<&str, String> =
        written.iter().map(|row| (row[0].as_str(), row[1].clone())).collect();
    assert_eq!(written, limits, "the table in {OPERATING}");
}

#[test]
fn every_metric_is_explained_and_every_explained_one_exists() {
    let node = TestNode::start(Options::default());
    // A counter with a label is there once it has counted.
    node.output("node_list", serde_json::json!({}));
    let text = node.get(&node.admin(), "/metrics").text();
    let samples = text.lines().filter(|line| line.starts_with("tiebeam_"));
    let shown: BTreeSet<String> =
        samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect();
    let written = table(&read(OPERATING), "metric").into_iter();
    let written: BTreeSet<String> = written.filter_map(|row| row.into_iter().next()).collect();
    assert_eq!(written, shown, "left: {OPERATING}, right: /metrics");
}

#[test]
fn commands_are_found_in_sh_blocks_alone() {
    let text = "```sh\n$ one\nits output\n$ two --flag\n```\n```\n$ not this\n```\n$ nor this\n";
    assert_eq!(commands(text), ["one", "two --flag"]);
}
