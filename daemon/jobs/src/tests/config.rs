//! The configuration's jobs: values, secrets, schemas, settings, history.

use super::cluster::{Cluster, p};
use serde_json::{Value, json};
use tiebeam_core::admit::check_params;
use tiebeam_core::tree::{sealed_digest, sealed_text};
use tiebeam_proto::Outcome::{Conflict, Declined, Failed, Timeout};

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "port": {"type": "integer"},
        "db": {"type": "object", "properties": {"password": {"type": "string", "secret": true}}},
    }})
}

fn with_secret() -> Cluster {
    let mut cluster = Cluster::new();
    let params = json!({"path": "app/web", "schema": schema()});
    cluster.exec("admin", "config_schema_set", params).ok();
    let value = json!({"port": 1, "db": {"password": "canary", "host": "h"}});
    cluster.exec("admin", "config_set", json!({"path": "app/web", "value": value})).ok();
    cluster
}

fn stored(cluster: &Cluster, path: &str) -> Value {
    cluster.state.config.get(&p(path)).unwrap().to_sealed_value()
}

#[test]
fn a_secret_is_sealed_concealed_and_kept() {
    let mut cluster = with_secret();
    let place = "app/web/db/password";
    let first = stored(&cluster, place);
    assert!(sealed_text(&first).is_some());
    assert!(!serde_json::to_string(&cluster.state).unwrap().contains("canary"));
    let shown = cluster.exec("admin", "config_get", json!({"path": "app/web"})).ok().output;
    assert_eq!(shown["db"]["password"], json!({"secret": sealed_digest(&first).unwrap()}));

    for (value, marked) in [(json!({"db": {"password": "x"}}), true), (json!({"port": 2}), false)] {
        for job in ["config_set", "config_merge"] {
            let d = &crate::find(job).unwrap().declaration;
            let given = json!({"path": "app/web", "value": value});
            let params = check_params(d, given.as_object().unwrap()).unwrap();
            assert_eq!((d.conceal)(&cluster.state, &params).contains(&"value"), marked, "{job}");
        }
    }

    let merge = json!({"path": "app", "value": {"web": {"port": 2, "db": {"host": null}}}});
    let ended = cluster.exec("admin", "config_merge", merge).ok();
    assert_eq!(ended.output.as_array().unwrap().len(), 2);
    assert_eq!(stored(&cluster, place), first);
    assert_eq!(cluster.value("app/web/db/host"), None);

    let back = json!({"path": "app/web", "value": cluster.value("app/web").unwrap()});
    assert_eq!(cluster.exec("admin", "config_set", back.clone()).ok().revision, None);
    cluster.exec("admin", "config_merge", back).ok();
    assert_eq!(stored(&cluster, place), first);
    let other = json!({"path": place, "value": {"secret": "sha256:00"}});
    cluster.exec("admin", "config_set", other).ended(Failed, "commitment of another secret");

    let new = json!({"path": "app/web", "value": {"db": {"password": "canary2"}}});
    cluster.exec("admin", "config_merge", new).ok();
    assert_ne!(stored(&cluster, place), first);
    let removed = json!({"path": "app/web", "value": {"db": {"password": null}}});
    cluster.exec("admin", "config_merge", removed).ok();
    assert_eq!(cluster.value("app/web"), Some(json!({"port": 2, "db": {}})));
}

#[test]
fn a_secret_of_the_wrong_type_is_declined_before_it_is_sealed() {
    let mut cluster = with_secret();
    let first = stored(&cluster, "app/web/db/password");
    for (job, path, value) in [
        ("config_set", "app/web/db/password", json!(4_711)),
        ("config_set", "app/web", json!({"port": 1, "db": {"password": ["canary3"]}})),
        ("config_set", "app", json!({"web": {"db": {"password": {"canary3": 1}}}})),
        ("config_merge", "app/web", json!({"db": {"password": 4_711}})),
        ("config_merge", "app/web/db", json!({"password": true})),
    ] {
        let ended = cluster.exec("admin", job, json!({"path": path, "value": value}));
        let ended = ended.ended(Declined, "app/web/db/password: the secret does not pass");
        assert!(!ended.text.contains("canary3") && !ended.text.contains("4711"), "{}", ended.text);
        assert_eq!(stored(&cluster, "app/web/db/password"), first);
    }
    let wrong = json!({"properties": {"pin": {"secret": true, "type": "nonsense"}}});
    let params = json!({"path": "app/web", "schema": wrong});
    cluster.exec("admin", "config_schema_set", params).ended(Failed, "not a valid JSON Schema");
}

