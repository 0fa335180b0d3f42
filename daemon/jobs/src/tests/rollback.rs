//! What a rollback brings back, and what it never does (ruling 29, invariant 22).

use super::cluster::{Cluster, p};
use serde_json::{Value, json};
use tiebeam_core::tree::sealed_digest;
use tiebeam_proto::Outcome::Declined;

fn back(cluster: &mut Cluster, revision: u64, path: &str) -> super::cluster::Ended {
    let params = json!({"revision": revision, "path": path});
    cluster.exec("admin", "config_rollback", params)
}

fn stored(cluster: &Cluster, path: &str) -> Option<Value> {
    cluster.state.config.get(&p(path)).map(|node| node.to_sealed_value())
}

#[test]
fn a_part_comes_back_and_the_rest_stays() {
    let mut cluster = Cluster::furnished();
    let then = cluster.state.revision;
    let hash = cluster.state.config.hash();
    let change = json!({"path": "app/web", "value": {"port": 1}});
    cluster.exec("admin", "config_set", change).ok();
    cluster.exec("admin", "config_set", json!({"path": "app/count", "value": 99})).ok();
    let ended = back(&mut cluster, then, "app/web").ok();
    assert_eq!(ended.change.len(), 2);
    assert_eq!(cluster.value("app/web"), Some(json!({"port": 80, "debug": true})));
    assert_eq!(cluster.value("app/count"), Some(json!(99)));
    back(&mut cluster, then, "").ok();
    assert_eq!(cluster.state.config.hash(), hash);
    assert_eq!(back(&mut cluster, then, "").ok().revision, None);
    back(&mut cluster, 1, "app").ok();
    assert_eq!(cluster.value("app"), Some(json!({})));
}

#[test]
fn nobody_who_is_out_comes_in_again() {
    let mut cluster = Cluster::furnished();
    let keys = json!({"username": "alice", "authorized_keys": ["k1", "k2"]});
    cluster.exec("admin", "user_modify", keys).ok();
    let password = json!({"username": "alice", "password": "old"});
    cluster.exec("alice", "user_passwd", password).ok();
    let then = cluster.state.revision;

    let out = json!({"username": "alice", "login_enabled": false, "group": "monitor",
        "authorized_keys": ["k2", "k3"]});
    cluster.exec("admin", "user_modify", out).ok();
    let newer = json!({"username": "alice", "password": "new"});
    cluster.exec("admin", "user_passwd", newer).ok();
    let hash = cluster.state.credentials.get("alice").cloned();
    let ended = back(&mut cluster, then, "users").ok();
    assert_eq!(ended.warnings.len(), 2, "{:?}", ended.warnings);
    let alice = cluster.value("users/alice").unwrap();
    assert_eq!((&alice["group"], &alice["login_enabled"]), (&json!("exausers"), &json!(false)));
    assert_eq!((&alice["authorized_keys"], &alice["credential"]), (&json!(["k2"]), &json!(2)));
    assert_eq!(cluster.state.credentials.get("alice").cloned(), hash);

    cluster.exec("admin", "user_delete", json!({"username": "alice"})).ok();
    let ended = back(&mut cluster, then, "users/alice").ok();
    assert!(ended.warnings[0].contains("without password, keys and login"));
    let alice = cluster.value("users/alice").unwrap();
    assert_eq!((&alice["login_enabled"], &alice["authorized_keys"]), (&json!(false), &json!([])));
    assert_eq!(cluster.state.credentials.get("alice"), None);

    back(&mut cluster, 1, "users").ok();
    assert_eq!(cluster.value("users/alice"), None);
}

#[test]
fn another_user_of_the_same_name_and_root_stay() {
    let mut cluster = Cluster::furnished();
    let then = cluster.state.revision;
    cluster.exec("admin", "user_delete", json!({"username": "alice"})).ok();
    let other = json!({"username": "alice", "userid": 7000, "group": "monitor", "password": "x"});
    cluster.exec("admin", "user_create", other).ok();
    let keys = json!({"username": "root", "authorized_keys": ["k"]});
    cluster.exec("root", "user_modify", keys).ok();
    let ended = back(&mut cluster, then, "users").ok();
    assert_eq!(ended.revision, None);
    assert!(ended.warnings.iter().any(|line| line.contains("another user now")));
    assert!(ended.warnings.iter().any(|line| line.contains("only root changes root")));
}

#[test]
fn the_last_administrator_survives_a_rollback() {
    let mut cluster = Cluster::new();
    let bob = json!({"username": "bob", "userid": 1002, "group": "exaadm", "password": "x"});
    cluster.exec("admin", "user_create", bob).ok();
    cluster.exec("bob", "user_delete", json!({"username": "admin"})).ok();
    let params = json!({"revision": 1});
    let ended = cluster.exec("bob", "config_rollback", params);
    ended.ended(Declined, "the last user who can administer");
}

