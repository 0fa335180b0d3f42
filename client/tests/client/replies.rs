//! Replies as a cluster gives them, for the golden files. Some carry what an attacker would put
//! into them: an escape sequence, a tab, a line end.

use serde_json::{Value, json};

pub fn record() -> Value {
    json!({
        "format": 1, "job": "11.42", "name": "user_create", "kind": "modify", "outcome": "ok",
        "user": "admin", "reason": "new operator, ticket 4711", "mode": "immediate",
        "parameters": {"username": "alice", "password": {"secret": "withheld"}},
        "request": {"protocol": "xml-rpc", "path": "/RPC2", "peer": "10.10.10.7:51544"},
        "scheduling": {"master": 11, "term": 7, "locks": ["write users/alice"],
                       "base_revision": 17, "waited_us": 400},
        "stages": {
            "submitted": "2026-11-20T04:05:06.123456Z", "scheduled": "2026-11-20T04:05:06.123781Z",
            "executed": "2026-11-20T04:05:06.124002Z", "finished": "2026-11-20T04:05:07.626120Z",
            "committed": "2026-11-20T04:06:37.631877Z"
        },
        "commands": [{
            "name": "config_change", "node": 11, "started": "2026-11-20T04:05:06.124002Z",
            "ended": "2026-11-20T04:05:07.626120Z", "result": "ok", "status": 0,
            "output": "one\ntwo \u{1b}[31mred\n"
        }],
        "result": {"result_code": 0, "result_revision": 18, "result_output": {"id": 1001}},
        "change": [
            {"op": "add", "path": "users/alice", "value": {"group": "exausers", "id": 1001}},
            {"op": "replace", "path": "app/limit", "old": 5, "value": 6},
            {"op": "remove", "path": "app/old", "old": "x"}
        ],
        "nodes": {"applied": [11, 12], "pending": [13], "reasons": {"13": "offline"}}
    })
}

pub fn failed_record() -> Value {
    json!({
        "job": "11.43", "name": "service_restart", "kind": "act", "outcome": "failed",
        "user": "bob", "reason": "tab\there, escape \u{1b}[2J, line\nend", "parameters": {},
        "stages": {"submitted": "2026-11-20T05:00:00.000001Z",
                   "finished": "2026-11-20T05:00:01.000001Z"},
        "commands": [], "result": {"result_code": 1, "result_desc": "nginx is not installed"}
    })
}

pub fn running_record() -> Value {
    json!({
        "job": "11.44", "name": "firmware_update", "kind": "act", "user": "bob", "parameters": {},
        "progress": {"done": 3, "total": 8, "text": "flashing"},
        "stages": {"submitted": "2026-11-20T06:00:00.000001Z",
                   "executed": "2026-11-20T06:00:01.000001Z"},
        "commands": [{"name": "flash", "node": 12, "started": "2026-11-20T06:00:01.000001Z",
                      "result": "open"}]
    })
}

pub fn result() -> tiebeam::ResultObject {
    serde_json::from_value(json!({
        "result_code": 0, "result_name": "OK", "result_desc": "Success", "result_jobid": "11.42",
        "result_output": {"id": 1001, "groups": ["exausers", "monitor"], "note": "bell \u{7}"},
        "result_revision": 18, "result_warnings": ["certificate of n12 ends in 29 days"],
        "result_nodes_pending": [13, 14]
    }))
    .unwrap()
}

pub fn failed_result() -> tiebeam::ResultObject {
    serde_json::from_value(json!({
        "result_code": 1, "result_name": "FAILED", "result_desc": "nginx is not installed",
        "result_jobid": "11.43"
    }))
    .unwrap()
}

pub fn planned_result() -> tiebeam::ResultObject {
    serde_json::from_value(json!({
        "result_code": 0, "result_name": "OK", "result_desc": "Success", "result_jobid": "11.45",
        "result_plan": {"base_revision": 18, "diff": record()["change"],
                        "commands": ["service_restart on node 12"], "locks": ["write users/alice"]}
    }))
    .unwrap()
}

