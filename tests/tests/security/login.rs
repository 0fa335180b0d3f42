//! Passwords, first passwords and tokens: how they are slowed, how they live and how they die.

use super::canaries::search::audit_records;
use super::people::{new_network, token};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tiebeam_proto::time::Time;
use tiebeam_tests::door::Door;
use tiebeam_tests::{Login, Options, TestNode};

/// An answer to a failed login comes no later than this (wire.md); the machine may be busy, so
/// what is asserted is four times as long.
const REFUSED_WITHIN: Duration = Duration::from_secs(8);
/// The slow-down of the fourth failure in a row, less what a clock may differ.
const SLOWED: Duration = Duration::from_millis(1700);

fn door(node: &TestNode) -> Door {
    Door::new(node.address, &node.ca_file, "http/1.1", None).expect("a door")
}

/// The status of a call with this login from this address, and how long it took.
fn knock(door: &Door, source: Ipv4Addr, login: &Login) -> (u16, Duration) {
    let mut wire = door.entered_from(source).open().expect("a connection");
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "user_state"}).to_string();
    let began = Instant::now();
    let reply = wire.request("POST", "/", login, &[], body.as_bytes()).expect("an answer");
    (reply.status, began.elapsed())
}

fn is_in(node: &TestNode, login: &Login) -> bool {
    knock(&door(node), new_network(), login).0 == 200
}

/// The audit records that `admin` is shown: their words and users.
pub(super) fn audits(node: &TestNode) -> Vec<(String, String)> {
    let (mut found, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let filter = json!([{"limit": 200, "cursor": cursor}]);
        let page = node.call(&node.admin(), "job_history", filter).expect("a page");
        for record in page["records"].as_array().expect("records") {
            if let Some(word) = record["audit"].as_str() {
                let user = record["user"].as_str().unwrap_or_default();
                found.push((word.to_owned(), user.to_owned()));
            }
        }
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return found;
        }
    }
}

/// Failed logins of a user from one address, as the history of the stopped node has them: there
/// are few records, 10 s apart, and nobody is left out.
fn check_collected(node: &TestNode, user: &str, source: Ipv4Addr, failures: u64) {
    let source = source.to_string();
    let records: Vec<Value> = audit_records(&node.data)
        .into_iter()
        .filter(|record| record["audit"] == "login_failed" && record["user"] == user)
        .filter(|record| record["source"] == source.as_str())
        .collect();
    let counted: u64 = records.iter().filter_map(|record| record["count"].as_u64()).sum();
    assert_eq!(counted, failures, "{records:#?}");
    let times: BTreeSet<i64> = records
        .iter()
        .map(|record| serde_json::from_value::<Time>(record["time"].clone()).expect("a time").0)
        .collect();
    assert_eq!(times.len(), records.len(), "{records:#?}");
    let gaps = times.iter().zip(times.iter().skip(1)).map(|(one, next)| next - one);
    for gap in gaps {
        assert!(gap >= 9_900_000, "one record in 10 s: {records:#?}");
    }
}

