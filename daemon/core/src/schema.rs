//! What a configuration may look like: the shape of each built-in section, the users' own schemas
//! under `app`, and the rules that span sections (rulings 12 and 13).
//!
//! Checked before a change is proposed, for a quick answer, and again in apply, for the truth.
//! What is checked depends on what changed; the order of findings is that of paths.

use crate::path::{Path, path};
use crate::state::Credential;
use crate::tree::{Node, Tree};
use imbl::OrdMap;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiebeam_proto::record::Change;

/// Groups that exist from the first revision on, with their ids.
pub const BUILT_IN_GROUPS: [(&str, i64); 8] = [
    ("root", 0),
    ("exausers", 500),
    ("exaadm", 499),
    ("exadbadm", 498),
    ("exastoradm", 497),
    ("exabfsadm", 496),
    ("monitor", 490),
    ("auditor", 489),
];

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct Violation {
    /// Where.
    pub at: String,
    /// What is wrong and what would be right.
    pub why: String,
}

fn violation(at: &Path, why: impl Into<String>) -> Violation {
    Violation { at: at.as_str().to_owned(), why: why.into() }
}

/// Whether the text can name a user or a group: `^[a-z_][a-z0-9_-]{0,31}$`.
pub fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let first = bytes.first().is_some_and(|b| b.is_ascii_lowercase() || *b == b'_');
    first
        && bytes.len() <= 32
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_' || *b == b'-')
}

/// Checks what `changes` touched in the tree that they lead to, by the rules of a feature level.
pub fn check(
    new: &Tree,
    changes: &[Change],
    credentials: &OrdMap<Arc<str>, Credential>,
    level: u32,
) -> Result<(), Violation> {
    let touched: BTreeSet<String> =
        changes.iter().flat_map(|change| sections_of(&change.path, new)).collect();
    for section in &touched {
        match section.as_str() {
            "users" | "groups" | "nodes" | "settings" | "ssl" | "cluster" | "app" | "schemas" => {}
            other => {
                return Err(violation(&Path::root(), format!("there is no section {other:?}")));
            }
        }
    }
    if touched.contains("users") || touched.contains("groups") {
        check_users(new)?;
        check_administrators(new, credentials)?;
    }
    if touched.contains("app") || touched.contains("schemas") {
        check_app(new, changes)?;
        crate::level::check_app(new, level)?;
    }
    Ok(())
}

fn sections_of(changed: &str, new: &Tree) -> Vec<String> {
    if changed.is_empty() {
        let root = new.root().as_map().map(|map| map.iter().map(|(n, _)| n.to_string()).collect());
        return root.unwrap_or_default();
    }
    changed.split('/').next().map(str::to_owned).into_iter().collect()
}

fn children(tree: &Tree, section: &str) -> BTreeMap<String, Arc<Node>> {
    tree.get(&path(&[section]))
        .and_then(|node| {
            node.as_map().map(|map| {
                map.iter().map(|(name, node)| (name.to_string(), node.clone())).collect()
            })
        })
        .unwrap_or_default()
}

fn check_users(tree: &Tree) -> Result<(), Violation> {
    let mut ids = BTreeMap::new();
    let groups = children(tree, "groups");
    for (name, node) in &groups {
        let at = path(&["groups", name]);
        let id = numeric_id(&at, name, &node.to_value())?;
        if let Some(other) = ids.insert(id, name.clone()) {
            return Err(violation(&at, format!("the group id {id} belongs to {other}")));
        }
    }
    for (name, _) in BUILT_IN_GROUPS {
        if !groups.contains_key(name) {
            return Err(violation(&path(&["groups", name]), "a built-in group cannot be removed"));
        }
    }
    let mut ids = BTreeMap::new();
    for (name, node) in children(tree, "users") {
        let at = path(&["users", &name]);
        let user = node.to_value();
        let id = numeric_id(&at, &name, &user)?;
        if let Some(other) = ids.insert(id, name.clone()) {
            return Err(violation(&at, format!("the user id {id} belongs to {other}")));
        }
        check_user(&at, &user, &groups)?;
    }
    Ok(())
}

