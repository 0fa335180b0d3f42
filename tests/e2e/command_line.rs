//! `tiebeam` and `confd_client` as people type them (wire.md section 9), and their exit statuses.

use super::draining::{eventually, may_sleep};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use tiebeam_tests::program::command;
use tiebeam_tests::{Ended, Options, TestNode, client_program, run};

/// A shell in which the node is the target.
pub struct Shell<'a> {
    node: &'a TestNode,
    program: PathBuf,
    user: &'a str,
    password_file: PathBuf,
}

impl<'a> Shell<'a> {
    /// The one of `admin`.
    pub fn new(node: &'a TestNode) -> Shell<'a> {
        let (program, password_file) = (client_program(), node.password_file.clone());
        Shell { node, program, user: "admin", password_file }
    }

    /// The same program under the name that ConfD's users type.
    fn confd_client(node: &'a TestNode) -> Shell<'a> {
        let link = node.folder.join("confd_client");
        std::os::unix::fs::symlink(client_program(), &link).expect("a link");
        Shell { program: link, ..Shell::new(node) }
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str], input: &str) -> Ended {
        run(self.prepare(command(&self.program, arguments).env_clear()), input)
    }

    /// Gives a command what the programs need to find the node.
    pub fn prepare<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("HOME", &self.node.folder)
            .env("TIEBEAM_URL", &self.node.url)
            .env("TIEBEAM_CA", &self.node.ca_file)
            .env("TIEBEAM_USER", self.user)
            .env("TIEBEAM_PASSWORD_FILE", &self.password_file)
            .current_dir(&self.node.folder)
    }
}

#[track_caller]
fn ends(shell: &Shell, arguments: &[&str], code: i32) -> Ended {
    let ended = shell.run(arguments, "");
    assert_eq!(ended.code, code, "{arguments:?}\n{}{}", ended.out, ended.err);
    ended
}

#[test]
fn exit_statuses_are_those_of_the_table() {
    let mut node = TestNode::start(may_sleep());
    node.user("dave", 1301, "exausers");
    let daves = node.folder.join("dave");
    std::fs::write(&daves, "dave-has-a-password\n").expect("a file");
    let wrong = node.folder.join("wrong");
    std::fs::write(&wrong, "wrong\n").expect("a file");
    let shell = Shell::new(&node);

    let ok = ends(&shell, &["exec", "db_list"], 0);
    assert_eq!(ok.out.trim(), "[]");
    let failed = ends(&shell, &["exec", "user_delete", "username:", "nobody_here"], 1);
    assert!(failed.out.is_empty() && failed.err.contains("nobody_here"), "{failed:?}");
    ends(&shell, &["exec", "command_run", "argv:", "[/bin/sleep, '60']", "--deadline", "1"], 1);
    ends(&shell, &["exec", "user_delete"], 2);
    ends(&shell, &["exec", "user_delete", "username:", "x", "extra:", "1"], 2);
    ends(&shell, &["exec", "no_such_job"], 2);
    ends(&shell, &["no_such_command"], 2);
    ends(&shell, &["exec", "db_list", "--not-before", "2030-01-01T00:00:00Z"], 2);
    let dave = Shell { user: "dave", password_file: daves, ..Shell::new(&node) };
    ends(&dave, &["exec", "user_delete", "username:", "admin"], 3);
    let stranger = Shell { password_file: wrong, ..Shell::new(&node) };
    ends(&stranger, &["exec", "db_list"], 3);

    let started = ends(&shell, &["start", "command_run", "argv:", "[/bin/sleep, '600']"], 0);
    let id = started.out.trim().to_owned();
    assert!(id.starts_with("11."), "{id}");
    ends(&shell, &["result", &id], 5);
    ends(&shell, &["cancel", &id], 0);
    assert_eq!(node.call(&node.admin(), "job_wait", json!([id, 60])), Ok(json!(true)));
    ends(&shell, &["result", &id], 1);

    node.terminate();
    let shell = Shell::new(&node);
    ends(&shell, &["exec", "db_list", "--retry-for", "0"], 4);
    for command in ["result", "wait", "follow", "show", "file", "cancel"] {
        ends(&shell, &[command, &id, "--retry-for", "0"], 4);
    }
}

#[test]
fn what_nobody_knows_the_end_of_has_a_status_of_its_own() {
    let mut node = TestNode::start(may_sleep());
    let shell = Shell::new(&node);
    let started = ends(&shell, &["start", "command_run", "argv:", "[/bin/sleep, '600']"], 0);
    let id = started.out.trim().to_owned();
    let unfinished = ends(&shell, &["wait", &id, "-t", "0"], 5);
    assert_eq!(unfinished.out, "false\n");
    let told = ends(&shell, &["result", &id], 5).err;
    assert!(told.contains(&format!("job {id} still runs")), "{told}");
    let shim = eventually("the command runs", || node.shims().first().copied());

    node.kill9();
    kill(shim, Signal::SIGKILL).expect("the shim runs");
    node.run();
    let shell = Shell::new(&node);
    let ended = ends(&shell, &["wait", &id], 0);
    assert_eq!(ended.out, "true\n", "it has ended, whichever way");
    for command in ["result", "follow"] {
        let told = ends(&shell, &[command, &id], 6).err;
        assert!(told.contains(&format!("job {id} ended INDETERMINATE")), "{told}");
    }
    let shown = ends(&shell, &["show", &id], 0).out;
    assert!(shown.contains("indeterminate"), "{shown}");
}

