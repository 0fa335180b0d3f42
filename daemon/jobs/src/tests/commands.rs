//! Commands on nodes: which, in which order, and what comes of it.

use super::cluster::{Cluster, p, record};
use crate::error::JobError;
use serde_json::{Value, json};
use tiebeam_core::lock::Lock;
use tiebeam_core::state::Doubt;
use tiebeam_proto::Outcome::{Cancelled, Failed, Indeterminate};
use tiebeam_proto::time::Time;

fn argv() -> Value {
    json!(["/usr/bin/uptime"])
}

fn keys(cluster: &mut Cluster, nodes: Value) -> Vec<String> {
    let params = json!({"argv": argv(), "nodes": nodes});
    cluster.exec("root", "command_run", params).ok();
    cluster.world.keys_asked()
}

#[test]
fn nodes_are_chosen_by_id_name_label_or_all() {
    let mut cluster = Cluster::new();
    for (nodes, expected) in [
        (json!(null), vec!["run-n11", "run-n12", "run-n13"]),
        (json!("all"), vec!["run-n11", "run-n12", "run-n13"]),
        (json!(12), vec!["run-n12"]),
        (json!("n13"), vec!["run-n13"]),
        (json!(["rack=a", 11]), vec!["run-n11", "run-n12"]),
        (json!(["13", "n11"]), vec!["run-n11", "run-n13"]),
    ] {
        assert_eq!(keys(&mut cluster, nodes.clone()), expected, "{nodes}");
    }
    for (node, groups) in [(11, "web"), (12, "db, web"), (13, "db2")] {
        let set = json!({"nid": node, "set": {"group": groups}});
        cluster.exec("root", "node_label", set).ok();
    }
    assert_eq!(keys(&mut cluster, json!("group:db")), ["run-n12"]);
    assert_eq!(keys(&mut cluster, json!(["group:web", 13])), ["run-n11", "run-n12", "run-n13"]);
    for (nodes, text) in [
        (json!("group:g"), "`nodes`: no node is in \"group:g\""),
        (json!(["n11", "group:"]), "`nodes`: no node is in \"group:\""),
        (json!(["n11", "n99"]), "no node has the id or name \"n99\""),
        (json!("rack=z"), "no node has the label \"rack=z\""),
        (json!([]), "empty"),
    ] {
        let params = json!({"argv": argv(), "nodes": nodes});
        cluster.exec("root", "command_run", params).ended(Failed, text);
    }
    let config = &cluster.state.config;
    cluster.state.config = config.set(&p("nodes/12/suspended"), &json!(true), 1).unwrap();
    let params = json!({"argv": argv(), "nodes": "rack=a"});
    let ended = cluster.exec("root", "command_run", params).ok();
    assert!(ended.warnings[0].contains("node 12 is suspended"), "{:?}", ended.warnings);
    assert_eq!(cluster.world.keys_asked(), ["run-n11"]);
    let only = json!({"argv": argv(), "nodes": 12});
    cluster.exec("root", "command_run", only).ended(Failed, "suspended");
    let states = cluster.exec("root", "node_state", json!({})).ok().output;
    assert_eq!((&states["11"], &states["12"]), (&json!("online"), &json!("suspended")));
    assert_eq!((&states["13"], states["booted"].get("12")), (&json!("offline"), None));
}

