//! XML-RPC: calls and answers as XML, straight to and from `serde_json::Value`.
//!
//! This module owns what both directions share: the words for errors and faults and the mapping of
//! types. `read` takes documents from strangers apart, `text` turns their bytes into characters,
//! `write` makes documents. The request path calls it, so it never panics, and no error repeats
//! what was sent. It knows no method and no job: a call is a name and values.
//!
//! | XML | JSON |
//! |---|---|
//! | `nil`, `ex:nil` | `null` |
//! | `boolean` | `true`, `false` |
//! | `int`, `i4`, `i8` (and `i1`, `i2`) | integer of 64 bits, whatever the tag says |
//! | `double`, `float` | a finite float |
//! | `string`, or no type | string, white space kept |
//! | `base64` | `{"base64": "…"}`, the text checked and without white space |
//! | `dateTime.iso8601` | RFC 3339 string in UTC; a time without a zone is UTC |
//! | `array`, `struct` | array, object; of members with the same name the last one counts |
//!
//! The way back writes integers beyond 32 bits as `i8`, beyond 64 bits signed as `string`, objects
//! of the form `{"base64": "…"}` as `base64`, and characters that XML 1.0 does not have as U+FFFD.

mod read;
mod text;
mod write;

#[cfg(test)]
mod tests;

pub use read::{parse_call, parse_response};
pub use write::{fault_value, write_call, write_error, write_fault, write_response};

use crate::{ErrorCode, RpcError};
use serde_json::Value;

/// The only key of the object that stands for bytes.
pub const BASE64_KEY: &str = "base64";

/// A method call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The method's name as it was sent.
    pub method: String,
    /// Its arguments; empty if there was no `params`.
    pub params: Vec<Value>,
}

/// An error as XML-RPC carries it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault {code}: {message}")]
pub struct Fault {
    /// `faultCode`: the number of an [`ErrorCode`], if the fault is one of ours.
    pub code: i64,
    /// `faultString`.
    pub message: String,
}

/// Why there is no value in a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The server answered with a fault.
    #[error("the server answered with a fault")]
    Fault(#[source] Fault),
    /// The answer could not be read.
    #[error("the answer is no XML-RPC response")]
    Document(#[from] XmlError),
}

/// Why a document is not XML-RPC. Places are bytes of the decoded text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Bytes that are not in the declared encoding.
    #[error("the XML is not valid UTF-8 at byte {at}")]
    NotUtf8 {
        /// The first wrong byte.
        at: usize,
    },
    /// An encoding other than UTF-8 and ISO-8859-1.
    #[error("the XML is in an encoding other than UTF-8 and ISO-8859-1")]
    Encoding,
    /// The document breaks XML's own rules.
    #[error("the XML is malformed near byte {at}")]
    Malformed {
        /// Near here.
        at: usize,
    },
    /// A character that XML 1.0 does not have, raw or by reference.
    #[error("a character before byte {at} is not allowed in XML 1.0")]
    Character {
        /// Where the text or reference ends that has it.
        at: usize,
    },
    /// The document ends within an element.
    #[error("the XML ends too early: expected {expected}")]
    Incomplete {
        /// What should have come.
        expected: &'static str,
    },
    /// A DOCTYPE, and with it entity declarations.
    #[error("the XML has a DOCTYPE, which is not accepted")]
    Doctype,
    /// An entity other than XML's five.
    #[error("the XML names an unknown entity before byte {at}")]
    UnknownEntity {
        /// Where the reference ends.
        at: usize,
    },
    /// `value` elements within each other beyond the limit.
    #[error("the XML has values nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Well-formed XML that is not XML-RPC.
    #[error("expected {expected} before byte {at}")]
    Unexpected {
        /// What should have come.
        expected: &'static str,
        /// Where what came instead ends.
        at: usize,
    },
    /// A scalar whose text does not fit its type.
    #[error("the text before byte {at} is not {expected}")]
    Scalar {
        /// The type, in words.
        expected: &'static str,
        /// Where the text ends.
        at: usize,
    },
}

impl XmlError {
    /// `invalid_request` for XML that is no call, `parse_error` for all that is no XML.
    pub const fn code(&self) -> ErrorCode {
        match self {
            XmlError::Unexpected { .. } | XmlError::Scalar { .. } => ErrorCode::InvalidRequest,
            XmlError::NotUtf8 { .. }
            | XmlError::Encoding
            | XmlError::Malformed { .. }
            | XmlError::Character { .. }
            | XmlError::Incomplete { .. }
            | XmlError::Doctype
            | XmlError::UnknownEntity { .. }
            | XmlError::TooDeep { .. } => ErrorCode::ParseError,
        }
    }
}

impl From<XmlError> for RpcError {
    fn from(error: XmlError) -> RpcError {
        RpcError::new(error.code(), error.to_string())
    }
}
