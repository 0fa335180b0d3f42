//! Values to the types that the job declares.
//!
//! People type `version: 8.10` for a text and `enabled: yes` for a boolean; YAML reads a number
//! and a text. With the job's declaration at hand the value becomes what was meant. What fits no
//! declared type is left as it is: the daemon's refusal names field and type better than we could.

use super::words::{Given, Parameters};
use crate::description::{JobDescription, Parameter};
use serde_json::{Map, Value, json};

/// The `params` to send.
pub fn params(given: Parameters, job: &JobDescription) -> Value {
    let mut params = Map::new();
    for (name, given) in given {
        let value = match job.parameters.get(&name) {
            Some(declared) => coerced(given, declared),
            None => given.value,
        };
        params.insert(name, value);
    }
    Value::Object(params)
}

fn coerced(given: Given, declared: &Parameter) -> Value {
    let types = &declared.types;
    if given.value.is_null() || types.is_empty() || types.iter().any(|t| fits(&given.value, t)) {
        return without_line_end(given.value, declared);
    }
    let converted = types.iter().find_map(|wanted| convert(&given, wanted));
    converted.unwrap_or(given.value)
}

/// A secret read from a file mostly ends with a line end that is not part of it.
fn without_line_end(value: Value, declared: &Parameter) -> Value {
    match value {
        Value::String(text) if declared.secret => {
            let line = text.strip_suffix('\n').unwrap_or(&text);
            json!(line.strip_suffix('\r').unwrap_or(line))
        }
        other => other,
    }
}

fn fits(value: &Value, wanted: &str) -> bool {
    match wanted {
        "str" | "string" => value.is_string(),
        "int" | "integer" => value.is_i64() || value.is_u64(),
        "float" | "number" => value.is_number(),
        "bool" | "boolean" => value.is_boolean(),
        "list" | "tuple" | "array" => value.is_array(),
        "dict" => value.is_object(),
        "bytes" => value.is_string() || value.get("base64").is_some(),
        // `object` means anything to ConfD, and a newer daemon's type is not ours to judge.
        _ => true,
    }
}

fn convert(given: &Given, wanted: &str) -> Option<Value> {
    match (wanted, &given.value) {
        ("str" | "string", Value::Bool(_) | Value::Number(_)) => {
            Some(json!(given.text.clone().unwrap_or_else(|| given.value.to_string())))
        }
        ("int" | "integer", Value::String(text)) => {
            text.trim().parse::<i64>().ok().map(Value::from)
        }
        ("float" | "number", Value::String(text)) => {
            text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from)
        }
        ("bool" | "boolean", Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(json!(true)),
            "false" | "no" | "off" => Some(json!(false)),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::parse_words;
    use super::*;

    fn sent(line: &[&str], types: &[&str]) -> Value {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let declared = Parameter {
            types: types.iter().map(|t| (*t).to_owned()).collect(),
            ..Parameter::default()
        };
        let mut job = JobDescription::default();
        job.parameters.insert("p".to_owned(), declared);
        params(parse_words(&words).unwrap(), &job)["p"].take()
    }

    #[test]
    fn values_become_what_was_meant() {
        for (word, types, means) in [
            ("8.10", &["str"][..], json!("8.10")),
            ("0644", &["str"], json!("0644")),
            ("true", &["str"], json!("true")),
            ("11", &["int", "str"], json!(11)),
            ("n11", &["int", "str"], json!("n11")),
            ("\"11\"", &["int"], json!(11)),
            ("yes", &["bool"], json!(true)),
            ("Off", &["bool"], json!(false)),
            ("5", &["float"], json!(5)),
            ("abc", &["int"], json!("abc")),
            ("null", &["int"], Value::Null),
            ("5", &[], json!(5)),
            ("[1]", &["list"], json!([1])),
            ("8.10", &["integer", "string"], json!("8.10")),
            ("5", &["object"], json!(5)),
        ] {
            assert_eq!(sent(&["p:", word], types), means, "{word} as {types:?}");
        }
    }

    #[test]
    fn a_secret_loses_the_line_end_of_its_file() {
        let declared =
            Parameter { types: vec!["str".into()], secret: true, ..Parameter::default() };
        let given = Given { value: json!("pw\n"), text: None };
        assert_eq!(coerced(given, &declared), json!("pw"));
    }
}
