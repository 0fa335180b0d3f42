//! What a call may say beside the job's parameters (wire.md section 4), and what it may not.

use super::draining::{eventually, may_sleep};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tiebeam_tests::{Options, TestNode};

fn start(node: &TestNode, job: &str, kwargs: Value) -> Result<Value, Value> {
    node.call(&node.admin(), "job_start", json!([job, kwargs]))
}

fn exec(node: &TestNode, job: &str, kwargs: Value) -> Result<Value, Value> {
    node.call(&node.admin(), "job_exec", json!([job, kwargs]))
}

/// The ids of the recorded jobs of this name.
fn recorded(node: &TestNode, job: &str) -> Vec<Value> {
    let page = node.call(&node.admin(), "job_history", json!([{"name": job}])).expect("a page");
    page["records"].as_array().expect("records").clone()
}

#[test]
fn a_request_id_makes_one_job() {
    let node = TestNode::start(Options::default());
    let call = |value: i64, key: &str| {
        let params = json!({"path": "app/once", "value": value});
        start(&node, "config_set", json!({"params": params, "request_id": key}))
    };
    let first = call(1, "key-1").expect("a job");
    assert_eq!(call(1, "key-1").expect("the same job"), first);
    let other = call(2, "key-1").expect_err("a conflict");
    assert_eq!(other["code"], -32007, "{other}");
    assert_eq!(other["data"]["name"], "conflict");
    assert_eq!(other["data"]["request_id"], "key-1");
    let other = start(&node, "db_list", json!({"request_id": "key-1"})).expect_err("a conflict");
    assert_eq!(other["code"], -32007, "another job with the same key: {other}");
    // The key is the user's own.
    let eve = node.user("eve", 1003, "exaadm");
    let params = json!({"path": "app/once", "value": 1});
    let kwargs = json!(["config_set", {"params": params, "request_id": "key-1"}]);
    assert_ne!(node.call(&eve, "job_start", kwargs).expect("a job of its own"), first);
    // A key that made no job is not used up.
    start(&node, "config_set", json!({"params": {}, "request_id": "key-2"})).expect_err("no path");
    assert_ne!(call(3, "key-2").expect("a job"), first);
}

#[test]
fn the_same_key_from_many_threads_makes_one_job() {
    let node = TestNode::start(Options::default());
    let ids: BTreeSet<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let params = json!({"path": "app/race", "value": 1});
                    let kwargs = json!({"params": params, "request_id": "race"});
                    exec(&node, "config_set", kwargs).expect("a result")
                })
            })
            .collect();
        let results = calls.into_iter().map(|call| call.join().expect("no panic"));
        results
            .map(|result| {
                assert_eq!(result["result_code"], 0, "{result}");
                result["result_jobid"].as_str().expect("an id").to_owned()
            })
            .collect()
    });
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(recorded(&node, "config_set").len(), 1);
    assert_eq!(node.output("cluster_info", json!({}))["revision"], 2);
}

#[test]
fn a_request_id_outlives_a_crash() {
    let mut node = TestNode::start(Options::default());
    let kwargs = json!({"params": {"path": "app/once", "value": 1}, "request_id": "kept"});
    let first = start(&node, "config_set", kwargs.clone()).expect("a job");
    node.kill9();
    node.run();
    assert_eq!(start(&node, "config_set", kwargs).expect("the same"), first);
}

#[test]
fn wait_s_answers_before_the_end_and_a_cancel_ends_it() {
    let node = TestNode::start(may_sleep());
    let params = json!({"argv": ["/bin/sleep", "600"]});
    let early = exec(&node, "command_run", json!({"params": params, "wait_s": 0.3}));
    let early = early.expect("a result");
    assert_eq!(early["result_code"], 5, "{early}");
    assert_eq!(early["result_name"], "UNFINISHED");
    let id = &early["result_jobid"];
    let admin = node.admin();
    assert_eq!(node.call(&admin, "job_finished", json!([id])), Ok(json!(false)));
    assert_eq!(node.call(&admin, "job_wait", json!([id, 0])), Ok(json!(false)));
    let info = node.call(&admin, "job_info", json!([id])).expect("the record so far");
    assert_eq!((&info["ended"], &info["result"]["result_code"]), (&json!(false), &json!(5)));
    let file = node.call(&admin, "job_file", json!([id])).expect("the file so far");
    assert!(file.as_str().expect("text").contains("result_code: 5"), "{file}");
    let word = node.call(&admin, "job_cancel", json!([id])).expect("a word");
    assert!(["cancelled", "stopping"].contains(&word.as_str().expect("text")), "{word}");
    assert_eq!(node.call(&admin, "job_wait", json!([id, 60])), Ok(json!(true)));
    let end = node.call(&admin, "job_result", json!([id])).expect("a result");
    assert_eq!(end["result_name"], "CANCELLED", "{end}");
    assert_eq!(node.call(&admin, "job_cancel", json!([id])), Ok(json!("too_late")));
    let error = start(&node, "db_list", json!({"wait_s": 1})).expect_err("for job_exec only");
    assert_eq!(error["data"]["field"], "wait_s", "{error}");
}

