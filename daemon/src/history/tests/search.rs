//! Tests of searches: pages, filters, requests, revisions.

use super::super::fixture::{Folder, MORNING_US, Maker};
use super::super::*;
use super::{archive, indices, settle, spawn};
use serde_json::Value;
use tiebeam_proto::time::Time;

#[test]
fn pages_stay_where_they_are_while_records_arrive() {
    let folder = Folder::new();
    let (mut maker, thread) = (Maker::new(), spawn(&folder));
    archive(&thread, &maker.jobs(300));
    let filter = Filter { user: Some("alice".into()), ..Filter::default() };
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = thread.history.search(&filter, None, cursor.as_deref(), 17).unwrap();
        found.extend(indices(&page));
        archive(&thread, &maker.jobs(31));
        if page.cursor.is_none() {
            break;
        }
        cursor = page.cursor;
    }
    let expected: Vec<u64> = (1..=300).rev().filter(|index| index % 2 == 1).collect();
    assert_eq!(found, expected);
    for wrong in ["", "h", "x7", "h-1"] {
        let page = thread.history.search(&filter, None, Some(wrong), 17);
        assert!(matches!(page, Err(HistoryError::BadFilter { field: "cursor", .. })), "{wrong}");
    }
    thread.stop().unwrap();
}

/// A filter as JSON, who asks, and which summaries it should keep.
type Case = (&'static str, Option<&'static str>, fn(&Value) -> bool);

const CASES: [Case; 13] = [
    (r#"{"name":"config_set"}"#, None, |s| s["name"] == "config_set"),
    (r#"{"node":13}"#, None, |s| s["nodes"].to_string().contains("13")),
    (r#"{"outcome":"failed"}"#, None, |s| s["outcome"] == "failed"),
    (r#"{"stage":"committed"}"#, None, |s| s["stage"] == "committed"),
    (r#"{"since":"2026-11-20T04:06:40Z","until":"2026-11-20T04:08:20Z"}"#, None, |s| {
        let ended = s["ended"].as_str().or(s["time"].as_str()).unwrap();
        ("2026-11-20T04:06:40"..="2026-11-20T04:08:20.000000Z").contains(&ended)
    }),
    ("null", Some("alice"), |s| s["user"] == "alice"),
    (r#"{"user":"bob"}"#, None, |s| s["audit"] == "login_failed"),
    (r#"{"user":"bob"}"#, Some("bob"), |_| false),
    (r#"{"user":"admin"}"#, Some("alice"), |_| false),
    (r#"{"name":"config_set","outcome":"failed"}"#, Some("admin"), |s| {
        s["name"] == "config_set" && s["outcome"] == "failed" && s["user"] == "admin"
    }),
    (r#"{"revision":14}"#, None, |s| s["revision"] == 14),
    (r#"{"job":"11.3"}"#, None, |s| s["job"] == "11.3"),
    (r#"{"job":"11.4"}"#, Some("nobody"), |_| false),
];

#[test]
fn filters_give_what_a_look_at_every_record_gives() {
    let folder = Folder::new();
    let (mut maker, thread) = (Maker::new(), spawn(&folder));
    for _ in 0..40 {
        archive(&thread, &maker.jobs(8));
        archive(&thread, &[maker.audit(), maker.addendum("11.3")]);
    }
    settle(&thread);
    let history = &thread.history;
    let all = history.search(&Filter::default(), None, None, 1000).unwrap();
    assert_eq!(indices(&all), (1..=400).rev().collect::<Vec<_>>());
    for (text, visible_to, keep) in CASES {
        let filter = Request::read(&serde_json::from_str(text).unwrap()).unwrap().filter;
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = history.search(&filter, visible_to, cursor.as_deref(), 23).unwrap();
            found.extend(page.records);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        let expected: Vec<_> = all.records.iter().filter(|s| keep(s)).cloned().collect();
        assert_eq!(found, expected, "{text} {visible_to:?}");
    }
    assert_eq!(history.addenda("11.3").unwrap().len(), 40);
    let refused = Filter { text: Some("x".into()), ..Filter::default() };
    let page = history.search(&refused, None, None, 5);
    assert!(matches!(page, Err(HistoryError::NotInThisVersion("text"))));
    thread.stop().unwrap();
}

#[test]
fn a_request_names_the_key_that_is_wrong() {
    let read = |text: &str| Request::read(&serde_json::from_str(text).unwrap());
    let request = read(r#"{"node":"12","outcome":"ok","since":"2026-11-20T04:05:06Z","limit":5}"#);
    let request = request.unwrap();
    assert_eq!((request.filter.node, request.limit), (Some(12), 5));
    assert_eq!(read("null").unwrap().limit, 50);
    for (text, field) in [
        (r#"{"colour":1}"#, "colour"),
        (r#"{"limit":0}"#, "limit"),
        (r#"{"limit":1001}"#, "limit"),
        (r#"{"outcome":"fine"}"#, "outcome"),
        (r#"{"since":"yesterday"}"#, "since"),
        (r#"{"text":"x"}"#, "text"),
        ("[]", "filter"),
    ] {
        assert_eq!(read(text).unwrap_err().field.as_deref(), Some(field), "{text}");
    }
}

#[test]
fn revisions_are_walked_by_path_and_time() {
    let folder = Folder::new();
    let (mut maker, thread) = (Maker::new(), spawn(&folder));
    archive(&thread, &maker.jobs(300));
    let page = thread.history.revisions(u64::MAX, None, None, 30).unwrap();
    let made: Vec<u64> = page.records.iter().map(|(revision, _)| *revision).collect();
    assert_eq!((made, page.next), ((71..=100).rev().collect(), Some(70)));
    let of = |path| thread.history.revisions(100, Some(path), None, 200).unwrap();
    assert_eq!(of("app/p30").records.len(), 1);
    assert_eq!(of("app/p30/below").records[0].0, 10);
    assert_eq!((of("app").records.len(), of("app/p").records.len()), (100, 0));
    let since = Some(Time(MORNING_US + 290 * 1_000_000));
    let late = thread.history.revisions(100, None, since, 200).unwrap();
    assert_eq!(late.records.iter().map(|(made, _)| *made).collect::<Vec<_>>(), [100, 99, 98, 97]);
    thread.stop().unwrap();
}
