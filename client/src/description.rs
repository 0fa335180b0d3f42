//! A job's declaration as `job_desc` returns it: a list of 12 elements (wire.md section 4).

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One parameter of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameter {
    /// What it means.
    pub description: String,
    /// Types that are taken, by the JSON Schema (`string integer …`) if there is one, else by
    /// ConfD's names (`str int …`); empty means any.
    pub types: Vec<String>,
    /// Whether a start without it (and without a substitute) is refused.
    pub mandatory: bool,
    /// Whether its value is a secret.
    pub secret: bool,
}

/// What a job is and takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobDescription {
    /// Its name.
    pub name: String,
    /// One line.
    pub summary: String,
    /// Its parameters, mandatory and optional.
    pub parameters: BTreeMap<String, Parameter>,
    /// Parameters that may be given in place of another.
    pub substitutes: BTreeMap<String, Vec<String>>,
    /// `read`, `modify` or `act`.
    pub kind: String,
    /// The group it is listed under.
    pub group: String,
    /// The whole reply, for whatever else it says.
    pub details: Vec<Value>,
}

impl JobDescription {
    /// Reads the second element of `[true, details]`; what is missing stays empty.
    pub fn from_details(name: &str, details: &Value) -> JobDescription {
        let details = details.as_array().cloned().unwrap_or_default();
        let at = |index: usize| details.get(index).cloned().unwrap_or_default();
        let text = |index: usize| at(index).as_str().unwrap_or_default().to_owned();
        let schema = at(9);
        let mut parameters = BTreeMap::new();
        for (index, mandatory) in [(1, true), (2, false)] {
            for (key, described) in at(index).as_object().unwrap_or(&Map::new()) {
                let schema = &schema["properties"][key];
                parameters.insert(key.clone(), parameter(described, schema, mandatory));
            }
        }
        let substitutes = at(3)
            .as_object()
            .map(|map| map.iter().map(|(key, others)| (key.clone(), words(others))).collect());
        JobDescription {
            name: name.to_owned(),
            summary: text(0),
            parameters,
            substitutes: substitutes.unwrap_or_default(),
            kind: text(7),
            group: text(8),
            details,
        }
    }
}

fn parameter(described: &Value, schema: &Value, mandatory: bool) -> Parameter {
    let types = match schema {
        // A schema without a type takes anything.
        Value::Object(_) => words(&schema["type"]),
        _ => words(&described["type"]),
    };
    Parameter {
        description: described["desc"].as_str().unwrap_or_default().to_owned(),
        types,
        mandatory,
        secret: schema["writeOnly"].as_bool() == Some(true),
    }
}

/// `"str"`, `"str, int"`, `"str|int"`, `["str", "int"]`: all say the same kind of thing.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => text
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty() && *word != "or")
            .map(str::to_owned)
            .collect(),
        Value::Array(items) => items.iter().flat_map(words).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_declaration_is_read_and_a_short_one_is_no_panic() {
        let details = json!([
            "makes a user",
            {"username": {"desc": "name", "type": "str"}},
            {"password": {"desc": "secret", "type": "str"}, "nid": {"type": ["int", "str"]}},
            {"username": ["userid"]}, [], [], [], "modify", "users",
            {"properties": {"password": {"writeOnly": true},
                            "username": {"type": ["integer", "string"]}}}
        ]);
        let read = JobDescription::from_details("user_create", &details);
        assert!(read.parameters["username"].mandatory);
        assert!(read.parameters["password"].secret && !read.parameters["nid"].secret);
        assert_eq!(read.parameters["nid"].types, ["int", "str"]);
        assert_eq!(read.parameters["username"].types, ["integer", "string"]);
        assert!(read.parameters["password"].types.is_empty());
        assert_eq!(read.substitutes["username"], ["userid"]);
        assert_eq!((read.kind.as_str(), read.group.as_str()), ("modify", "users"));
        assert_eq!(JobDescription::from_details("x", &Value::Null).parameters.len(), 0);
    }
}
