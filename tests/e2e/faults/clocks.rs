//! A clock that is ten years off, and a published file that somebody has edited.

use super::{GROUP, Site, eventually, eventually_within, health, metric, tells};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use tiebeam_tests::{Options, TestNode, need, node};

/// Where Debian has libfaketime.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// From its next start on, the node's wall clock is this far off; its monotonic clock is right.
fn shift(node: &mut TestNode, how: &str) {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for (name, value) in [
        set("LD_PRELOAD", LIBRARY),
        set("FAKETIME", how),
        set("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        set("FAKETIME_NO_CACHE", "1"),
    ] {
        node.surround(&name, if how.is_empty() { "" } else { &value });
    }
}

/// Waits until the node at this place has an event of its kind about a node.
#[track_caller]
fn is_told(site: &Site, place: usize, node: usize, change: &str) {
    let (here, admin) = (site.node(place), site.cluster.admin());
    let follow = json!([{"kinds": ["node"], "since": "0.0"}]);
    let id = here.call(&admin, "subscribe", follow).expect("it is the master");
    eventually(change, || {
        let events = here.call(&admin, "events", json!([id, 1])).ok()?;
        let fits = |event: &serde_json::Value| event["node"] == node && event["change"] == change;
        events.as_array()?.iter().any(fits).then_some(())
    });
}

#[test]
fn a_node_whose_clock_is_ten_years_ahead_serves_and_is_told_of() {
    let probe = format!("test -f {LIBRARY} && LD_PRELOAD={LIBRARY} FAKETIME=+10y date");
    if !need(GROUP, &["sh", "-c", &probe]) {
        return;
    }
    let options = Options::default();
    let Some(mut site) = Site::start(&options) else { return };
    let place = site.follower();
    assert_eq!(site.cluster.nodes[place].terminate(), 0);
    shift(&mut site.cluster.nodes[place], "+10y");
    site.run(place);
    eventually("its clock is suspect", || {
        (metric(site.node(place), "tiebeam_clock_suspect") == Some(1)).then_some(())
    });
    assert!(tells(site.node(place), "the wall clock of this node is"));
    let named = format!("the wall clock of node {} is", 11 + place);
    for other in site.others(place) {
        eventually("the others tell of it", || tells(site.node(other), &named).then_some(()));
        assert_eq!(metric(site.node(other), "tiebeam_clock_suspect"), Some(0));
    }
    // It votes: with one of the others away, the two are the quorum.
    let away = site.others(place)[0];
    site.cluster.nodes[away].kill9();
    let set = |site: &Site, value: i64| {
        let result = site.cluster.exec("config_set", json!({"path": "app/a", "value": value}));
        assert_eq!(result["result_code"], 0, "{result}");
    };
    set(&site, 1);
    site.run(away);
    // It leads: what it does is told to be done in ten years, and nothing else changes.
    site.cluster.output("master_change", json!({"nids": [11 + place]}));
    let led = site.master_among(&[place]);
    set(&site, 2);
    let info = site.cluster.output("cluster_info", json!({}));
    assert_eq!(info["master"], 11 + led as u64, "{info}");
    assert!(info["health"].to_string().contains("clock"), "{info}");
    // It is said once, to everybody who follows.
    is_told(&site, led, 11 + place, "clock_suspect");
    // Another restart of another node: certificates of both sides are taken.
    let other = site.others(place)[1];
    site.cluster.nodes[other].kill9();
    site.run(other);
    set(&site, 3);
    // The clock is put right.
    assert_eq!(site.cluster.nodes[place].terminate(), 0);
    shift(&mut site.cluster.nodes[place], "");
    site.run(place);
    for place in 0..3 {
        eventually("nobody tells of a clock", || (!tells(site.node(place), "clock")).then_some(()));
    }
    site.compare();
}

/// By minutes only: a master whose clock is right in ten years renews certificates by it, which
/// no client of today takes.
#[test]
fn a_master_s_clock_that_somebody_accepts_is_trusted() {
    let probe = format!("test -f {LIBRARY} && LD_PRELOAD={LIBRARY} FAKETIME=+10m date");
    if !need(GROUP, &["sh", "-c", &probe]) {
        return;
    }
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let place = site.follower();
    assert_eq!(site.cluster.nodes[place].terminate(), 0);
    shift(&mut site.cluster.nodes[place], "+10m");
    site.run(place);
    let suspect = |site: &Site| metric(site.node(place), "tiebeam_clock_suspect");
    eventually("its clock is suspect", || (suspect(&site) == Some(1)).then_some(()));
    site.cluster.output("master_change", json!({"nids": [11 + place]}));
    let led = site.master_among(&[place]);
    is_told(&site, led, 11 + place, "clock_suspect");
    let accepted = site.cluster.output("clock_accept", json!({}));
    assert_eq!(accepted["node"], 11 + place, "{accepted}");
    is_told(&site, led, 11 + place, "clock_trusted");
    assert_eq!(suspect(&site), Some(0));
    site.compare();
}

#[test]
fn a_node_that_joins_with_a_clock_ten_years_ahead_is_taken() {
    let probe = format!("test -f {LIBRARY} && LD_PRELOAD={LIBRARY} FAKETIME=+10y date");
    if !need(GROUP, &["sh", "-c", &probe]) {
        return;
    }
    let Some(mut site) = Site::start(&Options::default()) else { return };
    let mut anew = site.join(3, 14, &Options::default());
    shift(&mut anew, "+10y");
    site.net.on(3, || anew.run());
    site.cluster.nodes.push(anew);
    site.cluster.output("config_set", json!({"path": "app/a", "value": 1}));
    eventually("a learner's clock is told of, too", || {
        tells(site.node(0), "the wall clock of node 14 is").then_some(())
    });
    site.compare();
}

fn edited(config: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(config).expect("it is there").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let edits = names.filter(|name| name.starts_with("edited-"));
    edits.map(|name| node::read(&config.join(name))).collect()
}

#[test]
fn a_hand_edit_on_any_node_is_kept_aside_and_put_back() {
    let Some(mut site) = Site::start(&Options::default()) else { return };
    site.cluster.output("config_set", json!({"path": "app/a", "value": "as-published"}));
    for place in 0..3 {
        let config = site.node(place).data.join("config");
        let file = config.join("cluster.yaml");
        let published = eventually("it is published", || {
            Some(node::read(&file)).filter(|text| text.contains("as-published"))
        });
        let edits = metric(site.node(place), "tiebeam_hand_edits_total");
        let edit = published.replace("as-published", "by-hand");
        std::fs::write(&file, &edit).expect("root may write");
        let begun = Instant::now();
        eventually_within(Duration::from_secs(60), "it is put back", || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            (text == published).then_some(())
        });
        println!("node {}: put back after {:?}", 11 + place, begun.elapsed());
        assert!(edited(&config).contains(&edit), "the edit is kept");
        let now = metric(site.node(place), "tiebeam_hand_edits_total");
        assert_eq!(now, edits.map(|edits| edits + 1));
        let log = node::read(&site.node(place).log_file());
        assert!(log.contains("edited by hand"), "{log}");
        assert!(health(site.node(place)).is_some_and(|about| about["ready"] == true));
    }
    let master = site.cluster.master();
    (0..3).for_each(|place| is_told(&site, master, 11 + place, "hand_edit"));
    let value = site.cluster.output("config_get", json!({"path": "app/a"}));
    assert_eq!(value, "as-published", "an edit has no effect");
    site.compare();
}
