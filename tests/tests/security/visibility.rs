//! A user sees the jobs that are theirs, by every method and in events; an auditor reads all of
//! them and does nothing; and what is hidden looks like what never was, byte for byte.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use tiebeam_tests::{Login, Options, Reply, TestNode};

const BY_ID: [&str; 6] =
    ["job_info", "job_result", "job_file", "job_finished", "job_wait", "job_cancel"];

struct Stage {
    node: TestNode,
    alice: Login,
    bob: Login,
    auditor: Login,
    /// A finished job of alice.
    hers: String,
    /// A job of `admin` that runs.
    running: String,
}

impl Stage {
    fn set() -> Stage {
        let options = Options::default()
            .set("exec.enabled", "true")
            .set("exec.allow", "/bin/sleep")
            .set("exec.users", "nobody");
        let node = TestNode::start(options);
        let alice = node.user("alice", 3001, "exausers");
        let bob = node.user("bob", 3002, "exadbadm");
        let auditor = node.user("carol", 3003, "auditor");
        let hers = start(&node, &alice, "node_list", json!({}));
        let params = json!({"argv": ["/bin/sleep", "120"]});
        let running = start(&node, &node.admin(), "command_run", params);
        Stage { node, alice, bob, auditor, hers, running }
    }

    /// Lets the running job end, so that the node can.
    fn clear(&self) {
        let word = self.node.call(&self.node.admin(), "job_cancel", json!([self.running]));
        assert_eq!(word, Ok(json!("stopping")));
    }
}

fn start(node: &TestNode, login: &Login, job: &str, params: Value) -> String {
    let id = node.call(login, "job_start", json!([job, {"params": params}]));
    id.unwrap_or_else(|error| panic!("{job}: {error}")).as_str().expect("an id").to_owned()
}

fn params(method: &str, id: &str) -> Value {
    if method == "job_wait" { json!([id, 0]) } else { json!([id]) }
}

/// The whole answer, with the id that was asked for taken out: what is left must be the same.
fn answer(node: &TestNode, login: &Login, path: &str, method: &str, id: &str) -> String {
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params(method, id)});
    let reply = node.connect().request("POST", path, login, &[], call.to_string().as_bytes());
    let Reply { status, mut headers, body } = reply.expect("an answer");
    headers.retain(|(name, _)| name != "date" && name != "content-length");
    let text = String::from_utf8(body).expect("text").replace(id, "ID");
    format!("{status} {headers:?} {text}")
}

#[test]
fn a_hidden_job_looks_like_one_that_never_was() {
    let stage = Stage::set();
    let volatile = json!(["node_list", {"params": {}, "volatile": true}]);
    let volatile = stage.node.call(&stage.alice, "job_start", volatile).expect("an id");
    let volatile = volatile.as_str().expect("a text");
    // Of the same shape as the ids there are.
    let (never, never_volatile) = ("11.987654", "11.v987654");
    for method in BY_ID {
        for path in ["/", "/rest"] {
            let of = |id: &str| answer(&stage.node, &stage.bob, path, method, id);
            assert_eq!(of(&stage.hers), of(never), "{method} {path}");
            assert_eq!(of(&stage.running), of(never), "{method} {path}");
            assert_eq!(of(volatile), of(never_volatile), "{method} {path}");
            // The right number under another node's name is no job either.
            assert_eq!(of("12.1"), of(never), "{method} {path}");
        }
        let error = stage.node.call(&stage.bob, method, params(method, &stage.hers));
        assert_eq!(error.expect_err("it is hidden")["code"], -32004, "{method}");
    }
    let own = stage.node.call(&stage.alice, "job_info", json!([stage.hers])).expect("her job");
    assert_eq!(own["user"], "alice");
    stage.clear();
}

#[test]
fn an_auditor_reads_everything_and_changes_nothing() {
    let stage = Stage::set();
    let (node, auditor) = (&stage.node, &stage.auditor);
    for id in [&stage.hers, &stage.running] {
        for method in ["job_info", "job_result", "job_file", "job_finished", "job_wait"] {
            assert!(node.call(auditor, method, params(method, id)).is_ok(), "{method} {id}");
        }
        let error = node.call(auditor, "job_cancel", json!([id])).expect_err("not theirs");
        assert_eq!(error["code"], -32003, "{error}");
    }
    for job in tiebeam_jobs::JOBS {
        let declared = &job.declaration;
        if declared.everyone {
            continue;
        }
        let mut params = declared.example_values()[0].clone();
        if let Some(own) = declared.self_param {
            params[own] = json!("alice");
        }
        for method in ["job_start", "job_exec"] {
            let call = json!([declared.name, {"params": params}]);
            let error = node.call(auditor, method, call).expect_err("no job");
            assert_eq!(error["code"], -32003, "{} {error}", declared.name);
        }
    }
    // What an auditor reads is itself on record.
    let read = ("auditor_read".to_owned(), "carol".to_owned());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(40);
    while !super::login::audits(node).contains(&read) {
        assert!(std::time::Instant::now() < until, "no record of the auditor's reads");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    stage.clear();
}

/// The users of all records that somebody's `job_history` shows, page by page.
fn history(node: &TestNode, login: &Login, filter: &Value) -> BTreeSet<String> {
    let (mut users, mut cursor) = (BTreeSet::new(), Value::Null);
    loop {
        let mut filter = filter.clone();
        filter["cursor"] = cursor;
        filter["limit"] = json!(2);
        let page = node.call(login, "job_history", json!([filter])).expect("a page");
        for record in page["records"].as_array().expect("records") {
            users.insert(record["user"].as_str().unwrap_or("(audit)").to_owned());
        }
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return users;
        }
    }
}