pub fn log() -> Value {
    json!([
        {"revision": 18, "time": "2026-11-20T04:05:06.126120Z", "user": "admin", "job": "11.42",
         "reason": "ticket 4711", "summary": "+ users/alice"},
        {"revision": 17, "time": "2026-11-19T00:00:00.000000Z", "user": "root", "job": "11.2",
         "reason": null, "summary": "~ app/limit"}
    ])
}

pub fn blame() -> Value {
    json!({
        "users/alice/group": {"revision": 18, "job": "11.42", "user": "admin",
                              "time": "2026-11-20T04:05:06.126120Z"},
        "users/root/id": {"revision": 1, "job": "", "user": "root"}
    })
}

pub fn cluster() -> Value {
    json!({
        "name": "demo", "id": "5f0c", "master": 11, "term": 7, "revision": 18, "health": "ok",
        "members": [
            {"id": 11, "name": "n11", "address": "10.10.10.11:20003", "role": "voter",
             "state": "online", "applied": 18},
            {"id": 12, "name": "n12", "address": "10.10.10.12:20003", "role": "voter",
             "state": "offline", "applied": 17}
        ]
    })
}

pub fn health() -> Vec<Value> {
    vec![
        json!({"address": "https://10.10.10.11:20003", "ready": true, "detail": {"ready": true}}),
        json!({"address": "https://10.10.10.12:20003", "ready": false,
               "error": "connection refused"}),
        json!({"address": "https://10.10.10.13:20003", "ready": false,
               "detail": {"ready": false, "reason": "catching up"}}),
    ]
}

pub fn events() -> Vec<Value> {
    vec![
        json!({"cursor": "90.0", "kind": "stage", "job": "11.42", "name": "user_create",
               "stage": "finished", "outcome": "ok", "time": "2026-11-20T04:05:06.126120Z"}),
        json!({"cursor": "90.1", "kind": "command", "job": "11.43", "command": "flash", "node": 12,
               "result": "failed"}),
        json!({"cursor": "91.0", "kind": "config", "revision": 18, "job": "11.42"}),
        json!({"kind": "node", "node": 12, "state": "offline \u{1b}]0;x\u{7}"}),
    ]
}

pub fn help_text() -> &'static str {
    "Description: Creates a user.\nMandatory parameters: username (str): the name\nOptional \
     parameters: password (str): a secret\nAllowed groups: [root, exaadm]\n\nExample: exec \
     user_create username: alice\n"
}

pub fn jobs() -> Vec<tiebeam::JobDescription> {
    [
        ("user_list", "users", "read", "Lists the users"),
        ("user_create", "users", "modify", "Creates a user"),
        ("node_remove", "cluster", "act", "Removes a node; refused if it would lose the quorum"),
    ]
    .map(|(name, group, kind, summary)| tiebeam::JobDescription {
        name: name.into(),
        group: group.into(),
        kind: kind.into(),
        summary: summary.into(),
        ..tiebeam::JobDescription::default()
    })
    .into()
}

pub fn summary() -> Value {
    json!({"index": 41, "kind": "modify", "job": "11.42", "name": "user_create", "user": "admin",
           "outcome": "ok", "stage": "committed", "revision": 18, "nodes": [11],
           "submitted": "2026-11-20T04:05:06.123456Z", "ended": "2026-11-20T04:05:07.626120Z",
           "reason": "new operator, ticket 4711"})
}

pub fn audit_summary() -> Value {
    json!({"index": 40, "kind": "audit", "audit": "login_failed", "user": "eve",
           "time": "2026-11-20T03:00:00.000000Z", "object": "user_login"})
}

pub fn folder_report() -> tiebeam::verify::FolderReport {
    tiebeam::verify::FolderReport {
        lines: 120,
        files: 99,
        pruned: 20,
        from: 1,
        to: 120,
        head: "sha256:5f0c".into(),
        problem_count: 1,
        problems: vec![tiebeam::verify::FolderProblem {
            index: Some(42),
            path: "2026/11/20/11.42.yaml".into(),
            line: 0,
            what: "its record has not the hash that it names: it was edited".into(),
        }],
    }
}