#[test]
fn wrong_passwords_are_slowed_per_user_and_source_and_lock_nobody_out() {
    let mut node = TestNode::start(Options::default());
    let door = door(&node);
    let (wrong, guesser) = (Login::basic("admin", "a-guess-that-is-wrong"), new_network());
    let slow: Vec<Duration> = (0..4)
        .map(|_| {
            let (status, took) = knock(&door, guesser, &wrong);
            assert_eq!(status, 401);
            assert!(took < REFUSED_WITHIN, "{took:?}");
            took
        })
        .collect();
    assert!(slow[3] >= SLOWED, "each failure in a row is slower: {slow:?}");
    let mut failures = slow.len() as u64;
    std::thread::scope(|scope| {
        let burst: Vec<_> = (0..64)
            .map(|number| {
                let (door, guess) = (&door, format!("guess-number-{number}"));
                scope.spawn(move || knock(door, guesser, &Login::basic("admin", &guess)))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        // From elsewhere the right password is right, at once and all the time.
        for _ in 0..3 {
            let (status, took) = knock(&door, new_network(), &node.admin());
            assert_eq!(status, 200);
            assert!(took < REFUSED_WITHIN, "{took:?}");
        }
        for one in burst {
            let (status, _) = one.join().expect("an answer");
            assert!([401, 503].contains(&status), "{status}");
            // Who found no room was not verified, so nothing failed.
            failures += u64::from(status == 401);
        }
    });
    // And from the guesser's own network, once it is quiet there.
    assert_eq!(knock(&door, guesser, &node.admin()).0, 200);
    assert_eq!(node.terminate(), 0);
    check_collected(&node, "admin", guesser, failures);
}

#[test]
fn who_is_not_there_looks_like_who_mistyped() {
    let node = TestNode::start(Options::default());
    let alice = node.user("alice", 3001, "exausers");
    node.output("user_create", json!({"username": "nopass", "userid": 3002, "group": "exausers"}));
    node.output("user_modify", json!({"username": "alice", "login_enabled": false}));
    let ask = |login: &Login| {
        let mut wire = door(&node).entered_from(new_network()).open().expect("a connection");
        let reply = wire.request("POST", "/", login, &[], b"{}").expect("an answer");
        let headers: Vec<_> =
            reply.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
        (reply.status, headers, reply.body)
    };
    let wrong = ask(&Login::basic("admin", "not-the-password"));
    assert_eq!(wrong.0, 401);
    let others = [
        alice,
        Login::basic("nopass", ""),
        Login::basic("nobody_here", "whatever-it-is"),
        Login::basic("root", ""),
        Login::Bearer("tb1.1.e30.AAAA".to_owned()),
    ];
    for login in others {
        assert_eq!(ask(&login), wrong, "{login:?}");
    }
}

#[test]
fn the_first_password_is_set_once_with_the_secret() {
    let node = TestNode::start(Options::default());
    let params = json!({"username": "dora", "userid": 3001, "group": "exausers"});
    let made = node.output("user_create", params);
    let secret = made["one_time_secret"].as_str().expect("a secret").to_owned();
    let init = |secret: &str, password: &str| {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "user_init",
                          "params": ["dora", secret, password]});
        let mut wire = door(&node).entered_from(new_network()).open().expect("a connection");
        let reply = wire.request("POST", "/", &Login::None, &[], body.to_string().as_bytes());
        let reply = reply.expect("an answer");
        match reply.status {
            200 => reply.json()["result"].clone(),
            status => json!(status),
        }
    };
    let login = Login::basic("dora", "a-password-of-dora");
    assert!(!is_in(&node, &login));
    assert!(!is_in(&node, &Login::basic("dora", &secret)), "the secret is no password");
    assert_eq!(init("not-the-secret", "a-password-of-dora"), json!(401));
    assert_eq!(init(&secret, "a-password-of-dora"), json!(true));
    assert!(is_in(&node, &login));
    assert_eq!(init(&secret, "another-one-of-dora"), json!(401), "it is used up");
    assert!(is_in(&node, &login));
    // A password that is set ends a secret that was not used.
    let params = json!({"username": "emil", "userid": 3002, "group": "exausers"});
    let made = node.output("user_create", params);
    let secret = made["one_time_secret"].as_str().expect("a secret").to_owned();
    let params = json!({"username": "emil", "password": "a-password-of-emil"});
    node.output("user_passwd", params);
    let params = json!(["emil", secret, "taken-over-by-a-thief"]);
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "user_init", "params": params});
    let reply = node.connect().request("POST", "/", &Login::None, &[], body.to_string().as_bytes());
    assert_eq!(reply.expect("an answer").status, 401);
    assert!(is_in(&node, &Login::basic("emil", "a-password-of-emil")));
}

