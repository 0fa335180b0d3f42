//! Every type that crosses a wire or a file of Tiebeam, and the codecs for them.
//!
//! This crate owns words and shapes: error codes, the result object, the job record, canonical
//! JSON, the XML-RPC codec, limits. It does no I/O, reads no clock and never panics on input.
//! Everything else in the workspace imports it; it imports nothing of the workspace.

pub mod canonical;
pub mod chain;
pub mod error;
pub mod jobfile;
pub mod json;
pub mod limits;
pub mod outcome;
pub mod params;
pub mod record;
pub mod result;
pub mod time;
pub mod xml;

pub use error::{ErrorCode, RpcError};
pub use outcome::{Kind, Outcome, Stage};
pub use params::Params;
pub use result::ResultObject;
