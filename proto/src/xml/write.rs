//! From values to a document.
//!
//! Owns the form of what we send: one line, every value typed, nothing that XML 1.0 does not have.
//! Its recursion is as deep as the value, which the parsers of this crate bound.

use super::BASE64_KEY;
use super::text::{is_base64, is_xml_char};
use crate::RpcError;
use serde_json::{Map, Number, Value, json};

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// A `methodResponse` with this result.
pub fn write_response(value: &Value) -> Vec<u8> {
    let mut out = HEAD.to_owned();
    out.push_str("<methodResponse><params><param>");
    write_value(value, &mut out);
    out.push_str("</param></params></methodResponse>\n");
    out.into_bytes()
}

/// A `methodResponse` with a fault.
pub fn write_fault(code: i32, message: &str) -> Vec<u8> {
    document_of_fault(&json!({"faultCode": code, "faultString": message}))
}

/// A `methodResponse` with an error of ours; see [`fault_value`].
pub fn write_error(error: &RpcError) -> Vec<u8> {
    document_of_fault(&fault_value(error))
}

/// The struct of a fault, as it also stands in the results of `system.multicall`.
///
/// A fault has room for a code and a text only, so the text carries the field and the hint, too:
/// `message (field: …; hint: …)`.
pub fn fault_value(error: &RpcError) -> Value {
    let notes: Vec<String> = [("field", &error.field), ("hint", &error.hint)]
        .into_iter()
        .filter_map(|(name, text)| text.as_ref().map(|text| format!("{name}: {text}")))
        .collect();
    let mut text = error.message.clone();
    if !notes.is_empty() {
        text.push_str(&format!(" ({})", notes.join("; ")));
    }
    json!({"faultCode": error.code.number(), "faultString": text})
}

/// A `methodCall`, as clients and tests send it.
pub fn write_call(method: &str, params: &[Value]) -> Vec<u8> {
    let mut out = HEAD.to_owned();
    out.push_str("<methodCall><methodName>");
    write_text(method, &mut out);
    out.push_str("</methodName><params>");
    for param in params {
        out.push_str("<param>");
        write_value(param, &mut out);
        out.push_str("</param>");
    }
    out.push_str("</params></methodCall>\n");
    out.into_bytes()
}

fn document_of_fault(fault: &Value) -> Vec<u8> {
    let mut out = HEAD.to_owned();
    out.push_str("<methodResponse><fault>");
    write_value(fault, &mut out);
    out.push_str("</fault></methodResponse>\n");
    out.into_bytes()
}

fn write_value(value: &Value, out: &mut String) {
    out.push_str("<value>");
    match value {
        Value::Null => out.push_str("<nil/>"),
        Value::Bool(set) => write_scalar("boolean", if *set { "1" } else { "0" }, out),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_scalar("string", text, out),
        Value::Array(items) => {
            out.push_str("<array><data>");
            items.iter().for_each(|item| write_value(item, out));
            out.push_str("</data></array>");
        }
        Value::Object(members) => match bytes_of(members) {
            Some(text) => write_scalar("base64", text, out),
            None => write_struct(members, out),
        },
    }
    out.push_str("</value>");
}

/// The base64 text of an object that stands for bytes.
fn bytes_of(members: &Map<String, Value>) -> Option<&str> {
    let text = members.get(BASE64_KEY).filter(|_| members.len() == 1)?.as_str()?;
    is_base64(text).then_some(text)
}

fn write_struct(members: &Map<String, Value>, out: &mut String) {
    out.push_str("<struct>");
    for (name, value) in members {
        out.push_str("<member>");
        write_scalar("name", name, out);
        write_value(value, out);
        out.push_str("</member>");
    }
    out.push_str("</struct>");
}

/// Floats are written without an exponent, as the XML-RPC specification wants them.
fn write_number(number: &Number, out: &mut String) {
    match (number.as_i64(), number.as_f64()) {
        (Some(integer), _) if i32::try_from(integer).is_ok() => {
            write_scalar("int", &integer.to_string(), out);
        }
        (Some(integer), _) => write_scalar("i8", &integer.to_string(), out),
        (None, Some(float)) if !number.is_u64() => write_scalar("double", &float.to_string(), out),
        (None, _) => write_scalar("string", &number.to_string(), out),
    }
}

fn write_scalar(tag: &str, text: &str, out: &mut String) {
    for part in ["<", tag, ">"] {
        out.push_str(part);
    }
    write_text(text, out);
    for part in ["</", tag, ">"] {
        out.push_str(part);
    }
}

/// A carriage return is written as a reference, or readers would turn it into a line feed.
fn write_text(text: &str, out: &mut String) {
    out.reserve(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\r' => out.push_str("&#13;"),
            c if is_xml_char(c) => out.push(c),
            _ => out.push('\u{fffd}'),
        }
    }
}
