//! Calls over real TLS: redirects, lost answers, other members, logins, events.

use crate::stub::{Ca, Reply, Seen, Stub, folder, start_unix};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tiebeam::{Client, Error, ErrorCode, EventFilter, Secret, StartOptions};

fn client(ca: &Ca, members: &[&Stub]) -> Client {
    let builder = members.iter().fold(Client::builder(), |builder, stub| builder.url(&stub.url));
    builder
        .ca_file(&ca.file)
        .user("admin")
        .password(Secret::new("hunter2"))
        .retry_for(Duration::from_secs(10))
        .learn_members(false)
        .build()
        .unwrap()
}

fn hasty(ca: &Ca, url: &str) -> Client {
    let builder = Client::builder().url(url).ca_file(&ca.file).user("admin");
    builder.password(Secret::new("x")).retry_for(Duration::ZERO).build().unwrap()
}

fn ok(output: Value) -> Value {
    json!({"result_code": 0, "result_name": "OK", "result_desc": "Success",
           "result_jobid": "11.7", "result_output": output})
}

/// Answers the first `count` calls otherwise.
fn first(
    count: usize,
    otherwise: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    then: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    let calls = AtomicUsize::new(0);
    move |seen| {
        if calls.fetch_add(1, Ordering::SeqCst) < count { otherwise(seen) } else { then(seen) }
    }
}

#[tokio::test]
async fn a_redirect_is_followed_by_the_same_post_with_the_login() {
    let ca = Ca::new("redirect");
    let master = ca.start(|_| Reply::Result(json!("11.89"))).await;
    let there = format!("{}/rpc2", master.url);
    let follower = ca.start(move |_| Reply::Redirect(there.clone())).await;
    let client = client(&ca, &[&follower]);
    for _ in 0..2 {
        let id = client.start("user_list", Value::Null, &StartOptions::default()).await.unwrap();
        assert_eq!(id, "11.89");
    }
    let calls = master.calls();
    assert_eq!(calls[0].method(), "job_start");
    assert_eq!(calls[0].authorization.as_deref(), Some("Basic YWRtaW46aHVudGVyMg=="));
    assert_eq!(calls[0].params()[0], "user_list");
    // The second start went to the master at once.
    assert_eq!((follower.calls().len(), calls.len()), (1, 2));
}

#[tokio::test]
async fn http_2_is_spoken_with_a_member_that_offers_it() {
    let ca = Ca::new("h2");
    let member = ca
        .start_with(&[b"h2", b"http/1.1"], |seen| match seen.method() {
            "job_start" => Reply::Vanish,
            _ => Reply::Result(json!(["node_list"])),
        })
        .await;
    let client = client(&ca, &[&member]);
    let (one, two) = tokio::join!(client.job_list(), client.job_list());
    assert_eq!((one.unwrap(), two.unwrap()), (vec!["node_list".into()], vec!["node_list".into()]));
    assert!(member.calls().iter().all(|call| call.version == hyper::Version::HTTP_2));
    // A lost answer is a lost answer here too.
    let error = client.call("job_start", json!(["x"]), false).await.unwrap_err();
    assert!(matches!(error, Error::AnswerLost { .. }), "{error:?}");
}

#[tokio::test]
async fn credentials_stay_within_the_ca() {
    let (ca, other) = (Ca::new("ours"), Ca::new("theirs"));
    let thief = other.start(|_| Reply::Result(json!("11.1"))).await;
    let there = thief.url.clone();
    let member = ca.start(move |_| Reply::Redirect(there.clone())).await;
    let error = hasty(&ca, &member.url).job_list().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(thief.calls().is_empty());
    let plain = ca.start(|_| Reply::Redirect("http://127.0.0.1:1/".to_owned())).await;
    let error = hasty(&ca, &plain.url).job_list().await.unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error:?}");
}

/// A client that was given one member and learns the others.
fn learning(ca: &Ca, url: &str) -> Client {
    let builder = Client::builder().url(url).ca_file(&ca.file).user("admin");
    builder.password(Secret::new("hunter2")).retry_for(Duration::from_secs(2)).build().unwrap()
}

