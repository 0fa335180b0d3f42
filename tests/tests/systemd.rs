//! Services and commands under a real systemd: the unit as it is shipped, in a container.
//!
//! One machine is booted and lived on from top to bottom, so this is one story of many chapters.
//! What commands do without systemd is in `commands`; here is what only systemd can show.

mod machine;

use crate::commands::family::{FAMILY, FAMILY_SIZE, Mark, eventually};
use machine::{DATA, Machine, PASSWORD};
use serde_json::{Value, json};
use tiebeam_tests::need::not_run;

/// Values that must stand nowhere in the machine's journal.
const SECRETS: [&str; 4] = [PASSWORD, "canary-in-stdin", "canary-in-env", "oper-has-a-password"];

#[test]
fn services_and_commands_under_a_real_systemd() {
    let machine = match Machine::boot() {
        Ok(machine) => machine,
        Err(reason) => return not_run("systemd", &reason),
    };
    the_unit_starts_the_daemon(&machine);
    nothing_runs_unless_the_node_says_so(&machine);
    services_are_listed_started_and_stopped(&machine);
    what_systemd_refuses_is_told(&machine);
    the_journal_is_gathered(&machine);
    an_ordinary_user_keeps_to_the_rules(&machine);
    a_stopped_command_takes_its_family_along(&machine);
    a_command_outlives_a_crash_of_the_daemon(&machine);
    a_command_outlives_a_restart_of_the_unit(&machine);
    the_daemon_restarts_its_own_service(&machine);
    a_command_that_nobody_watched_is_in_doubt(&machine);
    the_unprivileged_unit_serves_the_same_folder(&machine);
    no_cgroup_is_left(&machine);
    no_secret_is_in_the_journal(&machine);
}

fn the_unit_starts_the_daemon(machine: &Machine) {
    let unit = "/etc/systemd/system/tiebeamd.service";
    machine.run(&["systemd-analyze", "verify", unit]).ok();
    eventually("READY=1 was seen", || {
        (machine.property("tiebeamd", "ActiveState") == "active").then_some(())
    });
    let status = machine.property("tiebeamd", "StatusText");
    assert!(status.starts_with("master of one voter, term "), "{status}");
    let group = machine.run(&["stat", "--format=%U:%G %a", "/var/lib/tiebeam/tiebeam.sock"]).ok();
    assert_eq!(group.trim(), "root:tiebeam 660");
}

/// `exec` is off; SIGHUP, by `systemctl reload`, turns it on.
fn nothing_runs_unless_the_node_says_so(machine: &Machine) {
    let off = machine.exec("service_list", json!({}));
    assert_eq!(off["result_code"], 1, "{off}");
    assert!(off["result_desc"].as_str().is_some_and(|text| text.contains("exec.enabled")), "{off}");
    let settings = machine.path(DATA).join("tiebeamd.yaml");
    let kept = std::fs::read_to_string(&settings).expect("init wrote it");
    let allow = |programs: &str| {
        let exec = format!("exec:\n  enabled: true\n  allow: [{programs}]\n");
        std::fs::write(&settings, format!("{kept}{exec}")).expect("it can be written");
        machine.run(&["systemctl", "reload", "tiebeamd"]).ok();
    };
    let id = json!({"argv": ["/usr/bin/id", "-un"]});
    allow("/bin/sh");
    let refused = eventually("exec is enabled", || {
        let result = machine.exec("command_run", id.clone());
        let text = result["result_desc"].as_str().unwrap_or_default();
        (!text.contains("exec.enabled")).then_some(result)
    });
    let text = refused["result_desc"].as_str().expect("a text");
    assert!(text.contains("/usr/bin/id (node setting exec.allow)"), "{refused}");
    allow("/bin/sh, /usr/bin/id");
    eventually("the program is allowed", || {
        let result = machine.exec("command_run", id.clone());
        (result["result_output"]["11"]["output"] == "nobody\n").then_some(())
    });
}

/// Installs a unit of the test.
fn install(machine: &Machine, name: &str, service: &str) {
    let unit = format!("[Unit]\nDescription=A {name}\n[Service]\n{service}");
    let path = machine.path(&format!("etc/systemd/system/{name}.service"));
    std::fs::write(path, unit).expect("a new unit");
    machine.run(&["systemctl", "daemon-reload"]).ok();
}

