//! Bearer tokens of `user_login`: `tb1.<key number>.<payload>.<mac>` (ruling 4).
//!
//! This module owns the form and the checks. A token is verified without a look-up on any master:
//! its mac is made with the cluster's key `token`, and it dies with its expiry, with any change of
//! the user's password, rights or login (credential revision), or when it was ended. Times are
//! cluster time in microseconds, given by the caller. It reports and never panics.

use crate::{
    keys::{
        KeyError,
        cluster::{ClusterKeys, parse_number, random},
    },
    secret::Secret,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};

/// How long a token lives if nothing is asked for, in seconds: a working day.
pub const TTL_DEFAULT_S: u64 = 8 * 3600;
/// How long a token may live, in seconds.
pub const TTL_MAX_S: u64 = 24 * 3600;
/// Longest token in bytes; ours have about 250.
const TOKEN_BYTES_MAX: usize = 1024;
/// What a token begins with.
const PREFIX: &str = "tb1.";

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Whose it is.
    pub user: String,
    /// The user's credential revision when it was issued.
    #[serde(rename = "revision")]
    pub credential_revision: u64,
    /// When it dies, in microseconds of cluster time.
    #[serde(rename = "expires")]
    pub expires_us: u64,
    /// Its own id: what State keeps when it is ended early.
    pub id: String,
}

/// Why a token is not good. For a client all of these are 401.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It has not the form of a token, or its mac does not fit.
    #[error("it is not a token of this cluster")]
    Foreign,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// The user was deleted, or his password, rights or login changed.
    #[error("the user has changed since it was issued")]
    Changed,
    /// It was ended by `user_logout`.
    #[error("it was ended")]
    Ended,
    /// A node was removed since: it could make tokens of this key.
    #[error("the cluster's key was changed since it was issued")]
    Rotated,
    /// It cannot be issued.
    #[error("a token cannot be issued")]
    Issue(#[source] KeyError),
    /// It cannot live so long.
    #[error("a token lives 1 to {TTL_MAX_S} seconds")]
    Ttl,
}

/// Issues a token for a user who has just logged in with a password or certificate.
///
/// # Errors
/// The time to live is 0 or over [`TTL_MAX_S`], or the system gives no random bytes.
pub fn issue(
    keys: &ClusterKeys,
    user: &str,
    credential_revision: u64,
    now_us: u64,
    ttl_s: Option<u64>,
) -> Result<(Secret<String>, Claims), TokenError> {
    let ttl_s = ttl_s.unwrap_or(TTL_DEFAULT_S);
    if !(1..=TTL_MAX_S).contains(&ttl_s) {
        return Err(TokenError::Ttl);
    }
    let claims = Claims {
        user: user.to_owned(),
        credential_revision,
        expires_us: now_us.saturating_add(ttl_s * 1_000_000),
        id: BASE64.encode(random::<16>().map_err(TokenError::Issue)?),
    };
    Ok((write(keys, &claims).map_err(TokenError::Issue)?, claims))
}

fn write(keys: &ClusterKeys, claims: &Claims) -> Result<Secret<String>, KeyError> {
    let payload = serde_json::to_vec(claims).map_err(|_| KeyError::Crypto("write a token"))?;
    let signed = format!("{PREFIX}{}.{}", keys.newest(), BASE64.encode(payload));
    let mac = keys.token_mac(keys.newest(), &signed)?;
    Ok(Secret::new(format!("{signed}.{}", BASE64.encode(mac))))
}

/// Reads a token whose mac fits; whether it is still good, [`verify`] says.
///
/// # Errors
/// [`TokenError::Foreign`].
pub fn read(keys: &ClusterKeys, token: &str) -> Result<Claims, TokenError> {
    read_if_ours(keys, token).ok_or(TokenError::Foreign)
}

fn read_if_ours(keys: &ClusterKeys, token: &str) -> Option<Claims> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (signed, mac) = token.rsplit_once('.')?;
    let (number, payload) = signed.strip_prefix(PREFIX)?.split_once('.')?;
    let mac = BASE64.decode(mac).ok()?;
    // Nothing of the payload is looked at before the mac has been found right.
    if !keys.token_mac_fits(parse_number(number)?, signed, &mac) {
        return None;
    }
    serde_json::from_slice(&BASE64.decode(payload).ok()?).ok()
}