#[test]
fn a_token_lives_as_long_as_it_says_and_no_longer_than_its_user_allows() {
    let node = TestNode::start(Options::default());
    for (ttl, code) in [(json!(0), -32602), (json!(86_401), -32602), (json!(-1), -32602)] {
        let error = node.call(&Login::None, "user_login", json!(["admin", node.password, ttl]));
        assert_eq!(error.expect_err("no token")["code"], code, "{ttl}");
    }
    for ttl in [1, 86_400] {
        let made = node.call(&Login::None, "user_login", json!(["admin", node.password, ttl]));
        assert!(made.expect("a token")["token"].is_string());
    }
    node.user("frida", 3001, "exausers");
    let fresh = || Login::Bearer(token(&node, "frida", 600));

    let mut short = Login::Bearer(token(&node, "frida", 2));
    assert!(is_in(&node, &short));
    std::thread::sleep(Duration::from_millis(2500));
    assert!(!is_in(&node, &short), "its time is over");

    let (one, other) = (fresh(), fresh());
    let Login::Bearer(text) = &one else { panic!("a token") };
    let admin = node.call(&node.admin(), "user_logout", json!([text])).expect_err("not theirs");
    assert_eq!(admin["code"], -32003, "nobody ends another's token");
    assert_eq!(node.call(&other, "user_logout", json!([text])), Ok(json!(true)));
    assert!(!is_in(&node, &one) && is_in(&node, &other), "only that one ended");

    short = fresh();
    let changes: [(&str, Value); 4] = [
        ("user_modify", json!({"username": "frida", "additional_groups": ["monitor"]})),
        ("user_modify", json!({"username": "frida", "group": "exadbadm"})),
        ("user_passwd", json!({"username": "frida", "password": "frida-has-a-password"})),
        ("user_modify", json!({"username": "frida", "login_enabled": false})),
    ];
    for (job, params) in changes {
        assert!(is_in(&node, &short), "before {job} {params}");
        node.output(job, params.clone());
        assert!(!is_in(&node, &short), "after {job} {params}");
        if params["login_enabled"] != json!(false) {
            short = fresh();
        }
    }
    // Enabled again, the old token stays dead; so it does when the user is made again.
    node.output("user_modify", json!({"username": "frida", "login_enabled": true}));
    assert!(!is_in(&node, &short));
    let last = fresh();
    node.output("user_delete", json!({"username": "frida"}));
    assert!(!is_in(&node, &last));
    node.user("frida", 3001, "exausers");
    assert!(!is_in(&node, &last), "a new user of an old name");
}

#[test]
fn an_open_socket_and_a_long_poll_end_with_the_login() {
    let node = TestNode::start(Options::default());
    node.user("gina", 3001, "exausers");
    let login = Login::Bearer(token(&node, "gina", 600));
    let mut wire = node.connect();
    assert_eq!(wire.upgrade(&login).expect("an answer").status, 101);
    let subscription = node.call(&login, "subscribe", json!([{}])).expect("a subscription");
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| node.call(&login, "events", json!([subscription, 60])));
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        node.output("user_modify", json!({"username": "gina", "login_enabled": false}));
        assert!(wire.closed(), "the WebSocket is closed");
        let answer = poll.join().expect("an answer");
        println!("the long poll: {answer:?} after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(30), "the poll ends with the login");
    });
    // A token that its owner ends takes its sockets along, though nothing else happens then.
    node.output("user_modify", json!({"username": "gina", "login_enabled": true}));
    let text = token(&node, "gina", 600);
    let login = Login::Bearer(text.clone());
    let mut wire = node.connect();
    assert_eq!(wire.upgrade(&login).expect("an answer").status, 101);
    assert_eq!(node.call(&login, "user_logout", json!([text])), Ok(json!(true)));
    assert!(wire.closed(), "the WebSocket is closed");
}