fn services_are_listed_started_and_stopped(machine: &Machine) {
    install(machine, "probe", "ExecStart=/bin/sh -c 'echo the probe runs; exec sleep 1000'\n");
    let probe = json!({"service": "probe"});
    let service = |job: &str| {
        let state = machine.output(job, probe.clone());
        (state["active"].clone(), state["sub"].clone(), state["pid"].clone())
    };
    assert_eq!(service("service_state"), (json!("inactive"), json!("dead"), json!(0)));
    let (active, sub, pid) = service("service_start");
    assert_eq!((&active, &sub), (&json!("active"), &json!("running")));
    assert_eq!(pid.to_string(), machine.property("probe", "MainPID"));
    let listed = machine.output("service_list", json!({}));
    let found =
        listed.as_array().expect("a list").iter().find(|one| one["unit"] == "probe.service");
    let found = found.unwrap_or_else(|| panic!("it is not in {listed}"));
    assert_eq!((&found["active"], &found["description"]), (&active, &json!("A probe")));
    assert_eq!(service("service_start").2, pid, "it runs already");
    assert_ne!(service("service_restart").2, pid, "it is another process now");
    assert_eq!(service("service_stop"), (json!("inactive"), json!("dead"), json!(0)));
    assert_eq!(machine.property("probe", "ActiveState"), "inactive");
}

fn what_systemd_refuses_is_told(machine: &Machine) {
    for job in ["service_start", "service_stop", "service_restart", "service_state"] {
        let result = machine.exec(job, json!({"service": "no-such"}));
        let text = result["result_desc"].as_str().unwrap_or_default();
        assert_eq!(result["result_code"], 1, "{job}: {result}");
        assert!(text.ends_with("node 11: there is no service no-such.service"), "{job}: {text}");
    }
    install(machine, "broken", "Type=oneshot\nExecStart=/bin/sh -c 'exit 3'\n");
    let result = machine.exec("service_start", json!({"service": "broken"}));
    let state = &result["result_output"]["11"];
    assert_eq!((&result["result_code"], &state["active"]), (&json!(1), &json!("failed")));
    assert_eq!(state["exit_status"], 3, "{result}");
    let told = result["result_desc"].as_str().unwrap_or_default();
    assert!(told.contains("exit status 1: Job for broken.service failed"), "{result}");
    install(machine, "slow", "Type=oneshot\nExecStart=/bin/sleep 1000\n");
    let result = machine.exec("service_start", json!({"service": "slow", "timeout_s": 1}));
    assert_eq!(result["result_output"]["11"]["result"], "timeout", "{result}");
    machine.output("service_stop", json!({"service": "slow"}));
}

fn the_journal_is_gathered(machine: &Machine) {
    let gathered = machine.output("log_collect", json!({"services": ["probe"]}));
    let lines: Vec<&str> =
        gathered["lines"].as_array().expect("lines").iter().filter_map(Value::as_str).collect();
    let count = |text: &str| lines.iter().filter(|line| line.ends_with(text)).count();
    assert_eq!(count(": the probe runs"), 2, "it was started and restarted: {lines:?}");
    assert_eq!(count("Started probe.service - A probe."), 2, "{lines:?}");
    let tagged = json!({"services": ["probe"], "identifier": "sh", "default_interval": "10m"});
    let tagged = machine.output("log_collect", tagged)["lines"].clone();
    assert_eq!(tagged.as_array().map(Vec::len), Some(2), "{tagged}");
    for nothing in [
        json!({"services": ["no-such"]}),
        json!({"services": ["probe"], "error_level": "ERR"}),
        json!({"services": ["probe"], "stop_time": "2001-01-01 00:00:00",
               "start_time": "2000-01-01 00:00:00"}),
    ] {
        let gathered = machine.output("log_collect", nothing.clone());
        assert_eq!(gathered, json!({"lines": [], "truncated": false}), "{nothing}");
    }
}

/// A call over TLS, by `curl` within the machine: the result object, or the error.
fn call_as(machine: &Machine, user: &str, job: &str, params: Value) -> Value {
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "job_exec",
                      "params": [job, {"params": params}]});
    let call = call.to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let options = format!("user = \"{user}:{user}-has-a-password\"\ndata = \"{call}\"\n");
    let answer = machine.curl("https://127.0.0.1:20003/", &options);
    let answer: Value = serde_json::from_str(&answer).expect("a JSON-RPC answer");
    if answer["result"].is_null() { answer["error"].clone() } else { answer["result"].clone() }
}

