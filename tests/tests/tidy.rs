//! Style, held by ordinary tests: sizes, names, directions of imports, nothing forgotten.
//!
//! Reads the workspace's own files and nothing else. What rustc and clippy can hold (missing docs,
//! unsafe code, banned functions) is left to them. An offender against a size limit stands in
//! `tests/tidy-offenders.txt` with its size; an entry may only shrink, and goes when it is under
//! the limit, so the list gets shorter or stays as it is.

mod offenders;
mod python;
mod rust;
mod workspace;

use offenders::Offender;
use std::collections::BTreeSet;
use workspace::{Manifest, SourceFile};

/// Longest function in lines, signature and braces included: it fits a screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of code in a file, without comments, blank lines and inline tests.
const FILE_LINES_MAX: usize = 500;
/// Characters in a line: two files side by side.
const COLUMNS_MAX: usize = 100;

/// What each crate may import of the workspace. A crate without a row fails.
const IMPORTS: [(&str, &[&str]); 8] = [
    ("tiebeam-proto", &[]),
    ("tiebeam-core", &["tiebeam-proto"]),
    ("tiebeam-replica", &["tiebeam-proto", "tiebeam-core"]),
    ("tiebeam-executor", &["tiebeam-proto", "tiebeam-core"]),
    ("tiebeam-jobs", &["tiebeam-proto", "tiebeam-core"]),
    (
        "tiebeamd",
        &["tiebeam-proto", "tiebeam-core", "tiebeam-replica", "tiebeam-executor", "tiebeam-jobs"],
    ),
    ("tiebeam", &["tiebeam-proto"]),
    (
        "tiebeam-tests",
        &[
            "tiebeam-proto",
            "tiebeam-core",
            "tiebeam-replica",
            "tiebeam-executor",
            "tiebeam-jobs",
            "tiebeamd",
            "tiebeam",
        ],
    ),
];

/// What a crate's tests may import beyond that: what the daemon writes is checked by the code that
/// users check it with.
const TEST_IMPORTS: [(&str, &[&str]); 1] = [("tiebeamd", &["tiebeam"])];

/// Crates that do no I/O, and what would let them.
const PURE: [&str; 4] = ["tiebeam-proto", "tiebeam-core", "tiebeam-replica", "tiebeam-executor"];
const IMPURE: [&str; 14] = [
    "clap",
    "fs2",
    "getrandom",
    "hyper",
    "nix",
    "rand",
    "reqwest",
    "rustix",
    "rustls",
    "sled",
    "tempfile",
    "tokio",
    "ureq",
    "uuid",
];

/// Names that say nothing, as a part of a file's or folder's name …
const EMPTY_WORDS: [&str; 9] =
    ["common", "helper", "helpers", "manager", "misc", "util", "utils", "utilities", "stuff"];
/// … and as the whole of one (a job's own name may hold them: `node_info`).
const EMPTY_NAMES: [&str; 6] = ["base", "data", "info", "server", "task", "thing"];

/// What a job's file declares, and the file that lists all of them.
const JOB_DECLARATION: &str = "static JOB:";
const JOB_REGISTRY: &str = "daemon/jobs/src/lib.rs";

fn assert_none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn functions_and_files_are_short() {
    let mut found: Vec<Offender> = Vec::new();
    for file in workspace::sources() {
        let (functions, lines) = match file.is_python() {
            true => (python::functions(&file.text), python::code_lines(&file.text)),
            false => (rust::functions(&file.text), rust::code_lines(&file.text)),
        };
        let long = functions.into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
        found.extend(long.map(|(name, lines)| Offender::new(&file.path, Some(&name), lines)));
        if lines > FILE_LINES_MAX {
            found.push(Offender::new(&file.path, None, lines));
        }
    }
    let list = workspace::read("tests/tidy-offenders.txt");
    assert_none("sizes (see tests/tests/tidy.rs)", offenders::compare(&list, &found));
}