#[test]
fn a_merge_is_no_way_around_names_and_limits() {
    let mut cluster = Cluster::furnished();
    for value in [json!({"": 1}), json!({"web": {"": 1}}), json!({"a\nb": 1})] {
        let params = json!({"path": "app", "value": value});
        cluster.exec("root", "config_merge", params).ended(Failed, "below app");
    }
    let reserved = json!({"path": "app", "value": {"x": {"$sealed": ["a", "b"]}}});
    cluster.exec("root", "config_merge", reserved).ended(Failed, "reserved");
    let long = "x".repeat(600);
    let deep = json!({"path": "app", "value": {&long: {&long: {"y": 1}}}});
    cluster.exec("root", "config_set", deep).ok();
    let deeper = json!({"path": "app", "value": {&long: {&long: {"y": 2}}}});
    cluster.exec("root", "config_merge", deeper).ended(Failed, "cannot be used");
    for job in ["config_set", "config_merge", "config_delete", "config_schema_set"] {
        let mut params = json!({"path": "users/alice", "value": {}, "schema": {}});
        let d = &crate::find(job).unwrap().declaration;
        params.as_object_mut().unwrap().retain(|name, _| d.param(name).is_some());
        let error = cluster.refusal(job, params);
        assert_eq!(error.code, tiebeam_proto::ErrorCode::Forbidden);
        assert!(error.hint.unwrap().contains("user_modify"));
    }
}

#[test]
fn an_expected_revision_is_compared() {
    let mut cluster = Cluster::furnished();
    let at = cluster.state.config.revision_at(&p("app/web")).unwrap();
    let params = |revision: u64| json!({"path": "app/web", "expect_revision": revision});
    cluster.exec("root", "config_delete", params(at + 1)).ended(Conflict, "was in revision");
    cluster.exec("root", "config_delete", params(at)).ok();
    let ended = cluster.exec("root", "config_delete", params(0)).ok();
    assert_eq!((ended.revision, ended.warnings.len()), (None, 1));
    cluster.exec("root", "config_delete", json!({"path": "app"})).ok();
    assert_eq!(cluster.value("app"), Some(json!({})));
}

#[test]
fn a_schema_is_checked_before_it_is_kept() {
    let mut cluster = Cluster::furnished();
    let mut set = |schema: Value| {
        let params = json!({"path": "app/web", "schema": schema});
        cluster.exec("root", "config_schema_set", params)
    };
    set(json!({"type": "nonsense"})).ended(Failed, "not a valid JSON Schema");
    set(json!({"properties": {"port": {"type": "string"}}})).ended(Declined, "app/web/port");
    let marked = json!({"properties": {"port": {"secret": true}}});
    set(marked).ended(Failed, "app/web/port holds a value in clear");
    let hidden = json!({"items": {"secret": true}});
    set(hidden).ended(Failed, "below `properties`");
    set(json!({"allOf": [{"properties": {"x": {"writeOnly": true}}}]})).ended(Failed, "below");
    set(json!({"properties": {"port": {"type": "integer"}}})).ok();
    let bad = json!({"path": "app/web/port", "value": "canary"});
    let declined = cluster.exec("root", "config_set", bad.clone());
    assert!(!declined.text.contains("canary"));
    declined.ended(Declined, "app/web/port");
    let gone = json!({"path": "app/web", "schema": null});
    cluster.exec("root", "config_schema_set", gone.clone()).ok();
    assert_eq!(cluster.exec("root", "config_schema_set", gone).ok().warnings.len(), 1);
    cluster.exec("root", "config_set", bad).ok();
}

