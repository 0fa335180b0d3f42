//! The security table: every method × every person × every form, every job × every user, each at
//! the master and forwarded by another member, and every HTTP door × every person.
//!
//! What is expected stands here, by hand, per method and per job; a method or job without a row
//! fails. Nothing is derived from the daemon's own declarations: a right that is widened by mistake
//! must fail here.

use super::forms::{FORMS, Form, Outcome};
use super::people::{Crowd, Person, Rank, job};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use tiebeam_tests::door::Door;
use tiebeam_tests::tls::Certificate;
use tiebeam_tests::{Login, Options, TestNode};

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Also without a login, alone in its request.
    Everybody,
    /// Whoever is logged in.
    LoggedIn,
    /// Whoever may see a job of `admin`.
    SeesJob,
    /// Whoever may cancel it.
    CancelsJob,
}

/// What a caller meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// The method ran: a result, or an error about its arguments.
    Ran,
    /// 401.
    NoLogin,
    /// 403: not let in.
    Stranger,
    /// -32003.
    Forbidden,
    /// -32004.
    Hidden,
}

impl Met {
    const fn letter(self) -> char {
        match self {
            Met::Ran => '+',
            Met::NoLogin => '-',
            Met::Stranger => 'x',
            Met::Forbidden => 'f',
            Met::Hidden => 'h',
        }
    }

    fn of(outcome: &Outcome) -> Met {
        match outcome.code() {
            401 | -32008 => Met::NoLogin,
            403 => Met::Stranger,
            -32003 => Met::Forbidden,
            -32004 => Met::Hidden,
            // Every other error but "internal" comes from a method that ran.
            code if code <= 0 && code != -32603 && code != -32601 => Met::Ran,
            _ => panic!("{outcome:?}"),
        }
    }
}

