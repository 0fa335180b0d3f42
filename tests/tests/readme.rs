//! The README's commands are run: what a stranger types first must work.
//!
//! Commands are taken from the file as they stand; only places that would meet other tests (the
//! address, the folder under `/tmp`) and the built programs' folder are replaced.

use std::path::Path;
use std::process::Command;
use tiebeam_tests::program::{self, Ended, profile_folder};
use tiebeam_tests::{Options, TestNode};

fn readme() -> String {
    tiebeam_tests::node::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))
}

/// The fenced blocks of the README, with their language; indentation is taken off.
fn blocks() -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in readme().lines() {
        match (line.trim_start().strip_prefix("```"), open) {
            (Some(_), true) => open = false,
            (Some(language), false) => {
                blocks.push((language.to_owned(), String::new()));
                open = true;
            }
            (None, true) => {
                let (_, text) = blocks.last_mut().expect("a block is open");
                text.push_str(line.strip_prefix("   ").unwrap_or(line));
                text.push('\n');
            }
            (None, false) => {}
        }
    }
    blocks
}

/// The block of this language that holds `part`.
fn block(language: &str, part: &str) -> String {
    let found = blocks().into_iter().find(|(l, text)| l == language && text.contains(part));
    found.unwrap_or_else(|| panic!("README.md has no {language} block with {part}")).1
}

fn shell(script: &str, node: Option<&TestNode>) -> Ended {
    let folder = profile_folder();
    let script = script.replace("target/release/", &format!("{}/", folder.display()));
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("/bin/bash");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    command.args(["-euc", &script]).env("PATH", path).current_dir(root);
    if let Some(node) = node {
        command
            .env("TIEBEAM_URL", &node.url)
            .env("TIEBEAM_CA", &node.ca_file)
            .env("TIEBEAM_USER", "admin")
            .env("TIEBEAM_PASSWORD_FILE", &node.password_file);
    }
    program::run(&mut command, "")
}

#[test]
fn the_first_command_shows_a_cluster_that_loses_its_master() {
    let text = block("sh", "tiebeamd dev");
    let (build, run) = text.split_once("&&").expect("it builds, then runs");
    assert_eq!(build.trim(), "cargo build --release --workspace --bins");
    let run = run.replace("tiebeamd dev", "tiebeamd dev --listen 127.0.0.221:20003");
    let out = shell(&run, None).ok();
    for expected in ["node 13: https", "~ app/colour: blue → green", "'11': offline", "ok: true"]
    {
        assert!(out.contains(expected), "{expected} is missing in:\n{out}");
    }
    let last = out.rsplit_once("node_state").expect("it is asked at the end").1;
    assert!(!last.contains("offline"), "the node is back:\n{out}");
}

#[test]
fn the_second_command_is_there() {
    let command = block("sh", "tests/run");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(command.trim());
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).expect("the script is there").permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "{} can be run", path.display());
}

#[test]
fn the_session_goes_as_it_is_written() {
    let node = TestNode::start(Options::default());
    let session = block("", "$ tiebeam exec user_create");
    let mut seen = String::new();
    for line in session.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let ended = shell(line, Some(&node));
        assert_eq!(ended.code, 0, "{line}\n{}{}", ended.out, ended.err);
        seen.push_str(&ended.out);
    }
    for expected in
        ["add users/alice", "the cluster was made", "- users/alice: {", "name: user_create"]
    {
        assert!(seen.contains(expected), "{expected} is missing in:\n{seen}");
    }
}

#[test]
fn a_node_by_hand_answers_stock_python() {
    let folder = std::env::temp_dir().join(format!("tiebeam-readme-{}", std::process::id()));
    let place = folder.display().to_string();
    let own = |text: &str| {
        text.replace("/tmp/tiebeam-n11", &place).replace("127.0.0.11:20003", "127.0.0.213:20003")
    };
    let commands = own(&block("sh", "tiebeamd init"));
    let (init, run) = commands.trim_end().split_once('\n').expect("two commands");
    let made = shell(init, None).ok();
    let password = made.lines().find_map(|line| line.strip_prefix("password: "));
    let password = password.and_then(|rest| rest.split(' ').next()).expect("it is printed once");
    let python = own(&block("python", "xmlrpc.client")).replace("PASSWORD", password);
    let script = format!(
        "{run} 2>/dev/null & node=$!\ntrap 'kill $node; wait $node || true' EXIT\n\
         for n in $(seq 100); do [ -S {place}/tiebeam.sock ] && break; sleep 0.1; done\n\
         python3 -c '{python}'"
    );
    let out = shell(&script, None).ok();
    std::fs::remove_dir_all(&folder).expect("it was made here");
    assert!(out.contains("'role': 'voter'"), "{out}");
}
