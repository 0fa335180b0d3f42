//! Members: tokens, seats, labels, the master's place.

use super::cluster::{Cluster, Ended};
use crate::{NODE_JOIN, find};
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;
use tiebeam_core::member::MemberChange;
use tiebeam_core::proposal::Plan;
use tiebeam_core::state::Member;
use tiebeam_proto::Outcome::{self, Declined, Failed, Ok as Well, Timeout};

/// Three voters, all of which answer.
fn three() -> Cluster {
    let mut cluster = Cluster::furnished();
    for node in [11_u32, 12, 13] {
        let member = Member {
            raft_id: u64::from(node) << 16 | 1,
            key_hash: format!("key of {node}"),
            voter: true,
            joining: false,
            since: 0,
        };
        cluster.state.members.insert(node, member);
    }
    cluster.world.all_online.store(true, Relaxed);
    cluster
}

/// The same, of which node 11 alone is a member.
fn alone() -> Cluster {
    let mut cluster = three();
    cluster.state.members = [(11_u32, cluster.state.members[&11].clone())].into_iter().collect();
    cluster
}

/// What a new job comes to.
fn plan(cluster: &Cluster, name: &str, params: Value) -> Plan {
    cluster.world.recorded.lock().unwrap().clear();
    cluster.plan("root", find(name).unwrap(), params, false)
}

#[track_caller]
fn ended(plan: &Plan, outcome: Outcome, text: &str) {
    assert_eq!(plan.outcome, outcome, "{plan:?}");
    let why = plan.error.clone().unwrap_or_default();
    assert!(why.contains(text), "{why} does not say {text:?}");
    assert!(plan.outcome == Well || plan.writes.is_empty() && plan.member.is_none());
}

fn token(cluster: &mut Cluster, params: Value) -> Ended {
    cluster.exec("admin", "node_token", params).ok()
}

/// A node with this key presents the newest token.
fn join(cluster: &Cluster, key: &str, more: Value) -> Plan {
    let id = cluster.state.join_tokens.keys().next().unwrap().to_string();
    let mut params = json!({"name": "n14", "address": "127.0.0.14:20003", "token_id": id,
        "key_hash": key});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cluster.plan("admin", &NODE_JOIN, params, false)
}

/// What apply does with a plan that changes a member.
fn seat(cluster: &mut Cluster, plan: &Plan) {
    let change = plan.member.as_ref().expect("it changes a member");
    assert!(cluster.state.can_change(change), "{change:?}");
    let seats = &mut cluster.state.members;
    match change.clone() {
        MemberChange::Add { node, raft_id, key_hash } => {
            let member = Member { raft_id, key_hash, voter: false, joining: false, since: 9 };
            seats.insert(node, member);
        }
        MemberChange::Promote { node, .. } => seats.get_mut(&node).unwrap().voter = true,
        MemberChange::Demote { node, .. } => seats.get_mut(&node).unwrap().voter = false,
        MemberChange::Remove { node, .. } => drop(seats.remove(&node)),
    }
    cluster.state.config = {
        let mut config = cluster.state.config.clone();
        for write in &plan.writes {
            config = match write {
                tiebeam_core::proposal::Write::Set { path, value } => {
                    config.set(&super::cluster::p(path), value, 99).unwrap()
                }
                tiebeam_core::proposal::Write::Remove { path } => {
                    config.remove(&super::cluster::p(path), 99).unwrap()
                }
                _ => config,
            };
        }
        config
    };
}

