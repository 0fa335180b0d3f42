//! The job file: a record as YAML text that a person opens, greps and mails (wire.md section 8).
//!
//! [`render`] and [`parse`] are each other's inverse as far as the chain cares: the record that
//! [`parse`] gives back has the same canonical form, so the same hash. The same record has the
//! same text on every node. The text itself is not hashed (ruling 15). This module reads and
//! writes no file: the daemon's projection and the offline check do.

mod emit;

use crate::record::ChainLink;
use emit::Emitter;
use serde_json::{Map, Number, Value};

/// The parts that are written over several lines, however short they are.
const SECTIONS: [&str; 7] =
    ["parameters", "request", "scheduling", "stages", "commands", "result", "change"];

/// What a job file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct JobFile {
    /// The record, without its link and addenda: what the chain hashed.
    pub record: Value,
    /// What became known later; each is a record of its own in the chain.
    pub addenda: Vec<Value>,
    /// The record's place; absent in the file of a job that is not archived yet.
    pub link: Option<ChainLink>,
}

/// Why a text is no job file.
#[derive(Debug, thiserror::Error)]
pub enum JobFileError {
    /// It is not YAML, or a map in it has a key twice.
    #[error("the file is not YAML that a job file may hold")]
    Yaml(#[source] serde_yaml::Error),
    /// It is YAML with something that JSON does not have.
    #[error("the file holds {0}, which a record cannot hold")]
    Foreign(&'static str),
    /// Its `chain` or `addenda` has not the right form.
    #[error("the file's `{0}` has not the form that it must have")]
    Shape(&'static str),
}

/// Which part of a record is being written: it decides the order of keys, and which strings may
/// be times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Top,
    Request,
    Tls,
    Scheduling,
    Stages,
    Commands,
    Result,
    Change,
    Nodes,
    Chain,
    Addenda,
    /// What the user or the configuration gave: keys by their bytes, no string is a time.
    Foreign,
}

impl Part {
    fn child(self, key: &str) -> Part {
        match (self, key) {
            (Part::Top, "request") => Part::Request,
            (Part::Top, "scheduling") => Part::Scheduling,
            (Part::Top, "stages") => Part::Stages,
            (Part::Top, "commands") | (Part::Addenda, "command") => Part::Commands,
            (Part::Top, "result") => Part::Result,
            (Part::Top, "change") => Part::Change,
            (Part::Top, "nodes") => Part::Nodes,
            (Part::Top, "parameters")
            | (Part::Request, "headers")
            | (Part::Result, _)
            | (Part::Change, "old" | "value")
            | (Part::Foreign, _) => Part::Foreign,
            (Part::Request, "tls") => Part::Tls,
            (part, _) => part,
        }
    }

    /// The keys that come first, in this order; the rest follow by their bytes.
    const fn order(self) -> &'static [&'static str] {
        match self {
            Part::Top => &[
                "format",
                "job",
                "audit",
                "name",
                "kind",
                "outcome",
                "user",
                "reason",
                "mode",
                "parameters",
                "request",
                "scheduling",
                "stages",
                "commands",
                "result",
                "change",
                "nodes",
            ],
            Part::Request => {
                &["protocol", "path", "peer", "tls", "user_agent", "headers", "request_id", "bytes"]
            }
            Part::Tls => &["version", "cipher", "client_certificate"],
            Part::Scheduling => &["master", "term", "locks", "base_revision", "waited_us"],
            Part::Stages => &["submitted", "scheduled", "executed", "finished", "committed"],
            Part::Commands => {
                &["name", "node", "started", "ended", "result", "status", "evidence", "output"]
            }
            Part::Result => &["result_code", "result_desc", "result_revision"],
            Part::Change => &["op", "path", "old", "value"],
            Part::Nodes => &["applied", "pending"],
            Part::Chain => &["index", "previous", "this"],
            Part::Addenda => &["format", "addendum", "time", "command", "note"],
            Part::Foreign => &[],
        }
    }

    fn sorted(self, map: &Map<String, Value>) -> Vec<(&str, &Value)> {
        let rank = |key: &str| self.order().iter().position(|known| *known == key);
        let mut pairs: Vec<_> = map.iter().map(|(key, value)| (key.as_str(), value)).collect();
        pairs.sort_by_key(|(key, _)| (rank(key).unwrap_or(usize::MAX), *key));
        pairs
    }
}

/// The text of a record (a JSON object): `format` first, then the fields in wire.md's order,
/// `addenda` where there are any, and `chain` last where the place is known.
pub fn render(record: &Value, addenda: &[Value], link: Option<&ChainLink>) -> String {
    let mut emitter = Emitter { out: String::with_capacity(4096) };
    if let Value::Object(map) = record {
        for (key, value) in Part::Top.sorted(map) {
            emitter.pair(0, key, value, (Part::Top.child(key), SECTIONS.contains(&key)));
        }
    }
    if !addenda.is_empty() {
        emitter.pair(0, "addenda", &Value::Array(addenda.to_vec()), (Part::Addenda, true));
    }
    if let Some(link) = link {
        emitter.out.push_str("chain: ");
        emitter.flow(&link_value(link), Part::Chain, usize::MAX);
        emitter.out.push('\n');
    }
    emitter.out
}

fn link_value(link: &ChainLink) -> Value {
    serde_json::json!({"index": link.index, "previous": link.previous, "this": link.this})
}

/// Reads a job file back. A key that occurs twice, a tag, or a key that is no string is refused:
/// such a text can show a reader something else than what is hashed.
///
/// # Errors
/// [`JobFileError`], when the text is no job file.
pub fn parse(text: &str) -> Result<JobFile, JobFileError> {
    let yaml: serde_yaml::Value = serde_yaml::from_str(text).map_err(JobFileError::Yaml)?;
    let Value::Object(mut record) = to_json(yaml)? else {
        return Err(JobFileError::Shape("document"));
    };
    let link = match record.remove("chain") {
        None => None,
        Some(chain) => {
            Some(serde_json::from_value(chain).map_err(|_| JobFileError::Shape("chain"))?)
        }
    };
    let addenda = match record.remove("addenda") {
        None => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(JobFileError::Shape("addenda")),
    };
    Ok(JobFile { record: Value::Object(record), addenda, link })
}

fn to_json(yaml: serde_yaml::Value) -> Result<Value, JobFileError> {
    Ok(match yaml {
        serde_yaml::Value::Null => Value::Null,
        serde_yaml::Value::Bool(flag) => Value::Bool(flag),
        serde_yaml::Value::Number(number) => Value::Number(to_number(&number)?),
        serde_yaml::Value::String(text) => Value::String(text),
        serde_yaml::Value::Sequence(items) => {
            Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?)
        }
        serde_yaml::Value::Mapping(map) => {
            let mut object = Map::new();
            for (key, value) in map {
                let serde_yaml::Value::String(key) = key else {
                    return Err(JobFileError::Foreign("a key that is no string"));
                };
                object.insert(key, to_json(value)?);
            }
            Value::Object(object)
        }
        serde_yaml::Value::Tagged(_) => return Err(JobFileError::Foreign("a tag")),
    })
}

