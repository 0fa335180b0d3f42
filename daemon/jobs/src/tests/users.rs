//! Users, groups, rights.

use super::cluster::Cluster;
use super::world::hex;
use crate::{USER_INIT, find};
use serde_json::json;
use tiebeam_core::proposal::Needs;
use tiebeam_proto::Outcome::{Declined, Failed, Ok as Well};

/// The fake world derives this secret's hash for alice.
const SECRET: &str = "user_init of alice";

fn init(cluster: &mut Cluster, secret: &str) -> super::cluster::Ended {
    let params = json!({"name": "alice", "one_time_secret": secret, "password": "p1"});
    cluster.exec_job("alice", &USER_INIT, params)
}

#[test]
fn a_user_s_life() {
    let mut cluster = Cluster::new();
    let params = json!({"username": "alice", "userid": 1001, "group": 500,
        "additional_groups": "monitor,490"});
    let made = cluster.exec("admin", "user_create", params.clone()).ok();
    assert_eq!(made.output["one_time_secret"], json!({"secret": "withheld"}));
    assert_eq!(made.output["expires"], "2027-01-18T08:00:00.000000Z");
    assert_eq!(cluster.value("users/alice/additional_groups"), Some(json!(["monitor"])));
    let credential = cluster.state.credentials.get("alice").unwrap().clone();
    assert_eq!((credential.hash, credential.one_time.unwrap().0), (None, hex(SECRET)));
    let again = cluster.exec("admin", "user_create", params);
    again.ended(Failed, "alice exists already; user_modify");

    init(&mut cluster, "guess").ended(Declined, "wrong, used or too old");
    let before = cluster.state.credential_revision("alice");
    init(&mut cluster, SECRET).ok();
    assert_ne!(cluster.state.credential_revision("alice"), before, "old tokens must end");
    init(&mut cluster, SECRET).ended(Declined, "wrong, used or too old");

    let mine = json!({"username": "alice", "password": "p2"});
    cluster.exec("alice", "user_passwd", mine.clone()).ok();
    assert_eq!(cluster.value("users/alice/credential"), Some(json!(2)));
    let info = cluster.exec("alice", "user_info", json!({"username": "alice"})).ok().output;
    assert_eq!((&info["has_password"], &info["id"]), (&json!(true), &json!(1001)));
    assert_eq!(info.get("credential"), None);
    let other = cluster.exec("alice", "user_info", json!({"username": "admin"}));
    other.ended(Declined, "alice may not");
    let other = json!({"username": "admin", "password": "x"});
    cluster.exec("alice", "user_passwd", other).ended(Declined, "alice may not");

    let out = json!({"username": "alice", "login_enabled": false});
    assert_eq!(cluster.exec("admin", "user_modify", out).ok().change.len(), 1);
    cluster.exec("alice", "user_passwd", mine).ended(Declined, "disabled");
    cluster.exec("admin", "user_delete", json!({"username": "alice"})).ok();
    assert_eq!(cluster.state.credentials.get("alice"), None);
    let gone = cluster.exec("admin", "user_delete", json!({"username": "alice"}));
    gone.ended(Failed, "there is no user alice");
}

#[test]
fn a_one_time_secret_ends() {
    let mut cluster = Cluster::new();
    let params = json!({"username": "alice", "userid": 1001, "group": "exausers"});
    cluster.exec("admin", "user_create", params).ok();
    cluster.state.clock_us += 72 * 3600 * 1_000_000;
    init(&mut cluster, SECRET).ended(Declined, "too old");
}

#[test]
fn what_is_wrong_with_a_new_user_is_named() {
    let mut cluster = Cluster::furnished();
    let params = |group: &str, id: i64| json!({"username": "bob", "userid": id, "group": group});
    for (params, text) in [
        (params("nobody", 1002), "there is no group \"nobody\"; group_list"),
        (params("77", 1002), "there is no group \"77\""),
        (params("exausers", 1001), "the user id 1001 belongs to alice"),
    ] {
        cluster.exec("root", "user_create", params).ended(Failed, text);
    }
    let bad = json!({"username": "bob", "userid": -1, "group": 500});
    assert_eq!(cluster.refusal("user_create", bad).field.as_deref(), Some("userid"));
    let plain = json!({"username": "bob", "userid": 1002, "group": 500, "password": "clear",
        "encode_passwd": false});
    cluster.exec("root", "user_create", plain).ended(Failed, "no password hash");
    let hash = json!({"username": "bob", "userid": 1002, "group": 500, "password": "$6$salt$x",
        "encode_passwd": false});
    cluster.exec("root", "user_create", hash).ok();
    let kept = cluster.state.credentials.get("bob").and_then(|c| c.hash.clone());
    assert_eq!(kept.as_deref(), Some("$6$salt$x"));
    let none = json!({"username": "carol", "userid": 1003, "group": 500, "password": "*"});
    assert_eq!(cluster.exec("root", "user_create", none).ok().output, json!(null));
    assert_eq!(cluster.state.credentials.get("carol"), None);
    let nothing = cluster.refusal("user_modify", json!({"username": "bob"}));
    assert!(nothing.hint.unwrap().contains("login_enabled"));
}

