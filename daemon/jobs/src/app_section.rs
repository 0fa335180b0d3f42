//! Writing into the section `app`: which paths a job may change, and how secrets get there.
//!
//! The jobs config_set, config_merge, config_delete and config_rollback share it. A value goes
//! into the draft in two steps, first without what a schema marks as secret, then each secret
//! sealed; so no secret is ever in a plan in clear.

use crate::{JobError, Run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tiebeam_core::declaration::Params;
use tiebeam_core::lock::Lock;
use tiebeam_core::tree::{SEALED, sealed_digest};
use tiebeam_core::{Path, State, Tree, draft, schema};
use tiebeam_proto::{ErrorCode, RpcError};

/// The write lock of a job that changes `path`.
pub(crate) fn write_lock(params: &Params) -> Vec<Lock> {
    vec![Lock::write(params.get("path").and_then(Value::as_str).unwrap_or_default())]
}

/// Refuses a path outside `app`, and names the jobs that the section belongs to (ruling 29).
pub(crate) fn only_app(params: &Params) -> Result<(), RpcError> {
    let text = params.get("path").and_then(Value::as_str).unwrap_or_default();
    let path = Path::parse(text).unwrap_or_default();
    let jobs = match path.section() {
        "app" => return Ok(()),
        "users" => "user_create, user_modify, user_passwd or user_delete",
        "groups" => "group_create or group_delete",
        "settings" => "general_settings",
        "ssl" => "cert_update or general_settings",
        "nodes" => "the jobs of the group cluster",
        "schemas" => "config_schema_set",
        _ => "a path below app",
    };
    Err(RpcError::new(ErrorCode::Forbidden, "only paths below `app` can be changed by this job")
        .field("path")
        .hint(format!("use {jobs}")))
}

/// The value is secret in the record if a schema marks anything in it.
pub(crate) fn conceal_value(state: &State, params: &Params) -> Vec<&'static str> {
    let path = params.get("path").and_then(Value::as_str).map(Path::parse);
    let (Some(Ok(path)), Some(value)) = (path, params.get("value")) else { return Vec::new() };
    let secret = !secret_places(&state.config, &path, value).is_empty();
    if secret { vec!["value"] } else { Vec::new() }
}

/// Fails in conflict unless the last change at `path` is the one the caller expects.
pub(crate) fn expect_revision(run: &Run, path: &Path) -> Result<(), JobError> {
    let Some(expected) = run.int("expect_revision") else { return Ok(()) };
    let found = run.revision_at(path).unwrap_or(0);
    if u64::try_from(expected) == Ok(found) {
        return Ok(());
    }
    let text = format!("the last change at {path} was in revision {found}, not {expected}");
    Err(JobError::Conflict(text))
}

/// Refuses a caller's value that uses the form of sealed secrets.
pub(crate) fn refuse_reserved(value: &Value) -> Result<(), JobError> {
    if draft::uses_reserved_name(value) {
        return Err(JobError::failed(format!("the value uses the reserved name `{SEALED}`")));
    }
    Ok(())
}

/// The child `name` of `at`; refuses a name that no path can hold, so that what goes into a plan
/// can be read back.
pub(crate) fn child(at: &Path, name: &str) -> Result<Path, JobError> {
    if name.is_empty() {
        return Err(JobError::failed(format!("a name below {at} is empty")));
    }
    let below = at.child(name);
    Path::parse(below.as_str())
        .map_err(|why| JobError::failed(format!("a name below {at} cannot be used: {why}")))
}