#[test]
fn a_deadline_stops_the_job() {
    let node = TestNode::start(may_sleep());
    let params = json!({"argv": ["/bin/sleep", "600"]});
    let end = exec(&node, "command_run", json!({"params": params, "deadline_s": 1}));
    let end = end.expect("a result");
    assert_eq!(end["result_name"], "TIMEOUT", "the command is known to have ended: {end}");
    assert_eq!(end["result_code"], 4);
    assert_eq!(node.output("lock_list", json!({})), json!([]), "no lock is left");
}

#[test]
fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let node = TestNode::start(Options::default());
    let params = json!({"username": "carol", "userid": 1004, "group": "exausers",
                        "password": "a-canary-password"});
    let kwargs = json!({"params": params, "dry_run": true});
    let dry = exec(&node, "user_create", kwargs).expect("a result");
    assert_eq!(dry["result_code"], 0, "{dry}");
    assert!(dry.get("result_revision").is_none(), "{dry}");
    let plan = &dry["result_plan"];
    assert_eq!(plan["base_revision"], 1, "{plan}");
    assert_eq!(plan["diff"][0]["path"], "users/carol", "{plan}");
    assert!(plan["commands"].is_array() && plan["locks"].is_array(), "{plan}");
    assert!(!dry.to_string().contains("canary"));
    assert_eq!(node.output("cluster_info", json!({}))["revision"], 1);
    let users = node.output("user_list", json!({}));
    assert!(!users.to_string().contains("carol"), "{users}");
    let later = exec(&node, "command_run", json!({"params": {"argv": ["/x"]}, "dry_run": true}));
    assert_eq!(later.expect_err("later")["data"]["hint"], "not in this version");
}

#[test]
fn a_volatile_read_leaves_no_record() {
    let node = TestNode::start(Options::default());
    let (admin, eve) = (node.admin(), node.user("eve", 1003, "exaadm"));
    let done = exec(&node, "node_list", json!({"volatile": true})).expect("a result");
    let id = done["result_jobid"].as_str().expect("an id").to_owned();
    let number = id.strip_prefix("11.v").expect("the form 11.v7");
    assert!(number.parse::<u64>().is_ok(), "{id}");
    assert_eq!(node.call(&admin, "job_result", json!([id])), Ok(done));
    assert_eq!(node.call(&admin, "job_wait", json!([id])), Ok(json!(true)));
    for method in ["job_result", "job_wait", "job_finished", "job_info", "job_file"] {
        let hidden = node.call(&eve, method, json!([id])).expect_err("not hers");
        assert_eq!(hidden["code"], -32004, "{method}: {hidden}");
    }
    assert_eq!(recorded(&node, "node_list"), Vec::<Value>::new());
    let params = json!({"username": "x", "userid": 1009, "group": "exausers"});
    for (job, params) in [("user_create", params), ("log_collect", json!({"services": ["x"]}))] {
        let error = exec(&node, job, json!({"params": params, "volatile": true}));
        assert_eq!(error.expect_err("it leaves a record")["data"]["field"], "volatile", "{job}");
    }
}

#[test]
fn a_reason_is_kept_word_for_word() {
    let node = TestNode::start(Options::default());
    let reason = "new operator, ticket 4711: \"quoted\" – ümlaut\n\tsecond: line";
    let kwargs = json!({"params": {"path": "app/a", "value": 1}, "reason": reason});
    let done = exec(&node, "config_set", kwargs).expect("a result");
    let id = &done["result_jobid"];
    let info = node.call(&node.admin(), "job_info", json!([id])).expect("a record");
    assert_eq!(info["reason"], reason);
    let log = node.output("config_log", json!({}));
    assert!(log.to_string().contains("ticket 4711"), "{log}");
    let file = node.call(&node.admin(), "job_file", json!([id])).expect("a file");
    assert!(file.as_str().expect("text").contains("ticket 4711"), "{file}");
}