#[test]
fn secrets_stay_those_of_now() {
    let mut cluster = Cluster::new();
    let schema = json!({"additionalProperties": {"properties": {"pw": {"secret": true}}}});
    let params = json!({"path": "app", "schema": schema});
    cluster.exec("admin", "config_schema_set", params).ok();
    for (path, value) in [("app/a", json!({"pw": "a1", "n": 1})), ("app/b", json!({"pw": "b1"}))] {
        cluster.exec("admin", "config_set", json!({"path": path, "value": value})).ok();
    }
    let then = cluster.state.revision;
    let change = json!({"path": "app", "value": {"a": {"pw": "a2", "n": 2}, "b": null}});
    cluster.exec("admin", "config_merge", change).ok();
    let now = stored(&cluster, "app/a/pw").unwrap();
    let ended = back(&mut cluster, then, "").ok();
    assert_eq!(stored(&cluster, "app/a/pw").unwrap(), now);
    assert_eq!(stored(&cluster, "app/b"), Some(json!({})));
    assert_eq!(cluster.value("app/a/n"), Some(json!(1)));
    let named: Vec<&str> = ended.warnings.iter().flat_map(|line| line.split(": ").nth(1)).collect();
    assert_eq!(named, ["app/a/pw", "app/b/pw"]);
}

#[test]
fn what_was_in_clear_then_and_is_secret_now_stays_away() {
    let mut cluster = Cluster::new();
    let clear = json!({"path": "app/web", "value": {"pw": "canary", "port": 1}});
    cluster.exec("admin", "config_set", clear).ok();
    let then = cluster.state.revision;
    cluster.exec("admin", "config_delete", json!({"path": "app/web"})).ok();
    let schema = json!({"properties": {"pw": {"secret": true}}});
    let params = json!({"path": "app/web", "schema": schema});
    cluster.exec("admin", "config_schema_set", params).ok();
    let ended = back(&mut cluster, then, "app").ok();
    assert_eq!(cluster.value("app/web"), Some(json!({"port": 1})));
    assert!(ended.warnings[0].contains("app/web/pw"), "{:?}", ended.warnings);
    back(&mut cluster, then, "").ok();
    assert_eq!(cluster.value("schemas/app~1web"), None);
}

#[test]
fn nodes_certificates_and_parts_of_users_are_refused_by_name() {
    let cluster = Cluster::furnished();
    for path in ["nodes", "nodes/11/address", "cluster", "ssl/key", "users/alice/group", "x"] {
        let error = cluster.refusal("config_rollback", json!({"revision": 2, "path": path}));
        assert_eq!(error.field.as_deref(), Some("path"), "{path}");
        assert!(error.hint.is_some(), "{path}");
    }
}

#[test]
fn a_key_is_not_brought_back_and_its_certificate_neither() {
    let mut cluster = Cluster::new();
    let offer = |n: u32| json!({"key": format!("key{n}"), "cert": format!("cert{n}")});
    cluster.exec("admin", "cert_update", offer(1)).ok();
    let then = cluster.state.revision;
    cluster.exec("admin", "cert_update", offer(2)).ok();
    let key = stored(&cluster, "ssl/key").unwrap();
    assert!(sealed_digest(&key).is_some());
    let ended = back(&mut cluster, then, "ssl").ok();
    assert_eq!((ended.revision, ended.warnings.len()), (None, 1));
    assert_eq!(stored(&cluster, "ssl/key"), Some(key));
    back(&mut cluster, 1, "ssl").ok();
    assert_eq!(cluster.value("ssl"), None);
}

/// Whoever could roll back but not use a section's jobs would get around rights.
#[test]
fn a_section_is_touched_only_by_who_may_use_its_jobs() {
    let cluster = Cluster::furnished();
    let job = crate::find("config_rollback").unwrap();
    let plan = |params: Value| cluster.plan("alice", job, params, false);
    let declined = plan(json!({"revision": 5, "path": "app/count"}));
    assert_eq!(declined.outcome, Declined);
    let whole = plan(json!({"revision": 1}));
    assert!(whole.writes.is_empty());
    assert_eq!(whole.warnings.len(), 6, "{:?}", whole.warnings);
}

#[test]
fn a_plan_that_read_what_changed_is_stale() {
    let mut cluster = Cluster::furnished();
    let then = cluster.state.revision - 3;
    let job = crate::find("config_rollback").unwrap();
    let params = json!({"revision": then, "path": "app"});
    let pending = cluster.prepare("admin", job, params).unwrap();
    cluster.exec("admin", "config_set", json!({"path": "app/other", "value": 1})).ok();
    assert!(cluster.apply(pending).is_none(), "the plan saw another app");
}
