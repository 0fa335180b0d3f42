//! One change from its call to its undoing: what made it, who, and how to take it back.

use serde_json::{Value, json};
use tiebeam_tests::{Login, Options, TestNode};

/// Prints the job file (with `--nocapture`), and gives it.
fn job_file(node: &TestNode, result: &Value) -> String {
    let id = &result["result_jobid"];
    let file = node.call(&node.admin(), "job_file", json!([id])).expect("a job file");
    let file = file.as_str().expect("text").to_owned();
    println!("--- job {id}\n{file}");
    file
}

#[test]
fn a_user_is_made_shown_rolled_back_and_blamed() {
    let node = TestNode::start(Options::default());
    let revision = || node.output("cluster_info", json!({}))["revision"].as_u64().expect("one");
    let before = revision();
    let alice = json!({"username": "alice", "userid": 1001, "group": "exausers",
                       "password": "a-canary-password", "login_enabled": true});
    let created = node.exec("user_create", alice);
    assert_eq!(created["result_code"], 0, "{created}");
    assert_eq!(created["result_revision"], before + 1, "one change, one revision");
    assert_eq!(revision(), before + 1);
    let login = Login::basic("alice", "a-canary-password");
    assert_eq!(node.call(&login, "user_state", json!([])).expect("a login")["user"], "alice");

    let diff = node.exec("config_diff", json!({"from": before, "to": before + 1}));
    let changes = diff["result_output"].as_array().expect("changes");
    assert_eq!(changes.len(), 1, "{diff}");
    assert_eq!(changes[0]["op"], "add");
    assert_eq!(changes[0]["path"], "users/alice");
    let blame = node.exec("config_blame", json!({"path": "users/alice"}));
    for (path, by) in blame["result_output"].as_object().expect("leaves") {
        assert_eq!(by["job"], created["result_jobid"], "{path}");
        assert_eq!(by["revision"], before + 1, "{path}");
        assert_eq!(by["user"], "admin", "{path}");
    }

    let deleted = node.exec("user_delete", json!({"username": "alice"}));
    assert_eq!(deleted["result_revision"], before + 2);
    let back = node.exec("config_rollback", json!({"revision": before + 1}));
    assert_eq!(back["result_code"], 0, "{back}");
    let user = node.output("user_info", json!({"username": "alice"}));
    assert_eq!(user["login_enabled"], false, "a user comes back locked (ruling 29): {user}");
    let left_out = back["result_warnings"].to_string();
    assert!(left_out.contains("alice"), "what was left out is said: {back}");
    let rejected = node.connect().request("POST", "/", &login, &[], b"{}").expect("an answer");
    assert_eq!(rejected.status, 401, "the password did not come back");

    let gone = node.exec("config_rollback", json!({"revision": before}));
    assert_eq!(gone["result_revision"], before + 4, "{gone}");
    let users = node.output("user_list", json!({}));
    assert!(!users.to_string().contains("alice"), "{users}");

    for result in [&created, &diff, &blame, &deleted, &back, &gone] {
        let file = job_file(&node, result);
        assert!(file.starts_with("format: 1\njob: "), "{file}");
        assert!(file.contains("\nuser: admin\n"), "{file}");
        assert!(file.contains("\nchain: {index: "), "{file}");
        assert!(!file.contains("canary"), "a password is in the record:\n{file}");
    }
    assert!(job_file(&node, &created).contains("password: {secret: withheld}"));
}

#[test]
fn other_sections_are_not_reached_through_config_set() {
    let node = TestNode::start(Options::default());
    for (job, params) in [
        ("config_set", json!({"path": "users/admin/group", "value": "monitor"})),
        ("config_set", json!({"path": "nodes/11/name", "value": "x"})),
        ("config_set", json!({"path": "ssl/cert_verify", "value": "none"})),
        ("config_delete", json!({"path": "users/admin"})),
        ("config_merge", json!({"path": "settings", "value": {"jobs": {}}})),
        ("config_rollback", json!({"revision": 1, "path": "nodes"})),
    ] {
        let params = json!([job, {"params": params}]);
        let error = node.call(&node.admin(), "job_exec", params.clone()).expect_err("refused");
        assert_eq!(error["code"], -32003, "{params}: {error}");
        assert!(error["data"]["hint"].is_string(), "it names the way: {error}");
    }
    assert_eq!(node.output("cluster_info", json!({}))["revision"], 1, "nothing was changed");
}

#[test]
fn a_user_without_a_password_sets_the_first_one_once() {
    let node = TestNode::start(Options::default());
    let bob = json!({"username": "bob", "userid": 1002, "group": "exausers"});
    let made = node.exec("user_create", bob);
    let secret = &made["result_output"]["one_time_secret"];
    assert!(secret.is_string(), "{made}");
    assert!(!job_file(&node, &made).contains(secret.as_str().expect("text")));
    let init = json!(["bob", secret, "a-password-of-bob"]);
    let wire = |params: &Value| {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "user_init", "params": params});
        let body = body.to_string();
        node.connect().request("POST", "/", &Login::None, &[], body.as_bytes()).expect("an answer")
    };
    assert_eq!(wire(&init).json()["result"], true);
    assert_eq!(wire(&init).status, 401, "a one-time secret is used once");
    let star = json!(["user_passwd", {"params": {"username": "bob", "password": "*"}}]);
    let refused = node.call(&node.admin(), "job_exec", star).expect_err("no password");
    assert_eq!(refused["data"]["field"], "password", "{refused}");
    let bob = Login::basic("bob", "a-password-of-bob");
    assert_eq!(node.call(&bob, "user_state", json!([])).expect("a login")["user"], "bob");
}

/// Whoever has been told that a job is committed finds that in its record, however soon they ask.
#[test]
fn a_job_that_was_answered_has_its_last_stage() {
    let node = TestNode::start(Options::default());
    for value in 0..20 {
        let result = node.exec("config_set", json!({"path": "app/a", "value": value}));
        let id = &result["result_jobid"];
        let info = node.call(&node.admin(), "job_info", json!([id])).expect("a record");
        assert_eq!((&info["stage"], &info["ended"]), (&json!("committed"), &json!(true)));
        let stages = info["stages"].as_object().expect("stages with their times");
        assert_eq!(stages.len(), 5, "{info}");
        let read = node.exec("config_get", json!({"path": "app/a"}));
        let id = &read["result_jobid"];
        let info = node.call(&node.admin(), "job_info", json!([id])).expect("a record");
        assert_eq!(info["stage"], "finished", "{info}");
    }
}
