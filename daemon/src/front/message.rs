//! The body of an RPC request, whichever of the three protocols it speaks: read, asked where it
//! may run, run. `http` knows no protocol but through this.

use super::Shared;
use super::answer::Answer;
use super::dispatch::{self, Context, is_login};
use super::seam::MethodClass;
use super::{jsonrpc, rest, xmlrpc};
use std::sync::Arc;
use tiebeam_proto::{ErrorCode, Params};

/// A body that was read, or what is wrong with it: that too is an answer of its protocol.
#[derive(Debug)]
pub enum Message {
    /// JSON-RPC.
    Json(jsonrpc::Message),
    /// XML-RPC.
    Xml(xmlrpc::Message),
    /// One of the forms of `/rest`.
    Rest(rest::Message),
}

impl Message {
    /// Reads a body of the RPC paths: XML if its first non-blank byte is `<`, else JSON.
    /// Content-Type is not looked at: real clients send the wrong one.
    pub fn parse(body: &[u8]) -> Message {
        let unmarked = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        match unmarked.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'<') => Message::Xml(xmlrpc::parse(body)),
            _ => Message::Json(jsonrpc::parse(unmarked)),
        }
    }

    /// Reads a body of `/rest`.
    pub fn parse_rest(body: &[u8], shared: &Shared) -> Message {
        Message::Rest(rest::parse(body, shared))
    }

    /// The protocol's name in the record.
    pub const fn protocol(&self) -> &'static str {
        match self {
            Message::Json(_) => "json-rpc",
            Message::Xml(_) => "xml-rpc",
            Message::Rest(_) => "rest",
        }
    }

    /// Where it may run: by its strictest call. What is no call is answered here.
    pub fn class(&self, shared: &Shared) -> MethodClass {
        let of = |(method, params): &(String, Params)| dispatch::class(shared, method, params);
        let strictest = match self {
            Message::Json(message) => message.calls().map(of).max(),
            Message::Xml(message) => message.as_ref().ok().map(of),
            Message::Rest(message) => message.call().map(of),
        };
        strictest.unwrap_or(MethodClass::Here)
    }

    /// Whether it is one single call of a method that needs no login (ruling 2).
    pub fn is_login(&self) -> bool {
        let call = match self {
            Message::Json(jsonrpc::Message::Single(member)) => member.call.as_ref().ok(),
            Message::Json(_) => None,
            Message::Xml(message) => message.as_ref().ok(),
            Message::Rest(message) => message.call(),
        };
        call.is_some_and(|(method, _params)| is_login(method))
    }

    /// Runs every call in it. The error code that all its answers have is returned beside the
    /// answer, because a few codes are answers of HTTP.
    pub async fn run(self, context: Arc<Context>) -> (Answer, Option<ErrorCode>) {
        match self {
            Message::Xml(message) => xmlrpc::run(message, &context).await,
            Message::Rest(message) => message.run(&context).await,
            Message::Json(message) => {
                let context = &context;
                let reply = message
                    .run(|id, method, params| async move {
                        let table = &context.shared.table;
                        Some(table.call(context, &id, &method, params).await)
                    })
                    .await;
                let every = reply.every;
                (reply.into(), every)
            }
        }
    }
}
