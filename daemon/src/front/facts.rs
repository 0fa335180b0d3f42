//! What a job record keeps of a request (ruling 31): headers by allow-list, cut and cleaned; the
//! path without its query; of `Authorization` the scheme and the user, never the secret.

use super::connection::Peer;
use super::login;
use super::seam::Caller;
use http::HeaderMap;
use http::request::Parts;
use std::collections::BTreeMap;
use tiebeam_proto::limits::HEADER_BYTES_MAX;
use tiebeam_proto::record::RequestFacts;

/// The headers that are kept as they came; `authorization` is kept in its own form.
const KEPT: [&str; 6] =
    ["host", "user-agent", "content-type", "content-length", "x-request-id", "traceparent"];

/// The facts of one request; `caller` is absent before a login.
pub fn facts(
    protocol: &str,
    parts: &Parts,
    peer: &Peer,
    node_id: u32,
    caller: Option<&Caller>,
    body_bytes: usize,
) -> RequestFacts {
    let mut headers = kept_headers(&parts.headers);
    if let (Some(authority), false) = (parts.uri.authority(), headers.contains_key("host")) {
        // HTTP/2 says `:authority` where HTTP/1.1 says `Host`.
        headers.insert("host".to_owned(), clean(authority.as_str().as_bytes()));
    }
    if let (Some(scheme), Some(caller)) = (login::scheme(&parts.headers), caller) {
        headers.insert("authorization".to_owned(), format!("{scheme} {}", caller.user));
    }
    RequestFacts {
        protocol: protocol.to_owned(),
        path: clean(parts.uri.path().as_bytes()),
        peer: peer.recorded(node_id),
        tls: peer.tls().cloned(),
        user_agent: headers.get("user-agent").cloned(),
        headers,
        request_id: None,
        bytes: body_bytes as u64,
    }
}

fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    KEPT.into_iter()
        .filter_map(|name| Some((name.to_owned(), clean(headers.get(name)?.as_bytes()))))
        .collect()
}

/// Text without control characters, at most [`HEADER_BYTES_MAX`] bytes, cut between characters.
fn clean(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()) {
        if text.len() + c.len_utf8() > HEADER_BYTES_MAX {
            break;
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_has_no_control_characters() {
        assert_eq!(clean(b"a\tb\x1b[1mc"), "ab[1mc");
        let long = clean("ä".repeat(200).as_bytes());
        assert_eq!((long.len(), long.chars().count()), (256, 128));
        assert_eq!(clean(&[b'x', 0xff]), "x\u{fffd}");
    }
}