#[test]
fn what_comes_later_is_refused_by_name() {
    let node = TestNode::start(Options::default());
    for (key, value) in [
        ("not_before", json!("2030-01-01T00:00:00Z")),
        ("confirm_within_s", json!(60)),
        ("plan", json!("token")),
    ] {
        let error = exec(&node, "db_list", json!({key: value})).expect_err("later");
        assert_eq!(error["code"], -32002, "{key}: {error}");
        assert_eq!(error["data"]["field"], key);
        assert_eq!(error["data"]["hint"], "not in this version");
    }
    let text = node.call(&node.admin(), "job_history", json!([{"text": "x"}]));
    let text = text.expect_err("later");
    assert_eq!(text["data"]["hint"], "not in this version", "{text}");
    let listed = node.call(&node.admin(), "job_list", json!([])).expect("a list");
    for job in ["schedule_add", "config_confirm", "token_issue", "what_happened"] {
        assert!(!listed.as_array().expect("names").contains(&json!(job)), "{job} is not listed");
        for call in [("job_start", json!([job])), ("job_help", json!({"name": job}))] {
            let error = node.call(&node.admin(), call.0, call.1).expect_err("later");
            assert_eq!(error["code"], -32002, "{error}");
            assert!(error["message"].as_str().expect("text").contains(job), "{error}");
            assert_eq!(error["data"]["hint"], "not in this version");
        }
        let about = node.call(&node.admin(), "job_desc", json!([job])).expect("a pair");
        assert!(about[0] == false && about.to_string().contains(job), "{about}");
    }
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "schedule_add", "params": {}});
    let admin = node.admin();
    let reply = node.connect().request("POST", "/rest", &admin, &[], body.to_string().as_bytes());
    let reply = reply.expect("an answer");
    assert!(reply.text().contains("not in this version"), "{}", reply.text());
    let error = node.call(&admin, "job_exec", json!(["no_such_job"])).expect_err("unknown");
    assert_eq!(error["code"], -32001, "{error}");
}

#[test]
fn whatever_is_unknown_is_named_and_its_value_is_not_shown() {
    let node = TestNode::start(Options::default());
    let admin = node.admin();
    for (job, kwargs, field) in [
        ("db_list", json!({"dryrun": "canary"}), "dryrun"),
        ("db_list", json!({"params": {"extra": "canary"}}), "extra"),
        ("db_list", json!({"volatile": "canary"}), "volatile"),
        ("db_list", json!({"deadline_s": "canary"}), "deadline_s"),
        ("db_list", json!({"deadline_s": 0}), "deadline_s"),
        ("db_list", json!({"request_id": "x".repeat(65)}), "request_id"),
        ("config_set", json!({"params": {"value": "canary"}}), "path"),
        ("config_set", json!({"params": {"path": ["canary"], "value": 1}}), "path"),
        ("user_create", json!({"params": {"username": "Canary!"}}), "username"),
    ] {
        let error = exec(&node, job, kwargs).expect_err("refused");
        assert_eq!(error["code"], -32002, "{error}");
        assert_eq!(error["data"]["field"], field, "{error}");
        assert!(!error.to_string().contains("anary"), "{error}");
    }
    let keyed = json!({"request_id": "a-key", "params": {"extra": 1}});
    let error = exec(&node, "db_list", keyed).expect_err("refused");
    assert_eq!(error["data"]["request_id"], "a-key", "{error}");
    let filter = node.call(&admin, "job_history", json!([{"jobname": "x"}])).expect_err("refused");
    assert!(filter["message"].as_str().expect("text").contains("jobname"), "{filter}");
    // A substitute stands in for a parameter, and not beside it.
    assert_eq!(node.exec("user_info", json!({"userid": 1000}))["result_code"], 0);
    let both = json!({"params": {"userid": 1000, "username": "admin"}});
    assert_eq!(exec(&node, "user_info", both).expect_err("both")["code"], -32002);
    // A node by number, text or list; null is no value.
    for nid in [json!(11), json!("11"), json!([11]), json!("n11")] {
        assert_eq!(node.exec("node_info", json!({"nid": nid}))["result_code"], 0, "{nid}");
    }
    assert_eq!(node.exec("config_get", json!({"path": null}))["result_code"], 0);
}

#[test]
fn one_sees_ones_own_jobs_and_those_who_may_see_all() {
    let node = TestNode::start(Options::default());
    let [dave, auditor] =
        [("dave", 1005, "exausers"), ("aud", 1006, "auditor")].map(|(n, i, g)| node.user(n, i, g));
    let of_admin = node.exec("db_list", json!({}))["result_jobid"].clone();
    let own = node.exec_as(&dave, "node_list", json!({}));
    let own = match own["result_code"].as_i64() {
        Some(0) => own["result_jobid"].clone(),
        _ => panic!("{own}"),
    };
    let hidden = node.call(&dave, "job_result", json!([of_admin])).expect_err("not his");
    let unknown = node.call(&dave, "job_result", json!(["11.999999"])).expect_err("no such");
    assert_eq!(hidden["code"], -32004);
    let shape = |error: &Value| (error["code"].clone(), error["data"].clone());
    assert_eq!(shape(&hidden), shape(&unknown), "a hidden job looks like none");
    let his = node.call(&dave, "job_history", json!([{}])).expect("a page");
    for record in his["records"].as_array().expect("records") {
        assert_eq!(record["user"], "dave", "{record}");
    }
    eventually("the auditor finds both", || {
        let page = node.call(&auditor, "job_history", json!([{}])).expect("a page").to_string();
        (page.contains(&own.to_string()) && page.contains(&of_admin.to_string())).then_some(())
    });
    node.call(&auditor, "job_info", json!([of_admin])).expect("an auditor reads every record");
    let cancel =
        node.call(&auditor, "job_cancel", json!([of_admin])).expect_err("and does nothing");
    assert_eq!(cancel["code"], -32003, "{cancel}");
}