#[test]
fn a_bad_command_is_refused_before_there_is_a_job() {
    let cluster = Cluster::new();
    for (key, value) in [
        ("argv", json!([])),
        ("argv", json!(["uptime"])),
        ("cwd", json!("tmp")),
        ("env", json!({"LD_PRELOAD": "/tmp/canary.so"})),
        ("env", json!({"A=B": "canary"})),
        ("env", json!({"A": 5})),
        ("user", json!("-x")),
        ("batch", json!(0)),
        ("batch", json!("0%")),
        ("batch", json!("canary")),
        ("timeout_s", json!(0)),
        ("stop_after_failures", json!(0)),
    ] {
        let mut params = json!({"argv": argv()});
        params[key] = value;
        let error = cluster.refusal("command_run", params);
        assert_eq!(error.field.as_deref(), Some(key));
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}

#[test]
fn one_failed_node_fails_the_job_and_every_result_is_there() {
    let mut cluster = Cluster::new();
    cluster.world.script("run-n12", Ok(record("run-n12", 12, "failed", "no\n")));
    let run = json!({"argv": argv()});
    let ended = cluster.exec("root", "command_run", run.clone());
    let ended = ended.ended(Failed, "1 of 3 nodes did not succeed: node 12: exit status 3");
    assert_eq!(
        (&ended.output["11"]["result"], &ended.output["12"]["status"]),
        (&json!("ok"), &json!(3))
    );
    assert_eq!(ended.output["12"]["output"], "no\n");
    let lost = JobError::Indeterminate("the node is gone".to_owned());
    cluster.world.script("run-n13", Err(lost));
    let ended = cluster.exec("root", "command_run", run);
    let ended = ended.ended(Indeterminate, "node 12: exit status 3; node 13: the node is gone");
    assert_eq!(ended.output["13"]["result"], "indeterminate");
}

#[test]
fn batches_stop_after_failures() {
    let failing = |cluster: &Cluster| {
        cluster.world.script("run-n11", Ok(record("run-n11", 11, "failed", "")));
    };
    for (batch, stop, asked) in [
        (json!(1), 1, vec!["run-n11"]),
        (json!("20%"), 1, vec!["run-n11"]),
        (json!(2), 1, vec!["run-n11", "run-n12"]),
        (json!(1), 2, vec!["run-n11", "run-n12", "run-n13"]),
        (json!("100%"), 1, vec!["run-n11", "run-n12", "run-n13"]),
    ] {
        let mut cluster = Cluster::new();
        failing(&cluster);
        let params = json!({"argv": argv(), "batch": batch, "stop_after_failures": stop});
        let ended = cluster.exec("root", "command_run", params).ended(Failed, "node 11");
        assert_eq!(cluster.world.keys_asked(), asked, "{batch} {stop}");
        assert_eq!(ended.output.as_object().unwrap().len(), 3);
        let not_run = asked.len() < 3;
        assert_eq!(ended.text.contains("not run on"), not_run, "{}", ended.text);
        assert_eq!(ended.output["13"]["result"] == "not_run", not_run);
    }
    let mut cluster = Cluster::new();
    cluster.world.script("run-n11", Err(JobError::Cancelled("cancelled by admin".to_owned())));
    let params = json!({"argv": argv(), "batch": 1});
    cluster.exec("root", "command_run", params).ended(Cancelled, "cancelled by admin");
    assert_eq!(cluster.world.keys_asked(), ["run-n11"]);
}

#[test]
fn a_service_is_told_after_it_was_started() {
    let mut cluster = Cluster::new();
    let params = json!({"service": "web", "nodes": 11});
    let ended = cluster.exec("root", "service_start", params.clone()).ok();
    assert_eq!(ended.output["11"]["active"], "active");
    let asked = cluster.world.take_asked();
    assert_eq!(asked[0].argv, ["systemctl", "start", "--", "web.service"]);
    assert!(asked.iter().all(|wish| wish.own && wish.timeout_s == 60));

    let unknown = "Id=web.service\nLoadState=not-found\nActiveState=inactive\n";
    cluster.world.script("start-n11", Ok(record("start-n11", 11, "failed", "not found")));
    cluster.world.script("state-n11", Ok(record("state-n11", 11, "ok", unknown)));
    let ended = cluster.exec("root", "service_start", params.clone());
    ended.ended(Failed, "there is no service web.service");
    let ended = cluster.exec("root", "service_state", params.clone());
    ended.ended(Failed, "there is no service web.service");

    let said = "Failed to start web.service: Access denied\nSee the logs.\n";
    let off = "Id=web.service\nLoadState=loaded\nActiveState=inactive\n";
    cluster.world.script("start-n11", Ok(record("start-n11", 11, "failed", said)));
    cluster.world.script("state-n11", Ok(record("state-n11", 11, "ok", off)));
    let ended = cluster.exec("root", "service_start", params.clone());
    let ended = ended.ended(Failed, "exit status 3: Failed to start web.service: Access denied");
    assert_eq!(ended.output["11"]["output"], said);

    let dead = "Id=web.service\nLoadState=loaded\nActiveState=failed\nExecMainStatus=1\n";
    cluster.world.script("start-n11", Ok(record("start-n11", 11, "ok", "")));
    cluster.world.script("state-n11", Ok(record("state-n11", 11, "ok", dead)));
    let ended = cluster.exec("root", "service_start", params.clone());
    let ended = ended.ended(Failed, "failed after it began");
    assert_eq!(ended.output["11"]["exit_status"], 1);
    cluster.exec("root", "service_stop", params).ok();
    let bad = cluster.refusal("service_stop", json!({"service": "--force"}));
    assert_eq!(bad.field.as_deref(), Some("service"));
    let listed = cluster.exec("root", "service_list", json!({"nodes": [12]})).ok().output;
    assert_eq!(listed["12"][0]["description"], "The service x");
}

#[test]
fn nothing_odd_reaches_journalctl() {
    let mut cluster = Cluster::new();
    let params = json!({"services": "web", "nodes": 11, "stop_time": "2026-11-20 04:00:00",
        "default_interval": "1h 30m", "error_level": "WARN", "identifier": "web"});
    let ended = cluster.exec("root", "log_collect", params).ok();
    assert_eq!(ended.output["11"]["lines"], json!(["done"]));
    let expected = [
        "journalctl",
        "--no-pager",
        "--quiet",
        "--output=short-iso",
        "--lines=5000",
        "--since=@1795141800",
        "--until=@1795147200",
        "--priority=warning",
        "--identifier=web",
        "--unit=web.service",
    ];
    assert_eq!(cluster.world.take_asked()[0].argv, expected);
    for (key, value) in [
        ("services", json!(["--root=/"])),
        ("services", json!([])),
        ("start_time", json!("yesterday; rm")),
        ("default_interval", json!("-1h")),
        ("error_level", json!("--x")),
        ("identifier", json!("--x")),
        ("tag", json!("mine")),
    ] {
        let mut params = json!({"services": ["web"]});
        params[key] = value;
        assert_eq!(cluster.refusal("log_collect", params).field.as_deref(), Some(key));
    }
}

#[test]
fn locks_in_doubt_are_listed_and_let_go() {
    let mut cluster = Cluster::new();
    let locks = vec![Lock::write("services/web.service")];
    cluster.state.locks_held.take(&locks);
    let doubt = Doubt {
        job: "11.1".to_owned(),
        locks,
        commands: vec![("start-n11".into(), 11)],
        since: Time(0),
        record_from: 0,
        gone: Vec::new(),
    };
    let without = Doubt { job: "11.3".to_owned(), locks: Vec::new(), ..doubt.clone() };
    cluster.state.doubts.insert(1, doubt);
    cluster.state.doubts.insert(3, without);
    cluster.state.last_job = 3;
    let listed = cluster.exec("root", "lock_list", json!({})).ok().output;
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "a doubt without locks holds none");
    assert_eq!(
        (&listed[0]["state"], &listed[0]["locks"]),
        (&json!("in_doubt"), &json!(["write services/web.service"]))
    );
    let params = json!({"job_id": "11.2", "reason": "gone"});
    cluster.exec("root", "lock_release", params).ended(Failed, "11.2 is not in doubt");
    let empty = cluster.refusal("lock_release", json!({"job_id": "11.1", "reason": " "}));
    assert_eq!(empty.field.as_deref(), Some("reason"));
    let params = json!({"job_id": "11.1", "reason": "reinstalled"});
    cluster.exec("root", "lock_release", params).ok();
    assert!(cluster.state.locks_held.is_empty());
    assert_eq!(cluster.state.doubts.len(), 1, "the other one still waits for its evidence");
    let params = json!({"job_id": "11.3", "reason": "nobody asks for it any more"});
    let released = cluster.exec("root", "lock_release", params).ok().output;
    assert_eq!((&released["locks"], cluster.state.doubts.len()), (&json!([]), 0));
}

#[test]
fn the_cluster_and_its_nodes_are_told() {
    let mut cluster = Cluster::new();
    let info = cluster.exec("root", "cluster_info", json!({})).ok().output;
    assert_eq!((&info["master"], &info["members"]), (&json!(11), &json!({"11": "voter"})));
    assert_eq!(info["versions"]["11"], "0.1.0");
    let one = cluster.exec("root", "node_info", json!({"nid": "n12"})).ok().output;
    assert_eq!((&one["applied"], &one["name"]), (&json!(112), &json!("n12")));
    let two = cluster.exec("root", "node_info", json!({"nid": [11, "n13"]})).ok().output;
    assert_eq!((&two["11"]["master"], &two["13"]["state"]), (&json!(true), &json!("offline")));
    assert_eq!(cluster.exec("root", "db_list", json!({})).ok().output, json!([]));
}