/// Verifies a token against State as it is now.
///
/// `credential_revision` answers a user's present one, `None` if there is no such user or he may
/// not log in; `is_ended` whether a token's id was ended.
///
/// # Errors
/// Why it is not good; the client is told 401 in any case.
pub fn verify(
    keys: &ClusterKeys,
    token: &str,
    now_us: u64,
    credential_revision: impl FnOnce(&str) -> Option<u64>,
    is_ended: impl FnOnce(&str) -> bool,
) -> Result<Claims, TokenError> {
    let claims = read(keys, token)?;
    let number = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.'));
    if number.and_then(|(number, _)| parse_number(number)).is_none_or(|n| n < keys.newest()) {
        return Err(TokenError::Rotated);
    }
    if now_us >= claims.expires_us {
        Err(TokenError::Expired)
    } else if credential_revision(&claims.user) != Some(claims.credential_revision) {
        Err(TokenError::Changed)
    } else if is_ended(&claims.id) {
        Err(TokenError::Ended)
    } else {
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 5_000_000;

    fn keys() -> ClusterKeys {
        ClusterKeys::generate().unwrap_or_else(|e| panic!("{e}"))
    }

    fn check(keys: &ClusterKeys, token: &str, now: u64) -> Result<Claims, TokenError> {
        verify(keys, token, now, |user| (user == "alice").then_some(3), |_| false)
    }

    #[test]
    fn a_token_of_an_older_key_or_another_cluster_is_none() {
        let old = keys();
        let (token, claims) = issue(&old, "alice", 3, NOW, None).expect("issued");
        let new = old.rotated().unwrap_or_else(|e| panic!("{e}"));
        assert!(check(&old, token.expose(), NOW).is_ok());
        assert!(matches!(check(&new, token.expose(), NOW), Err(TokenError::Rotated)));
        assert_eq!(read(&new, token.expose()).ok(), Some(claims), "it can be ended");
        assert!(matches!(check(&keys(), token.expose(), NOW), Err(TokenError::Foreign)));
        let (newer, _) = issue(&new, "alice", 3, NOW, None).expect("issued");
        assert!(check(&new, newer.expose(), NOW).is_ok());
        assert!(check(&old, newer.expose(), NOW).is_err());
    }

    #[test]
    fn a_token_lives_its_time_and_no_longer() {
        let keys = keys();
        let (token, claims) = issue(&keys, "alice", 3, NOW, Some(10)).expect("issued");
        let token = token.expose();
        assert!(token.starts_with("tb1.1.") && token.split('.').count() == 4, "{token}");
        assert_eq!(check(&keys, token, NOW).expect("good"), claims);
        assert!(check(&keys, token, NOW + 9_999_999).is_ok());
        assert!(matches!(check(&keys, token, NOW + 10_000_000), Err(TokenError::Expired)));
        for ttl in [0, TTL_MAX_S + 1, u64::MAX] {
            assert!(matches!(issue(&keys, "alice", 3, NOW, Some(ttl)), Err(TokenError::Ttl)));
        }
        let (_, claims) = issue(&keys, "alice", 3, NOW, None).expect("issued");
        assert_eq!(claims.expires_us, NOW + 8 * 3600 * 1_000_000);
    }

    #[test]
    fn a_token_dies_with_a_change_of_the_user_or_its_own_end() {
        let keys = keys();
        let (token, claims) = issue(&keys, "alice", 3, NOW, None).expect("issued");
        let with = |revision: Option<u64>, ended: bool| {
            verify(&keys, token.expose(), NOW, |_| revision, |id| ended && id == claims.id)
        };
        assert!(with(Some(3), false).is_ok());
        assert!(matches!(with(Some(4), false), Err(TokenError::Changed)));
        assert!(matches!(with(None, false), Err(TokenError::Changed)));
        assert!(matches!(with(Some(3), true), Err(TokenError::Ended)));
    }

    #[test]
    fn a_token_changed_in_any_byte_is_foreign() {
        let keys = keys();
        let (token, _) = issue(&keys, "alice", 3, NOW, None).expect("issued");
        let token = token.expose();
        for position in 0..token.len() {
            for byte in [b'A', b'f', b'1', b'.', b'_'] {
                let mut bytes = token.clone().into_bytes();
                if bytes[position] == byte {
                    continue;
                }
                bytes[position] = byte;
                let text = String::from_utf8(bytes).expect("ascii");
                let result = check(&keys, &text, NOW);
                assert!(matches!(result, Err(TokenError::Foreign)), "byte {position}");
            }
        }
        for cut in 0..token.len() {
            assert!(check(&keys, &token[..cut], NOW).is_err());
        }
    }

    #[test]
    fn a_one_time_secret_never_passes_for_a_mac() {
        let keys = keys();
        let signed = "tb1.1.e30";
        let secret = keys.derive("x", "y", "1.z").unwrap_or_else(|e| panic!("{e}"));
        assert!(read(&keys, &format!("{signed}.{}", secret.expose())).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_read_panic(text in "(tb1\\.)?[0-9.A-Za-z_-]{0,120}", any in ".{0,50}") {
            let keys = keys();
            prop_assert!(read(&keys, &text).is_err());
            prop_assert!(read(&keys, &any).is_err());
        }
    }
}