#[test]
fn history_shows_everybody_their_own() {
    let stage = Stage::set();
    let node = &stage.node;
    let job = start(node, &stage.bob, "node_state", json!({}));
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    assert_eq!(history(node, &stage.alice, &json!({})), only("alice"));
    assert_eq!(history(node, &stage.bob, &json!({})), only("bob"));
    // Filters narrow what one sees and never widen it.
    let filters = [
        json!({"user": "admin"}),
        json!({"user": "alice"}),
        json!({"job": stage.hers}),
        json!({"job": stage.running}),
        json!({"name": "command_run"}),
        json!({"name": "user_create"}),
        json!({"revision": 2}),
        json!({"stage": "executed"}),
    ];
    for filter in filters {
        assert_eq!(history(node, &stage.bob, &filter), BTreeSet::new(), "{filter}");
    }
    for login in [node.admin(), stage.auditor.clone()] {
        let all = history(node, &login, &json!({}));
        for user in ["admin", "alice", "bob"] {
            assert!(all.contains(user), "{all:?}");
        }
        assert_eq!(history(node, &login, &json!({"job": job})), only("bob"));
    }
    stage.clear();
}

/// The jobs in the events that somebody is given with this filter, from the beginning.
fn events(node: &TestNode, login: &Login, jobs: &Value) -> BTreeSet<String> {
    let filter = json!([{"jobs": jobs, "since": "0.0"}]);
    let id = node.call(login, "subscribe", filter).expect("a subscription");
    let mut seen = BTreeSet::new();
    loop {
        let some = node.call(login, "events", json!([id, 0])).expect("events");
        let some = some.as_array().expect("a list").clone();
        if some.is_empty() {
            return seen;
        }
        seen.extend(some.iter().filter_map(|event| event["job"].as_str().map(str::to_owned)));
    }
}

/// The same by `/ws`, until the job with this id has shown itself.
fn pushed(node: &TestNode, login: &Login, jobs: &Value, last: &str) -> BTreeSet<String> {
    let mut wire = node.connect();
    assert_eq!(wire.upgrade(login).expect("an answer").status, 101);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "subscribe",
                      "params": [{"jobs": jobs, "since": "0.0"}]});
    wire.send_frame(&call.to_string()).expect("an open WebSocket");
    let mut seen = BTreeSet::new();
    while !seen.contains(last) {
        let frame: Value =
            serde_json::from_str(&wire.frame().expect("a frame")).expect("JSON in a frame");
        if let Some(job) = frame["params"]["result"]["job"].as_str() {
            seen.insert(job.to_owned());
        }
    }
    seen
}

#[test]
fn events_show_everybody_their_own() {
    let stage = Stage::set();
    let node = &stage.node;
    let bobs = start(node, &stage.bob, "node_state", json!({}));
    let only = BTreeSet::from([bobs.clone()]);
    for jobs in [json!("all"), json!("mine")] {
        assert_eq!(events(node, &stage.bob, &jobs), only, "{jobs}");
        assert_eq!(pushed(node, &stage.bob, &jobs, &bobs), only, "{jobs}");
    }
    let named = json!([stage.hers, stage.running, bobs]);
    assert_eq!(events(node, &stage.bob, &named), only);
    for login in [node.admin(), stage.auditor.clone()] {
        let all = events(node, &login, &json!("all"));
        for job in [&stage.hers, &stage.running, &bobs] {
            assert!(all.contains(job), "{job} in {all:?}");
        }
    }
    // A subscription is its user's alone.
    let id = node.call(&node.admin(), "subscribe", json!([{"jobs": "all"}])).expect("an id");
    for method in ["events", "unsubscribe"] {
        let never = node.call(&stage.bob, method, json!(["s987654"])).expect_err("none");
        assert_eq!(node.call(&stage.bob, method, json!([id])), Err(never), "{method}");
    }
    stage.clear();
}

#[test]
fn rights_that_are_taken_away_hide_what_was_seen() {
    let stage = Stage::set();
    let node = &stage.node;
    let id = node.call(&stage.auditor, "subscribe", json!([{"jobs": "all", "since": "0.0"}]));
    let id = id.expect("a subscription");
    node.output("user_modify", json!({"username": "carol", "group": "exausers"}));
    let some = node.call(&stage.auditor, "events", json!([id, 0])).expect("a list");
    let told = some.as_array().expect("a list").iter().any(|event| event.get("job").is_some());
    assert!(!told, "rights are looked at when an event is delivered: {some}");
    let error = node.call(&stage.auditor, "job_info", json!([stage.hers])).expect_err("hidden");
    assert_eq!(error["code"], -32004);
    stage.clear();
}
