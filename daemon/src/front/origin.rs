//! Ruling 30: a browser must not be turned against the cluster.
//!
//! A page that its user has open can make a browser send requests here, and a name that it
//! controls can be pointed at this address. Such requests carry `Origin`, `Sec-Fetch-Site` or a
//! foreign `Host`; they are refused before anything else is looked at. Called by `http` first.

use super::answer::{self, Answer};
use super::seam::Service;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    HeaderValue, VARY,
};
use http::request::Parts;
use http::uri::Authority;

/// Why a request is refused before its login is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It comes from a page whose origin is not in `rpc.origins`.
    Origin,
    /// It names a host that is not this cluster.
    Host,
}

impl Refusal {
    /// The line for a person.
    pub const fn line(self) -> &'static str {
        match self {
            Refusal::Origin => "requests of web pages are refused; rpc.origins lists those allowed",
            Refusal::Host => "this host name is not a member's; rpc.hosts lists those allowed",
        }
    }
}

/// Whether a browser says that it sent this request for a page.
pub fn is_fetch(parts: &Parts) -> bool {
    parts.headers.contains_key("sec-fetch-mode")
}

/// Checks `Origin`, `Sec-Fetch-Site` and, if `check_host`, `Host`.
pub fn check(parts: &Parts, service: &dyn Service, check_host: bool) -> Result<(), Refusal> {
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let origin = header("origin");
    let site = header("sec-fetch-site");
    let foreign_site = site.is_some_and(|site| site != "none" && site != "same-origin");
    if (origin.is_some() || foreign_site)
        && !origin.is_some_and(|text| service.origin_allowed(text))
    {
        return Err(Refusal::Origin);
    }
    let named = parts.uri.authority().map(Authority::as_str).or_else(|| header("host"));
    match named {
        // HTTP/1.0 probes of load balancers name no host; no browser omits it.
        None => Ok(()),
        Some(_) if !check_host => Ok(()),
        Some(named) => match named.parse::<Authority>() {
            Ok(authority) if service.host_allowed(&bare_host(&authority)) => Ok(()),
            _ => Err(Refusal::Host),
        },
    }
}

/// Lower-case, without port and without the brackets of IPv6.
fn bare_host(authority: &Authority) -> String {
    authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

/// Lets a page of an allowed origin read the answer.
pub fn permit(answer: &mut Answer, origin: HeaderValue) {
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(VARY, HeaderValue::from_static("Origin"));
}

/// The answer to a browser that asks, for a page of an allowed origin, whether it may call.
pub fn preflight(methods: &'static str) -> Answer {
    let mut answer = answer::no_content();
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    let allowed = HeaderValue::from_static("authorization, content-type");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    answer
}
