//! `command_run` on a node without systemd: what is started, as whom, and how it ends.
//!
//! Real processes and real signals; what survives what is ruling 9. The same under systemd's unit
//! is in `systemd`.

pub mod family;

use family::{FAMILY, FAMILY_SIZE, Mark, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Uid, User};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tiebeam_tests::{Options, TestNode};

/// Commands that are begun side by side.
const COMMANDS: usize = 30;

/// The user that commands run as: nobody, or who runs the tests if that is not root.
fn command_user() -> String {
    let own = Uid::effective();
    if own.is_root() {
        return "nobody".to_owned();
    }
    User::from_uid(own).ok().flatten().map_or_else(|| own.to_string(), |user| user.name)
}

/// A node that runs `/bin/sh` and nothing else.
fn start() -> TestNode {
    let options = Options::default()
        .set("exec.enabled", "true")
        .set("exec.allow", "/bin/sh")
        .set("exec.users", &command_user());
    TestNode::start(options)
}

/// A folder of the test in which commands may write.
fn shared(node: &TestNode) -> PathBuf {
    let folder = node.folder.join("shared");
    std::fs::create_dir_all(&folder).expect("a new folder");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("it is ours");
    folder
}

fn script(text: &str) -> Value {
    json!({"argv": ["/bin/sh", "-c", text]})
}

/// The result object, and its part about the node.
fn sh(node: &TestNode, params: Value) -> (Value, Value) {
    let result = node.exec("command_run", params);
    let of_node = result["result_output"]["11"].clone();
    (result, of_node)
}

fn begin(node: &TestNode, params: Value) -> String {
    let id = node.call(&node.admin(), "job_start", json!(["command_run", {"params": params}]));
    id.expect("a job").as_str().expect("an id is text").to_owned()
}

/// Waits for a job's end: its result object.
fn end(node: &TestNode, id: &str) -> Value {
    eventually("the job ends", || {
        let ended = node.call(&node.admin(), "job_wait", json!([id, 30])).expect("it is known");
        (ended == true).then_some(())
    });
    node.call(&node.admin(), "job_result", json!([id])).expect("a result object")
}

#[test]
fn a_program_gets_what_it_was_given_and_no_more() {
    let node = start();
    let text = "pwd; echo \"$#:$1\"; tr a-z A-Z; echo; env | sort; id -un; echo to stderr >&2";
    let params = json!({
        "argv": ["/bin/sh", "-c", text, "sh", "an argument; $(with) 'everything'"],
        "stdin": "what it reads",
        "env": {"GREETING": "hello", "TOKEN": "canary-in-env"},
        "cwd": "/usr",
    });
    let (result, of_node) = sh(&node, params);
    assert_eq!((&result["result_code"], &of_node["status"]), (&json!(0), &json!(0)), "{result}");
    let output = of_node["output"].as_str().expect("a text");
    let lines: Vec<&str> = output.lines().collect();
    let first = ["/usr", "1:an argument; $(with) 'everything'", "WHAT IT READS"];
    assert_eq!(lines[..3], first);
    assert_eq!(lines[lines.len() - 2..], [command_user().as_str(), "to stderr"]);
    let names: Vec<&str> =
        lines[3..lines.len() - 2].iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let clean = ["GREETING", "HOME", "LANG", "LOGNAME", "PATH", "PWD", "TOKEN", "USER"];
    assert_eq!(names, clean, "{output}");
    assert!(
        output.contains("\nTOKEN=[secret]\n"),
        "a secret that is printed is withheld: {output}"
    );
    assert_eq!(
        (&of_node["truncated"], &of_node["output_bytes"]),
        (&json!(false), &json!(output.len()))
    );
    let file = node.call(&node.admin(), "job_file", json!([result["result_jobid"]]));
    let file = file.expect("a job file").to_string();
    for secret in ["canary-in-env", "what it reads"] {
        assert!(!file.contains(secret), "{secret} is in {file}");
    }
}

