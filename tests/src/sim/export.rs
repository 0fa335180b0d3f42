//! Calls as JSON lines, for a linearizability checker that is not ours.
//!
//! One line a call: `{client, call_ns, return_ns|null, op, path, in, out}`. `return_ns` is null if
//! the client never learned what became of the call: it may have taken effect at any time after
//! `call_ns`, once, or never.

use super::linear::{Act, Seen};
use serde::Serialize;
use serde_json::{Value, json};

/// A call of a client on one register.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// The client.
    pub client: usize,
    /// When it called, in nanoseconds of the simulation.
    pub call_ns: u64,
    /// When it was answered.
    pub return_ns: Option<u64>,
    /// `read`, `set` or `delete`.
    pub op: &'static str,
    /// The register.
    pub path: &'static str,
    /// What it gave: `{value, expect_revision}`.
    #[serde(rename = "in")]
    pub given: Value,
    /// What it was told: `{value}`, `{revision}`, `{conflict: true}`; null if nothing.
    #[serde(rename = "out")]
    pub told: Value,
}

impl Exported {
    /// A call as the client saw it.
    pub(super) fn of(
        (client, path): (usize, &'static str),
        (call_ns, return_ns): (u64, u64),
        act: &Act,
        seen: &Seen,
    ) -> Exported {
        let (op, given) = match act {
            Act::Read => ("read", Value::Null),
            Act::Delete => ("delete", Value::Null),
            Act::Set { value, expect } => {
                ("set", json!({"value": value, "expect_revision": expect}))
            }
        };
        let told = match seen {
            Seen::Done(revision) => json!({"revision": revision}),
            Seen::Value(value) => json!({"value": value}),
            Seen::Conflict => json!({"conflict": true}),
            Seen::Unknown => Value::Null,
        };
        let return_ns = (*seen != Seen::Unknown).then_some(return_ns);
        Exported { client, call_ns, return_ns, op, path, given, told }
    }
}
