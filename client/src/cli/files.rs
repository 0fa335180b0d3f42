//! `{< file}` and `{< -}` within values: the content of a file or of standard input.
//!
//! A value that is nothing else becomes the content, byte for byte; content that is no UTF-8
//! becomes `{base64: …}`, as parameters of type `bytes` take it. Within a longer text the content
//! is put in its place. Standard input is read once, however often it is named.

use super::failure::Failure;
use super::words::Parameters;
use base64::Engine;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use tiebeam_proto::limits::BODY_BYTES_MAX;

/// Where content comes from; a test hands in its own.
pub trait Contents {
    /// The bytes of a file; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be read, or is larger than a request may be.
    fn read(&mut self, name: &str) -> Result<Vec<u8>, Failure>;
}

/// The process's files and standard input.
#[derive(Debug, Default)]
pub struct RealContents {
    stdin: Option<Vec<u8>>,
}

impl Contents for RealContents {
    fn read(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
        let path = Path::new(name);
        let unreadable = |source| Failure::File { what: "read", path: path.into(), source };
        if name == "-" {
            if let Some(content) = &self.stdin {
                return Ok(content.clone());
            }
            let content = limited(std::io::stdin().lock()).map_err(unreadable)?;
            self.stdin = Some(content.clone());
            return Ok(content);
        }
        std::fs::File::open(path).and_then(limited).map_err(unreadable)
    }
}

fn limited(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut content)?;
    if content.len() > BODY_BYTES_MAX {
        let text = format!("it is larger than a request may be ({BODY_BYTES_MAX} bytes)");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text));
    }
    Ok(content)
}

/// Puts contents in place in all values.
///
/// # Errors
/// A file cannot be read, or is no text and stands within a text.
pub fn substitute(into: &mut Parameters, contents: &mut dyn Contents) -> Result<(), Failure> {
    for given in into.values_mut() {
        if replace(&mut given.value, contents)? {
            given.text = None;
        }
    }
    Ok(())
}

fn replace(value: &mut Value, contents: &mut dyn Contents) -> Result<bool, Failure> {
    match value {
        Value::String(text) => {
            let Some(filled) = fill(text, contents)? else { return Ok(false) };
            *value = filled;
            Ok(true)
        }
        Value::Array(items) => {
            items.iter_mut().try_fold(false, |any, item| Ok(replace(item, contents)? || any))
        }
        Value::Object(map) => {
            // An unquoted {< file} within YAML reads as a mapping of `< file` to nothing.
            if let Some(name) = bare(map) {
                *value = whole(contents.read(&name)?);
                return Ok(true);
            }
            map.values_mut().try_fold(false, |any, item| Ok(replace(item, contents)? || any))
        }
        _ => Ok(false),
    }
}

fn bare(map: &serde_json::Map<String, Value>) -> Option<String> {
    let (key, value) = map.iter().next().filter(|_| map.len() == 1)?;
    let name = key.strip_prefix('<').filter(|_| value.is_null())?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn fill(text: &str, contents: &mut dyn Contents) -> Result<Option<Value>, Failure> {
    let mut filled = String::new();
    let mut rest = text;
    let mut any = false;
    while let Some((before, name, after)) = next_mark(rest) {
        let content = contents.read(name)?;
        if !any && before.is_empty() && after.is_empty() {
            return Ok(Some(whole(content)));
        }
        let content = String::from_utf8(content).map_err(|_| {
            Failure::usage(format!("{name:?} is no UTF-8, so it cannot stand within a text"))
        })?;
        filled.push_str(before);
        filled.push_str(&content);
        rest = after;
        any = true;
    }
    filled.push_str(rest);
    Ok(any.then_some(Value::String(filled)))
}

/// The text before the next mark, the name in it, the text after it.
fn next_mark(text: &str) -> Option<(&str, &str, &str)> {
    let (before, from) = text.split_once("{<")?;
    let (name, after) = from.split_once('}')?;
    let name = name.trim();
    (!name.is_empty()).then_some((before, name, after))
}

fn whole(content: Vec<u8>) -> Value {
    String::from_utf8(content).map_or_else(
        |error| {
            let engine = base64::engine::general_purpose::STANDARD;
            json!({"base64": engine.encode(error.as_bytes())})
        },
        Value::String,
    )
}

#[cfg(test)]
mod tests {
    use super::super::words::parse_yaml;
    use super::*;

    struct Fixed;

    impl Contents for Fixed {
        fn read(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
            match name {
                "-" => Ok(b"from stdin\n".to_vec()),
                "/a b" => Ok(b"content".to_vec()),
                "/raw" => Ok(vec![0xff, 0]),
                _ => Err(Failure::usage("no such file")),
            }
        }
    }

    fn filled(yaml: &str) -> Result<Value, Failure> {
        let mut parameters = parse_yaml(yaml)?;
        substitute(&mut parameters, &mut Fixed)?;
        Ok(parameters.into_iter().map(|(name, given)| (name, given.value)).collect())
    }

    #[test]
    fn marks_are_filled_wherever_they_stand() {
        for (yaml, means) in [
            (r#"k: "{< /a b}""#, json!({"k": "content"})),
            (r#"k: "{< -}""#, json!({"k": "from stdin\n"})),
            (r#"k: "x {< /a b}, {</a b} y""#, json!({"k": "x content, content y"})),
            ("{k: {< /a b}}", json!({"k": "content"})),
            (r#"k: ["{< /a b}", {d: "{< -}"}]"#, json!({"k": ["content", {"d": "from stdin\n"}]})),
            (r#"k: "{< /raw}""#, json!({"k": {"base64": "/wA="}})),
            (r#"k: "{<}""#, json!({"k": "{<}"})),
            ("k: 5", json!({"k": 5})),
        ] {
            assert_eq!(filled(yaml).unwrap(), means, "{yaml}");
        }
        assert!(filled(r#"k: "x {< /raw}""#).is_err());
        assert!(filled(r#"k: "{< /missing}""#).is_err());
    }
}
