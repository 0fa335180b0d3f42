//! `/join`: the door for nodes that are no members yet.
//!
//! There is no login: the body carries a token, which the service checks. It is for the master
//! alone, so that wrong tokens are counted and slowed down in one place; any other node says where
//! that is. Called by `http`.

use super::answer::{self, Answer};
use super::body;
use super::connection::Connection;
use super::facts::facts;
use super::http::{refused, unread};
use super::seam::{JoinCall, Place};
use http::request::Parts;
use hyper::body::Incoming;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Bytes of a request to join: a token, a name, an address, a certificate request.
const BODY_BYTES_MAX: usize = 16 << 10;

/// Answers one request to join.
pub async fn join(connection: &Arc<Connection>, parts: Parts, mut body: Incoming) -> Answer {
    let shared = &connection.shared;
    match shared.service.place() {
        Place::Here => {}
        Place::NoMaster => return refused(&parts, body, answer::no_master()).await,
        Place::Master { address } => {
            let there = answer::redirect(&format!("https://{address}/join"));
            return refused(&parts, body, there).await;
        }
    }
    let read = body::read(&mut body, &parts.headers, BODY_BYTES_MAX, &shared.admission).await;
    let mut charged = match read {
        Ok(charged) => charged,
        Err(error) => return unread(&parts, body, &error, BODY_BYTES_MAX).await,
    };
    let peer = &connection.peer;
    let bytes = charged.bytes.len();
    let call = JoinCall {
        body: Zeroizing::new(std::mem::take(&mut charged.bytes)),
        facts: facts("join", &parts, peer, shared.service.node_id(), None, bytes),
        source: peer.source(),
        stop: shared.drain.stop().clone(),
    };
    let (status, value) = shared.service.join(call).await;
    answer::json(status, &value)
}