/// Ruling 29: whoever is root on the node says what runs as whom; nobody else does.
fn an_ordinary_user_keeps_to_the_rules(machine: &Machine) {
    for (name, userid, group) in [("oper", 2001, "exaadm"), ("guest", 2002, "exausers")] {
        let password = format!("{name}-has-a-password");
        let user = json!({"username": name, "userid": userid, "group": group,
                          "password": password, "login_enabled": true});
        assert_eq!(machine.exec("user_create", user)["result_code"], 0);
    }
    let own = call_as(machine, "oper", "service_start", json!({"service": "probe"}));
    assert_eq!(own["result_code"], 0, "the daemon's own programs need no exec.allow: {own}");
    let guest = call_as(machine, "guest", "service_stop", json!({"service": "probe"}));
    assert_eq!(guest["data"]["name"], "forbidden", "{guest}");
    let run = |params: Value| call_as(machine, "oper", "command_run", params);
    let systemctl = json!({"argv": ["/usr/bin/systemctl", "stop", "probe"]});
    let named = run(systemctl.clone());
    assert!(named["result_desc"].as_str().is_some_and(|t| t.contains("exec.allow")), "{named}");
    let mut claimed = systemctl;
    claimed["own"] = json!(true);
    assert_eq!(run(claimed)["data"]["field"], "own", "a caller cannot say that it is the daemon's");
    let root = run(json!({"argv": ["/usr/bin/id", "-u"], "user": "root"}));
    assert!(root["result_desc"].as_str().is_some_and(|t| t.contains("exec.users")), "{root}");
    let nobody = run(json!({"argv": ["/usr/bin/id", "-un"]}));
    assert_eq!(nobody["result_output"]["11"]["output"], "nobody\n", "{nobody}");
    assert_eq!(machine.property("probe", "ActiveState"), "active", "nobody stopped it");
}

/// A shell script, marked, with secrets where secrets belong.
fn script(mark: &Mark, text: &str) -> Value {
    let mut env = mark.env();
    env["TOKEN"] = json!("canary-in-env");
    json!({"argv": ["/bin/sh", "-c", text], "env": env, "stdin": "canary-in-stdin"})
}

fn a_stopped_command_takes_its_family_along(machine: &Machine) {
    let mark = Mark::new();
    let mut family = script(&mark, FAMILY);
    let id = machine.begin("command_run", family.clone());
    mark.await_processes(FAMILY_SIZE);
    let cgroups = machine.run(&["systemctl", "status", "--no-pager", "tiebeamd"]).out;
    assert!(cgroups.contains("exec-shim"), "the shim is in the unit: {cgroups}");
    assert_eq!(machine.call("job_cancel", json!([id])), Ok(json!("stopping")));
    let cancelled = machine.end(&id);
    assert_eq!(cancelled["result_name"], "CANCELLED", "{cancelled}");
    assert_eq!(mark.processes(), [0; 0], "the whole family has gone");
    family["timeout_s"] = json!(2);
    let late = machine.exec("command_run", family);
    let of_node = &late["result_output"]["11"];
    assert_eq!((&of_node["result"], &of_node["output"]), (&json!("timeout"), &json!("ready\n")));
    assert_eq!(mark.processes(), [0; 0], "the whole family has gone");
}

/// Begins a command that counts its starts, and waits until it runs.
fn begin_counted(machine: &Machine, mark: &Mark, name: &str, seconds: u32) -> String {
    let text = format!("echo started >> /tmp/{name}; sleep {seconds}; echo done");
    let id = machine.begin("command_run", script(mark, &text));
    mark.await_processes(2);
    id
}

fn assert_ran_once(machine: &Machine, name: &str) {
    assert_eq!(machine.run(&["cat", &format!("/tmp/{name}")]).ok(), "started\n", "it ran once");
}

fn assert_done_once(machine: &Machine, id: &str, name: &str) {
    let result = machine.end(id);
    assert_eq!(result["result_name"], "OK", "{result}");
    let of_node = &result["result_output"]["11"];
    assert_eq!((&of_node["result"], &of_node["output"]), (&json!("ok"), &json!("done\n")));
    assert_ran_once(machine, name);
}

fn kill9(machine: &Machine, unit: &str, whom: &str) {
    let before = machine.property(unit, "NRestarts");
    let whom = format!("--kill-whom={whom}");
    machine.run(&["systemctl", "kill", &whom, "--signal=KILL", unit]).ok();
    eventually("systemd started it again", || {
        let again = machine.property(unit, "NRestarts") != before;
        (again && machine.property(unit, "ActiveState") == "active").then_some(())
    });
}

fn a_command_outlives_a_crash_of_the_daemon(machine: &Machine) {
    let mark = Mark::new();
    let id = begin_counted(machine, &mark, "crash", 8);
    kill9(machine, "tiebeamd", "main");
    assert_eq!(mark.processes().len(), 2, "KillMode=process: the command goes on");
    assert_done_once(machine, &id, "crash");
}