#[test]
fn settings_are_typed_and_named() {
    let mut cluster = Cluster::new();
    for (changes, field) in [
        (json!({"jobs": {"nonsense": 1}}), "changes.jobs.nonsense"),
        (json!({"nonsense": {"x": 1}}), "changes.nonsense.x"),
        (json!({"jobs": {"commit_wait_ms": "canary"}}), "changes.jobs.commit_wait_ms"),
        (json!({"jobs": {"commit_wait_ms": 1, "deadline_s": 0}}), "changes.jobs.deadline_s"),
        (json!({"ssl": {"cert_verify": "canary"}}), "changes.ssl.cert_verify"),
        (json!({"jobs": 5}), "changes.jobs"),
        (json!({}), "changes"),
    ] {
        let error = cluster.refusal("general_settings", json!({"changes": changes}));
        assert_eq!(error.field.as_deref(), Some(field));
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    let set =
        json!({"changes": {"jobs": {"commit_wait_ms": 5}, "ssl": {"cert_verify": "optional"}}});
    assert_eq!(cluster.exec("admin", "general_settings", set).ok().change.len(), 2);
    let list = json!({"sections": ["jobs"]});
    let listed = cluster.exec("admin", "settings_list", list.clone()).ok().output;
    assert_eq!(listed["jobs"]["commit_wait_ms"]["value"], 5);
    assert_eq!(listed.get("ssl"), None);
    let reset = json!({"changes": {"jobs": {"commit_wait_ms": null}}});
    cluster.exec("admin", "general_settings", reset).ok();
    let listed = cluster.exec("admin", "settings_list", list).ok().output;
    assert_eq!(listed["jobs"]["commit_wait_ms"]["value"], 1000);
    let wrong = cluster.refusal("settings_list", json!({"sections": ["nonsense"]}));
    assert_eq!(wrong.field.as_deref(), Some("sections"));
}

#[test]
fn the_past_can_be_read() {
    let mut cluster = Cluster::furnished();
    let newest = cluster.state.revision;
    let mut ask = |job: &str, params| cluster.exec("root", job, params);
    let old = ask("config_get", json!({"path": "app/count", "revision": 10})).ok().output;
    assert_eq!(old, 10);
    ask("config_get", json!({"path": "app/nothing"})).ended(Failed, "nothing at app/nothing");
    ask("config_get", json!({"revision": newest + 1})).ended(Failed, "the newest is");
    let diff = ask("config_diff", json!({"from": 10, "to": 12})).ok().output;
    let expected = json!([{"op": "replace", "path": "app/count", "old": 10, "value": 12}]);
    assert_eq!(diff, expected);

    let log = ask("config_log", json!({"path": "users", "limit": 5})).ok().output;
    let names: Vec<&str> =
        log.as_array().unwrap().iter().flat_map(|l| l["name"].as_str()).collect();
    assert_eq!(names, ["user_create", "init"]);
    assert_eq!((&log[0]["summary"], &log[1]["revision"]), (&json!("add users/alice"), &json!(1)));
    let since = ask("config_log", json!({"since": newest - 1})).ok().output;
    assert_eq!(since.as_array().unwrap().len(), 2);
    assert_eq!(since[0]["revision"], newest);
    let future = ask("config_log", json!({"since": "2030-01-01T00:00:00Z"})).ok().output;
    assert_eq!(future, json!([]));
    let all = ask("config_log", json!({"limit": 1000})).ok().output;
    assert_eq!(all.as_array().unwrap().len() as u64, newest);

    let whole = ask("config_blame", json!({"path": ""})).ok().output;
    assert!(whole.get("users/admin/id").is_some(), "{whole}");
    let blame = ask("config_blame", json!({"path": "app"})).ok().output;
    assert_eq!(blame["app/count"]["revision"], newest);
    assert_eq!(blame["app/web/port"]["user"], "root");
    let first = ask("config_blame", json!({"path": "users/admin/id"})).ok().output;
    assert_eq!(first["users/admin/id"], json!({"revision": 1, "job": "", "user": "root"}));
}

#[test]
fn a_diff_does_not_take_a_sealed_secret_for_a_change() {
    let mut cluster = with_secret();
    let from = cluster.state.revision;
    cluster.exec("admin", "config_set", json!({"path": "app/x", "value": 1})).ok();
    let diff = cluster.exec("admin", "config_diff", json!({"from": from})).ok().output;
    assert_eq!(diff, json!([{"op": "add", "path": "app/x", "value": 1}]));
    let new = json!({"path": "app/web/db/password", "value": "other"});
    cluster.exec("admin", "config_set", new).ok();
    let diff = cluster.exec("admin", "config_diff", json!({"from": from + 1})).ok().output;
    assert_eq!(diff[0]["path"], "app/web/db/password");
}

#[test]
fn a_wait_names_who_has_not_published() {
    let mut cluster = Cluster::new();
    let params = json!({"revision": 1, "nodes": ["all"]});
    let all = cluster.exec("root", "config_wait", params.clone()).ok().output;
    assert_eq!(all, json!({"published": [11, 12, 13], "pending": []}));
    cluster.world.silent.lock().unwrap().push(12);
    let ended = cluster.exec("root", "config_wait", params).ended(Timeout, "by node 12");
    assert_eq!(ended.output["pending"], json!([12]));
}

#[test]
fn a_certificate_is_checked_and_its_key_sealed() {
    let mut cluster = Cluster::new();
    let params = json!({"key": "canary\n", "cert": "CERT\n", "ca": "CA\n"});
    let ended = cluster.exec("admin", "cert_update", params).ok();
    assert_eq!((ended.output, ended.warnings.len()), (json!({"subject": "CN=x"}), 1));
    assert_eq!(cluster.value("ssl/certificate"), Some(json!("CERT\n")));
    assert!(!serde_json::to_string(&cluster.state).unwrap().contains("canary"));
    let params = json!({"key": "other\n", "cert": "CERT2\n"});
    cluster.exec("admin", "cert_update", params).ok();
    assert_eq!(cluster.value("ssl/authority"), None);
}