#[test]
fn lines_fit_the_page() {
    let wide = |file: &SourceFile| -> Vec<String> {
        let lines = file.text.lines().enumerate();
        lines
            .filter(|(_, line)| line.chars().count() > COLUMNS_MAX)
            .map(|(at, line)| format!("{}:{} has {}", file.path, at + 1, line.chars().count()))
            .collect()
    };
    assert_none("over 100 columns", workspace::sources().iter().flat_map(wide).collect());
}

#[test]
fn nothing_is_left_for_later() {
    // Written in two parts, so that this file does not find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let left = |file: &SourceFile| -> Vec<String> {
        let lines = file.text.lines().enumerate();
        lines
            .filter(|(_, line)| marks.iter().any(|mark| has_word(line, mark)))
            .map(|(at, line)| format!("{}:{} {}", file.path, at + 1, line.trim()))
            .collect()
    };
    assert_none("left for later", workspace::sources().iter().flat_map(left).collect());
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

#[test]
fn file_names_say_something() {
    let empty = |path: &str| {
        path.trim_end_matches(".rs").trim_end_matches(".py").split('/').any(|name| {
            EMPTY_NAMES.contains(&name)
                || name.split(['_', '-']).any(|word| EMPTY_WORDS.contains(&word))
        })
    };
    let paths = workspace::sources().into_iter().map(|file| file.path);
    assert_none("names that say nothing", paths.filter(|path| empty(path)).collect());
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for manifest in workspace::manifests() {
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == manifest.name) else {
            wrong.push(format!("{} has no row in IMPORTS", manifest.name));
            continue;
        };
        wrong.extend(wrong_imports(&manifest, allowed));
    }
    assert_none("imports (proto, core, then jobs and replica, then the daemon)", wrong);
}

fn wrong_imports(manifest: &Manifest, allowed: &[&str]) -> Vec<String> {
    let ours = |name: &&String| IMPORTS.iter().any(|(known, _)| known == name);
    let pure = PURE.contains(&manifest.name.as_str());
    let impure = |name: &&String| pure && IMPURE.contains(&name.as_str());
    let (depends, by_tests) = (&manifest.dependencies, &manifest.dev_dependencies);
    let row = TEST_IMPORTS.iter().find(|(name, _)| *name == manifest.name);
    let by_tests_allowed = row.map_or(&[][..], |(_, more)| more);
    let not = |list: &[&str], name: &String| !list.contains(&name.as_str());
    let upwards = depends.iter().filter(ours).filter(|name| not(allowed, name));
    let upwards_by_tests = by_tests.iter().filter(ours);
    let upwards_by_tests =
        upwards_by_tests.filter(|name| not(allowed, name) && not(by_tests_allowed, name));
    upwards
        .chain(upwards_by_tests)
        .chain(depends.iter().chain(by_tests).filter(impure))
        .map(|name| format!("{} must not import {name}", manifest.name))
        .collect()
}

#[test]
fn no_source_file_is_forgotten() {
    let mut reached = BTreeSet::new();
    let mut roots = Vec::new();
    for manifest in workspace::manifests() {
        for root in manifest.roots() {
            reached.extend(workspace::module_files(&root));
            roots.push(root);
        }
    }
    let sources = workspace::sources();
    let rust = sources.iter().filter(|file| !file.is_python());
    let orphans = rust.filter(|file| !reached.contains(&file.path)).map(|file| file.path.clone());
    assert_none("files that no crate compiles (a forgotten `mod`?)", orphans.collect());
}

#[test]
fn every_job_is_registered() {
    let registry = workspace::read(JOB_REGISTRY);
    let jobs = workspace::sources().into_iter().filter(|file| {
        file.path.starts_with("daemon/jobs/src/") && file.text.contains(JOB_DECLARATION)
    });
    let missing = jobs.filter(|file| !registry.contains(&format!("{}::JOB", file.stem())));
    assert_none("jobs that are not registered", missing.map(|file| file.path).collect());
}