#[tokio::test]
async fn the_members_that_a_client_was_given_may_all_go() {
    let (ca, foreign) = (Ca::new("learned"), Ca::new("learned-foreign"));
    let thief = foreign.start(|_| Reply::Result(json!([]))).await;
    let other = ca.start(|_| Reply::Result(json!(["x"]))).await;
    let bare = |stub: &Stub| stub.url.trim_start_matches("https://").to_owned();
    let nodes = json!({"11": {"address": bare(&thief)}, "12": {"address": bare(&other)}});
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let down = gone.clone();
    let given = ca
        .start(move |seen| match seen.method() {
            _ if down.load(Ordering::SeqCst) => Reply::Vanish,
            "job_exec" => Reply::Result(ok(nodes.clone())),
            _ => Reply::Result(json!(["x"])),
        })
        .await;
    let client = learning(&ca, &given.url);
    for _ in 0..2 {
        assert_eq!(client.job_list().await.unwrap(), ["x"]);
    }
    let methods: Vec<_> = given.calls().iter().map(|call| call.method().to_owned()).collect();
    assert_eq!(methods, ["job_list", "job_exec", "job_list"], "it asks once a minute");
    assert_eq!(given.calls()[1].params(), &json!(["node_list", {"volatile": true}]));
    gone.store(true, Ordering::SeqCst);
    assert_eq!(client.job_list().await.unwrap(), ["x"]);
    assert_eq!(other.calls()[0].authorization.as_deref(), Some("Basic YWRtaW46aHVudGVyMg=="));
    assert!(thief.calls().is_empty(), "its certificate is of another CA");
}

#[tokio::test]
async fn members_that_point_at_each_other_are_no_endless_loop() {
    let ca = Ca::new("loop");
    let member = ca.start(|_| Reply::Redirect("/".to_owned())).await;
    let error = hasty(&ca, &member.url).job_list().await.unwrap_err();
    assert!(matches!(error, Error::NoMaster { .. }), "{error:?}");
    assert!(error.retryable());
    assert_eq!(member.calls().len(), 4);
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_is_sent_again_with_the_same_key() {
    let ca = Ca::new("lost");
    let member = ca.start(first(2, |_| Reply::Vanish, |_| Reply::Result(json!("11.5")))).await;
    let client = client(&ca, &[&member]);
    client.start("node_label", json!({"nid": 11}), &StartOptions::default()).await.unwrap();
    let calls = member.calls();
    let keys: Vec<_> = calls.iter().map(|c| c.params()[1]["request_id"].clone()).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| key == &keys[0] && key.is_string()), "{keys:?}");
    // The next start is another one.
    client.start("node_label", json!({"nid": 11}), &StartOptions::default()).await.unwrap();
    assert_ne!(member.calls()[3].params()[1]["request_id"], keys[0]);
}

#[tokio::test]
async fn what_is_not_repeatable_is_sent_once() {
    let ca = Ca::new("once");
    let member = ca.start(|_| Reply::Vanish).await;
    let error = client(&ca, &[&member]).call("user_init", json!([]), false).await.unwrap_err();
    assert!(matches!(error, Error::AnswerLost { .. }), "{error:?}");
    assert_eq!(error.code(), Some(ErrorCode::OutcomeUnknown));
    assert_eq!(member.calls().len(), 1);
}

#[tokio::test]
async fn other_members_are_asked_while_one_has_no_master_or_is_down() {
    let ca = Ca::new("others");
    let blind = ca.start(|_| Reply::Status(503)).await;
    let master = ca.start(first(1, |_| Reply::Status(503), |_| Reply::Result(json!([])))).await;
    let client = Client::builder()
        .url("https://127.0.0.1:1")
        .url(&blind.url)
        .url(&master.url)
        .ca_file(&ca.file)
        .learn_members(false)
        .build()
        .unwrap();
    assert!(client.job_list().await.unwrap().is_empty());
    assert!(!blind.calls().is_empty());
    assert_eq!(master.calls().len(), 2);
}

#[tokio::test]
async fn a_key_carries_the_cluster_s_time() {
    let ca = Ca::new("time");
    let member = ca.start(|_| Reply::Result(json!("11.5"))).await;
    let client = client(&ca, &[&member]);
    client.start("user_list", Value::Null, &StartOptions::default()).await.unwrap();
    let key = member.calls()[0].params()[1]["request_id"].as_str().unwrap().to_owned();
    let stamp = uuid::Uuid::parse_str(&key).unwrap().get_timestamp().unwrap().to_unix().0;
    let year_2099 = 4_070_908_800;
    assert!(stamp > year_2099, "{key}");
}

#[tokio::test]
async fn a_wrong_login_is_not_tried_again_and_errors_are_typed() {
    let ca = Ca::new("login");
    let closed = ca.start(|_| Reply::Status(401)).await;
    let error = client(&ca, &[&closed]).job_list().await.unwrap_err();
    assert!(matches!(error, Error::Login { .. }), "{error:?}");
    assert_eq!(closed.calls().len(), 1);
    let strict = ca
        .start(|_| {
            Reply::Error(json!({"code": -32002, "message": "`grp` is unknown", "data": {
                "name": "invalid_parameter", "field": "grp", "hint": "group", "retryable": false}}))
        })
        .await;
    let error = client(&ca, &[&strict]).job_list().await.unwrap_err();
    assert_eq!(
        (error.name(), error.field(), error.hint(), error.retryable()),
        ("invalid_parameter", Some("grp"), Some("group"), false)
    );
}