#[test]
fn a_token_is_shown_to_its_issuer_alone_and_lets_one_node_in() {
    let mut cluster = three();
    let made = token(&mut cluster, json!({}));
    assert_eq!(made.output["token"], json!({"secret": "withheld"}));
    assert_eq!(made.output["join"], json!({"secret": "withheld"}));
    assert_eq!(made.revision, None, "a token is no configuration");
    let id = made.output["id"].as_str().unwrap();
    let derived = cluster.state.derived.values().next_back().unwrap().1.clone();
    let shown: Vec<String> = derived.iter().map(|secret| secret.shown("SECRET")).collect();
    let text = format!("tbj1.{id}.SECRET.{}", &super::world::hex("authority")[..32]);
    assert_eq!(shown[0], text);
    assert!(shown[1].starts_with(&format!("echo {text} | tiebeamd join ")), "{}", shown[1]);
    assert!(shown[1].contains("--master 127.0.0.11:20003 --token -"), "{}", shown[1]);
    let kept = &cluster.state.join_tokens[id];
    assert_eq!((kept.issuer.as_str(), kept.role.as_deref()), ("admin", None));

    let params = json!({"name": "n14", "address": "127.0.0.14:20003"});
    ended(&plan(&cluster, "node_add", params), Failed, "no node has presented a token");
    let added = join(&cluster, "k14", json!({}));
    assert_eq!(
        added.output,
        Some(json!({"nid": 14, "role": "learner"}).into()),
        "three vote already"
    );
    seat(&mut cluster, &added);
    assert_eq!(cluster.value("nodes/14/name"), Some(json!("n14")));
    assert_eq!(cluster.state.members[&14].key_hash, "k14");
    let again = join(&cluster, "k14", json!({"nid": 14}));
    ended(&again, Well, "");
    assert!(again.member.is_none() && again.writes.is_empty(), "its answer was lost");
    ended(&join(&cluster, "k15", json!({"nid": 14})), Failed, "another key");
    ended(&join(&cluster, "k14", json!({"nid": 15})), Failed, "another node has this key");
    ended(&join(&cluster, "k15", json!({"nid": 15})), Failed, "the name n14 belongs to node 14");
    let more = json!({"nid": 15, "name": "n15"});
    ended(&join(&cluster, "k15", more), Failed, "the address 127.0.0.14:20003 belongs");
    cluster.state.clock_us += 3600 * 1_000_000;
    ended(&join(&cluster, "k15", json!({"nid": 15})), Declined, "has expired");
}

#[test]
fn a_token_holds_for_what_it_says() {
    let mut cluster = three();
    token(&mut cluster, json!({"nid": 20, "role": "voter", "ttl_s": 60}));
    ended(&join(&cluster, "k", json!({"nid": 21})), Declined, "for node 20");
    ended(&join(&cluster, "k", json!({"role": "learner"})), Declined, "for a voter");
    let added = join(&cluster, "k", json!({}));
    assert_eq!(added.output, Some(json!({"nid": 20, "role": "voter"}).into()));
    assert!(added.warnings[0].starts_with("even voters: 4"), "{:?}", added.warnings);
    let taken = cluster.exec("admin", "node_token", json!({"nid": 12}));
    taken.ended(Failed, "node 12 is a member already");
    for (params, field) in [
        (json!({"ttl_s": 604_801}), "ttl_s"),
        (json!({"nid": 65_536}), "nid"),
        (json!({"role": "master"}), "role"),
    ] {
        assert_eq!(cluster.refusal("node_token", params).field.as_deref(), Some(field));
    }
    let mut full = three();
    for node in 14..=17 {
        let entry = json!({"id": node, "name": format!("v{node}"), "role": "voter"});
        let at = tiebeam_core::State::node_path(node);
        full.state.config = full.state.config.set(&at, &entry, 1).unwrap();
    }
    token(&mut full, json!({"role": "voter"}));
    ended(&join(&full, "k", json!({})), Failed, "7 voters, as many as can be");
}

