//! What is damaged on one node of three: it says so and takes no part, the others go on, and it
//! comes back as a new member with an empty folder (rulings 16, 18, 45).

use super::{Site, eventually};
use serde_json::{Value, json};
use tiebeam_tests::crash::damage::CASES;
use tiebeam_tests::{Login, Options, TestNode, Wire};

fn set(site: &Site, value: &str) {
    let result = site.cluster.exec("config_set", json!({"path": "app/step", "value": value}));
    assert_eq!(result["result_code"], 0, "{result}");
}

/// What a damaged node says of itself at `/health/live`.
#[track_caller]
fn found(node: &TestNode) -> Value {
    let mut wire = Wire::unix(&node.socket()).expect("a connection");
    let reply = wire.request("GET", "/health/live", &Login::None, &[], b"").expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Another follower is away: with the damaged one it would be a quorum.
#[track_caller]
fn does_not_vote(site: &mut Site, damaged: usize) {
    let master = site.cluster.master();
    let away = site.others(damaged).into_iter().find(|other| *other != master).expect("a follower");
    site.cluster.nodes[away].kill9();
    eventually("no quorum", || {
        (!tiebeam_tests::cluster::says_master(site.node(master))).then_some(())
    });
    site.run(away);
    site.cluster.master();
}

fn damaged_and_replaced(what: &str) {
    let options = Options::default();
    let Some(mut site) = Site::start(&options) else { return };
    for number in 0..40 {
        set(&site, &format!("before {number}"));
    }
    let place = site.follower();
    let id = 11 + place as u32;
    assert_eq!(site.cluster.nodes[place].terminate(), 0);
    let case = CASES.iter().find(|case| case.what == what).expect("a case of damage");
    (case.damage)(&site.node(place).data).expect("a folder that can be damaged");
    site.net.on(place, || site.cluster.nodes[place].run_damaged());
    let about = found(site.node(place));
    println!("{what}: {}", about["damage"]);
    let hint = about["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("node_remove") && hint.contains("tiebeamd join"), "{about}");
    set(&site, "beside the damage");
    does_not_vote(&mut site, place);

    // It is removed and comes back with an empty folder, as another incarnation.
    site.cluster.output("node_remove", json!({"nid": id, "force": true}));
    assert_eq!(site.cluster.nodes[place].terminate(), 0);
    let anew = site.join(place, id, &options);
    site.cluster.nodes[place] = anew;
    site.run(place);
    site.cluster.wait_for("a voter again", |cluster| cluster.voters().len() == 3);
    set(&site, "after the damage");
    site.wait_ready();
    let history = site.cluster.output("history_verify", json!({}));
    assert_eq!(history["ok"], true, "{history}");
    let identity = tiebeam_tests::node::read(&site.node(place).data.join("identity"));
    assert!(!identity.is_empty());
    site.compare();
}

#[test]
fn a_damaged_log_of_one_node() {
    damaged_and_replaced("log: bit in a middle record");
}

#[test]
fn a_damaged_snapshot_of_one_node() {
    damaged_and_replaced("snapshot: bit in both");
}

#[test]
fn a_damaged_history_of_one_node() {
    damaged_and_replaced("history: bit in the middle, open");
}

#[test]
fn a_history_that_is_gone_on_one_node_is_fetched_from_the_others() {
    let Some(mut site) = Site::start(&Options::default()) else { return };
    for number in 0..40 {
        set(&site, &format!("before {number}"));
    }
    let place = site.follower();
    assert_eq!(site.cluster.nodes[place].terminate(), 0);
    let what = "history: open segment deleted";
    let case = CASES.iter().find(|case| case.what == what).expect("a case of damage");
    (case.damage)(&site.node(place).data).expect("a folder that can be damaged");
    site.run(place);
    set(&site, "after it");
    eventually("its history has no gap", || {
        let about = super::health(site.node(place))?;
        (about["ready"] == true && about["history_whole"] == true).then_some(())
    });
    site.compare();
}