/// Puts a value at `path`, with the parts that a schema marks as secret sealed. A part that is the
/// commitment of the secret that stands there now leaves that secret alone.
pub(crate) fn put(run: &Run, path: &Path, value: Value) -> Result<(), JobError> {
    let config = run.config();
    let marked = secret_places(&config, path, &value);
    let mut places = marked.clone();
    commitments(path, &value, &mut places);
    let mut sealed = Vec::new();
    for place in outermost(places) {
        let Some(given) = value_at(&value, path, &place) else { continue };
        let now = config.get(&place).map(|node| node.to_sealed_value());
        let now = now.filter(|now| sealed_digest(now).is_some());
        match (commitment(&given), now) {
            (Some(shown), Some(now)) if sealed_digest(&now) == Some(shown) => {
                sealed.push((child_checked(&place)?, Some(now), given));
            }
            (Some(_), Some(_)) => return Err(not_a_secret(&place)),
            (Some(_), None) if marked.contains(&place) => return Err(not_a_secret(&place)),
            (Some(_), None) => {}
            (None, _) => {
                schema::check_secret(&config, &place, &given)?;
                sealed.push((child_checked(&place)?, None, given));
            }
        }
    }
    let places: Vec<Path> = sealed.iter().map(|(place, ..)| place.clone()).collect();
    run.set(path, without(&value, path, &places))?;
    for (place, kept, given) in sealed {
        match kept {
            Some(leaf) => {
                run.revision_at(&place);
                run.set(&place, leaf)?;
            }
            None => run.set_secret(&place, &given)?,
        }
    }
    Ok(())
}

fn child_checked(place: &Path) -> Result<Path, JobError> {
    Path::parse(place.as_str())
        .map_err(|why| JobError::failed(format!("a secret cannot stand there: {why}")))
}

fn not_a_secret(place: &Path) -> JobError {
    JobError::failed(format!(
        "the value at {place} is the commitment of another secret: give the secret itself, or \
         leave it out"
    ))
}

/// The digest in a value that is what users see of a secret: `{"secret": "sha256:…"}`.
pub(crate) fn commitment(value: &Value) -> Option<&str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.get("secret")?.as_str().filter(|text| text.starts_with("sha256:"))
}

fn commitments(at: &Path, value: &Value, out: &mut Vec<Path>) {
    if commitment(value).is_some() {
        out.push(at.clone());
    } else if let Some(object) = value.as_object() {
        object.iter().for_each(|(name, value)| commitments(&at.child(name), value, out));
    }
}

/// The places in `value`, which is to stand at `path`, that schemas mark as secret.
pub(crate) fn secret_places(config: &Tree, path: &Path, value: &Value) -> Vec<Path> {
    let mut places = Vec::new();
    for (covered, schema) in schema::schema_of(config, path) {
        let whole = wrap(&covered, path, value);
        schema::secret_places(&schema, &whole, &covered, &mut places);
    }
    outermost(places)
}

/// Without those that lie below another one.
fn outermost(places: Vec<Path>) -> Vec<Path> {
    let places: BTreeSet<Path> = places.into_iter().collect();
    let covered = |place: &Path| places.iter().any(|p| p != place && p.covers(place));
    places.iter().filter(|place| !covered(place)).cloned().collect()
}

/// `value` as it would be seen from `covered`: inside the maps between the two.
fn wrap(covered: &Path, path: &Path, value: &Value) -> Value {
    if path.covers(covered) {
        return value_at(value, path, covered).unwrap_or(Value::Null);
    }
    let between: Vec<_> = path.names().skip(covered.depth()).collect();
    between.into_iter().rev().fold(value.clone(), |inner, name| json!({ name: inner }))
}

/// The part of `value` (which stands at `path`) that stands at `place`.
pub(crate) fn value_at(value: &Value, path: &Path, place: &Path) -> Option<Value> {
    if place.covers(path) {
        return Some(value.clone());
    }
    place.names().skip(path.depth()).try_fold(value, |v, name| v.get(&*name)).cloned()
}

/// `value` without what stands at the secret places; a wholly secret value is null for a moment.
pub(crate) fn without(value: &Value, path: &Path, secrets: &[Path]) -> Value {
    let mut value = value.clone();
    for place in secrets {
        let names: Vec<_> = place.names().skip(path.depth()).collect();
        let Some((last, above)) = names.split_last() else { return Value::Null };
        let parent = above.iter().try_fold(&mut value, |v, name| v.get_mut(&**name));
        if let Some(object) = parent.and_then(Value::as_object_mut) {
            object.remove(&**last);
        }
    }
    value
}