#[test]
fn a_node_goes_only_if_the_others_can_decide_without_it() {
    let mut cluster = three();
    let gone = plan(&cluster, "node_remove", json!({"nid": 13}));
    ended(&gone, Well, "");
    assert!(gone.warnings[0].starts_with("even voters: 2"), "{:?}", gone.warnings);
    let two = plan(&cluster, "node_demote", json!({"nid": [12, 13]}));
    ended(&two, Failed, "one after the other");
    ended(&plan(&cluster, "node_remove", json!({"nid": 77})), Failed, "`nid`: no node has the id");
    cluster.world.offline.lock().unwrap().push(12);
    let params = json!({"nid": 13});
    ended(&plan(&cluster, "node_remove", params.clone()), Declined, "2 voters");
    ended(&plan(&cluster, "node_demote", params), Declined, "no majority");
    let forced = plan(&cluster, "node_remove", json!({"nid": 13, "force": true}));
    ended(&forced, Well, "");
    ended(&plan(&cluster, "node_remove", json!({"nid": 12})), Well, "");
    seat(&mut cluster, &forced);
    assert_eq!(cluster.value("nodes/13"), None);
    let alone = alone();
    let params = json!({"nid": 11, "force": true});
    ended(&plan(&alone, "node_remove", params), Declined, "the only voter");
}

/// The nodes whose removal was asked for, in order.
fn removed(cluster: &Cluster) -> Vec<Value> {
    let parts = std::mem::take(&mut *cluster.world.parts.lock().unwrap());
    parts.into_iter().map(|part| part.params["nid"][0].clone()).collect()
}

#[test]
fn several_nodes_are_removed_by_a_job_each_and_the_master_last() {
    let mut cluster = three();
    let locks = |params: Value| {
        let declaration = &find("node_remove").unwrap().declaration;
        let params = tiebeam_core::admit::check_params(declaration, params.as_object().unwrap());
        (declaration.locks)(&params.unwrap()).len()
    };
    assert_eq!(locks(json!({"nid": "n12"})), 1);
    for several in [json!([12, 13]), json!("rack=a"), json!("all"), json!("group:g")] {
        assert_eq!(locks(json!({"nid": several})), 0, "its parts take the lock");
    }
    let demoted = plan(&cluster, "node_demote", json!({"nid": 13}));
    seat(&mut cluster, &demoted);
    let some = plan(&cluster, "node_remove", json!({"nid": [11, 13]}));
    ended(&some, Well, "");
    let told = |node: &str| json!({"result": "ok", "job": node, "voters": 2});
    let both = json!({"13": told("11.101"), "11": told("11.102")});
    assert_eq!(some.output, Some(both.into()));
    assert!(some.writes.is_empty() && some.member.is_none(), "its parts change the members");
    assert_eq!(removed(&cluster), ["13", "11"], "the master goes last");

    let cluster = three();
    ended(&plan(&cluster, "node_remove", json!({"nid": "all"})), Declined, "at least one");
    cluster.world.offline.lock().unwrap().push(12);
    let doubtful = json!({"nid": [11, 13]});
    ended(&plan(&cluster, "node_remove", doubtful.clone()), Declined, "no majority");
    assert!(removed(&cluster).is_empty(), "nothing was begun");
    let forced = json!({"nid": [11, 13], "force": true});
    ended(&plan(&cluster, "node_remove", forced), Well, "");
    assert_eq!(removed(&cluster), ["13", "11"]);
    let dead_first = json!({"nid": [11, 12]});
    ended(&plan(&cluster, "node_remove", dead_first), Well, "");
    assert_eq!(removed(&cluster), ["12", "11"]);
}