fn to_number(number: &serde_yaml::Number) -> Result<Number, JobFileError> {
    let whole = number.as_u64().map(Number::from).or_else(|| number.as_i64().map(Number::from));
    whole
        .or_else(|| number.as_f64().and_then(Number::from_f64))
        .ok_or(JobFileError::Foreign("a number that is not finite"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{canonical, chain};
    use proptest::prelude::*;
    use serde_json::json;

    fn round_trip(record: &Value) -> String {
        let text = render(record, &[], None);
        let back = parse(&text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        let (sent, got) = (canonical::to_vec(record), canonical::to_vec(&back.record));
        assert_eq!(String::from_utf8_lossy(&sent), String::from_utf8_lossy(&got), "{text}");
        text
    }

    #[test]
    fn the_order_and_style_are_the_wire_s() {
        let record = json!({
            "result": {"result_revision": 18, "result_code": 0}, "outcome": "ok",
            "change": [{"path": "users/alice", "op": "add", "value": {"id": 1001}}],
            "commands": [{"node": 11, "name": "run", "output": "one\n  two\n", "result": "ok"}],
            "job": "11.42", "kind": "modify", "name": "user_create", "format": 1,
            "nodes": {"pending": [], "applied": [11, 12]}, "user": "admin",
            "parameters": {"password": {"secret": "withheld"}, "at": "2026-11-20T04:05:06.123456Z"},
            "scheduling": {"term": 7, "locks": ["write users/alice"], "master": 11},
            "stages": {"submitted": "2026-11-20T04:05:06.123456Z"},
        });
        let mut head = chain::Head::EMPTY;
        let link = head.extend(&canonical::to_vec(&record));
        let addendum = json!({"format": 1, "addendum": "11.42", "note": "it ended after all"});
        let expected = format!(
            "format: 1\njob: \"11.42\"\nname: user_create\nkind: modify\noutcome: ok\nuser: admin\n\
             parameters:\n  at: \"2026-11-20T04:05:06.123456Z\"\n  password: {{secret: withheld}}\n\
             scheduling:\n  master: 11\n  term: 7\n  locks: [\"write users/alice\"]\n\
             stages:\n  submitted: 2026-11-20T04:05:06.123456Z\n\
             commands:\n- name: run\n  node: 11\n  result: ok\n  output: |\n    one\n      two\n\
             result:\n  result_code: 0\n  result_revision: 18\n\
             change:\n- {{op: add, path: users/alice, value: {{id: 1001}}}}\n\
             nodes: {{applied: [11, 12], pending: []}}\n\
             addenda:\n- format: 1\n  addendum: \"11.42\"\n  note: it ended after all\n\
             chain: {{index: 1, previous: \"{}\", this: \"{}\"}}\n",
            link.previous, link.this
        );
        let text = render(&record, std::slice::from_ref(&addendum), Some(&link));
        assert_eq!(text, expected);
        let file = parse(&text).unwrap();
        assert_eq!((file.record, file.addenda, file.link), (record, vec![addendum], Some(link)));
    }

    const NASTY: &[&str] = &[
        "",
        " ",
        "~",
        "null",
        "No",
        "y",
        "1_000",
        "0x1f",
        "1e5",
        ".nan",
        "-",
        "- a",
        "? a",
        "a: b",
        "a #b",
        "#",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "%",
        "@",
        "`",
        "'",
        "\"",
        "\\",
        "{",
        "[a]",
        "a,b",
        "---",
        "...",
        "\t",
        "a\tb",
        "a\n",
        "a\n\n",
        "\n",
        "\na",
        " a\nb",
        "a\n b",
        "a\n ",
        "a\n \n",
        "a \nb",
        "a\r\nb",
        "\u{85}",
        "a\u{2028}b\n",
        "\u{feff}",
        "\u{0}",
        "\u{7f}",
        "\u{9f}",
        "\u{fffe}",
        "\u{ffff}",
        "\u{10ffff}",
        "é",
        "日本",
        "🦀\n🦀",
        "<<",
        "=",
        "1:30",
        "2026-11-20",
        "2026-11-20T04:05:06.123456Z",
        "a\n---\nb",
        "a\n\tb",
        "0o7",
        "+1",
        "Infinity",
    ];

    #[test]
    fn nasty_text_comes_back_as_it_was() {
        for &text in NASTY {
            round_trip(&json!({
                text: text, "l": [text, [text, [text]], {text: text}], "m": {"x": {text: [text]}},
                "parameters": {text: text, "long": [text, "x".repeat(120)]}, "reason": text,
                "commands": [{"output": text, "name": text}],
            }));
        }
        let long = "k".repeat(3000);
        round_trip(&json!({&long: {"a": {&long: [1, "a\nb"]}}, "l": [{&long: "a\nb", "b": 1}]}));
    }

    #[test]
    fn a_text_that_shows_one_thing_and_hashes_another_is_refused() {
        for text in ["user: a\nuser: b\n", "a: !t 1\n", "1: a\n", "a: .nan\n", "- 1\n", "a: [", ""]
        {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(matches!(parse("a: 1\nchain: 2\n"), Err(JobFileError::Shape("chain"))));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[ -~]{0,12}",
            "\\PC{0,8}",
            "[a-c \n\t:#-]{0,12}",
            proptest::collection::vec(any::<char>(), 0..6).prop_map(String::from_iter),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-30i32..30, -9i64..9).prop_map(|(e, m)| Value::from(m as f64 * 10f64.powi(e))),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(text.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_record_has_the_same_hash_after_its_file(value in any_value(), part in 0usize..8) {
            let keys =
                ["parameters", "result", "request", "commands", "change", "reason", "x", "nodes"];
            let key = keys[part];
            let record = json!({"format": 1, "job": "11.1", key: value});
            // What the chain hashes are canonical bytes; the renderer starts from those.
            let sealed = canonical::to_vec(&record);
            round_trip(&serde_json::from_slice(&sealed).unwrap());
        }
    }
}