fn numeric_id(at: &Path, name: &str, entry: &Value) -> Result<i64, Violation> {
    if !is_name(name) {
        return Err(violation(at, "a name is ^[a-z_][a-z0-9_-]{0,31}$"));
    }
    match entry["id"].as_i64() {
        Some(id) if (0..=i64::from(u32::MAX - 1)).contains(&id) => Ok(id),
        _ => Err(violation(at, "`id` must be an integer from 0 to 4294967294")),
    }
}

fn check_user(
    at: &Path,
    user: &Value,
    groups: &BTreeMap<String, Arc<Node>>,
) -> Result<(), Violation> {
    let known = |group: &Value| group.as_str().is_some_and(|name| groups.contains_key(name));
    if !known(&user["group"]) {
        return Err(violation(&at.child("group"), "there is no such group"));
    }
    let more = user["additional_groups"].as_array();
    if !more.is_some_and(|more| more.iter().all(known)) {
        let why = "must be a list of groups that exist";
        return Err(violation(&at.child("additional_groups"), why));
    }
    if !user["login_enabled"].is_boolean() {
        return Err(violation(&at.child("login_enabled"), "must be true or false"));
    }
    let keys = user["authorized_keys"].as_array();
    if !keys.is_some_and(|keys| keys.iter().all(Value::is_string)) {
        return Err(violation(&at.child("authorized_keys"), "must be a list of texts"));
    }
    Ok(())
}

/// Users who can administer by logging in: enabled, in `exaadm`, with a password.
///
/// `root` counts like everyone else: without a password it is reached only by who is uid 0 on a
/// member, which is no way in for an operator.
pub fn administrators(tree: &Tree, credentials: &OrdMap<Arc<str>, Credential>) -> Vec<String> {
    let in_exaadm = |user: &Value| {
        let more = user["additional_groups"].as_array();
        user["group"] == "exaadm" || more.is_some_and(|more| more.iter().any(|g| g == "exaadm"))
    };
    let has_password =
        |name: &str| credentials.get(name).is_some_and(|credential| credential.hash.is_some());
    children(tree, "users")
        .into_iter()
        .filter(|(name, node)| {
            let user = node.to_value();
            user["login_enabled"] == true && in_exaadm(&user) && has_password(name)
        })
        .map(|(name, _)| name)
        .collect()
}

fn check_administrators(
    tree: &Tree,
    credentials: &OrdMap<Arc<str>, Credential>,
) -> Result<(), Violation> {
    let root = path(&["users", "root"]);
    let root_enabled = tree.value(&root.child("login_enabled")) == Some(Value::Bool(true));
    if !root_enabled {
        return Err(violation(&root, "root is built in: it cannot be deleted or disabled"));
    }
    if administrators(tree, credentials).is_empty() {
        let why = "the last user who can administer cannot be deleted, disabled or stripped";
        return Err(violation(&path(&["users"]), why));
    }
    Ok(())
}

/// The schema that covers `at`, with the path it was registered for.
pub fn schema_of(tree: &Tree, at: &Path) -> Vec<(Path, Value)> {
    children(tree, "schemas")
        .into_iter()
        .filter_map(|(name, node)| Some((Path::parse(&name).ok()?, node.to_value())))
        .filter(|(covered, _)| covered.covers(at) || at.covers(covered))
        .map(|(covered, text)| {
            let schema = text.as_str().and_then(|text| serde_json::from_str(text).ok());
            (covered, schema.unwrap_or(Value::Bool(true)))
        })
        .collect()
}