fn a_command_outlives_a_restart_of_the_unit(machine: &Machine) {
    let mark = Mark::new();
    let id = begin_counted(machine, &mark, "restart", 8);
    machine.run(&["systemctl", "restart", "tiebeamd"]).ok();
    assert_eq!(mark.processes().len(), 2, "KillMode=process: the command goes on");
    assert_done_once(machine, &id, "restart");
}

/// The command that restarts the daemon is the daemon's own, and outlives it like all others.
fn the_daemon_restarts_its_own_service(machine: &Machine) {
    let before = machine.property("tiebeamd", "MainPID");
    let id = machine.begin("service_restart", json!({"service": "tiebeamd"}));
    eventually("another daemon runs", || {
        let pid = machine.property("tiebeamd", "MainPID");
        (pid != "0" && pid != before).then_some(())
    });
    let restarted = machine.end(&id);
    assert_eq!(restarted["result_code"], 0, "{restarted}");
    let state = &restarted["result_output"]["11"];
    assert_eq!(state["pid"].to_string(), machine.property("tiebeamd", "MainPID"), "once only");
}

fn a_command_that_nobody_watched_is_in_doubt(machine: &Machine) {
    let mark = Mark::new();
    let id = begin_counted(machine, &mark, "doubt", 600);
    kill9(machine, "tiebeamd", "all");
    let result = machine.end(&id);
    assert_eq!(result["result_name"], "INDETERMINATE", "{result}");
    assert_eq!(mark.processes(), [0; 0], "it went with its shim");
    assert_ran_once(machine, "doubt");
}

/// The other unit on the same folder: what it does without root, and what it says that it may not.
fn the_unprivileged_unit_serves_the_same_folder(machine: &Machine) {
    let unit = "tiebeamd-unprivileged";
    machine
        .run(&["systemd-analyze", "verify", &format!("/etc/systemd/system/{unit}.service")])
        .ok();
    machine.run(&["systemctl", "start", unit]).ok();
    assert_eq!(machine.property("tiebeamd", "ActiveState"), "inactive", "never both");
    let told = |job: &str, params: Value, what: &str| {
        let result = machine.exec(job, params);
        let text = result["result_desc"].as_str().unwrap_or_default();
        assert!(result["result_code"] == 1 && text.contains(what), "{job}: {result}");
    };
    let id = json!({"argv": ["/usr/bin/id", "-un"]});
    told("command_run", id, "cannot run a command as nobody (node setting exec.users)");
    told("service_stop", json!({"service": "probe"}), "Access denied");
    assert_eq!(machine.property("probe", "ActiveState"), "active", "and it did not");
    let settings = machine.path(DATA).join("tiebeamd.yaml");
    let text = std::fs::read_to_string(&settings).expect("it is there");
    std::fs::write(&settings, format!("{text}  users: [tiebeam]\n")).expect("it can be written");
    machine.run(&["systemctl", "reload", unit]).ok();
    eventually("it runs what needs no root", || {
        let result = machine.exec("command_run", json!({"argv": ["/usr/bin/id", "-un"]}));
        (result["result_output"]["11"]["output"] == "tiebeam\n").then_some(())
    });
    let mark = Mark::new();
    let mut family = script(&mark, FAMILY);
    family["timeout_s"] = json!(2);
    let late = machine.exec("command_run", family);
    assert_eq!(late["result_output"]["11"]["result"], "timeout", "{late}");
    assert_eq!(mark.processes(), [0; 0], "the whole family has gone");
    let mark = Mark::new();
    let text = "sleep 6; echo done";
    let id = machine.begin("command_run", script(&mark, text));
    mark.await_processes(2);
    kill9(machine, unit, "main");
    assert_eq!(machine.end(&id)["result_output"]["11"]["output"], "done\n");
}

fn no_cgroup_is_left(machine: &Machine) {
    let found =
        machine.run(&["find", "/sys/fs/cgroup", "-type", "d", "-name", "tiebeam-11.*"]).ok();
    assert_eq!(found, "", "each command's cgroup goes with it");
}

fn no_secret_is_in_the_journal(machine: &Machine) {
    let journal = machine.run(&["journalctl", "--quiet", "--no-pager", "--output=export"]).ok();
    assert!(journal.contains("tiebeamd::node: ready"), "the daemon's log is in the journal");
    for secret in SECRETS {
        assert!(!journal.contains(secret), "{secret} is in the journal");
    }
}
