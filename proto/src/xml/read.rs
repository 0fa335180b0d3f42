//! From a document to values.
//!
//! Owns the walk over the events of the XML parser: which element may stand where, what a scalar's
//! text means, and the limit on nesting, which is checked before anything recurses. Refuses
//! DOCTYPE, so there are no entities to expand; passes over comments and processing instructions.

use super::text::{decode, entity, is_blank, is_xml_char, normal_base64, rfc3339};
use super::{BASE64_KEY, Call, Fault, ResponseError, XmlError};
use crate::limits::NESTING_MAX;
use quick_xml::{Reader, events::BytesRef, events::Event};
use serde_json::{Map, Number, Value, json};
use std::borrow::Cow;

/// Levels of a response: what a request may nest, and as much again for what we put around it.
const RESPONSE_NESTING_MAX: usize = 2 * NESTING_MAX;

/// Reads a `methodCall`.
///
/// # Errors
///
/// [`XmlError`]; values nested deeper than [`NESTING_MAX`] levels are [`XmlError::TooDeep`].
pub fn parse_call(body: &[u8]) -> Result<Call, XmlError> {
    let text = decode(body)?;
    let mut walk = Walk::new(&text, NESTING_MAX);
    walk.open("methodCall", "<methodCall>")?;
    walk.open("methodName", "<methodName>")?;
    let method = walk.text("text in <methodName>")?.trim().to_owned();
    if method.is_empty() {
        return Err(walk.unexpected("a name in <methodName>"));
    }
    let params = match walk.next_element("<params> or </methodCall>")? {
        Some(name) if name == "params" => {
            let params = walk.params()?;
            walk.close("</methodCall>")?;
            params
        }
        Some(_) => return Err(walk.unexpected("<params>")),
        None => Vec::new(),
    };
    walk.finish()?;
    Ok(Call { method, params })
}

/// Reads a `methodResponse`, as clients and tests do.
///
/// # Errors
///
/// [`ResponseError::Fault`] if the server answered with one, else [`ResponseError::Document`].
pub fn parse_response(body: &[u8]) -> Result<Value, ResponseError> {
    let text = decode(body)?;
    let mut walk = Walk::new(&text, RESPONSE_NESTING_MAX);
    walk.open("methodResponse", "<methodResponse>")?;
    let name = walk.next_element("<params> or <fault>")?;
    let answer = match name.as_deref() {
        Some("params") => Ok(walk.params()?.into_iter().next().unwrap_or(Value::Null)),
        Some("fault") => {
            walk.open("value", "<value>")?;
            let value = walk.value(1)?;
            walk.close("</fault>")?;
            Err(fault(&value).ok_or_else(|| walk.unexpected("faultCode and faultString"))?)
        }
        _ => return Err(walk.unexpected("<params> or <fault>").into()),
    };
    walk.close("</methodResponse>")?;
    walk.finish()?;
    answer.map_err(ResponseError::Fault)
}

fn fault(value: &Value) -> Option<Fault> {
    let code = value.get("faultCode")?.as_i64()?;
    Some(Fault { code, message: value.get("faultString")?.as_str()?.to_owned() })
}

