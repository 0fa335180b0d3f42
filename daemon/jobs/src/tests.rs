//! The tests of the jobs: each against a State of its own, through admission, plan and apply, with
//! a world that is scripted. This file has the proofs that every job gets; its modules the rest.

mod cluster;
mod commands;
mod config;
mod members;
mod rollback;
mod users;
mod world;

use crate::{JOBS, Job, NODE_JOIN, USER_INIT};
use cluster::{Cluster, record};
use serde_json::{Map, Value, json};
use tiebeam_core::admit::check_params;
use tiebeam_core::declaration::{Declaration, Secrecy, Type, Way};
use tiebeam_proto::{Kind, Outcome, RpcError};

fn all() -> Vec<&'static Job> {
    JOBS.iter().copied().chain([&USER_INIT, &NODE_JOIN]).collect()
}

fn examples(job: &Job) -> Vec<Map<String, Value>> {
    let examples = job.declaration.example_values().into_iter();
    examples.map(|example| example.as_object().expect("an example is an object").clone()).collect()
}

fn refused(declaration: &Declaration, given: &Map<String, Value>) -> RpcError {
    match check_params(declaration, given) {
        Err(error) => error,
        Ok(_) => panic!("{} takes {given:?}", declaration.name),
    }
}

#[test]
fn jobs_stand_in_the_order_of_their_names() {
    assert!(JOBS.windows(2).all(|pair| pair[0].declaration.name < pair[1].declaration.name));
    assert!(crate::find("user_init").is_none(), "user_init is no job of the catalogue");
}

#[test]
fn every_declaration_is_complete() {
    for job in all() {
        let d = &job.declaration;
        assert!(!d.examples.is_empty(), "{} has no example", d.name);
        assert_eq!(d.example_values().len(), d.examples.len(), "{}: no JSON", d.name);
        for text in [d.group, d.summary, d.description] {
            assert!(!text.is_empty(), "{}: something is not said", d.name);
        }
        assert!(!d.summary.ends_with('.'), "{}: the summary is no sentence", d.name);
        for param in d.params {
            let named = format!("{}.{}", d.name, param.name);
            assert!(!param.about.is_empty(), "{named} is not explained");
            let known = param.substitutes.iter().all(|other| d.param(other).is_some());
            assert!(known, "{named}: a substitute is no parameter");
            let telling = ["password", "secret", "key", "stdin", "env"].contains(&param.name);
            assert!(!telling || param.secrecy != Secrecy::Open, "{named} would be in the record");
        }
        assert!(d.kind != Kind::Act || d.way == Way::Long, "{}: acts in one entry", d.name);
        for example in examples(job) {
            let checked = check_params(d, &example);
            checked.unwrap_or_else(|error| panic!("{}: {error}", d.name));
        }
    }
}

#[test]
fn wrong_parameters_are_refused_by_name_and_never_repeated() {
    for job in all() {
        let d = &job.declaration;
        for example in examples(job) {
            let mut more = example.clone();
            more.insert("nonsense".to_owned(), json!("canary"));
            assert_eq!(refused(d, &more).field.as_deref(), Some("nonsense"), "{}", d.name);
            for param in d.params.iter().filter(|param| param.mandatory) {
                let mut less = example.clone();
                less.remove(param.name);
                param.substitutes.iter().for_each(|other| drop(less.remove(*other)));
                assert_eq!(refused(d, &less).field.as_deref(), Some(param.name), "{}", d.name);
            }
            for param in d.params {
                for other in param.substitutes {
                    let mut both = example.clone();
                    both.insert(param.name.to_owned(), json!("alice"));
                    both.insert((*other).to_owned(), json!("1001"));
                    assert_eq!(refused(d, &both).field.as_deref(), Some(param.name));
                }
                if matches!(param.kind, Type::Dict | Type::Object) {
                    continue;
                }
                let mut wrong = example.clone();
                param.substitutes.iter().for_each(|other| drop(wrong.remove(*other)));
                wrong.insert(param.name.to_owned(), json!({"canary": true}));
                let error = refused(d, &wrong);
                assert_eq!(error.field.as_deref(), Some(param.name), "{}", d.name);
                assert!(!format!("{error:?}").contains("canary"), "{}: {error:?}", d.name);
            }
        }
    }
}

#[test]
fn a_substitute_stands_in() {
    let mut cluster = Cluster::furnished();
    let by_name = cluster.exec("root", "user_info", json!({"username": "alice"}));
    let by_id = cluster.exec("root", "user_info", json!({"userid": "1001"}));
    assert_eq!(by_name.output, by_id.output);
    let by_id = cluster.exec("root", "group_info", json!({"groupid": 2001}));
    assert_eq!(by_id.output["name"], "operators");
}

/// Every job, run twice on the same inputs, asks for the same commands and comes to the same plan;
/// a dry run changes nothing; a read job never writes.
#[test]
fn every_job_run_again_does_the_same() {
    for job in all() {
        for example in examples(job) {
            let cluster = Cluster::furnished();
            let name = job.declaration.name;
            let example = Value::Object(example);
            let user = if name == "user_init" { "alice" } else { "root" };
            let first = cluster.plan(user, job, example.clone(), false);
            let asked = cluster.world.take_asked();
            let second = cluster.plan(user, job, example.clone(), false);
            assert_eq!(cluster.world.take_asked(), asked, "{name} asks for other commands");
            assert_eq!(second, first, "{name}");
            let bad = first.outcome != Outcome::Ok;
            assert_eq!(first.error.is_some(), bad, "{name} says nothing of its end");
            assert!(job.declaration.kind != Kind::Read || first.writes.is_empty(), "{name} writes");
            if job.declaration.way == Way::Once {
                assert!(asked.is_empty(), "{name} runs commands on the one-entry path");
                let dry = cluster.plan(user, job, example, true);
                assert!(dry.writes.is_empty() && dry.derived.is_empty(), "{name}");
                assert_eq!(dry.dry_run.is_some(), !bad, "{name}");
            }
        }
    }
}

/// Every command of every job, failing or of unknown end, is in the outcome and in the text.
#[test]
fn no_job_is_ok_when_a_command_of_it_is_not() {
    let mut seen = 0;
    for job in JOBS.iter().filter(|job| job.declaration.way == Way::Long) {
        for example in examples(job).into_iter().map(Value::Object) {
            let name = job.declaration.name;
            let cluster = Cluster::furnished();
            let well = cluster.plan("root", job, example.clone(), false);
            for wish in cluster.world.take_asked() {
                for (result, outcome) in [
                    ("failed", Outcome::Failed),
                    ("timeout", Outcome::Failed),
                    ("refused", Outcome::Failed),
                    ("cancelled", Outcome::Cancelled),
                    ("indeterminate", Outcome::Indeterminate),
                ] {
                    let cluster = Cluster::furnished();
                    let ended = record(&wish.key, wish.node, result, "");
                    cluster.world.script(&wish.key, Ok(ended));
                    let plan = cluster.plan("root", job, example.clone(), false);
                    assert_eq!(plan.outcome, outcome, "{name} when {} is {result}", wish.key);
                    let text = plan.error.unwrap_or_default();
                    assert!(text.contains(&format!("node {}", wish.node)), "{name}: {text}");
                    let (output, all) = (plan.output.unwrap(), well.output.clone().unwrap());
                    let nodes = |output: &Value| output.as_object().map(|map| map.len());
                    assert_eq!(nodes(&output), nodes(&all), "{name} loses the other nodes");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen >= 60, "only {seen} commands were tried");
}