#[test]
fn how_a_program_ended_is_told() {
    let node = start();
    for (text, status, told) in [
        ("echo no; exit 7", json!(7), "exit status 7"),
        ("kill -KILL $$", json!(-9), "ended by signal 9"),
    ] {
        let (result, of_node) = sh(&node, script(text));
        let desc = result["result_desc"].as_str().unwrap_or_default();
        assert_eq!((&result["result_code"], &of_node["result"]), (&json!(1), &json!("failed")));
        assert_eq!(of_node["status"], status, "{result}");
        assert_eq!(desc, format!("1 of 1 nodes did not succeed: node 11: {told}"));
    }
    let nowhere = json!({"argv": ["/bin/sh", "-c", "echo here"], "cwd": "/no/such/folder"});
    let (result, of_node) = sh(&node, nowhere);
    assert_eq!((&of_node["result"], &of_node["output"]), (&json!("failed"), &json!("")));
    assert!(result["result_desc"].to_string().contains("/no/such/folder"), "{result}");
}

#[test]
fn output_is_kept_up_to_its_limits() {
    let node = start();
    let text = "echo begin; head -c 300000 /dev/zero | tr '\\0' x; echo; echo end";
    for most in [json!(null), json!(1000), json!(0)] {
        let mut params = script(text);
        params["output_bytes_max"] = most.clone();
        let (result, of_node) = sh(&node, params);
        let output = of_node["output"].as_str().expect("a text");
        assert_eq!(result["result_code"], 0, "{most}");
        assert_eq!(
            (&of_node["output_bytes"], &of_node["truncated"]),
            (&json!(300_011), &json!(true))
        );
        assert!(output.len() <= 65 * 1024 && output.ends_with("x\nend\n"), "{most}");
        assert!(output.contains(" bytes not shown]"), "{most}");
        assert_eq!(output.starts_with("begin\nx"), most != 0, "{most}");
        let record = node.call(&node.admin(), "job_info", json!([result["result_jobid"]]));
        let command = record.expect("a record")["commands"][0].clone();
        assert_eq!(
            command["output_sha256"].is_string(),
            most != 0,
            "{most}: {}",
            command["output_sha256"]
        );
    }
}

#[test]
fn only_what_the_node_allows_is_run() {
    let node = start();
    let oper = node.user("oper", 2001, "exaadm");
    let refused = |params: Value| {
        let result = node.exec_as(&oper, "command_run", params);
        assert_eq!(
            (&result["result_code"], &result["result_output"]["11"]["output"]),
            (&json!(1), &json!("")),
            "{result}"
        );
        result["result_desc"].as_str().unwrap_or_default().to_owned()
    };
    for program in ["/bin/ls", "/usr/bin/env", "/usr/bin/../bin/id"] {
        let text = refused(json!({"argv": [program]}));
        assert!(
            text.contains("does not allow the program") && text.contains("exec.allow"),
            "{text}"
        );
    }
    // Ruling 29: uid 0 only where exec.users names root; nor anybody else who is not named.
    for user in ["root", "daemon"] {
        let text = refused(json!({"argv": ["/bin/sh", "-c", "id"], "user": user}));
        assert!(text.contains(&format!("as {user} (node setting exec.users)")), "{text}");
    }
    let absent = refused(json!({"argv": ["/bin/sh", "-c", "id"], "user": "no-such-user"}));
    assert!(absent.contains("no-such-user"), "{absent}");
    let own = json!(["command_run", {"params": {"argv": ["/bin/sh"], "own": true}}]);
    let error = node.call(&oper, "job_start", own).expect_err("there is no such parameter");
    assert_eq!(
        (&error["data"]["name"], &error["data"]["field"]),
        (&json!("invalid_parameter"), &json!("own"))
    );
    let guest = node.user("guest", 2002, "exausers");
    let params = json!(["command_run", {"params": {"argv": ["/bin/sh"]}}]);
    let error = node.call(&guest, "job_start", params).expect_err("guests run nothing");
    assert_eq!(error["data"]["name"], "forbidden", "{error}");
}

#[test]
fn a_node_that_names_root_runs_commands_as_root() {
    if !Uid::effective().is_root() {
        return tiebeam_tests::need::not_run("commands as root", "it takes root");
    }
    let options = Options::default()
        .set("exec.enabled", "true")
        .set("exec.allow", "/usr/bin/id")
        .set("exec.users", "nobody,root");
    let node = TestNode::start(options);
    let id = |user: Value| {
        sh(&node, json!({"argv": ["/usr/bin/id", "-u"], "user": user})).1["output"].clone()
    };
    assert_eq!(id(json!("root")), "0\n");
    assert_eq!(id(json!(null)), "65534\n", "the first of exec.users is the default");
}