/// Two administrators take each other away at the same time: whatever comes first, one stays.
#[test]
fn the_last_administrator_stays() {
    let modify = |name: &str| {
        let away = json!({"username": name, "group": "exausers", "additional_groups": []});
        [
            ("user_delete", json!({"username": name})),
            ("user_modify", json!({"username": name, "login_enabled": false})),
            ("user_modify", away),
        ]
    };
    for first in modify("admin") {
        for second in modify("bob") {
            for swapped in [false, true] {
                let mut cluster = Cluster::new();
                let bob = json!({"username": "bob", "userid": 1002, "group": "exaadm",
                    "password": "x"});
                cluster.exec("admin", "user_create", bob).ok();
                let prepare = |cluster: &Cluster, (job, params): &(&str, serde_json::Value)| {
                    cluster.prepare("root", find(job).unwrap(), params.clone()).unwrap()
                };
                let (one, two) = (prepare(&cluster, &first), prepare(&cluster, &second));
                let (one, two) = if swapped { (two, one) } else { (one, two) };
                assert_eq!(cluster.apply(one).unwrap().outcome, Well);
                cluster.apply(two).unwrap().ended(Declined, "the last user who can administer");
            }
        }
    }
    let mut alone = Cluster::new();
    let out = json!({"username": "admin", "login_enabled": false});
    alone.exec("root", "user_modify", out).ended(Declined, "the last user who can administer");
}

#[test]
fn an_administrator_does_not_become_root() {
    let mut cluster = Cluster::new();
    let password = json!({"username": "root", "password": "x"});
    let keys = json!({"username": "root", "authorized_keys": ["ssh-ed25519 x"]});
    cluster.exec("admin", "user_passwd", password.clone()).ended(Declined, "only root");
    cluster.exec("admin", "user_modify", keys).ended(Declined, "only root");
    cluster.exec("admin", "user_delete", json!({"username": "root"})).ended(Declined, "built in");
    cluster.exec("root", "user_passwd", password).ok();
}

#[test]
fn groups_in_use_and_built_in_ones_stay() {
    let mut cluster = Cluster::furnished();
    let taken = json!({"groupname": "more", "groupid": 499});
    cluster.exec("root", "group_create", taken).ended(Failed, "499 belongs to exaadm");
    let join = json!({"username": "alice", "additional_groups": ["operators"]});
    cluster.exec("root", "user_modify", join).ok();
    let delete = json!({"groupname": "operators"});
    cluster.exec("root", "group_delete", delete.clone()).ended(Failed, "in use by alice");
    let info = cluster.exec("root", "group_info", delete.clone()).output;
    assert_eq!(info, json!({"name": "operators", "id": 2001, "users": ["alice"]}));
    let leave = json!({"username": "alice", "additional_groups": []});
    cluster.exec("root", "user_modify", leave).ok();
    cluster.exec("root", "group_delete", delete).ok();
    cluster.exec("root", "group_delete", json!({"groupid": 490})).ended(Failed, "built in");
    let list = cluster.exec("root", "group_list", json!({})).output;
    assert_eq!(list["exaadm"], json!({"id": 499}));
}

#[test]
fn a_right_is_checked_as_a_call_is() {
    let mut cluster = Cluster::furnished();
    let mut ask = |user: &str, params| cluster.exec(user, "right_check", params);
    let allowed = ask("admin", json!({"job": "config_set"})).ok().output;
    assert_eq!(allowed, json!({"allowed": true, "rule": "group exaadm is allowed"}));
    let about = json!({"job": "user_passwd", "username": "alice", "params": {"username": "alice"}});
    assert_eq!(ask("admin", about.clone()).output["rule"], "it is about the caller");
    let denied = ask("alice", json!({"job": "config_set"})).ok().output;
    assert_eq!(denied["allowed"], false);
    assert!(denied["why"].as_str().unwrap().contains("group exaadm"));
    let other = json!({"job": "config_set", "username": "admin"});
    ask("alice", other).ended(Declined, "about others");
    let unknown = cluster.refusal("right_check", json!({"job": "nonsense"}));
    assert_eq!(unknown.field.as_deref(), Some("job"));
    let expected = Needs {
        users: vec!["root".into()],
        self_user: Some("alice".into()),
        groups: vec!["root".into(), "exaadm".into()],
        everyone: false,
    };
    let passwd = &find("user_passwd").unwrap().declaration;
    assert_eq!(crate::needs(passwd, about["params"].as_object().unwrap()), expected);
}
