//! Answers: every response that the front gives is made here, so that status, headers and
//! challenges have one form each (wire.md section 2). Used by everything that answers HTTP.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use serde_json::Value;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A whole body in memory.
#[derive(Debug, Default)]
pub struct AnswerBody(Option<Bytes>);

impl AnswerBody {
    /// Takes the bytes away, for `HEAD`.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// A response of the front.
pub type Answer = Response<AnswerBody>;

/// The header that tells how far this node had applied (rulings, protocol details).
pub const TIEBEAM_APPLIED: HeaderName = HeaderName::from_static("tiebeam-applied");

/// JSON's content type.
pub const JSON: &str = "application/json";
/// XML-RPC's content type.
pub const XML: &str = "text/xml";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A response with a body.
pub fn with_body(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Answer {
    let length = bytes.len();
    let body = AnswerBody((length > 0).then(|| Bytes::from(bytes)));
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    if length > 0 {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A response without content: notifications only.
pub fn no_content() -> Answer {
    let mut answer = with_body(StatusCode::NO_CONTENT, JSON, Vec::new());
    answer.headers_mut().remove(CONTENT_LENGTH);
    answer
}

/// One JSON value.
pub fn json(status: StatusCode, value: &Value) -> Answer {
    with_body(status, JSON, value.to_string().into_bytes())
}

/// A line for a person.
pub fn text(status: StatusCode, line: impl AsRef<str>) -> Answer {
    let mut line = line.as_ref().to_owned();
    line.push('\n');
    with_body(status, TEXT, line.into_bytes())
}

/// A word for a program, without an end of line.
pub fn word(status: StatusCode, word: &str) -> Answer {
    with_body(status, TEXT, word.as_bytes().to_vec())
}

/// Prometheus text.
pub fn metrics(text: String) -> Answer {
    with_body(StatusCode::OK, METRICS, text.into_bytes())
}

/// The answer to a wrong or missing login. A browser's `fetch` gets no Basic challenge: it would
/// ask its user for a password on behalf of whatever page is open (ruling 30).
pub fn unauthorized(from_browser: bool) -> Answer {
    let mut answer = text(StatusCode::UNAUTHORIZED, "login required");
    let headers = answer.headers_mut();
    if !from_browser {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tiebeam\""));
    }
    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// 403 with the reason.
pub fn forbidden(line: &str) -> Answer {
    text(StatusCode::FORBIDDEN, line)
}

/// 302 with an empty body; a location that is no header value is a fault of the configuration and
/// is answered as "no master".
pub fn redirect(location: &str) -> Answer {
    let Ok(location) = HeaderValue::try_from(location) else {
        return no_master();
    };
    let mut answer = with_body(StatusCode::FOUND, TEXT, Vec::new());
    answer.headers_mut().insert(LOCATION, location);
    answer
}

/// 503 while there is no master.
pub fn no_master() -> Answer {
    unavailable("there is no master now")
}

/// 503 with the reason, to be tried again in a second.
pub fn unavailable(line: &str) -> Answer {
    let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, line);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// 405 with the methods that are allowed.
pub fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed} here"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}