#[test]
fn sighup_reads_the_allowed_programs_again() {
    let mut node = TestNode::init(Options::default());
    let settings = node.data.join("tiebeamd.yaml");
    let kept = tiebeam_tests::node::read(&settings);
    let allow = |programs: &str| {
        let user = command_user();
        let exec = format!("exec: {{enabled: true, allow: [{programs}], users: [{user}]}}\n");
        std::fs::write(&settings, format!("{kept}{exec}")).expect("it can be written");
    };
    allow("/bin/sh");
    node.run();
    let runs =
        |program: &str| sh(&node, json!({"argv": [program, "-c", "exit 0"]})).0["result_code"] == 0;
    assert!(runs("/bin/sh") && !runs("/bin/true"));
    allow("/bin/true");
    node.signal(Signal::SIGHUP);
    eventually("what is named now runs", || runs("/bin/true").then_some(()));
    assert!(!runs("/bin/sh"), "what is named no more does not");
    // Settings that cannot be read change nothing.
    allow("[[[");
    node.signal(Signal::SIGHUP);
    eventually("the log says so", || {
        tiebeam_tests::node::read(&node.log_file()).contains("not read again").then_some(())
    });
    assert!(runs("/bin/true"));
}

fn family(mark: &Mark) -> Value {
    let mut params = script(FAMILY);
    params["env"] = mark.env();
    params
}

#[test]
fn a_timeout_ends_the_whole_family() {
    let (node, mark) = (start(), Mark::new());
    let mut params = family(&mark);
    params["timeout_s"] = json!(2);
    let id = begin(&node, params);
    mark.await_processes(FAMILY_SIZE);
    let result = end(&node, &id);
    let of_node = &result["result_output"]["11"];
    assert_eq!((&result["result_name"], &of_node["result"]), (&json!("FAILED"), &json!("timeout")));
    assert_eq!(of_node["output"], "ready\n", "{result}");
    assert!(result["result_desc"].to_string().contains("did not end in time"), "{result}");
    assert_eq!(mark.processes(), [0; 0]);
}

#[test]
fn a_cancelled_job_ends_the_whole_family() {
    let (node, mark) = (start(), Mark::new());
    let id = begin(&node, family(&mark));
    mark.await_processes(FAMILY_SIZE);
    let cancelled = node.call(&node.admin(), "job_cancel", json!([id]));
    assert_eq!(cancelled, Ok(json!("stopping")));
    let result = end(&node, &id);
    assert_eq!(result["result_name"], "CANCELLED", "{result}");
    assert_eq!(result["result_output"]["11"]["result"], "cancelled", "{result}");
    assert_eq!(mark.processes(), [0; 0]);
    let again = node.call(&node.admin(), "job_cancel", json!([id]));
    assert_eq!(again, Ok(json!("too_late")));
}

#[test]
fn a_program_that_takes_no_notice_is_killed_after_the_grace() {
    let (node, mark) = (start(), Mark::new());
    let mut params = script("trap '' TERM; echo ready; sleep 600; sleep 600; sleep 600");
    params["env"] = mark.env();
    params["timeout_s"] = json!(1);
    let (_, of_node) = sh(&node, params);
    assert_eq!((&of_node["result"], &of_node["status"]), (&json!("timeout"), &json!(-9)));
    assert_eq!(mark.processes(), [0; 0]);
}

#[test]
fn a_deadline_ends_the_job_and_its_command() {
    let (node, mark) = (start(), Mark::new());
    let kwargs = json!({"params": family(&mark), "deadline_s": 3});
    let result = node.call(&node.admin(), "job_exec", json!(["command_run", kwargs]));
    let result = result.expect("a result object");
    assert_eq!(result["result_name"], "TIMEOUT", "{result}");
    assert_eq!(mark.processes(), [0; 0]);
}

/// Begins a command that counts its starts in a file; gives the job and the file.
fn begin_counted(node: &TestNode, mark: &Mark, seconds: u32) -> (String, PathBuf) {
    let count = shared(node).join("count");
    let text = format!("echo started >> {}; sleep {seconds}; echo done", count.display());
    let mut params = script(&text);
    params["env"] = mark.env();
    let id = begin(node, params);
    mark.await_processes(2);
    (id, count)
}