#[tokio::test]
async fn a_token_is_used_from_the_login_on() {
    let ca = Ca::new("token");
    let member = ca
        .start(|seen| match seen.method() {
            "user_login" => Reply::Result(json!({"token": "tb1.x", "expires": "2026"})),
            _ => Reply::Result(json!([])),
        })
        .await;
    let client = client(&ca, &[&member]);
    let login = client.login("admin", &Secret::new("hunter2"), None).await.unwrap();
    assert_eq!(format!("{login:?}"), "Login { token: withheld, expires: \"2026\" }");
    client.job_list().await.unwrap();
    let sent: Vec<_> = member.calls().into_iter().map(|call| call.authorization).collect();
    assert_eq!(sent, [None, Some("Bearer tb1.x".to_owned())]);
}

#[tokio::test]
async fn exec_waits_on_when_the_daemon_answers_unfinished() {
    let ca = Ca::new("exec");
    let waits = AtomicUsize::new(0);
    let member = ca
        .start(move |seen| {
            Reply::Result(match seen.method() {
                "job_exec" => json!({"result_code": 5, "result_name": "UNFINISHED",
                                     "result_desc": "", "result_jobid": "11.7"}),
                "job_wait" => json!(waits.fetch_add(1, Ordering::SeqCst) > 0),
                _ => ok(json!("running")),
            })
        })
        .await;
    let client = client(&ca, &[&member]);
    let result = client.run("db_state", json!({"db_name": "X"}), &StartOptions::default()).await;
    assert_eq!(result.unwrap().result_output, Some(json!("running")));
    let methods: Vec<_> = member.calls().iter().map(|call| call.method().to_owned()).collect();
    assert_eq!(methods, ["job_exec", "job_wait", "job_wait", "job_result"]);
}

#[tokio::test]
async fn events_go_on_behind_the_last_cursor_when_the_subscription_is_lost() {
    let ca = Ca::new("events");
    let polls = AtomicUsize::new(0);
    let event = |n: usize| json!([{"cursor": format!("{n}.0"), "kind": "stage", "job": "11.2"}]);
    let member = ca
        .start(move |seen| match seen.method() {
            "subscribe" => Reply::Result(json!("s1")),
            _ => match polls.fetch_add(1, Ordering::SeqCst) {
                0 => Reply::Result(event(1)),
                1 => Reply::Error(json!({"code": -32602, "message": "no such subscription"})),
                n => Reply::Result(event(n)),
            },
        })
        .await;
    let mut events = client(&ca, &[&member]).events(EventFilter::default());
    assert_eq!(events.next().await.unwrap().cursor.as_deref(), Some("1.0"));
    assert_eq!(events.next().await.unwrap().cursor.as_deref(), Some("2.0"));
    let filters: Vec<_> = member
        .calls()
        .iter()
        .filter(|call| call.method() == "subscribe")
        .map(|call| call.params()[0].clone())
        .collect();
    assert_eq!(filters, [json!({"jobs": "mine"}), json!({"jobs": "mine", "since": "1.0"})]);
}

#[tokio::test]
async fn a_unix_socket_needs_neither_tls_nor_login() {
    let path = folder("unix").join("tiebeam.sock");
    let member = start_unix(&path, |_| Reply::Result(json!(["node_list"])));
    let client = Client::builder().unix_socket(&path).build().unwrap();
    assert_eq!(client.job_list().await.unwrap(), ["node_list"]);
    assert_eq!(member.calls()[0].authorization, None);
}

#[tokio::test]
async fn pages_of_the_history_follow_the_cursor() {
    let ca = Ca::new("pages");
    let member = ca
        .start(|seen| {
            Reply::Result(match seen.params()[0]["cursor"].as_str() {
                None => json!({"records": [{"job": "11.2"}], "cursor": "c"}),
                Some(_) => json!({"records": [{"job": "11.1"}], "cursor": null}),
            })
        })
        .await;
    let mut pages = client(&ca, &[&member]).history_pages(serde_json::Map::new());
    let mut jobs = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        jobs.extend(page.records.into_iter().map(|record| record["job"].clone()));
    }
    assert_eq!(jobs, [json!("11.2"), json!("11.1")]);
}

#[test]
fn the_blocking_client_does_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ca = Ca::new("blocking");
    let member = runtime.block_on(ca.start(|_| Reply::Result(ok(json!(5)))));
    let blocking = tiebeam::blocking::Client::new(client(&ca, &[&member])).unwrap();
    let result = blocking.run("x", Value::Null, &StartOptions::volatile()).unwrap();
    assert_eq!(result.result_output, Some(json!(5)));
    assert_eq!(
        member.calls()[0].params()[1],
        json!({"params": {}, "volatile": true, "wait_s": 30})
    );
}

#[test]
fn nothing_of_a_login_is_in_debug() {
    let builder = Client::builder().user("admin").password(Secret::new("hunter2"));
    assert!(!format!("{builder:?}").contains("hunter2"));
}