fn check_app(tree: &Tree, changes: &[Change]) -> Result<(), Violation> {
    if tree.get(&path(&["app"])).is_some_and(|node| node.as_map().is_none()) {
        return Err(violation(&path(&["app"]), "the section must be a map"));
    }
    let mut schemas = BTreeMap::new();
    for change in changes {
        let at = Path::parse(&change.path).unwrap_or_default();
        if at.section() == "schemas" || at.is_root() {
            schemas.extend(schema_of(tree, &Path::root()));
        } else if at.section() == "app" {
            schemas.extend(schema_of(tree, &at));
        }
    }
    for (covered, schema) in schemas {
        let Some(value) = tree.value(&covered) else { continue };
        check_value(&covered, &schema, &value)?;
    }
    Ok(())
}

/// Checks that a schema is a JSON Schema: what it says of secrets too, and without it.
pub fn check_schema(at: &Path, schema: &Value) -> Result<(), Violation> {
    jsonschema::validator_for(schema).map_err(|_| invalid_schema(at))?;
    compile(at, schema).map(drop)
}

fn invalid_schema(at: &Path) -> Violation {
    violation(at, "its schema is not a valid JSON Schema")
}

fn compile(at: &Path, schema: &Value) -> Result<jsonschema::Validator, Violation> {
    jsonschema::validator_for(&relax_secrets(schema)).map_err(|_| invalid_schema(at))
}

/// Checks one value against one schema. Sealed secrets appear as `{"secret": …}`, so a schema
/// that marks a path as secret is relaxed there before it is compiled.
pub fn check_value(at: &Path, schema: &Value, value: &Value) -> Result<(), Violation> {
    match compile(at, schema)?.iter_errors(value).next() {
        None => Ok(()),
        Some(error) => {
            let place = format!("{at}{}", error.instance_path());
            let rule = error.schema_path().to_string();
            Err(Violation { at: place, why: format!("does not pass its schema at {rule}") })
        }
    }
}

/// Checks a secret that is to stand at `place`, before it is sealed, against what the schemas that
/// mark it say of it: once it is sealed nobody can, apply included.
pub fn check_secret(tree: &Tree, place: &Path, secret: &Value) -> Result<(), Violation> {
    for (covered, schema) in schema_of(tree, place) {
        let mark = covered.covers(place).then(|| mark_of(&schema, &covered, place)).flatten();
        if let Some(mark) = mark {
            check_part(place, &schema, &mark, secret)?;
        }
    }
    Ok(())
}

/// Where `schema`, registered for `covered`, marks `place` as secret: a pointer into it.
fn mark_of(schema: &Value, covered: &Path, place: &Path) -> Option<String> {
    let (mut part, mut pointer) = (schema, String::new());
    for name in place.names().skip(covered.depth()) {
        match part["properties"].get(&*name) {
            Some(below) => {
                let name = name.replace('~', "~0").replace('/', "~1");
                (part, pointer) = (below, format!("{pointer}/properties/{name}"));
            }
            None => {
                part = part.get("additionalProperties")?;
                pointer.push_str("/additionalProperties");
            }
        }
    }
    is_secret(part).then_some(pointer)
}

/// Checks a value against the part of a schema at `pointer`; references in it are those of the
/// whole schema.
fn check_part(at: &Path, schema: &Value, pointer: &str, value: &Value) -> Result<(), Violation> {
    const WHOLE: &str = "urn:tiebeam:schema";
    let registry = jsonschema::Registry::new().add(WHOLE, schema);
    let registry = registry.and_then(|registry| registry.prepare());
    let registry = registry.map_err(|_| invalid_schema(at))?;
    let part = serde_json::json!({ "$ref": format!("{WHOLE}#{}", fragment(pointer)) });
    let checker = jsonschema::options().with_registry(&registry).build(&part);
    let checker = checker.map_err(|_| invalid_schema(at))?;
    match checker.iter_errors(value).next() {
        None => Ok(()),
        Some(error) => {
            let rule = error.schema_path().to_string();
            let rule = rule.strip_prefix("/$ref").unwrap_or(&rule);
            Err(Violation {
                at: format!("{at}{}", error.instance_path()),
                why: format!("the secret does not pass its schema at {pointer}{rule}"),
            })
        }
    }
}

