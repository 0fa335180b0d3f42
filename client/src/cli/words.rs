//! A job's parameters as they are typed: inline YAML, `-a '<yaml mapping>'`, `-A '<json object>'`.
//!
//! `confd_client` lets people write `user_create username: alice userid: 1001`, which is no YAML
//! (two pairs on one line). The rule here:
//!
//! * If the first word begins with `{`, or holds several lines, all words together are one YAML
//!   mapping.
//! * Else a word `name:` begins a pair, and the words up to the next such word are its value,
//!   joined by spaces. Within brackets or quotes that the value itself opened, no word begins a
//!   pair: `owner: [a, b]` and `labels: {rack: 7, row: b}` need no quotes of the shell. A pair
//!   may also be one word: `'username: alice'`.
//! * A value that begins with `{`, `[`, `"` or `'` is YAML. Any other value of one line is a YAML
//!   plain scalar: number, boolean, null or text. A text with `: `, ` #` or several lines (a
//!   certificate) is taken as it is; give it as one word.
//! * A name without a value is null; an empty word is the empty text.
//!
//! Parsing never looks at files and never asks the cluster; `files` and `coerce` come after it.

use super::failure::Failure;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// As YAML or JSON reads it.
    pub value: Value,
    /// A plain scalar as it was typed: `8.10` is the number 8.1, and the text `8.10`.
    pub text: Option<String>,
}

/// Parameters by name.
pub type Parameters = BTreeMap<String, Given>;

/// Reads inline words.
///
/// # Errors
/// What does not follow the rule above.
pub fn parse_words(words: &[String]) -> Result<Parameters, Failure> {
    match words.first() {
        None => Ok(Parameters::new()),
        Some(first) if first.trim_start().starts_with('{') => parse_yaml(&words.join(" ")),
        Some(first) if first.trim_end().contains('\n') => parse_yaml(&words.join("\n")),
        Some(_) => parse_pairs(words),
    }
}

fn parse_pairs(words: &[String]) -> Result<Parameters, Failure> {
    let mut pairs: Vec<(String, Vec<String>)> = Vec::new();
    for word in words {
        let open = pairs.last().is_some_and(|(_, value)| is_open(&value.join(" ")));
        let fresh = pairs.last().is_some_and(|(_, value)| value.is_empty());
        let pair = if open { None } else { as_pair(word, fresh) };
        match (pair, pairs.last_mut()) {
            (Some((name, value)), _) => {
                pairs.push((name, value.into_iter().map(str::to_owned).collect()));
            }
            (None, Some((_, value))) => value.push(word.clone()),
            (None, None) => {
                return Err(Failure::usage_hint(
                    format!("{word:?} is no parameter"),
                    "parameters are written `name: value name: value`",
                ));
            }
        }
    }
    let mut parameters = Parameters::new();
    for (name, value) in pairs {
        let given = parse_value(&name, &value)?;
        insert(&mut parameters, name, given)?;
    }
    Ok(parameters)
}

/// `name:`, or `name: value` in one word (not as the value of a name just before it).
fn as_pair(word: &str, after_name: bool) -> Option<(String, Option<&str>)> {
    if let Some(name) = word.strip_suffix(':').filter(|name| is_name(name)) {
        return Some((name.to_owned(), None));
    }
    let (name, value) = word.split_once(": ")?;
    (!after_name && is_name(name)).then(|| (name.to_owned(), Some(value.trim_start())))
}

/// Whether a word begins a pair.
pub fn is_key_word(word: &str) -> bool {
    word.strip_suffix(':').is_some_and(is_name)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// Whether a bracket or quote that began the value still stands open.
fn is_open(value: &str) -> bool {
    let Some(first) = value.chars().next() else { return false };
    if !matches!(first, '[' | '{' | '"' | '\'') || value.starts_with("{<") {
        return false;
    }
    let (mut depth, mut quote, mut escaped) = (0_i32, None, false);
    for c in value.chars() {
        match (quote, c) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), c) if c == open && !escaped => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, _) => {}
        }
        escaped = false;
    }
    depth > 0 || quote.is_some()
}

/// Reads the words of one value.
///
/// # Errors
/// It begins like YAML and is none.
pub fn parse_value(name: &str, words: &[String]) -> Result<Given, Failure> {
    if words.is_empty() {
        return Ok(Given { value: Value::Null, text: None });
    }
    let text = words.join(" ");
    let yaml = text.starts_with(['{', '[', '"', '\'']) && !text.starts_with("{<");
    if yaml {
        let value = serde_saphyr::from_str(&text).map_err(|error| {
            Failure::usage_hint(
                format!("the value of `{name}` is no YAML: {error}"),
                "quote a text that begins with a bracket or quote: '\"[a\"'",
            )
        })?;
        return Ok(Given { value, text: None });
    }
    Ok(scalar(text))
}

/// A plain scalar: null, boolean, number, else text.
fn scalar(text: String) -> Given {
    // Numbers and keywords are one word; what else YAML might see in it stays text.
    let plain = !text.is_empty() && !text.contains(char::is_whitespace) && !text.ends_with(':');
    let value = match plain.then(|| serde_saphyr::from_str::<Value>(&text)) {
        Some(Ok(value @ (Value::Null | Value::Bool(_) | Value::Number(_)))) if text != "-" => value,
        _ => Value::String(text.clone()),
    };
    Given { value, text: Some(text) }
}

