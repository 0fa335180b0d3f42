//! The text of a token to join: `tbj1.<id>.<secret>.<fingerprint>`.
//!
//! The fingerprint is the beginning of the SHA-256 of the authority's certificate: with it a node
//! that knows nothing yet knows whom to trust. The master makes these texts in the job
//! `node_token`; here they are read.

use crate::secret::Secret;
use subtle::ConstantTimeEq;
use tiebeam_proto::canonical::hex;

/// What every token begins with.
const PREFIX: &str = "tbj1";
/// Digits of a fingerprint in a token.
const PIN_DIGITS: usize = 32;
/// Longest part of a token.
const PART_BYTES_MAX: usize = 64;

/// The beginning of a certificate's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin(String);

impl Pin {
    /// The pin of a fingerprint, hex with or without `sha256:`; `None` if it is too short.
    pub fn of_fingerprint(text: &str) -> Option<Pin> {
        let digits = text.trim_start_matches("sha256:").get(..PIN_DIGITS)?;
        let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| Pin(digits.to_owned()))
    }

    /// Whether a certificate (DER) is the one.
    pub fn fits(&self, certificate: &[u8]) -> bool {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        hex(digest.as_ref()).starts_with(&self.0)
    }
}

/// A token that was read.
pub struct Token {
    /// Its id, under which State keeps its hash.
    pub id: String,
    /// Its secret.
    pub secret: Secret<String>,
    /// The cluster's authority.
    pub pin: Pin,
}

impl Token {
    /// Reads a token; `None` if the text is none.
    pub fn read(text: &str) -> Option<Token> {
        let mut parts = text.trim().split('.');
        let (prefix, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let pin = parts.next()?;
        let plain = |part: &str| {
            (1..=PART_BYTES_MAX).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let whole = parts.next().is_none() && prefix == PREFIX && pin.len() == PIN_DIGITS;
        if !whole || !plain(id) || !plain(secret) {
            return None;
        }
        let pin = Pin::of_fingerprint(pin)?;
        Some(Token { id: id.to_owned(), secret: Secret::new(secret.to_owned()), pin })
    }

    /// Whether it has this hash; compared in constant time.
    pub fn has_hash(&self, hash: &str) -> bool {
        let own = crate::keys::one_time_hash(self.secret.expose());
        own.as_bytes().ct_eq(hash.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_token_is_read_and_compared() {
        let token = Token::read(&format!(" tbj1.0a1b.S-_9.{FINGERPRINT}\n")).expect("a token");
        assert_eq!((token.id.as_str(), token.secret.expose().as_str()), ("0a1b", "S-_9"));
        assert!(token.has_hash(&crate::keys::one_time_hash("S-_9")));
        assert!(!token.has_hash(&crate::keys::one_time_hash("S-_8")) && !token.has_hash(""));
        for bad in [
            "",
            "tbj1",
            "tbj1.a.b.0123",
            &format!("tbj2.a.b.{FINGERPRINT}"),
            &format!("tbj1..b.{FINGERPRINT}"),
            &format!("tbj1.a.b c.{FINGERPRINT}"),
            &format!("tbj1.a.b.{FINGERPRINT}.x"),
            &format!("tbj1.a.b.{}", FINGERPRINT.to_uppercase()),
        ] {
            assert!(Token::read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_pin_fits_one_certificate() {
        let digest = hex(ring::digest::digest(&ring::digest::SHA256, b"der").as_ref());
        let pin = Pin::of_fingerprint(&format!("sha256:{digest}")).expect("a pin");
        assert!(pin.fits(b"der") && !pin.fits(b"DER"));
        assert_eq!(Pin::of_fingerprint("sha256:01"), None);
    }
}