/// A JSON pointer as a URI's fragment: what is not a letter, a digit or one of `/-._~` as `%XX`.
fn fragment(pointer: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    pointer.bytes().fold(String::new(), |out, byte| match plain(byte) {
        true => out + char::from(byte).encode_utf8(&mut [0; 4]),
        false => out + &format!("%{byte:02X}"),
    })
}

/// Whether a schema marks its value as a secret: `"secret": true` or `"writeOnly": true`.
pub fn is_secret(schema: &Value) -> bool {
    schema["secret"] == true || schema["writeOnly"] == true
}

/// The pointers below `at` that `schema` marks as secret and `value` fills, unescaped names.
pub fn secret_places(schema: &Value, value: &Value, at: &Path, out: &mut Vec<Path>) {
    if is_secret(schema) {
        out.push(at.clone());
        return;
    }
    let Some(object) = value.as_object() else { return };
    for (name, value) in object {
        let below = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        if let Some(below) = below {
            secret_places(below, value, &at.child(name), out);
        }
    }
}

fn relax_secrets(schema: &Value) -> Value {
    match schema {
        Value::Object(_) if is_secret(schema) => Value::Bool(true),
        Value::Object(object) => Value::Object(
            object.iter().map(|(name, value)| (name.clone(), relax_secrets(value))).collect(),
        ),
        Value::Array(list) => Value::Array(list.iter().map(relax_secrets).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_follow_the_wire() {
        for good in ["a", "_x", "alice-2", &"a".repeat(32)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-x", "2a", "Alice", "a b", "a/b", "a\n", &"a".repeat(33)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_violation_never_shows_the_value() {
        let at = path(&["app", "x"]);
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let error = check_value(&at, &schema, &json!({"n": "canary"})).unwrap_err();
        assert_eq!(error.at, "app/x/n");
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn secret_places_follow_the_schema() {
        let schema = json!({"properties": {"db": {"properties": {"pw": {"secret": true}}}}});
        let mut out = Vec::new();
        let value = json!({"db": {"pw": "x", "host": "h"}});
        secret_places(&schema, &value, &path(&["app"]), &mut out);
        assert_eq!(out, [path(&["app", "db", "pw"])]);
    }

    #[test]
    fn a_secret_is_checked_by_the_schema_that_marks_it() {
        let schema = json!({
            "$defs": {"long": {"minLength": 8}},
            "properties": {"my key~/é": {"secret": true, "type": "string", "$ref": "#/$defs/long"}},
            "additionalProperties": {"properties": {"pin": {"writeOnly": true, "type": "integer"}}},
        });
        check_schema(&path(&["app"]), &schema).unwrap();
        let stored = Value::String(schema.to_string());
        let tree = Tree::new().set(&path(&["schemas", "app"]), &stored, 1).unwrap();
        let at = |names: &[&str]| path(names);
        for (place, secret, wrong) in [
            (at(&["app", "my key~/é"]), json!("canary-canary"), None),
            (at(&["app", "my key~/é"]), json!("canary"), Some("minLength")),
            (at(&["app", "my key~/é"]), json!(4_711), Some("/type")),
            (at(&["app", "db", "pin"]), json!(4_711), None),
            (at(&["app", "db", "pin"]), json!("canary"), Some("/properties/pin/type")),
        ] {
            let found = check_secret(&tree, &place, &secret).map_err(|wrong| wrong.to_string());
            let text = found.err().unwrap_or_default();
            assert_eq!(text.is_empty(), wrong.is_none(), "{place}: {text}");
            assert!(text.contains(wrong.unwrap_or_default()), "{text}");
            assert!(text.is_empty() || text.starts_with(place.as_str()), "{text}");
            assert!(!text.contains("canary") && !text.contains("4711"), "{text}");
        }
        let wrong = json!({"properties": {"pin": {"secret": true, "type": "nonsense"}}});
        assert!(check_schema(&path(&["app"]), &wrong).is_err(), "what is said of secrets counts");
    }
}
