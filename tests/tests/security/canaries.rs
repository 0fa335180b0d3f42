//! Secrets are planted wherever a client can put one, and looked for wherever the daemon can leave
//! one: every file of the data folder (as it is, decompressed, as hex and as base64), its own log,
//! `/metrics`, events, every answer, and the processes' arguments and environment.

mod plant;
pub(super) mod search;

use plant::Planted;
use search::Haystack;
use serde_json::{Value, json};
use tiebeam_tests::{Login, Options, TestNode, Wire};

/// A text of the reason of a job: kept in the record by contract, and nowhere else.
const REASON: &str = "canary-reason-6d1e77";

fn node() -> TestNode {
    let options = Options::default()
        .set("log.level", "debug")
        .set("exec.enabled", "true")
        .set("exec.allow", "/bin/sleep,/bin/true,/bin/false")
        .set("exec.users", "root,nobody");
    TestNode::start(options)
}

/// Every event so far, as `admin` sees them.
fn events(wire: &mut Wire, login: &Login) -> Vec<u8> {
    let filter = json!({"jobs": "all", "since": "0.0"});
    let id = wire.call(login, "subscribe", json!([filter])).expect("a subscription");
    let mut all = Vec::new();
    loop {
        let some = wire.call(login, "events", json!([id, 0])).expect("events");
        if some == json!([]) {
            return all;
        }
        all.extend_from_slice(some.to_string().as_bytes());
    }
}

/// Everything that the API tells of every job, to `admin`.
fn records(wire: &mut Wire, login: &Login) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let filter = json!([{"limit": 100, "cursor": cursor}]);
        let page = wire.call(login, "job_history", filter).expect("a page");
        found.push(("job_history".to_owned(), page.to_string().into_bytes()));
        for record in page["records"].as_array().expect("records") {
            let Some(job) = record["job"].as_str() else { continue };
            for method in ["job_info", "job_file"] {
                let answer = wire.call(login, method, json!([job])).expect("a record");
                found.push((format!("{method} {job}"), answer.to_string().into_bytes()));
            }
        }
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return found;
        }
    }
}

#[test]
fn no_secret_is_left_anywhere() {
    let mut node = node();
    let planted = Planted::plant(&node);
    let login = node.admin();
    let mut wire = node.connect();

    let mut hay = Haystack::default();
    hay.add("metrics", node.get(&login, "/metrics").body);
    hay.add("events", events(&mut wire, &login));
    for (name, answer) in &planted.answers {
        hay.add(&format!("answer to {name}"), answer.clone());
    }
    hay.add_log(&node);
    // By contract the reason is in records alone.
    hay.holds_none(&[("reason", REASON.to_owned())]);

    for (name, answer) in records(&mut wire, &login) {
        hay.add(&name, answer);
    }
    let read = [
        ("config_get", json!({})),
        ("config_log", json!({})),
        ("config_blame", json!({"path": "app"})),
        ("user_list", json!({})),
        ("cert_info", json!({})),
        ("settings_list", json!({})),
        ("lock_list", json!({})),
    ];
    for (job, params) in read {
        hay.add(job, node.exec(job, params).to_string().into_bytes());
    }
    drop(wire);
    hay.add_folder(&node.data);
    hay.holds_none(&planted.secrets);

    // Again after a clean end, when everything is on disk, and after the offline check.
    assert_eq!(node.terminate(), 0);
    let checked = node.check();
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
    let mut hay = Haystack::default();
    hay.add("check", format!("{}{}", checked.out, checked.err).into_bytes());
    hay.add_log(&node);
    hay.add_folder(&node.data);
    hay.holds_none(&planted.secrets);
    assert!(hay.finds(REASON), "the search finds what is there");
    assert!(hay.finds("canary_user"), "the search finds what is there");
}

#[test]
fn secrets_are_in_no_arguments_and_no_environment() {
    let node = node();
    let (login, stdin) = (node.admin(), "canary-stdin-of-a-process-11");
    let params = json!({"argv": ["/bin/sleep", "20"], "stdin": stdin, "timeout_s": 30,
                        "env": {"CANARY": "canary-env-of-a-process-12"}});
    let started = node.call(&login, "job_start", json!(["command_run", {"params": params}]));
    let id = started.expect("a job");
    let processes = search::processes_when_started(node.pid(), "/bin/sleep");
    let has_shim = processes.iter().any(|process| process.arguments.contains("exec-shim"));
    assert!(has_shim, "a shim waits for the program");
    for process in &processes {
        let arguments = &process.arguments;
        assert!(!arguments.contains("canary"), "{arguments}");
        // `env` is the environment of the program, and of nobody else.
        let is_program = arguments.starts_with("/bin/sleep");
        assert!(is_program || !process.environment.contains("canary"), "{arguments}");
        assert!(!is_program || !process.environment.contains("CARGO_"), "a clean environment");
        assert!(!process.environment.contains(stdin), "{arguments}");
        assert!(!process.environment.contains(&node.password), "{arguments}");
    }
    assert_eq!(node.call(&login, "job_cancel", json!([id])), Ok(json!("stopping")));
    let ended = node.call(&login, "job_wait", json!([id, 30]));
    assert_eq!(ended, Ok(json!(true)));
}