/// Reads one YAML mapping.
///
/// # Errors
/// It is no YAML, no mapping, or names a parameter twice.
pub fn parse_yaml(text: &str) -> Result<Parameters, Failure> {
    if text.trim().is_empty() {
        return Ok(Parameters::new());
    }
    let bad = |error: String| {
        Failure::usage_hint(
            format!("the parameters are no YAML mapping: {error}"),
            "write `name: value`, or {name: value, name: value}",
        )
    };
    let map: Map<String, Value> =
        serde_saphyr::from_str(text).map_err(|error| bad(error.to_string()))?;
    let texts = scalar_texts(text, &map);
    let given = |(name, value): (String, Value)| {
        let text = texts.get(&name).cloned();
        (name, Given { value, text })
    };
    Ok(map.into_iter().map(given).collect())
}

/// Reads one JSON object.
///
/// # Errors
/// It is no JSON object.
pub fn parse_json(text: &str) -> Result<Parameters, Failure> {
    let map: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("-A takes a JSON object: {error}")))?;
    Ok(map.into_iter().map(|(name, value)| (name, Given { value, text: None })).collect())
}

/// Puts further parameters to those that are there.
///
/// # Errors
/// A parameter is given twice.
pub fn merge(into: &mut Parameters, more: Parameters) -> Result<(), Failure> {
    more.into_iter().try_for_each(|(name, given)| insert(into, name, given))
}

fn insert(into: &mut Parameters, name: String, given: Given) -> Result<(), Failure> {
    if into.contains_key(&name) {
        return Err(Failure::usage(format!("the parameter `{name}` is given twice")));
    }
    into.insert(name, given);
    Ok(())
}

/// The number and boolean members of a mapping once more, as text.
fn scalar_texts(yaml: &str, map: &Map<String, Value>) -> BTreeMap<String, String> {
    let wanted = |name: &str| matches!(map.get(name), Some(Value::Bool(_) | Value::Number(_)));
    serde_saphyr::with_deserializer_from_str(yaml, |reader| Texts(&wanted).deserialize(reader))
        .unwrap_or_default()
}

struct Texts<'a>(&'a dyn Fn(&str) -> bool);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if (self.0)(&name) {
                let text = map.next_value()?;
                texts.insert(name, text);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(line: &[&str]) -> Value {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let map = parse_words(&words).unwrap().into_iter().map(|(name, given)| (name, given.value));
        Value::Object(map.collect())
    }

    #[test]
    fn every_form_of_confd_client() {
        for (line, means) in [
            (&["db_name:", "Exasol"][..], json!({"db_name": "Exasol"})),
            (
                &["username:", "alice", "userid:", "1001", "login_enabled:", "true"],
                json!({"username": "alice", "userid": 1001, "login_enabled": true}),
            ),
            (
                &["nodes:", "[11,", "12,", "13]", "size:", "5 GiB"],
                json!({"nodes": [11, 12, 13], "size": "5 GiB"}),
            ),
            (
                &["nodes:", "[11, 12]", "owner:", "[a,", "b:c]"],
                json!({"nodes": [11, 12], "owner": ["a", "b:c"]}),
            ),
            (
                &["labels:", "{rack:", "7,", "row:", "b}"],
                json!({"labels": {"rack": 7, "row": "b"}}),
            ),
            (&["text:", "several", "words", "n:", "-5"], json!({"text": "several words", "n": -5})),
            (&["username: alice", "userid: 1001"], json!({"username": "alice", "userid": 1001})),
            (&["{username: alice, userid: 1001}"], json!({"username": "alice", "userid": 1001})),
            (
                &["{username:", "alice,", "userid:", "1001}"],
                json!({"username": "alice", "userid": 1001}),
            ),
            (&["username: alice\nnodes:\n- 11\n"], json!({"username": "alice", "nodes": [11]})),
            (&["reason:", "see: ticket 4711"], json!({"reason": "see: ticket 4711"})),
            (&["a:", "b:", "x"], json!({"a": null, "b": "x"})),
            (&["a:", "", "b:", "\"5\""], json!({"a": "", "b": "5"})),
            (
                &["cert:", "{< /tmp/a b.pem}", "key:", "\"{< -}\""],
                json!({"cert": "{< /tmp/a b.pem}", "key": "{< -}"}),
            ),
            (&["pem:", "-----BEGIN X-----\na: b\n"], json!({"pem": "-----BEGIN X-----\na: b\n"})),
            (&["params:", "-x=1 -y"], json!({"params": "-x=1 -y"})),
            (
                &["url:", "https://h:1/x", "t:", "12:30"],
                json!({"url": "https://h:1/x", "t": "12:30"}),
            ),
            (&["pattern:", "*"], json!({"pattern": "*"})),
            (&["v:", "null", "w:", "~"], json!({"v": null, "w": null})),
            (&[], json!({})),
        ] {
            assert_eq!(read(line), means, "{line:?}");
        }
    }

    #[test]
    fn a_scalar_remembers_how_it_was_typed() {
        let words = ["version:", "8.10", "mode:", "0644"].map(str::to_owned);
        let read = parse_words(&words).unwrap();
        assert_eq!(read["version"].text.as_deref(), Some("8.10"));
        assert_eq!(read["mode"].text.as_deref(), Some("0644"));
        let read = parse_yaml("{version: 8.10, nodes: [1], flag: True}").unwrap();
        assert_eq!(read["version"].text.as_deref(), Some("8.10"));
        assert_eq!(read["flag"].text.as_deref(), Some("True"));
        assert_eq!((&read["nodes"].text, &read["nodes"].value), (&None, &json!([1])));
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        for line in [&["alice"][..], &["a:", "1", "a:", "2"], &["a:", "[1"], &["{a: 1"]] {
            let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
            assert!(parse_words(&words).is_err(), "{line:?}");
        }
        assert!(parse_yaml("- a").is_err() && parse_yaml("{a: 1, a: 2}").is_err());
        assert!(parse_json("[1]").is_err());
    }
}