#[test]
fn what_ends_in_the_middle_says_which_nodes_are_gone() {
    let ends = [
        (Ok(Failed), Failed, "node 13: not that one"),
        (Ok(Outcome::Cancelled), Failed, "node 13: its job 11.102: not that one"),
        (Ok(Timeout), Failed, "node 13: its job 11.102: not that one"),
        (Err(crate::JobError::Timeout("the deadline".into())), Timeout, "node 13: the deadline"),
    ];
    for (end, outcome, text) in ends {
        let told = end.as_ref().map_or(outcome, |ended| *ended);
        let mut cluster = three();
        for node in [12, 13] {
            let demoted = plan(&cluster, "node_demote", json!({"nid": node}));
            seat(&mut cluster, &demoted);
        }
        cluster.world.parts_end.lock().unwrap().insert("remove-n13".to_owned(), end);
        let wish = json!({"nid": [12, 13, 14]});
        ended(&plan(&cluster, "node_remove", wish), Failed, "`nid`: no node");
        cluster.state.config = {
            let entry = json!({"id": 14, "name": "n14", "role": "learner"});
            let at = tiebeam_core::State::node_path(14);
            cluster.state.config.set(&at, &entry, 1).unwrap()
        };
        let part = plan(&cluster, "node_remove", json!({"nid": [12, 13, 14]}));
        ended(&part, outcome, text);
        let output = part.output.unwrap();
        assert_eq!(output["12"]["result"], "ok", "{output}");
        assert_eq!(output["13"]["result"], told.name(), "{output}");
        assert_eq!(output["14"], json!({"result": "not_run"}), "{output}");
    }
}

#[test]
fn a_removal_that_goes_on_elsewhere_does_not_decide_anew() {
    let cluster = three();
    let wish = json!({"nid": [11, 13]});
    ended(&plan(&cluster, "node_remove", wish.clone()), Well, "");
    assert_eq!(removed(&cluster), ["13", "11"]);
    // The master is lost while node 13 goes: with 12 alone the same wish would be declined.
    cluster.world.master.store(12, Relaxed);
    cluster.world.offline.lock().unwrap().extend([11, 12]);
    let again = cluster.plan("root", find("node_remove").unwrap(), wish.clone(), false);
    ended(&again, Well, "");
    assert_eq!(removed(&cluster), ["13", "11"], "in the order of the first run");
    ended(&plan(&cluster, "node_remove", wish), Declined, "no majority");
}

#[test]
fn the_master_leaves_its_place_before_it_goes() {
    let cluster = three();
    for job in ["node_remove", "node_demote"] {
        let here = plan(&cluster, job, json!({"nid": 11}));
        ended(&here, Failed, "goes on on the new master");
        assert_eq!(cluster.world.handed.lock().unwrap().pop(), Some(vec![]));
        cluster.world.master.store(12, Relaxed);
        let there = plan(&cluster, job, json!({"nid": 11}));
        ended(&there, Well, "");
        assert_eq!(there.member.unwrap().seat().0, 11 << 16 | 1);
        cluster.world.master.store(11, Relaxed);
    }
}

#[test]
fn the_master_s_place_goes_to_one_that_is_wanted() {
    let cluster = three();
    ended(&plan(&cluster, "master_change", json!({"nids": [12, 11]})), Well, "");
    assert!(cluster.world.handed.lock().unwrap().is_empty(), "the master is one of them");
    let wish = json!({"nids": ["n13", 12]});
    ended(&plan(&cluster, "master_change", wish.clone()), Failed, "goes on");
    assert_eq!(cluster.world.handed.lock().unwrap().pop(), Some(vec![13, 12]));
    ended(&plan(&cluster, "master_change", json!({})), Failed, "goes on");
    cluster.world.master.store(12, Relaxed);
    for params in [wish, json!({})] {
        let done = plan(&cluster, "master_change", params);
        assert_eq!(done.output, Some(json!({"master": 12, "was": 11}).into()));
    }
    let other = plan(&cluster, "master_change", json!({"nids": 13}));
    ended(&other, Failed, "goes on");
    let alone = alone();
    ended(&plan(&alone, "master_change", json!({})), Failed, "no other voter");
    ended(&plan(&alone, "master_change", json!({"nids": 12})), Failed, "none of these nodes votes");
}

