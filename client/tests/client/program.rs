//! The program itself, as a process: what it prints where, and its exit status.

use crate::stub::{Ca, Reply, Seen, Stub, folder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tokio::runtime::Runtime;

struct Cluster {
    _runtime: Runtime,
    ca: Ca,
    stub: Stub,
    home: PathBuf,
}

fn cluster(name: &str, behaviour: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Cluster {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ca = Ca::new(name);
    let stub = runtime.block_on(ca.start(behaviour));
    let home = folder(&format!("{name}-home"));
    std::fs::write(home.join("password"), "hunter2\n").unwrap();
    Cluster { _runtime: runtime, ca, stub, home }
}

impl Cluster {
    fn run_as(&self, program: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env_clear()
            .env("HOME", &self.home)
            .env("TIEBEAM_URL", &self.stub.url)
            .env("TIEBEAM_CA", &self.ca.file)
            .env("TIEBEAM_USER", "admin")
            .env("TIEBEAM_PASSWORD_FILE", self.home.join("password"));
        command.output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> (String, String, i32) {
        let output = self.run_as(Path::new(env!("CARGO_BIN_EXE_tiebeam")), arguments);
        texts(output)
    }
}

fn texts(output: Output) -> (String, String, i32) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

fn result(code: i64, name: &str, output: Value) -> Value {
    json!({"result_code": code, "result_name": name, "result_desc": "what happened",
           "result_jobid": "11.7", "result_output": output})
}

fn describing(then: impl Fn(&Seen) -> Reply + Send + Sync) -> impl Fn(&Seen) -> Reply {
    move |seen| match seen.method() {
        "job_desc" if seen.params()[0] == "nonsense" => {
            Reply::Result(json!([false, "there is no job nonsense"]))
        }
        "job_desc" => Reply::Result(json!([true, ["makes a user",
            {"username": {"desc": "name", "type": "str"}, "userid": {"desc": "n", "type": "int"}},
            {"shell": {"desc": "s", "type": "str"}}, {}, [], [], [], "modify", "users", {}]])),
        _ => then(seen),
    }
}

#[test]
fn exec_types_its_parameters_and_prints_the_output_only() {
    let cluster = cluster("exec", describing(|_| Reply::Result(result(0, "OK", json!("running")))));
    let (out, err, status) = cluster.run(&[
        "exec",
        "user_create",
        "username:",
        "8.10",
        "userid:",
        "5",
        "--reason",
        "t 1",
    ]);
    assert_eq!((out.as_str(), err.as_str(), status), ("running\n", "", 0));
    let calls = cluster.stub.calls();
    let sent = &calls.last().unwrap().params()[1];
    assert_eq!(sent["params"], json!({"username": "8.10", "userid": 5}));
    assert_eq!(sent["reason"], "t 1");
    let (out, _, _) = cluster.run(&["exec", "-c", "user_create", "-a", "{userid: 5}", "-j"]);
    assert_eq!(out, "\"running\"\n");
}

#[test]
fn under_the_name_confd_client_it_is_exec() {
    let cluster = cluster(
        "confd",
        describing(|seen| match seen.method() {
            "job_list" => Reply::Result(json!(["db_list", "user_create"])),
            "job_help" => Reply::Result(json!("Description: makes a user\n")),
            _ => Reply::Result(result(0, "OK", json!({"b": 1, "a": [true]}))),
        }),
    );
    let link = cluster.home.join("confd_client");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tiebeam"), &link).unwrap();
    for (arguments, printed) in [
        (&["user_create", "userid:", "5"][..], "a:\n- true\nb: 1\n"),
        (&["-c", "db_list", "-j"], "{\n  \"a\": [\n    true\n  ],\n  \"b\": 1\n}\n"),
        (
            &["-j", "-A", "{\"userid\": 5}", "-c", "user_create"],
            "{\n  \"a\": [\n    true\n  ],\n  \"b\": 1\n}\n",
        ),
        (&["-c", "help", "-a", "user_create"], "Description: makes a user\n"),
        (&["-c", "list"], "- db_list\n- user_create\n"),
    ] {
        let (out, err, status) = texts(cluster.run_as(&link, arguments));
        assert_eq!((out.as_str(), err.as_str(), status), (printed, "", 0), "{arguments:?}");
    }
}

#[test]
fn exit_statuses_are_those_of_the_wire() {
    let cluster = cluster(
        "status",
        describing(|seen| {
            let error = |code: i64| {
                Reply::Error(json!({"code": code, "message": "no",
            "data": {"name": "x", "field": "grp", "hint": "try again", "retryable": false}}))
            };
            match seen.params()[0].as_str().unwrap_or_default() {
                "failed" => Reply::Result(result(1, "FAILED", json!("partly"))),
                "doubtful" => Reply::Result(result(7, "INDETERMINATE", Value::Null)),
                "refused" => error(-32002),
                "forbidden" => error(-32003),
                "closed" => Reply::Status(401),
                "headless" => Reply::Status(503),
                "running" => Reply::Result(result(5, "UNFINISHED", Value::Null)),
                _ => error(-32603),
            }
        }),
    );
    for (arguments, expected) in [
        (&["exec", "failed"][..], 1),
        (&["exec", "doubtful"], 6),
        (&["exec", "refused"], 2),
        (&["exec", "forbidden"], 3),
        (&["exec", "closed"], 3),
        (&["exec", "headless", "--retry-for", "0"], 4),
        (&["exec", "nonsense", "a:", "1"], 2),
        (&["exec", "x", "a:", "1", "a:", "2"], 2),
        (&["exec"], 2),
        (&["nonsense"], 2),
        (&["exec", "x", "a:", "{< /nonexistent}"], 2),
        (&["result", "running"], 5),
    ] {
        let (_, err, status) = cluster.run(arguments);
        assert_eq!(status, expected, "{arguments:?}: {err}");
    }
    let (out, err, _) = cluster.run(&["exec", "failed"]);
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("partly\n", "job 11.7 ended FAILED: what happened\n")
    );
    let (_, err, _) = cluster.run(&["exec", "refused"]);
    assert_eq!(err, "error: no\n  name invalid_parameter\n  field grp\n  hint try again\n");
}

#[test]
fn login_keeps_a_token_for_the_calls_after_it() {
    let cluster = cluster("login", |seen| match seen.method() {
        "user_login" => Reply::Result(json!({"token": "tb1.z", "expires": "2026-11-20T04:05:06Z"})),
        _ => Reply::Result(json!(true)),
    });
    let (out, err, status) = cluster.run(&["login"]);
    assert!(out.starts_with("logged in as admin until 2026-11-20T04:05:06Z"), "{out}{err}");
    assert_eq!(status, 0);
    assert_eq!(cluster.stub.calls()[0].params(), &json!(["admin", "hunter2"]));
    let output = Command::new(env!("CARGO_BIN_EXE_tiebeam"))
        .args(["wait", "11.2"])
        .env_clear()
        .env("HOME", &cluster.home)
        .output()
        .unwrap();
    assert_eq!(texts(output), ("true\n".to_owned(), String::new(), 0));
    assert_eq!(cluster.stub.calls()[1].authorization.as_deref(), Some("Bearer tb1.z"));
}

/// A folder with two job files and an audit line, chained.
fn archived(name: &str) -> PathBuf {
    let top = folder(name);
    let day = top.join("2026/11/20");
    std::fs::create_dir_all(&day).unwrap();
    let mut head = tiebeam_proto::chain::Head::EMPTY;
    let mut lines = String::new();
    for (kind, job) in [("modify", Some("11.1")), ("audit", None), ("read", Some("11.2"))] {
        let record = json!({"format": 1, "job": job, "name": "x", "kind": kind});
        let link = head.extend(&tiebeam_proto::canonical::to_vec(&record));
        let line = tiebeam_proto::chain::ChainLine {
            index: link.index,
            kind: kind.to_owned(),
            job: job.map(str::to_owned),
            previous: link.previous.clone(),
            this: link.this.clone(),
        };
        lines.push_str(&line.to_line());
        if let Some(job) = job {
            let text = tiebeam_proto::jobfile::render(&record, &[], Some(&link));
            std::fs::write(day.join(format!("{job}.yaml")), text).unwrap();
        }
    }
    std::fs::write(day.join("chain.jsonl"), lines).unwrap();
    top
}

#[test]
fn verify_tells_an_edited_and_a_pruned_file_from_a_whole_history() {
    let top = archived("verify");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tiebeam"));
        texts(command.args(arguments).arg(&top).env_clear().output().unwrap())
    };
    for command in [&["verify"][..], &["history", "verify"]] {
        let (out, err, status) = run(command);
        assert!(out.starts_with("records 1 to 3: 3 in the chain, 2 job files hold, 0 pruned\n"));
        assert!(out.ends_with("verified\n"), "{out}");
        assert_eq!((err.as_str(), status), ("", 0));
    }
    let file = top.join("2026/11/20/11.1.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("name: x", "name: y")).unwrap();
    let (out, _, status) = run(&["verify", "-j"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &report["verified"]), (1, &json!(false)));
    assert!(report["first_problems"][0]["what"].as_str().unwrap().contains("edited"), "{out}");
    std::fs::remove_file(&file).unwrap();
    let (out, _, status) = run(&["verify"]);
    assert!(status == 0 && out.contains("1 pruned"), "{out}");
    let lines = top.join("2026/11/20/chain.jsonl");
    let text = std::fs::read_to_string(&lines).unwrap();
    let cut: Vec<&str> =
        text.lines().enumerate().filter(|(n, _)| *n != 1).map(|(_, l)| l).collect();
    std::fs::write(&lines, cut.join("\n") + "\n").unwrap();
    let (out, _, status) = run(&["verify"]);
    assert!(status == 1 && out.contains("records 2 to 2 are missing"), "{out}");
}

#[test]
fn a_filter_by_user_is_not_a_login_as_that_user() {
    let cluster = cluster("history", |_| Reply::Result(json!({"records": [], "cursor": null})));
    let (out, err, status) = cluster.run(&["history", "--by", "alice", "-n", "5", "-j"]);
    assert_eq!((out.as_str(), err.as_str(), status), ("[]\n", "", 0));
    let calls = cluster.stub.calls();
    assert_eq!(calls[0].params(), &json!([{"user": "alice", "limit": 5}]));
    assert_eq!(calls[0].authorization.as_deref(), Some("Basic YWRtaW46aHVudGVyMg=="));
}

#[test]
fn help_texts_are_good_for_reading() {
    let program = || Command::new(env!("CARGO_BIN_EXE_tiebeam"));
    for arguments in [&["--help"][..], &["exec", "--help"], &["help", "config"], &["--version"]] {
        let (out, err, status) = texts(program().args(arguments).env_clear().output().unwrap());
        assert_eq!((err.as_str(), status), ("", 0), "{arguments:?}");
        assert!(out.lines().all(|line| line.chars().count() <= 100), "{arguments:?}\n{out}");
    }
    let (out, _, status) = texts(program().args(["completion", "bash"]).output().unwrap());
    assert!(status == 0 && out.contains("__complete") && out.contains("confd_client"));
}