/// A method, its rule, and arguments that hurt nobody; `JOB` stands for a job of `admin`.
type Row = (&'static str, Rule, fn(&str) -> Value);

const METHODS: [Row; 25] = [
    ("events", Rule::LoggedIn, |_| json!(["s0", 0])),
    ("job_cancel", Rule::CancelsJob, |job| json!([job])),
    ("job_desc", Rule::LoggedIn, |_| json!(["node_list"])),
    ("job_exec", Rule::LoggedIn, |_| json!(["node_list"])),
    ("job_file", Rule::SeesJob, |job| json!([job])),
    ("job_finished", Rule::SeesJob, |job| json!([job])),
    ("job_help", Rule::LoggedIn, |_| json!(["node_list"])),
    ("job_history", Rule::LoggedIn, |_| json!([{"limit": 1}])),
    ("job_info", Rule::SeesJob, |job| json!([job])),
    ("job_list", Rule::LoggedIn, |_| json!([])),
    ("job_result", Rule::SeesJob, |job| json!([job])),
    ("job_start", Rule::LoggedIn, |_| json!(["node_list"])),
    ("job_wait", Rule::SeesJob, |job| json!([job, 0])),
    ("rpc.discover", Rule::LoggedIn, |_| json!([])),
    ("subscribe", Rule::LoggedIn, |_| json!([{}])),
    ("system.getCapabilities", Rule::LoggedIn, |_| json!([])),
    ("system.listMethods", Rule::LoggedIn, |_| json!([])),
    ("system.methodHelp", Rule::LoggedIn, |_| json!(["job_list"])),
    ("system.methodSignature", Rule::LoggedIn, |_| json!(["job_list"])),
    ("system.multicall", Rule::LoggedIn, |_| json!([[]])),
    ("unsubscribe", Rule::LoggedIn, |_| json!(["s0"])),
    ("user_init", Rule::Everybody, |_| json!([])),
    ("user_login", Rule::Everybody, |_| json!([])),
    ("user_logout", Rule::LoggedIn, |_| json!(["no token"])),
    ("user_state", Rule::LoggedIn, |_| json!([])),
];

/// Who may run a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Everybody,
    Administrators,
    /// And a user about themself, whom this parameter names.
    OrSelf(&'static str),
}

const JOBS: [(&str, Who); 55] = [
    ("cert_info", Who::Administrators),
    ("cert_update", Who::Administrators),
    ("clock_accept", Who::Administrators),
    ("cluster_info", Who::Everybody),
    ("command_run", Who::Administrators),
    ("config_blame", Who::Administrators),
    ("config_delete", Who::Administrators),
    ("config_diff", Who::Administrators),
    ("config_get", Who::Administrators),
    ("config_log", Who::Administrators),
    ("config_merge", Who::Administrators),
    ("config_rollback", Who::Administrators),
    ("config_schema_set", Who::Administrators),
    ("config_set", Who::Administrators),
    ("config_wait", Who::Administrators),
    ("db_list", Who::Everybody),
    ("debug_collect", Who::Administrators),
    ("general_settings", Who::Administrators),
    ("group_create", Who::Administrators),
    ("group_delete", Who::Administrators),
    ("group_info", Who::Administrators),
    ("group_list", Who::Administrators),
    ("history_verify", Who::Administrators),
    ("job_retention", Who::Administrators),
    ("lock_list", Who::Administrators),
    ("lock_release", Who::Administrators),
    ("log_collect", Who::Administrators),
    ("master_change", Who::Administrators),
    ("node_add", Who::Administrators),
    ("node_demote", Who::Administrators),
    ("node_info", Who::Administrators),
    ("node_label", Who::Administrators),
    ("node_list", Who::Everybody),
    ("node_modify", Who::Administrators),
    ("node_promote", Who::Administrators),
    ("node_remove", Who::Administrators),
    ("node_resume", Who::Administrators),
    ("node_state", Who::Everybody),
    ("node_suspend", Who::Administrators),
    ("node_token", Who::Administrators),
    ("node_wait_offline", Who::Administrators),
    ("node_wait_ready", Who::Administrators),
    ("right_check", Who::Everybody),
    ("service_list", Who::Administrators),
    ("service_restart", Who::Administrators),
    ("service_start", Who::Administrators),
    ("service_state", Who::Administrators),
    ("service_stop", Who::Administrators),
    ("settings_list", Who::Administrators),
    ("user_create", Who::Administrators),
    ("user_delete", Who::Administrators),
    ("user_info", Who::OrSelf("username")),
    ("user_list", Who::Administrators),
    ("user_modify", Who::Administrators),
    ("user_passwd", Who::OrSelf("username")),
];

fn expected(rule: Rule, rank: Rank, form: Form) -> Met {
    let needs_login =
        rule != Rule::Everybody || matches!(form, Form::Batch | Form::Multicall | Form::WebSocket);
    match (rank, rule) {
        (Rank::Stranger, _) => Met::Stranger,
        (Rank::NoLogin, _) if !needs_login => Met::Ran,
        (Rank::NoLogin | Rank::BadLogin, _) => Met::NoLogin,
        (rank, Rule::SeesJob | Rule::CancelsJob) if !rank.sees_all() => Met::Hidden,
        (rank, Rule::CancelsJob) if !rank.administers() => Met::Forbidden,
        _ => Met::Ran,
    }
}

#[test]
fn every_method_and_every_job_has_a_row() {
    let rows: BTreeSet<&str> = METHODS.iter().map(|(name, _, _)| *name).collect();
    let methods = tiebeamd::methods::METHODS.iter().map(|method| method.name);
    let there: BTreeSet<&str> = methods.chain(tiebeamd::front::dispatch::OWN).collect();
    assert_eq!(rows, there, "methods");

    let rows: Vec<&str> = JOBS.iter().map(|(name, _)| *name).collect();
    let there: Vec<&str> = tiebeam_jobs::JOBS.iter().map(|job| job.declaration.name).collect();
    assert_eq!(rows, there, "jobs");
    for ((name, who), job) in JOBS.iter().zip(tiebeam_jobs::JOBS) {
        let declared = &job.declaration;
        assert_eq!(declared.everyone, *who == Who::Everybody, "{name}");
        let own = match who {
            Who::OrSelf(parameter) => Some(*parameter),
            _ => None,
        };
        assert_eq!(declared.self_param, own, "{name}");
        if !declared.everyone {
            assert_eq!(declared.users, ["root"], "{name}");
            assert_eq!(declared.groups, ["root", "exaadm"], "{name}");
        }
    }
}

/// A call that a person made, and what they met instead of what they should.
type Wrong = String;

/// One person's column: for each method a letter per form.
fn column(person: &Person, admins_job: &str) -> (Vec<String>, Vec<Wrong>) {
    let mut lines = person.lines();
    let (mut letters, mut wrong) = (Vec::new(), Vec::new());
    for (method, rule, params) in METHODS {
        let mut cell = String::new();
        for form in FORMS {
            if person.moves() {
                lines = person.lines();
            }
            let outcome = lines.ask(form, method, &params(admins_job));
            let (met, must) = (Met::of(&outcome), expected(rule, person.rank, form));
            cell.push(met.letter());
            if met != must {
                let title = person.title;
                wrong.push(format!("{title} {form:?} {method}: {must:?}, but {outcome:?}"));
            }
        }
        letters.push(cell);
    }
    (letters, wrong)
}

#[test]
fn every_method_for_every_person_in_every_form() {
    every_method_for(&Crowd::gather(TestNode::start(Options::default())));
}

#[test]
fn every_method_for_every_person_in_every_form_forwarded() {
    every_method_for(&Crowd::gather_before_a_follower());
}

fn every_method_for(crowd: &Crowd) {
    let started = crowd.node.call(&crowd.node.admin(), "job_start", json!(["node_list"]));
    let admins_job = started.expect("a job").as_str().expect("its id").to_owned();
    let columns: Vec<(Vec<String>, Vec<Wrong>)> = std::thread::scope(|scope| {
        let running: Vec<_> =
            crowd.people.iter().map(|person| scope.spawn(|| column(person, &admins_job))).collect();
        running.into_iter().map(|one| one.join().expect("a column")).collect()
    });
    print_table(&crowd.people, &columns);
    let wrong: Vec<Wrong> = columns.into_iter().flat_map(|(_, wrong)| wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let listed = crowd.node.call(&crowd.node.admin(), "system.listMethods", json!([]));
    assert_eq!(listed, Ok(json!(METHODS.map(|(name, _, _)| name))));
}

fn print_table(people: &[Person], columns: &[(Vec<String>, Vec<Wrong>)]) {
    let mut text = format!("one letter per form, in the order of {FORMS:?}\n");
    text.push_str("+ ran, - 401, x 403, f forbidden, h hidden\n");
    let titles: String = people.iter().map(|person| format!(" {:>11}", person.title)).collect();
    let _ = writeln!(text, "{:24}{titles}", "");
    for (at, (method, _, _)) in METHODS.iter().enumerate() {
        let cells: String =
            columns.iter().map(|(letters, _)| format!(" {:>11}", letters[at])).collect();
        let _ = writeln!(text, "{method:24}{cells}");
    }
    println!("{text}");
}

/// Parameters of a job's first example; about the caller themself if it can be.
fn example(name: &str, who: Who, user: &str) -> Value {
    let job = tiebeam_jobs::find(name).expect("it is registered");
    let mut params = job.declaration.example_values().first().cloned().expect("an example");
    if let Who::OrSelf(parameter) = who {
        params[parameter] = json!(user);
    }
    params
}

fn may(who: Who, rank: Rank, about_self: bool) -> bool {
    match who {
        Who::Everybody => true,
        Who::Administrators => rank.administers(),
        Who::OrSelf(_) => rank.administers() || about_self,
    }
}

/// Jobs are planned only, where they can be; what acts finds nothing that it may start here.
fn kwargs(name: &str, params: &Value) -> Value {
    let acts =
        tiebeam_jobs::find(name).expect("a job").declaration.kind == tiebeam_proto::Kind::Act;
    match acts {
        true => json!({"params": params, "wait_s": 0, "deadline_s": 5}),
        false => json!({"params": params, "wait_s": 0, "dry_run": true, "deadline_s": 5}),
    }
}

/// One person's column of the jobs: `+` or `f`, by `job_exec` and as a method of `/rest`.
fn jobs_column(person: &Person) -> (Vec<String>, Vec<Wrong>) {
    let (mut letters, mut wrong) = (Vec::new(), Vec::new());
    let mut lines = person.lines();
    for (name, who) in JOBS {
        let mut cell = String::new();
        for about_self in [true, false] {
            let about = if about_self { person.user } else { "u_other" };
            let kwargs = kwargs(name, &example(name, who, about));
            let must = if may(who, person.rank, about_self) { Met::Ran } else { Met::Forbidden };
            let calls = [
                lines.ask(Form::Single, "job_exec", &job(name, kwargs.clone())),
                lines.ask(Form::RestEnveloped, name, &kwargs),
            ];
            for outcome in calls {
                let met = Met::of(&outcome);
                cell.push(met.letter());
                if met != must {
                    let title = person.title;
                    wrong.push(format!("{title} {name} of {about}: {must:?}, but {outcome:?}"));
                }
            }
        }
        letters.push(cell);
    }
    (letters, wrong)
}

#[test]
fn every_job_for_every_user() {
    every_job_for(&Crowd::gather(TestNode::start(Options::default())));
}

#[test]
fn every_job_for_every_user_forwarded() {
    every_job_for(&Crowd::gather_before_a_follower());
}

fn every_job_for(crowd: &Crowd) {
    let people: Vec<&Person> = crowd.people.iter().filter(|person| person.rank.is_in()).collect();
    let columns: Vec<(Vec<String>, Vec<Wrong>)> = std::thread::scope(|scope| {
        let running: Vec<_> =
            people.iter().map(|person| scope.spawn(|| jobs_column(person))).collect();
        running.into_iter().map(|one| one.join().expect("a column")).collect()
    });
    let titles: String = people.iter().map(|person| format!(" {:>11}", person.title)).collect();
    println!("two about the caller, two about another: job_exec, /rest\n{:24}{titles}", "");
    for (at, (name, _)) in JOBS.iter().enumerate() {
        let cells: String =
            columns.iter().map(|(letters, _)| format!(" {:>11}", letters[at])).collect();
        println!("{name:24}{cells}");
    }
    let wrong: Vec<Wrong> = columns.into_iter().flat_map(|(_, wrong)| wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Jobs of the daemon itself are nobody's to start.
    for method in ["job_start", "job_exec"] {
        let error = crowd.node.call(&crowd.node.admin(), method, json!(["user_init"]));
        assert_eq!(error.expect_err("no job")["code"], -32001);
    }
}

/// A door of HTTP, and the status for somebody in and somebody out.
struct HttpDoor {
    method: &'static str,
    path: &'static str,
    status: fn(Rank) -> u16,
}

/// Only with a good login; 200 then.
fn login(rank: Rank) -> u16 {
    match rank {
        Rank::NoLogin | Rank::BadLogin => 401,
        Rank::Stranger => 403,
        _ => 200,
    }
}

/// As [`login`], but what is asked for is a WebSocket.
fn no_upgrade(rank: Rank) -> u16 {
    match login(rank) {
        200 => 400,
        status => status,
    }
}

fn metrics(rank: Rank) -> u16 {
    match rank {
        Rank::Plain | Rank::Auditor => 403,
        rank => login(rank),
    }
}

const DOORS: [HttpDoor; 23] = [
    HttpDoor { method: "POST", path: "/", status: login },
    HttpDoor { method: "POST", path: "/rpc2", status: login },
    HttpDoor { method: "POST", path: "/RPC2", status: login },
    HttpDoor { method: "POST", path: "/rpc", status: login },
    HttpDoor { method: "POST", path: "/rest", status: login },
    HttpDoor { method: "GET", path: "/metrics", status: metrics },
    HttpDoor { method: "GET", path: "/master", status: |_| 200 },
    HttpDoor { method: "GET", path: "/master?info_type=name", status: |_| 200 },
    HttpDoor { method: "GET", path: "/is_master", status: |_| 200 },
    HttpDoor { method: "GET", path: "/health/live", status: |_| 200 },
    HttpDoor { method: "GET", path: "/health/ready", status: |_| 200 },
    // Open to everybody: what opens it is a token in the body, and a call is none.
    HttpDoor { method: "POST", path: "/join", status: |_| 400 },
    HttpDoor { method: "GET", path: "/join", status: |_| 405 },
    HttpDoor { method: "GET", path: "/ws", status: no_upgrade },
    HttpDoor { method: "GET", path: "/", status: |_| 405 },
    HttpDoor { method: "GET", path: "/rest", status: |_| 405 },
    HttpDoor { method: "PUT", path: "/rpc2", status: |_| 405 },
    HttpDoor { method: "POST", path: "/metrics", status: |_| 405 },
    HttpDoor { method: "POST", path: "/ws", status: |_| 405 },
    HttpDoor { method: "POST", path: "/master", status: |_| 405 },
    HttpDoor { method: "GET", path: "/health", status: |_| 404 },
    HttpDoor { method: "GET", path: "/../keys/ca.key", status: |_| 404 },
    HttpDoor { method: "POST", path: "/RPC", status: |_| 404 },
];

#[test]
fn every_http_door_for_every_person() {
    let crowd = Crowd::gather(TestNode::start(Options::default()));
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "job_list"}).to_string();
    let mut wrong = Vec::new();
    for person in &crowd.people {
        let mut line = format!("{:>11} ", person.title);
        for HttpDoor { method, path, status } in &DOORS {
            let mut wire = person.connect().expect("a connection");
            let reply = wire.request(method, path, &person.login, &[], body.as_bytes());
            let reply = reply.expect("an answer");
            let _ = write!(line, " {}", reply.status);
            if reply.status != status(person.rank) {
                wrong.push(format!("{} {method} {path}: {}", person.title, reply.status));
            }
            if reply.status == 401 {
                let shown = reply.header("www-authenticate").unwrap_or_default();
                assert!(shown.contains("Basic realm=\"tiebeam\""), "{shown}");
                assert!(reply.text().len() < 200, "a 401 tells nothing: {}", reply.text());
            }
        }
        println!("{line}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    peers_only(&crowd.node);
}

/// The protocol of the members is for members: without a certificate, and with a user's, the
/// connection ends before anything is answered.
fn peers_only(node: &TestNode) {
    let (chain, key) = super::people::user_certificate(node, "u_exausers");
    for own in [None, Some(Certificate { chain: &chain, key: &key })] {
        let door = Door::new(node.address, &node.ca_file, "tiebeam-peer/1", own).expect("a door");
        let answered = door.open().and_then(|mut wire| {
            wire.request("POST", "/", &node.admin(), &[], b"{}").map(|reply| reply.status)
        });
        assert!(answered.is_err(), "{answered:?}");
    }
    assert!(node.call(&Login::None, "user_login", json!(["admin", node.password])).is_ok());
}