#[test]
fn learners_become_voters_when_they_have_caught_up() {
    let mut cluster = three();
    ended(&plan(&cluster, "node_promote", json!({"nid": 12})), Failed, "a voter already");
    let demoted = plan(&cluster, "node_demote", json!({"nid": 12}));
    ended(&demoted, Well, "");
    seat(&mut cluster, &demoted);
    assert_eq!(cluster.value("nodes/12/role"), Some(json!("learner")));
    ended(&plan(&cluster, "node_demote", json!({"nid": 12})), Failed, "a learner already");
    cluster.world.silent.lock().unwrap().push(12);
    ended(&plan(&cluster, "node_promote", json!({"nid": 12})), Failed, "has not caught up");
    cluster.world.silent.lock().unwrap().clear();
    let promoted = plan(&cluster, "node_promote", json!({"nid": 12}));
    assert_eq!(promoted.output, Some(json!({"nid": 12, "voters": 3}).into()));
    seat(&mut cluster, &promoted);
    assert_eq!(cluster.value("nodes/12/role"), Some(json!("voter")));
}

#[test]
fn nodes_are_suspended_labelled_and_modified() {
    let mut cluster = three();
    let exec = |cluster: &mut Cluster, job: &str, params: Value| cluster.exec("admin", job, params);
    let both = exec(&mut cluster, "node_suspend", json!({"nid": ["rack=a"]})).ok();
    assert_eq!(both.output, json!({"suspended": [11, 12]}));
    assert_eq!(cluster.value("nodes/12/suspended"), Some(json!(true)));
    let same = exec(&mut cluster, "node_suspend", json!({"nid": 12})).ok();
    assert_eq!(same.revision, None);
    let one = exec(&mut cluster, "node_resume", json!({"nid": 12})).ok();
    assert_eq!(one.output, json!({"suspended": [11]}));
    assert_eq!(cluster.value("nodes/12/suspended"), None);

    let set = json!({"nid": "n12", "set": {"rack": "c", "slot": 7}, "delete": ["gone"]});
    let labels = exec(&mut cluster, "node_label", set).ok().output;
    assert_eq!(labels, json!({"rack": "c", "slot": "7"}));
    let deleted = exec(&mut cluster, "node_label", json!({"nid": 12, "delete": "rack"})).ok();
    assert_eq!(deleted.output, json!({"slot": "7"}));
    for set in [json!({"a=b": "c"}), json!({"": "c"}), json!({"a": ["c"]}), json!({"a": "b\nc"})] {
        let refused = cluster.refusal("node_label", json!({"nid": 12, "set": set}));
        assert_eq!(refused.field.as_deref(), Some("set"));
    }
    let never = |node: u32| json!({"nid": node, "affinity": 0});
    exec(&mut cluster, "node_modify", never(11)).ok();
    exec(&mut cluster, "node_modify", never(12)).ok();
    exec(&mut cluster, "node_modify", never(13)).ended(Declined, "no voter could become");
    let moved = json!({"nid": 13, "address": "10.0.0.13:20003"});
    let entry = exec(&mut cluster, "node_modify", moved).ok().output;
    assert_eq!((&entry["address"], &entry["id"]), (&json!("10.0.0.13:20003"), &json!(13)));
    // ConfD's name of it (ruling 47), in its place and not beside it.
    let renamed = json!({"nid": 13, "priv_net": "10.0.0.13:20004"});
    let entry = exec(&mut cluster, "node_modify", renamed).ok().output;
    assert_eq!(entry["address"], "10.0.0.13:20004");
    let both = json!({"nid": 13, "priv_net": "10.0.0.13:1", "address": "10.0.0.13:2"});
    assert_eq!(cluster.refusal("node_modify", both).field.as_deref(), Some("address"));
    let wrong = cluster.refusal("node_modify", json!({"nid": 13, "priv_net": "10.0.0.13"}));
    assert_eq!(wrong.field.as_deref(), Some("priv_net"));
    exec(&mut cluster, "node_modify", json!({"nid": 13, "address": "10.0.0.13:20003"})).ok();
    let taken = json!({"nid": 12, "address": "10.0.0.13:20003"});
    exec(&mut cluster, "node_modify", taken).ended(Failed, "belongs to node 13");
    let nothing = cluster.refusal("node_modify", json!({"nid": 12}));
    assert!(nothing.hint.unwrap().contains("address"));
}

