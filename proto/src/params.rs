//! A method's arguments as they arrive: by position or by name, from JSON or XML alike.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Arguments of a method call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Params {
    /// An array: XML-RPC, or JSON-RPC with `params: […]` (absent `params` is an empty array).
    Positional(Vec<Value>),
    /// A JSON-RPC object.
    Named(Map<String, Value>),
}

impl Params {
    /// No arguments.
    pub const fn none() -> Params {
        Params::Positional(Vec::new())
    }
}
