//! Writing what `config_rollback` brings back, section by section.
//!
//! What may come back is decided in [`crate::restore`]; here it goes into the draft, as one value
//! per part, and only where it differs from what is there.

use crate::app_section::{secret_places, value_at, without};
use crate::{JobError, Run, restore};
use serde_json::{Map, Value, json};
use tiebeam_core::Path;
use tiebeam_core::path::path;
use tiebeam_core::proposal::Write;
use tiebeam_core::tree::sealed_digest;

/// Rolls back what is at `at`, a section or a part of one; what stays out goes into `left_out`.
pub(crate) fn section(
    run: &Run,
    at: &Path,
    then: Option<&Value>,
    now: Option<&Value>,
    left_out: &mut Vec<String>,
) -> Result<(), JobError> {
    let restored = match at.section() {
        "users" => return all_users(run, at, then, now, left_out),
        "ssl" if at.depth() == 1 => restore::ssl(at, then, now, left_out),
        "app" => {
            let restored = restore::value(at, then, now, left_out);
            let restored = restored.and_then(|value| hide_secrets(run, at, value, left_out));
            if at.depth() == 1 { restored.or_else(|| Some(json!({}))) } else { restored }
        }
        _ => restore::value(at, then, now, left_out),
    };
    match restored {
        Some(value) if now != Some(&value) => run.set(at, value),
        None if now.is_some() => run.remove(at),
        _ => Ok(()),
    }
}

/// Takes out what was in clear then and is marked as secret now.
fn hide_secrets(run: &Run, at: &Path, value: Value, left_out: &mut Vec<String>) -> Option<Value> {
    let mut places = secret_places(&run.config(), at, &value);
    places.retain(|place| {
        value_at(&value, at, place).is_some_and(|part| sealed_digest(&part).is_none())
    });
    let lines =
        places.iter().map(|place| format!("{place}: is marked as secret now; set it again"));
    left_out.extend(lines);
    let whole = places.iter().any(|place| place.covers(at));
    (!whole).then(|| without(&value, at, &places))
}

fn all_users(
    run: &Run,
    at: &Path,
    then: Option<&Value>,
    now: Option<&Value>,
    left_out: &mut Vec<String>,
) -> Result<(), JobError> {
    let named = |value: Option<&Value>| -> Map<String, Value> {
        match (at.names().nth(1), value) {
            (Some(name), Some(value)) => [(name.into_owned(), value.clone())].into_iter().collect(),
            (None, Some(Value::Object(users))) => users.clone(),
            _ => Map::new(),
        }
    };
    let (then, now) = (named(then), named(now));
    for name in now.keys().filter(|name| !then.contains_key(*name)) {
        run.remove(&path(&["users", name]))?;
        run.write(Write::CredentialRemove { user: name.clone() });
    }
    for (name, then) in &then {
        let at = path(&["users", name]);
        let restored = restore::user(&at, then, now.get(name), left_out);
        if restored.as_ref() == now.get(name) {
            continue;
        }
        if name == "root" && run.caller() != "root" {
            left_out.push(format!("{at}: only root changes root"));
        } else if let Some(entry) = restored {
            run.set(&at, entry)?;
        }
    }
    Ok(())
}
