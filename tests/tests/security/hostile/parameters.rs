//! Poison in every parameter of every job, made from the declarations: a new job is covered the
//! day it is declared.

use super::super::forms::{Form, Lines, Outcome};
use super::{POISON, door, is_well, node};
use serde_json::{Map, Value, json};
use tiebeam_core::declaration::Type;
use tiebeam_jobs::JOBS;
use tiebeam_proto::Kind;

/// The shapes in which a poisoned text can stand in a parameter of this type.
fn shapes(kind: Type, text: &str) -> Vec<Value> {
    match kind {
        Type::Lines | Type::List => vec![json!([text]), json!(text), json!([[text]])],
        Type::Dict => vec![json!({ text: text }), json!(text)],
        Type::Nodes => vec![json!(text), json!([text])],
        Type::Object => vec![json!(text), json!({ text: [text] })],
        _ => vec![json!(text)],
    }
}

/// An answer that a client can work with: a result with a known code, or an error that is neither
/// "internal" nor empty; one line of text without control characters.
fn is_clear(outcome: &Outcome) -> bool {
    let is_line = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    match outcome {
        Outcome::Result(Value::Object(result)) => {
            let code = result.get("result_code").and_then(Value::as_i64);
            let text = result.get("result_desc").and_then(Value::as_str).unwrap_or_default();
            code.is_some_and(|code| (0..=7).contains(&code)) && is_line(text)
        }
        Outcome::Result(_) => true,
        Outcome::Error(code, text) => *code != -32603 && is_line(text),
        Outcome::Http(_) => false,
    }
}

fn kwargs(kind: Kind, params: &Map<String, Value>) -> Value {
    // What only reads waits for nobody; what acts finds nothing that it may start.
    let volatile = kind == Kind::Read;
    json!({"params": params, "wait_s": 0.2, "deadline_s": 2, "dry_run": false,
           "reason": if volatile { Value::Null } else { json!("poison") }})
}

#[test]
fn poison_in_every_parameter_of_every_job() {
    let mut node = node();
    let door = door(&node);
    let mut lines = Lines::new(&node.admin(), || door.open());
    let (mut calls, mut unclear) = (0, Vec::new());
    for job in JOBS {
        let declared = &job.declaration;
        let example = declared.example_values().first().cloned().expect("an example");
        let example = example.as_object().expect("an example is a map");
        for param in declared.params {
            for poison in POISON {
                for value in shapes(param.kind, poison) {
                    let mut params = example.clone();
                    params.insert(param.name.to_owned(), value);
                    let call = json!([declared.name, kwargs(declared.kind, &params)]);
                    let outcome = lines.ask(Form::Single, "job_exec", &call);
                    calls += 1;
                    if !is_clear(&outcome) {
                        let text = format!("{} {} {poison:?}", declared.name, param.name);
                        unclear.push(format!("{text}: {outcome:?}"));
                    }
                }
            }
        }
    }
    println!("{calls} calls");
    assert!(unclear.is_empty(), "{}", unclear.join("\n"));
    assert!(!std::path::Path::new("/tmp/tiebeam-was-here").exists(), "nothing runs a shell");
    is_well(&mut node);
}

#[test]
fn poison_beside_the_parameters() {
    let mut node = node();
    let door = door(&node);
    let mut lines = Lines::new(&node.admin(), || door.open());
    let ids = [
        "",
        " 11.1",
        "11.1 ",
        "11.01",
        "11.-1",
        "11.1.1",
        "0.1",
        "11",
        ".",
        "11.v1",
        "11.v99999999999999999999",
        "99999999999999999999.1",
        "11.99999999999999999999999",
    ];
    let mut asked = Vec::new();
    for text in POISON.iter().chain(&ids).copied() {
        for method in ["job_info", "job_result", "job_file", "job_finished", "job_cancel"] {
            asked.push((method, json!([text])));
        }
        asked.push(("job_wait", json!([text, 0])));
        for method in ["job_start", "job_exec", "job_help", "job_desc"] {
            asked.push((method, json!([text])));
        }
        for key in ["reason", "request_id", "wait_s", "dry_run", "params", "plan", text] {
            asked.push(("job_exec", json!(["node_list", { key: text }])));
        }
        for key in ["name", "user", "outcome", "stage", "since", "cursor", "job", "text", text] {
            asked.push(("job_history", json!([{ key: text }])));
        }
        for key in ["jobs", "kinds", "since", text] {
            asked.push(("subscribe", json!([{ key: text }])));
        }
        asked.push(("events", json!([text, 0])));
        asked.push(("unsubscribe", json!([text])));
        asked.push(("user_logout", json!([text])));
        asked.push(("system.methodHelp", json!([text])));
        asked.push(("system.methodSignature", json!([text])));
        asked.push((text, json!([])));
    }
    for (method, params) in asked {
        for form in [Form::Single, Form::RestEnveloped] {
            let outcome = lines.ask(form, method, &params);
            // A reason of one harmless line is no error.
            let clear = is_clear(&outcome) || matches!(outcome, Outcome::Result(_));
            assert!(clear, "{form:?} {method:?} {params}: {outcome:?}");
        }
    }
    // Numbers where they hurt.
    for number in [json!(-1), json!(1e308), json!(u64::MAX), json!(i64::MIN), json!(0.5)] {
        for (method, params) in [
            ("job_wait", json!(["11.1", number])),
            ("job_history", json!([{"limit": number}])),
            ("job_exec", json!(["node_list", {"deadline_s": number, "wait_s": number}])),
            ("job_exec", json!(["config_get", {"params": {"revision": number}}])),
            ("job_exec", json!(["config_wait", {"params": {"revision": number}, "wait_s": 0}])),
            ("user_login", json!(["admin", node.password, number])),
        ] {
            let outcome = lines.ask(Form::Single, method, &params);
            assert!(outcome.code() != -32603, "{method} {params}: {outcome:?}");
        }
    }
    is_well(&mut node);
}
