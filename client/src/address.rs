//! Where a member listens: `https://host:port`, or a unix socket.
//!
//! Owns the reading of addresses from people and of `Location` from members. It must not let
//! anything but TLS through.

use crate::error::Error;
use reqwest::Url;
use std::path::PathBuf;

/// The port of `listen:` if an address names none.
const PORT: u16 = 20003;

/// A member's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Over TLS; the URL's path is `/`.
    Https(Url),
    /// A node's own socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `https://host[:port]`, `host:port` or `host`; the port is 20003 unless given.
    pub(crate) fn parse(text: &str) -> Result<Address, Error> {
        let refuse = |reason: &str| Error::Address { text: shown(text), reason: reason.to_owned() };
        let text = text.trim();
        let rest = match text.split_once("://") {
            Some(("https", rest)) => rest,
            Some(_) => return Err(refuse("only https: is served")),
            None => text,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let mut url = Url::parse(&format!("https://{authority}/"))
            .map_err(|error| refuse(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("user and password do not belong into an address"));
        }
        let after_host = authority.rsplit(']').next().unwrap_or(authority);
        if !after_host.contains(':') && url.set_port(Some(PORT)).is_err() {
            return Err(refuse("it has no host"));
        }
        Ok(Address::Https(url))
    }

    /// The address that a `Location` header names, seen from here.
    pub(crate) fn redirected(&self, location: &str) -> Result<Address, Error> {
        let refuse = |reason| Error::Redirect {
            address: self.to_string(),
            location: shown(location),
            reason,
        };
        let Address::Https(here) = self else {
            return Err(refuse("a unix socket never redirects"));
        };
        let mut there = here.join(location).map_err(|_| refuse("it is no URL"))?;
        if there.scheme() != "https" {
            return Err(refuse("it is not https:"));
        }
        if !there.username().is_empty() || there.password().is_some() {
            return Err(refuse("it carries credentials"));
        }
        there.set_path("/");
        there.set_query(None);
        there.set_fragment(None);
        Ok(Address::Https(there))
    }
}

/// Text from outside, cut and without control characters, for a message.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

impl std::fmt::Display for Address {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Https(url) => out.write_str(url.as_str().trim_end_matches('/')),
            Address::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_type_them() {
        for (text, means) in [
            ("https://10.0.0.1:20003", "https://10.0.0.1:20003"),
            ("https://10.0.0.1:20003/rpc2", "https://10.0.0.1:20003"),
            ("n11", "https://n11:20003"),
            ("n11:443", "https://n11"),
            ("https://[::1]", "https://[::1]:20003"),
            ("[::1]:7", "https://[::1]:7"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), means, "{text}");
        }
        for text in ["http://n11:20003", "https://u:p@n11", "", "ftp://x"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_redirect_leads_to_a_member_over_tls_or_nowhere() {
        let here = Address::parse("https://n11:20003").unwrap();
        let there = here.redirected("https://10.0.0.2:20003/rpc2?x=1").unwrap();
        assert_eq!(there.to_string(), "https://10.0.0.2:20003");
        for location in ["http://10.0.0.2:20003/", "https://a:b@10.0.0.2/", "file:///etc/passwd"] {
            assert!(here.redirected(location).is_err(), "{location}");
        }
    }
}