#[test]
fn confd_client_takes_what_it_took() {
    let node = TestNode::start(Options::default());
    let shell = Shell::confd_client(&node);
    let list: Value =
        serde_json::from_str(&ends(&shell, &["node_list", "-j"], 0).out).expect("JSON");
    assert_eq!(list["11"]["name"], "n11");
    let first = ends(&shell, &["-j", "-c", "node_list"], 0).out;
    assert_eq!(serde_json::from_str::<Value>(&first).expect("JSON"), list);
    let yaml = ends(&shell, &["node_list"], 0).out;
    assert!(yaml.contains("name: n11"), "{yaml}");
    let help = ends(&shell, &["-c", "help", "-a", "user_create"], 0).out;
    assert!(help.contains("Mandatory parameters"), "{help}");

    let alice = "{username: alice, userid: 1001, group: exausers, password: a-password-here}";
    ends(&shell, &["-c", "user_create", "-a", alice], 0);
    let bob = r#"{"username": "bob", "userid": 1002, "group": 500, "password": "a-password-here"}"#;
    ends(&shell, &["-c", "user_create", "-A", bob], 0);
    let inline = [
        "user_create",
        "username:",
        "carol",
        "userid:",
        "1003",
        "group:",
        "exausers",
        "password:",
        "a-password-here",
    ];
    ends(&shell, &inline, 0);
    let users = ends(&shell, &["user_list", "-j"], 0).out;
    for name in ["alice", "bob", "carol"] {
        assert!(users.contains(name), "{users}");
    }

    std::fs::write(node.folder.join("motd"), "from a file\n").expect("a file");
    ends(&shell, &["config_set", "path:", "app/file", "value:", "{< motd}"], 0);
    assert!(node.output("config_get", json!({"path": "app/file"})).to_string().contains("a file"));
    let piped = shell.run(&["config_set", "path:", "app/in", "value:", "{< -}"], "from a pipe");
    assert_eq!(piped.code, 0, "{}", piped.err);
    let text = ends(&shell, &["config_get", "path:", "app/in"], 0).out;
    assert_eq!(text.trim_end(), "from a pipe", "a text is printed bare");
}

#[test]
fn everyday_commands_work() {
    let node = TestNode::start(Options::default());
    let shell = Shell::new(&node);
    ends(&shell, &["status"], 0);
    ends(&shell, &["jobs"], 0);
    ends(&shell, &["help", "user_create"], 0);
    ends(&shell, &["config", "set", "app/web/port", "8080"], 0);
    assert!(ends(&shell, &["config", "get", "app/web"], 0).out.contains("8080"));
    assert!(ends(&shell, &["config", "log"], 0).out.contains("add app/web"));
    assert!(ends(&shell, &["config", "diff", "1"], 0).out.contains("app/web"));
    assert!(ends(&shell, &["config", "blame", "app"], 0).out.contains("admin"));
    let history = ends(&shell, &["history", "-j"], 0).out;
    assert!(history.contains("config_set"), "{history}");
    let id = node.exec("db_list", json!({}))["result_jobid"].as_str().expect("an id").to_owned();
    assert!(ends(&shell, &["file", &id], 0).out.starts_with("format: 1\n"));
    ends(&shell, &["wait", &id], 0);
    ends(&shell, &["config", "rollback", "1", "--yes"], 0);
    assert_eq!(node.output("config_get", json!({"path": "app"})), json!({}));
    let socket = node.socket().display().to_string();
    let mut by_socket = command(client_program(), &["--socket", &socket, "exec", "db_list"]);
    by_socket.env_clear().env("HOME", &node.folder);
    assert_eq!(run(&mut by_socket, "").ok().trim(), "[]");
}

#[test]
fn what_a_command_printed_comes_whole_and_to_the_last_byte() {
    let node = TestNode::start(may_sleep());
    let shell = Shell::new(&node);
    let printed = "a line\nand no end";
    let call = ["start", "command_run", "argv:", "[/bin/cat]", "stdin:", printed];
    let id = ends(&shell, &call, 0).out.trim().to_owned();
    ends(&shell, &["wait", &id], 0);
    let file = ends(&shell, &["file", &id, "--command", "run-n11"], 0);
    assert_eq!(file.out, printed);
    assert!(ends(&shell, &["file", &id], 0).out.starts_with("format: 1\n"));
    let unknown = shell.run(&["file", &id, "--command", "run-n99"], "");
    assert!(unknown.code != 0 && unknown.err.contains("run-n11"), "{unknown:?}");
}