fn assert_done_once(node: &TestNode, id: &str, count: &std::path::Path) {
    let result = end(node, id);
    assert_eq!(result["result_name"], "OK", "{result}");
    assert_eq!(result["result_output"]["11"]["output"], "done\n", "{result}");
    assert_eq!(tiebeam_tests::node::read(count), "started\n", "it ran once");
    let record = node.call(&node.admin(), "job_info", json!([id])).expect("a record");
    let commands = record["commands"].as_array().expect("commands");
    assert_eq!((commands.len(), &commands[0]["result"]), (1, &json!("ok")), "{record}");
}

#[test]
fn a_command_goes_on_while_the_daemon_crashes_and_starts_again() {
    let (mut node, mark) = (start(), Mark::new());
    let (id, count) = begin_counted(&node, &mark, 6);
    for _ in 0..2 {
        node.kill9();
        assert_eq!(mark.processes().len(), 2, "the command goes on");
        node.run();
    }
    assert_done_once(&node, &id, &count);
}

/// The crash comes while some have ended, some run, some are being started and some wait.
#[test]
fn of_many_commands_each_runs_once_over_a_crash() {
    let mut node = start();
    let folder = shared(&node);
    let commands: Vec<(String, PathBuf)> = (0..COMMANDS)
        .map(|number| {
            let count = folder.join(number.to_string());
            let text = format!("echo started >> {}; sleep 0.{number}; echo done", count.display());
            (begin(&node, script(&text)), count)
        })
        .collect();
    node.kill9();
    node.run();
    for (id, count) in &commands {
        assert_done_once(&node, id, count);
    }
}

#[test]
fn a_command_that_ended_while_no_daemon_ran_is_reported() {
    let (mut node, mark) = (start(), Mark::new());
    let (id, count) = begin_counted(&node, &mark, 2);
    node.kill9();
    mark.await_processes(0);
    node.run();
    assert_done_once(&node, &id, &count);
}

#[test]
fn a_cancel_reaches_a_command_that_an_earlier_daemon_started() {
    let (mut node, mark) = (start(), Mark::new());
    let id = begin(&node, family(&mark));
    mark.await_processes(FAMILY_SIZE);
    node.kill9();
    node.run();
    assert_eq!(node.call(&node.admin(), "job_cancel", json!([id])), Ok(json!("stopping")));
    assert_eq!(end(&node, &id)["result_name"], "CANCELLED");
    assert_eq!(mark.processes(), [0; 0]);
}

#[test]
fn a_command_whose_shim_was_killed_is_in_doubt_and_never_run_again() {
    let (mut node, mark) = (start(), Mark::new());
    let (id, count) = begin_counted(&node, &mark, 600);
    let found = node.shims();
    assert_eq!(found.len(), 1, "{found:?}");
    node.kill9();
    kill(found[0], Signal::SIGKILL).expect("the shim runs");
    node.run();
    let result = end(&node, &id);
    assert_eq!(result["result_name"], "INDETERMINATE", "{result}");
    assert_eq!(tiebeam_tests::node::read(&count), "started\n", "it ran once");
    let told = result["result_desc"].to_string();
    assert!(told.contains("shim process") && told.contains("ended without a result"), "{told}");
    assert_eq!(mark.processes(), [0; 0], "nothing of it is left");
}

/// Ruling 11: a job that ended in doubt learns of its command's end, whichever daemon hears of it.
#[test]
fn the_late_end_of_a_command_ends_the_doubt() {
    let (mut node, mark) = (start(), Mark::new());
    let (id, _) = begin_counted(&node, &mark, 600);
    let shim = node.shims()[0];
    // A shim that stands still is what a machine without memory or disk looks like.
    kill(shim, Signal::SIGSTOP).expect("the shim runs");
    let cancelled = node.call(&node.admin(), "job_cancel", json!([id]));
    assert_eq!(cancelled, Ok(json!("stopping")));
    let result = end(&node, &id);
    assert_eq!(result["result_name"], "INDETERMINATE", "{result}");
    assert_eq!(node.output("lock_list", json!({})), json!([]), "the job never held one");
    node.kill9();
    // The kernel wakes what stood still when its parent goes; if it did not, this does.
    let _ = kill(shim, Signal::SIGCONT);
    mark.await_processes(0);
    node.run();
    let addenda = eventually("the doubt is over", || {
        let file = node.call(&node.admin(), "job_file", json!([id])).expect("a job file");
        let (_, addenda) = file.as_str().expect("a text").split_once("\naddenda:\n")?;
        Some(addenda.to_owned())
    });
    assert!(addenda.contains("result: cancelled"), "{addenda}");
}
