//! XML-RPC: one call in, a response or a fault out. The codec is `proto`'s; the methods are the
//! same as JSON-RPC's. Used by `http`.

use super::answer::{self, Answer};
use super::dispatch::Context;
use http::StatusCode;
use tiebeam_proto::{ErrorCode, Params, RpcError, xml};

/// A body that was read.
pub type Message = Result<(String, Params), RpcError>;

/// Reads a body under the limits.
pub fn parse(body: &[u8]) -> Message {
    match xml::parse_call(body) {
        Ok(call) => Ok((call.method, Params::Positional(call.params))),
        Err(error) => Err(RpcError::new(error.code(), error.to_string())),
    }
}

/// Runs the call; faults travel with HTTP 200. The code is returned beside the answer.
pub async fn run(message: Message, context: &Context) -> (Answer, Option<ErrorCode>) {
    let outcome = match message {
        Ok((method, params)) => context.call(&method, params).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(value) => (document(xml::write_response(&value)), None),
        Err(error) => (document(xml::write_error(&error)), Some(error.code)),
    }
}

fn document(bytes: Vec<u8>) -> Answer {
    answer::with_body(StatusCode::OK, answer::XML, bytes)
}