/// What is left of the parser's events.
enum Node<'a> {
    Open(Cow<'a, str>),
    Close,
    Text(Cow<'a, str>),
    End,
}

struct Walk<'a> {
    reader: Reader<&'a [u8]>,
    depth_max: usize,
    started: bool,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str, depth_max: usize) -> Walk<'a> {
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        Walk { reader, depth_max, started: false }
    }

    fn at(&self) -> usize {
        usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX)
    }

    fn unexpected(&self, expected: &'static str) -> XmlError {
        XmlError::Unexpected { expected, at: self.at() }
    }

    fn scalar_error(&self, expected: &'static str) -> XmlError {
        XmlError::Scalar { expected, at: self.at() }
    }

    /// The next event that means anything. The parser's own errors repeat names from the input,
    /// so only their place is kept.
    fn next(&mut self) -> Result<Node<'a>, XmlError> {
        loop {
            let first = !std::mem::replace(&mut self.started, true);
            let event = self.reader.read_event().map_err(|_| self.malformed())?;
            match event {
                Event::Start(tag) | Event::Empty(tag) => {
                    return Ok(Node::Open(Cow::Owned(tag.local_name().as_ref().to_owned())));
                }
                Event::End(_) => return Ok(Node::Close),
                Event::Text(text) => return self.checked(text.xml10_content()),
                Event::CData(text) => return self.checked(text.xml10_content()),
                Event::GeneralRef(name) => return self.reference(&name),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Decl(_) if first => {}
                Event::Decl(_) => return Err(self.malformed()),
                Event::DocType(_) => return Err(XmlError::Doctype),
                Event::Eof => return Ok(Node::End),
            }
        }
    }

    fn malformed(&self) -> XmlError {
        let at = self.reader.error_position().max(self.reader.buffer_position());
        XmlError::Malformed { at: usize::try_from(at).unwrap_or(usize::MAX) }
    }

    fn checked(&self, text: Cow<'a, str>) -> Result<Node<'a>, XmlError> {
        if text.chars().all(is_xml_char) {
            Ok(Node::Text(text))
        } else {
            Err(XmlError::Character { at: self.at() })
        }
    }

    fn reference(&self, name: &BytesRef<'_>) -> Result<Node<'a>, XmlError> {
        let found = if name.is_char_ref() {
            let known = name.resolve_char_ref().ok().flatten().filter(|c| is_xml_char(*c));
            known.ok_or_else(|| XmlError::Character { at: self.at() })
        } else {
            entity(name).ok_or_else(|| XmlError::UnknownEntity { at: self.at() })
        };
        found.map(|c| Node::Text(Cow::Owned(c.to_string())))
    }

    /// The name of the next element, or `None` where the one around it is closed.
    fn next_element(&mut self, expected: &'static str) -> Result<Option<Cow<'a, str>>, XmlError> {
        loop {
            match self.next()? {
                Node::Open(name) => return Ok(Some(name)),
                Node::Close => return Ok(None),
                Node::Text(text) if is_blank(&text) => {}
                Node::Text(_) => return Err(self.unexpected(expected)),
                Node::End => return Err(XmlError::Incomplete { expected }),
            }
        }
    }

    fn open(&mut self, name: &str, expected: &'static str) -> Result<(), XmlError> {
        match self.next_element(expected)? {
            Some(found) if found == name => Ok(()),
            _ => Err(self.unexpected(expected)),
        }
    }

    fn close(&mut self, expected: &'static str) -> Result<(), XmlError> {
        match self.next_element(expected)? {
            None => Ok(()),
            Some(_) => Err(self.unexpected(expected)),
        }
    }

    /// Nothing but comments and blanks may follow the outermost element.
    fn finish(&mut self) -> Result<(), XmlError> {
        const EXPECTED: &str = "nothing after the outermost element";
        loop {
            match self.next()? {
                Node::End => return Ok(()),
                Node::Text(text) if is_blank(&text) => {}
                _ => return Err(self.unexpected(EXPECTED)),
            }
        }
    }

    /// Text up to the end tag.
    fn text(&mut self, expected: &'static str) -> Result<String, XmlError> {
        let mut whole = String::new();
        loop {
            match self.next()? {
                Node::Text(part) => whole.push_str(&part),
                Node::Close => return Ok(whole),
                Node::Open(_) => return Err(self.unexpected(expected)),
                Node::End => return Err(XmlError::Incomplete { expected }),
            }
        }
    }

    /// From within `<params>` to its end.
    fn params(&mut self) -> Result<Vec<Value>, XmlError> {
        let mut params = Vec::new();
        while let Some(name) = self.next_element("<param> or </params>")? {
            if name != "param" {
                return Err(self.unexpected("<param>"));
            }
            self.open("value", "<value>")?;
            params.push(self.value(1)?);
            self.close("</param>")?;
        }
        Ok(params)
    }

    /// From within `<value>` to its end; `level` counts the values around it and itself.
    fn value(&mut self, level: usize) -> Result<Value, XmlError> {
        const EXPECTED: &str = "text, or one typed element, in <value>";
        if level > self.depth_max {
            return Err(XmlError::TooDeep { limit: self.depth_max });
        }
        let mut untyped = String::new();
        loop {
            match self.next()? {
                Node::Text(part) => untyped.push_str(&part),
                Node::Close => return Ok(Value::String(untyped)),
                Node::Open(name) if is_blank(&untyped) => {
                    let value = self.typed(&name, level)?;
                    self.close("</value>")?;
                    return Ok(value);
                }
                Node::Open(_) => return Err(self.unexpected(EXPECTED)),
                Node::End => return Err(XmlError::Incomplete { expected: EXPECTED }),
            }
        }
    }

    /// From within a typed element to its end.
    fn typed(&mut self, name: &str, level: usize) -> Result<Value, XmlError> {
        match name {
            "array" => self.array(level),
            "struct" => self.structure(level),
            "string" => self.text("text in <string>").map(Value::String),
            "nil" => self.close("</nil>").map(|()| Value::Null),
            "int" | "i4" | "i8" | "i1" | "i2" => self.integer(),
            "boolean" => self.boolean(),
            "double" | "float" => self.double(),
            "base64" => {
                let text = self.text("text in <base64>")?;
                let normal = normal_base64(&text).ok_or_else(|| self.scalar_error("base64"))?;
                Ok(json!({ BASE64_KEY: normal }))
            }
            "dateTime.iso8601" => {
                let text = self.text("text in <dateTime.iso8601>")?;
                let time = rfc3339(text.trim());
                time.map(Value::String)
                    .ok_or_else(|| self.scalar_error("an ISO 8601 date and time"))
            }
            _ => Err(self.unexpected("an element that names an XML-RPC type")),
        }
    }

    fn integer(&mut self) -> Result<Value, XmlError> {
        let number = self.text("text in an integer")?.trim().parse::<i64>();
        number.map(Value::from).map_err(|_| self.scalar_error("an integer of 64 bits"))
    }

    fn boolean(&mut self) -> Result<Value, XmlError> {
        match self.text("text in <boolean>")?.trim() {
            "1" | "true" => Ok(Value::Bool(true)),
            "0" | "false" => Ok(Value::Bool(false)),
            _ => Err(self.scalar_error("0 or 1")),
        }
    }

    fn double(&mut self) -> Result<Value, XmlError> {
        let number = self.text("text in <double>")?.trim().parse::<f64>().ok();
        let finite = number.and_then(Number::from_f64);
        finite.map(Value::Number).ok_or_else(|| self.scalar_error("a finite number"))
    }

    fn array(&mut self, level: usize) -> Result<Value, XmlError> {
        let mut items = Vec::new();
        self.open("data", "<data>")?;
        while let Some(name) = self.next_element("<value> or </data>")? {
            if name != "value" {
                return Err(self.unexpected("<value>"));
            }
            items.push(self.value(level + 1)?);
        }
        self.close("</array>")?;
        Ok(Value::Array(items))
    }

    fn structure(&mut self, level: usize) -> Result<Value, XmlError> {
        let mut members = Map::new();
        while let Some(name) = self.next_element("<member> or </struct>")? {
            if name != "member" {
                return Err(self.unexpected("<member>"));
            }
            self.open("name", "<name>")?;
            let key = self.text("text in <name>")?;
            self.open("value", "<value>")?;
            let value = self.value(level + 1)?;
            self.close("</member>")?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}