#[test]
fn waits_end_with_what_is_so() {
    let cluster = three();
    let ready = plan(&cluster, "node_wait_ready", json!({"nids": "all"}));
    assert_eq!(ready.output, Some(json!({"ready": [11, 12, 13], "pending": []}).into()));
    cluster.world.all_online.store(false, Relaxed);
    let short = json!({"nids": [12, 13], "timeout": 1});
    let late = plan(&cluster, "node_wait_ready", short.clone());
    ended(&late, Timeout, "not ready: node 13");
    assert_eq!(late.output, Some(json!({"ready": [12], "pending": [13]}).into()));
    ended(&plan(&cluster, "node_wait_offline", short), Timeout, "not offline: node 12");
    ended(&plan(&cluster, "node_wait_offline", json!({"nids": 13})), Well, "");
    let mut learner = three();
    learner.state.members.get_mut(&12).unwrap().voter = false;
    let short = json!({"nids": 12, "timeout": 1});
    ended(&plan(&learner, "node_wait_ready", short), Timeout, "node 12");
}

#[test]
fn a_suspect_clock_is_accepted_and_another_one_is_not() {
    let mut cluster = three();
    cluster.exec("admin", "clock_accept", json!({})).ended(Failed, "node 11, is not suspect");
    *cluster.world.clock_off_us.lock().unwrap() = Some(-90_000_000);
    let accepted = cluster.exec("admin", "clock_accept", json!({})).ok();
    assert_eq!(accepted.output, json!({"node": 11, "off_s": -90}));
    assert_eq!(accepted.revision, None);
    assert_eq!(cluster.state.clocks[&11].accepted_us, Some(-90_000_000));
}

#[test]
fn retention_is_three_settings() {
    let mut cluster = three();
    let values = cluster.exec("admin", "job_retention", json!({})).ok();
    let defaults = json!({"keep_days": 7, "keep_count": 100_000, "keep_bytes": 0});
    assert_eq!((values.output, values.revision), (defaults, None));
    let wish = json!({"keep_days": 30, "keep_bytes": 1 << 30});
    let values = cluster.exec("admin", "job_retention", wish).ok().output;
    assert_eq!(values, json!({"keep_days": 30, "keep_count": 100_000, "keep_bytes": 1 << 30}));
    assert_eq!(cluster.value("settings/history/reads_keep_days"), Some(json!(30)));
    let wrong = cluster.refusal("job_retention", json!({"keep_days": 0}));
    assert_eq!(wrong.field.as_deref(), Some("keep_days"));
}

#[test]
fn an_archive_without_a_node_is_told_as_a_failure() {
    let cluster = three();
    let wish = json!({"nodes": [11, 12], "start_date": "1970-01-01 00:00:02"});
    let whole = plan(&cluster, "debug_collect", wish.clone());
    let file = "/debug/Some(2000000)-None";
    let told = json!({"file": file, "node": 11, "bytes": 7, "nodes": {"11": "ok", "12": "ok"}});
    assert_eq!(whole.output, Some(told.into()));
    cluster.world.silent.lock().unwrap().push(12);
    let part = plan(&cluster, "debug_collect", wish);
    ended(&part, Failed, "without node 12");
    assert_eq!(part.output.unwrap()["nodes"], json!({"11": "ok", "12": "no answer"}));
    let wrong = cluster.refusal("debug_collect", json!({"end_date": "yesterday"}));
    assert_eq!(wrong.field.as_deref(), Some("end_date"));
}
