//! `settings_list`: lists the general settings.

use crate::error::invalid;
use crate::{Job, JobError, Run};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tiebeam_core::declaration::{Declaration, Param, Params, Type};
use tiebeam_core::settings::SETTINGS;
use tiebeam_proto::RpcError;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "settings_list",
        group: "configuration",
        summary: "List the general settings",
        description: "Returns `{section: {key: {value, default, type, allowed, description}}}`. \
                      general_settings changes them. Settings of one node, such as the address \
                      it listens on, are in that node's own file.",
        params: &[Param::may("sections", Type::Lines, "only these sections: [jobs, ssl]")],
        examples: &["{}", r#"{"sections": ["jobs"]}"#],
        precheck: check,
        ..Declaration::READ
    },
    run: |run| Box::pin(settings_list(run)),
};

fn check(params: &Params) -> Result<(), RpcError> {
    let wanted = params.get("sections").and_then(Value::as_array).into_iter().flatten();
    for section in wanted.filter_map(Value::as_str) {
        if SETTINGS.iter().all(|setting| setting.section != section) {
            let mut known: Vec<&str> = SETTINGS.iter().map(|setting| setting.section).collect();
            known.dedup();
            let error = invalid("sections", "there is no such section of settings");
            return Err(error.hint(format!("sections are {}", known.join(", "))));
        }
    }
    Ok(())
}

async fn settings_list(run: Run) -> Result<Value, JobError> {
    let state = run.state();
    let wanted = run.texts("sections");
    let mut listed: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for setting in &SETTINGS {
        if wanted.is_empty() || wanted.iter().any(|section| section == setting.section) {
            let section = listed.entry(setting.section).or_default();
            section.insert(setting.key.to_owned(), setting.describe(&state.config));
        }
    }
    Ok(json!(listed))
}
