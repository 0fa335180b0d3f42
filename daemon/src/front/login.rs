//! Reading a request's claim: `Authorization`, else the client certificate, else the socket's peer.
//!
//! Nothing is verified here; [`super::seam::Service::login`] does that. A header that is not
//! understood is a claim that cannot be true, not the absence of one.

use super::connection::Peer;
use super::seam::Credentials;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What a request claims.
pub enum Claim {
    /// Nothing.
    None,
    /// Something that is no login at all: answered like a wrong password.
    Malformed,
    /// A login that is to be verified.
    Login(Credentials),
}

/// The claim of a request on a connection.
pub fn claim(headers: &HeaderMap, peer: &Peer) -> Claim {
    if let Peer::Unix { uid, pid } = peer {
        // The kernel vouches for this one; a header could only claim to be somebody else.
        return Claim::Login(Credentials::Unix { uid: *uid, pid: *pid });
    }
    if let Some(header) = headers.get(AUTHORIZATION) {
        return from_header(header.as_bytes()).map_or(Claim::Malformed, Claim::Login);
    }
    match peer {
        Peer::Tcp { certificate: Some(certificate), .. } => {
            Claim::Login(Credentials::Certificate(Arc::clone(certificate)))
        }
        _ => Claim::None,
    }
}

fn from_header(header: &[u8]) -> Option<Credentials> {
    let header = std::str::from_utf8(header).ok()?.trim();
    let (scheme, rest) = header.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credentials::Bearer(Zeroizing::new(rest.to_owned())));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(rest).ok()?);
    let decoded = std::str::from_utf8(&decoded).ok()?;
    // The first colon ends the name; the password may have more (RFC 7617).
    let (user, password) = decoded.split_once(':')?;
    Some(Credentials::Basic {
        user: user.to_owned(),
        password: Zeroizing::new(password.to_owned()),
    })
}

/// The scheme of a verified claim, for the record: `Basic` or `Bearer`.
pub fn scheme(headers: &HeaderMap) -> Option<&'static str> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
    match header.split_once(' ')?.0 {
        scheme if scheme.eq_ignore_ascii_case("basic") => Some("Basic"),
        scheme if scheme.eq_ignore_ascii_case("bearer") => Some("Bearer"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(text: &str) -> Option<(String, String)> {
        match from_header(format!("Basic {}", STANDARD.encode(text)).as_bytes())? {
            Credentials::Basic { user, password } => Some((user, password.as_str().to_owned())),
            _ => None,
        }
    }

    #[test]
    fn a_password_may_hold_colons_and_any_utf_8() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(basic("admin:a:b:c"), pair("admin", "a:b:c"));
        assert_eq!(basic("jörg:pässword€"), pair("jörg", "pässword€"));
        assert_eq!(basic("admin:"), pair("admin", ""));
        assert_eq!(basic("admin"), None);
    }

    #[test]
    fn odd_headers_are_no_login() {
        for header in ["", "Basic", "Basic !!!", "Digest abc", "Bearer"] {
            assert!(from_header(header.as_bytes()).is_none(), "{header}");
        }
        assert!(from_header(b"bEaReR tb1.x").is_some());
        assert!(from_header(b"Basic \xff\xfe").is_none());
    }
}
